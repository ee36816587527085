//! Parts for whole-system tests: images, guests, network namespaces, captures, drivers.
//!
//! # Theory of operation
//! ```text
//!  image    kernel and initramfs from Debian's archive
//!  guest    boots one under QEMU, or drives the console of one that the base formed
//!  netns    namespaces, veth pairs, programs and sockets inside; the machine's state before and after
//!  capture  frames as they pass outside the base, and frames nobody would send
//!  computer a whole machine, emulated, with systemd and /dev/kvm
//!  testpmd  DPDK's stock driver and switch
//!  driver   a vhost-user front end in this process: exact frames in, exact frames out
//!  faults   tests run against a base that does wrong on purpose
//!  frames   datagrams and frames, octet by octet
//!  numbered datagrams with a number each: what was lost, what came twice; exchange keeps them going
//!  stack    a small TCP/IP stack on a driver of ours: a VM that answers
//!  scene    a host with its card, machines outside; measure: ping and iperf3 between them
//!  neighbor a machine outside that says nothing by itself; station one that talks without a kernel
//!  tap_device a card of the kernel's whose cable ends in this process
//!  instance a running ipvisor, by its command; balance: whether its counters add up
//!  deaths   what its log tells of the bases that died
//!  crowd    hundreds of ports on one instance
//!  wired    all of it for tests that compare octets: two drivers, the base, a tap on the LAN
//! ```
//! Counts and bytes that a test compares come from here: from drivers and captures, never from the
//! base. Whatever a part makes (processes, namespaces, files) goes when its handle is dropped.

pub mod balance;
pub mod capture;
pub mod chance;
pub mod command;
pub mod computer;
pub mod crowd;
pub mod deaths;
pub mod driver;
pub mod error;
pub mod exchange;
pub mod faults;
pub mod frames;
pub mod guest;
pub mod hostile;
pub mod image;
pub mod instance;
pub mod interrupt;
pub mod measure;
pub mod neighbor;
pub mod netns;
pub mod numbered;
pub mod paths;
pub mod scene;
pub mod stack;
pub mod station;
mod sys;
pub mod tap_device;
pub mod testpmd;
pub mod wired;

pub use error::{LabError, Result};

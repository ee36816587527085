//! Engines: how a VM that the base forms gets its processors.
//!
//! # Theory of operation
//! KVM runs a VM only in the address space that created it, so every VM has a process of its own,
//! its *vessel*. The base decides everything and makes everything: the memory ([`memory`]), the
//! opened disks ([`disk`], [`clone`], [`seed`]), the firmware's memory ([`firmware`]), the command line ([`qemu`]). The vessel gets descriptors ([`spawn`]) and
//! runs what it was given. Whether KVM can run ordinary guests here is decided once ([`Accel`]).
//!
//! # Invariants
//! - A vessel inherits the descriptors it was given and no other.
//! - A vessel outlives the base: it has its own session, no parent-death signal, and holds a lock
//!   by which a successor finds it.

pub mod accel;
pub mod clone;
pub mod disk;
pub mod fat;
pub mod firmware;
pub mod memory;
pub mod qcow2;
pub mod qemu;
pub mod seed;
pub mod spawn;

pub use accel::{Accel, Choice};

//! The way of one datagram: out of a VM's output buffer, through the base's storage, into another
//! VM's input buffer, the host, or the network adapter card.
//!
//! # Theory of operation
//! Read the files as data flows: `port` takes a batch from a VM's ring, `storage` holds the copy,
//! `datagram` says what it is, `answer` replies to what is meant for the base itself, `admit`
//! decides whether the VM may say this, `fib` finds whose the destination is, `deliver` copies it
//! into rings, `uplink` sends and receives on the card and on the host's TUN device, `neighbor`
//! speaks with the LAN, `worker` is the loop around it all. `vhost` is how front ends bring their
//! rings; `state` is the memory that outlives the base; `counters` names every drop.
//!
//! This crate knows rings, IP and adapters. It knows no engine, no configuration file and no API.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::string_slice,
        clippy::unreachable
    )
)]

pub mod admit;
pub mod answer;
pub mod budget;
pub mod checksum;
pub mod counters;
pub mod datagram;
pub mod deliver;
pub mod envelope;
pub mod event;
pub mod faults;
pub mod fib;
pub mod fit;
pub mod fragment;
pub mod keeper;
pub mod limiter;
pub mod names;
pub mod neighbor;
pub mod netlink;
pub mod offload;
pub mod owned;
pub mod pending;
pub mod port;
pub mod reserved;
pub mod resolver;
pub mod segment;
pub mod spread;
pub mod state;
pub mod storage;
mod sync;
pub mod uplink;
pub mod vhost;
pub mod worker;

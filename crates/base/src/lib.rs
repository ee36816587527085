//! The base: forms and controls the VMs of one machine.
//!
//! Two kinds of process come out of this crate. The *holder* is tiny and long-lived: it keeps
//! descriptors and starts the *base*, which does everything else. `entry` is where the command's
//! `main` comes in.
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

pub mod config;
pub mod control;
pub mod data_dir;
pub mod doctor;
pub mod engine;
pub mod entry;
pub mod holder;
pub mod instance;
pub mod keeper;
pub mod ledger;
pub mod readable;
pub mod resolver;
pub mod state_dir;
pub mod vm;
mod words;

//! The rings that a virtual machine shares with the base, and the memory they lie in.
//!
//! # Theory of operation
//! A guest's network card is two *virtqueues* in the guest's own memory: `tx`, its output buffers,
//! and `rx`, its input buffers (virtio 1.2, section 2.7, split layout, or 2.8, packed). This crate is
//! the device's side of them. It copies a frame out of the guest ([`TxQueue`]) or into it ([`RxQueue`]) and
//! gives the buffers back; it knows nothing of what the bytes mean.
//!
//! Everything in that memory can be changed by the guest at any moment, so every index, address
//! and length is read once, checked against the guest's memory, and used from the copy.
//!
//! # Invariants
//! - This is the only crate that follows raw pointers into memory shared with a guest.
//! - Nothing a guest writes makes it panic, loop without bound, or touch memory outside the
//!   regions the guest shared. A broken ring is an error value with a name: [`RingFault`].
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

#[cfg(any(test, feature = "driver"))]
pub mod driver;
mod fault;
mod layout;
mod mapping;
mod memory;
mod net_header;
mod packed;
mod piece;
mod reach;
mod ring;
mod rx;
pub mod sigbus;
mod split;
#[cfg(test)]
mod tests;
mod tx;
mod walk;

pub use fault::{IndirectDefect, LayoutDefect, LayoutPart, RingFault};
pub use layout::{HeaderLen, QueueFeatures, QueueLayout};
pub use mapping::{Mapping, MappingError};
pub use memory::{GuestAddress, GuestMemory, MemoryError, Region};
pub use net_header::NetHeader;
pub use packed::{Intent, Journal, Traces};
pub use rx::{Delivered, RxQueue};
pub use tx::{Slots, Taken, TxQueue};

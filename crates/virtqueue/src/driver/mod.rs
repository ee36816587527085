//! The driver's side of the rings: a well-behaved virtio-net driver whose every octet can be
//! spoiled, for tests, the lab and benchmarks. Never part of what is shipped.
//!
//! # Theory of operation
//! [`DriverMemory`] plays the guest's memory: memory files, a place for each in the guest's
//! addresses, and [`DriverMemory::share`] for what the device gets to see of them.
//! [`DriverQueue`] is one split ring without any idea of frames, [`PackedQueue`] a packed one,
//! [`AnyQueue`] either; [`DriverTx`] and [`DriverRx`] put frames in and get them out, cut into whatever
//! pieces the test wants. The driver is also the judge: a device that gives buffers back out of order, or more than there were, makes it panic.
//!
//! [`QueueLayout`](crate::QueueLayout) and the `*_at` calls of [`DriverQueue`] say where everything
//! lies; [`DriverMemory::write`] changes any of it, at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod any;
mod memory;
mod net;
mod packed;
mod queue;

pub use any::AnyQueue;
pub use memory::{DriverMemory, DriverRegion};
pub use net::{DriverRx, DriverTx, Shape};
pub use packed::{Notebook, PackedQueue};
pub use queue::{Buffer, DriverQueue, DriverRing, UsedBuffer};

//! Faults on purpose: a base that does wrong or dies where it is told to, to show that the tests
//! would notice, and that a successor goes on from anywhere.
//!
//! Only with the feature `fault-injection`, which nothing that is shipped has: in every other build
//! [`pass`] is nothing at all.

#[cfg(feature = "fault-injection")]
mod order;
mod points;
#[cfg(feature = "fault-injection")]
mod spoil;

#[cfg(feature = "fault-injection")]
pub use order::pass;
pub use points::Point;
#[cfg(feature = "fault-injection")]
pub(crate) use spoil::{forgive, from_vm, is, poison, poison_buffer, poison_message, spoil};

/// Passes a place at which a fault-injection build can be told to die.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub fn pass(_: Point) {}

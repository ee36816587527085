//! The dispatcher against front ends: our own, which says whatever a test wants, and the `vhost`
//! crate's.
#![allow(clippy::arithmetic_side_effects)]

mod adoption;
mod coming_and_going;
mod damage;
mod hostile;
mod negotiation;
mod packed;
mod pairs;
mod poison;
mod stage;
mod stock;

//! The holder with a base made for the purpose: this test program starts itself again, once as the
//! holder and, through it, as the base. What the base lives through it writes to a trace.
#![allow(clippy::arithmetic_side_effects)]

mod actors;
mod switches;
mod switching;
mod tests;
mod world;

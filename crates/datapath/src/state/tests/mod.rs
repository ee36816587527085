//! The state memory as a whole: its header, its layouts, and what damage does to a takeover.

#![allow(clippy::arithmetic_side_effects)]

mod first_layout;
mod header;
mod third_layout;

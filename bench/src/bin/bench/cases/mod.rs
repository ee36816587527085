//! The cases, in the order in which they are measured.
//!
//! ```text
//!  sizes    as fast as it goes between two guests, by size of datagram
//!  flows    the same with many flows, in a list of 100,000 addresses
//!  card     out of a guest through the card
//!  flood    one port floods, another sends little
//!  idle     1,000 ports that say nothing: what they cost, and what they take from others
//!  memory   what the base has for itself with two ports
//!  rates    processor time at low rates
//!  trips    there and back, while all are awake
//!  silence  there and back, after a second in which nobody said anything
//!  list     a million addresses looked up, beside a hash table
//! ```

mod card;
mod flood;
mod flows;
mod idle;
mod list;
mod memory;
mod rates;
mod silence;
mod sizes;
mod trips;

use lab::Result;

pub use flows::{FLOWS, ONE_FLOW};
pub use idle::ALONE;
pub use rates::RATES;

use crate::results::Measured;
use crate::slice::Slice;
use crate::stage::Stage;

/// A case.
pub struct Case {
    /// Its name, by which it is asked for.
    pub name: &'static str,
    /// Measures it.
    pub run: fn(&mut Stage<'_>) -> Result<Vec<Measured>>,
}

/// All of them.
pub static CASES: [Case; 13] = [
    Case { name: "64 B", run: |stage| sizes::run(&sizes::SMALL, stage) },
    Case { name: "packed", run: |stage| sizes::run(&sizes::PACKED, stage) },
    Case { name: "1500 B", run: |stage| sizes::run(&sizes::ORDINARY, stage) },
    Case { name: "64 KiB", run: |stage| sizes::run(&sizes::LARGE, stage) },
    Case { name: "flows", run: flows::run },
    Case { name: "card", run: card::run },
    Case { name: "flood", run: flood::run },
    Case { name: "idle", run: idle::run },
    Case { name: "memory", run: memory::run },
    Case { name: "rates", run: rates::run },
    Case { name: "trips", run: trips::run },
    Case { name: "silence", run: silence::run },
    Case { name: "list", run: list::run },
];

/// What a slice is worth where datagrams count: millions of them in a second.
fn mpps(slice: &Slice) -> f64 {
    slice.rate() / 1e6
}

/// The same where octets count, for large sends.
fn gigabits(slice: &Slice) -> f64 {
    slice.rate() * (bench::frames::LARGE * 8) as f64 / 1e9
}

//! The list of the VMs' IP addresses: whose is a destination?
//!
//! # Theory of operation
//! Each network has one list. An address is found exactly, else by the longest prefix that holds it.
//! The answer is a port, or the host itself, whose addresses are in every list. What is not listed is
//! outside: the uplink's. The same list answers who may *say* an address: a VM may send from what the
//! list gives to its port and from nothing else (rule 6).
//!
//! One thread writes ([`Fib`]), any number read ([`FibReader`]) while it does, without locks and without
//! waiting. Read the files from the memory outwards:
//!
//! ```text
//! sync       atomics, in one place for the model tests
//! bucket     a cache line of entries; what a reader may see of a change
//! ahead      asking for lines before they are read
//! address    IPv4 and IPv6 as numbers; the tags of entries
//! hash       where an entry is, unknown to those who choose addresses
//! table      buckets in shards; growth
//! prefixes   the longest match
//! family     IPv4, IPv6: the reader's and the writer's part
//! view       look-ups
//! batch      many look-ups at once
//! shared     publishing, quiescent points, retiring
//! owners     who has what
//! list       the writer
//! ```
//!
//! # Invariants
//! - One owner per prefix: a second claim is refused, never silently replaced.
//! - Look-ups neither lock nor allocate nor write what others read.
//! - What leaves: first the entry goes, then what it led to is retired ([`Fib::retire`]), and that is
//!   freed only when it is past ([`Fib::is_past`]).
//!
//! # Costs
//! A cache line has 8 IPv4 or 3 IPv6 entries. In a list of many thousands, between 17/32 and 2/3 of all
//! slots are filled: 12 to 15 octets for an IPv4 address, 32 to 40 for an IPv6 address; 4 and 16 more,
//! and up to an eighth of that, in the notes of its owner. `ONLY=list make bench`
//! measures the rest.

mod address;
mod ahead;
mod batch;
mod bucket;
mod family;
mod hash;
mod list;
mod owners;
mod prefixes;
mod shared;
mod sync;
mod table;
mod target;
mod versions;
mod view;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

pub use batch::{BATCH, Batch};
pub use list::Fib;
pub use shared::{FibReader, Retired};
pub use target::{Taken, Target};
pub use view::View;

/// `prefix` without `address`: what is left of it, the larger first. All of it if it does not hold
/// the address, nothing if it is the address.
pub fn without(prefix: IpNet, address: IpAddr) -> Vec<IpNet> {
    let (mut left, mut around) = (Vec::new(), prefix.trunc());
    while around.contains(&address) {
        // The address itself has no halves.
        let Ok(halves) = around.subnets(around.prefix_len().saturating_add(1)) else { return left };
        for half in halves {
            if half.contains(&address) {
                around = half;
            } else {
                left.push(half);
            }
        }
    }
    left.push(around);
    left
}

//! The longest prefix that holds an address.
//!
//! # Theory of operation
//! A prefix is an entry like any other, so finding one takes a probe for each length that is in use.
//! Most lists have no prefixes, or some of one or two lengths. But when one address is withdrawn from
//! a /64, its 64 halves of halves stay, each of its own length, and then no datagram may pay for 64
//! probes. So there are *markers*, at every level (multiples of 8 bits for IPv4, 16 for IPv6): the
//! entry "there are longer prefixes under these bits", with their number.
//!
//! ```text
//! level   0 ........ 48 .......... 64 ........... 80
//!             lengths 49 to 64     65 to 80            are looked for
//!                    if there is a marker at 48, 64    for the address's first 48, 64 bits
//! ```
//! The search goes from short to long and stops at the first level without a marker. It begins
//! at the level of the shortest prefix of all: with prefixes of length 64 alone, an address
//! outside costs one probe, one inside two.
//!
//! # Invariants
//! - Markers are there before the prefix they lead to, and go after it.

use super::address::{Address, marker_tag, prefix_tag};
use super::bucket::{PAYLOAD_MAX, Slot};
use super::family::{Change, Family};
use super::table::{Directory, Fills, Removal};

/// What happens to the markers of a prefix.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// It comes.
    One,
    /// It goes.
    OneLess(Removal),
}

/// The level whose marker leads to prefixes of this length.
#[inline]
fn level_of<A: Address>(length: u8) -> u8 {
    // Strides are powers of two.
    length.saturating_sub(1) & !A::STRIDE.wrapping_sub(1)
}

/// The longest of the prefixes that hold an address, single addresses apart: length and payload.
/// Zero for both if there is none.
#[inline(never)]
pub(super) fn longest<A: Address>(
    directory: &Directory<A>,
    mut lengths: u128,
    address: A,
) -> (u8, u32) {
    let mut best = (0, 0);
    while lengths != 0 {
        let level = level_of::<A>(lengths.trailing_zeros() as u8);
        if level > 0 && directory.find(address.masked(level), marker_tag(level)) == 0 {
            break;
        }
        let last = level.saturating_add(A::STRIDE);
        while lengths != 0 {
            let length = lengths.trailing_zeros() as u8;
            if length > last {
                break;
            }
            lengths &= lengths.wrapping_sub(1);
            let payload = directory.find(address.masked(length), prefix_tag(length));
            if payload != 0 {
                best = (length, payload);
            }
        }
    }
    best
}

/// Counts a prefix at all markers that lead to it, or discounts it; tells of new buckets.
pub(super) fn mark<A: Address>(
    fills: &mut Fills,
    family: &mut Family<A>,
    (address, length): (A, u8),
    mark: Mark,
    mut publish: impl FnMut(&Family<A>, Change),
) {
    let mut level = level_of::<A>(length);
    while level > 0 {
        let (address, tag) = (address.masked(level), marker_tag(level));
        let payload = match (family.directory.find(address, tag), mark) {
            // Too many to be counted: it stays for ever, which costs a probe and no more.
            (PAYLOAD_MAX, _) => PAYLOAD_MAX,
            (old, Mark::One) => old.saturating_add(1),
            (old, Mark::OneLess(_)) => old.saturating_sub(1),
        };
        let directory = &mut family.directory;
        let changed = match mark {
            Mark::OneLess(removal) if payload == 0 => fills.kill(directory, address, tag, removal),
            _ => fills.put(directory, Slot { address, tag, payload }),
        };
        if let Some(anew) = changed {
            publish(family, Change::Buckets(anew));
        }
        level = level.saturating_sub(A::STRIDE);
    }
}

//! Look-ups for many datagrams at once.
//!
//! # Theory of operation
//! ```text
//! ask      each address: hashed, its bucket found, and the bucket's line asked for
//! answer   each address, IPv4 first, then IPv6: what its bucket says; the next bucket of those that are
//!          not in theirs is asked for, and they come last
//! ```
//! A single look-up in a large list waits for memory; here all lines are on their way before the first is
//! read. What was found out for asking (hash and bucket) is kept for answering. And no branch depends on
//! the family of an address, which nobody can predict, but the caller's own.
//!
//! # Invariants
//! - An answer is what [`View::lookup`](super::View::lookup) would have said at the time.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::address::Address;
use super::family::Family;
use super::target::Target;

/// Look-ups whose memory is on its way at the same time.
pub const BATCH: usize = 32;

/// Addresses that were asked for, at most [`BATCH`] of each family.
pub struct Batch<'a> {
    four: Part<'a, u32>,
    six: Part<'a, u128>,
}

impl<'a> Batch<'a> {
    #[inline(always)]
    pub(super) fn new(four: &'a Family<u32>, six: &'a Family<u128>) -> Self {
        Self { four: Part::new(four), six: Part::new(six) }
    }

    /// Asks for an IPv4 address; its answer comes with this number. One too many is left out.
    #[inline]
    pub fn ask4(&mut self, number: u8, address: Ipv4Addr) {
        self.four.ask(number, address.to_bits());
    }

    /// As [`ask4`](Self::ask4).
    #[inline]
    pub fn ask6(&mut self, number: u8, address: Ipv6Addr) {
        self.six.ask(number, address.to_bits());
    }

    /// Tells for each number whose the address is.
    #[inline]
    pub fn answer(&self, mut tell: impl FnMut(u8, Option<Target>)) {
        self.four.answer(&mut tell);
        self.six.answer(&mut tell);
    }
}

/// An address that was asked for.
struct Asked<'a, A: Address> {
    address: A,
    hash: u64,
    /// Where the search begins; nowhere in an empty table.
    home: Option<&'a A::Bucket>,
    number: u8,
}

/// The addresses of one family.
struct Part<'a, A: Address> {
    family: &'a Family<A>,
    asked: [Asked<'a, A>; BATCH],
    len: usize,
}

impl<'a, A: Address> Part<'a, A> {
    #[inline(always)]
    fn new(family: &'a Family<A>) -> Self {
        // All zero: written faster than one by one.
        let asked = [const { Asked { address: A::ZERO, hash: 0, home: None, number: 0 } }; BATCH];
        Self { family, asked, len: 0 }
    }

    #[inline]
    fn ask(&mut self, number: u8, address: A) {
        let Some(place) = self.asked.get_mut(self.len) else { return };
        let (hash, home) = self.family.ask(address);
        *place = Asked { address, hash, home, number };
        self.len = self.len.wrapping_add(1);
    }

    #[inline]
    fn answer(&self, tell: &mut impl FnMut(u8, Option<Target>)) {
        let mut behind: [Option<&Asked<'_, A>>; BATCH] = [None; BATCH];
        let mut places = behind.iter_mut();
        for asked in self.asked.get(..self.len).unwrap_or_default() {
            let Asked { address, hash, home, number } = *asked;
            match self.family.find_at_home(home, address, hash) {
                Some(payload) => tell(number, Target::from_payload(payload)),
                None => {
                    self.family.ask_behind(hash);
                    if let Some(place) = places.next() {
                        *place = Some(asked);
                    }
                }
            }
        }
        for asked in behind.iter().map_while(|asked| *asked) {
            let payload = self.family.find_behind(asked.address, asked.hash);
            tell(asked.number, Target::from_payload(payload));
        }
    }
}

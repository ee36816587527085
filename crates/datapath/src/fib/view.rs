//! Look-ups, one by one and in batches.
//!
//! # Theory of operation
//! A [`View`] is both families as one reader has them between two quiescent points. A single address
//! is looked up in its family's table, then, if that family has prefixes at all, among those.
//!
//! A batch is first sorted by family, without branches on what nobody can predict; then the memory of
//! both parts is asked for at once (`table.rs`), then each family looks its part up. Who has the
//! addresses one after the other anyway asks ahead by itself, and looks up later.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::Address;
use super::family::Family;
use super::target::Target;

/// Look-ups whose memory is on its way at the same time.
pub const BATCH: usize = 32;

/// What a reader sees of a list during one batch.
#[derive(Clone, Copy)]
pub struct View<'a> {
    four: &'a Family<u32>,
    six: &'a Family<u128>,
}

impl<'a> View<'a> {
    pub(super) fn new(four: &'a Family<u32>, six: &'a Family<u128>) -> Self {
        Self { four, six }
    }

    /// Whose an IPv4 address is.
    #[inline]
    pub fn lookup4(self, address: Ipv4Addr) -> Option<Target> {
        Target::from_payload(self.four.find(address.to_bits()))
    }

    /// Whose an IPv6 address is.
    #[inline]
    pub fn lookup6(self, address: Ipv6Addr) -> Option<Target> {
        Target::from_payload(self.six.find(address.to_bits()))
    }

    /// Whose an address is.
    #[inline]
    pub fn lookup(self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(a) => self.lookup4(a),
            IpAddr::V6(a) => self.lookup6(a),
        }
    }

    /// Whose each of some addresses is: `found` has an answer for each, in their order. With
    /// [`BATCH`] of them the memory is waited for about once.
    pub fn lookup_batch(self, addresses: &[IpAddr], found: &mut [Option<Target>]) {
        for (addresses, found) in addresses.chunks(BATCH).zip(found.chunks_mut(BATCH)) {
            self.batch(addresses, found);
        }
    }

    /// Asks for the memory that a look-up of this address will read, so that it is on its way.
    #[inline]
    pub fn ask4(self, address: Ipv4Addr) {
        self.four.ask(address.to_bits());
    }

    /// As [`ask4`](Self::ask4).
    #[inline]
    pub fn ask6(self, address: Ipv6Addr) {
        self.six.ask(address.to_bits());
    }

    /// Whether the list is so large that asking ahead is worth it.
    #[inline]
    pub fn is_large(self) -> bool {
        self.four.directory.is_large() || self.six.directory.is_large()
    }

    fn batch(self, addresses: &[IpAddr], found: &mut [Option<Target>]) {
        let (mut of4, mut of6) = (Indices::default(), Indices::default());
        for (index, address) in (0u8..).zip(addresses) {
            of4.note(index, address.is_ipv4());
            of6.note(index, address.is_ipv6());
        }
        let address4 = |index: u8| match addresses.get(usize::from(index)) {
            Some(IpAddr::V4(address)) => address.to_bits(),
            _ => 0,
        };
        let address6 = |index: u8| match addresses.get(usize::from(index)) {
            Some(IpAddr::V6(address)) => address.to_bits(),
            _ => 0,
        };
        // Both before either is read: all memory of the batch is waited for together.
        let part4 = Part::ask(self.four, of4.get(), address4);
        let part6 = Part::ask(self.six, of6.get(), address6);
        part4.answer(found);
        part6.answer(found);
    }
}

/// Which addresses of a batch something holds for.
#[derive(Default)]
struct Indices {
    indices: [u8; BATCH],
    len: usize,
}

impl Indices {
    /// Writes the index whether or not it is one: the next overwrites it if it is not. So there
    /// is no branch on what nobody can predict.
    #[inline]
    fn note(&mut self, index: u8, is_one: bool) {
        if let Some(place) = self.indices.get_mut(self.len) {
            *place = index;
        }
        self.len = self.len.wrapping_add(usize::from(is_one));
    }

    /// Those noted.
    #[inline]
    fn get(&self) -> &[u8] {
        self.indices.get(..self.len).unwrap_or_default()
    }
}

/// The addresses of one family in a batch, with their hashes.
struct Part<'a, A: Address> {
    family: &'a Family<A>,
    /// Which they are.
    indices: &'a [u8],
    hashed: [(A, u64); BATCH],
}

impl<'a, A: Address + Default> Part<'a, A> {
    /// Asks for the memory of all of them.
    #[inline]
    fn ask(family: &'a Family<A>, indices: &'a [u8], address: impl Fn(u8) -> A) -> Self {
        let mut hashed = [(A::default(), 0); BATCH];
        for (place, index) in hashed.iter_mut().zip(indices) {
            let address = address(*index);
            let hash = family.directory.hash(address);
            family.directory.ask(hash);
            *place = (address, hash);
        }
        Self { family, indices, hashed }
    }

    /// Looks up, and writes the answers where they belong.
    #[inline]
    fn answer(&self, found: &mut [Option<Target>]) {
        for ((address, hash), index) in self.hashed.iter().zip(self.indices) {
            if let Some(place) = found.get_mut(usize::from(*index)) {
                *place = Target::from_payload(self.family.find_hashed(*address, *hash));
            }
        }
    }
}

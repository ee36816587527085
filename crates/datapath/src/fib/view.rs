//! Look-ups, one by one and in batches.
//!
//! # Theory of operation
//! A [`View`] is both families as one reader has them between two quiescent points. A single address
//! is looked up in its family's table, then, if that family has prefixes at all, among those.
//!
//! A batch is first sorted by family, without branches on what nobody can predict; then the memory of
//! both parts is asked for at once (`table.rs`), then each family looks its part up.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::Address;
use super::family::Family;
use super::table::{BATCH, Homes, Indices, touch};
use super::target::Target;

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
        let part4 = Part::of(self.four, of4, address4);
        let part6 = Part::of(self.six, of6, address6);
        // Both at once: all memory of the batch is waited for together.
        black_box(part4.touch() | part6.touch());
        part4.answer(found);
        part6.answer(found);
    }
}

/// The addresses of one family in a batch.
struct Part<'a, A: Address> {
    family: &'a Family<A>,
    /// Which they are.
    indices: Indices,
    addresses: [A; BATCH],
    homes: Homes<'a, A>,
}

impl<'a, A: Address + Default> Part<'a, A> {
    #[inline]
    fn of(family: &'a Family<A>, indices: Indices, address: impl Fn(u8) -> A) -> Self {
        let mut addresses = [A::default(); BATCH];
        for (place, index) in addresses.iter_mut().zip(indices.get()) {
            *place = address(*index);
        }
        let len = indices.get().len();
        let homes = family.directory.homes(addresses.get(..len).unwrap_or_default());
        Self { family, indices, addresses, homes }
    }

    #[inline]
    fn touch(&self) -> u32 {
        touch::<A, _>(self.homes.iter().flatten().copied())
    }

    /// Looks up, and writes the answers where they belong.
    #[inline]
    fn answer(&self, found: &mut [Option<Target>]) {
        let indices = self.indices.get();
        let addresses = self.addresses.get(..indices.len()).unwrap_or_default();
        let mut payloads = [0; BATCH];
        self.family.find_batch(&self.homes, addresses, &mut payloads);
        for (payload, index) in payloads.iter().zip(indices) {
            if let Some(place) = found.get_mut(usize::from(*index)) {
                *place = Target::from_payload(*payload);
            }
        }
    }
}

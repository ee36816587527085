//! Look-ups, one by one.
//!
//! # Theory of operation
//! A [`View`] is both families as one reader has them between two quiescent points. A single address
//! is looked up in its family's table, then, if that family has prefixes at all, among those. Many at
//! once: `batch.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::batch::Batch;
use super::family::Family;
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

    /// Look-ups of many addresses.
    #[inline]
    pub fn batch(self) -> Batch<'a> {
        Batch::new(self.four, self.six)
    }

    /// Whether the list is so large that asking ahead is worth it.
    #[inline]
    pub fn is_large(self) -> bool {
        self.four.directory.is_large() || self.six.directory.is_large()
    }
}

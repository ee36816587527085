//! What IPv4 and IPv6 addresses have in common, and the tags of entries.
//!
//! # Theory of operation
//! Everything in the list is an address with a tag: a prefix is its first address and the tag of its
//! length; a single address is a prefix of full length. A *marker* says that there are longer
//! prefixes under the first bits of an address (`prefixes.rs`). All lie in the same buckets.

use super::bucket::{Bucket, Bucket4, Bucket6, halves};
use super::hash::Seed;

/// The tag of length 0; zero is the word of a slot that was never used.
const FIRST_LENGTH: u8 = 1;
/// The tag of the marker of level 0, behind all lengths.
const FIRST_MARKER: u8 = 130;

/// The tag of a prefix of this length.
#[inline]
pub(super) const fn prefix_tag(length: u8) -> u8 {
    length.saturating_add(FIRST_LENGTH)
}

/// The tag of the markers of this level, a multiple of [`Address::STRIDE`].
#[inline]
pub(super) fn marker_tag(level: u8) -> u8 {
    // Not more than 15: the smallest stride is 8.
    FIRST_MARKER.saturating_add(level >> 3)
}

/// What goes into the hash of an entry beside its address. Nothing for a single address: that is
/// what nearly every look-up is for.
#[inline]
fn purpose<A: Address>(tag: u8) -> u8 {
    if tag == A::EXACT { 0 } else { tag }
}

/// An IPv4 or IPv6 address as a number.
pub(super) trait Address: Copy + Eq + Send + Sync {
    /// The cache line that holds some.
    type Bucket: Bucket<Self>;
    /// The first one.
    const ZERO: Self;
    /// The length of a prefix that is a single address.
    const LENGTH: u8;
    /// Lengths between two levels of markers.
    const STRIDE: u8;
    /// The tag of a single address.
    const EXACT: u8 = prefix_tag(Self::LENGTH);

    /// Where it is to be looked for.
    fn hash(self, tag: u8, seed: Seed) -> u64;

    /// Its first `length` bits; the others zero.
    fn masked(self, length: u8) -> Self;
}

impl Address for u32 {
    type Bucket = Bucket4;
    const ZERO: Self = 0;
    const LENGTH: u8 = 32;
    const STRIDE: u8 = 8;

    #[inline]
    fn hash(self, tag: u8, seed: Seed) -> u64 {
        seed.hash(0, self.into(), purpose::<Self>(tag))
    }

    #[inline]
    fn masked(self, length: u8) -> Self {
        let away = u32::from(Self::LENGTH.saturating_sub(length));
        self & Self::MAX.checked_shl(away).unwrap_or_default()
    }
}

impl Address for u128 {
    type Bucket = Bucket6;
    const ZERO: Self = 0;
    const LENGTH: u8 = 128;
    const STRIDE: u8 = 16;

    #[inline]
    fn hash(self, tag: u8, seed: Seed) -> u64 {
        let (high, low) = halves(self);
        seed.hash(high, low, purpose::<Self>(tag))
    }

    #[inline]
    fn masked(self, length: u8) -> Self {
        let away = u32::from(Self::LENGTH.saturating_sub(length));
        self & Self::MAX.checked_shl(away).unwrap_or_default()
    }
}

//! The cache line that a look-up reads: a few entries, written by one, read by all.
//!
//! # Theory of operation
//! An entry is an address, a *tag* (how long the prefix is, or which marker this is; `address.rs`)
//! and a *payload* (whose it is; zero for nobody). Tag and payload are one word, the entry's word:
//!
//! ```text
//! Bucket4   word word word word word word word word              word = address:32 tag:8 payload:24
//! Bucket6   word word word | spilled | address address address   word = tag:8 payload:24
//! ```
//! A slot lives through this, and never backwards:
//!
//! ```text
//! never used (0) --put--> live (tag, payload) --set--> other payload --set(0)--> dead (tag, 0)
//!                                  ^                                                |
//!                                  '------------------ set: the same address -------'
//! ```
//! 1. `put` writes the address first and the word last, with release; a reader loads the word with
//!    acquire, so whoever sees the word sees the address that belongs to it.
//! 2. From then on the slot's address *never changes*. So a reader needs no sequence number, no
//!    second look and no second try: what it compares cannot be half of one address and half of
//!    another. Dead slots are got rid of by building the buckets anew (`table.rs`); who still
//!    reads the old ones reads them undisturbed.
//! 3. An entry stays in its bucket. It takes the first slot that was never used, in an order that its
//!    hash tells: so most look-ups end with the first slot they try, and one that comes to a slot
//!    that was never used knows that there is nothing.
//! 4. One that found the bucket full is in a later one. A full bucket of IPv4 says so by being full,
//!    one of IPv6 by its mark `spilled`: a third of those are full, and the mark saves most of them a
//!    second line. (It may be seen before the entry: a look-up in vain, as a moment ago.)
//!
//! # Invariants
//! - One writer at a time. Readers: any number, any time, and they never wait.
//! - An address with its tag is in one slot of the buckets at most.

use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Bits of a payload.
const PAYLOAD_BITS: u32 = 24;
/// The largest payload.
pub(super) const PAYLOAD_MAX: u32 = (1 << PAYLOAD_BITS) - 1;

/// A slot as the writer reads it.
#[derive(Clone, Copy)]
pub(super) struct Slot<A> {
    pub(super) address: A,
    pub(super) tag: u8,
    /// Zero if the entry is dead.
    pub(super) payload: u32,
}

/// A cache line of entries with addresses of type `A`.
pub(super) trait Bucket<A>: Default + Send + Sync {
    /// Entries that fit.
    const SLOTS: usize;

    /// The payload of an entry; zero if there is none, or it is dead. `None` if it may be further on.
    /// Readers call it.
    fn find(&self, address: A, tag: u8, hash: u64) -> Option<u32>;

    /// The same, for one of many look-ups: without a branch on which slot it is, where that differs.
    fn find_evenly(&self, address: A, tag: u8, hash: u64) -> Option<u32>;

    /// Which slot has this address and tag, dead or alive.
    fn position(&self, address: A, tag: u8) -> Option<usize>;

    /// The slot that was never used, and that a look-up with this hash comes to first.
    fn free(&self, hash: u64) -> Option<usize>;

    /// Makes a slot that was never used an entry.
    fn put(&self, slot: usize, entry: Slot<A>);

    /// Changes the payload of an entry; zero kills it.
    fn set(&self, slot: usize, payload: u32);

    /// Says that an entry which belongs into this full bucket lies further on.
    fn spill(&self);

    /// Whether [`spill`](Self::spill) may have said so.
    fn may_have_spilled(&self) -> bool;

    /// What a slot holds; `None` if it was never used, or there is no such slot.
    fn slot(&self, slot: usize) -> Option<Slot<A>>;
}

/// The word of an entry.
#[inline]
pub(super) fn word(tag: u8, payload: u32) -> u32 {
    u32::from(tag) << PAYLOAD_BITS | payload & PAYLOAD_MAX
}

/// Eight IPv4 entries.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Bucket4([AtomicU64; 8]);

/// The `n`th slot of a bucket of IPv4 that a look-up with this hash tries.
#[inline]
fn nth4(hash: u64, n: usize) -> usize {
    ((hash >> 3) as usize ^ n) & 7
}

impl Bucket4 {
    /// Address and tag, where the word has them.
    #[inline]
    fn key(address: u32, tag: u8) -> u64 {
        u64::from(address) << 32 | u64::from(word(tag, 0))
    }
}

impl Bucket<u32> for Bucket4 {
    const SLOTS: usize = 8;

    #[inline(always)]
    fn find(&self, address: u32, tag: u8, hash: u64) -> Option<u32> {
        let key = Self::key(address, tag);
        for n in 0..Self::SLOTS {
            let word = self.0.get(nth4(hash, n))?.load(Ordering::Acquire);
            // With its own key, only the payload is left of a word.
            let left = word ^ key;
            if left <= PAYLOAD_MAX.into() {
                return Some(left as u32);
            }
            if word == 0 {
                return Some(0);
            }
        }
        None
    }

    /// Most end with the first slot they try.
    #[inline(always)]
    fn find_evenly(&self, address: u32, tag: u8, hash: u64) -> Option<u32> {
        self.find(address, tag, hash)
    }

    fn position(&self, address: u32, tag: u8) -> Option<usize> {
        let key = Self::key(address, tag) >> PAYLOAD_BITS;
        self.0.iter().position(|w| w.load(Ordering::Relaxed) >> PAYLOAD_BITS == key)
    }

    fn free(&self, hash: u64) -> Option<usize> {
        let is_free =
            |slot: &usize| self.0.get(*slot).is_some_and(|w| w.load(Ordering::Relaxed) == 0);
        (0..Self::SLOTS).map(|n| nth4(hash, n)).find(is_free)
    }

    fn put(&self, slot: usize, entry: Slot<u32>) {
        let Some(place) = self.0.get(slot) else { return };
        // Address and word are one here.
        let key = Self::key(entry.address, entry.tag);
        place.store(key | u64::from(entry.payload & PAYLOAD_MAX), Ordering::Release);
    }

    fn set(&self, slot: usize, payload: u32) {
        let Some(place) = self.0.get(slot) else { return };
        let key = place.load(Ordering::Relaxed) >> PAYLOAD_BITS;
        let payload = u64::from(payload & PAYLOAD_MAX);
        place.store(key << PAYLOAD_BITS | payload, Ordering::Release);
    }

    fn spill(&self) {}

    fn may_have_spilled(&self) -> bool {
        self.free(0).is_none()
    }

    fn slot(&self, slot: usize) -> Option<Slot<u32>> {
        let word = self.0.get(slot)?.load(Ordering::Relaxed);
        let [a, b, c, d, tag, ..] = word.to_be_bytes();
        let address = u32::from_be_bytes([a, b, c, d]);
        (word != 0).then_some(Slot { address, tag, payload: word as u32 & PAYLOAD_MAX })
    }
}

/// Three IPv6 entries.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Bucket6 {
    pub(super) words: [AtomicU32; 3],
    spilled: AtomicU32,
    /// Upper and lower half of each entry's address.
    pub(super) addresses: [[AtomicU64; 2]; 3],
}

/// Upper and lower half of an address.
#[inline]
pub(super) fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}

impl Bucket<u128> for Bucket6 {
    const SLOTS: usize = 3;

    #[inline(always)]
    fn find(&self, address: u128, tag: u8, _hash: u64) -> Option<u32> {
        let (high, low) = halves(address);
        let key = word(tag, 0);
        for (word, [upper, lower]) in self.words.iter().zip(&self.addresses) {
            // Acquire: the address that was written before this word is there.
            let word = word.load(Ordering::Acquire);
            // The lower halves differ first: prefixes of a LAN have the upper half in common.
            if lower.load(Ordering::Relaxed) == low && upper.load(Ordering::Relaxed) == high {
                let left = word ^ key;
                if left <= PAYLOAD_MAX {
                    return Some(left);
                }
            }
            if word == 0 {
                return Some(0);
            }
        }
        (self.spilled.load(Ordering::Acquire) == 0).then_some(0)
    }

    #[inline(always)]
    fn find_evenly(&self, address: u128, tag: u8, _hash: u64) -> Option<u32> {
        let (high, low) = halves(address);
        let key = word(tag, 0);
        // All three are compared, without a branch: which one it is nobody can predict.
        let mut found = 0;
        for (word, [upper, lower]) in self.words.iter().zip(&self.addresses) {
            // Acquire: the address that was written before this word is there.
            let left = word.load(Ordering::Acquire) ^ key;
            let other = (upper.load(Ordering::Relaxed) ^ high)
                | (lower.load(Ordering::Relaxed) ^ low)
                | u64::from(left & !PAYLOAD_MAX);
            found |= if other == 0 { left } else { 0 };
        }
        (found != 0 || self.spilled.load(Ordering::Acquire) == 0).then_some(found)
    }

    fn position(&self, address: u128, tag: u8) -> Option<usize> {
        (0..Self::SLOTS)
            .find(|i| self.slot(*i).is_some_and(|slot| slot.address == address && slot.tag == tag))
    }

    fn free(&self, _hash: u64) -> Option<usize> {
        self.words.iter().position(|w| w.load(Ordering::Relaxed) == 0)
    }

    fn put(&self, slot: usize, entry: Slot<u128>) {
        let (Some(place), Some([upper, lower])) = (self.words.get(slot), self.addresses.get(slot))
        else {
            return;
        };
        let (high, low) = halves(entry.address);
        upper.store(high, Ordering::Relaxed);
        lower.store(low, Ordering::Relaxed);
        // Last, and with release: who sees it sees the address.
        place.store(word(entry.tag, entry.payload), Ordering::Release);
    }

    fn set(&self, slot: usize, payload: u32) {
        let Some(place) = self.words.get(slot) else { return };
        let [tag, ..] = place.load(Ordering::Relaxed).to_be_bytes();
        place.store(word(tag, payload), Ordering::Release);
    }

    fn spill(&self) {
        self.spilled.store(1, Ordering::Release);
    }

    fn may_have_spilled(&self) -> bool {
        self.spilled.load(Ordering::Relaxed) != 0
    }

    fn slot(&self, slot: usize) -> Option<Slot<u128>> {
        let word = self.words.get(slot)?.load(Ordering::Relaxed);
        let [upper, lower] = self.addresses.get(slot)?;
        let high = u128::from(upper.load(Ordering::Relaxed));
        let address = high << 64 | u128::from(lower.load(Ordering::Relaxed));
        let [tag, ..] = word.to_be_bytes();
        (word != 0).then_some(Slot { address, tag, payload: word & PAYLOAD_MAX })
    }
}

//! The base's own storage: where every datagram lies while the base decides about it.
//!
//! # Theory of operation
//! One arena per worker, filled from the front by one batch and emptied when the batch is done. So
//! a batch of small frames touches a few kilobytes that stay hot in the cache, and a batch of 64 KiB
//! sends fits as well. A frame is copied in whole (rule 3); what follows reads and, where a checksum
//! is missing, completes that copy.
//!
//! # Invariants
//! - A guest never sees or reaches this memory.
//! - No allocation after the start: when the arena is full, the batch ends.

use std::ops::Range;

use crate::names::PortId;
use crate::offload::Offload;

/// Octets of the largest frame: a 65,535 octet datagram and its Ethernet header, rounded up.
pub const MAX_FRAME: usize = 65_536 + 64;
/// Datagrams of one batch.
pub const BATCH: usize = 64;
/// Octets of the arena: sixteen of the largest frames.
const ARENA: usize = 16 * MAX_FRAME;
/// Where a frame starts within a cache line, so that the IP header behind the 14 octets of Ethernet
/// is aligned to 16.
const SKEW: usize = 2;

/// One datagram in storage.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    start: usize,
    len: usize,
    /// What its sender left to offload; filled in when it was looked at.
    pub offload: Offload,
    /// The next item for the same receiver.
    pub next: Option<u16>,
    /// Whose port sent it, if a VM did.
    pub sender: Option<PortId>,
}

/// The arena and the batch in it.
pub struct Storage {
    arena: Vec<u8>,
    used: usize,
    items: Vec<Item>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { arena: vec![0; ARENA], used: 0, items: Vec::with_capacity(4 * BATCH) }
    }
}

impl Storage {
    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.used = 0;
        self.items.clear();
    }

    /// Whether one more frame of any size fits, and after it all its fragments.
    pub fn has_room(&self) -> bool {
        self.arena.len().saturating_sub(self.used) >= 3 * MAX_FRAME && self.items.len() < BATCH
    }

    /// Room for one frame of at most [`MAX_FRAME`] octets; less when the arena is nearly full.
    pub fn room(&mut self) -> &mut [u8] {
        let start = self.next_start();
        let end = start.saturating_add(MAX_FRAME).min(self.arena.len());
        self.arena.get_mut(start..end).unwrap_or_default()
    }

    /// A datagram of the batch, and room for another beside it.
    pub fn datagram_and_room(&mut self, index: u16) -> (&[u8], &mut [u8]) {
        let start = self.next_start();
        let Some(&Item { start: at, len, .. }) = self.item(index) else { return (&[], &mut []) };
        let Some((front, back)) = self.arena.split_at_mut_checked(start) else {
            return (&[], &mut []);
        };
        let datagram = front.get(at..at.saturating_add(len)).unwrap_or_default();
        let end = MAX_FRAME.min(back.len());
        (datagram, back.get_mut(..end).unwrap_or_default())
    }

    fn next_start(&self) -> usize {
        self.used.next_multiple_of(64).saturating_add(SKEW)
    }

    /// Takes into the batch what was written to [`Storage::room`]: the datagram lies at `range` in
    /// it. Its index.
    pub fn push(&mut self, range: Range<usize>, sender: Option<PortId>) -> u16 {
        let base = self.next_start();
        let start = base.saturating_add(range.start);
        self.used = base.saturating_add(range.end).min(self.arena.len());
        let index = self.items.len();
        self.items.push(Item {
            start,
            len: range.len(),
            offload: Offload::default(),
            next: None,
            sender,
        });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// Datagrams in the batch.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What is known of a datagram.
    pub fn item(&self, index: u16) -> Option<&Item> {
        self.items.get(usize::from(index))
    }

    /// To note something about a datagram.
    pub fn item_mut(&mut self, index: u16) -> Option<&mut Item> {
        self.items.get_mut(usize::from(index))
    }

    /// The datagram's octets; empty for an index that is not in the batch.
    pub fn datagram(&self, index: u16) -> &[u8] {
        self.item(index)
            .and_then(|i| self.arena.get(i.start..i.start.saturating_add(i.len)))
            .unwrap_or_default()
    }

    /// The datagram's octets, to complete a checksum in place.
    pub fn datagram_mut(&mut self, index: u16) -> &mut [u8] {
        let Some(&Item { start, len, .. }) = self.item(index) else { return &mut [] };
        self.arena.get_mut(start..start.saturating_add(len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_before_a_frame_of_the_largest_size_would_not_fit() {
        let mut storage = Storage::default();
        let mut n = 0;
        while storage.has_room() {
            assert!(storage.room().len() >= 65_535 + 14);
            storage.push(14..MAX_FRAME, None);
            n += 1;
        }
        assert!((13..=16).contains(&n), "{n}");
        storage.clear();
        assert!(storage.has_room());
    }

    #[test]
    fn datagrams_of_a_batch_do_not_touch_each_other() {
        let mut storage = Storage::default();
        let mut all = Vec::new();
        for i in 0..BATCH {
            storage.room()[..100].fill(i as u8);
            all.push(storage.push(14..100, None));
        }
        assert!(!storage.has_room());
        for (i, &index) in all.iter().enumerate() {
            assert_eq!(storage.datagram(index), [i as u8; 86]);
        }
    }
}

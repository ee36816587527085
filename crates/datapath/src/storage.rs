//! The base's own storage: where every datagram lies while the base decides about it.
//!
//! # Theory of operation
//! One arena per worker, filled from the front by one batch and emptied when the batch is done. So
//! a batch of small frames touches a few kilobytes that stay hot in the cache, and a batch of 64 KiB
//! sends fits as well. A frame is copied in whole (rule 3); what follows reads and, where a checksum
//! is missing, completes that copy.
//!
//! A batch ends when the arena is full, and when as many frames or octets were looked at as a full
//! arena holds, whatever became of them: a frame that is dropped or answered costs the other ports'
//! time as one that is stored does. So does cutting a large send, which is charged by its segments.
//!
//! # Invariants
//! - A guest never sees or reaches this memory.
//! - No allocation after the start: when the arena is full, the batch ends.

use std::ops::Range;

use crate::offload::Offload;

/// Octets of the largest frame: a 65,535 octet datagram and its Ethernet header, rounded up.
pub const MAX_FRAME: usize = 65_536 + 64;
/// Frames of one batch.
pub const BATCH: usize = 64;
/// Segments that the large sends of one batch stand for, those of its last one aside: more than
/// sixteen of the largest sends on an Ethernet have.
const SEGMENTS: usize = 1024;
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
}

/// The arena and the batch in it.
pub struct Storage {
    arena: Vec<u8>,
    used: usize,
    /// Frames, octets and segments that the batch has cost so far.
    frames: usize,
    octets: usize,
    segments: usize,
    items: Vec<Item>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA],
            used: 0,
            frames: 0,
            octets: 0,
            segments: 0,
            items: Vec::with_capacity(4 * BATCH),
        }
    }
}

impl Storage {
    /// Forgets the batch.
    pub fn clear(&mut self) {
        (self.used, self.frames, self.octets, self.segments) = (0, 0, 0, 0);
        self.items.clear();
    }

    /// Whether one more frame of any size fits, and after it all its fragments, and the batch has
    /// not cost enough yet.
    pub fn has_room(&self) -> bool {
        self.arena.len().saturating_sub(self.used) >= 3 * MAX_FRAME
            && self.items.len() < BATCH
            && self.frames < BATCH
            && self.octets < ARENA
            && self.segments < SEGMENTS
    }

    /// A frame of so many octets was copied into [`Storage::room`], whatever becomes of it.
    pub fn looked_at(&mut self, octets: usize) {
        self.frames = self.frames.saturating_add(1);
        self.octets = self.octets.saturating_add(octets.min(MAX_FRAME));
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
    pub fn push(&mut self, range: Range<usize>) -> u16 {
        let base = self.next_start();
        let start = base.saturating_add(range.start);
        self.used = base.saturating_add(range.end).min(self.arena.len());
        let index = self.items.len();
        self.items.push(Item { start, len: range.len(), offload: Offload::default(), next: None });
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

    /// Notes what is left to do with a datagram.
    pub fn set_offload(&mut self, index: u16, offload: Offload) {
        let Some(item) = self.items.get_mut(usize::from(index)) else { return };
        item.offload = offload;
        let segments = offload.segmentation.map_or(0, |large| large.segments(item.len));
        self.segments = self.segments.saturating_add(segments);
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
    use crate::offload::{Kind, Segmentation};

    #[test]
    fn a_batch_ends_before_a_frame_of_the_largest_size_would_not_fit() {
        let mut storage = Storage::default();
        let mut n = 0;
        while storage.has_room() {
            assert!(storage.room().len() >= 65_535 + 14);
            storage.push(14..MAX_FRAME);
            n += 1;
        }
        assert!((13..=16).contains(&n), "{n}");
        storage.clear();
        assert!(storage.has_room());
    }

    #[test]
    fn a_batch_ends_when_enough_was_looked_at_though_nothing_was_stored() {
        for (octets, at_most) in [(0, BATCH), (60, BATCH), (MAX_FRAME, 16), (usize::MAX, 16)] {
            let mut storage = Storage::default();
            let mut frames = 0;
            while storage.has_room() {
                storage.looked_at(octets);
                frames += 1;
            }
            assert_eq!(frames, at_most, "frames of {octets} octets");
            storage.clear();
            assert!(storage.has_room());
        }
    }

    #[test]
    fn large_sends_are_charged_by_what_they_are_cut_into() {
        let sends = |size: u16| {
            let mut storage = Storage::default();
            let mut sends = 0;
            while storage.has_room() {
                let index = storage.push(14..64_014);
                let large = Segmentation {
                    kind: Kind::Tcp4,
                    size,
                    transport: 20,
                    header_len: 40,
                    ecn: false,
                };
                let offload = Offload { segmentation: Some(large), ..Offload::default() };
                storage.set_offload(index, offload);
                sends += 1;
            }
            sends
        };
        assert_eq!(sends(32), 1, "two thousand segments");
        assert_eq!(sends(536), 9);
        // As many as fit the arena.
        assert!((13..=16).contains(&sends(1448)));
    }

    #[test]
    fn datagrams_of_a_batch_do_not_touch_each_other() {
        let mut storage = Storage::default();
        let mut all = Vec::new();
        for i in 0..BATCH {
            storage.room()[..100].fill(i as u8);
            all.push(storage.push(14..100));
        }
        assert!(!storage.has_room());
        for (i, &index) in all.iter().enumerate() {
            assert_eq!(storage.datagram(index), [i as u8; 86]);
        }
    }
}

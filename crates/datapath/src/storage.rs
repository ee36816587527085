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
//! Before each datagram there is room for the headers with which it goes to a receiver, so that it
//! goes there in one copy:
//!
//! ```text
//! | virtio-net header 12 | Ethernet header 14 | datagram, padding |
//! ```
//! Short frames of one ring come a stretch at a time ([`Storage::slot`]), their sender's headers
//! included; each begins a cache line. All others come one by one ([`Storage::room`]).
//!
//! # Invariants
//! - A guest never sees or reaches this memory.
//! - No allocation after the start: when the arena is full, the batch ends.

use std::ops::Range;

use virtqueue::NetHeader;

use crate::offload::Offload;
use crate::port::ETHERNET;

/// Octets of the largest frame: a 65,535 octet datagram and its Ethernet header, rounded up.
pub const MAX_FRAME: usize = 65_536 + 64;
/// Frames of one batch.
pub const BATCH: usize = 64;
/// Segments that the large sends of one batch stand for, those of its last one aside: more than
/// sixteen of the largest sends on an Ethernet have.
const SEGMENTS: usize = 1024;
/// Octets of the arena: sixteen of the largest frames.
const ARENA: usize = 16 * MAX_FRAME;
/// Octets of the longest frame that is taken in a stretch with others, its virtio-net header
/// included.
pub const SHORT: usize = 2048;
/// Octets of the headers before a datagram: virtio-net and Ethernet.
pub const HEADERS: usize = NetHeader::LEN + ETHERNET;
/// Octets of a cache line.
const LINE: usize = 64;
/// Octets that one frame of a stretch may need: itself, and all fragments it may be cut into.
const SHORT_COST: usize = 3 * SHORT;

/// One datagram in storage. Half a cache line, so that it is found by a shift.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Item {
    /// Where in the arena the room for its headers begins; the datagram follows.
    at: u32,
    len: u32,
    /// What its sender left to offload; filled in when it was looked at.
    pub offload: Offload,
    /// The next item for the same receiver.
    pub next: Option<u16>,
}

impl Item {
    #[inline]
    fn new(at: usize, len: usize) -> Self {
        // The arena is far smaller.
        Self { at: at as u32, len: len as u32, offload: Offload::default(), next: None }
    }

    /// Octets of the datagram.
    #[inline]
    pub fn octets(&self) -> usize {
        self.len as usize
    }

    /// Where the datagram lies.
    #[inline]
    fn datagram(&self) -> Range<usize> {
        let start = (self.at as usize).wrapping_add(HEADERS);
        start..start.wrapping_add(self.len as usize)
    }

    /// The datagram, and so much of the room before it.
    #[inline]
    fn with(&self, headers: usize) -> Range<usize> {
        let Range { start, end } = self.datagram();
        start.wrapping_sub(headers)..end
    }
}

/// The arena and the batch in it.
pub struct Storage {
    arena: Vec<u8>,
    /// Where in it a cache line begins.
    origin: usize,
    /// The first line that is not in use.
    line: usize,
    /// Frames, octets and segments that the batch has cost so far.
    frames: usize,
    octets: usize,
    segments: usize,
    items: Vec<Item>,
}

impl Default for Storage {
    fn default() -> Self {
        let arena = vec![0; ARENA];
        // Nothing but speed depends on it.
        let origin = arena.as_ptr().align_offset(LINE).min(LINE);
        Self {
            arena,
            origin,
            line: origin,
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
        (self.line, self.frames, self.octets, self.segments) = (self.origin, 0, 0, 0);
        self.items.clear();
    }

    fn left(&self) -> usize {
        self.arena.len().saturating_sub(self.line)
    }

    /// Whether one more frame of any size fits, and after it all its fragments, and the batch has
    /// not cost enough yet.
    pub fn has_room(&self) -> bool {
        self.left() >= 3 * MAX_FRAME
            && self.items.len() < BATCH
            && self.frames < BATCH
            && self.octets < ARENA
            && self.segments < SEGMENTS
    }

    /// How many short frames the batch can have still, where it [has room](Storage::has_room).
    pub fn short_frames(&self) -> usize {
        let looked_at = self.frames.max(self.items.len());
        BATCH.saturating_sub(looked_at).min(self.left() / SHORT_COST)
    }

    /// A frame of so many octets was copied into [`Storage::room`], whatever becomes of it.
    pub fn looked_at(&mut self, octets: usize) {
        self.frames = self.frames.saturating_add(1);
        self.octets = self.octets.saturating_add(octets.min(MAX_FRAME));
    }

    fn next_start(&self) -> usize {
        self.line.saturating_add(HEADERS)
    }

    /// The arena is in use up to `end`.
    #[inline]
    fn used_up_to(&mut self, end: usize) {
        let octets = end.wrapping_sub(self.origin).wrapping_add(LINE - 1) & !(LINE - 1);
        self.line = self.origin.wrapping_add(octets);
    }

    /// Room for one frame of at most [`MAX_FRAME`] octets; less when the arena is nearly full.
    pub fn room(&mut self) -> &mut [u8] {
        let start = self.next_start();
        let end = start.saturating_add(MAX_FRAME).min(self.arena.len());
        self.arena.get_mut(start..end).unwrap_or_default()
    }

    /// Room for one short frame and its virtio-net header.
    #[inline]
    pub fn slot(&mut self) -> &mut [u8] {
        self.arena.get_mut(self.line..self.line.wrapping_add(SHORT)).unwrap_or_default()
    }

    /// Takes into the batch the frame of which `octets` were written to [`Storage::slot`], its headers
    /// included, and of which the datagram has `len`.
    #[inline]
    pub fn keep(&mut self, octets: usize, len: usize) {
        let at = self.line;
        self.used_up_to(at.wrapping_add(octets.min(SHORT)));
        self.items.push(Item::new(at, len));
    }

    /// So many frames, of so many octets altogether, were kept.
    pub fn kept_so_many(&mut self, frames: usize, octets: usize) {
        self.frames = self.frames.saturating_add(frames);
        self.octets = self.octets.saturating_add(octets);
    }

    /// A datagram of the batch, and room for another beside it.
    pub fn datagram_and_room(&mut self, index: u16) -> (&[u8], &mut [u8]) {
        let start = self.next_start();
        let Some(range) = self.item(index).map(Item::datagram) else { return (&[], &mut []) };
        let Some((front, back)) = self.arena.split_at_mut_checked(start) else {
            return (&[], &mut []);
        };
        let end = MAX_FRAME.min(back.len());
        (front.get(range).unwrap_or_default(), back.get_mut(..end).unwrap_or_default())
    }

    /// Takes into the batch what was written to [`Storage::room`]: the datagram lies at `range` in
    /// it. Its index.
    pub fn push(&mut self, range: Range<usize>) -> u16 {
        let at = self.line.saturating_add(range.start);
        let end = self.next_start().saturating_add(range.end).min(self.arena.len());
        self.used_up_to(end);
        let index = self.items.len();
        self.items.push(Item::new(at, range.len()));
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
    #[inline]
    pub fn item(&self, index: u16) -> Option<&Item> {
        self.items.get(usize::from(index))
    }

    /// To note something about a datagram.
    #[inline]
    pub fn item_mut(&mut self, index: u16) -> Option<&mut Item> {
        self.items.get_mut(usize::from(index))
    }

    /// Cuts off what a frame has behind its datagram.
    pub fn trim(&mut self, index: u16, len: usize) {
        if let Some(item) = self.items.get_mut(usize::from(index)) {
            item.len = item.len.min(u32::try_from(len).unwrap_or(u32::MAX));
        }
    }

    /// Notes what is left to do with a datagram.
    pub fn set_offload(&mut self, index: u16, offload: Offload) {
        let Some(item) = self.items.get_mut(usize::from(index)) else { return };
        item.offload = offload;
        let segments = offload.segmentation.map_or(0, |large| large.segments(item.octets()));
        self.segments = self.segments.saturating_add(segments);
    }

    /// The datagram's octets; empty for an index that is not in the batch.
    pub fn datagram(&self, index: u16) -> &[u8] {
        self.item(index).and_then(|i| self.arena.get(i.datagram())).unwrap_or_default()
    }

    /// The datagram's octets, to complete a checksum in place.
    pub fn datagram_mut(&mut self, index: u16) -> &mut [u8] {
        let Some(range) = self.item(index).map(Item::datagram) else { return &mut [] };
        self.arena.get_mut(range).unwrap_or_default()
    }

    /// The frame, its Ethernet header included, as it was taken.
    pub fn frame(&self, index: u16) -> &[u8] {
        self.item(index).and_then(|i| self.arena.get(i.with(ETHERNET))).unwrap_or_default()
    }

    /// The virtio-net header of a frame that was [kept](Storage::keep), as its sender wrote it.
    pub fn header(&self, index: u16) -> Option<NetHeader> {
        let octets = self.arena.get(self.item(index)?.with(HEADERS))?;
        octets.first_chunk().map(|header| NetHeader::from_bytes(*header))
    }

    /// The room for a datagram's headers and the datagram behind it, and what is known of it.
    #[inline]
    pub fn whole_mut(&mut self, index: u16) -> Option<(&Item, &mut [u8])> {
        let item = self.items.get(usize::from(index))?;
        let octets = self.arena.get_mut(item.with(HEADERS))?;
        Some((item, octets))
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

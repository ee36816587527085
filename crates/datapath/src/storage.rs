//! The base's own storage: where every datagram lies while the base decides about it.
//!
//! # Theory of operation
//! One arena per worker, filled from the front by one batch and emptied when the batch is done. So
//! a batch of small frames touches a few kilobytes that stay hot in the cache, and a batch of 64 KiB
//! sends fits as well. A frame is copied in whole (rule 3); what follows reads and, where a checksum
//! is missing, completes that copy.
//!
//! A batch ends when the arena is full, and when enough frames or octets were looked at, whatever became
//! of them: a frame that is dropped or answered costs the other ports' time as one that is stored
//! does. So does cutting a large send, which is charged by its segments. Three of the largest sends are
//! enough octets: more would push each other out of the core's own caches before they are copied out.
//!
//! Before each datagram there is room for the headers with which it goes to a receiver, so that it
//! goes there in one copy:
//!
//! ```text
//! | virtio-net header 12 | Ethernet header 14 | datagram, padding |
//! ```
//! Short frames of one ring come a stretch at a time ([`Storage::fill`]), their sender's headers
//! included; each begins a cache line. All others come one by one ([`Storage::room`]).
//!
//! # Invariants
//! - A guest never sees or reaches this memory.
//! - No allocation after the start: when the arena is full, the batch ends.

use std::ops::Range;

use virtqueue::{NetHeader, Slots};

use crate::envelope::Style;
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
/// Octets that the frames of one batch may have, those of its last one aside, so three of the largest:
/// what was copied in is still in the core's own caches when it is copied out.
const HOT: usize = 2 * MAX_FRAME;
/// Octets of the headers before a datagram: virtio-net and Ethernet.
pub const HEADERS: usize = NetHeader::LEN + ETHERNET;
/// Octets of a cache line.
const LINE: usize = 64;
/// Octets that one frame of a stretch may need: itself, and all fragments it may be cut into.
const SHORT_COST: usize = 3 * SHORT;

/// One datagram in storage. Half a cache line, so that it is found by a shift.
///
/// What is noted for one receiver is a list of runs: datagrams that stand one behind the other.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Item {
    /// Where in the arena the room for its headers begins; the datagram follows.
    at: u32,
    len: u32,
    /// What its sender left to offload; filled in when it was looked at.
    pub offload: Offload,
    /// With which headers it goes to a guest, if one of the common kinds will do.
    pub style: Style,
    /// How many datagrams the run has that begins here.
    pub run: u16,
    /// The first of the next run for the same receiver.
    pub next: Option<u16>,
}

impl Item {
    #[inline]
    fn new(at: usize, len: usize) -> Self {
        // The arena is far smaller.
        Self {
            at: at as u32,
            len: len as u32,
            offload: Offload::default(),
            style: Style::Other,
            run: 1,
            next: None,
        }
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
            && self.octets < HOT
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

    /// Takes into the batch what `copy` writes to slots for short frames, `most` of them. How many
    /// there were, and the octets of all, their virtio-net headers left out.
    #[inline]
    pub fn fill(&mut self, most: usize, copy: impl FnOnce(&mut ShortFrames<'_>)) -> (usize, usize) {
        let before = self.items.len();
        let mut slots = ShortFrames {
            arena: &mut self.arena,
            items: &mut self.items,
            line: self.line,
            left: most,
            octets: 0,
        };
        copy(&mut slots);
        let (line, all) = (slots.line, slots.octets);
        self.line = line;
        let frames = self.items.len().saturating_sub(before);
        let octets = all.saturating_sub(frames.saturating_mul(NetHeader::LEN));
        self.frames = self.frames.saturating_add(frames);
        self.octets = self.octets.saturating_add(octets);
        (frames, octets)
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
    #[inline]
    pub fn trim(&mut self, index: u16, len: u32) {
        if let Some(item) = self.items.get_mut(usize::from(index)) {
            item.len = item.len.min(len);
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

    /// Frames from [slots](Storage::fill), behind their virtio-net headers, as their sender wrote both.
    #[inline]
    pub fn sent(&self, frames: Range<u16>) -> impl Iterator<Item = (&[u8; NetHeader::LEN], &[u8])> {
        let items = self.items.get(frames.start.into()..frames.end.into()).unwrap_or_default();
        items.iter().map_while(|item| self.arena.get(item.with(HEADERS))?.split_first_chunk())
    }

    /// Shows such frames to `judge`, which says how long their datagrams are and with which headers
    /// they go on, where it knows.
    #[inline]
    pub fn look(
        &mut self,
        frames: Range<u16>,
        mut judge: impl FnMut(&[u8; NetHeader::LEN], &[u8]) -> (u32, Style),
    ) {
        let items = self.items.get_mut(frames.start.into()..frames.end.into());
        for item in items.unwrap_or_default() {
            let Some(octets) = self.arena.get(item.with(HEADERS)) else { return };
            let Some((header, frame)) = octets.split_first_chunk() else { return };
            let (len, style) = judge(header, frame);
            if style != Style::Other {
                item.len = item.len.min(len);
                item.style = style;
            }
            if style.is_open() {
                item.offload.checksum = style.checksum();
            }
        }
    }

    /// Notes with which headers a datagram goes to a guest, if nothing is left to do with it.
    #[inline]
    pub fn set_style(&mut self, index: u16) {
        let Some(item) = self.items.get_mut(usize::from(index)) else { return };
        if item.offload.is_none() {
            item.style = Style::finished(self.arena.get(item.datagram()).unwrap_or_default());
        }
    }

    /// The datagrams of a run, each with its style.
    #[inline]
    pub fn run(&self, run: Range<u16>) -> impl Iterator<Item = (Style, &[u8])> {
        let items = self.items.get(run.start.into()..run.end.into()).unwrap_or_default();
        items.iter().map_while(|item| Some((item.style, self.arena.get(item.datagram())?)))
    }

    /// The room for a datagram's headers and the datagram behind it, and what is known of it.
    #[inline]
    pub fn whole_mut(&mut self, index: u16) -> Option<(&Item, &mut [u8])> {
        let item = self.items.get(usize::from(index))?;
        let octets = self.arena.get_mut(item.with(HEADERS))?;
        Some((item, octets))
    }
}

/// Slots for short frames, each at the beginning of a cache line. A large send is the last one: what it
/// costs is known when it was looked at, and may end the batch.
pub struct ShortFrames<'s> {
    arena: &'s mut [u8],
    items: &'s mut Vec<Item>,
    line: usize,
    left: usize,
    octets: usize,
}

impl Slots for ShortFrames<'_> {
    #[inline]
    fn room(&mut self) -> &mut [u8] {
        self.arena.get_mut(self.line..self.line.wrapping_add(SHORT)).unwrap_or_default()
    }

    #[inline]
    fn filled(&mut self, octets: usize) -> bool {
        let at = self.line;
        self.items.push(Item::new(at, octets.saturating_sub(HEADERS)));
        self.line = at.wrapping_add(octets.next_multiple_of(LINE));
        self.octets = self.octets.wrapping_add(octets);
        self.left = self.left.wrapping_sub(1);
        let large = self.arena.get(at.wrapping_add(NetHeader::GSO_TYPE));
        self.left != 0 && large == Some(&NetHeader::GSO_NONE)
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
        for (octets, at_most) in
            [(0, BATCH), (1500, BATCH), (65_549, 3), (65_226, 3), (usize::MAX, 2)]
        {
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

    /// Fills slots with frames of these lengths, each octet its number; how many were taken.
    fn fill(storage: &mut Storage, frames: &[(usize, u8)], most: usize) -> (usize, usize) {
        storage.fill(most, |slots| {
            for (n, (octets, gso)) in frames.iter().enumerate() {
                let room = &mut slots.room()[..*octets];
                room.fill(n as u8);
                room[1] = *gso;
                if !slots.filled(*octets) {
                    return;
                }
            }
        })
    }

    #[test]
    fn short_frames_lie_each_at_the_beginning_of_a_line_and_are_charged_for() {
        let mut storage = Storage::default();
        let frames = [(76, 0), (26, 0), (128, 0), (SHORT, 0)];
        assert_eq!(fill(&mut storage, &frames, 10), (4, 76 + 26 + 128 + SHORT - 4 * 12));
        assert_eq!(storage.short_frames(), BATCH - 4);
        for ((n, (octets, _)), (header, frame)) in (0..).zip(&frames).zip(storage.sent(0..4)) {
            assert_eq!((header[0], frame[..] == vec![n; octets - 12]), (n, true));
            assert!(header.as_ptr().addr().is_multiple_of(LINE));
        }
        assert_eq!(storage.datagram(2), [2; 102]);
        // What comes by itself afterwards lies behind them.
        storage.room()[..100].fill(9);
        let index = storage.push(14..100);
        assert_eq!((index, storage.datagram(3)), (4, &[3; SHORT - HEADERS][..]));
    }

    #[test]
    fn a_stretch_ends_behind_a_large_send_and_at_the_number_that_was_asked_for() {
        let mut storage = Storage::default();
        assert_eq!(fill(&mut storage, &[(80, 0), (80, 1), (80, 0)], 10).0, 2);
        assert_eq!(fill(&mut storage, &[(80, 0); 3], 2).0, 2);
    }

    #[test]
    fn a_judge_can_shorten_a_datagram_but_not_lengthen_it() {
        let mut storage = Storage::default();
        fill(&mut storage, &[(80, 0); 4], 4);
        let (other, four, tcp) = (Style::Other, Style::Four, Style::Tcp4);
        let mut says = [(0, other), (20, four), (10_000, tcp), (1, other)].into_iter();
        storage.look(0..4, |_, _| says.next().unwrap());
        let run: Vec<_> = storage.run(0..4).map(|(style, d)| (style, d.len())).collect();
        assert_eq!(run, [(other, 54), (four, 20), (tcp, 54), (other, 54)]);
        assert_eq!(storage.item(2).unwrap().offload.checksum, tcp.checksum());
        assert_eq!(storage.run(0..5).count(), 0, "not in the batch");
    }

    #[test]
    fn a_datagram_has_a_style_by_its_family_unless_something_is_left_to_do() {
        let mut storage = Storage::default();
        fill(&mut storage, &[(80, 0); 4], 4);
        storage.datagram_mut(1)[0] = 0x60;
        let checksum = crate::offload::Checksum::Valid;
        storage.set_offload(2, Offload { checksum, ..Offload::default() });
        (0..4).for_each(|index| storage.set_style(index));
        let styles: Vec<_> = storage.run(0..4).map(|(style, _)| style).collect();
        assert_eq!(styles, [Style::Four, Style::Six, Style::Other, Style::Four]);
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

//! The input queue: frames that the guest receives.
//!
//! # Theory of operation
//! A frame is written into the next available buffer, or, with mergeable buffers, into as many as it
//! needs. Only when all of it was written are the buffers taken; a frame that does not fit leaves
//! the queue as it was (that octets were written into a buffer that stays the device's is nothing
//! the driver could mind). [`RxQueue::publish`] makes a batch of frames visible at once.
//!
//! Most frames fit one buffer that is one descriptor, and go there in one copy
//! ([`RxQueue::deliver_stretch`]). Where many are to be written, their descriptors and buffers are asked
//! for first ([`RxQueue::foresee_chains`], [`RxQueue::foresee_buffers`]).
//!
//! The number of buffers stands in the header, in the first of them, but is known at the end: where
//! its two octets lie is remembered meanwhile.

use std::sync::Arc;

use crate::fault::RingFault;
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestMemory;
use crate::net_header::NetHeader;
use crate::packed::{Flow, Journal, NoSuccessor, PackedRing};
use crate::piece::{Piece, Use};
use crate::ring::Ring;
use crate::split::F_WRITE;
use crate::walk::{Budget, Either, FORESEEN, Walk, of};

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Written; the driver sees it after [`RxQueue::publish`].
    Written,
    /// The guest has not made enough buffers available. Nothing was taken.
    NoBuffer,
    /// The next buffer is too small, and the guest does not take frames in pieces. Nothing was
    /// taken.
    TooSmall,
}

/// The device's side of an input queue.
pub struct RxQueue(Either<Rx<Ring>, Rx<PackedRing>>);

impl RxQueue {
    /// Takes up a split queue at the used index found in the guest's memory. A packed one is taken for
    /// one that was just set up, and has no successor: see [`RxQueue::resume_packed`].
    pub fn resume(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
    ) -> Result<Self, RingFault> {
        if features.packed {
            return Self::resume_packed(memory, layout, features, Box::new(NoSuccessor));
        }
        let ring = Ring::resume(memory, layout, features)?;
        Ok(Self(Either::Split(Rx::over(ring))))
    }

    /// Takes up a packed queue where its journal and the guest's memory say that a predecessor left
    /// it. For the time that the queue lives, nobody else may write in the journal.
    pub fn resume_packed(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
        journal: Box<dyn Journal>,
    ) -> Result<Self, RingFault> {
        let ring = PackedRing::resume(memory, layout, features, Flow::In, journal)?;
        Ok(Self(Either::Packed(Rx::over(ring))))
    }

    /// Writes one frame, which is all of `parts` in their order, behind `header`. The header's
    /// `num_buffers` is filled in here.
    ///
    /// After a fault nothing was taken; what was written before can still be published.
    #[inline]
    pub fn deliver(&mut self, header: &NetHeader, parts: &[&[u8]]) -> Result<Delivered, RingFault> {
        of!(&mut self.0, rx => rx.deliver(header, parts))
    }

    /// Asks for the descriptors of the next `n` buffers. Followed by [`RxQueue::foresee_buffers`]
    /// with the same number, after some other work.
    #[inline]
    pub fn foresee_chains(&mut self, n: u16) -> Result<(), RingFault> {
        of!(&mut self.0, rx => rx.foresee_chains(n))
    }

    /// Asks for the buffers themselves.
    #[inline]
    pub fn foresee_buffers(&mut self, n: u16) {
        of!(&mut self.0, rx => rx.foresee_buffers(n))
    }

    /// Writes one frame that lies in one piece behind its header: `octets` begin with a header of
    /// [`NetHeader::LEN`] whose `num_buffers` is 1. Otherwise as [`RxQueue::deliver`].
    pub fn deliver_whole(&mut self, octets: &[u8]) -> Result<Delivered, RingFault> {
        of!(&mut self.0, rx => rx.deliver_whole(octets))
    }

    /// The same for the common case, many times: as long as the next buffer was foreseen, is one
    /// descriptor, and large enough. `frames` are headers, which begin with the virtio-net header,
    /// and the rest of the frame; `mark` is told the index of each buffer before it is written to.
    /// How many frames were written, and the octets of their rests.
    #[inline]
    pub fn deliver_stretch<'f, const N: usize>(
        &mut self,
        frames: impl Iterator<Item = (&'f [u8; N], &'f [u8])>,
        mark: impl Fn(u16),
    ) -> (u16, usize) {
        of!(&mut self.0, rx => rx.deliver_stretch(frames, mark))
    }

    /// Takes the next buffer without looking at where it lies; the driver gets it back empty. False
    /// if there is none.
    pub fn skip_next(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, rx => rx.ring.skip())
    }

    /// The index of the next buffer to be written to, before anything of it is published.
    #[inline]
    pub fn position(&self) -> u16 {
        of!(&self.0, rx => rx.ring.index(rx.ring.next()))
    }

    /// Makes the frames written since the last call visible. True if the driver is to be notified.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, rx => rx.publish())
    }

    /// Descriptors that were read for the frames since the last publication: what they cost,
    /// however little their buffers hold.
    pub fn effort(&self) -> u32 {
        of!(&self.0, rx => rx.effort)
    }

    /// Asks for a notification when the guest makes the next buffer available. True if one is there
    /// already.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, rx => rx.ring.arm())
    }

    /// Asks for no notifications.
    pub fn disarm(&mut self) {
        of!(&mut self.0, rx => rx.ring.disarm());
    }

    /// Buffers that can be taken now.
    pub fn available(&mut self) -> Result<u16, RingFault> {
        of!(&mut self.0, rx => rx.ring.available())
    }

    /// Buffers taken and not yet published.
    pub fn outstanding(&self) -> u16 {
        of!(&self.0, rx => rx.ring.outstanding())
    }

    /// Where a successor goes on: the index of the first buffer not yet published.
    pub fn next_index(&self) -> u16 {
        of!(&self.0, rx => rx.ring.next_index())
    }

    /// Where it stands, as GET_VRING_BASE tells it, once nothing is outstanding.
    pub fn base(&self) -> u32 {
        of!(&self.0, rx => rx.ring.base())
    }

    /// What was negotiated.
    pub fn features(&self) -> QueueFeatures {
        of!(&self.0, rx => rx.ring.features())
    }
}

/// An input queue over a ring.
struct Rx<R> {
    ring: R,
    header_len: usize,
    mergeable: bool,
    /// Descriptors read since the last [`RxQueue::publish`].
    effort: u32,
}

impl<R: Walk> Rx<R> {
    fn over(ring: R) -> Self {
        let features = ring.features();
        let (header_len, mergeable) = (features.header_octets(), features.mergeable);
        Self { ring, header_len, mergeable, effort: 0 }
    }

    #[inline]
    fn deliver(&mut self, header: &NetHeader, parts: &[&[u8]]) -> Result<Delivered, RingFault> {
        let octets = NetHeader { num_buffers: 1, ..*header }.to_bytes();
        let header = octets.get(..self.header_len).unwrap_or(&octets);
        self.pour(Source::new(header, parts))
    }

    #[inline]
    fn foresee_chains(&mut self, n: u16) -> Result<(), RingFault> {
        self.ring.foresee_chains(n)
    }

    #[inline]
    fn foresee_buffers(&mut self, n: u16) {
        self.ring.foresee_buffers(n, F_WRITE, Use::Write);
    }

    fn deliver_whole(&mut self, octets: &[u8]) -> Result<Delivered, RingFault> {
        let (header, rest) = octets.split_at_checked(NetHeader::LEN).unwrap_or((octets, &[]));
        let header = header.get(..self.header_len).unwrap_or(header);
        self.pour(Source::new(header, &[rest]))
    }

    #[inline]
    fn deliver_stretch<'f, const N: usize>(
        &mut self,
        frames: impl Iterator<Item = (&'f [u8; N], &'f [u8])>,
        mark: impl Fn(u16),
    ) -> (u16, usize) {
        if self.header_len != NetHeader::LEN {
            return (0, 0);
        }
        let (mut next, mut written, mut octets) = (self.ring.next(), 0u16, 0usize);
        let found = self.ring.found();
        for ((n, one), (headers, body)) in found.iter().enumerate().zip(frames) {
            let Some((id, piece)) = one.buffer() else { break };
            let len = body.len().saturating_add(N);
            if len > FORESEEN
                && let Some(later) = found.get(n.wrapping_add(1))
            {
                // The next frame is probably as long.
                later.foresee_rest(len, self.ring.purpose(Use::Write));
            }
            if piece.len() < len {
                break;
            }
            mark(self.ring.index(next));
            let Some(rest) = piece.put(headers) else { break };
            rest.copy_in(body);
            // No longer than the descriptor's own length.
            next = self.ring.give_back_one(next, id, len as u32);
            written = written.wrapping_add(1);
            octets = octets.wrapping_add(body.len());
        }
        self.ring.advance(next);
        self.effort = self.effort.wrapping_add(written.into());
        (written, octets)
    }

    #[inline]
    fn pour(&mut self, source: Source<'_>) -> Result<Delivered, RingFault> {
        let mut budget = Budget::of_a_frame();
        let delivered = self.write(source, &mut budget);
        self.effort = self.effort.saturating_add(budget.spent());
        delivered.map_err(|fault| self.ring.blame(fault))
    }

    #[inline]
    fn write(
        &mut self,
        mut source: Source<'_>,
        budget: &mut Budget,
    ) -> Result<Delivered, RingFault> {
        let mut place = self.ring.next();
        let mut buffers = 0u16;
        // The places of the two octets of `num_buffers`, once they are known.
        let mut count_at = CountPlace::default();
        loop {
            let Some(mut head) = self.ring.head(place)? else { return Ok(Delivered::NoBuffer) };
            let before = source.written;
            self.ring.follow(&mut head, true, budget, |piece| {
                count_at.note(source.written, piece);
                source.fill(piece);
                !source.is_empty()
            })?;
            let len = u32::try_from(source.written.saturating_sub(before)).unwrap_or(u32::MAX);
            if !source.is_empty() && !self.mergeable {
                return Ok(Delivered::TooSmall);
            }
            place = self.ring.give_back(place, head, len);
            buffers = buffers.wrapping_add(1);
            if source.is_empty() {
                break;
            }
        }
        if buffers != 1 {
            count_at.set(buffers);
        }
        self.ring.advance(place);
        Ok(Delivered::Written)
    }

    #[inline]
    fn publish(&mut self) -> Result<bool, RingFault> {
        self.effort = 0;
        self.ring.publish()
    }
}

/// What is still to be written of a frame.
struct Source<'a> {
    /// The rest of the part at hand.
    now: &'a [u8],
    later: &'a [&'a [u8]],
    written: usize,
}

impl<'a> Source<'a> {
    #[inline]
    fn new(header: &'a [u8], parts: &'a [&'a [u8]]) -> Self {
        Self { now: header, later: parts, written: 0 }
    }

    /// Writes as much into `piece` as it holds.
    #[inline]
    fn fill(&mut self, mut piece: Piece<'_>) {
        loop {
            let n = piece.copy_in(self.now);
            self.written = self.written.saturating_add(n);
            self.now = self.now.get(n..).unwrap_or_default();
            piece = piece.skip(n);
            if !self.settle() || piece.len() == 0 {
                return;
            }
        }
    }

    /// Goes on to the next part that is not empty; false if there is none.
    #[inline]
    fn settle(&mut self) -> bool {
        while self.now.is_empty() {
            let Some((next, rest)) = self.later.split_first() else { return false };
            self.now = next;
            self.later = rest;
        }
        true
    }

    /// Everything is written. True only after `fill` has seen the end.
    #[inline]
    fn is_empty(&self) -> bool {
        self.now.is_empty()
    }
}

/// Where the two octets of `num_buffers` were written; they may lie in different pieces.
#[derive(Default)]
struct CountPlace<'m> {
    low: Option<Piece<'m>>,
    high: Option<Piece<'m>>,
}

impl<'m> CountPlace<'m> {
    const LOW: usize = 10;
    const HIGH: usize = 11;

    /// `piece` gets the octets of header and frame from `from` on.
    #[inline]
    fn note(&mut self, from: usize, piece: Piece<'m>) {
        if from > Self::HIGH {
            return;
        }
        let holds = |octet: usize| {
            let skip = octet.checked_sub(from)?;
            (skip < piece.len()).then(|| piece.skip(skip))
        };
        self.low = self.low.or_else(|| holds(Self::LOW));
        self.high = self.high.or_else(|| holds(Self::HIGH));
    }

    fn set(&self, buffers: u16) {
        let [low, high] = buffers.to_le_bytes();
        if let Some(piece) = self.low {
            piece.copy_in(&[low]);
        }
        if let Some(piece) = self.high {
            piece.copy_in(&[high]);
        }
    }
}

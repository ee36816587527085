//! The output queue: frames that the guest sends.
//!
//! # Theory of operation
//! ```text
//! copy_next  copy_next  copy_next ...   the frames lie in the base's storage now,
//!                                       the guest's buffers are still outstanding
//!     (deliver, send or count each)
//! complete                              all buffers go back, published at once
//! ```
//! Most frames are short and lie in one buffer. They are taken many at a time:
//!
//! ```text
//! foresee                               how many; their descriptors and octets are asked for
//! copy_stretch                          up to one that is not of the common kind: copy_next takes that
//! whole                                 none of it was taken away meanwhile
//! ```
//!
//! What goes back is noted as the chains are taken (a split ring's used entries in their places, a packed
//! ring's aside); what makes the driver see it is written by [`TxQueue::complete`] alone. Who dies
//! before has given nothing back, and a successor takes the same frames again. In the middle of it:
//! `packed`.

use std::sync::Arc;

use crate::fault::RingFault;
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestMemory;
use crate::net_header::NetHeader;
use crate::packed::{Flow, Journal, NoSuccessor, PackedRing};
use crate::piece::{Piece, Use};
use crate::ring::Ring;
use crate::walk::{Budget, Either, FORESEEN, Walk, of};

/// A frame that was taken from an output queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What the guest wrote before the frame: not to be believed.
    pub header: NetHeader,
    /// Octets of the frame. If more than the room there was, the frame was cut off there.
    pub len: usize,
}

/// Where the frames of a stretch are copied to.
pub trait Slots {
    /// Room for the next frame and its virtio-net header; none if no more is wanted.
    fn room(&mut self) -> &mut [u8];

    /// The first so many octets of that room were written. Whether more is wanted.
    fn filled(&mut self, octets: usize) -> bool;
}

/// The device's side of an output queue.
pub struct TxQueue(Either<Tx<Ring>, Tx<PackedRing>>);

impl TxQueue {
    /// Takes up a split queue at the used index found in the guest's memory. A packed one is taken for
    /// one that was just set up, and has no successor: see [`TxQueue::resume_packed`].
    pub fn resume(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
    ) -> Result<Self, RingFault> {
        if features.packed {
            return Self::resume_packed(memory, layout, features, Box::new(NoSuccessor));
        }
        let ring = Ring::resume(memory, layout, features)?;
        Ok(Self(Either::Split(Tx::over(ring))))
    }

    /// Takes up a packed queue where its journal and the guest's memory say that a predecessor left
    /// it. For the time that the queue lives, nobody else may write in the journal.
    pub fn resume_packed(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
        journal: Box<dyn Journal>,
    ) -> Result<Self, RingFault> {
        let ring = PackedRing::resume(memory, layout, features, Flow::Out, journal)?;
        Ok(Self(Either::Packed(Tx::over(ring))))
    }

    /// Copies the next frame, without its virtio-net header, into `into`. `None` if the guest has
    /// made no more available. The buffer stays outstanding until [`TxQueue::complete`].
    ///
    /// After a fault nothing was taken; what was taken before can still be completed.
    #[inline]
    pub fn copy_next(&mut self, into: &mut [u8]) -> Result<Option<Taken>, RingFault> {
        of!(&mut self.0, tx => tx.copy_next(into))
    }

    /// How many of the next `most` frames can be taken now; what they are read from is asked for
    /// meanwhile.
    ///
    /// Costs little where it is called once for many frames.
    #[inline]
    pub fn foresee(&mut self, most: u16) -> Result<u16, RingFault> {
        of!(&mut self.0, tx => tx.foresee(most))
    }

    /// Whether there is no frame to be taken. The driver's index is read only if none was known of.
    #[inline]
    pub fn is_empty(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, tx => Ok(tx.ring.ready(1)? == 0))
    }

    /// Copies the next frames, each behind its virtio-net header, into `slots`, as long as that wants
    /// more and they are of the common kind: foreseen, in one buffer, or in one beside the header's;
    /// with a header of [`NetHeader::LEN`]; of at least `least` octets, the header's included, and
    /// no more than the slot has. Where it stops short, [`TxQueue::copy_next`] takes the next one.
    ///
    /// Afterwards [`TxQueue::whole`] says whether what was copied was there.
    #[inline]
    pub fn copy_stretch(&mut self, least: usize, slots: &mut impl Slots) {
        of!(&mut self.0, tx => tx.copy_stretch(least, slots));
    }

    /// Refuses if memory was taken away: what was copied from there is zeroes, and must not be used.
    #[inline]
    pub fn whole(&self) -> Result<(), RingFault> {
        of!(&self.0, tx => tx.ring.whole())
    }

    /// Takes the next buffer without looking at what is in it, or at where it lies. False if there
    /// is none.
    pub fn skip_next(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, tx => tx.ring.skip())
    }

    /// Gives all outstanding buffers back. True if the driver is to be notified.
    #[inline]
    pub fn complete(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, tx => tx.complete())
    }

    /// Asks for a notification when the guest makes the next frame available. True if one is there
    /// already: look again.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        of!(&mut self.0, tx => tx.ring.arm())
    }

    /// Asks for no notifications.
    pub fn disarm(&mut self) {
        of!(&mut self.0, tx => tx.ring.disarm());
    }

    /// Frames that can be taken now.
    pub fn available(&mut self) -> Result<u16, RingFault> {
        of!(&mut self.0, tx => tx.ring.available())
    }

    /// Descriptors that were read for the frames taken and not yet completed: what they cost,
    /// however few and short they are.
    pub fn effort(&self) -> u32 {
        of!(&self.0, tx => tx.effort)
    }

    /// Frames taken and not yet completed.
    pub fn outstanding(&self) -> u16 {
        of!(&self.0, tx => tx.ring.outstanding())
    }

    /// Where a successor goes on: the index of the first buffer not yet given back.
    pub fn next_index(&self) -> u16 {
        of!(&self.0, tx => tx.ring.next_index())
    }

    /// Where it stands, as GET_VRING_BASE tells it, once nothing is outstanding.
    pub fn base(&self) -> u32 {
        of!(&self.0, tx => tx.ring.base())
    }

    /// What was negotiated.
    pub fn features(&self) -> QueueFeatures {
        of!(&self.0, tx => tx.ring.features())
    }
}

/// An output queue over a ring.
struct Tx<R> {
    ring: R,
    header_len: usize,
    /// Descriptors read since the last [`TxQueue::complete`].
    effort: u32,
}

impl<R: Walk> Tx<R> {
    fn over(ring: R) -> Self {
        let header_len = ring.features().header_octets();
        Self { ring, header_len, effort: 0 }
    }

    #[inline]
    fn copy_next(&mut self, into: &mut [u8]) -> Result<Option<Taken>, RingFault> {
        self.take(into).map_err(|fault| self.ring.blame(fault))
    }

    #[inline]
    fn take(&mut self, into: &mut [u8]) -> Result<Option<Taken>, RingFault> {
        let place = self.ring.next();
        let Some(mut head) = self.ring.head(place)? else { return Ok(None) };
        let mut sink = Sink::new(self.header_len, into);
        let mut budget = Budget::of_a_frame();
        self.ring.follow(&mut head, false, &mut budget, |piece| {
            sink.take(piece);
            true
        })?;
        self.effort = self.effort.saturating_add(budget.spent());
        let taken = sink.finish()?;
        // What was lost meanwhile was copied as zeroes.
        self.ring.whole()?;
        let next = self.ring.give_back(place, head, 0);
        self.ring.advance(next);
        Ok(Some(taken))
    }

    #[inline]
    fn foresee(&mut self, most: u16) -> Result<u16, RingFault> {
        self.ring.foresee(most, 0, Use::Read)
    }

    #[inline]
    fn copy_stretch(&mut self, least: usize, slots: &mut impl Slots) {
        if self.header_len != NetHeader::LEN {
            return;
        }
        loop {
            let (mut next, mut taken, mut goes_on) = (self.ring.next(), 0u32, true);
            let found = self.ring.found();
            for (n, one) in found.iter().enumerate() {
                let Some((id, piece)) = one.buffer() else { break };
                let room = slots.room();
                if piece.len() < least || piece.len() > room.len() {
                    goes_on = false;
                    break;
                }
                if piece.len() > FORESEEN
                    && let Some(later) = found.get(n.wrapping_add(1))
                {
                    // The next frame is probably as long.
                    later.foresee_rest(piece.len(), Use::Read);
                }
                let octets = piece.copy_out(room);
                next = self.ring.give_back_one(next, id, 0);
                taken = taken.wrapping_add(1);
                if !slots.filled(octets) {
                    goes_on = false;
                    break;
                }
            }
            self.ring.advance(next);
            self.effort = self.effort.wrapping_add(taken);
            if !goes_on {
                return;
            }
            let Some(octets) = self.copy_pair(slots.room(), least) else { return };
            if !slots.filled(octets) {
                return;
            }
        }
    }

    #[inline(never)]
    fn copy_pair(&mut self, into: &mut [u8], least: usize) -> Option<usize> {
        let pair = self.ring.pair(NetHeader::LEN)?;
        // Neither is longer than a descriptor can say.
        let len = pair.first.len().wrapping_add(pair.second.len());
        if len < least || len > into.len() {
            return None;
        }
        let n = pair.first.copy_out(into);
        pair.second.copy_out(into.get_mut(n..).unwrap_or_default());
        self.ring.take(pair.head, 0);
        self.effort = self.effort.wrapping_add(2);
        Some(len)
    }

    #[inline]
    fn complete(&mut self) -> Result<bool, RingFault> {
        self.effort = 0;
        self.ring.publish()
    }
}

/// Takes the pieces of a chain: the first octets are the header, the rest is the frame.
struct Sink<'a> {
    header: [u8; NetHeader::LEN],
    header_len: usize,
    into: &'a mut [u8],
    /// Octets seen so far.
    seen: usize,
}

impl<'a> Sink<'a> {
    #[inline]
    fn new(header_len: usize, into: &'a mut [u8]) -> Self {
        Self { header: [0; NetHeader::LEN], header_len, into, seen: 0 }
    }

    #[inline]
    fn take(&mut self, mut piece: Piece<'_>) {
        if let Some(room) = self.header.get_mut(self.seen..self.header_len)
            && !room.is_empty()
        {
            let n = piece.copy_out(room);
            self.seen = self.seen.saturating_add(n);
            piece = piece.skip(n);
        }
        if let Some(room) = self.into.get_mut(self.seen.saturating_sub(self.header_len)..) {
            piece.copy_out(room);
        }
        self.seen = self.seen.saturating_add(piece.len());
    }

    #[inline]
    fn finish(self) -> Result<Taken, RingFault> {
        match self.seen.checked_sub(self.header_len) {
            Some(len) => Ok(Taken { header: NetHeader::from_bytes(self.header), len }),
            None => Err(RingFault::ChainTooShort { len: self.seen as u64, need: self.header_len }),
        }
    }
}

//! What the queues ask of a ring, whatever its layout: taking chains, following them, giving back.
//!
//! # Theory of operation
//! ```text
//!        published           next                     (buffers, in the order they came)
//!            |  outstanding   |    the driver's gift
//!  ----------+----------------+------------------------
//!   given back    taken
//!
//! found -> give_back_one ... advance        buffers of the common kind, found before
//! head -> follow -> give_back ... advance   any other: nothing is taken before `advance`
//! publish                                   what was taken goes back, in order
//! ```
//! Buffers go back in the order they came, whether IN_ORDER was negotiated or not, and each by a used
//! entry of its own. A buffer's *index* is how many came before it, modulo 65536.
//!
//! The queues are written once, over this trait, and compiled for each layout by itself: no ring
//! pays for the other one.

use std::ptr::NonNull;

use crate::fault::{IndirectDefect, LayoutDefect, LayoutPart, RingFault};
use crate::layout::QueueFeatures;
use crate::memory::{GuestAddress, GuestMemory};
use crate::piece::{LINE, Piece, Use, near};
use crate::reach::Reach;
use crate::split::Table;

/// Entries of the longest indirect table, however small or large the ring: drivers make tables longer
/// than a small ring, and none needs more for the largest frame.
const LONG_CHAIN: u32 = 1024;
/// Descriptors that are followed for one frame: more, each on a page of its own, would keep the
/// other ports waiting.
const FRAME_BUDGET: u32 = 2 * LONG_CHAIN;

/// Entries that are found ahead of their use.
pub(crate) const AHEAD: usize = 64;
/// Octets of a buffer that are asked for at most, however long its driver says it is.
const MOST_AHEAD: usize = 2048;
/// Octets of a buffer that [`Walk::foresee_buffers`] asks for.
pub(crate) const FORESEEN: usize = 2 * LINE;

/// Octets of a descriptor, as the length of an indirect table is counted.
const DESC_OCTETS: u32 = 16;

/// Descriptors that may still be read for the frame at hand. Bounds the work that chains of empty
/// buffers can make.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    left: u32,
    limit: u32,
}

impl Budget {
    /// What may be spent on one frame.
    #[inline]
    pub(crate) fn of_a_frame() -> Self {
        Self { left: FRAME_BUDGET, limit: FRAME_BUDGET }
    }

    /// Descriptors that were read.
    #[inline]
    pub(crate) fn spent(&self) -> u32 {
        self.limit.saturating_sub(self.left)
    }

    /// One more is read.
    #[inline]
    pub(crate) fn spend(&mut self) -> Result<(), RingFault> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(RingFault::ChainLoop { limit: self.limit }),
        }
        Ok(())
    }
}

/// What was found ahead of its use about a buffer. Made by a ring only, and only in its own list.
pub(crate) struct Found {
    start: NonNull<u8>,
    /// Zero: it is something else than a chain of one descriptor.
    len: u32,
    /// The driver's name for it: of a split ring its head.
    id: u16,
    /// Where it was found: in a packed ring the descriptors before it.
    slots: u16,
}

impl Found {
    /// Nothing is known of the buffer.
    pub(crate) const NOTHING: Self = Self { start: NonNull::dangling(), len: 0, id: 0, slots: 0 };

    /// A chain of one descriptor, whose memory is `piece`; its first lines are asked for.
    #[inline]
    pub(crate) fn new(piece: Piece<'_>, len: u32, id: u16, purpose: Use) -> Self {
        near(piece.start(), 0, purpose);
        near(piece.start(), LINE, purpose);
        Self { start: piece.start(), len, id, slots: 0 }
    }

    /// The same, found behind so many descriptors.
    #[inline]
    pub(crate) fn behind(self, slots: u16) -> Self {
        Self { slots, ..self }
    }

    /// Whether it was found there.
    #[inline]
    pub(crate) fn is_behind(&self, slots: u16) -> bool {
        self.slots == slots
    }

    /// The driver's name for it, and its only descriptor's memory. `None` says nothing about it:
    /// [`Walk::head`] and [`Walk::follow`] do.
    #[inline]
    pub(crate) fn buffer(&self) -> Option<(u16, Piece<'_>)> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: `len` octets at `start` were found in memory that the ring's `reach` keeps alive and
        // never changes, and a borrow of `self` is one of the ring; mappings hand out no references
        // but to atomics.
        Some((self.id, unsafe { Piece::new(self.start, self.len as usize) }))
    }

    /// Asks for its other lines, up to `len` octets and [`MOST_AHEAD`]: for a long frame, while the
    /// one before it is copied. How many.
    #[inline(never)]
    pub(crate) fn foresee_rest(&self, len: usize, purpose: Use) -> usize {
        let end = len.min(self.len as usize).min(MOST_AHEAD);
        let mut lines = 0usize;
        for offset in (FORESEEN..end).step_by(LINE) {
            near(self.start, offset, purpose);
            lines = lines.wrapping_add(1);
        }
        lines
    }
}

/// A chain of two descriptors, of which the first holds the header alone.
pub(crate) struct Pair<'m, H> {
    pub(crate) head: H,
    pub(crate) first: Piece<'m>,
    pub(crate) second: Piece<'m>,
}

/// A ring, as a queue sees it.
pub(crate) trait Walk {
    /// Where a buffer stands.
    type Place: Copy;
    /// A buffer that is there to be taken.
    type Head: Copy;

    /// What was negotiated.
    fn features(&self) -> QueueFeatures;

    /// The index of the first buffer not given back: where a successor goes on.
    fn next_index(&self) -> u16;

    /// The index of the buffer at a place.
    fn index(&self, at: Self::Place) -> u16;

    /// Where the ring stands, as GET_VRING_BASE tells it. Nothing must be outstanding.
    fn base(&self) -> u32;

    /// Buffers taken and not published.
    fn outstanding(&self) -> u16;

    /// Buffers that can be taken now.
    fn available(&self) -> Result<u16, RingFault>;

    /// The first buffer not taken.
    fn next(&self) -> Self::Place;

    /// What stands at a place; `None` if the driver has not come that far.
    fn head(&self, at: Self::Place) -> Result<Option<Self::Head>, RingFault>;

    /// Follows the chain that begins at `head` and shows each buffer that is not empty to `visit`,
    /// until that returns false.
    ///
    /// Zero or more plain descriptors, the last of which may lead to one table (virtio 1.2, section
    /// 2.7.5.3.2).
    fn follow<'r>(
        &'r self,
        head: &mut Self::Head,
        writable: bool,
        budget: &mut Budget,
        visit: impl FnMut(Piece<'r>) -> bool,
    ) -> Result<(), RingFault>;

    /// Notes that the chain at `at`, which was followed, goes back with `len` octets written. Gives
    /// the place behind it. The driver does not see it yet.
    fn give_back(&self, at: Self::Place, head: Self::Head, len: u32) -> Self::Place;

    /// All buffers before `next` are taken, and given back as one frame.
    fn advance(&mut self, next: Self::Place);

    /// Takes the buffer at `next` unseen: its chain is not followed further than to its end, and it
    /// goes back as one that holds nothing. False if there is none.
    fn skip(&mut self) -> Result<bool, RingFault>;

    /// How many of the next `most` buffers can be taken now.
    fn ready(&self, most: u16) -> Result<u16, RingFault>;

    /// Asks for the descriptors of the next `most` buffers, as far as they can be taken now and lie
    /// elsewhere than what says that they can.
    fn foresee_chains(&self, most: u16) -> Result<(), RingFault>;

    /// [`Walk::ready`], after [`Walk::foresee_chains`] and [`Walk::foresee_buffers`]: perhaps fewer than
    /// there are, but not none.
    fn foresee(&mut self, most: u16, flags: u16, purpose: Use) -> Result<u16, RingFault>;

    /// Finds the next `n` buffers, [`AHEAD`] at most, as far as each is one descriptor with these
    /// flags, and asks for their first lines.
    fn foresee_buffers(&mut self, n: u16, flags: u16, purpose: Use);

    /// What lines are asked for: only where the processor knows how, to be written.
    fn purpose(&self, purpose: Use) -> Use;

    /// The buffers from `next` on, as far as [`Walk::foresee_buffers`] has found them.
    fn found(&self) -> &[Found];

    /// As [`Walk::give_back`], for a buffer that was found: a chain of one descriptor, and a frame.
    fn give_back_one(&self, at: Self::Place, id: u16, len: u32) -> Self::Place;

    /// The chain at `next` if it is there, and readable: a first buffer of `apart` octets, and one
    /// more. `None` says nothing about it, as in [`Found::buffer`].
    fn pair(&self, apart: usize) -> Option<Pair<'_, Self::Head>>;

    /// Gives the buffer at `next` back, and takes it.
    fn take(&mut self, head: Self::Head, len: u32);

    /// Publishes what was given back. True if the driver is to be notified.
    fn publish(&mut self) -> Result<bool, RingFault>;

    /// Asks to be notified of the next buffer. True if it is there already.
    fn arm(&self) -> Result<bool, RingFault>;

    /// Asks for no notifications.
    fn disarm(&self);

    /// Refuses if memory was taken away. Costs one load as long as no mapping of the whole process
    /// was ever torn.
    fn whole(&self) -> Result<(), RingFault>;

    /// The fault to report for `fault`: torn memory reads as zeroes, so it explains all others.
    fn blame(&self, fault: RingFault) -> RingFault;
}

/// A queue over a ring of either layout. Which it is, is decided once and never changes: where many
/// frames are taken, the branch is foreseen.
pub(crate) enum Either<S, P> {
    Split(S),
    Packed(P),
}

/// What is to be done with a queue, whatever its layout.
macro_rules! of {
    ($either:expr, $queue:ident => $what:expr) => {
        match $either {
            $crate::walk::Either::Split($queue) => $what,
            $crate::walk::Either::Packed($queue) => $what,
        }
    };
}
pub(crate) use of;

/// Checks an indirect table, in a descriptor for `len` octets at `address`. The descriptor's own
/// direction means nothing.
pub(crate) fn indirect(
    reach: &Reach,
    features: QueueFeatures,
    (address, len): (u64, u32),
    chained: bool,
    nested: bool,
) -> Result<Table<'_>, RingFault> {
    let refuse = |defect| RingFault::IndirectTable { address, len, defect };
    if !features.indirect {
        return Err(refuse(IndirectDefect::NotNegotiated));
    }
    if nested {
        return Err(refuse(IndirectDefect::Nested));
    }
    if chained {
        return Err(refuse(IndirectDefect::Chained));
    }
    let entries = len / DESC_OCTETS;
    if entries == 0 || !len.is_multiple_of(DESC_OCTETS) || entries > LONG_CHAIN {
        return Err(refuse(IndirectDefect::BadLength));
    }
    let piece = reach.find(address, len).ok_or(refuse(IndirectDefect::Outside))?;
    Ok(Table(piece))
}

/// Finds one part of a ring and checks its alignment, in the guest's view and in ours.
pub(crate) fn locate(
    memory: &GuestMemory,
    part: LayoutPart,
    at: GuestAddress,
    len: usize,
    align: usize,
) -> Result<Piece<'_>, RingFault> {
    let refuse = |defect| RingFault::Layout { part, value: at.0, defect };
    let (mapping, offset) = memory.find(at, len as u64).ok_or(refuse(LayoutDefect::Outside))?;
    let piece = mapping.piece(offset, len).ok_or(refuse(LayoutDefect::Outside))?;
    let start = piece.start().addr().get();
    if !at.0.is_multiple_of(align as u64) || !start.is_multiple_of(align) {
        return Err(refuse(LayoutDefect::Misaligned));
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_a_buffer_is_said_to_be_few_lines_are_asked_for() {
        let lines = |said: u32, len: usize| {
            let found = Found { start: NonNull::dangling(), len: said, id: 0, slots: 0 };
            found.foresee_rest(len, Use::Read)
        };
        assert_eq!(lines(u32::MAX, usize::MAX), (MOST_AHEAD - FORESEEN) / LINE);
        assert_eq!(lines(1514, 2000), 22);
        assert_eq!(lines(2000, 200), 2);
        assert_eq!(lines(128, 2000), 0);
        assert_eq!(lines(0, 2000), 0);
    }
}

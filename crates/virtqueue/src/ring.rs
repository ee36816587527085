//! What both directions have in common: taking heads, following chains, publishing, notifying.
//!
//! # Theory of operation
//! ```text
//!        published           next                    seen          (indices, modulo 65536)
//!            |  outstanding   |    known, not taken    |
//!  ----------+----------------+------------------------+---------->
//!   given back    taken            the driver's gift       not yet ours
//! ```
//! `seen` is the available index as it was last read, `next` the first entry not taken yet, and
//! `published` the used index in the guest's memory. Always `published <= next <= seen <=
//! published + size`, modulo 65536: a driver that breaks the last part is stopped.
//!
//! Buffers go back in the order they came, whether IN_ORDER was negotiated or not, and each gets its
//! used entry. So the used index alone says how far the device has come, and a queue can be resumed
//! from the guest's memory: entries taken but not published are simply taken again.
//!
//! # Notifications
//! Both sides write, then read what the other side writes: the device its used index and then the
//! driver's wish, the driver its available index and then the device's wish. Between the two stands
//! a full fence, else both could miss the other. [`Ring::arm`] therefore looks again after it wrote.
//! The first publication after a start notifies always: what the driver was told before is unknown.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::fault::{IndirectDefect, LayoutDefect, LayoutPart, RingFault};
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::{GuestAddress, GuestMemory};
use crate::piece::{LINE, Piece, Use, fetches_for_writing, near};
use crate::reach::Reach;
use crate::sigbus;
use crate::split::{
    AVAIL_NO_INTERRUPT, Avail, DESC_LEN, F_INDIRECT, F_NEXT, F_WRITE, Heads, Table, USED_NO_NOTIFY,
    Used, avail_len, used_len,
};

/// Entries of the longest indirect table, however small or large the ring: drivers make tables longer
/// than a small ring, and none needs more for the largest frame.
const LONG_CHAIN: u32 = 1024;
/// Descriptors that are followed for one frame: more, each on a page of its own, would keep the
/// other ports waiting.
const FRAME_BUDGET: u32 = 2 * LONG_CHAIN;

/// Octets of a buffer that [`Ring::foresee_buffers`] asks for.
pub(crate) const FORESEEN: usize = 2 * LINE;
/// Octets of a buffer that are asked for at most, however long its driver says it is.
const MOST_AHEAD: usize = 2048;
/// Entries that are found ahead of their use.
const AHEAD: usize = 64;
/// Used entries that share a cache line.
const USED_ENTRIES_OF_A_LINE: usize = 8;

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
    /// Descriptors that were read.
    #[inline]
    pub(crate) fn spent(&self) -> u32 {
        self.limit.saturating_sub(self.left)
    }

    #[inline]
    fn spend(&mut self) -> Result<(), RingFault> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(RingFault::ChainLoop { limit: self.limit }),
        }
        Ok(())
    }
}

/// What was found ahead of its use about an entry. Made by a ring only, and only in its own list.
pub(crate) struct Found {
    start: NonNull<u8>,
    /// Zero: the entry is something else than a chain of one descriptor.
    len: u32,
    head: u16,
}

impl Found {
    const NOTHING: Self = Self { start: NonNull::dangling(), len: 0, head: 0 };

    /// The entry's head and its only buffer. `None` says nothing about it: [`Ring::head`] and
    /// [`Ring::follow`] do.
    #[inline]
    pub(crate) fn buffer(&self) -> Option<(u16, Piece<'_>)> {
        if self.len == 0 {
            return None;
        }
        // SAFETY: `len` octets at `start` were found in memory that the ring's `reach` keeps alive and
        // never changes, and a borrow of `self` is one of the ring; mappings hand out no references
        // but to atomics.
        Some((self.head, unsafe { Piece::new(self.start, self.len as usize) }))
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
pub(crate) struct Pair<'m> {
    pub(crate) head: u16,
    pub(crate) first: Piece<'m>,
    pub(crate) second: Piece<'m>,
}

/// The device's side of a split virtqueue.
pub(crate) struct Ring {
    // The pointers in `desc`, `heads`, `avail`, `used` and `ahead` lead into mappings that `reach` keeps alive.
    desc: Table<'static>,
    heads: Heads,
    avail: Avail,
    used: Used,
    reach: Reach,
    /// Lines can be asked for to be written.
    for_writing: bool,
    /// The buffers of the `ahead_len` entries from `ahead_from` on. Whoever uses them foresees anew
    /// first; they are forgotten when a batch is published.
    ahead: [Found; AHEAD],
    ahead_from: u16,
    ahead_len: u16,
    features: QueueFeatures,
    size: u16,
    published: u16,
    next: u16,
    seen: Cell<u16>,
    /// Nothing was published since the start.
    fresh: bool,
    /// Value of [`sigbus::tears`] at the last look at the regions.
    tears: Cell<u32>,
}

// SAFETY: `desc` and `ahead` lead into mappings without thread affinity, reached by atomics and raw copies
// only; the other members are `Send` by themselves.
unsafe impl Send for Ring {}

impl Ring {
    /// Finds and checks the ring, and goes on at the used index found there.
    pub(crate) fn resume(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
    ) -> Result<Self, RingFault> {
        let size = layout.size;
        if !size.is_power_of_two() {
            let (part, value) = (LayoutPart::Size, u64::from(size));
            return Err(RingFault::Layout { part, value, defect: LayoutDefect::NotASize });
        }
        let mask = size.wrapping_sub(1);
        let event_idx = features.event_idx;
        let desc_len = usize::from(size).saturating_mul(DESC_LEN);
        let desc = locate(&memory, LayoutPart::Desc, layout.desc, desc_len, 16)?;
        let len = avail_len(size, event_idx);
        let avail = locate(&memory, LayoutPart::Avail, layout.avail, len, 2)?;
        let len = used_len(size, event_idx);
        let used = locate(&memory, LayoutPart::Used, layout.used, len, 4)?;
        // SAFETY: `desc` is valid as long as `memory`, which the ring keeps and never changes; the
        // table does not leave the ring.
        let desc = Table(unsafe { Piece::new(desc.start(), desc.len()) });
        // SAFETY: as above; `locate` checked length and alignment, `size` is a power of two.
        let heads = unsafe { Heads::new(desc.0, mask) };
        // SAFETY: as for `desc`; `locate` checked length and alignment, `size` is a power of two.
        let avail = unsafe { Avail::new(avail, mask, event_idx) };
        // SAFETY: as for `avail`.
        let used = unsafe { Used::new(used, mask, event_idx) };

        let published = used.index();
        let found = avail.index();
        let reach = Reach::new(memory);
        let ring = Self {
            desc,
            heads,
            avail,
            used,
            reach,
            for_writing: fetches_for_writing(),
            ahead: [Found::NOTHING; AHEAD],
            ahead_from: published,
            ahead_len: 0,
            features,
            size,
            published,
            next: published,
            seen: Cell::new(published),
            fresh: true,
            tears: Cell::new(0),
        };
        ring.whole()?;
        if found.wrapping_sub(published) > size {
            return Err(RingFault::UsedIndex { used: published, avail: found, size });
        }
        ring.disarm();
        Ok(ring)
    }

    pub(crate) fn features(&self) -> QueueFeatures {
        self.features
    }

    /// The used index published last: where a successor goes on.
    pub(crate) fn next_index(&self) -> u16 {
        self.published
    }

    /// The first entry not taken yet.
    #[inline]
    pub(crate) fn next(&self) -> u16 {
        self.next
    }

    /// Entries taken and not published.
    pub(crate) fn outstanding(&self) -> u16 {
        self.next.wrapping_sub(self.published)
    }

    /// Entries that can be taken now.
    pub(crate) fn available(&self) -> Result<u16, RingFault> {
        self.refresh().map_err(|fault| self.blame(fault))?;
        Ok(self.seen.get().wrapping_sub(self.next))
    }

    /// The head at `position`, at or after `next`; `None` if the driver has not come that far.
    #[inline]
    pub(crate) fn head(&self, position: u16) -> Result<Option<u16>, RingFault> {
        if position == self.seen.get() {
            self.refresh()?;
            if position == self.seen.get() {
                return Ok(None);
            }
        }
        let head = self.avail.entry(position);
        if head >= self.size {
            return Err(RingFault::HeadIndex { head, size: self.size });
        }
        Ok(Some(head))
    }

    #[inline]
    fn refresh(&self) -> Result<(), RingFault> {
        let found = self.avail.index();
        self.whole()?;
        let ahead = found.wrapping_sub(self.published);
        if ahead > self.size || ahead < self.seen.get().wrapping_sub(self.published) {
            let (seen, used, size) = (self.seen.get(), self.published, self.size);
            return Err(RingFault::AvailIndex { found, seen, used, size });
        }
        self.seen.set(found);
        Ok(())
    }

    /// How many of the next `most` entries can be taken now. The driver's index is read only if so
    /// many were not known of.
    #[inline]
    pub(crate) fn ready(&self, most: u16) -> Result<u16, RingFault> {
        if self.known() < most {
            self.refresh().map_err(|fault| self.blame(fault))?;
        }
        Ok(self.known().min(most))
    }

    /// Entries known of and not taken.
    #[inline]
    pub(crate) fn known(&self) -> u16 {
        self.seen.get().wrapping_sub(self.next)
    }

    /// Asks for the descriptors of the next `n` entries, and for the used entries.
    #[inline]
    pub(crate) fn foresee_chains(&self, n: u16) {
        let (heads, avail, next) = (self.heads, self.avail, self.next);
        for i in 0..n {
            heads.foresee(avail.entry(next.wrapping_add(i)));
        }
        if self.for_writing {
            for i in (0..n).step_by(USED_ENTRIES_OF_A_LINE) {
                self.used.foresee(self.next.wrapping_add(i));
            }
        }
    }

    /// Finds the buffers of the next `n` entries that were seen, [`AHEAD`] at most, as far as each is
    /// one descriptor with these flags, and asks for their first lines.
    #[inline]
    pub(crate) fn foresee_buffers(&mut self, n: u16, flags: u16, purpose: Use) {
        let purpose = self.purpose(purpose);
        let n = n.min(AHEAD as u16).min(self.known());
        (self.ahead_from, self.ahead_len) = (self.next, n);
        let (heads, avail, next, size) = (self.heads, self.avail, self.next, self.size);
        let mut finder = self.reach.finder();
        for (i, place) in (0..n).zip(self.ahead.iter_mut()) {
            let head = avail.entry(next.wrapping_add(i));
            let d = heads.get(head);
            if d.flags == flags
                && head < size
                && let Some(piece) = finder.find(d.address, d.len)
            {
                *place = Found { start: piece.start(), len: d.len, head };
                near(piece.start(), 0, purpose);
                near(piece.start(), LINE, purpose);
                continue;
            }
            *place = Found::NOTHING;
            if d.flags & F_NEXT != 0 {
                // Perhaps a header, and the frame in the next one: a hint, whatever it says.
                finder.foresee(heads.get(d.next).address, purpose);
            }
        }
    }

    /// The entries from `next` on, as far as [`Ring::foresee_buffers`] has found them.
    #[inline]
    pub(crate) fn found(&self) -> &[Found] {
        let place = self.next.wrapping_sub(self.ahead_from);
        self.ahead.get(place.into()..self.ahead_len.into()).unwrap_or_default()
    }

    /// What lines are asked for: to be written only where the processor knows how.
    #[inline]
    pub(crate) fn purpose(&self, purpose: Use) -> Use {
        if self.for_writing { purpose } else { Use::Read }
    }

    /// The entry at `next` if it was seen, and its chain is readable: a first buffer of `apart`
    /// octets, and one more. `None` says nothing about it, as in [`Found::buffer`].
    pub(crate) fn pair(&self, apart: usize) -> Option<Pair<'_>> {
        if self.known() == 0 {
            return None;
        }
        let head = self.avail.entry(self.next);
        if head >= self.size {
            return None;
        }
        let first = self.heads.get(head);
        if first.flags != F_NEXT || first.len as usize != apart || first.next >= self.size {
            return None;
        }
        let second = self.heads.get(first.next);
        if second.flags != 0 {
            return None;
        }
        let first = self.reach.find(first.address, first.len)?;
        let second = self.reach.find(second.address, second.len)?;
        Some(Pair { head, first, second })
    }

    /// Gives the entry at `next` back, and takes it.
    #[inline]
    pub(crate) fn take(&mut self, head: u16, len: u32) {
        self.give_back(self.next, head, len);
        self.next = self.next.wrapping_add(1);
    }

    /// What may be spent on one frame.
    #[inline]
    pub(crate) fn budget(&self) -> Budget {
        Budget { left: FRAME_BUDGET, limit: FRAME_BUDGET }
    }

    /// Follows the chain that begins at `head` (below the ring's size, as [`Ring::head`] gives it)
    /// and shows each buffer that is not empty to `visit`, until that returns false.
    ///
    /// Zero or more plain descriptors, the last of which may lead to one table (virtio 1.2, section
    /// 2.7.5.3.2).
    #[inline]
    pub(crate) fn follow<'r>(
        &'r self,
        head: u16,
        writable: bool,
        budget: &mut Budget,
        mut visit: impl FnMut(Piece<'r>) -> bool,
    ) -> Result<(), RingFault> {
        let mut table: Table<'r> = self.desc;
        let mut index = u32::from(head);
        let mut left = u32::from(self.size);
        let mut nested = false;
        loop {
            let limit = table.entries();
            let Some(d) = table.get(index) else {
                let next = u16::try_from(index).unwrap_or(u16::MAX);
                return Err(RingFault::NextIndex { next, size: limit });
            };
            left = left.checked_sub(1).ok_or(RingFault::ChainLoop { limit })?;
            budget.spend()?;
            if d.flags & F_INDIRECT != 0 {
                table = self.indirect(d.address, d.len, d.flags & F_NEXT != 0, nested)?;
                nested = true;
                left = table.entries();
                index = 0;
                continue;
            }
            let found = d.flags & F_WRITE != 0;
            if found != writable {
                return Err(RingFault::Direction { index, writable: found });
            }
            if d.len != 0 {
                let (address, len) = (d.address, d.len);
                let outside = RingFault::DescriptorAddress { address, len };
                let piece = self.reach.find(address, len).ok_or(outside)?;
                if !visit(piece) {
                    return Ok(());
                }
            }
            if d.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = u32::from(d.next);
        }
    }

    /// Checks an indirect table. The descriptor's own direction means nothing.
    fn indirect(
        &self,
        address: u64,
        len: u32,
        chained: bool,
        nested: bool,
    ) -> Result<Table<'_>, RingFault> {
        let refuse = |defect| RingFault::IndirectTable { address, len, defect };
        if !self.features.indirect {
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
        let piece = self.reach.find(address, len).ok_or(refuse(IndirectDefect::Outside))?;
        Ok(Table(piece))
    }

    /// Writes the used entry for `head` at `position`. The driver does not see it yet.
    #[inline]
    pub(crate) fn give_back(&self, position: u16, head: u16, len: u32) {
        self.used.set_entry(position, head, len);
    }

    /// All entries before `next` are taken, and their used entries written.
    #[inline]
    pub(crate) fn advance(&mut self, next: u16) {
        self.next = next;
    }

    /// Takes the entry at `next` unseen: its chain is not followed, and it goes back as one that
    /// holds nothing. False if there is none.
    pub(crate) fn skip(&mut self) -> Result<bool, RingFault> {
        let position = self.next;
        let head = self.head(position).map_err(|fault| self.blame(fault))?;
        let Some(head) = head else { return Ok(false) };
        self.give_back(position, head, 0);
        self.advance(position.wrapping_add(1));
        Ok(true)
    }

    /// Publishes what was given back. True if the driver is to be notified.
    pub(crate) fn publish(&mut self) -> Result<bool, RingFault> {
        self.ahead_len = 0;
        self.whole()?;
        let before = self.published;
        let now = self.next;
        if now == before {
            return Ok(false);
        }
        self.used.set_index(now);
        self.published = now;
        fence(Ordering::SeqCst);
        let wanted = match self.avail.used_event() {
            Some(event) => now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before),
            None => self.avail.flags() & AVAIL_NO_INTERRUPT == 0,
        };
        Ok(std::mem::take(&mut self.fresh) || wanted)
    }

    /// Asks to be notified of the next entry. True if it is there already.
    pub(crate) fn arm(&self) -> Result<bool, RingFault> {
        self.whole()?;
        if !self.used.set_avail_event(self.next) {
            self.used.set_flags(0);
        }
        fence(Ordering::SeqCst);
        Ok(self.available()? > 0)
    }

    /// Asks for no notifications. With event index nothing needs to be said: the driver notifies
    /// once when it passes the index named last, and then not for 65536 entries.
    pub(crate) fn disarm(&self) {
        let flags = if self.features.event_idx { 0 } else { USED_NO_NOTIFY };
        self.used.set_flags(flags);
    }

    /// Refuses if memory was taken away. Costs one load as long as no mapping of the whole process
    /// was ever torn.
    #[inline]
    pub(crate) fn whole(&self) -> Result<(), RingFault> {
        let tears = sigbus::tears();
        if tears == self.tears.get() {
            return Ok(());
        }
        if let Some(fault) = self.torn() {
            return Err(fault);
        }
        self.tears.set(tears);
        Ok(())
    }

    #[cold]
    fn torn(&self) -> Option<RingFault> {
        let region = self.reach.memory().torn()?;
        Some(RingFault::MemoryTorn { guest: region.guest.0 })
    }

    /// The fault to report for `fault`: torn memory reads as zeroes, so it explains all others.
    #[cold]
    pub(crate) fn blame(&self, fault: RingFault) -> RingFault {
        self.torn().unwrap_or(fault)
    }
}

/// Finds one part of the ring and checks its alignment, in the guest's view and in ours.
fn locate(
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
            let found = Found { start: NonNull::dangling(), len: said, head: 0 };
            found.foresee_rest(len, Use::Read)
        };
        assert_eq!(lines(u32::MAX, usize::MAX), (MOST_AHEAD - FORESEEN) / LINE);
        assert_eq!(lines(1514, 2000), 22);
        assert_eq!(lines(2000, 200), 2);
        assert_eq!(lines(128, 2000), 0);
        assert_eq!(lines(0, 2000), 0);
    }
}

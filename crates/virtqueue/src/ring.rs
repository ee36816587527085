//! The device's side of a split virtqueue (virtio 1.2, section 2.7): heads, chains, publishing, notifying.
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
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::fault::{LayoutDefect, LayoutPart, RingFault};
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestMemory;
use crate::piece::{Piece, Use, fetches_for_writing};
use crate::reach::Reach;
use crate::split::{
    AVAIL_NO_INTERRUPT, Avail, DESC_LEN, F_INDIRECT, F_NEXT, F_WRITE, Heads, Table, USED_NO_NOTIFY,
    Used, avail_len, used_len,
};
use crate::walk::{AHEAD, Budget, Found, Pair, Walk, indirect, locate};

/// Used entries that share a cache line.
const USED_ENTRIES_OF_A_LINE: usize = 8;

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
    /// The buffers of the `ahead_len` entries from `ahead_from` on. Forgotten when a batch is
    /// published, and so never older than the indices last.
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
        };
        ring.reach.whole()?;
        if found.wrapping_sub(published) > size {
            return Err(RingFault::UsedIndex { used: published, avail: found, size });
        }
        ring.disarm();
        Ok(ring)
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

    /// Asks for what the next `n` entries lead to, and where they go back.
    #[inline]
    fn foresee_entries(&self, n: u16) {
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

    /// Entries known of and not taken.
    #[inline]
    fn known(&self) -> u16 {
        self.seen.get().wrapping_sub(self.next)
    }
}

impl Walk for Ring {
    type Place = u16;
    type Head = u16;

    fn features(&self) -> QueueFeatures {
        self.features
    }

    fn next_index(&self) -> u16 {
        self.published
    }

    #[inline]
    fn index(&self, at: u16) -> u16 {
        at
    }

    fn base(&self) -> u32 {
        self.published.into()
    }

    #[inline]
    fn next(&self) -> u16 {
        self.next
    }

    fn outstanding(&self) -> u16 {
        self.next.wrapping_sub(self.published)
    }

    fn available(&self) -> Result<u16, RingFault> {
        self.refresh().map_err(|fault| self.blame(fault))?;
        Ok(self.seen.get().wrapping_sub(self.next))
    }

    #[inline]
    fn head(&self, position: u16) -> Result<Option<u16>, RingFault> {
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
    fn ready(&self, most: u16) -> Result<u16, RingFault> {
        // The driver's index is read only if so many were not known of.
        if self.known() < most {
            self.refresh().map_err(|fault| self.blame(fault))?;
        }
        Ok(self.known().min(most))
    }

    #[inline]
    fn foresee(&mut self, most: u16, flags: u16, purpose: Use) -> Result<u16, RingFault> {
        let n = self.ready(most)?;
        self.foresee_entries(n);
        self.foresee_buffers(n, flags, purpose);
        Ok(n)
    }

    #[inline]
    fn foresee_chains(&self, most: u16) -> Result<(), RingFault> {
        self.foresee_entries(self.ready(most)?);
        Ok(())
    }

    #[inline]
    fn foresee_buffers(&mut self, n: u16, flags: u16, purpose: Use) {
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
                *place = Found::new(piece, d.len, head, purpose);
                continue;
            }
            *place = Found::NOTHING;
            if d.flags & F_NEXT != 0 {
                // Perhaps a header, and the frame in the next one: a hint, whatever it says.
                finder.foresee(heads.get(d.next).address, purpose);
            }
        }
    }

    #[inline]
    fn purpose(&self, purpose: Use) -> Use {
        if self.for_writing { purpose } else { Use::Read }
    }

    #[inline]
    fn found(&self) -> &[Found] {
        let place = self.next.wrapping_sub(self.ahead_from);
        self.ahead.get(place.into()..self.ahead_len.into()).unwrap_or_default()
    }

    #[inline]
    fn give_back_one(&self, at: u16, id: u16, len: u32) -> u16 {
        self.give_back(at, id, len)
    }

    fn pair(&self, apart: usize) -> Option<Pair<'_, u16>> {
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

    #[inline]
    fn take(&mut self, head: u16, len: u32) {
        self.next = self.give_back(self.next, head, len);
    }

    #[inline]
    fn follow<'r>(
        &'r self,
        head: &mut u16,
        writable: bool,
        budget: &mut Budget,
        mut visit: impl FnMut(Piece<'r>) -> bool,
    ) -> Result<(), RingFault> {
        let mut table: Table<'r> = self.desc;
        let mut index = u32::from(*head);
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
                let chained = d.flags & F_NEXT != 0;
                table = indirect(&self.reach, self.features, (d.address, d.len), chained, nested)?;
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

    #[inline]
    fn give_back(&self, position: u16, head: u16, len: u32) -> u16 {
        self.used.set_entry(position, head, len);
        position.wrapping_add(1)
    }

    #[inline]
    fn advance(&mut self, next: u16) {
        self.next = next;
    }

    fn skip(&mut self) -> Result<bool, RingFault> {
        let position = self.next;
        let head = self.head(position).map_err(|fault| self.blame(fault))?;
        let Some(head) = head else { return Ok(false) };
        let next = self.give_back(position, head, 0);
        self.advance(next);
        Ok(true)
    }

    fn publish(&mut self) -> Result<bool, RingFault> {
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

    fn arm(&self) -> Result<bool, RingFault> {
        self.whole()?;
        if !self.used.set_avail_event(self.next) {
            self.used.set_flags(0);
        }
        fence(Ordering::SeqCst);
        Ok(self.available()? > 0)
    }

    fn disarm(&self) {
        // With event index nothing needs to be said: the driver notifies once when it passes the index
        // named last, and then not for 65536 entries.
        let flags = if self.features.event_idx { 0 } else { USED_NO_NOTIFY };
        self.used.set_flags(flags);
    }

    #[inline]
    fn whole(&self) -> Result<(), RingFault> {
        self.reach.whole()
    }

    #[cold]
    fn blame(&self, fault: RingFault) -> RingFault {
        self.reach.blame(fault)
    }
}

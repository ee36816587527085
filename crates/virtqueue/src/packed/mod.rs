//! The device's side of a packed virtqueue (virtio 1.2, section 2.8).
//!
//! # Theory of operation
//! There is one ring of descriptors, which both sides write: the driver makes a buffer available in
//! as many descriptors as it needs, one behind the other, and the device writes one used descriptor
//! where the buffer's first one stood. Two bits of each descriptor and the *wrap counter*
//! ([`position`]) say whose it is:
//!
//! ```text
//!                     published        next
//!                         |  outstanding |   available ...
//!   ----------------------+--------------+---------------------
//!    the driver's, or used  taken           AVAIL = wrap, USED = !wrap
//!    USED = wrap
//! ```
//! A buffer that was given back keeps USED = wrap at its first place when the driver makes that
//! available again in the next lap (there AVAIL is the other). So *USED at the first place of a buffer
//! says whether the buffer was given back in this lap*, whatever the driver has done since.
//!
//! The second half of a descriptor (length, id, flags) is written by one store. What is taken is
//! noted aside (`shadow`) and written by [`Walk::publish`] alone.
//!
//! # Where a successor goes on
//! No index in memory says how far the device has come, and a used descriptor writes over what the
//! driver had said there. So each publication is first written down as an [`Intent`] in a memory
//! that outlives the base ([`Journal`]): from which place, to which, how many buffers. How the used
//! descriptors are written then, depends on what is published together:
//!
//! ```text
//!   intent      from                          to
//!   ring         | b0 | b1 ......| b2 | b3 ...| next
//!   a batch of an output queue, a frame in several descriptors: from the last to the first
//!   written                        <-- 2  <-- 1        the driver waits for b0, and sees nothing
//!                  4 <-- 3                             now it sees all four
//!   received frames of one descriptor each: from the first to the last
//!                  1 -->                               now it sees b0
//! ```
//! The driver goes by the first place. Of what belongs together it sees nothing before the last store,
//! and all of it after that; received frames it sees one by one. A successor reads the intent, and then
//! the ring:
//!
//! | the first place | a buffer behind it | what happened | what the successor does |
//! | --- | --- | --- | --- |
//! | is used | | all was published | goes on at `to` |
//! | is used | is not, and all have one descriptor | died among received frames | goes on there, and notes it |
//! | is available | one is used | died in the middle | publishes the rest, as it was to be; then `to` |
//! | is available | none is used | died before, or at once | goes on at `from`: the buffers are taken again |
//!
//! Where every buffer has one descriptor, each place by itself says whether it was used. Written from the
//! last to the first they would all be, if the first is; so the second line holds whichever way they
//! were written. Received frames are not written so because nobody would know, of those that are missing,
//! how long each is.
//!
//! In the third case the buffers before the used one are untouched, so their chains can be followed
//! once more, and what each was to say is known: nothing was written into an output buffer; of an
//! input queue only buffers of one frame are published so, all but the last of which are full,
//! and the last was written first. It is the only way out of that case: what the used descriptors
//! have replaced cannot be restored. And it is right, because every datagram of the batch has met
//! its fate before anything of it is published.
//!
//! A successor that dies meanwhile leaves the same intent and more of the same ring, or its own note.
//!
//! # Invariants
//! - Slots (descriptors) of outstanding buffers together are never more than the ring has.
//! - A buffer is used at most once a lap, and never touched after.
//! - Chains end: at a descriptor without NEXT, at one that is not available, or when all slots are
//!   counted. An indirect table ends where its length says.

mod ahead;
mod area;
#[cfg(test)]
mod dying;
mod journal;
pub(crate) mod position;
mod publish;
mod recover;
mod shadow;
mod traces;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::fault::{LayoutDefect, LayoutPart, RingFault};
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestMemory;
use crate::piece::{Piece, Use, fetches_for_writing};
use crate::reach::Reach;
use crate::split::{DESC_LEN, F_INDIRECT, F_NEXT, F_WRITE};
use crate::walk::{AHEAD, Budget, Found, Pair, Walk, indirect, locate};

pub(crate) use area::{Descs, EVENT_LEN, EVENTS_AT, EVENTS_OFF, EVENTS_ON, Event, Rest, Wish};
#[cfg(any(test, feature = "driver"))]
pub(crate) use area::{F_AVAIL, F_USED};
#[cfg(test)]
pub(crate) use dying::dying;
pub(crate) use journal::NoSuccessor;
pub use journal::{Intent, Journal};
pub(crate) use position::Position;
pub(crate) use publish::{Write, publication};
pub(crate) use shadow::Shadow;
pub use traces::Traces;

/// Descriptors of the largest ring.
pub(crate) const MAX_SIZE: u16 = 0x8000;

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// From the driver: nothing is ever written into a buffer.
    Out,
    /// To the driver.
    In,
}

/// Where a buffer stands, counted from what is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Descriptors before it.
    slots: u16,
    /// Buffers before it.
    buffers: u16,
}

impl Place {
    /// The first one that is not published.
    const FIRST: Self = Self { slots: 0, buffers: 0 };
}

/// A buffer that is available.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    place: Place,
    /// Descriptors of its chain, once it was followed.
    slots: u16,
    /// The driver's name for it, which stands in its last descriptor.
    id: u16,
}

/// A size that a packed ring can have.
fn checked_size(size: u16) -> Result<u16, RingFault> {
    let (part, value) = (LayoutPart::Size, u64::from(size));
    let refused = RingFault::Layout { part, value, defect: LayoutDefect::NotAPackedSize };
    Some(size).filter(|size| (1..=MAX_SIZE).contains(size)).ok_or(refused)
}

/// The device's side of a packed virtqueue.
pub(crate) struct PackedRing {
    // The pointers in `descs`, `driver`, `device` and `ahead` lead into mappings that `reach` keeps
    // alive.
    descs: Descs,
    /// What the driver wants to be notified of.
    driver: Event,
    /// What the device wants to be notified of.
    device: Event,
    reach: Reach,
    features: QueueFeatures,
    size: u16,
    flow: Flow,
    /// Lines can be asked for to be written.
    for_writing: bool,
    /// The buffers from number `ahead_from` of those taken on. Forgotten when a batch is published.
    ahead: [Found; AHEAD],
    ahead_from: u16,
    ahead_len: u16,
    /// All that was looked for was found last: there is probably more.
    plenty: bool,
    /// The first place not given back.
    published: Position,
    /// The index of the buffer there.
    first: u16,
    next: Place,
    /// What goes back when the batch is published.
    shadow: Shadow,
    journal: Box<dyn Journal>,
    /// Nothing was published since the start.
    fresh: bool,
}

// SAFETY: `ahead` leads into mappings without thread affinity, reached by atomics and raw copies only;
// the other members are `Send` by themselves.
unsafe impl Send for PackedRing {}

impl PackedRing {
    /// Finds and checks the ring, and goes on where the journal and the ring say.
    pub(crate) fn resume(
        memory: Arc<GuestMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
        flow: Flow,
        journal: Box<dyn Journal>,
    ) -> Result<Self, RingFault> {
        let size = checked_size(layout.size)?;
        let len = usize::from(size).saturating_mul(DESC_LEN);
        let descs = locate(&memory, LayoutPart::Desc, layout.desc, len, DESC_LEN)?;
        let driver = locate(&memory, LayoutPart::Avail, layout.avail, EVENT_LEN, EVENT_LEN)?;
        let device = locate(&memory, LayoutPart::Used, layout.used, EVENT_LEN, EVENT_LEN)?;
        // SAFETY: valid as long as `memory`, which the ring keeps and never changes; `locate` checked
        // length and alignment, and the accessors do not leave the ring.
        let (descs, driver, device) =
            unsafe { (Descs::new(descs, size), Event::new(driver), Event::new(device)) };
        let published = Position::START;
        let mut ring = Self {
            descs,
            driver,
            device,
            reach: Reach::new(memory),
            features,
            size,
            flow,
            for_writing: fetches_for_writing(),
            ahead: [Found::NOTHING; AHEAD],
            ahead_from: 0,
            ahead_len: 0,
            plenty: false,
            published,
            first: 0,
            next: Place::FIRST,
            shadow: Shadow::new(size),
            journal,
            fresh: true,
        };
        ring.whole()?;
        ring.recover().map_err(|fault| ring.blame(fault))?;
        ring.whole()?;
        ring.disarm();
        Ok(ring)
    }

    /// Makes one store of a publication.
    #[inline]
    fn store(&self, write: Write) {
        #[cfg(test)]
        if dying::is_dead() {
            return;
        }
        match write {
            Write::Intent(intent) => self.journal.note(intent),
            Write::Used(at, rest) => {
                self.descs.publish(at, rest);
                #[cfg(feature = "fault-injection")]
                self.journal.stored(at.word());
            }
        }
    }

    /// What stands behind `place`, as far as it is available: its second half.
    #[inline]
    fn rest(&self, place: Place) -> Option<Rest> {
        if place.slots >= self.size {
            return None;
        }
        let at = self.at(place);
        let rest = self.descs.rest(at);
        rest.is_available(at.wrap()).then_some(rest)
    }

    /// Where in the ring a place is.
    #[inline]
    fn at(&self, place: Place) -> Position {
        self.published.plus(place.slots, self.size)
    }

    /// The place after so many more descriptors, in the same buffer.
    #[inline]
    fn within(&self, place: Place, slots: u16) -> Place {
        Place { slots: place.slots.saturating_add(slots), ..place }
    }

    /// The place of the next buffer.
    #[inline]
    fn behind(&self, head: Head) -> Place {
        let place = self.within(head.place, head.slots);
        Place { buffers: head.place.buffers.wrapping_add(1), ..place }
    }

    /// Walks the chain to its end, and shows each descriptor to `visit`; `head` knows its length and
    /// id afterwards.
    #[inline]
    fn walk(
        &self,
        head: &mut Head,
        mut visit: impl FnMut(Position, Rest) -> Result<(), RingFault>,
    ) -> Result<(), RingFault> {
        head.slots = 0;
        loop {
            let place = self.within(head.place, head.slots);
            if place.slots >= self.size {
                return Err(RingFault::ChainLoop { limit: self.size.into() });
            }
            let Some(rest) = self.rest(place) else {
                return Err(RingFault::ChainFlags { index: self.at(place).offset() });
            };
            head.slots = head.slots.saturating_add(1);
            visit(self.at(place), rest)?;
            if rest.flags & F_NEXT == 0 {
                head.id = rest.id;
                return Ok(());
            }
        }
    }

    /// Shows each buffer of an indirect table to `visit`, until that returns false.
    fn table<'r>(
        &'r self,
        at: Position,
        rest: Rest,
        writable: bool,
        budget: &mut Budget,
        visit: &mut impl FnMut(Piece<'r>) -> bool,
    ) -> Result<bool, RingFault> {
        let (place, chained) = ((self.descs.address(at), rest.len), rest.flags & F_NEXT != 0);
        let table = indirect(&self.reach, self.features, place, chained, false)?;
        for index in 0..table.entries() {
            budget.spend()?;
            let Some((address, rest)) = table.words(index) else { break };
            let Rest { len, flags, .. } = Rest::from_word(rest);
            if flags & F_INDIRECT != 0 {
                indirect(&self.reach, self.features, (address, len), false, true)?;
            }
            if !self.buffer((address, len), flags, index, writable, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks one buffer and shows it to `visit`, if it is not empty.
    #[inline]
    fn buffer<'r>(
        &'r self,
        (address, len): (u64, u32),
        flags: u16,
        index: u32,
        writable: bool,
        visit: &mut impl FnMut(Piece<'r>) -> bool,
    ) -> Result<bool, RingFault> {
        let found = flags & F_WRITE != 0;
        if found != writable {
            return Err(RingFault::Direction { index, writable: found });
        }
        if len == 0 {
            return Ok(true);
        }
        let outside = RingFault::DescriptorAddress { address, len };
        Ok(visit(self.reach.find(address, len).ok_or(outside)?))
    }
}

impl Walk for PackedRing {
    type Place = Place;
    type Head = Head;

    fn features(&self) -> QueueFeatures {
        self.features
    }

    fn next_index(&self) -> u16 {
        self.first
    }

    #[inline]
    fn index(&self, at: Place) -> u16 {
        self.first.wrapping_add(at.buffers)
    }

    fn base(&self) -> u32 {
        let word = u32::from(self.published.word());
        word | word << 16
    }

    fn outstanding(&self) -> u16 {
        self.next.buffers
    }

    fn available(&self) -> Result<u16, RingFault> {
        self.ready(u16::MAX)
    }

    #[inline]
    fn next(&self) -> Place {
        self.next
    }

    #[inline]
    fn head(&self, at: Place) -> Result<Option<Head>, RingFault> {
        if self.rest(at).is_none() {
            self.whole()?;
            return Ok(None);
        }
        Ok(Some(Head { place: at, slots: 0, id: 0 }))
    }

    #[inline]
    fn follow<'r>(
        &'r self,
        head: &mut Head,
        writable: bool,
        budget: &mut Budget,
        mut visit: impl FnMut(Piece<'r>) -> bool,
    ) -> Result<(), RingFault> {
        let mut wanted = true;
        self.walk(head, |at, rest| {
            budget.spend()?;
            if !wanted {
                // Only where the chain ends is still of interest.
            } else if rest.flags & F_INDIRECT != 0 {
                wanted = self.table(at, rest, writable, budget, &mut visit)?;
            } else {
                let (buffer, index) = ((self.descs.address(at), rest.len), at.offset().into());
                wanted = self.buffer(buffer, rest.flags, index, writable, &mut visit)?;
            }
            Ok(())
        })
    }

    #[inline]
    fn give_back(&self, at: Place, head: Head, len: u32) -> Place {
        self.shadow.part(at.buffers, head.id, len, head.slots);
        self.behind(head)
    }

    #[inline]
    fn advance(&mut self, next: Place) {
        self.shadow.end_frame(next.buffers);
        self.next = next;
    }

    fn skip(&mut self) -> Result<bool, RingFault> {
        let place = self.next;
        let head = self.head(place).map_err(|fault| self.blame(fault))?;
        let Some(mut head) = head else { return Ok(false) };
        self.walk(&mut head, |_, _| Ok(())).map_err(|fault| self.blame(fault))?;
        self.take(head, 0);
        Ok(true)
    }

    #[inline]
    fn ready(&self, most: u16) -> Result<u16, RingFault> {
        let (mut place, mut buffers, mut begun) = (self.next, 0u16, false);
        let limit = place.slots.saturating_add(most.saturating_mul(4));
        while buffers < most
            && place.slots < limit
            && let Some(rest) = self.rest(place)
        {
            begun = rest.flags & F_NEXT != 0;
            if !begun {
                buffers = buffers.saturating_add(1);
            }
            place = self.within(place, 1);
        }
        self.whole()?;
        // A chain without an end is there to be found and named.
        Ok(buffers.saturating_add(begun.into()).min(most))
    }

    #[inline]
    fn foresee_chains(&self, n: u16) -> Result<(), RingFault> {
        // They lie one behind the other, and are written in the end.
        self.descs.ask(self.at(self.next), n.min(self.size), self.purpose(Use::Write));
        Ok(())
    }

    #[inline]
    fn foresee(&mut self, most: u16, flags: u16, purpose: Use) -> Result<u16, RingFault> {
        if self.plenty {
            self.foresee_chains(most)?;
        }
        self.foresee_buffers(most, flags, purpose);
        self.plenty = self.ahead_len == most;
        // One walk over the descriptors is enough, if it found anything.
        if self.ahead_len == 0 {
            return self.ready(most);
        }
        self.whole()?;
        Ok(self.ahead_len)
    }

    #[inline]
    fn foresee_buffers(&mut self, n: u16, flags: u16, purpose: Use) {
        self.look_ahead(n, flags, self.purpose(purpose));
    }

    #[inline]
    fn purpose(&self, purpose: Use) -> Use {
        if self.for_writing { purpose } else { Use::Read }
    }

    #[inline]
    fn found(&self) -> &[Found] {
        self.known()
    }

    #[inline]
    fn give_back_one(&self, at: Place, id: u16, len: u32) -> Place {
        self.shadow.single(at.buffers, id, len);
        Place { slots: at.slots.wrapping_add(1), buffers: at.buffers.wrapping_add(1) }
    }

    fn pair(&self, apart: usize) -> Option<Pair<'_, Head>> {
        let first = self.rest(self.next)?;
        let behind = self.within(self.next, 1);
        let second = self.rest(behind)?;
        let kind = |rest: Rest| rest.flags & (F_NEXT | F_WRITE | F_INDIRECT);
        if kind(first) != F_NEXT || first.len as usize != apart || kind(second) != 0 {
            return None;
        }
        let head = Head { place: self.next, slots: 2, id: second.id };
        let first = self.reach.find(self.descs.address(self.at(self.next)), first.len)?;
        let second = self.reach.find(self.descs.address(self.at(behind)), second.len)?;
        Some(Pair { head, first, second })
    }

    #[inline]
    fn take(&mut self, head: Head, len: u32) {
        let next = self.give_back(self.next, head, len);
        self.advance(next);
    }

    fn publish(&mut self) -> Result<bool, RingFault> {
        self.ahead_len = 0;
        self.whole()?;
        if self.next.buffers == 0 {
            return Ok(false);
        }
        let before = self.published;
        let batch = self.shadow.batch(self.next.buffers);
        (self.published, self.first) =
            publication(batch, (before, self.first), self.flow, self.size, |w| self.store(w));
        self.next = Place::FIRST;
        fence(Ordering::SeqCst);
        let wish = self.driver.load();
        let wanted = wish.is_met(before, self.published, self.features.event_idx, self.size);
        Ok(std::mem::take(&mut self.fresh) || wanted)
    }

    fn arm(&self) -> Result<bool, RingFault> {
        self.whole()?;
        let flags = if self.features.event_idx { EVENTS_AT } else { EVENTS_ON };
        self.device.store(Wish { place: self.at(self.next).word(), flags });
        fence(Ordering::SeqCst);
        let there = self.rest(self.next).is_some();
        self.whole()?;
        Ok(there)
    }

    fn disarm(&self) {
        self.device.store(Wish { place: 0, flags: EVENTS_OFF });
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

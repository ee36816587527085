//! The half of a port that its worker uses: what the guest sends, and what is said to it. Another takes
//! it for an ICMP error only.
//!
//! ```text
//! tx ring -> take()    -> storage      the batch stays the guest's until
//!            give_back()               ... every datagram of it has met its fate (rule 7)
//! ```
//! Of several output rings one is *in hand*: all that is said here of "the tx ring" is about that. Each
//! batch takes up the next one that has something, so that a port gets one batch a turn however many
//! rings it has, and each of its rings gets its share of them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtqueue::{NetHeader, QueueFeatures, RingFault, Taken, TxQueue};

use super::{EFFORT, signal};
use crate::answer::LastInch;
use crate::budget::Budget;
use crate::faults::{self, Point};
use crate::limiter::{Limiter, Rate};
use crate::names::{Mac, Pair, RingId, Side};
use crate::offload::Abilities;
use crate::owned::Owned;
use crate::spread::Trail;
use crate::state::port::RingJournal;
use crate::state::suspicion::{Care, PortSuspicion};
use crate::storage::{HEADERS, Storage};
use crate::vhost::Ring;

/// The output side: what the guest sends.
struct TxEnd {
    pair: Pair,
    queue: TxQueue,
    allowed: Abilities,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
}

/// A ring that is not in hand.
struct Waiting {
    tx: TxEnd,
    care: Care,
}

/// One frame as it was taken: its virtio-net header and its place in [`Storage::room`].
pub struct Frame {
    /// As the guest wrote it.
    pub header: NetHeader,
    /// Octets of the frame; more than [`MAX_FRAME`](crate::storage::MAX_FRAME) if it was too long to be
    /// taken.
    pub len: usize,
}

/// What a port's worker uses while it serves it.
pub struct Sending {
    /// What the base says on this last inch.
    pub inch: LastInch,
    /// Source addresses that it has said and may say.
    pub owned: Owned,
    /// How many ICMP errors it may still cause.
    pub limiter: Limiter,
    /// How much it may still ask the resolver.
    pub questions: Limiter,
    /// How often it may still be told that its rings broke.
    pub breaks: Budget,
    /// Polled by its worker.
    pub active: bool,
    /// How often it became active, and ports of its number before it: what was noted of an earlier time
    /// concerns it no more.
    pub visit: u64,
    /// How the tx ring is served after a death.
    pub care: Care,
    /// Where the fragments that it sends go.
    pub trail: Trail,
    tx: Option<TxEnd>,
    /// The other rings, in the order in which they are taken up. None if there is none in hand, but for
    /// one that has fallen.
    others: VecDeque<Waiting>,
    /// A ring that broke, until this was told.
    fallen: Option<TxEnd>,
}

impl Sending {
    /// The half of a port without rings.
    pub(super) fn new(inch: LastInch) -> Self {
        Self {
            inch,
            owned: Owned::default(),
            limiter: Limiter::default(),
            questions: Limiter::new(Rate::QUESTIONS),
            breaks: Budget::default(),
            active: false,
            visit: 0,
            care: Care::default(),
            trail: Trail::default(),
            tx: None,
            others: VecDeque::new(),
            fallen: None,
        }
    }

    /// Takes a pair's tx ring into use, and in hand, going on where its used index stands, or a packed
    /// ring's journal says, and notifies the driver once: a predecessor may have died between
    /// publishing and notifying.
    pub(super) fn start(
        &mut self,
        pair: Pair,
        ring: Ring,
        journal: RingJournal,
    ) -> Result<(), RingFault> {
        let features = QueueFeatures::from_bits(ring.features);
        let (memory, layout) = (ring.memory, ring.layout);
        let mut queue = if features.packed {
            TxQueue::resume_packed(memory, layout, features, Box::new(journal))?
        } else {
            TxQueue::resume(memory, layout, features)?
        };
        queue.disarm();
        signal(ring.call.as_ref());
        let (allowed, kick) = (allowed(ring.features), ring.kick);
        let tx = TxEnd { pair, queue, allowed, kick, call: ring.call, err: ring.err };
        if let Some(tx) = self.tx.replace(tx) {
            self.others.push_front(Waiting { tx, care: std::mem::take(&mut self.care) });
        }
        Ok(())
    }

    /// Takes into account what is held against the ring that was just started. What concerns a
    /// place where the ring does not stand concerns an earlier ring, and is forgotten.
    pub(super) fn beware(&mut self, suspicion: &PortSuspicion) {
        let (index, pair) = (self.index(), self.pair());
        let ring = RingId { pair, side: Side::Tx };
        self.care = Care::at(index, suspicion.sent(pair), suspicion.skip(ring));
        if self.care == Care::default() {
            suspicion.forget(ring);
        }
    }

    /// Stops using a pair's ring: where it stands, as GET_VRING_BASE tells it.
    pub(super) fn stop(&mut self, pair: Pair) -> Option<u32> {
        if self.tx.as_ref().is_some_and(|tx| tx.pair == pair) {
            let stopped = self.tx.take();
            self.care = Care::default();
            self.take_up_next();
            return stopped.map(|tx| tx.queue.base());
        }
        let place = self.others.iter().position(|other| other.tx.pair == pair)?;
        self.others.remove(place).map(|other| other.tx.queue.base())
    }

    /// The pair whose ring is in hand.
    #[inline]
    pub fn pair(&self) -> Pair {
        self.tx.as_ref().map_or(Pair::FIRST, |tx| tx.pair)
    }

    /// Takes the ring in hand that waits longest.
    fn take_up_next(&mut self) {
        let Some(Waiting { tx, care }) = self.others.pop_front() else { return };
        let care = std::mem::replace(&mut self.care, care);
        if let Some(tx) = self.tx.replace(tx) {
            self.others.push_back(Waiting { tx, care });
        }
    }

    /// Takes up the next ring that has something, of several; false if none has.
    #[inline(never)]
    fn take_up(&mut self) -> bool {
        if self.fallen.is_some() {
            return false;
        }
        (0..=self.others.len()).any(|_| {
            self.take_up_next();
            self.has_something()
        })
    }

    #[inline]
    fn has_something(&mut self) -> bool {
        self.tx.as_mut().is_some_and(|tx| !matches!(tx.queue.is_empty(), Ok(true)))
    }

    /// All rings that run, and one that has fallen.
    fn ends(&self) -> impl Iterator<Item = &TxEnd> {
        self.tx.iter().chain(&self.fallen).chain(self.others.iter().map(|other| &other.tx))
    }

    /// All rings that run.
    fn ends_mut(&mut self) -> impl Iterator<Item = &mut TxEnd> {
        self.tx.iter_mut().chain(self.others.iter_mut().map(|other| &mut other.tx))
    }

    /// Takes the next buffer of the tx ring unseen; false if there is none.
    pub fn leave_out(&mut self) -> Result<bool, RingFault> {
        self.tx.as_mut().map_or(Ok(false), |tx| tx.queue.skip_next())
    }

    /// The descriptors that the guest kicks when it has written to a tx ring.
    pub fn kicks(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.ends().filter_map(|tx| tx.kick.as_ref())
    }

    /// Of kicks that cannot be watched, the rings are polled from now on.
    pub fn keep_kicks(&mut self, watched: impl Fn(&Arc<OwnedFd>) -> bool) {
        for tx in self.ends_mut() {
            tx.kick = tx.kick.take().filter(&watched);
        }
    }

    /// Whether a tx ring is in use, and polled for ever because the driver gave no kick.
    pub fn must_be_polled(&self) -> bool {
        self.ends().any(|tx| tx.kick.is_none())
    }

    /// Interrupts the driver by this descriptor from now on; the one before, to be closed by whoever
    /// has nothing locked.
    pub(super) fn set_call(
        &mut self,
        pair: Pair,
        call: Option<Arc<OwnedFd>>,
    ) -> Option<Arc<OwnedFd>> {
        let tx = self.ends_mut().find(|tx| tx.pair == pair)?;
        std::mem::replace(&mut tx.call, call)
    }

    /// Whether a tx ring is in use.
    pub fn sends(&self) -> bool {
        self.tx.is_some()
    }

    /// What the guest may leave to offload.
    pub fn allowed(&self) -> Abilities {
        self.tx.as_ref().map_or(Abilities::default(), |t| t.allowed)
    }

    /// Where the tx ring stands, for the mark.
    pub fn index(&self) -> u16 {
        self.tx.as_ref().map_or(0, |t| t.queue.next_index())
    }

    /// Whether the frames taken so far have cost as much as one batch may.
    pub fn is_exhausted(&self) -> bool {
        self.tx.as_ref().is_some_and(|t| t.queue.effort() >= EFFORT)
    }

    /// Copies the next frame of the tx ring into storage's room; `None` when the ring is empty.
    pub fn take(&mut self, storage: &mut Storage) -> Result<Option<Frame>, RingFault> {
        let Some(tx) = &mut self.tx else { return Ok(None) };
        match tx.queue.copy_next(storage.room())? {
            Some(Taken { header, len }) => Ok(Some(Frame { header, len })),
            None => Ok(None),
        }
    }

    /// Whether no tx ring has anything, as far as is known; otherwise the next one that has is in hand
    /// now. A fault is something: it is named where frames are taken.
    #[inline]
    pub fn is_silent(&mut self) -> bool {
        if self.others.is_empty() { !self.has_something() } else { !self.take_up() }
    }

    /// How many of the next `most` frames of the tx ring can be taken now; what they are read from is
    /// asked for meanwhile.
    #[inline]
    pub fn foresee(&mut self, most: u16) -> Result<u16, RingFault> {
        self.tx.as_mut().map_or(Ok(0), |tx| tx.queue.foresee(most))
    }

    /// Copies the next frames of the tx ring into storage, `most` of them and as far as
    /// [`Sending::foresee`] has seen them: a number of frames of the common kind, and at most one
    /// large send behind them. How many, and their octets; none if the next one is to be
    /// [taken](Sending::take) by itself.
    #[inline(never)]
    pub fn take_stretch(
        &mut self,
        most: u16,
        storage: &mut Storage,
    ) -> Result<(usize, usize), RingFault> {
        let Some(tx) = &mut self.tx else { return Ok((0, 0)) };
        let kept = storage.fill(most.into(), |slots| tx.queue.copy_stretch(HEADERS, slots));
        tx.queue.whole()?;
        Ok(kept)
    }

    /// Gives the taken buffers back to the guest.
    pub fn give_back(&mut self) -> Result<(), RingFault> {
        let Some(tx) = &mut self.tx else { return Ok(()) };
        let notify = tx.queue.complete()?;
        faults::pass(Point::GivenBack);
        if notify {
            signal(tx.call.as_ref());
        }
        Ok(())
    }

    /// Asks the guest to kick from now on; true if there is something to take already.
    pub fn arm(&mut self) -> Result<bool, RingFault> {
        self.ends_mut().try_fold(false, |some, tx| Ok(tx.queue.arm()? || some))
    }

    /// Tells the guest not to kick: the rings are being polled.
    pub fn disarm(&mut self) {
        self.ends_mut().for_each(|tx| tx.queue.disarm());
    }

    /// The ring broke: nothing touches it from now on, and no other until this was told. Another that
    /// breaks meanwhile falls with it.
    pub fn fall(&mut self) {
        self.fallen = self.tx.take().or(self.fallen.take());
    }

    /// Whether it broke, and nobody was told.
    pub(super) fn has_fallen(&self) -> bool {
        self.fallen.is_some()
    }

    /// Lets go of all rings, and tells the front end that they are broken.
    pub(super) fn break_rings(&mut self) {
        self.active = false;
        self.ends().for_each(|tx| signal(tx.err.as_ref()));
        (self.tx, self.fallen) = (None, None);
        self.others.clear();
    }

    /// Notes the MAC address the guest uses, from a frame it sent, if none is known.
    pub fn learn_mac(&mut self, source: Mac) -> bool {
        let learn = self.inch.guest_mac.is_none() && !source.is_multicast();
        if learn {
            self.inch.guest_mac = Some(source);
        }
        learn
    }
}

/// What the driver may leave to offload in what it sends (virtio 1.2, section 5.1.3).
fn allowed(features: u64) -> Abilities {
    let has = |bit: u32| features.wrapping_shr(bit) & 1 == 1;
    Abilities { checksum: has(0), tso4: has(11), tso6: has(12), ecn: has(13) }
}

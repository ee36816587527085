//! A port: one virtio NIC of one VM, as the datapath sees it.
//!
//! # Theory of operation
//! A port outlives its rings. The rings come when a front end has brought its memory (`vhost`), go
//! when it leaves or breaks them, and come again; the port's addresses, its MAC and its counters
//! stay.
//!
//! ```text
//! tx ring -> take()    -> storage      the batch stays the guest's until
//!            give_back()               ... every datagram of it has met its fate (rule 7)
//! rx ring <- put()     <- storage      one call per datagram,
//!            publish()                 one index and at most one notification per batch
//! ```
//!
//! # Invariants
//! - A fault in either ring stops both, with its name; nobody else notices (the caller counts it).
//! - The virtio-net header towards the guest is built afresh from what was parsed (rule 3).
//!
//! Only the worker that owns the port calls these.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtqueue::{Delivered, NetHeader, QueueFeatures, RingFault, RxQueue, Taken, TxQueue};

use crate::answer::LastInch;
use crate::budget::Budget;
use crate::counters::{Counter, Counters};
use crate::deliver::Inbox;
use crate::envelope::Envelope;
use crate::faults::{self, Point};
use crate::limiter::Limiter;
use crate::names::{Mac, NetworkId, Owner, PortId, Side};
use crate::offload::{Abilities, Handover, Offload};
use crate::owned::Owned;
use crate::segment::Segments;
use crate::state::StateMemory;
use crate::state::marks::Receiver;
use crate::state::suspicion::{Care, PortSuspicion};
use crate::storage::{HEADERS, MAX_FRAME, Storage};
use crate::vhost::Ring;

/// Octets of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Descriptors of one batch, those of its last frame aside: some for each frame of a full batch, and
/// too few to keep the others waiting for chains of a thousand empty buffers.
const EFFORT: u32 = 4096;
/// Ethernet type of IPv4.
const TYPE_IP4: [u8; 2] = [0x08, 0x00];
/// Ethernet type of IPv6.
const TYPE_IP6: [u8; 2] = [0x86, 0xdd];

/// The output side: what the guest sends.
struct TxEnd {
    queue: TxQueue,
    allowed: Abilities,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
}

/// The input side: what the guest receives.
struct RxEnd {
    queue: RxQueue,
    /// The buffer that is to be left out, by its index.
    skip: Option<u16>,
    abilities: Abilities,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
}

/// One frame as it was taken: its virtio-net header and its place in [`Storage::room`].
pub struct Frame {
    /// As the guest wrote it.
    pub header: NetHeader,
    /// Octets of the frame; more than [`MAX_FRAME`] if it was too long to be taken.
    pub len: usize,
}

/// One virtio NIC.
pub struct Port {
    /// Which it is.
    pub id: PortId,
    /// Its network.
    pub network: NetworkId,
    /// The VM's name, for events.
    pub name: String,
    /// What the base says on this last inch.
    pub inch: LastInch,
    /// Source addresses that it has said and may say.
    pub owned: Owned,
    /// How many ICMP errors it may still cause.
    pub limiter: Limiter,
    /// How often it may still be told that its rings broke.
    pub breaks: Budget,
    /// The datagrams of the current batch that go to this port.
    pub inbox: Option<Inbox>,
    /// Polled in this turn of the loop.
    pub active: bool,
    /// How the tx ring is served after a death.
    pub care: Care,
    /// Its rings stand still until it is reset, and what comes for it is dropped.
    pub quarantined: bool,
    tx: Option<TxEnd>,
    rx: Option<RxEnd>,
    /// What is held against a buffer of the rx ring, until the ring has passed it.
    suspected: Option<u16>,
    broken: bool,
    scratch: Vec<u8>,
}

impl Port {
    /// A port without rings.
    pub fn new(id: PortId, network: NetworkId, name: String, inch: LastInch) -> Self {
        Self {
            id,
            network,
            name,
            inch,
            owned: Owned::default(),
            limiter: Limiter::default(),
            breaks: Budget::default(),
            inbox: None,
            active: false,
            care: Care::default(),
            quarantined: false,
            tx: None,
            rx: None,
            suspected: None,
            broken: false,
            scratch: Vec::new(),
        }
    }

    /// Takes a ring into use, going on where its used index stands, and notifies the driver once:
    /// a predecessor may have died between publishing and notifying.
    pub fn start(&mut self, side: Side, ring: Ring) -> Result<(), RingFault> {
        self.broken = false;
        let queue_features = QueueFeatures::from_bits(ring.features);
        match side {
            Side::Tx => {
                let mut queue = TxQueue::resume(ring.memory, ring.layout, queue_features)?;
                queue.disarm();
                signal(ring.call.as_ref());
                let allowed = allowed(ring.features);
                self.tx =
                    Some(TxEnd { queue, allowed, kick: ring.kick, call: ring.call, err: ring.err });
            }
            Side::Rx => {
                let queue = RxQueue::resume(ring.memory, ring.layout, queue_features)?;
                signal(ring.call.as_ref());
                let abilities = abilities(ring.features);
                let (call, err) = (ring.call, ring.err);
                self.rx = Some(RxEnd { queue, skip: None, abilities, call, err });
            }
        }
        Ok(())
    }

    /// Takes into account what is held against the ring that was just started. What concerns a
    /// place where the ring does not stand concerns an earlier ring, and is forgotten.
    pub fn beware(&mut self, side: Side, suspicion: &PortSuspicion) {
        match side {
            Side::Tx => {
                let index = self.tx_index();
                self.care = Care::at(index, suspicion.sent(), suspicion.skip(Side::Tx));
                if self.care == Care::default() {
                    suspicion.set_sent(None);
                    suspicion.set_skip(Side::Tx, None);
                }
            }
            Side::Rx => {
                let Some(rx) = &mut self.rx else { return };
                rx.skip = suspicion.skip(Side::Rx);
                self.suspected = rx.skip.or(suspicion.receiving());
            }
        }
    }

    /// Takes the next buffer of the tx ring unseen; false if there is none.
    pub fn leave_out(&mut self) -> Result<bool, RingFault> {
        self.tx.as_mut().map_or(Ok(false), |tx| tx.queue.skip_next())
    }

    /// The index of the next buffer of the rx ring, for the mark.
    #[inline]
    pub fn rx_position(&self) -> u16 {
        self.rx.as_ref().map_or(0, |rx| rx.queue.position())
    }

    /// Whether the rx ring has just passed the buffer that was suspected.
    #[inline]
    pub fn is_cleared(&mut self) -> bool {
        let Some(index) = self.suspected else { return false };
        let Some(rx) = &self.rx else { return false };
        // Behind it by less than half of all indices.
        let passed = (1..0x8000).contains(&rx.queue.next_index().wrapping_sub(index));
        if passed {
            self.suspected = None;
        }
        passed
    }

    /// Stops using a ring: where it stands. Afterwards neither ring nor memory is touched.
    pub fn stop(&mut self, side: Side) -> Option<u16> {
        match side {
            Side::Tx => self.tx.take().map(|t| t.queue.next_index()),
            Side::Rx => self.rx.take().map(|r| r.queue.next_index()),
        }
    }

    /// The descriptor that the guest kicks when it has written to its tx ring.
    pub fn kick(&self) -> Option<&Arc<OwnedFd>> {
        self.tx.as_ref().and_then(|t| t.kick.as_ref())
    }

    /// The kick cannot be watched: the tx ring is polled from now on.
    pub fn forget_kick(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.kick = None;
        }
    }

    /// Whether the tx ring is in use, and polled for ever because the driver gave no kick.
    pub fn must_be_polled(&self) -> bool {
        self.tx.as_ref().is_some_and(|t| t.kick.is_none())
    }

    /// Interrupts the driver by this descriptor from now on, and does so once.
    pub fn set_call(&mut self, side: Side, call: Option<Arc<OwnedFd>>) {
        signal(call.as_ref());
        match side {
            Side::Tx => {
                if let Some(tx) = &mut self.tx {
                    tx.call = call;
                }
            }
            Side::Rx => {
                if let Some(rx) = &mut self.rx {
                    rx.call = call;
                }
            }
        }
    }

    /// Whether the rx ring is in use.
    pub fn receives(&self) -> bool {
        self.rx.is_some()
    }

    /// Whether the tx ring is in use.
    pub fn sends(&self) -> bool {
        self.tx.is_some()
    }

    /// What the guest may leave to offload.
    pub fn allowed(&self) -> Abilities {
        self.tx.as_ref().map_or(Abilities::default(), |t| t.allowed)
    }

    /// Where the tx ring stands, for the mark.
    pub fn tx_index(&self) -> u16 {
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

    /// Whether the tx ring is known to have nothing. A fault is something: it is named where frames are
    /// taken.
    #[inline]
    pub fn is_silent(&mut self) -> bool {
        self.tx.as_mut().is_none_or(|tx| matches!(tx.queue.is_empty(), Ok(true)))
    }

    /// How many of the next `most` frames of the tx ring can be taken now; what they are read from is
    /// asked for meanwhile.
    #[inline]
    pub fn foresee(&mut self, most: u16) -> Result<u16, RingFault> {
        self.tx.as_mut().map_or(Ok(0), |tx| tx.queue.foresee(most))
    }

    /// Copies the next frames of the tx ring into storage, `most` of them and as far as
    /// [`Port::foresee`] has seen them: a number of frames of the common kind, and at most one large
    /// send behind them. How many, and their octets; none if the next one is to be
    /// [taken](Port::take) by itself.
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
        self.tx.as_mut().map_or(Ok(false), |tx| tx.queue.arm())
    }

    /// Tells the guest not to kick: the ring is being polled.
    pub fn disarm(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.queue.disarm();
        }
    }

    /// Notes the MAC address the guest uses, from a frame it sent, if none is known.
    pub fn learn_mac(&mut self, source: Mac) -> bool {
        let learn = self.inch.guest_mac.is_none() && !source.is_multicast();
        if learn {
            self.inch.guest_mac = Some(source);
        }
        learn
    }

    /// Asks for the descriptors of the rx ring's next buffers, as many as the inbox has datagrams.
    #[inline]
    pub fn foresee_chains(&mut self) {
        if let (Some(inbox), Some(rx)) = (self.inbox, &mut self.rx) {
            // A fault is met again, and named, by what comes to write there.
            let _ = rx.queue.foresee_chains(inbox.datagrams);
        }
    }

    /// Asks for those buffers.
    #[inline]
    pub fn foresee_buffers(&mut self) {
        if let (Some(inbox), Some(rx)) = (self.inbox, &mut self.rx) {
            rx.queue.foresee_buffers(inbox.datagrams);
        }
    }

    /// The headers with which a datagram goes to the guest; `Err`: why none does.
    pub fn envelope(&self) -> Result<Envelope, Counter> {
        let Some(rx) = &self.rx else { return Err(self.down()) };
        let mac = self.inch.guest_mac.ok_or(Counter::RxMacUnknown)?;
        Ok(Envelope::to(mac, rx.abilities))
    }

    /// Copies the datagrams of a run into the rx ring, as long as they go behind common headers and
    /// the next buffer is of the common kind. How many, and their octets; the next one is to be
    /// [put](Port::put) there by itself.
    #[inline]
    pub fn put_stretch(
        &mut self,
        mark: &Receiver<'_>,
        envelope: &Envelope,
        storage: &Storage,
        run: Range<u16>,
    ) -> (u16, usize) {
        let Some(rx) = &mut self.rx else { return (0, 0) };
        if rx.skip.is_some() || rx.queue.effort() >= EFFORT {
            return (0, 0);
        }
        let frames = storage.run(run);
        let frames = frames.map_while(|(style, datagram)| Some((envelope.of(style)?, datagram)));
        rx.queue.deliver_stretch(frames, |index| mark.at(index))
    }

    /// Copies a datagram into the rx ring, completing what the guest's driver cannot. `whole` is the
    /// room for its headers, and the datagram. `Ok(Err(reason))` is a drop; `Err` a broken ring.
    pub fn put(
        &mut self,
        offload: &Offload,
        envelope: &Envelope,
        whole: &mut [u8],
        counters: Counters<'_>,
    ) -> Result<Result<(), Counter>, RingFault> {
        let Some(rx) = &mut self.rx else { return Ok(Err(self.down())) };
        envelope.put_on(whole);
        let Some((headers, datagram)) = whole.split_first_chunk_mut::<HEADERS>() else {
            return Ok(Err(Counter::DropFrameLength));
        };
        match offload.header_for(rx.abilities, ETHERNET as u16) {
            Handover::Whole(header) => {
                let header = NetHeader { num_buffers: 1, ..header };
                if let Some(place) = headers.first_chunk_mut::<{ NetHeader::LEN }>() {
                    *place = header.to_bytes();
                }
                rx.write_whole(whole)
            }
            Handover::CompleteChecksum { start, offset } => {
                let _ = crate::offload::complete_checksum(datagram, start, offset);
                rx.write_whole(whole)
            }
            Handover::Segment(segmentation) => {
                counters.add(Counter::Segmented, 1);
                let Some(segments) = Segments::of(datagram, &segmentation) else {
                    return Ok(Err(Counter::DropOffloadSegmentation));
                };
                let ethernet = headers.last_chunk::<ETHERNET>().unwrap_or(&[0; ETHERNET]);
                self.scratch.resize(MAX_FRAME, 0);
                for i in 0..segments.count() {
                    let Some(len) = segments.write(i, &mut self.scratch) else { break };
                    let segment = self.scratch.get(..len).unwrap_or_default();
                    match rx.write(&NetHeader::default(), &[ethernet, segment])? {
                        Ok(()) => {}
                        refused => return Ok(refused),
                    }
                }
                Ok(Ok(()))
            }
        }
    }

    /// Copies a frame of the base's own (an answer) into the rx ring.
    pub fn put_frame(&mut self, frame: &[u8]) -> Result<Result<(), Counter>, RingFault> {
        let Some(rx) = &mut self.rx else { return Ok(Err(self.down())) };
        rx.write(&NetHeader::default(), &[frame])
    }

    /// Publishes what was put, and notifies the guest if it wants to know.
    pub fn publish(&mut self) -> Result<(), RingFault> {
        let Some(rx) = &mut self.rx else { return Ok(()) };
        faults::pass(Point::Written);
        let notify = rx.queue.publish()?;
        faults::pass(Point::Published);
        if notify {
            signal(rx.call.as_ref());
        }
        Ok(())
    }

    /// Stops both rings after a fault, counts it by name and tells the front end.
    pub fn break_rings(&mut self, fault: &RingFault, state: &StateMemory) {
        Counters::of(state, Owner::Port(self.id)).add(break_counter(fault), 1);
        signal(self.tx.take().and_then(|t| t.err).as_ref());
        signal(self.rx.take().and_then(|r| r.err).as_ref());
        self.broken = true;
    }

    fn down(&self) -> Counter {
        match (self.quarantined, self.broken) {
            (true, _) => Counter::RxPortQuarantined,
            (false, true) => Counter::RxPortBroken,
            (false, false) => Counter::RxPortDown,
        }
    }
}

impl RxEnd {
    /// Whether another frame may be written; leaves out a buffer that is to be left out.
    fn goes_on(&mut self) -> Result<bool, RingFault> {
        if self.queue.effort() >= EFFORT {
            return Ok(false);
        }
        if self.skip == Some(self.queue.position()) && self.queue.skip_next()? {
            self.skip = None;
        }
        Ok(true)
    }

    fn write(
        &mut self,
        header: &NetHeader,
        parts: &[&[u8]],
    ) -> Result<Result<(), Counter>, RingFault> {
        if !self.goes_on()? {
            return Ok(Err(Counter::RxEffort));
        }
        Ok(fate(self.queue.deliver(header, parts)?))
    }

    /// A frame in one piece behind its virtio-net header.
    fn write_whole(&mut self, octets: &[u8]) -> Result<Result<(), Counter>, RingFault> {
        if !self.goes_on()? {
            return Ok(Err(Counter::RxEffort));
        }
        Ok(fate(self.queue.deliver_whole(octets)?))
    }
}

fn fate(delivered: Delivered) -> Result<(), Counter> {
    match delivered {
        Delivered::Written => Ok(()),
        Delivered::NoBuffer => Err(Counter::RxNoBuffer),
        Delivered::TooSmall => Err(Counter::RxBufferTooSmall),
    }
}

/// The Ethernet header for a datagram.
pub fn header(destination: Mac, source: Mac, datagram: &[u8]) -> [u8; ETHERNET] {
    let [d0, d1, d2, d3, d4, d5] = destination.0;
    let [s0, s1, s2, s3, s4, s5] = source.0;
    let six = datagram.first().is_some_and(|b| b >> 4 == 6);
    let [t0, t1] = if six { TYPE_IP6 } else { TYPE_IP4 };
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
}

/// The part of a taken frame that is its datagram.
pub fn behind_ethernet(len: usize) -> Range<usize> {
    ETHERNET..ETHERNET.saturating_add(len)
}

/// What the driver may leave to offload in what it sends (virtio 1.2, section 5.1.3).
fn allowed(features: u64) -> Abilities {
    let has = |bit: u32| features.wrapping_shr(bit) & 1 == 1;
    Abilities { checksum: has(0), tso4: has(11), tso6: has(12), ecn: has(13) }
}

/// What the driver takes unfinished in what it receives.
fn abilities(features: u64) -> Abilities {
    let has = |bit: u32| features.wrapping_shr(bit) & 1 == 1;
    Abilities { checksum: has(1), tso4: has(7), tso6: has(8), ecn: has(9) }
}

fn signal(call: Option<&Arc<OwnedFd>>) {
    if let Some(fd) = call {
        // An eventfd at its limit refuses; then a notification is pending anyway.
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }
}

/// The counter of a fault.
pub fn break_counter(fault: &RingFault) -> Counter {
    match fault {
        RingFault::AvailIndex { .. } => Counter::BreakAvailIndex,
        RingFault::UsedIndex { .. } => Counter::BreakUsedIndex,
        RingFault::HeadIndex { .. } => Counter::BreakHeadIndex,
        RingFault::NextIndex { .. } => Counter::BreakNextIndex,
        RingFault::ChainLoop { .. } => Counter::BreakChainLoop,
        RingFault::DescriptorAddress { .. } => Counter::BreakDescriptorAddress,
        RingFault::IndirectTable { .. } => Counter::BreakIndirect,
        RingFault::Direction { .. } => Counter::BreakDirection,
        RingFault::Layout { .. } => Counter::BreakLayout,
        RingFault::MemoryTorn { .. } => Counter::BreakMemoryTorn,
        RingFault::ChainTooShort { .. } => Counter::BreakChainTooShort,
    }
}

//! A port: one virtio NIC of one VM, as the datapath sees it.
//!
//! # Theory of operation
//! A port outlives its rings. The rings come when a front end has brought its memory (`vhost`), go
//! when it leaves or breaks them, and come again; the port's addresses, its MAC and its counters
//! stay.
//!
//! It has two halves, each behind a lock of its own; of the second kind one for each queue pair:
//!
//! ```text
//! sending      tx rings, last inch, limiter   locked by its worker for a batch
//! receiving    an rx ring, the guest's MAC    locked once per batch and receiver, by any worker
//! ```
//! Nobody else has them for longer than it takes to write a complaint, or to put another call in its place.
//! A change between two batches (`worker::change`) has all without locking. What is for the guest goes
//! to one of the input rings that run, by its flow (`spread`); with none of them running it is the first
//! that says why.
//!
//! # Invariants
//! - A fault in one ring stops all, with its name; nobody else notices (the caller counts it).
//! - The virtio-net header towards the guest is built afresh from what was parsed (rule 3).
//! - Whoever has a receiving half in hand waits for nothing: a worker may have several, as far as they
//!   were free, and none when it waits for one.

mod receiving;
mod sending;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use virtqueue::RingFault;

pub use receiving::Receiving;
pub use sending::{Frame, Sending};

use crate::answer::LastInch;
use crate::counters::{Counter, Counters};
use crate::names::{Lane, MAX_PAIRS, Mac, NetworkId, Owner, Pair, PortId, RingId, Side};
use crate::spread;
use crate::state::StateMemory;
use crate::state::port::RingJournal;
use crate::state::suspicion::PortSuspicion;
use crate::sync::{lock, own};
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

/// One virtio NIC.
pub struct Port {
    /// Which it is.
    pub id: PortId,
    /// Its network.
    pub network: NetworkId,
    /// The VM's name, for events.
    pub name: String,
    /// The worker that serves it.
    pub worker: usize,
    /// Told to the resolver, so that what it says to another of the same number is known.
    pub generation: u32,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    /// Those of the other pairs, in their order, as far as any ever had a ring.
    others: Vec<Mutex<Receiving>>,
    /// The pairs whose input rings run.
    inputs: Inputs,
}

/// The pairs among which a port's datagrams are spread.
#[derive(Clone, Copy, Default)]
struct Inputs {
    pairs: [Pair; MAX_PAIRS],
    count: usize,
}

impl Inputs {
    fn add(&mut self, pair: Pair) {
        if let Some(place) = self.pairs.get_mut(self.count) {
            *place = pair;
            self.count = self.count.saturating_add(1);
        }
    }
}

impl Port {
    /// A port without rings.
    pub fn new(
        id: PortId,
        network: NetworkId,
        name: String,
        worker: usize,
        inch: LastInch,
    ) -> Self {
        let receiving = Receiving::new(inch.guest_mac);
        let (sending, receiving) = (Mutex::new(Sending::new(inch)), Mutex::new(receiving));
        let (others, inputs) = (Vec::new(), Inputs::default());
        let generation = 0;
        Self { id, network, name, worker, generation, sending, receiving, others, inputs }
    }

    /// What its worker uses. To be locked before anything else is.
    #[inline]
    pub fn sending(&self) -> MutexGuard<'_, Sending> {
        lock(&self.sending)
    }

    /// The same, if nobody else has it just now.
    #[inline]
    pub fn sending_if_free(&self) -> Option<MutexGuard<'_, Sending>> {
        self.sending.try_lock().ok()
    }

    /// Where a datagram for it goes whose flow is asked for if that makes a difference.
    #[inline]
    pub fn lane(&self, flow: impl FnOnce() -> u32) -> Lane {
        let Inputs { pairs, count } = &self.inputs;
        let [first, ..] = *pairs;
        let pair = match *count {
            0 | 1 => first,
            several => pairs.get(spread::choose(flow(), several)).copied().unwrap_or(first),
        };
        Lane { port: self.id, pair }
    }

    /// Whether its datagrams go to several rings.
    #[inline]
    pub fn is_spread(&self) -> bool {
        self.inputs.count > 1
    }

    /// What is used to deliver to a pair of it. None may be held by whoever calls this, and nothing
    /// waited for while it is held.
    #[inline]
    pub fn receiving(&self, pair: Pair) -> MutexGuard<'_, Receiving> {
        lock(self.half(pair))
    }

    /// The same, if nobody else has it just now.
    #[inline]
    pub fn receiving_if_free(&self, pair: Pair) -> Option<MutexGuard<'_, Receiving>> {
        self.half(pair).try_lock().ok()
    }

    #[inline]
    fn half(&self, pair: Pair) -> &Mutex<Receiving> {
        let other = usize::from(pair.number()).checked_sub(1).and_then(|n| self.others.get(n));
        other.unwrap_or(&self.receiving)
    }

    /// The guest's MAC address was learned.
    pub fn set_mac(&self, mac: Mac) {
        lock(&self.receiving).mac = Some(mac);
        self.others.iter().for_each(|other| lock(other).mac = Some(mac));
    }

    /// Its sending half, while everything is at rest.
    pub fn own_sending(&mut self) -> &mut Sending {
        own(&mut self.sending)
    }

    /// The halves of its pairs, while everything is at rest.
    pub fn own_receiving(&mut self) -> impl Iterator<Item = &mut Receiving> {
        std::iter::once(&mut self.receiving).chain(&mut self.others).map(own)
    }

    /// That of one pair: it is there afterwards.
    fn own_half(&mut self, pair: Pair) -> &mut Receiving {
        let Some(n) = usize::from(pair.number()).checked_sub(1) else {
            return own(&mut self.receiving);
        };
        let first = own(&mut self.receiving);
        while self.others.len() <= n {
            self.others.push(Mutex::new(first.beside()));
        }
        self.others.get_mut(n).map_or(first, own)
    }

    /// Looks which input rings run.
    fn look_at_inputs(&mut self) {
        let mut inputs = Inputs::default();
        for (pair, half) in Pair::first(MAX_PAIRS).zip(self.own_receiving()) {
            if half.receives() {
                inputs.add(pair);
            }
        }
        self.inputs = inputs;
        // However many there are, a batch makes no more effort for this receiver.
        let each = EFFORT.checked_div(inputs.count as u32).unwrap_or(EFFORT);
        self.own_receiving().for_each(|half| half.limit_effort(each));
    }

    /// Takes a ring into use, going on where its used index stands, or a packed ring's journal says,
    /// and notifies the driver once: a predecessor may have died between publishing and notifying.
    pub fn start(&mut self, id: RingId, ring: Ring, journal: RingJournal) -> Result<(), RingFault> {
        self.own_receiving().for_each(|half| half.broken = false);
        match id.side {
            Side::Tx => self.own_sending().start(id.pair, ring, journal),
            Side::Rx => {
                let started = self.own_half(id.pair).start(ring, journal);
                self.look_at_inputs();
                started
            }
        }
    }

    /// Takes into account what is held against the ring that was just started.
    pub fn beware(&mut self, id: RingId, suspicion: &PortSuspicion) {
        match id.side {
            Side::Tx => self.own_sending().beware(suspicion),
            Side::Rx => self.own_half(id.pair).beware(id.pair, suspicion),
        }
    }

    /// Stops using a ring: where it stands, as GET_VRING_BASE tells it. Afterwards neither ring nor
    /// memory is touched.
    pub fn stop(&mut self, id: RingId) -> Option<u32> {
        match id.side {
            Side::Tx => self.own_sending().stop(id.pair),
            Side::Rx => {
                let stopped = self.own_half(id.pair).stop();
                self.look_at_inputs();
                stopped
            }
        }
    }

    /// Interrupts the driver by this descriptor from now on, and does so once: what was to be told
    /// before that was told by another. False, and nothing done, if somebody has the half just now: who
    /// waited for it could wait for long, because a worker that has much to do locks it again at once.
    /// While everything is at rest nobody has it. Keeps nobody waiting for a system call.
    pub fn try_set_call(&self, id: RingId, call: &Option<Arc<OwnedFd>>) -> bool {
        let before = match id.side {
            Side::Tx => self.sending_if_free().map(|mut s| s.set_call(id.pair, call.clone())),
            Side::Rx => self.receiving_if_free(id.pair).map(|mut r| r.set_call(call.clone())),
        };
        if before.is_some() {
            signal(call.as_ref());
        }
        before.is_some()
    }

    /// Whether one of its rings broke, and nobody was told.
    pub fn has_fallen(&mut self) -> bool {
        self.own_sending().has_fallen() || self.own_receiving().any(|half| half.has_fallen())
    }

    /// Stops all rings after a fault, counts it by name and tells the front end.
    pub fn break_rings(&mut self, fault: &RingFault, state: &StateMemory) {
        Counters::of(state, Owner::Port(self.id)).add(break_counter(fault), 1);
        self.own_sending().break_rings();
        self.own_receiving().for_each(|half| half.break_ring());
        self.look_at_inputs();
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
        RingFault::ChainFlags { .. } => Counter::BreakChainFlags,
        RingFault::Publication { .. } => Counter::BreakPublication,
    }
}

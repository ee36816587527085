//! A port: one virtio NIC of one VM, as the datapath sees it.
//!
//! # Theory of operation
//! A port outlives its rings. The rings come when a front end has brought its memory (`vhost`), go
//! when it leaves or breaks them, and come again; the port's addresses, its MAC and its counters
//! stay.
//!
//! It has two halves, each behind a lock of its own:
//!
//! ```text
//! sending      tx ring, last inch, limiter    locked by its worker for a batch
//! receiving    rx ring, the guest's MAC       locked once per batch and receiver, by any worker
//! ```
//! Nobody else has them for longer than it takes to write a complaint, or to put another call in its place.
//! A change between two batches (`worker::change`) has both without locking.
//!
//! # Invariants
//! - A fault in either ring stops both, with its name; nobody else notices (the caller counts it).
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
use crate::names::{Mac, NetworkId, Owner, PortId, Side};
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
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
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
        Self { id, network, name, worker, sending, receiving }
    }

    /// What its worker uses. To be locked before anything else is.
    #[inline]
    pub fn sending(&self) -> MutexGuard<'_, Sending> {
        lock(&self.sending)
    }

    /// What is used to deliver to it. None may be held by whoever calls this, and nothing waited for
    /// while it is held.
    #[inline]
    pub fn receiving(&self) -> MutexGuard<'_, Receiving> {
        lock(&self.receiving)
    }

    /// The same, if nobody else has it just now.
    #[inline]
    pub fn receiving_if_free(&self) -> Option<MutexGuard<'_, Receiving>> {
        self.receiving.try_lock().ok()
    }

    /// Both halves, while everything is at rest.
    pub fn halves(&mut self) -> (&mut Sending, &mut Receiving) {
        (own(&mut self.sending), own(&mut self.receiving))
    }

    /// Takes a ring into use, going on where its used index stands, or a packed ring's journal says,
    /// and notifies the driver once: a predecessor may have died between publishing and notifying.
    pub fn start(&mut self, side: Side, ring: Ring, journal: RingJournal) -> Result<(), RingFault> {
        let (sending, receiving) = self.halves();
        receiving.broken = false;
        match side {
            Side::Tx => sending.start(ring, journal),
            Side::Rx => receiving.start(ring, journal),
        }
    }

    /// Takes into account what is held against the ring that was just started.
    pub fn beware(&mut self, side: Side, suspicion: &PortSuspicion) {
        let (sending, receiving) = self.halves();
        match side {
            Side::Tx => sending.beware(suspicion),
            Side::Rx => receiving.beware(suspicion),
        }
    }

    /// Stops using a ring: where it stands, as GET_VRING_BASE tells it. Afterwards neither ring nor
    /// memory is touched.
    pub fn stop(&mut self, side: Side) -> Option<u32> {
        let (sending, receiving) = self.halves();
        match side {
            Side::Tx => sending.stop(),
            Side::Rx => receiving.stop(),
        }
    }

    /// Interrupts the driver by this descriptor from now on, and does so once: what was to be told
    /// before that was told by another. Waits for the batch that has the half, and keeps the next
    /// waiting for no system call.
    pub fn set_call(&self, side: Side, call: Option<Arc<OwnedFd>>) {
        let before = match side {
            Side::Tx => self.sending().set_call(call.clone()),
            Side::Rx => self.receiving().set_call(call.clone()),
        };
        signal(call.as_ref());
        drop(before);
    }

    /// Whether one of its rings broke, and nobody was told.
    pub fn has_fallen(&mut self) -> bool {
        let (sending, receiving) = self.halves();
        sending.has_fallen() || receiving.has_fallen()
    }

    /// Stops both rings after a fault, counts it by name and tells the front end.
    pub fn break_rings(&mut self, fault: &RingFault, state: &StateMemory) {
        Counters::of(state, Owner::Port(self.id)).add(break_counter(fault), 1);
        let (sending, receiving) = self.halves();
        sending.break_ring();
        receiving.break_ring();
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

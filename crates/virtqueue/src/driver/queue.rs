//! One split virtqueue as its driver keeps it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::driver::memory::DriverMemory;
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestAddress;
use crate::split::{
    AVAIL_NO_INTERRUPT, DESC_LEN, F_INDIRECT, F_NEXT, F_WRITE, USED_NO_NOTIFY, avail_len, used_len,
};

/// One element of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where.
    pub address: GuestAddress,
    /// Octets.
    pub len: u32,
}

/// What the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedBuffer {
    /// The head that [`DriverQueue::add`] gave.
    pub head: u16,
    /// Octets the device wrote.
    pub len: u32,
}

/// What [`DriverTx`](super::DriverTx) and [`DriverRx`](super::DriverRx) need of a ring, whatever its
/// layout.
pub trait DriverRing {
    /// Sets up a ring at its beginning.
    fn set_up(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures) -> Self;

    /// Where the ring lies.
    fn layout(&self) -> QueueLayout;

    /// What the driver negotiated.
    fn features(&self) -> QueueFeatures;

    /// The memory it lies in.
    fn memory(&self) -> &Arc<DriverMemory>;

    /// Adds a chain, as [`DriverQueue::add`].
    fn add(&mut self, buffers: &[Buffer], writable: bool, table: Option<usize>) -> Option<u16>;

    /// Shows the device what was added. True if it wants to be notified.
    fn expose(&mut self) -> bool;

    /// Takes back the oldest buffer the device has given back.
    fn take_used(&mut self) -> Option<UsedBuffer>;

    /// Buffers that the device has not given back, or that were not taken back yet.
    fn outstanding(&self) -> usize;

    /// Asks for a notification when the next buffer comes back. True if one is there already.
    fn arm(&mut self) -> bool;

    /// Asks for no notifications.
    fn disarm(&mut self);

    /// Where the device is to go on, as SET_VRING_BASE says it.
    fn base(&self) -> u16;
}

/// The driver's side of a split virtqueue.
pub struct DriverQueue {
    memory: Arc<DriverMemory>,
    layout: QueueLayout,
    features: QueueFeatures,
    /// Descriptors not in use.
    free: Vec<u16>,
    /// Per head, the descriptors of its chain.
    chains: Vec<Vec<u16>>,
    /// Heads the device has, oldest first.
    order: VecDeque<u16>,
    /// Per head, an indirect table and its entries.
    tables: Vec<Option<(GuestAddress, usize)>>,
    /// The available index including what the device cannot see yet.
    avail: u16,
    /// The available index that the device sees.
    exposed: u16,
    /// The used index up to which buffers were taken back.
    used: u16,
}

impl DriverQueue {
    /// Sets up a ring with all indices at `start`.
    pub fn new(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures, start: u16) -> Self {
        let octets = u64::from(size);
        let layout = QueueLayout {
            size,
            desc: memory.allocate(octets * DESC_LEN as u64, 16),
            avail: memory.allocate(avail_len(size, true) as u64, 2),
            used: memory.allocate(used_len(size, true) as u64, 4),
        };
        Self::at(memory, layout, features, start)
    }

    /// Sets up a ring at a given place.
    pub fn at(
        memory: Arc<DriverMemory>,
        layout: QueueLayout,
        features: QueueFeatures,
        start: u16,
    ) -> Self {
        let size = usize::from(layout.size);
        let queue = Self {
            memory,
            layout,
            features,
            free: (0..layout.size).rev().collect(),
            chains: vec![Vec::new(); size],
            order: VecDeque::new(),
            tables: vec![None; size],
            avail: start,
            exposed: start,
            used: start,
        };
        queue.memory.u16_at(queue.avail_index_at()).store(start, Ordering::Relaxed);
        queue.memory.u16_at(queue.used_index_at()).store(start, Ordering::Release);
        queue
    }

    /// Where the ring lies.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// What the driver negotiated.
    pub fn features(&self) -> QueueFeatures {
        self.features
    }

    /// The memory it lies in.
    pub fn memory(&self) -> &Arc<DriverMemory> {
        &self.memory
    }

    /// Where descriptor `index` of the ring's table lies: address (8 octets), length (4), flags
    /// (2), next (2).
    pub fn descriptor_at(&self, index: u16) -> GuestAddress {
        GuestAddress(self.layout.desc.0 + u64::from(index) * DESC_LEN as u64)
    }

    /// Where the indirect table of `head` lies, if it has had one.
    pub fn table_at(&self, head: u16) -> Option<GuestAddress> {
        self.tables[usize::from(head)].map(|(at, _)| at)
    }

    /// Where the available ring's flags lie.
    pub fn avail_flags_at(&self) -> GuestAddress {
        self.layout.avail
    }

    /// Where the available index lies.
    pub fn avail_index_at(&self) -> GuestAddress {
        GuestAddress(self.layout.avail.0 + 2)
    }

    /// Where the available entry at `position` lies.
    pub fn avail_entry_at(&self, position: u16) -> GuestAddress {
        let slot = position % self.layout.size;
        GuestAddress(self.layout.avail.0 + 4 + u64::from(slot) * 2)
    }

    /// Where the used index that the driver waits for lies.
    pub fn used_event_at(&self) -> GuestAddress {
        GuestAddress(self.layout.avail.0 + 4 + u64::from(self.layout.size) * 2)
    }

    /// Where the used ring's flags lie.
    pub fn used_flags_at(&self) -> GuestAddress {
        self.layout.used
    }

    /// Where the used index lies.
    pub fn used_index_at(&self) -> GuestAddress {
        GuestAddress(self.layout.used.0 + 2)
    }

    /// Where the used entry at `position` lies: head (4 octets), length (4).
    pub fn used_entry_at(&self, position: u16) -> GuestAddress {
        let slot = position % self.layout.size;
        GuestAddress(self.layout.used.0 + 4 + u64::from(slot) * 8)
    }

    /// Where the available index that the device waits for lies.
    pub fn avail_event_at(&self) -> GuestAddress {
        GuestAddress(self.layout.used.0 + 4 + u64::from(self.layout.size) * 8)
    }

    /// Descriptors not in use.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Buffers that the device has not given back.
    pub fn outstanding(&self) -> usize {
        self.order.len()
    }

    /// Writes one descriptor into the ring's table.
    pub fn write_descriptor(&self, index: u16, buffer: Buffer, flags: u16, next: u16) {
        self.put(self.descriptor_at(index), buffer, flags, next);
    }

    fn put(&self, at: GuestAddress, buffer: Buffer, flags: u16, next: u16) {
        let [l0, l1, l2, l3] = buffer.len.to_le_bytes();
        let ([f0, f1], [n0, n1]) = (flags.to_le_bytes(), next.to_le_bytes());
        let rest = u64::from_le_bytes([l0, l1, l2, l3, f0, f1, n0, n1]);
        self.memory.u64_at(at).store(buffer.address.0.to_le(), Ordering::Relaxed);
        let at = GuestAddress(at.0 + 8);
        self.memory.u64_at(at).store(rest.to_le(), Ordering::Relaxed);
    }

    /// Makes a chain of `buffers` the next available one; the device sees it after
    /// [`DriverQueue::expose`]. With `table` as `Some(n)` the first `n` are plain descriptors and
    /// the others lie in an indirect table. Gives the head; `None` if there are too few
    /// descriptors.
    pub fn add(&mut self, buffers: &[Buffer], writable: bool, table: Option<usize>) -> Option<u16> {
        assert!(!buffers.is_empty(), "a chain has at least one descriptor");
        let plain = table.unwrap_or(buffers.len()).min(buffers.len());
        let (plain, inner) = buffers.split_at(plain);
        let count = plain.len() + usize::from(!inner.is_empty());
        let rest = self.free.len().checked_sub(count)?;
        let mut chain = self.free.split_off(rest);
        chain.reverse();
        let head = chain[0];
        let flag = if writable { F_WRITE } else { 0 };
        for (i, &buffer) in plain.iter().enumerate() {
            match chain.get(i + 1) {
                Some(&next) => self.write_descriptor(chain[i], buffer, flag | F_NEXT, next),
                None => self.write_descriptor(chain[i], buffer, flag, 0),
            }
        }
        if !inner.is_empty() {
            let address = self.table(head, inner.len());
            for (i, &buffer) in inner.iter().enumerate() {
                let last = i + 1 == inner.len();
                let (more, next) = if last { (0, 0) } else { (F_NEXT, i as u16 + 1) };
                let at = GuestAddress(address.0 + (i * DESC_LEN) as u64);
                self.put(at, buffer, flag | more, next);
            }
            let whole = Buffer { address, len: (inner.len() * DESC_LEN) as u32 };
            self.write_descriptor(chain[plain.len()], whole, F_INDIRECT, 0);
        }
        self.chains[usize::from(head)] = chain;
        self.order.push_back(head);
        let entry = self.avail_entry_at(self.avail);
        self.memory.u16_at(entry).store(head.to_le(), Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
        Some(head)
    }

    fn table(&mut self, head: u16, entries: usize) -> GuestAddress {
        if let Some((at, room)) = self.tables[usize::from(head)]
            && room >= entries
        {
            return at;
        }
        let at = self.memory.allocate((entries * DESC_LEN) as u64, 16);
        self.tables[usize::from(head)] = Some((at, entries));
        at
    }

    /// Shows the device what was added. True if it wants to be notified.
    pub fn expose(&mut self) -> bool {
        let (before, now) = (self.exposed, self.avail);
        self.memory.u16_at(self.avail_index_at()).store(now.to_le(), Ordering::Release);
        self.exposed = now;
        fence(Ordering::SeqCst);
        if !self.features.event_idx {
            return self.load(self.used_flags_at()) & USED_NO_NOTIFY == 0;
        }
        let event = self.load(self.avail_event_at());
        now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
    }

    fn load(&self, at: GuestAddress) -> u16 {
        u16::from_le(self.memory.u16_at(at).load(Ordering::Relaxed))
    }

    /// Buffers given back and not yet taken.
    pub fn pending(&self) -> u16 {
        let index = self.memory.u16_at(self.used_index_at()).load(Ordering::Acquire);
        let pending = u16::from_le(index).wrapping_sub(self.used);
        assert!(usize::from(pending) <= self.order.len(), "the device gave back too much");
        pending
    }

    /// Takes back the oldest buffer the device has given back.
    pub fn take_used(&mut self) -> Option<UsedBuffer> {
        if self.pending() == 0 {
            return None;
        }
        let at = self.used_entry_at(self.used);
        let head = u32::from_le(self.memory.u32_at(at).load(Ordering::Relaxed));
        let at = GuestAddress(at.0 + 4);
        let len = u32::from_le(self.memory.u32_at(at).load(Ordering::Relaxed));
        let expected = self.order.pop_front().unwrap();
        assert_eq!(head, u32::from(expected), "the device gave back out of order");
        self.used = self.used.wrapping_add(1);
        let mut chain = std::mem::take(&mut self.chains[usize::from(expected)]);
        chain.reverse();
        self.free.append(&mut chain);
        Some(UsedBuffer { head: expected, len })
    }

    /// Asks for a notification when the next buffer comes back. True if one is there already.
    pub fn arm(&mut self) -> bool {
        let (at, word) = match self.features.event_idx {
            true => (self.used_event_at(), self.used),
            false => (self.avail_flags_at(), 0),
        };
        self.memory.u16_at(at).store(word.to_le(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.pending() > 0
    }

    /// Asks for no notifications.
    pub fn disarm(&mut self) {
        let (at, word) = match self.features.event_idx {
            true => (self.used_event_at(), self.used.wrapping_sub(1)),
            false => (self.avail_flags_at(), AVAIL_NO_INTERRUPT),
        };
        self.memory.u16_at(at).store(word.to_le(), Ordering::Relaxed);
    }

    /// Asks for a notification when so many buffers have come back (with event index).
    pub fn arm_after(&mut self, buffers: u16) {
        let event = self.used.wrapping_add(buffers).wrapping_sub(1);
        self.memory.u16_at(self.used_event_at()).store(event.to_le(), Ordering::Relaxed);
    }
}

impl DriverRing for DriverQueue {
    fn set_up(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures) -> Self {
        Self::new(memory, size, features, 0)
    }

    fn layout(&self) -> QueueLayout {
        self.layout
    }

    fn features(&self) -> QueueFeatures {
        self.features
    }

    fn memory(&self) -> &Arc<DriverMemory> {
        &self.memory
    }

    fn add(&mut self, buffers: &[Buffer], writable: bool, table: Option<usize>) -> Option<u16> {
        Self::add(self, buffers, writable, table)
    }

    fn expose(&mut self) -> bool {
        Self::expose(self)
    }

    fn take_used(&mut self) -> Option<UsedBuffer> {
        Self::take_used(self)
    }

    fn outstanding(&self) -> usize {
        Self::outstanding(self)
    }

    fn arm(&mut self) -> bool {
        Self::arm(self)
    }

    fn disarm(&mut self) {
        Self::disarm(self);
    }

    fn base(&self) -> u16 {
        // Not to be believed: the used index says it.
        0
    }
}

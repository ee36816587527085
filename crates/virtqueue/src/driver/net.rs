//! Frames in and out of a driver's queues.

use std::sync::Arc;

use crate::driver::memory::DriverMemory;
use crate::driver::queue::{Buffer, DriverQueue, DriverRing};
use crate::layout::QueueFeatures;
use crate::memory::GuestAddress;
use crate::net_header::NetHeader;

/// How a frame and its header are cut into descriptors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape<'a> {
    /// Octets of the first pieces, counted from the header's first octet; the rest is one more.
    /// Zero makes an empty descriptor.
    pub cuts: &'a [usize],
    /// Plain descriptors before an indirect table with the others; `None`: no table.
    pub table: Option<usize>,
}

/// One place for a buffer per ring entry in every region of the memory, so that pieces of one chain
/// can lie in different regions.
struct Slots {
    /// Per slot, its address in each region.
    places: Vec<Vec<GuestAddress>>,
    free: Vec<usize>,
    /// Per head, the slot it uses.
    by_head: Vec<usize>,
    len: usize,
}

impl Slots {
    fn new(memory: &DriverMemory, size: u16, len: usize) -> Self {
        let size = usize::from(size);
        let place = |region| memory.allocate_in(region, len as u64, 1);
        let places: Vec<Vec<_>> =
            (0..size).map(|_| (0..memory.regions().len()).filter_map(place).collect()).collect();
        assert!(places.iter().all(|p| !p.is_empty()), "the driver's memory is too small");
        Self { places, free: (0..size).rev().collect(), by_head: vec![0; size], len }
    }

    /// The pieces of `total` octets in slot `slot`, each in the next region.
    fn pieces(&self, slot: usize, total: usize, cuts: &[usize]) -> Vec<Buffer> {
        assert!(total <= self.len, "{total} octets in a slot of {}", self.len);
        let places = &self.places[slot];
        let mut offset = 0;
        let mut pieces = Vec::with_capacity(cuts.len() + 1);
        let mut push = |len: usize| {
            let at = places[pieces.len() % places.len()].0 + offset as u64;
            pieces.push(Buffer { address: GuestAddress(at), len: len as u32 });
            offset += len;
            offset
        };
        let end = cuts.iter().fold(0, |end, &cut| push(cut.min(total - end)));
        if end < total || cuts.is_empty() {
            push(total - end);
        }
        pieces
    }
}

/// The driver's output queue: over a split ring, if nothing else is said.
pub struct DriverTx<Q = DriverQueue> {
    /// The ring.
    pub queue: Q,
    slots: Slots,
    scratch: Vec<u8>,
}

impl DriverTx {
    /// A queue of `size` entries with buffers for header and frame of up to `room` octets each.
    pub fn new(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures, room: usize) -> Self {
        Self::over(DriverQueue::set_up(memory, size, features), room)
    }
}

impl<Q: DriverRing> DriverTx<Q> {
    /// The same over a ring that was set up elsewhere.
    pub fn over(queue: Q, room: usize) -> Self {
        let slots = Slots::new(queue.memory(), queue.layout().size, room);
        Self { queue, slots, scratch: Vec::new() }
    }

    /// Adds one frame. Gives its head; `None` if the ring is full. The device sees it after
    /// [`DriverQueue::expose`].
    pub fn send(&mut self, header: &NetHeader, frame: &[u8], shape: Shape<'_>) -> Option<u16> {
        let slot = *self.slots.free.last()?;
        self.scratch.clear();
        let header_len = self.queue.features().header_octets();
        self.scratch.extend_from_slice(&header.to_bytes()[..header_len]);
        self.scratch.extend_from_slice(frame);
        let pieces = self.slots.pieces(slot, self.scratch.len(), shape.cuts);
        let mut from = 0;
        for piece in &pieces {
            let end = from + piece.len as usize;
            self.queue.memory().write(piece.address, &self.scratch[from..end]);
            from = end;
        }
        let head = self.queue.add(&pieces, false, shape.table)?;
        self.slots.free.pop();
        self.slots.by_head[usize::from(head)] = slot;
        Some(head)
    }

    /// Takes back what the device has given back; how many.
    pub fn reclaim(&mut self) -> usize {
        let mut count = 0;
        while let Some(used) = self.queue.take_used() {
            assert_eq!(used.len, 0, "the device wrote into an output buffer");
            self.slots.free.push(self.slots.by_head[usize::from(used.head)]);
            count += 1;
        }
        count
    }
}

/// The driver's input queue: over a split ring, if nothing else is said.
pub struct DriverRx<Q = DriverQueue> {
    /// The ring.
    pub queue: Q,
    slots: Slots,
    /// Per head, the pieces of its buffer.
    pieces: Vec<Vec<Buffer>>,
    /// Whether a buffer may come back empty: a device may leave one out that it cannot stand.
    pub may_be_empty: bool,
}

impl DriverRx {
    /// A queue of `size` entries with buffers of up to `room` octets each. None is posted yet.
    pub fn new(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures, room: usize) -> Self {
        Self::over(DriverQueue::set_up(memory, size, features), room)
    }
}

impl<Q: DriverRing> DriverRx<Q> {
    /// The same over a ring that was set up elsewhere.
    pub fn over(queue: Q, room: usize) -> Self {
        let size = queue.layout().size;
        let slots = Slots::new(queue.memory(), size, room);
        let pieces = vec![Vec::new(); usize::from(size)];
        Self { queue, slots, pieces, may_be_empty: false }
    }

    /// Adds one buffer of `len` octets. Gives its head; `None` if the ring is full. The device sees
    /// it after [`DriverQueue::expose`].
    pub fn post(&mut self, len: usize, shape: Shape<'_>) -> Option<u16> {
        let slot = *self.slots.free.last()?;
        let pieces = self.slots.pieces(slot, len, shape.cuts);
        let head = self.queue.add(&pieces, true, shape.table)?;
        self.slots.free.pop();
        self.slots.by_head[usize::from(head)] = slot;
        self.pieces[usize::from(head)] = pieces;
        Some(head)
    }

    /// Posts whole buffers of `len` octets until the ring is full; how many.
    pub fn fill(&mut self, len: usize) -> usize {
        let mut count = 0;
        while self.post(len, Shape::default()).is_some() {
            count += 1;
        }
        count
    }

    /// The next frame the device has delivered, into `frame` (which is cleared first).
    pub fn receive(&mut self, frame: &mut Vec<u8>) -> Option<NetHeader> {
        frame.clear();
        if !self.collect(frame) {
            return None;
        }
        if self.may_be_empty && frame.is_empty() && !self.collect(frame) {
            return None;
        }
        let header_len = self.queue.features().header_octets();
        assert!(frame.len() >= header_len, "the device wrote less than a header");
        let mut octets = [0; NetHeader::LEN];
        octets[..header_len].copy_from_slice(&frame[..header_len]);
        let header = NetHeader::from_bytes(octets);
        if self.queue.features().mergeable {
            assert!(header.num_buffers > 0, "a frame in no buffer");
            for _ in 1..header.num_buffers {
                assert!(self.collect(frame), "the device published half a frame");
            }
        }
        frame.drain(..header_len);
        Some(header)
    }

    /// Appends what the device wrote into the next buffer.
    fn collect(&mut self, frame: &mut Vec<u8>) -> bool {
        let Some(used) = self.queue.take_used() else { return false };
        let head = usize::from(used.head);
        self.slots.free.push(self.slots.by_head[head]);
        let mut left = used.len as usize;
        for piece in std::mem::take(&mut self.pieces[head]) {
            let n = left.min(piece.len as usize);
            let start = frame.len();
            frame.resize(start + n, 0);
            self.queue.memory().read(piece.address, &mut frame[start..]);
            left -= n;
        }
        assert_eq!(left, 0, "the device claims to have written beyond the buffer");
        true
    }
}

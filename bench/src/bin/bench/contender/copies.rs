//! Two plain copies and nothing else. (A switch that asks for lines ahead can be faster.)
//!
//! # Theory of operation
//! A thread on the switching core that has the guests' memory as a switch has it, and reads nothing
//! of it but indices: it knows the order of the buffers. Each datagram goes from the sender's buffer
//! into an arena of the size of the base's, a batch at a time, and from there into the receiver's
//! buffers. So the caches are used as a switch uses them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lab::Result;
use virtqueue::GuestAddress;
use virtqueue::driver::DriverMemory;

use super::thread::Thread;
use super::{Between, Switch};
use crate::generator::{Guest, HEADER, Plan};

/// Datagrams copied before the first is copied on: as many of the largest as the base takes at once.
const BATCH: u16 = 3;

/// The thread, when there is one.
#[derive(Default)]
pub struct Copies {
    thread: Option<Thread>,
}

impl Switch for Copies {
    fn name(&self) -> &'static str {
        "two copies"
    }

    fn pause(&self) -> Result<()> {
        self.thread.iter().for_each(Thread::pause);
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        self.thread.iter().for_each(Thread::resume);
        Ok(())
    }
}

impl Between for Copies {
    fn attach(&mut self, [from, to]: &mut [Guest; 2], plan: &Plan) -> Result<()> {
        self.thread = None;
        let len = HEADER + plan.frame;
        let (mut from, mut to) = (End::new(from, 1), End::new(to, 0));
        // As in a switch, no interrupt and no notification.
        from.memory.u16_at(GuestAddress(from.used)).store(1, Ordering::Relaxed);
        let mut arena = vec![0; usize::from(BATCH) * len];
        let work = move || copy(&mut from, &mut to, &mut arena, len);
        self.thread = Some(Thread::start("copies", work)?);
        Ok(())
    }
}

/// A ring as the thread has it.
struct End {
    memory: Arc<DriverMemory>,
    avail: u64,
    used: u64,
    buffers: u64,
    stride: u64,
    buffer: usize,
    entries: u16,
    /// Buffers taken so far.
    index: u16,
}

impl End {
    fn new(guest: &Guest, ring: usize) -> Self {
        let ring = &guest.rings[ring];
        Self {
            memory: guest.memory.clone(),
            avail: ring.layout.avail.0,
            used: ring.layout.used.0,
            buffers: ring.buffers.0,
            stride: ring.stride as u64,
            buffer: ring.shape.buffer,
            entries: ring.shape.entries,
            index: 0,
        }
    }

    /// Buffers that the driver has shown and that were not taken.
    fn waiting(&self) -> u16 {
        let shown = self.memory.u16_at(GuestAddress(self.avail + 2)).load(Ordering::Acquire);
        shown.wrapping_sub(self.index)
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.entries - 1))
    }

    fn place(&self, index: u16) -> GuestAddress {
        GuestAddress(self.buffers + self.slot(index) * self.stride)
    }

    /// Notes that the next buffer was used.
    fn use_next(&mut self, len: usize) {
        let slot = self.slot(self.index);
        let entry = self.used + 4 + slot * 8;
        self.memory.u32_at(GuestAddress(entry)).store(slot as u32, Ordering::Relaxed);
        self.memory.u32_at(GuestAddress(entry + 4)).store(len as u32, Ordering::Relaxed);
        self.index = self.index.wrapping_add(1);
    }

    fn publish(&self) {
        self.memory.u16_at(GuestAddress(self.used + 2)).store(self.index, Ordering::Release);
    }
}

/// Copies a batch of datagrams of `len` octets; whether there was one.
fn copy(from: &mut End, to: &mut End, arena: &mut [u8], len: usize) -> bool {
    let each = len.div_ceil(to.buffer) as u16;
    let count = from.waiting().min(BATCH).min(to.waiting() / each);
    if count == 0 {
        return false;
    }
    for datagram in arena.chunks_exact_mut(len).take(count.into()) {
        from.memory.read(from.place(from.index), datagram);
        from.use_next(0);
    }
    for datagram in arena.chunks_exact(len).take(count.into()) {
        let first = to.place(to.index);
        for piece in datagram.chunks(to.buffer) {
            to.memory.write(to.place(to.index), piece);
            to.use_next(piece.len());
        }
        // How many buffers it took, in the virtio-net header.
        to.memory.u16_at(GuestAddress(first.0 + 10)).store(each, Ordering::Relaxed);
    }
    to.publish();
    from.publish();
    true
}

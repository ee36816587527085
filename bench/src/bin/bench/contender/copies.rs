//! Two copies and nothing else: what no switch between two memories can be faster than.
//!
//! # Theory of operation
//! A thread on the switching core that has the guests' memory as a switch has it, and reads nothing
//! of it but indices: it knows the order of the buffers. Each datagram goes from the sender's buffer
//! into an arena of the size of the base's, a batch at a time, and from there into the receiver's
//! buffers. So the caches are used as a switch uses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::Result;
use lab::error::Attempt;
use virtqueue::GuestAddress;
use virtqueue::driver::DriverMemory;

use super::{SWITCHING, Switch, pin};
use crate::generator::{Guest, HEADER, Plan};

/// Datagrams copied before the first is copied on: as many of the largest as the base takes at once.
const BATCH: u16 = 2;

const RUN: u8 = 0;
const REST: u8 = 1;
const END: u8 = 2;

/// The thread, when there is one.
#[derive(Default)]
pub struct Copies {
    order: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Copies {
    fn end(&mut self) {
        self.order.store(END, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it has panicked, it has said so, and nothing arrives.
            let _ = thread.join();
        }
    }
}

impl Switch for Copies {
    fn name(&self) -> &'static str {
        "two copies"
    }

    fn attach(&mut self, [from, to]: &mut [Guest; 2], plan: &Plan) -> Result<()> {
        self.end();
        self.order = Arc::new(AtomicU8::new(RUN));
        let order = self.order.clone();
        let len = HEADER + plan.frame;
        let (from, to) = (End::new(from, 1), End::new(to, 0));
        // As in a switch, no interrupt and no notification.
        from.memory.u16_at(GuestAddress(from.used)).store(1, Ordering::Relaxed);
        let work = move || {
            if pin(None, SWITCHING).is_ok() {
                copy(&order, from, to, len);
            }
        };
        let thread = std::thread::Builder::new().name("copies".to_owned()).spawn(work);
        self.thread = Some(thread.attempt(|| "start a thread".to_owned())?);
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        self.order.store(REST, Ordering::Relaxed);
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        self.order.store(RUN, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.end();
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

/// Copies datagrams of `len` octets until it is told to end.
fn copy(order: &AtomicU8, mut from: End, mut to: End, len: usize) {
    let each = len.div_ceil(to.buffer) as u16;
    let mut arena = vec![0; usize::from(BATCH) * len];
    loop {
        match order.load(Ordering::Relaxed) {
            RUN => {}
            REST => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            _ => return,
        }
        let count = from.waiting().min(BATCH).min(to.waiting() / each);
        if count == 0 {
            std::hint::spin_loop();
            continue;
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
    }
}

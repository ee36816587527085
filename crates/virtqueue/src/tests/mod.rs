//! The device's side against the driver's side.
//!
//! What both layouts have in common is told once, in `both/`, and run over each: the bodies there see
//! the rings of whichever module they are part of, [`split`] or [`packed`].
#![allow(clippy::arithmetic_side_effects, clippy::duplicate_mod)]

mod packed;
mod split;
mod stretch;
mod torn;

use std::sync::Arc;

use stretch::{Rooms, copy_one, deliver_one};

use crate::driver::{DriverMemory, DriverQueue, DriverRing, DriverRx, DriverTx, PackedQueue};
use crate::{GuestMemory, HeaderLen, NetHeader, QueueFeatures, RingFault, RxQueue, TxQueue};

/// A header in which every octet that a sender can set is different.
const HEADER: NetHeader = NetHeader {
    flags: 1,
    gso_type: 4,
    hdr_len: 0x1234,
    gso_size: 0x5678,
    csum_start: 0x9abc,
    csum_offset: 0xdef0,
    num_buffers: 0,
};

/// Three regions: two that touch in the guest's addresses, one far away.
fn memory() -> Arc<DriverMemory> {
    let regions = [(0x1000, 0x80_0000), (0x80_1000, 0x40_0000), (0x1_0000_0000, 0x40_0000)];
    DriverMemory::new(&regions).unwrap()
}

/// A driver's ring that knows its device.
trait Resumed: DriverRing {
    /// The device's side, where the ring says that it stands.
    fn resume_tx(&self, memory: Arc<GuestMemory>) -> Result<TxQueue, RingFault>;
    /// The same of an input queue.
    fn resume_rx(&self, memory: Arc<GuestMemory>) -> Result<RxQueue, RingFault>;
}

impl Resumed for DriverQueue {
    fn resume_tx(&self, memory: Arc<GuestMemory>) -> Result<TxQueue, RingFault> {
        TxQueue::resume(memory, self.layout(), self.features())
    }

    fn resume_rx(&self, memory: Arc<GuestMemory>) -> Result<RxQueue, RingFault> {
        RxQueue::resume(memory, self.layout(), self.features())
    }
}

impl Resumed for PackedQueue {
    fn resume_tx(&self, memory: Arc<GuestMemory>) -> Result<TxQueue, RingFault> {
        TxQueue::resume_packed(memory, self.layout(), self.features(), self.journal())
    }

    fn resume_rx(&self, memory: Arc<GuestMemory>) -> Result<RxQueue, RingFault> {
        RxQueue::resume_packed(memory, self.layout(), self.features(), self.journal())
    }
}

fn resume_tx<Q: Resumed>(queue: &Q) -> TxQueue {
    queue.resume_tx(queue.memory().share()).unwrap()
}

fn resume_rx<Q: Resumed>(queue: &Q) -> RxQueue {
    queue.resume_rx(queue.memory().share()).unwrap()
}

fn tx_over<Q: Resumed>(size: u16, features: QueueFeatures) -> (DriverTx<Q>, TxQueue) {
    let driver = DriverTx::over(Q::set_up(memory(), size, features), 0x1000);
    let device = resume_tx(&driver.queue);
    (driver, device)
}

fn rx_over<Q: Resumed>(size: u16, features: QueueFeatures) -> (DriverRx<Q>, RxQueue) {
    let driver = DriverRx::over(Q::set_up(memory(), size, features), 0x1000);
    let device = resume_rx(&driver.queue);
    (driver, device)
}

/// `len` octets that differ from their neighbours and between frames.
fn frame(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 + seed * 7) as u8).collect()
}

/// Octets that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

//! The device's side against the driver's side.
#![allow(clippy::arithmetic_side_effects)]

mod hostile;
mod model;
mod notify;
mod plain;
mod race;
mod rx;
mod torn;
mod tx;

use std::sync::Arc;

use crate::driver::{DriverMemory, DriverQueue, DriverRx, DriverTx};
use crate::{HeaderLen, NetHeader, QueueFeatures, RxQueue, TxQueue};

/// Plain rings of a modern driver.
const PLAIN: QueueFeatures = QueueFeatures {
    event_idx: false,
    indirect: false,
    header_len: HeaderLen::Full,
    mergeable: false,
};

/// Everything.
const RICH: QueueFeatures =
    QueueFeatures { event_idx: true, indirect: true, header_len: HeaderLen::Full, mergeable: true };

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

fn tx(size: u16, features: QueueFeatures) -> (DriverTx, TxQueue) {
    let driver = DriverTx::new(memory(), size, features, 0x1000);
    let device = TxQueue::resume(driver.queue.memory().share(), driver.queue.layout(), features);
    (driver, device.unwrap())
}

fn rx(size: u16, features: QueueFeatures) -> (DriverRx, RxQueue) {
    let driver = DriverRx::new(memory(), size, features, 0x1000);
    let device = RxQueue::resume(driver.queue.memory().share(), driver.queue.layout(), features);
    (driver, device.unwrap())
}

/// A ring whose indices begin at `start`, in memory of its own.
fn ring_at(size: u16, features: QueueFeatures, start: u16) -> DriverQueue {
    DriverQueue::new(memory(), size, features, start)
}

/// `len` octets that differ from their neighbours and between frames.
fn frame(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 + seed * 7) as u8).collect()
}

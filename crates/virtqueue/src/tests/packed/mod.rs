//! Packed rings.

mod hostile;
#[path = "../both/model.rs"]
mod model;
#[path = "../both/notify.rs"]
mod notify;
#[path = "../both/plain.rs"]
mod plain;
#[path = "../both/race.rs"]
mod race;
mod rewriting;
#[path = "../both/rx.rs"]
mod rx;
mod straight;
mod succession;
#[path = "../both/tx.rs"]
mod tx;

use super::*;

type DriverTx = crate::driver::DriverTx<PackedQueue>;
type Queue = PackedQueue;
type DriverRx = crate::driver::DriverRx<PackedQueue>;

fn tx(size: u16, features: QueueFeatures) -> (DriverTx, TxQueue) {
    tx_over(size, features)
}

fn rx(size: u16, features: QueueFeatures) -> (DriverRx, RxQueue) {
    rx_over(size, features)
}

/// A ring that begins at `start`: an offset modulo the size, and the wrap counter in bit 15.
fn ring_at(size: u16, features: QueueFeatures, start: u16) -> PackedQueue {
    PackedQueue::new(memory(), size, features, start)
}

/// Where a ring begins that was just set up.
const START: u16 = 0x8000;

/// Sizes of small rings: any will do.
const SIZES: [u16; 7] = [1, 2, 3, 5, 13, 33, 64];
/// The smallest and the largest.
const EXTREMES: [u16; 4] = [1, 3, 0x7fff, 0x8000];

/// Plain rings of a modern driver.
const PLAIN: QueueFeatures = QueueFeatures {
    event_idx: false,
    indirect: false,
    header_len: HeaderLen::Full,
    mergeable: false,
    packed: true,
};

/// Everything.
const RICH: QueueFeatures =
    QueueFeatures { event_idx: true, indirect: true, mergeable: true, ..PLAIN };

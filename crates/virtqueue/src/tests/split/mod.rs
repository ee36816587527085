//! Split rings.

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
#[path = "../both/tx.rs"]
mod tx;

use super::*;

pub(super) type DriverTx = crate::driver::DriverTx<DriverQueue>;
type Queue = DriverQueue;
type DriverRx = crate::driver::DriverRx<DriverQueue>;

pub(super) fn tx(size: u16, features: QueueFeatures) -> (DriverTx, TxQueue) {
    tx_over(size, features)
}

fn rx(size: u16, features: QueueFeatures) -> (DriverRx, RxQueue) {
    rx_over(size, features)
}

/// A ring whose indices begin at `start`, in memory of its own.
fn ring_at(size: u16, features: QueueFeatures, start: u16) -> DriverQueue {
    DriverQueue::new(memory(), size, features, start)
}

/// Where a ring begins that was just set up.
const START: u16 = 0;

/// Sizes of small rings.
const SIZES: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The smallest and the largest.
const EXTREMES: [u16; 3] = [1, 2, 0x8000];

/// Plain rings of a modern driver.
pub(super) const PLAIN: QueueFeatures = QueueFeatures {
    event_idx: false,
    indirect: false,
    header_len: HeaderLen::Full,
    mergeable: false,
    packed: false,
};

/// Everything.
const RICH: QueueFeatures =
    QueueFeatures { event_idx: true, indirect: true, mergeable: true, ..PLAIN };

//! Both sides at work at the same time, in one mapping, so that ThreadSanitizer sees them meet.
//!
//! Threads are spawned and joined, never scoped: it knows of the one and not of the other.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::*;
use crate::driver::{Buffer, Shape};
use crate::{Delivered, GuestAddress, RingFault};

const CUTS: [&[usize]; 4] = [&[], &[12], &[5, 30], &[0, 20, 20]];

/// A pair of rings over one memory, and the device's side of them over the same mappings.
fn rings(size: u16, features: QueueFeatures) -> (DriverTx, DriverRx, TxQueue, RxQueue) {
    let memory = memory();
    let driver_tx = DriverTx::new(memory.clone(), size, features, 0x400);
    let driver_rx = DriverRx::new(memory.clone(), size, features, 0x400);
    let shared = memory.share_same();
    let tx = TxQueue::resume(shared.clone(), driver_tx.queue.layout(), features).unwrap();
    let rx = RxQueue::resume(shared, driver_rx.queue.layout(), features).unwrap();
    (driver_tx, driver_rx, tx, rx)
}

/// One look of the driver at its rings: sends, takes back, receives. True if anything was done.
struct Driver {
    tx: DriverTx,
    rx: DriverRx,
    sent: usize,
    received: usize,
    frame: Vec<u8>,
}

impl Driver {
    fn turn(&mut self, count: usize) -> (bool, bool, bool) {
        let mut busy = self.tx.reclaim() > 0;
        let before = self.sent;
        while self.sent < count {
            let shape = Shape { cuts: CUTS[self.sent % 4], table: [None, Some(0)][self.sent % 2] };
            let sent = frame(self.sent, 14 + self.sent % 400);
            if self.tx.send(&HEADER, &sent, shape).is_none() {
                break;
            }
            self.sent += 1;
        }
        let kick_tx = self.sent != before && self.tx.queue.expose();
        while self.rx.receive(&mut self.frame).is_some() {
            assert_eq!(self.frame, frame(self.received, 14 + self.received % 400));
            self.received += 1;
            busy = true;
        }
        let kick_rx = self.rx.fill(200) > 0 && self.rx.queue.expose();
        (busy || self.sent != before, kick_tx, kick_rx)
    }
}

/// One look of the device: hands back what it takes, as long as there are buffers. `held` is a frame
/// taken and not delivered yet.
fn echo(tx: &mut TxQueue, rx: &mut RxQueue, held: &mut Option<Vec<u8>>) -> (usize, bool, bool) {
    let mut room = [0; 500];
    let mut carried = 0;
    loop {
        if held.is_none() {
            *held = tx.copy_next(&mut room).unwrap().map(|t| room[..t.len].to_vec());
        }
        let Some(sent) = held.as_deref() else { break };
        if rx.deliver(&HEADER, &[sent]).unwrap() != Delivered::Written {
            break;
        }
        *held = None;
        carried += 1;
    }
    let notify_rx = rx.publish().unwrap();
    (carried, tx.complete().unwrap(), notify_rx)
}

#[test]
fn frames_cross_between_threads_that_only_look() {
    const COUNT: usize = 20_000;
    let (tx_driver, rx_driver, mut tx, mut rx) = rings(16, RICH);
    let driver = thread::spawn(move || {
        let frame = Vec::new();
        let mut driver = Driver { tx: tx_driver, rx: rx_driver, sent: 0, received: 0, frame };
        while driver.received < COUNT {
            if !driver.turn(COUNT).0 {
                thread::yield_now();
            }
        }
        driver.sent
    });
    let (mut held, mut carried) = (None, 0);
    while carried < COUNT && !driver.is_finished() {
        let (n, ..) = echo(&mut tx, &mut rx, &mut held);
        carried += n;
        if n == 0 {
            thread::yield_now();
        }
    }
    assert_eq!(driver.join().unwrap(), COUNT);
}

/// Waits for an event. Long enough to call its absence a lost wake-up.
fn wait(event: &std::os::fd::OwnedFd) {
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "a wake-up was lost");
    rustix::io::read(event, &mut [0; 8]).unwrap();
}

fn wake(event: &std::os::fd::OwnedFd) {
    rustix::io::write(event, &1_u64.to_ne_bytes()).unwrap();
}

#[test]
fn no_wake_up_is_lost_between_threads_that_sleep() {
    const COUNT: usize = 10_000;
    for event_idx in [false, true] {
        let features = QueueFeatures { event_idx, ..RICH };
        let (tx_driver, rx_driver, mut tx, mut rx) = rings(16, features);
        let kick = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let call = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let driver = {
            let (kick, call) = (kick.clone(), call.clone());
            thread::spawn(move || {
                let frame = Vec::new();
                let mut driver =
                    Driver { tx: tx_driver, rx: rx_driver, sent: 0, received: 0, frame };
                while driver.received < COUNT {
                    driver.tx.queue.disarm();
                    driver.rx.queue.disarm();
                    let (busy, kick_tx, kick_rx) = driver.turn(COUNT);
                    if kick_tx || kick_rx {
                        wake(&kick);
                    }
                    // Both rings must be armed, whatever the first says.
                    let more = driver.tx.queue.arm() | driver.rx.queue.arm();
                    if !busy && !more && driver.received < COUNT {
                        wait(&call);
                    }
                }
            })
        };
        let (mut held, mut carried) = (None, 0);
        while carried < COUNT && !driver.is_finished() {
            tx.disarm();
            rx.disarm();
            let (n, call_tx, call_rx) = echo(&mut tx, &mut rx, &mut held);
            if call_tx || call_rx {
                wake(&call);
            }
            carried += n;
            // Frames that lie there are no reason to go on without buffers for them.
            let (frames, buffers) = (tx.arm().unwrap(), rx.arm().unwrap());
            let more = if held.is_some() { buffers } else { frames };
            if n == 0 && !more && carried < COUNT {
                wait(&kick);
            }
        }
        driver.join().unwrap();
    }
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

/// Rewrites descriptors, tables, entries, indices and buffers of a ring until told to stop.
fn rewrite(queue: &DriverQueue, tables: &[GuestAddress], data: &[GuestAddress], stop: &AtomicBool) {
    let memory = queue.memory();
    let size = queue.layout().size;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    while !stop.load(Ordering::Relaxed) {
        let r = dice.roll();
        let index = (r >> 8) as u16 % size;
        let table = tables[r as usize / 16 % tables.len()].0 + (r >> 20) % 3 * 16;
        let at = if r & 1 == 0 { queue.descriptor_at(index) } else { GuestAddress(table) };
        let wild = dice.roll().is_multiple_of(16);
        let address = data[(r >> 32) as usize % data.len()].0 + if wild { 1 << 45 } else { 0 };
        let flags = [0, 1, 4, 1, 0, 0, 1, if wild { 7 } else { 0 }][(r >> 40) as usize % 8];
        let len = [0, 12, 60, 400, 48, 16, 100, if wild { 1 << 31 } else { 32 }];
        let next = (r >> 44) % if wild { 0x1_0000 } else { u64::from(size) };
        let rest = len[(r >> 36) as usize % 8] | flags << 32 | next << 48;
        match r >> 60 {
            0..4 => memory.u64_at(at).store(address, Ordering::Relaxed),
            4..10 => memory.u64_at(GuestAddress(at.0 + 8)).store(rest, Ordering::Relaxed),
            10 => memory.u16_at(queue.avail_entry_at(index)).store(next as u16, Ordering::Relaxed),
            11 => memory.u16_at(queue.used_event_at()).store(r as u16, Ordering::Relaxed),
            12 => {
                // Mostly an index that can be; the device starts again after one that cannot.
                let used = memory.u16_at(queue.used_index_at()).load(Ordering::Relaxed);
                let ahead = if wild { r as u16 } else { index };
                let word = memory.u16_at(queue.avail_index_at());
                word.store(used.wrapping_add(ahead), Ordering::Release);
            }
            _ => memory.write(data[r as usize % data.len()], &r.to_le_bytes().repeat(20)),
        }
    }
}

#[test]
fn a_driver_that_rewrites_everything_meanwhile_gets_frames_or_faults_and_no_more() {
    const ENOUGH: u64 = 500;
    for writable in [false, true] {
        let memory = memory();
        let mut queue = DriverQueue::new(memory.clone(), 16, RICH, 0);
        let data: Vec<_> = (0..3).map(|i| memory.allocate_in(i, 0x400, 8).unwrap()).collect();
        let mut tables = Vec::new();
        for i in 0..8 {
            let buffers = [0, 1, 2].map(|j| Buffer { address: data[(i + j) % 3], len: 50 });
            tables.push(queue.add(&buffers, writable, Some(0)).unwrap());
        }
        queue.expose();
        let tables: Vec<_> = tables.iter().map(|&h| queue.table_at(h).unwrap()).collect();
        let (layout, shared) = (queue.layout(), memory.share_same());
        let stop = Arc::new(AtomicBool::new(false));
        let driver = {
            let stop = stop.clone();
            thread::spawn(move || rewrite(&queue, &tables, &data, &stop))
        };
        let (frames, faults) = (Cell::new(0), Cell::new(0));
        let count = |fault: Option<RingFault>| {
            let counter = if fault.is_none() { &frames } else { &faults };
            counter.set(counter.get() + 1);
        };
        let limit = Instant::now() + Duration::from_secs(240);
        let mut room = [0; 300];
        while (frames.get() < ENOUGH || faults.get() < ENOUGH) && Instant::now() < limit {
            if writable {
                let Ok(mut rx) = RxQueue::resume(shared.clone(), layout, RICH) else { continue };
                while let Ok(Delivered::Written) = rx.deliver(&HEADER, &[&room]) {
                    count(rx.publish().err());
                }
                count(rx.deliver(&HEADER, &[&room]).err());
                let _ = (rx.publish(), rx.arm());
            } else {
                let Ok(mut tx) = TxQueue::resume(shared.clone(), layout, RICH) else { continue };
                while let Ok(Some(_)) = tx.copy_next(&mut room) {
                    count(tx.complete().err());
                }
                count(tx.copy_next(&mut room).err());
                let _ = (tx.complete(), tx.arm());
            }
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        driver.join().unwrap();
        assert!(frames.get() >= ENOUGH, "{} frames: no contest", frames.get());
        assert!(faults.get() >= ENOUGH, "{} faults: no contest", faults.get());
    }
}

//! A driver that rewrites its packed ring while the device is at work in it, in one mapping.
//!
//! Two of them do it: one on a thread of its own, at any moment, and one between the device's looks, so
//! that each look finds another ring, however seldom the thread gets a processor.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::driver::Buffer;
use crate::{Delivered, GuestAddress, QueueLayout};

/// Who rewrites descriptors, tables, wishes and buffers of a ring.
struct Rewriter {
    memory: Arc<DriverMemory>,
    layout: QueueLayout,
    tables: Vec<GuestAddress>,
    data: Vec<GuestAddress>,
    /// The flag of buffers in the queue's direction.
    direction: u64,
    dice: Dice,
}

impl Rewriter {
    /// One store.
    fn step(&mut self) {
        let Self { memory, layout, tables, data, direction, dice } = self;
        let r = dice.roll();
        let slot = (r >> 8) % u64::from(layout.size);
        let table = tables[r as usize / 16 % tables.len()].0 + (r >> 20) % 3 * 16;
        let own = r & 1 == 0;
        let at = if own { layout.desc.0 + slot * 16 } else { table };
        let wild = dice.roll().is_multiple_of(16);
        let address = data[(r >> 32) as usize % data.len()].0 + if wild { 1 << 45 } else { 0 };
        let kind = [0, 1, 4, 1, 0, 0, 1, if wild { 7 } else { 0 }][(r >> 40) as usize % 8];
        // Mostly available, in one lap or the other.
        let lap = [1 << 7, 1 << 15, 1 << 7, 0][(r >> 50) as usize % 4];
        let direction = if wild { *direction ^ 2 } else { *direction };
        let flags = kind | direction | if own { lap } else { 0 };
        let len = [0, 12, 60, 400, 48, 16, 100, if wild { 1 << 31 } else { 32 }];
        let rest = len[(r >> 36) as usize % 8] | ((r >> 44) & 0xffff) << 32 | flags << 48;
        match r >> 60 {
            0..4 => memory.u64_at(GuestAddress(at)).store(address, Ordering::Relaxed),
            4..12 => memory.u64_at(GuestAddress(at + 8)).store(rest, Ordering::Release),
            12 => memory.u32_at(layout.avail).store(r as u32, Ordering::Relaxed),
            _ => memory.write(data[r as usize % data.len()], &r.to_le_bytes().repeat(20)),
        }
    }
}

#[test]
fn a_driver_that_rewrites_everything_meanwhile_gets_frames_or_faults_and_no_more() {
    const ENOUGH: u64 = 500;
    /// Looks of the device, each at a ring that was set up anew: far more than it takes.
    const LOOKS: usize = 50_000;
    /// Stores between two of them, and frames in one.
    const STORES: usize = 64;
    for writable in [false, true] {
        let memory = memory();
        let mut queue = PackedQueue::new(memory.clone(), 16, RICH, 0x8000);
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
        let rewriter = |seed| {
            let (tables, data) = (tables.clone(), data.clone());
            let direction = if writable { 2 } else { 0 };
            Rewriter { memory: memory.clone(), layout, tables, data, direction, dice: Dice(seed) }
        };
        let mut own = rewriter(0x6c62_272e_07bb_0142);
        let driver = {
            let (stop, mut rewriter) = (stop.clone(), rewriter(0x9e37_79b9_7f4a_7c15));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    rewriter.step();
                }
            })
        };
        let (frames, faults) = (Cell::new(0), Cell::new(0));
        let count = |fault: Option<RingFault>| {
            let counter = if fault.is_none() { &frames } else { &faults };
            counter.set(counter.get() + 1);
        };
        let mut room = [0; 300];
        let mut looks = 0;
        while looks < LOOKS {
            looks += 1;
            if frames.get() >= ENOUGH && faults.get() >= ENOUGH {
                break;
            }
            (0..STORES).for_each(|_| own.step());
            if writable {
                let Ok(mut rx) = RxQueue::resume(shared.clone(), layout, RICH) else { continue };
                for _ in 0..STORES {
                    match rx.deliver(&HEADER, &[&room[..40]]) {
                        Ok(Delivered::Written) => count(rx.publish().err()),
                        other => {
                            other.err().into_iter().for_each(|fault| count(Some(fault)));
                            break;
                        }
                    }
                }
                let _ = (rx.publish(), rx.arm());
            } else {
                let Ok(mut tx) = TxQueue::resume(shared.clone(), layout, RICH) else { continue };
                for _ in 0..STORES {
                    match tx.copy_next(&mut room) {
                        Ok(Some(_)) => count(tx.complete().err()),
                        other => {
                            other.err().into_iter().for_each(|fault| count(Some(fault)));
                            break;
                        }
                    }
                }
                let _ = (tx.complete(), tx.arm());
            }
        }
        stop.store(true, Ordering::Relaxed);
        driver.join().unwrap();
        println!("{looks} looks: {} frames, {} faults", frames.get(), faults.get());
        assert!(frames.get() >= ENOUGH, "{} frames: no contest", frames.get());
        assert!(faults.get() >= ENOUGH, "{} faults: no contest", faults.get());
    }
}

//! A driver that rewrites its packed ring while the device is at work in it, in one mapping.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::driver::Buffer;
use crate::{Delivered, GuestAddress};

/// Rewrites descriptors, tables, wishes and buffers of a ring until told to stop.
fn rewrite(queue: &PackedQueue, tables: &[GuestAddress], data: &[GuestAddress], stop: &AtomicBool) {
    let memory = queue.memory();
    let size = queue.layout().size;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    while !stop.load(Ordering::Relaxed) {
        let r = dice.roll();
        let slot = (r >> 8) as u16 % size;
        let table = tables[r as usize / 16 % tables.len()].0 + (r >> 20) % 3 * 16;
        let own = r & 1 == 0;
        let at = if own { queue.descriptor_at(slot) } else { GuestAddress(table) };
        let wild = dice.roll().is_multiple_of(16);
        let address = data[(r >> 32) as usize % data.len()].0 + if wild { 1 << 45 } else { 0 };
        let kind = [0, 1, 4, 1, 0, 0, 1, if wild { 7 } else { 0 }][(r >> 40) as usize % 8];
        // Mostly available, in one lap or the other.
        let lap = [1 << 7, 1 << 15, 1 << 7, 0][(r >> 50) as usize % 4];
        let flags = if own { kind | lap } else { kind };
        let len = [0, 12, 60, 400, 48, 16, 100, if wild { 1 << 31 } else { 32 }];
        let rest = len[(r >> 36) as usize % 8] | ((r >> 44) & 0xffff) << 32 | flags << 48;
        match r >> 60 {
            0..4 => memory.u64_at(at).store(address, Ordering::Relaxed),
            4..12 => memory.u64_at(GuestAddress(at.0 + 8)).store(rest, Ordering::Release),
            12 => memory.u32_at(queue.driver_event_at()).store(r as u32, Ordering::Relaxed),
            _ => memory.write(data[r as usize % data.len()], &r.to_le_bytes().repeat(20)),
        }
    }
}

#[test]
fn a_driver_that_rewrites_everything_meanwhile_gets_frames_or_faults_and_no_more() {
    const ENOUGH: u64 = 500;
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
                let last = loop {
                    match rx.deliver(&HEADER, &[&room]) {
                        Ok(Delivered::Written) => count(rx.publish().err()),
                        other => break other,
                    }
                };
                if let Err(fault) = last {
                    count(Some(fault));
                }
                let _ = (rx.publish(), rx.arm());
            } else {
                let Ok(mut tx) = TxQueue::resume(shared.clone(), layout, RICH) else { continue };
                let last = loop {
                    match tx.copy_next(&mut room) {
                        Ok(Some(_)) => count(tx.complete().err()),
                        other => break other,
                    }
                };
                if let Err(fault) = last {
                    count(Some(fault));
                }
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

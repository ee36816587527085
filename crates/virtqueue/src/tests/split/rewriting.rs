//! A driver that rewrites its ring while the device is at work in it, in one mapping.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::driver::Buffer;
use crate::{Delivered, GuestAddress};

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

//! Both sides at work at the same time, in one mapping, so that ThreadSanitizer sees them meet.
//!
//! Threads are spawned and joined, never scoped: it knows of the one and not of the other.

use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::*;
use crate::Delivered;
use crate::driver::Shape;

const CUTS: [&[usize]; 4] = [&[], &[12], &[5, 30], &[0, 20, 20]];

/// A pair of rings over one memory, and the device's side of them over the same mappings.
fn rings(size: u16, features: QueueFeatures) -> (DriverTx, DriverRx, TxQueue, RxQueue) {
    let memory = memory();
    let driver_tx = DriverTx::over(Queue::set_up(memory.clone(), size, features), 0x400);
    let driver_rx = DriverRx::over(Queue::set_up(memory.clone(), size, features), 0x400);
    let shared = memory.share_same();
    let tx = driver_tx.queue.resume_tx(shared.clone()).unwrap();
    let rx = driver_rx.queue.resume_rx(shared).unwrap();
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

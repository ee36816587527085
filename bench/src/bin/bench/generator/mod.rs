//! The generator: one thread that plays a sender and a receiver, the same for all contenders.
//!
//! # Theory of operation
//! ```text
//!  turn:  take what has arrived (header read, number checked), give its buffers back
//!         if a batch has room in the output ring: write it, show it
//! ```
//! For each datagram the sender writes the whole frame afresh, with the next number in it: a real
//! guest writes what it sends, so its lines must come out of this core's cache. The receiver reads
//! only the headers; what a guest does with the payload is its own affair.
//!
//! Both halves can be had alone ([`Sender`], [`Receiver`]): where datagrams leave by a card, or where
//! somebody sleeps between them.
//!
//! Whoever generates must be faster than whoever switches. Whether it was, [`Slice::counts`] says.

mod guest;
mod outward;
mod receiver;
mod sender;
mod template;
mod words;

use std::time::{Duration, Instant};

pub use guest::{Guest, HEADER, Plan, Ring, Shape};
pub use outward::{FarEnd, Outward};
pub use receiver::Receiver;
pub use sender::Sender;
pub use template::{Template, number_at};

use crate::slice::Slice;

/// A datagram that has not arrived by then never will.
const LOST: Duration = Duration::from_secs(1);
/// Turns between two looks at the clock.
const TURNS: u32 = 64;

/// A sender and a receiver with a switch between them.
pub struct Generator<'m> {
    /// The one who sends.
    pub sender: Sender<'m>,
    /// The one who receives.
    pub receiver: Receiver<'m>,
}

impl<'m> Generator<'m> {
    /// A generator between two guests that are attached to the same switch.
    pub fn new(sender: &'m Guest, receiver: &'m Guest, template: &'m Template) -> Self {
        Self { sender: Sender::new(sender, template), receiver: Receiver::new(receiver, template) }
    }

    /// Sends as much as goes for `time`.
    pub fn flood(&mut self, time: Duration) -> Slice {
        let mut seen = Slice::default();
        let start = Instant::now();
        loop {
            for _ in 0..TURNS {
                self.turn(&mut seen);
            }
            seen.time = start.elapsed();
            if seen.time >= time {
                return seen;
            }
        }
    }

    /// Takes what has arrived, and sends a batch if there is room.
    #[inline]
    pub fn turn(&mut self, seen: &mut Slice) {
        self.receiver.receive_many(self.sender.next(), seen);
        self.sender.try_batch(seen);
    }

    /// Sends one datagram at a time, so many in a second, for `time`.
    pub fn pace(&mut self, per_second: u32, time: Duration) -> Slice {
        let mut seen = Slice::default();
        let (start, every) = (Instant::now(), Duration::from_secs(1) / per_second);
        let mut due = Duration::ZERO;
        while seen.time < time {
            if seen.time >= due && self.sender.room() > 0 {
                self.sender.send(1);
                seen.attempts += 1;
                // What was missed is not made up for: it would be a burst.
                due = (due + every).max(seen.time);
            }
            self.receive(&mut seen);
            std::hint::spin_loop();
            seen.time = start.elapsed();
        }
        seen
    }

    /// Sends one datagram, waits for it, and sends one back by way of `back`; how long until that
    /// has arrived. `None` if one of them does not.
    pub fn trip(&mut self, back: &mut Self) -> Option<Duration> {
        let start = Instant::now();
        for way in [self, back] {
            way.sender.send(1);
            let mut seen = Slice::default();
            while seen.received == 0 {
                if start.elapsed() > LOST {
                    return None;
                }
                way.receive(&mut seen);
                std::hint::spin_loop();
            }
        }
        Some(start.elapsed())
    }

    /// Takes what still comes until nothing has for `time`, so that no later slice finds it.
    pub fn drain(&mut self, time: Duration) -> Slice {
        let mut seen = Slice::default();
        let mut last = Instant::now();
        while last.elapsed() < time {
            let before = seen.received;
            self.receive(&mut seen);
            if seen.received > before {
                last = Instant::now();
            }
        }
        seen
    }

    #[inline]
    fn receive(&mut self, seen: &mut Slice) {
        self.receiver.receive(self.sender.next(), seen, |_| {});
    }
}

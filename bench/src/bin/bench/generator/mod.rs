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
//! Whoever generates must be faster than whoever switches. Whether it was, [`Slice::counts`] says.

mod guest;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use bench::frames::{Ends, Kind, build};
use virtqueue::GuestAddress;
use virtqueue::driver::DriverMemory;

pub use guest::{Guest, HEADER, Plan, Ring, Shape};

use crate::slice::Slice;

/// Datagrams written at once, unless the ring is short.
const BATCH: u16 = 32;
/// The word of a buffer in which a datagram's number is: in the payload of all kinds of frames, and
/// in the first cache line where that is possible.
const NUMBER_OF_SHORT: usize = 7;
/// The same behind TCP's header with time stamps: octets 80 to 87 of a buffer, 78 is where the
/// payload begins.
const NUMBER_OF_LARGE: usize = 10;
/// Words of a buffer that are written one by one: header, frame's headers, number.
const HEAD: usize = 11;
/// A datagram that has not arrived by then never will.
const LOST: Duration = Duration::from_secs(1);
/// Turns between two looks at the clock.
const TURNS: u32 = 64;

/// Where a datagram's number is in a buffer, in 64-bit words.
pub fn number_at(kind: Kind) -> usize {
    match kind {
        Kind::Udp => NUMBER_OF_SHORT,
        Kind::LargeTcp => NUMBER_OF_LARGE,
    }
}

/// What is sent: a header and a frame, as the sender's buffer holds them.
#[derive(Debug)]
pub struct Template {
    octets: Vec<u8>,
    number_at: usize,
}

impl Template {
    /// A frame of `octets` octets.
    pub fn new(kind: Kind, ends: Ends, octets: usize) -> Self {
        let (header, mut frame) = build(kind, ends, octets);
        if kind == Kind::Udp && ends.addresses[0].is_ipv4() {
            // Not summed up: the number in it changes.
            frame[40..42].fill(0);
        }
        let octets = [&header.to_bytes()[..], &frame].concat();
        Self { octets, number_at: number_at(kind) }
    }

    /// Octets of header and frame.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    fn words(&self) -> [u64; HEAD] {
        let word = |n: usize| {
            let mut octets = [0; 8];
            let from = self.octets.get(8 * n..).unwrap_or_default();
            let len = from.len().min(8);
            octets[..len].copy_from_slice(&from[..len]);
            u64::from_le_bytes(octets)
        };
        std::array::from_fn(word)
    }
}

/// A ring's words in the guest's memory.
struct Words<'m> {
    avail_index: &'m AtomicU16,
    used_flags: &'m AtomicU16,
    used_index: &'m AtomicU16,
    /// Identity and length by turns.
    used: &'m [AtomicU32],
    buffers: &'m [AtomicU64],
    /// Words from one buffer to the next.
    stride: usize,
    entries: u16,
}

impl<'m> Words<'m> {
    fn of(memory: &'m DriverMemory, ring: &Ring) -> Self {
        let entries = usize::from(ring.shape.entries);
        let (avail, used) = (ring.layout.avail.0, ring.layout.used.0);
        let stride = ring.stride / 8;
        Self {
            avail_index: memory.u16_at(GuestAddress(avail + 2)),
            used_flags: memory.u16_at(GuestAddress(used)),
            used_index: memory.u16_at(GuestAddress(used + 2)),
            used: memory.u32s_at(GuestAddress(used + 4), 2 * entries),
            buffers: memory.u64s_at(ring.buffers, stride * entries),
            stride,
            entries: ring.shape.entries,
        }
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.entries - 1))
    }

    fn buffer(&self, index: u16) -> &'m [AtomicU64] {
        let from = self.slot(index) * self.stride;
        &self.buffers[from..from + self.stride]
    }
}

/// A sender and a receiver with a switch between them.
pub struct Generator<'m> {
    memory: &'m DriverMemory,
    from: &'m Ring,
    kick: &'m OwnedFd,
    tx: Words<'m>,
    rx: Words<'m>,
    template: &'m Template,
    head: [u64; HEAD],
    /// Datagrams in a batch.
    batch: u16,
    /// Buffers of one datagram at the receiver, and octets in the first.
    each: u16,
    first: usize,
    /// Indices as this side has them: shown in the output ring, taken from the input ring.
    shown: u16,
    taken: u16,
    /// The next number to send, the next to arrive.
    next: u64,
    expected: u64,
}

impl<'m> Generator<'m> {
    /// A generator between two guests that are attached to the same switch.
    pub fn new(sender: &'m Guest, receiver: &'m Guest, template: &'m Template) -> Self {
        let (from, to) = (&sender.rings[1], &receiver.rings[0]);
        let len = template.octets.len();
        Self {
            memory: &sender.memory,
            from,
            kick: &sender.kick,
            tx: Words::of(&sender.memory, from),
            rx: Words::of(&receiver.memory, to),
            head: template.words(),
            template,
            batch: BATCH.min(from.shape.entries / 4),
            each: len.div_ceil(to.shape.buffer) as u16,
            first: len.min(to.shape.buffer),
            shown: 0,
            taken: 0,
            next: 1,
            expected: 1,
        }
    }

    /// Sends as much as goes for `time`.
    pub fn flood(&mut self, time: Duration) -> Slice {
        let mut seen = Slice::default();
        let start = Instant::now();
        loop {
            for _ in 0..TURNS {
                self.receive(&mut seen);
                seen.attempts += 1;
                if self.room() < self.batch {
                    seen.full += 1;
                    std::hint::spin_loop();
                } else {
                    self.send(self.batch);
                }
            }
            seen.time = start.elapsed();
            if seen.time >= time {
                return seen;
            }
        }
    }

    /// Sends one datagram at a time, so many in a second, for `time`.
    pub fn pace(&mut self, per_second: u32, time: Duration) -> Slice {
        let mut seen = Slice::default();
        let (start, every) = (Instant::now(), Duration::from_secs(1) / per_second);
        let mut due = Duration::ZERO;
        while seen.time < time {
            if seen.time >= due && self.room() > 0 {
                self.send(1);
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
            way.send(1);
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

    /// Entries of the output ring that are free.
    fn room(&self) -> u16 {
        let used = self.tx.used_index.load(Ordering::Acquire);
        self.tx.entries - self.shown.wrapping_sub(used)
    }

    /// Writes and shows `count` datagrams, for which there must be room.
    fn send(&mut self, count: u16) {
        let octets = self.template.octets.len();
        for _ in 0..count {
            let buffer = self.tx.buffer(self.shown);
            self.head[self.template.number_at] = self.next;
            let words = octets.div_ceil(8).min(HEAD);
            for (at, word) in buffer.iter().zip(&self.head[..words]) {
                at.store(*word, Ordering::Relaxed);
            }
            if octets > 8 * HEAD {
                let slot = self.tx.slot(self.shown) * self.from.stride;
                let rest = GuestAddress(self.from.buffers.0 + (slot + 8 * HEAD) as u64);
                self.memory.write(rest, &self.template.octets[8 * HEAD..]);
            }
            self.shown = self.shown.wrapping_add(1);
            self.next += 1;
        }
        self.tx.avail_index.store(self.shown, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.tx.used_flags.load(Ordering::Relaxed) & 1 == 0 {
            // A counter at its limit wakes all the same.
            let _ = rustix::io::write(self.kick, &1u64.to_ne_bytes());
        }
    }

    /// Takes what has arrived and gives its buffers back.
    fn receive(&mut self, seen: &mut Slice) {
        let used = self.rx.used_index.load(Ordering::Acquire);
        let pending = used.wrapping_sub(self.taken);
        if pending == 0 {
            return;
        }
        if pending == self.rx.entries {
            seen.dry += 1;
        }
        // A datagram's buffers are shown together, so all of them are there.
        let mut left = pending;
        while left >= self.each {
            let slot = self.rx.slot(self.taken);
            let identity = self.rx.used[2 * slot].load(Ordering::Relaxed);
            let len = self.rx.used[2 * slot + 1].load(Ordering::Relaxed) as usize;
            let buffer = self.rx.buffer(self.taken);
            let header = buffer[1].load(Ordering::Relaxed);
            let number = buffer[self.template.number_at].load(Ordering::Relaxed);
            let buffers = (header >> 16) as u16;
            if identity as usize != slot || buffers != self.each || len != self.first {
                // Not ours: what a switch says by itself (advertisements) is one buffer long.
                seen.wrong += u64::from(number >= self.expected && number < self.next);
                self.taken = self.taken.wrapping_add(1);
                left -= 1;
                continue;
            }
            if number < self.expected || number >= self.next {
                seen.wrong += 1;
            } else {
                seen.lost += number - self.expected;
                self.expected = number + 1;
                seen.received += 1;
            }
            self.taken = self.taken.wrapping_add(self.each);
            left -= self.each;
        }
        let posted = self.taken.wrapping_add(self.rx.entries);
        self.rx.avail_index.store(posted, Ordering::Release);
    }
}

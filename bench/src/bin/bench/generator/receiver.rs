//! The receiving half: takes what has arrived in one guest's input ring, and checks the numbers.
//!
//! A switch may give datagrams of different flows another order; those of one flow keep theirs.

use std::sync::atomic::Ordering;

use super::words::Words;
use super::{Guest, Template};
use crate::slice::Slice;

/// A receiver.
pub struct Receiver<'m> {
    rx: Words<'m>,
    number_at: usize,
    /// Buffers of one datagram, and octets in the first.
    each: u16,
    first: usize,
    /// How far this side has come.
    taken: u16,
    /// The next number to arrive, of each flow.
    expected: Vec<u64>,
}

impl<'m> Receiver<'m> {
    /// A receiver of such datagrams.
    pub fn new(guest: &'m Guest, template: &Template) -> Self {
        let (ring, len) = (&guest.rings[0], template.octets().len());
        // Numbers begin at one; a flow has those that leave the same rest.
        let count = template.count() as u64;
        let expected = (0..count).map(|flow| if flow == 0 { count } else { flow }).collect();
        Self {
            rx: Words::of(&guest.memory, ring),
            number_at: template.number_at(),
            each: len.div_ceil(ring.shape.buffer) as u16,
            first: len.min(ring.shape.buffer),
            taken: 0,
            expected,
        }
    }

    /// Takes what has arrived and gives its buffers back. No number up to `next` was sent yet; each
    /// one that is right is told to `arrived`.
    #[inline]
    pub fn receive(&mut self, next: u64, seen: &mut Slice, mut arrived: impl FnMut(u64)) {
        let used = self.rx.used_index.load(Ordering::Acquire);
        let pending = used.wrapping_sub(self.taken);
        if pending == 0 {
            return;
        }
        if pending == self.rx.entries {
            seen.dry += 1;
        }
        let flows = self.expected.len();
        // A datagram's buffers are shown together, so all of them are there.
        let mut left = pending;
        while left >= self.each {
            let slot = self.rx.slot(self.taken);
            let identity = self.rx.used[2 * slot].load(Ordering::Relaxed);
            let len = self.rx.used[2 * slot + 1].load(Ordering::Relaxed) as usize;
            let buffer = self.rx.buffer(self.taken);
            let header = buffer[1].load(Ordering::Relaxed);
            let number = buffer[self.number_at].load(Ordering::Relaxed);
            let expected = &mut self.expected[number as usize & (flows - 1)];
            let ours = number >= *expected && number < next;
            let buffers = (header >> 16) as u16;
            if identity as usize != slot || buffers != self.each || len != self.first {
                // Not ours: what a switch says by itself (advertisements) is one buffer long.
                seen.wrong += u64::from(ours);
                self.taken = self.taken.wrapping_add(1);
                left -= 1;
                continue;
            }
            if ours {
                seen.lost += (number - *expected) / flows as u64;
                *expected = number + flows as u64;
                seen.received += 1;
                arrived(number);
            } else {
                seen.wrong += 1;
            }
            self.taken = self.taken.wrapping_add(self.each);
            left -= self.each;
        }
        let posted = self.taken.wrapping_add(self.rx.entries);
        self.rx.avail_index.store(posted, Ordering::Release);
    }
}

//! The receiving half: takes what has arrived in one guest's input ring, and checks the numbers.
//!
//! A switch may give datagrams of different flows another order; those of one flow keep theirs.

use std::sync::atomic::Ordering;

use super::words::Words;
use super::{Guest, Template};
use crate::slice::Slice;

/// Datagrams for which it pays to look.
const MANY: u16 = 32;
/// Turns after which it is looked all the same.
const PATIENCE: u32 = 64;

/// A receiver.
pub struct Receiver<'m> {
    rx: Words<'m>,
    number_at: usize,
    /// Buffers of one datagram, and octets in the first.
    each: u16,
    first: usize,
    /// How far this side has come.
    taken: u16,
    /// Turns since it was looked last.
    waited: u32,
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
            waited: 0,
            expected,
        }
    }

    /// Takes what has arrived, if it seems to be worth it, or has not for some turns.
    #[inline]
    pub fn receive_many(&mut self, next: u64, seen: &mut Slice) {
        self.waited += 1;
        if self.waited > PATIENCE || self.rx.seems_used(MANY) {
            self.waited = 0;
            self.receive(next, seen, |_| {});
        }
    }

    /// Takes what has arrived and gives its buffers back. No number up to `next` was sent yet; each
    /// one that is right is told to `arrived`.
    #[inline]
    pub fn receive(&mut self, next: u64, seen: &mut Slice, mut arrived: impl FnMut(u64)) {
        let before = self.taken;
        let pending = self.rx.used_index().wrapping_sub(before);
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
            let (identity, len) = self.rx.used(self.taken);
            let buffer = self.rx.buffer(self.taken);
            let header = buffer[1].load(Ordering::Relaxed);
            let number = buffer[self.number_at].load(Ordering::Relaxed);
            let expected = &mut self.expected[number as usize & (flows - 1)];
            let ours = number >= *expected && number < next;
            let buffers = (header >> 16) as u16;
            if identity != self.rx.slot(self.taken) || buffers != self.each || len != self.first {
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
        let [from, to] = [before, self.taken].map(|n| n.wrapping_add(self.rx.entries));
        self.rx.show(from, to);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bench::frames::{Ends, Kind};
    use virtqueue::GuestAddress;

    use super::*;
    use crate::stage::SHORT;

    /// What a device does when these numbers arrive, of which so many did before.
    fn arrive(guest: &Guest, before: u16, numbers: &[u64]) {
        let (ring, memory) = (&guest.rings[0], &guest.memory);
        let end = before + numbers.len() as u16;
        for (slot, number) in (before..end).map(u64::from).zip(numbers) {
            let buffer = ring.buffers.0 + slot * ring.stride as u64;
            let entry = ring.layout.used.0 + 4 + 8 * slot;
            memory.u16_at(GuestAddress(buffer + 10)).store(1, Ordering::Relaxed);
            memory.u64_at(GuestAddress(buffer + 56)).store(*number, Ordering::Relaxed);
            memory.u32_at(GuestAddress(entry)).store(slot as u32, Ordering::Relaxed);
            memory.u32_at(GuestAddress(entry + 4)).store(12 + 64, Ordering::Relaxed);
        }
        memory.u16_at(GuestAddress(ring.layout.used.0 + 2)).store(end, Ordering::Release);
    }

    #[test]
    fn flows_may_overtake_each_other_and_none_may_overtake_itself() {
        let to = |last| Ends {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            addresses: [1, last].map(|n| Ipv4Addr::new(198, 18, 0, n).into()),
        };
        let template = Template::flows(Kind::Udp, &[to(2), to(3)], 64);
        let guest = Guest::new(&SHORT).unwrap();
        let mut receiver = Receiver::new(&guest, &template);
        let mut take = |before, numbers: &[u64]| {
            let mut seen = Slice::default();
            arrive(&guest, before, numbers);
            receiver.receive(100, &mut seen, |_| {});
            [seen.received, seen.lost, seen.wrong]
        };
        assert_eq!(take(0, &[2, 1, 4, 3]), [4, 0, 0]);
        // Number 5 is lost, 7 comes twice, 6 after 8; 100 was never sent.
        assert_eq!(take(4, &[7, 7, 8, 6, 100]), [2, 2, 3]);
    }
}

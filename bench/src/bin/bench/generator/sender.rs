//! The sending half: writes datagrams into one guest's output ring.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, fence};

use virtqueue::GuestAddress;
use virtqueue::driver::DriverMemory;

use super::template::HEAD;
use super::words::Words;
use super::{Guest, Ring, Template};
use crate::slice::Slice;

/// Datagrams written at once, unless the ring is short.
const BATCH: u16 = 32;

/// A sender.
pub struct Sender<'m> {
    memory: &'m DriverMemory,
    ring: &'m Ring,
    kick: &'m OwnedFd,
    tx: Words<'m>,
    template: &'m Template,
    /// Datagrams in a batch.
    batch: u16,
    /// How far this side has come.
    shown: u16,
    /// The next number to send.
    next: u64,
}

impl<'m> Sender<'m> {
    /// A sender of such datagrams.
    pub fn new(guest: &'m Guest, template: &'m Template) -> Self {
        let ring = &guest.rings[1];
        Self {
            memory: &guest.memory,
            ring,
            kick: &guest.kick,
            tx: Words::of(&guest.memory, ring),
            template,
            batch: BATCH.min(ring.shape.entries / 4),
            shown: 0,
            next: 1,
        }
    }

    /// The next number to send.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Entries of the output ring that are free.
    pub fn room(&mut self) -> u16 {
        self.tx.entries - self.shown.wrapping_sub(self.tx.used_index())
    }

    /// Sends a batch if there is room for it.
    pub fn try_batch(&mut self, seen: &mut Slice) {
        seen.attempts += 1;
        if !self.tx.is_known_free(self.shown, self.batch) && self.room() < self.batch {
            seen.full += 1;
            std::hint::spin_loop();
        } else {
            self.send(self.batch);
        }
    }

    /// What the datagram of this number is: header and frame.
    pub fn written(&self, number: u64) -> Vec<u8> {
        self.template.written(number)
    }

    /// Sends a batch, for which there must be room: the numbers it carries.
    pub fn send_batch(&mut self) -> Range<u64> {
        let first = self.next;
        self.send(self.batch);
        first..self.next
    }

    /// Writes and shows `count` datagrams, for which there must be room.
    pub fn send(&mut self, count: u16) {
        let octets = self.template.octets().len();
        let words = octets.div_ceil(8).min(HEAD);
        let first = self.shown;
        for _ in 0..count {
            let buffer = self.tx.buffer(self.shown);
            for (at, word) in buffer.iter().zip(&self.template.head(self.next)[..words]) {
                at.store(*word, Ordering::Relaxed);
            }
            buffer[self.template.number_at()].store(self.next, Ordering::Relaxed);
            if octets > 8 * HEAD {
                let slot = self.tx.slot(self.shown) * self.ring.stride;
                let rest = GuestAddress(self.ring.buffers.0 + (slot + 8 * HEAD) as u64);
                self.memory.write(rest, &self.template.octets()[8 * HEAD..]);
            }
            self.shown = self.shown.wrapping_add(1);
            self.next += 1;
        }
        self.tx.show(first, self.shown);
        fence(Ordering::SeqCst);
        if self.tx.wants_kick() {
            // A counter at its limit wakes all the same.
            let _ = rustix::io::write(self.kick, &1u64.to_ne_bytes());
        }
    }
}

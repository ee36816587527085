//! Rings in memory of a test's own, with a kernel that does to them what it may, at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use virtqueue::Mapping;

use super::ring::{Descriptor, GOES_ON, Places, Ring};
use super::umem::FRAME;

const PLACES: Places = Places { producer: 0, consumer: 64, flags: 128, entries: 192 };
const OCTETS: u64 = 4096;

/// A ring that outlives those who use it.
pub(super) struct Kept {
    file: OwnedFd,
    size: u32,
}

impl Kept {
    /// One in which so many entries were published and given back before.
    pub fn new(size: u32, past: u32) -> Self {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, OCTETS).unwrap();
        let kept = Self { file, size };
        kept.ring().set_producer(past);
        kept.ring().set_consumer(past);
        kept
    }

    /// The kernel sleeps until it is told that there is something in it.
    pub fn ask_for_wakeups(&self) {
        let memory = Mapping::shared(self.file.as_fd(), 0, OCTETS).unwrap();
        memory.write(PLACES.flags, &1u32.to_ne_bytes());
    }

    /// A mapping of it: the base's, or the kernel's.
    pub fn ring(&self) -> Ring {
        let memory = Mapping::shared(self.file.as_fd(), 0, OCTETS).unwrap();
        Ring::new(memory, PLACES, self.size)
    }
}

/// What lies in the frames: a number each.
pub(super) type Frames = BTreeMap<u64, u32>;

/// The kernel at the way in.
pub(super) struct Card {
    receive: Ring,
    fill: Ring,
    /// Frames it has taken out of the fill ring.
    pub hands: BTreeSet<u64>,
}

impl Card {
    pub fn new(receive: &Kept, fill: &Kept) -> Self {
        Self { receive: receive.ring(), fill: fill.ring(), hands: BTreeSet::new() }
    }

    /// Frames that the base has not given back.
    pub fn unread(&self) -> Vec<u64> {
        let (from, to) = (self.receive.consumer(), self.receive.producer());
        let count = to.wrapping_sub(from);
        (0..count).map(|n| self.receive.descriptor(from.wrapping_add(n)).address).collect()
    }

    /// Takes a frame to fill, if there is one.
    pub fn grab(&mut self) {
        let next = self.fill.consumer();
        if next == self.fill.producer() {
            return;
        }
        let frame = self.fill.address(next);
        self.fill.set_consumer(next.wrapping_add(1));
        assert!(frame.is_multiple_of(FRAME), "{frame:#x}");
        assert!(self.hands.insert(frame), "frame {frame:#x} was offered twice");
        assert!(!self.unread().contains(&(frame + 256)), "frame {frame:#x} is not read yet");
    }

    /// A frame arrives, in so many pieces, which have numbers from the given one on: false if there are
    /// not as many to put it into.
    pub fn arrive(&mut self, number: u32, pieces: u32, frames: &mut Frames) -> bool {
        while self.hands.len() < pieces as usize {
            let before = self.hands.len();
            self.grab();
            if self.hands.len() == before {
                return false;
            }
        }
        let next = self.receive.producer();
        for nth in 0..pieces {
            let address = self.hands.pop_first().unwrap() + 256;
            frames.insert(address, number + nth);
            let count = next.wrapping_add(nth);
            assert!(count.wrapping_sub(self.receive.consumer()) < self.receive.size(), "no room");
            let options = if nth + 1 < pieces { GOES_ON } else { 0 };
            self.receive.set_descriptor(count, Descriptor { address, len: 60, options });
        }
        self.receive.set_producer(next.wrapping_add(pieces));
        true
    }
}

/// The kernel at the way out.
pub(super) struct Wire {
    transmit: Ring,
    completion: Ring,
    /// It tells how far it has come only when it has begun to send all that it knows of, as kernels
    /// before Linux 6.17 do.
    late: bool,
    /// How many it has begun to send, and how many it knows of.
    begun: u32,
    known: u32,
    /// Frames under way.
    under_way: Vec<u64>,
    /// Numbers that were sent.
    pub sent: Vec<u32>,
}

impl Wire {
    pub fn new(transmit: &Kept, completion: &Kept, late: bool) -> Self {
        let transmit = transmit.ring();
        let begun = transmit.consumer();
        Self {
            transmit,
            completion: completion.ring(),
            late,
            begun,
            known: begun,
            under_way: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Takes a frame to send, if there is one and room to tell that it is done: whether it did.
    pub fn begin(&mut self, frames: &Frames) -> bool {
        if self.begun == self.known {
            self.transmit.set_consumer(self.begun);
            self.known = self.transmit.producer();
        }
        let told = self.completion.waiting() as usize + self.under_way.len();
        if self.begun == self.known || told >= self.completion.size() as usize {
            return false;
        }
        let frame = self.transmit.descriptor(self.begun).address;
        self.begun = self.begun.wrapping_add(1);
        if !self.late {
            self.transmit.set_consumer(self.begun);
        }
        assert!(!self.under_way.contains(&frame), "frame {frame:#x} is under way already");
        self.under_way.push(frame);
        self.sent.push(frames[&frame]);
        true
    }

    /// A call that wakes it: it begins to send so many, and says whether there are more.
    pub fn call(&mut self, most: u32, frames: &Frames) -> Result<(), Errno> {
        for _ in 0..most {
            if !self.begin(frames) {
                return Ok(());
            }
        }
        // It looks whether there is another before it finds that it has done enough.
        if self.begun == self.known {
            self.transmit.set_consumer(self.begun);
            self.known = self.transmit.producer();
        }
        if self.begun == self.known { Ok(()) } else { Err(Errno::AGAIN) }
    }

    /// One of the frames under way is done, whichever.
    pub fn end(&mut self, which: usize) {
        if self.under_way.is_empty() {
            return;
        }
        let frame = self.under_way.remove(which % self.under_way.len());
        let next = self.completion.producer();
        self.completion.set_address(next, frame);
        self.completion.set_producer(next.wrapping_add(1));
    }

    /// Everything that was handed over is done.
    pub fn finish(&mut self, frames: &Frames) {
        while self.begin(frames) || !self.under_way.is_empty() {
            self.end(0);
        }
    }

    /// What the kernel has not looked at or not finished.
    pub fn pending(&self) -> Vec<u64> {
        let (from, count) = (self.begun, self.transmit.producer().wrapping_sub(self.begun));
        let waiting = (0..count).map(|n| self.transmit.descriptor(from.wrapping_add(n)).address);
        waiting.chain(self.under_way.iter().copied()).collect()
    }
}

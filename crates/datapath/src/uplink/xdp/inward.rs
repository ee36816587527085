//! The way in of one AF_XDP socket: its fill and receive rings, and whose each frame is.
//!
//! # Theory of operation
//! The frames of the way in go round, and nobody adds or takes one:
//! ```text
//!          base                         kernel
//!     +-> fill ring ----------------> fills it with what arrives ---+
//!     |                                                             |
//!     +-- base: copied, delivered <---------------- receive ring <--+
//! ```
//! All of them are put into the fill ring when the socket is made. From then on each frame that is
//! released makes one entry of the fill ring. So
//!
//! > the fill ring's producer = the receive ring's consumer + the number of frames
//!
//! holds whenever nothing is being released, and there is no need to write down who has a frame: what
//! is in neither ring is the kernel's.
//!
//! A batch is released in three steps: (1) its frames' addresses are written into the fill ring behind
//! what is published there, (2) the receive ring's consumer is moved, (3) the fill ring's producer is
//! moved to where the equation holds.
//!
//! # A death in between
//! Before (2) the batch is still in the receive ring: the successor takes it again. After (2) and
//! before (3) the fill ring's producer is short of the equation, by frames whose addresses are written
//! already: the successor does (3). It must not be the other way round: the kernel would write into
//! frames that a successor still believes to be unread.
//!
//! # Frames in pieces
//! Where the socket was made for it, a frame may take several entries, all but the last with a mark that it
//! goes on. The kernel publishes them together; a frame whose end is not there yet is not there. So what
//! is taken and released ends with a frame, and a successor begins with one: of a frame that was half
//! received when the base died, nothing or all lies in the ring.
//!
//! # Invariants
//! - The receive ring has room for all frames: it is never full, and what the kernel drops for want of
//!   a frame it counts.
//! - The kernel never writes to a frame between the receive ring's consumer and producer.

use super::ring::{Descriptor, Ring};
use super::umem::FRAME;
use crate::faults::{self, Point};

/// An address beyond any umem.
const NO_FRAME: u64 = u64::MAX;

/// A frame that was taken: its entries, and what the first of them says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    first: u32,
    head: Descriptor,
    count: u32,
}

impl Frame {
    /// How many pieces it has.
    #[inline]
    pub fn count(self) -> u32 {
        self.count
    }
}

/// The way in of one socket.
#[derive(Debug)]
pub(super) struct Inward {
    receive: Ring,
    fill: Ring,
    /// Where the first of its frames lies in the umem.
    first: u64,
    frames: u32,
    /// Entries of the receive ring that were looked at, and that were given back.
    taken: u32,
    released: u32,
}

impl Inward {
    /// A socket that was just made: the kernel gets all frames.
    pub fn start(receive: Ring, fill: Ring, first: u64, frames: u32) -> Self {
        for frame in 0..frames {
            fill.set_address(frame, first.wrapping_add(u64::from(frame).wrapping_mul(FRAME)));
        }
        fill.set_producer(frames);
        let taken = receive.consumer();
        Self { receive, fill, first, frames, taken, released: taken }
    }

    /// Goes on where a predecessor stopped, in the middle of a release if need be.
    pub fn adopt(receive: Ring, fill: Ring, first: u64, frames: u32) -> Result<Self, String> {
        let taken = receive.consumer();
        let adopted = Self { receive, fill, first, frames, taken, released: taken };
        let (receive, fill) = (&adopted.receive, &adopted.fill);
        if receive.waiting() > frames {
            return Err(format!("its receive ring says that {} frames wait", receive.waiting()));
        }
        let (published, right) = (fill.producer(), taken.wrapping_add(frames));
        let short = right.wrapping_sub(published);
        if short > frames || fill.waiting() > frames {
            return Err(format!("{short} frames of its fill ring are missing"));
        }
        for entry in 0..short {
            let address = fill.address(published.wrapping_add(entry));
            if adopted.frame_of(address) != Some(address) {
                return Err(format!("its fill ring has the frame {address:#x}"));
            }
        }
        fill.set_producer(right);
        Ok(adopted)
    }

    /// The frame of the way in that an address lies in.
    fn frame_of(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.first)?;
        let frame = offset.checked_div(FRAME)?;
        (frame < self.frames.into()).then(|| self.first.wrapping_add(frame.wrapping_mul(FRAME)))
    }

    /// Takes the next frame: `None` if there is none, or its end is not there yet.
    #[inline]
    pub fn next(&mut self) -> Option<Frame> {
        // No more can be lent than there are.
        let left = self.frames.saturating_sub(self.taken());
        let there = self.receive.producer().wrapping_sub(self.taken).min(left);
        if there == 0 {
            return None;
        }
        let (first, head) = (self.taken, self.receive.descriptor(self.taken));
        let mut count = 1;
        let mut last = head;
        while last.goes_on() {
            if count == there {
                // One that takes all frames there are would never end.
                if count < self.frames {
                    return None;
                }
                break;
            }
            last = self.receive.descriptor(first.wrapping_add(count));
            count = count.wrapping_add(1);
        }
        self.taken = first.wrapping_add(count);
        Some(Frame { first, head, count })
    }

    /// Entries that were taken and not released.
    #[inline]
    pub fn taken(&self) -> u32 {
        self.taken.wrapping_sub(self.released)
    }

    /// The pieces of a frame that was taken; `None` is one that makes no sense, which the kernel does
    /// not bring.
    #[inline]
    pub fn pieces(&self, frame: Frame) -> impl Iterator<Item = Option<Descriptor>> + '_ {
        let rest = (1..frame.count).map(move |nth| frame.first.wrapping_add(nth));
        let rest = rest.map(|count| self.receive.descriptor(count));
        std::iter::once(frame.head).chain(rest).map(|found| self.inside(found))
    }

    /// What lies in a frame of the way in.
    #[inline]
    fn inside(&self, found: Descriptor) -> Option<Descriptor> {
        let frame = self.frame_of(found.address)?;
        let end = found.address.saturating_add(found.len.into());
        (end <= frame.wrapping_add(FRAME)).then_some(found)
    }

    /// Gives all frames that were taken back to the kernel.
    pub fn release(&mut self) {
        let (from, batch) = (self.released, self.taken());
        if batch == 0 {
            return;
        }
        self.write_back(from, batch);
        faults::pass(Point::CardReleasing);
        self.give_back();
        faults::pass(Point::CardReleased);
        self.offer();
    }

    /// Step two.
    fn give_back(&mut self) {
        self.receive.set_consumer(self.taken);
        self.released = self.taken;
    }

    /// Step three.
    fn offer(&self) {
        self.fill.set_producer(self.taken.wrapping_add(self.frames));
    }

    /// Step one of a release.
    fn write_back(&self, from: u32, batch: u32) {
        for n in 0..batch {
            let count = from.wrapping_add(n);
            let address = self.receive.descriptor(count).address;
            // The kernel passes over what is no frame; the equation holds all the same.
            let frame = self.frame_of(address).unwrap_or(NO_FRAME);
            self.fill.set_address(count.wrapping_add(self.frames), frame);
        }
    }

    /// How many frames were released since the socket was made, modulo 2^32.
    pub fn position(&self) -> u32 {
        self.released
    }

    /// Whether the kernel sleeps until it is told that there are frames to fill.
    pub fn wants_wakeup(&self) -> bool {
        self.fill.wants_wakeup()
    }
}

#[cfg(test)]
mod tests;

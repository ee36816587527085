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
//! # Invariants
//! - The receive ring has room for all frames: it is never full, and what the kernel drops for want of
//!   a frame it counts.
//! - The kernel never writes to a frame between the receive ring's consumer and producer.

use super::ring::{Descriptor, Ring};
use super::umem::FRAME;
use crate::faults::{self, Point};

/// An address beyond any umem.
const NO_FRAME: u64 = u64::MAX;

/// The way in of one socket.
#[derive(Debug)]
pub(super) struct Inward {
    receive: Ring,
    fill: Ring,
    /// Where the first of its frames lies in the umem.
    first: u64,
    frames: u32,
    /// Entries of the receive ring that were looked at.
    taken: u32,
}

impl Inward {
    /// A socket that was just made: the kernel gets all frames.
    pub fn start(receive: Ring, fill: Ring, first: u64, frames: u32) -> Self {
        for frame in 0..frames {
            fill.set_address(frame, first.wrapping_add(u64::from(frame).wrapping_mul(FRAME)));
        }
        fill.set_producer(frames);
        let taken = receive.consumer();
        Self { receive, fill, first, frames, taken }
    }

    /// Goes on where a predecessor stopped, in the middle of a release if need be.
    pub fn adopt(receive: Ring, fill: Ring, first: u64, frames: u32) -> Result<Self, String> {
        let taken = receive.consumer();
        let adopted = Self { receive, fill, first, frames, taken };
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

    /// Takes the next frame: `None` if there is none. `Some(None)` is one that makes no sense, which
    /// the kernel does not bring.
    pub fn next(&mut self) -> Option<Option<Descriptor>> {
        // No more can be lent than there are.
        let lent = self.taken.wrapping_sub(self.receive.consumer());
        if lent >= self.frames || self.taken == self.receive.producer() {
            return None;
        }
        let found = self.receive.descriptor(self.taken);
        self.taken = self.taken.wrapping_add(1);
        let frame = self.frame_of(found.address);
        let fits = frame.is_some_and(|frame| {
            let end = found.address.saturating_add(found.len.into());
            end <= frame.wrapping_add(FRAME)
        });
        Some(fits.then_some(found))
    }

    /// Gives all frames that were taken back to the kernel.
    pub fn release(&mut self) {
        let from = self.receive.consumer();
        let batch = self.taken.wrapping_sub(from);
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
    fn give_back(&self) {
        self.receive.set_consumer(self.taken);
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
        self.receive.consumer()
    }

    /// Whether the kernel sleeps until it is told that there are frames to fill.
    pub fn wants_wakeup(&self) -> bool {
        self.fill.wants_wakeup()
    }
}

#[cfg(test)]
mod tests;

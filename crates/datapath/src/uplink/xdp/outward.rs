//! The way out of one AF_XDP socket: its transmit and completion rings, and whose each frame is.
//!
//! # Theory of operation
//! The completion ring is the list of free frames. Whoever wants to send takes the oldest entry of it
//! at the very moment, fills that frame, and puts it into the transmit ring:
//! ```text
//!          base                         kernel
//!     +-> transmit ring ------------> sends it ---+
//!     |                                           |
//!     +-- base: filled anew <-- completion ring <-+
//! ```
//! At the beginning the completion ring is empty: the first frames are taken in their order. So with
//! `used` = the transmit ring's producer - the completion ring's consumer,
//!
//! > as long as `used` is less than the number of frames, the frame of the number `used` was never
//! > used and is next; then `used` is the number of frames, for ever
//!
//! holds whenever nothing is being sent, and there is no need to write down who has a frame.
//!
//! A batch is sent in three steps: (1) frames are filled and their descriptors written behind what is
//! published, (2) the transmit ring's producer is moved, (3) the completion ring's consumer.
//!
//! # A death in between
//! Before (2) nothing has happened: the datagrams are still their senders', and the frames still free.
//! After (2) and before (3) `used` is more than the number of frames, by completions that were used
//! up: the successor does (3). It must not be the other way round: frames would be neither sent nor
//! free. That the kernel sleeps over what was published is made up for by waking it once.
//!
//! # Invariants
//! - The transmit ring has room for all frames, the completion ring for twice as many: between (2)
//!   and (3) a frame can be completed again.

use super::ring::{Descriptor, Ring};
use super::umem::FRAME;

/// The way out of one socket.
#[derive(Debug)]
pub(super) struct Outward {
    transmit: Ring,
    completion: Ring,
    /// Where the first of its frames lies in the umem.
    first: u64,
    frames: u32,
    /// Entries of the transmit ring that were written, published or not.
    written: u32,
    /// Entries of the completion ring that were used up, published or not.
    used_up: u32,
}

impl Outward {
    /// Goes on where a predecessor stopped; a socket that was just made has no predecessor, and
    /// nothing needs to be done for it.
    pub fn adopt(
        transmit: Ring,
        completion: Ring,
        first: u64,
        frames: u32,
    ) -> Result<Self, String> {
        let (written, mut used_up) = (transmit.producer(), completion.consumer());
        let used = written.wrapping_sub(used_up);
        if let Some(behind) = used.checked_sub(frames).filter(|behind| *behind > 0) {
            if behind > completion.waiting().min(frames) {
                return Err(format!("{used} of {frames} frames of its way out are in use"));
            }
            used_up = used_up.wrapping_add(behind);
            completion.set_consumer(used_up);
        }
        if transmit.waiting() > frames || completion.waiting() > completion.size() {
            return Err("its transmit and completion rings make no sense".to_owned());
        }
        Ok(Self { transmit, completion, first, frames, written, used_up })
    }

    fn never_used(&self) -> u32 {
        self.frames.saturating_sub(self.written.wrapping_sub(self.used_up))
    }

    /// Frames that can be filled now.
    pub fn free(&self) -> u32 {
        let completed = self.completion.producer().wrapping_sub(self.used_up);
        self.never_used().saturating_add(completed).min(self.frames)
    }

    /// Frames there are.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Fills a free frame by `fill`, which is told where it lies and tells how many octets it has
    /// written there; `None` if there is none free, or nothing was written.
    pub fn put(&mut self, fill: impl FnOnce(u64) -> Option<u32>) -> Option<()> {
        let unused = self.never_used();
        let address = if unused > 0 {
            let frame = u64::from(self.frames.wrapping_sub(unused));
            self.first.wrapping_add(frame.wrapping_mul(FRAME))
        } else if self.completion.producer() != self.used_up {
            self.completion.address(self.used_up)
        } else {
            return None;
        };
        let offset = address.checked_sub(self.first)?;
        if offset.checked_rem(FRAME)? != 0 || offset.checked_div(FRAME)? >= self.frames.into() {
            return None;
        }
        let len = fill(address)?;
        self.transmit.set_descriptor(self.written, Descriptor { address, len, options: 0 });
        self.written = self.written.wrapping_add(1);
        if unused == 0 {
            self.used_up = self.used_up.wrapping_add(1);
        }
        Some(())
    }

    /// Forgets what was put and not published.
    pub fn abandon(&mut self) {
        self.written = self.transmit.producer();
        self.used_up = self.completion.consumer();
    }

    /// Gives everything that was put to the kernel.
    pub fn publish(&mut self) {
        self.hand_over();
        self.use_up();
    }

    /// Step two.
    fn hand_over(&self) {
        self.transmit.set_producer(self.written);
    }

    /// Step three.
    fn use_up(&self) {
        self.completion.set_consumer(self.used_up);
    }

    /// Frames that the kernel has not begun to send.
    pub fn unsent(&self) -> u32 {
        self.transmit.waiting()
    }

    /// Whether the kernel sleeps until it is told that there is something to send.
    pub fn wants_wakeup(&self) -> bool {
        self.transmit.wants_wakeup()
    }
}

#[cfg(test)]
mod tests;

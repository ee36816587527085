//! The way out by AF_XDP: its transmit and completion rings, and whose each frame is.
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
//! free. That the kernel sleeps over what was published is made up for by waking it again.
//!
//! A frame in pieces is published with all of them, so that the kernel, and a successor, has it whole or not
//! at all.
//!
//! # Waking
//! One call makes the kernel send [`TAKEN_AT_ONCE`] frames; it answers AGAIN if there are more. Before
//! Linux 6.17 it tells how far it has come only when it has begun to send all that it knew of. So a
//! call that shows no progress may have made some: there are as many of these as the frames can need.
//! For the same reason the transmit ring can seem to have more frames waiting than there are, twice
//! as many at most.
//!
//! # Invariants
//! - The transmit ring has room for all frames, the completion ring for twice as many: between (2)
//!   and (3) a frame can be completed again.

use rustix::io::Errno;

use super::ring::{Descriptor, GOES_ON, Ring};
use super::umem::FRAME;

/// Frames that the kernel sends in one call, if nothing else was asked for.
const TAKEN_AT_ONCE: u32 = 32;
/// Calls after which frames that the kernel does not begin to send are left for later.
const MOST_CALLS: u32 = 256;

/// What came of waking the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Frames that the card's driver has thrown away for want of room.
    pub lost: u32,
    /// The card is gone: nothing that is in the transmit ring will ever be sent.
    pub gone: bool,
}

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
        if transmit.waiting() > frames.saturating_mul(2) || completion.waiting() > completion.size()
        {
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

    /// Fills so many free frames with the pieces of one by `fill`, which is told which piece it is and
    /// where it is to lie, and tells how many octets it has written there; `None`, and nothing was put,
    /// if there are not as many free, or something was not written.
    #[inline]
    pub fn put(
        &mut self,
        pieces: u32,
        mut fill: impl FnMut(u32, u64) -> Option<u32>,
    ) -> Option<()> {
        let before = (self.written, self.used_up);
        for nth in 0..pieces {
            let options = if nth.wrapping_add(1) < pieces { GOES_ON } else { 0 };
            if self.put_piece(options, |address| fill(nth, address)).is_none() {
                (self.written, self.used_up) = before;
                return None;
            }
        }
        Some(())
    }

    #[inline]
    fn put_piece(&mut self, options: u32, fill: impl FnOnce(u64) -> Option<u32>) -> Option<()> {
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
        self.transmit.set_descriptor(self.written, Descriptor { address, len, options });
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

    /// Frames that the kernel has not begun to send, as far as it has told; each piece is one.
    pub fn unsent(&self) -> u32 {
        self.transmit.waiting().min(self.frames)
    }

    /// The same, with those that are in several pieces counted once.
    pub fn unsent_frames(&self) -> u32 {
        let from = self.transmit.consumer();
        let whole = |n: &u32| !self.transmit.descriptor(from.wrapping_add(*n)).goes_on();
        let count = (0..self.unsent()).filter(whole).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Wakes the kernel by `call` as long as it asks for it and has something to send.
    pub fn wake(&self, mut call: impl FnMut() -> Result<(), Errno>) -> Woken {
        let needed = |frames: u32| (frames / TAKEN_AT_ONCE).saturating_add(1);
        let mut woken = Woken::default();
        let mut left = needed(self.unsent());
        for _ in 0..MOST_CALLS {
            let before = self.transmit.waiting();
            if before == 0 || !self.transmit.wants_wakeup() {
                break;
            }
            let answer = call();
            let goes_on = self.transmit.waiting() < before;
            match answer {
                // A driver that reads the frames itself was woken, and has its own time.
                Ok(()) | Err(Errno::NOBUFS) if !goes_on => break,
                Ok(()) | Err(Errno::NOBUFS) => {}
                // It has sent as much as it does in one call, or cannot for now.
                Err(Errno::AGAIN) => {
                    left = if goes_on { needed(self.unsent()) } else { left.saturating_sub(1) };
                    if left == 0 {
                        break;
                    }
                }
                // A driver that had no room threw away the frame it was at, and goes on behind it.
                Err(Errno::BUSY) => woken.lost = woken.lost.saturating_add(1),
                Err(Errno::NXIO | Errno::NODEV) => {
                    woken.gone = true;
                    break;
                }
                // A link that is down keeps what lies in the ring until it is up.
                Err(_) => break,
            }
        }
        woken
    }
}

#[cfg(test)]
mod tests;

//! The memory of a packet socket's receive ring, TPACKET_V2.
//!
//! # Theory of operation
//! The kernel and the base share an array of slots. The first word of a slot says whose it is:
//! 0, the kernel may fill it; TP_STATUS_USER set, it holds a frame and is ours until we write 0.
//! The kernel fills slots in order and stops at one that is ours.
//!
//! ```text
//!        released            taken
//!           v                  v
//!  | kernel | ours, being read | filled, not looked at | kernel ... |
//! ```
//! `released` and `taken` count frames since the ring was made; a slot is a count modulo the number
//! of slots.
//!
//! # Where the next frame is, if nobody knows
//! A successor whose cursor was damaged finds the place in the ring itself ([`Ring::search`]). Slots
//! are given back and filled in order, so those that are ours lie in a row: the first of them is
//! next. If all are ours or all are the kernel's, the times that the kernel wrote tell: next is the
//! slot after the youngest frame. (They are those of the clock on the wall. If that was set back
//! within the last lap, the wrong slot may be found; frames then wait for a lap.) Two threads of the
//! kernel may fill slots at once and finish out of order, so what was seen has to be seen again.
//!
//! # Whether a slot was given back
//! A ring that is full is filled again the moment a slot of it is given back: then that slot is ours
//! before and after. So each slot is marked before it is given back ([`Ring::mark_leaving`]), where the
//! kernel's next frame wipes the mark out.
//!
//! # Why references into the ring are sound
//! [`Ring::bytes`] lends out octets of slots between `released` and `taken` only. The kernel does
//! not write to those; they become the kernel's again in [`Ring::release_one`] only, which needs
//! the ring mutably and so ends every loan. No other process maps the ring but a successor, which
//! touches it when this process is dead or has come to rest.
//!
//! # Mapping ahead
//! The kernel maps all pages of a ring at once, which takes a millisecond for 18 MiB. So a base that
//! waits until another yields maps the ring before that ([`Ring::map_ahead`]); when its time has
//! come, [`Ring::map`] finds the mapping by the socket's inode, if it is still the same ring.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::fstat;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Where the kernel writes zeroes whenever it fills a slot (`tp_padding` of `tpacket2_hdr`).
const LEAVING_AT: usize = 28;
/// What the base writes there of a slot that it is about to give back.
const LEAVING: u32 = u32::from_ne_bytes(*b"left");
/// How long the kernel may take to finish a slot that it has begun.
const SETTLING: Duration = Duration::from_millis(1);
/// How often a search looks at the ring until it sees the same twice.
const LOOKS: usize = 8;

/// How the slots lie in the ring. A block holds a whole number of slots and perhaps a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Geometry {
    /// Octets of a block, a power of two so that the kernel wastes nothing.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u32,
    /// Octets of a slot.
    pub frame_size: u32,
}

impl Geometry {
    /// Slots in one block.
    fn per_block(&self) -> u32 {
        self.block_size.checked_div(self.frame_size).unwrap_or(0)
    }

    /// Slots in the ring.
    pub fn frames(&self) -> u32 {
        self.per_block().saturating_mul(self.blocks)
    }

    /// Octets of the ring.
    fn len(&self) -> usize {
        (self.block_size as usize).saturating_mul(self.blocks as usize)
    }

    /// Where the slot of the `count`th frame starts.
    fn offset(&self, count: u64) -> Option<usize> {
        let slot = u32::try_from(count.checked_rem(self.frames().into())?).ok()?;
        let block = slot.checked_div(self.per_block())?;
        let within = slot.checked_rem(self.per_block())?;
        (block as usize)
            .checked_mul(self.block_size as usize)?
            .checked_add((within as usize).checked_mul(self.frame_size as usize)?)
    }
}

/// What the kernel says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct SlotHeader {
    /// TP_STATUS_ bits.
    pub status: u32,
    /// Octets the frame had.
    pub len: u32,
    /// Octets of it in the slot.
    pub captured: u32,
    /// Where in the slot the frame starts.
    pub frame_at: u16,
}

/// Rings that were mapped ahead, each with the inode of its socket.
static AHEAD: Mutex<Vec<(u64, Ring)>> = Mutex::new(Vec::new());

/// The mapped ring and how far we are in it.
#[derive(Debug)]
pub(in super::super) struct Ring {
    memory: NonNull<u8>,
    geometry: Geometry,
    released: u64,
    taken: u64,
}

// SAFETY: the mapping has no thread affinity, and `Ring` is its only user in this process.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps a socket's ring for later, and touches nothing in it. Nothing depends on that it can.
    pub fn map_ahead(socket: BorrowedFd<'_>, geometry: Geometry) {
        if let (Ok(stat), Ok(ring)) = (fstat(socket), Self::map_now(socket, geometry, 0)) {
            AHEAD.lock().unwrap_or_else(PoisonError::into_inner).push((stat.st_ino, ring));
        }
    }

    /// Lets go of all rings that were mapped ahead and not needed: each holds its socket.
    pub fn forget_ahead() {
        AHEAD.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Maps a socket's ring, to go on after `released` frames.
    pub fn map(socket: BorrowedFd<'_>, geometry: Geometry, released: u64) -> io::Result<Self> {
        let mut ahead = AHEAD.lock().unwrap_or_else(PoisonError::into_inner);
        let found = fstat(socket).ok().and_then(|stat| {
            ahead
                .iter()
                .position(|(inode, ring)| *inode == stat.st_ino && ring.geometry == geometry)
        });
        match found.map(|place| ahead.swap_remove(place).1) {
            Some(mut ring) => {
                (ring.released, ring.taken) = (released, released);
                Ok(ring)
            }
            None => Self::map_now(socket, geometry, released),
        }
    }

    fn map_now(socket: BorrowedFd<'_>, geometry: Geometry, released: u64) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no address is asked for, so nothing of ours is replaced; released in `drop` only.
        let memory = unsafe {
            mmap(std::ptr::null_mut(), geometry.len(), protection, MapFlags::SHARED, socket, 0)
        }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { memory, geometry, released, taken: released })
    }

    /// The word at `offset` in the slot of the `count`th frame.
    fn word(&self, count: u64, offset: usize) -> Option<&AtomicU32> {
        let at = self.range(count, offset, size_of::<u32>())?.cast::<u32>();
        // SAFETY: inside the mapping and aligned; the kernel writes whole words, and so do we.
        at.is_aligned().then(|| unsafe { AtomicU32::from_ptr(at.as_ptr()) })
    }

    /// The pointer to `len` octets at `offset` of a slot, if they lie in the slot.
    fn range(&self, count: u64, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.geometry.frame_size as usize {
            return None;
        }
        let at = self.geometry.offset(count)?.checked_add(offset)?;
        if at.checked_add(len)? > self.geometry.len() {
            return None;
        }
        // SAFETY: `at` lies inside the mapping, checked above.
        Some(unsafe { self.memory.add(at) })
    }

    /// Whether the slot of the `count`th frame is ours.
    pub fn is_ours(&self, count: u64) -> bool {
        self.word(count, 0)
            .is_some_and(|status| status.load(Ordering::Acquire) & libc::TP_STATUS_USER != 0)
    }

    /// Marks the slot that is given back next.
    pub fn mark_leaving(&self) {
        if let Some(place) = self.word(self.released, LEAVING_AT) {
            place.store(LEAVING, Ordering::Relaxed);
        }
    }

    /// Whether the slot of the `count`th frame, which [`Ring::mark_leaving`] has marked, was not given
    /// back after that.
    pub fn is_leaving(&self, count: u64) -> bool {
        self.is_ours(count)
            && self
                .word(count, LEAVING_AT)
                .is_some_and(|place| place.load(Ordering::Relaxed) == LEAVING)
    }

    /// Goes on after `released` frames; what was taken and not released comes again.
    pub fn go_on_at(&mut self, released: u64) {
        self.released = released;
        self.taken = released;
    }

    /// Finds the slot that is next, see the head of this file; `None` if the ring does not settle.
    pub fn search(&self) -> Option<u64> {
        let mut before = self.search_once();
        for _ in 0..LOOKS {
            std::thread::sleep(SETTLING);
            let now = self.search_once();
            if now.is_some() && now == before {
                return now;
            }
            before = now;
        }
        None
    }

    fn search_once(&self) -> Option<u64> {
        let slots = u64::from(self.geometry.frames());
        let (mut first, mut rows) = (None, 0u32);
        let (mut youngest, mut after) = ((0, 0), 0);
        let mut ours_before = self.is_ours(slots.checked_sub(1)?);
        for slot in 0..slots {
            let ours = self.is_ours(slot);
            if ours && !ours_before {
                first = Some(slot);
                rows = rows.saturating_add(1);
            }
            ours_before = ours;
            let word = |offset| self.word(slot, offset).map(|w| w.load(Ordering::Relaxed));
            let time = (word(16)?, word(20)?);
            if time > youngest {
                youngest = time;
                after = slot.saturating_add(1).checked_rem(slots)?;
            }
        }
        match rows {
            0 => Some(after),
            1 => first,
            _ => None,
        }
    }

    /// Takes the next frame: its count and what the kernel says of it.
    pub fn take(&mut self) -> Option<(u64, SlotHeader)> {
        // More than a whole lap cannot be taken: the next slot would be one that is still lent.
        if self.taken.wrapping_sub(self.released) >= u64::from(self.geometry.frames()) {
            return None;
        }
        let count = self.taken;
        let status = self.word(count, 0)?.load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        let word = |offset| self.word(count, offset).map(|w| w.load(Ordering::Relaxed));
        let [low, high, ..] = word(12)?.to_ne_bytes();
        let header = SlotHeader {
            status,
            len: word(4)?,
            captured: word(8)?,
            frame_at: u16::from_ne_bytes([low, high]),
        };
        self.taken = count.wrapping_add(1);
        Some((count, header))
    }

    /// `len` octets at `offset` in the slot of the `count`th frame, if that is taken and not
    /// released.
    pub fn bytes(&self, count: u64, offset: usize, len: usize) -> Option<&[u8]> {
        if count < self.released || count >= self.taken {
            return None;
        }
        let at = self.range(count, offset, len)?;
        // SAFETY: inside the mapping; the slot is ours and stays so while `self` is borrowed, as
        // the head of this file explains.
        Some(unsafe { std::slice::from_raw_parts(at.as_ptr(), len) })
    }

    /// Gives the oldest taken slot back to the kernel; `false` if none is taken.
    pub fn release_one(&mut self) -> bool {
        if self.released == self.taken {
            return false;
        }
        if let Some(status) = self.word(self.released, 0) {
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.released = self.released.wrapping_add(1);
        true
    }

    /// Frames released since the ring was made.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// Frames taken since the ring was made.
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the range is the one `mmap` gave; loans end with `self`.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.geometry.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_in_blocks_and_never_across_two() {
        let ring = Geometry { block_size: 4096, blocks: 3, frame_size: 1200 };
        assert_eq!(ring.frames(), 9);
        let places: Vec<_> = (0..10).map(|count| ring.offset(count).unwrap()).collect();
        assert_eq!(places, [0, 1200, 2400, 4096, 5296, 6496, 8192, 9392, 10592, 0]);
    }

    #[test]
    fn a_geometry_without_slots_has_no_place_for_any() {
        let ring = Geometry { block_size: 0, blocks: 3, frame_size: 0 };
        assert_eq!((ring.frames(), ring.offset(0)), (0, None));
    }
}

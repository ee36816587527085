//! A ring's words in the guest's memory, found once: those of a split ring, or of a packed one.
//!
//! ```text
//! split    an index shows what is available, another what was used; entries name the buffers
//! packed   a buffer is shown by its descriptor's second half, and was used when that says so: it is
//!          written anew for each lap, from the last of a batch to the first
//! ```
//! Buffers are counted from the ring's start, modulo 65536, whatever the layout: buffer `n` is in slot
//! `n` modulo the ring's size, a power of two.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtqueue::GuestAddress;
use virtqueue::driver::DriverMemory;

use super::Ring;

/// The bits of a packed descriptor's second half that say in which lap it was made available, and in
/// which it was used.
pub const AVAILABLE: u64 = 1 << 55;
/// The other one.
pub const USED: u64 = 1 << 63;

/// The words of one ring.
pub struct Words<'m> {
    face: Face<'m>,
    buffers: &'m [AtomicU64],
    /// Words from one buffer to the next.
    stride: usize,
    /// Entries of the ring.
    pub entries: u16,
}

/// What both sides write.
enum Face<'m> {
    Split {
        /// Where the driver shows how far it has come.
        avail_index: &'m AtomicU16,
        /// Whether the device wants to be notified.
        used_flags: &'m AtomicU16,
        /// Where the device shows how far it has come.
        used_index: &'m AtomicU16,
        /// Identity and length by turns.
        used: &'m [AtomicU32],
    },
    Packed {
        /// Address and second half by turns.
        descriptors: &'m [AtomicU64],
        /// Whether the device wants to be notified.
        device_flags: &'m AtomicU16,
        /// The second half of slot 0 in no lap.
        half: u64,
        /// Buffers that were found used so far.
        found: u16,
    },
}

impl<'m> Words<'m> {
    /// Finds them.
    pub fn of(memory: &'m DriverMemory, ring: &Ring) -> Self {
        let entries = usize::from(ring.shape.entries);
        let (avail, used) = (ring.layout.avail.0, ring.layout.used.0);
        let stride = ring.stride / 8;
        let face = match ring.half {
            None => Face::Split {
                avail_index: memory.u16_at(GuestAddress(avail + 2)),
                used_flags: memory.u16_at(GuestAddress(used)),
                used_index: memory.u16_at(GuestAddress(used + 2)),
                used: memory.u32s_at(GuestAddress(used + 4), 2 * entries),
            },
            Some(half) => Face::Packed {
                descriptors: memory.u64s_at(ring.layout.desc, 2 * entries),
                device_flags: memory.u16_at(GuestAddress(used + 2)),
                half,
                found: 0,
            },
        };
        let buffers = memory.u64s_at(ring.buffers, stride * entries);
        Self { face, buffers, stride, entries: ring.shape.entries }
    }

    /// The slot of a buffer.
    pub fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.entries - 1))
    }

    /// A buffer.
    pub fn buffer(&self, index: u16) -> &'m [AtomicU64] {
        let from = self.slot(index) * self.stride;
        &self.buffers[from..from + self.stride]
    }

    /// How many buffers the device has used so far.
    #[inline]
    pub fn used_index(&mut self) -> u16 {
        let entries = self.entries;
        match &mut self.face {
            Face::Split { used_index, .. } => used_index.load(Ordering::Acquire),
            Face::Packed { descriptors, found, .. } => loop {
                if !is_used(descriptors, *found, entries) {
                    return *found;
                }
                *found = found.wrapping_add(1);
            },
        }
    }

    /// Whether so many buffers more than were found used are so, too, as it seems: then it pays to look.
    /// Of a packed ring it reads the last one's descriptor, not the first one's: whoever reads that one
    /// all the time takes its line away from a device that writes there one by one.
    #[inline]
    pub fn seems_used(&self, more: u16) -> bool {
        let Face::Packed { descriptors, found, .. } = &self.face else { return true };
        let last = found.wrapping_add(more - 1);
        is_used(descriptors, last, self.entries)
    }

    /// Whether so many of the buffers before an index are known to be the driver's again. Of a packed
    /// ring nothing is read.
    #[inline]
    pub fn is_known_free(&self, shown: u16, wanted: u16) -> bool {
        let Face::Packed { found, .. } = &self.face else { return false };
        self.entries - shown.wrapping_sub(*found) >= wanted
    }

    /// What the device says of a buffer that it has used: its identity, and the octets written.
    #[inline]
    pub fn used(&self, index: u16) -> (usize, usize) {
        let slot = self.slot(index);
        match &self.face {
            Face::Split { used, .. } => {
                let [id, len] = [0, 1].map(|n| used[2 * slot + n].load(Ordering::Relaxed));
                (id as usize, len as usize)
            }
            Face::Packed { descriptors, .. } => {
                let word = descriptors[2 * slot + 1].load(Ordering::Relaxed);
                (usize::from((word >> 32) as u16), word as u32 as usize)
            }
        }
    }

    /// Makes the buffers from one index to another available.
    #[inline]
    pub fn show(&self, from: u16, to: u16) {
        match &self.face {
            Face::Split { avail_index, .. } => avail_index.store(to, Ordering::Release),
            Face::Packed { descriptors, half, .. } => {
                for n in (0..to.wrapping_sub(from)).rev() {
                    let index = from.wrapping_add(n);
                    let slot = self.slot(index);
                    let lap = if index & self.entries == 0 { AVAILABLE } else { USED };
                    let word = half | (slot as u64) << 32 | lap;
                    descriptors[2 * slot + 1].store(word, Ordering::Release);
                }
            }
        }
    }

    /// Whether the device wants to be notified of what was shown.
    #[inline]
    pub fn wants_kick(&self) -> bool {
        let (Face::Split { used_flags: flags, .. } | Face::Packed { device_flags: flags, .. }) =
            &self.face;
        flags.load(Ordering::Relaxed) & 1 == 0
    }
}

/// Whether a buffer of a packed ring was used in its lap.
#[inline]
fn is_used(descriptors: &[AtomicU64], index: u16, entries: u16) -> bool {
    let slot = usize::from(index & (entries - 1));
    let word = descriptors[2 * slot + 1].load(Ordering::Acquire);
    let lap = if index & entries == 0 { AVAILABLE | USED } else { 0 };
    word & (AVAILABLE | USED) == lap
}

//! A ring's words in the guest's memory, found once.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use virtqueue::GuestAddress;
use virtqueue::driver::DriverMemory;

use super::Ring;

/// The words of one ring.
pub struct Words<'m> {
    /// Where the driver shows how far it has come.
    pub avail_index: &'m AtomicU16,
    /// Whether the device wants to be notified.
    pub used_flags: &'m AtomicU16,
    /// Where the device shows how far it has come.
    pub used_index: &'m AtomicU16,
    /// Identity and length by turns.
    pub used: &'m [AtomicU32],
    buffers: &'m [AtomicU64],
    /// Words from one buffer to the next.
    stride: usize,
    /// Entries of the ring.
    pub entries: u16,
}

impl<'m> Words<'m> {
    /// Finds them.
    pub fn of(memory: &'m DriverMemory, ring: &Ring) -> Self {
        let entries = usize::from(ring.shape.entries);
        let (avail, used) = (ring.layout.avail.0, ring.layout.used.0);
        let stride = ring.stride / 8;
        Self {
            avail_index: memory.u16_at(GuestAddress(avail + 2)),
            used_flags: memory.u16_at(GuestAddress(used)),
            used_index: memory.u16_at(GuestAddress(used + 2)),
            used: memory.u32s_at(GuestAddress(used + 4), 2 * entries),
            buffers: memory.u64s_at(ring.buffers, stride * entries),
            stride,
            entries: ring.shape.entries,
        }
    }

    /// The entry of an index.
    pub fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.entries - 1))
    }

    /// The buffer of an index.
    pub fn buffer(&self, index: u16) -> &'m [AtomicU64] {
        let from = self.slot(index) * self.stride;
        &self.buffers[from..from + self.stride]
    }
}

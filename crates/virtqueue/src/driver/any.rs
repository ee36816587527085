//! The driver's side of a ring of either layout.

use std::sync::Arc;

use crate::driver::memory::DriverMemory;
use crate::driver::packed::PackedQueue;
use crate::driver::queue::{Buffer, DriverQueue, DriverRing, UsedBuffer};
use crate::layout::{QueueFeatures, QueueLayout};
use crate::memory::GuestAddress;

/// The driver's side of a ring: packed if that was negotiated.
pub enum AnyQueue {
    /// A split one.
    Split(DriverQueue),
    /// A packed one.
    Packed(PackedQueue),
}

macro_rules! of {
    ($either:expr, $queue:ident => $what:expr) => {
        match $either {
            AnyQueue::Split($queue) => $what,
            AnyQueue::Packed($queue) => $what,
        }
    };
}

impl AnyQueue {
    /// Where descriptor `index` of the ring lies: 16 octets.
    pub fn descriptor_at(&self, index: u16) -> GuestAddress {
        of!(self, queue => queue.descriptor_at(index))
    }

    /// Where the indirect table of `head` lies, if it has had one.
    pub fn table_at(&self, head: u16) -> Option<GuestAddress> {
        of!(self, queue => queue.table_at(head))
    }
}

impl DriverRing for AnyQueue {
    fn set_up(memory: Arc<DriverMemory>, size: u16, features: QueueFeatures) -> Self {
        if features.packed {
            Self::Packed(PackedQueue::set_up(memory, size, features))
        } else {
            Self::Split(DriverQueue::set_up(memory, size, features))
        }
    }

    fn layout(&self) -> QueueLayout {
        of!(self, queue => queue.layout())
    }

    fn features(&self) -> QueueFeatures {
        of!(self, queue => queue.features())
    }

    fn memory(&self) -> &Arc<DriverMemory> {
        of!(self, queue => queue.memory())
    }

    fn add(&mut self, buffers: &[Buffer], writable: bool, table: Option<usize>) -> Option<u16> {
        of!(self, queue => queue.add(buffers, writable, table))
    }

    fn expose(&mut self) -> bool {
        of!(self, queue => queue.expose())
    }

    fn take_used(&mut self) -> Option<UsedBuffer> {
        of!(self, queue => queue.take_used())
    }

    fn outstanding(&self) -> usize {
        of!(self, queue => queue.outstanding())
    }

    fn arm(&mut self) -> bool {
        of!(self, queue => queue.arm())
    }

    fn disarm(&mut self) {
        of!(self, queue => queue.disarm());
    }

    fn base(&self) -> u16 {
        of!(self, queue => queue.base())
    }
}

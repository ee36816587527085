//! What was negotiated about a queue: where its three parts lie, and which features hold.

use crate::memory::GuestAddress;
use crate::net_header::NetHeader;

/// Where a virtqueue lies (virtio 1.2, sections 2.7 and 2.8), in guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// Entries: a power of two up to 32768; of a packed ring, any number up to that.
    pub size: u16,
    /// The descriptor table, or the packed ring itself, aligned to 16.
    pub desc: GuestAddress,
    /// Written by the driver: the available ring, aligned to 2, or the driver's event suppression
    /// structure, aligned to 4.
    pub avail: GuestAddress,
    /// Written by the device: the used ring, or the device's event suppression structure, aligned
    /// to 4.
    pub used: GuestAddress,
}

/// Octets of the virtio-net header before each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderLen {
    /// 10: a legacy driver without mergeable buffers.
    Short,
    /// 12: VERSION_1, or mergeable buffers.
    Full,
}

impl HeaderLen {
    /// The number.
    pub const fn octets(self) -> usize {
        match self {
            Self::Short => NetHeader::SHORT_LEN,
            Self::Full => NetHeader::LEN,
        }
    }
}

/// The negotiated features that change how a ring is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFeatures {
    /// Notifications are asked for by index, not by flag.
    pub event_idx: bool,
    /// A descriptor may name a table of descriptors.
    pub indirect: bool,
    /// The virtio-net header's length. Mergeable buffers make it [`HeaderLen::Full`] always.
    pub header_len: HeaderLen,
    /// A received frame may be spread over several buffers. Of no meaning to an output queue.
    pub mergeable: bool,
    /// The ring is packed.
    pub packed: bool,
}

impl QueueFeatures {
    /// Feature bit: mergeable receive buffers.
    pub const MRG_RXBUF: u32 = 15;
    /// Feature bit: indirect descriptors.
    pub const INDIRECT_DESC: u32 = 28;
    /// Feature bit: event index.
    pub const EVENT_IDX: u32 = 29;
    /// Feature bit: not a legacy driver.
    pub const VERSION_1: u32 = 32;
    /// Feature bit: packed rings.
    pub const RING_PACKED: u32 = 34;
    /// Feature bit: buffers come back in the order they were made available. The queues here do
    /// that always.
    pub const IN_ORDER: u32 = 35;

    /// Picks out of the acknowledged virtio feature bits what matters here.
    pub fn from_bits(bits: u64) -> Self {
        let has = |bit: u32| bits.wrapping_shr(bit) & 1 == 1;
        let mergeable = has(Self::MRG_RXBUF);
        let full = mergeable || has(Self::VERSION_1);
        Self {
            event_idx: has(Self::EVENT_IDX),
            indirect: has(Self::INDIRECT_DESC),
            header_len: if full { HeaderLen::Full } else { HeaderLen::Short },
            mergeable,
            packed: has(Self::RING_PACKED),
        }
    }

    /// The header's length as the driver sees it.
    pub(crate) fn header_octets(self) -> usize {
        if self.mergeable { HeaderLen::Full.octets() } else { self.header_len.octets() }
    }
}

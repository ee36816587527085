//! A network's record: how far the base is in the card's receive ring, and what it changed on the
//! card.
//!
//! ```text
//!   0  frames released since the ring was made
//!   8  the same, written before the slot is given back: tells a successor about the one between
//!  16  octets of a block | octets of a slot << 32
//!  24  blocks | times the socket was taken over << 32
//!  32  offloads that were turned off, as bits
//! 512  to the end: for others; at 1024 `suspicion`
//! ```

use virtqueue::NetHeader;

use super::suspicion::NetworkSuspicion;
use super::{SLOT_HEADER, SLOT_LEN, StateMemory, host_at, network_at};
use crate::names::NetworkId;

const RELEASED: usize = 0;
const RELEASING: usize = 8;
const SIZES: usize = 16;
const BLOCKS: usize = 24;
const OFFLOADS: usize = 32;

/// The receive ring's layout, as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingRecord {
    pub block_size: u32,
    pub frame_size: u32,
    pub blocks: u32,
}

/// A network's record.
#[derive(Clone, Debug)]
pub(crate) struct NetworkRecord {
    state: StateMemory,
    at: usize,
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

fn whole(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl NetworkRecord {
    pub fn of(state: &StateMemory, network: NetworkId) -> Self {
        Self { state: state.clone(), at: network_at(network) }
    }

    fn get(&self, offset: usize) -> u64 {
        self.state.get(self.at.saturating_add(offset))
    }

    fn put(&self, offset: usize, value: u64) {
        self.state.put(self.at.saturating_add(offset), value);
    }

    /// A ring was made: nothing of it is released yet.
    pub fn start_ring(&self, ring: RingRecord) {
        self.put(RELEASED, 0);
        self.put(RELEASING, 0);
        self.put(SIZES, whole(ring.block_size, ring.frame_size));
        self.put(BLOCKS, whole(ring.blocks, 0));
        NetworkSuspicion::at(&self.state, self.at).forget_frames();
    }

    /// The ring's layout; all zeroes if none was made.
    pub fn ring(&self) -> RingRecord {
        let (block_size, frame_size) = halves(self.get(SIZES));
        RingRecord { block_size, frame_size, blocks: halves(self.get(BLOCKS)).0 }
    }

    /// Counts a takeover of the socket; how many there were, this one included.
    pub fn count_adoption(&self) -> u32 {
        let (blocks, adoptions) = halves(self.get(BLOCKS));
        let adoptions = adoptions.saturating_add(1);
        self.put(BLOCKS, whole(blocks, adoptions));
        adoptions
    }

    /// Says that the slot of frame number `count` is about to be given back.
    pub fn releasing(&self, count: u64) {
        self.put(RELEASING, count.wrapping_add(1));
    }

    /// Says that `count` frames have been given back.
    pub fn released(&self, count: u64) {
        self.put(RELEASED, count);
    }

    /// Frames given back, and whether the next one may have been as well.
    pub fn position(&self) -> (u64, bool) {
        let released = self.get(RELEASED);
        (released, self.get(RELEASING) == released.wrapping_add(1))
    }

    /// What was turned off on the card.
    pub fn offloads(&self) -> u64 {
        self.get(OFFLOADS)
    }

    /// Notes what was turned off on the card.
    pub fn set_offloads(&self, bits: u64) {
        self.put(OFFLOADS, bits);
    }
}

/// Octets a datagram from the host can have: more than any IP datagram.
pub(crate) const HOST_ROOM: usize = SLOT_LEN - SLOT_HEADER;

/// The slot for the datagram that was just read from the host.
///
/// ```text
///   0  octets of the datagram; 0 while there is none, or it is just being read
///   8  the virtio-net header, ten octets as the kernel writes them
/// 128  the datagram
/// ```
/// The kernel writes header and datagram straight into the slot. A base that died between that and
/// noting the length left a datagram whose first octet is not zero and whose length is in its own
/// header: it is not lost.
#[derive(Clone, Debug)]
pub(crate) struct HostSlot {
    state: StateMemory,
    at: usize,
}

impl HostSlot {
    pub fn of(state: &StateMemory, network: NetworkId) -> Self {
        Self { state: state.clone(), at: host_at(network) }
    }

    /// Where in the state memory the kernel puts the header and the datagram.
    pub fn places(&self) -> ((usize, usize), (usize, usize)) {
        (
            (self.at.saturating_add(8), NetHeader::SHORT_LEN),
            (self.at.saturating_add(SLOT_HEADER), HOST_ROOM),
        )
    }

    /// The memory that [`HostSlot::places`] counts in.
    pub fn memory(&self) -> &virtqueue::Mapping {
        self.state.memory()
    }

    /// Octets of the datagram in it, 0 if there is none.
    pub fn len(&self) -> usize {
        usize::try_from(self.state.get(self.at)).unwrap_or(0).min(HOST_ROOM)
    }

    /// Says how long the datagram is that was read.
    pub fn publish(&self, len: usize) {
        self.state.put(self.at, len as u64);
    }

    /// Empties it. The length goes first: a death in between repeats the datagram, whole.
    pub fn clear(&self) {
        self.state.put(self.at, 0);
        if let Some(first) = self.memory().u8_at(self.at.saturating_add(SLOT_HEADER)) {
            first.store(0, std::sync::atomic::Ordering::Release);
        }
    }

    /// Finds the length of a datagram that was read but not published.
    pub fn recover(&self) {
        if self.len() > 0 {
            return;
        }
        let mut start = [0; 6];
        self.memory().read(self.at.saturating_add(SLOT_HEADER), &mut start);
        let [first, _, l4h, l4l, l6h, l6l] = start;
        let len = match first >> 4 {
            4 => usize::from(u16::from_be_bytes([l4h, l4l])),
            6 => usize::from(u16::from_be_bytes([l6h, l6l])).saturating_add(40),
            _ => 0,
        };
        self.publish(len);
    }

    /// The header before the datagram.
    pub fn header(&self) -> NetHeader {
        let mut bytes = [0; NetHeader::LEN];
        if let Some(short) = bytes.get_mut(..NetHeader::SHORT_LEN) {
            self.memory().read(self.at.saturating_add(8), short);
        }
        NetHeader::from_bytes(bytes)
    }

    /// Copies the datagram's first octets.
    pub fn read(&self, into: &mut [u8]) {
        self.memory().read(self.at.saturating_add(SLOT_HEADER), into);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn state() -> StateMemory {
        StateMemory::create().unwrap().0
    }

    #[test]
    fn a_slot_that_was_being_given_back_is_seen() {
        let record = NetworkRecord::of(&state(), NetworkId(3));
        record.start_ring(RingRecord { block_size: 4096, frame_size: 2048, blocks: 2 });
        assert_eq!(record.position(), (0, false));
        record.releasing(0);
        assert_eq!(record.position(), (0, true));
        record.released(1);
        assert_eq!(record.position(), (1, false));
    }

    #[test]
    fn takeovers_are_counted_beside_the_layout() {
        let (state, fd) = StateMemory::create().unwrap();
        let ring = RingRecord { block_size: 1 << 20, frame_size: 69904, blocks: 18 };
        NetworkRecord::of(&state, NetworkId(0)).start_ring(ring);
        let state = StateMemory::adopt(fd.as_fd()).unwrap();
        let record = NetworkRecord::of(&state, NetworkId(0));
        assert_eq!((record.count_adoption(), record.count_adoption()), (1, 2));
        assert_eq!(record.ring(), ring);
    }

    #[test]
    fn a_datagram_read_before_a_death_is_found_by_its_own_length() {
        for (start, len) in
            [([0x45, 0, 0x05, 0xdc, 0, 0], 1500), ([0x60, 0, 0, 0, 0x05, 0xdc], 1540)]
        {
            let slot = HostSlot::of(&state(), NetworkId(1));
            slot.recover();
            assert_eq!(slot.len(), 0, "an empty slot stays empty");
            let (_, (at, _)) = slot.places();
            slot.memory().write(at, &start).unwrap();
            slot.recover();
            assert_eq!(slot.len(), len);
            slot.clear();
            slot.recover();
            assert_eq!(slot.len(), 0, "what is done does not come back");
        }
    }
}

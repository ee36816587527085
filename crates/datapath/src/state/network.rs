//! A network's record: how far the base is in the card's receive ring, and what it changed on the
//! card.
//!
//! ```text
//!   0  frames released since the ring was made, counted
//!   8  the same, written before the slot is given back: tells a successor about the one between
//!  16  octets of a block | octets of a slot << 32
//!  24  blocks
//!  32  offloads that were turned off, as bits, paired
//!  40  seal of the ring's layout
//!  48  times the socket was taken over, paired
//! 512  to the end: for others; at 1024 `suspicion`
//! ```
//! What is counted or paired says [`super::seal`].

use virtqueue::NetHeader;

use super::seal::{counted, next_count, pair, seal, sum, uncounted, unpair};
use super::suspicion::NetworkSuspicion;
use super::{Place, SLOT_HEADER, SLOT_LEN, StateMemory, host_at, network_at};
use crate::names::{Inlet, NetworkId};

const RELEASED: usize = 0;
const RELEASING: usize = 8;
const SIZES: usize = 16;
const BLOCKS: usize = 24;
const OFFLOADS: usize = 32;
const SEAL: usize = 40;
const ADOPTIONS: usize = 48;

/// Takeovers of a socket that is assumed where their number is lost: more than there will have been,
/// and few enough to undo as many.
const MANY_ADOPTIONS: u32 = 1000;

/// The receive ring's layout, as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingRecord {
    pub block_size: u32,
    pub frame_size: u32,
    pub blocks: u32,
}

/// How far the base is in the receive ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// So many frames have been given back.
    At(u64),
    /// So many, and the next one may have been as well.
    Between(u64),
    /// The numbers cannot be trusted.
    Lost,
}

/// A network's record.
#[derive(Clone, Debug)]
pub(crate) struct NetworkRecord {
    state: StateMemory,
    network: NetworkId,
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
        Self { state: state.clone(), network, at: network_at(network) }
    }

    fn get(&self, offset: usize) -> u64 {
        self.state.get(self.at.saturating_add(offset))
    }

    fn put(&self, offset: usize, value: u64) {
        self.state.put(self.at.saturating_add(offset), value);
    }

    /// A ring was made: nothing of it is released yet.
    pub fn start_ring(&self, ring: RingRecord) {
        self.put(SEAL, 0);
        self.set_position(0);
        self.put(ADOPTIONS, 0);
        self.put(SIZES, whole(ring.block_size, ring.frame_size));
        self.put(BLOCKS, whole(ring.blocks, 0));
        NetworkSuspicion::at(&self.state, self.at).forget_frames(Inlet::PACKET);
        self.seal_ring();
    }

    fn right_seal(&self) -> u64 {
        let at = self.at.saturating_add(SIZES);
        seal(at, &[&self.state.octets::<16>(at)])
    }

    fn seal_ring(&self) {
        self.put(SEAL, self.right_seal());
    }

    /// The ring's layout, if one was made and the record can be trusted.
    pub fn ring(&self) -> Option<RingRecord> {
        let (block_size, frame_size) = halves(self.get(SIZES));
        let ring = RingRecord { block_size, frame_size, blocks: halves(self.get(BLOCKS)).0 };
        (self.get(SEAL) == self.right_seal()).then_some(ring)
    }

    /// Counts a takeover of the socket; how many there were, this one included.
    pub fn count_adoption(&self) -> u32 {
        let before = match self.get(ADOPTIONS) {
            0 => 0,
            word => unpair(word).unwrap_or_else(|| {
                self.note("how often its card's socket was taken over is lost");
                MANY_ADOPTIONS
            }),
        };
        let adoptions = before.saturating_add(1);
        self.put(ADOPTIONS, pair(adoptions));
        adoptions
    }

    /// Says that the slot of frame number `count` is about to be given back.
    pub fn releasing(&self, count: u64) {
        self.put(RELEASING, counted(next_count(count)));
    }

    /// Says that `count` frames have been given back.
    pub fn released(&self, count: u64) {
        self.put(RELEASED, counted(count));
    }

    /// Says that `count` frames have been given back, and no other is about to be.
    pub fn set_position(&self, count: u64) {
        self.released(count);
        self.put(RELEASING, counted(count));
    }

    /// How far the predecessor was in the ring.
    pub fn position(&self) -> Position {
        match [RELEASED, RELEASING].map(|at| uncounted(self.get(at))) {
            [Some(released), Some(releasing)] if releasing == released => Position::At(released),
            [Some(released), Some(releasing)] if releasing == next_count(released) => {
                Position::Between(released)
            }
            _ => Position::Lost,
        }
    }

    /// What was turned off on the card.
    pub fn offloads(&self) -> u64 {
        match self.get(OFFLOADS) {
            0 => 0,
            word => unpair(word).map_or_else(
                || {
                    self.note("what was turned off on its card is lost, and stays off");
                    self.put(OFFLOADS, 0);
                    0
                },
                u64::from,
            ),
        }
    }

    /// Notes what was turned off on the card.
    pub fn set_offloads(&self, bits: u64) {
        self.put(OFFLOADS, pair(u32::try_from(bits).unwrap_or(0)));
    }

    /// Notes that a part of the record was damaged.
    pub fn note(&self, what: &str) {
        self.state.note(Place::Network(self.network), what.to_owned());
    }

    /// Brings a record of the first layout to today's; `true` if a ring was made. Nothing happens to
    /// one that was brought up already.
    pub(super) fn bring_up(&self) -> bool {
        if let Ok(bits) = u32::try_from(self.get(OFFLOADS))
            && bits != 0
        {
            self.put(OFFLOADS, pair(bits));
        }
        let (blocks, adoptions) = halves(self.get(BLOCKS));
        if blocks == 0 {
            return false;
        }
        for at in [RELEASED, RELEASING] {
            if self.get(at) >> 48 == 0 {
                self.put(at, counted(self.get(at)));
            }
        }
        if adoptions != 0 {
            self.put(ADOPTIONS, pair(adoptions));
            self.put(BLOCKS, whole(blocks, 0));
        }
        self.seal_ring();
        true
    }
}

/// Octets a datagram from the host can have: more than any IP datagram.
pub(crate) const HOST_ROOM: usize = SLOT_LEN - SLOT_HEADER;

/// The slot for the datagram that was just read from the host.
///
/// ```text
///   0  octets of the datagram | the sum of header and datagram << 32; 0 while there is none, or it
///      is just being read
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

/// What a successor found in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing, or a datagram that comes next.
    Whole,
    /// A datagram that was damaged; the slot is empty now.
    Damaged,
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
        let (len, _) = halves(self.state.get(self.at));
        usize::try_from(len).unwrap_or(0).min(HOST_ROOM)
    }

    /// Says how long the datagram is that was read; `datagram` is a copy of it.
    pub fn publish(&self, len: usize, datagram: &[u8]) {
        let word = match u32::try_from(len) {
            Ok(0) | Err(_) => 0,
            Ok(octets) => whole(octets, self.sum(octets, datagram)),
        };
        self.state.put(self.at, word);
    }

    fn sum(&self, len: u32, datagram: &[u8]) -> u32 {
        let header: [u8; NetHeader::SHORT_LEN] = self.state.octets(self.at.saturating_add(8));
        sum(self.at, &[&len.to_ne_bytes(), &header, datagram])
    }

    /// Empties it. The length goes first: a death in between repeats the datagram, whole.
    pub fn clear(&self) {
        self.state.put(self.at, 0);
        if let Some(first) = self.memory().u8_at(self.at.saturating_add(SLOT_HEADER)) {
            first.store(0, std::sync::atomic::Ordering::Release);
        }
    }

    /// Looks at what a predecessor left: finds the length of a datagram that was read but not
    /// published, and empties the slot of one that was damaged since.
    pub fn recover(&self) -> Left {
        let word = self.state.get(self.at);
        if word == 0 {
            let len = self.own_length();
            self.publish(len, &self.copy(len));
            return Left::Whole;
        }
        let (len, sum) = halves(word);
        if len == 0 || len as usize > HOST_ROOM || self.sum(len, &self.copy(len as usize)) != sum {
            self.clear();
            return Left::Damaged;
        }
        Left::Whole
    }

    /// The length that the datagram's own header says.
    fn own_length(&self) -> usize {
        let [first, _, l4h, l4l, l6h, l6l] = self.state.octets(self.at.saturating_add(SLOT_HEADER));
        match first >> 4 {
            4 => usize::from(u16::from_be_bytes([l4h, l4l])),
            6 => usize::from(u16::from_be_bytes([l6h, l6l])).saturating_add(40),
            _ => 0,
        }
    }

    fn copy(&self, len: usize) -> Vec<u8> {
        let mut copy = vec![0; len.min(HOST_ROOM)];
        self.read(&mut copy);
        copy
    }

    /// Brings a slot of the first layout to today's: that had no sum.
    pub(super) fn bring_up(&self) {
        let (len, sum) = halves(self.state.get(self.at));
        if sum == 0 && len != 0 && len as usize <= HOST_ROOM {
            self.publish(len as usize, &self.copy(len as usize));
        }
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

    use proptest::prelude::*;

    use super::*;

    fn state() -> StateMemory {
        StateMemory::create().unwrap().0
    }

    #[test]
    fn a_slot_that_was_being_given_back_is_seen() {
        let record = NetworkRecord::of(&state(), NetworkId(3));
        record.start_ring(RingRecord { block_size: 4096, frame_size: 2048, blocks: 2 });
        assert_eq!(record.position(), Position::At(0));
        record.releasing(0);
        assert_eq!(record.position(), Position::Between(0));
        record.released(1);
        assert_eq!(record.position(), Position::At(1));
    }

    #[test]
    fn takeovers_are_counted_beside_the_layout() {
        let (state, fd) = StateMemory::create().unwrap();
        let ring = RingRecord { block_size: 1 << 20, frame_size: 69904, blocks: 18 };
        NetworkRecord::of(&state, NetworkId(0)).start_ring(ring);
        let state = StateMemory::adopt(fd.as_fd()).unwrap();
        let record = NetworkRecord::of(&state, NetworkId(0));
        assert_eq!((record.count_adoption(), record.count_adoption()), (1, 2));
        assert_eq!(record.ring(), Some(ring));
    }

    #[test]
    fn a_datagram_read_before_a_death_is_found_by_its_own_length() {
        for (start, len) in
            [([0x45, 0, 0x05, 0xdc, 0, 0], 1500), ([0x60, 0, 0, 0, 0x05, 0xdc], 1540)]
        {
            let slot = HostSlot::of(&state(), NetworkId(1));
            assert_eq!((slot.recover(), slot.len()), (Left::Whole, 0), "empty stays empty");
            let (_, (at, _)) = slot.places();
            slot.memory().write(at, &start).unwrap();
            for _ in 0..2 {
                assert_eq!((slot.recover(), slot.len()), (Left::Whole, len));
            }
            slot.clear();
            assert_eq!((slot.recover(), slot.len()), (Left::Whole, 0), "done: does not come back");
        }
    }

    /// What is written of one octet of the state memory, and of nothing else.
    fn flip(state: &StateMemory, at: usize, by: u8) {
        let octet = state.memory().u8_at(at).unwrap();
        octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
    }

    const RING: RingRecord = RingRecord { block_size: 1 << 20, frame_size: 69904, blocks: 18 };

    proptest! {
        #[test]
        fn any_damaged_octet_of_a_rings_layout_is_noticed(
            at in prop_oneof![SIZES..OFFLOADS, SEAL..ADOPTIONS], by in 1..=255u8,
        ) {
            let state = state();
            let record = NetworkRecord::of(&state, NetworkId(3));
            prop_assert_eq!(record.ring(), None, "none was made");
            record.start_ring(RING);
            prop_assert_eq!(record.ring(), Some(RING));
            flip(&state, record.at + at, by);
            prop_assert_eq!(record.ring(), None);
        }

        #[test]
        fn any_damaged_octet_of_the_cursor_is_noticed(
            count in 0..1u64 << 48, between: bool, at in RELEASED..SIZES, by in 1..=255u8,
        ) {
            let state = state();
            let record = NetworkRecord::of(&state, NetworkId(3));
            record.set_position(count);
            prop_assert_eq!(record.position(), Position::At(count));
            if between {
                record.releasing(count);
                prop_assert_eq!(record.position(), Position::Between(count));
            }
            flip(&state, record.at + at, by);
            prop_assert_eq!(record.position(), Position::Lost);
        }

        #[test]
        fn any_damaged_octet_of_what_was_turned_off_or_taken_over_is_told(
            at in prop_oneof![OFFLOADS..SEAL, ADOPTIONS..ADOPTIONS + 8], by in 1..=255u8,
        ) {
            let state = state();
            let record = NetworkRecord::of(&state, NetworkId(3));
            record.set_offloads(5);
            record.count_adoption();
            flip(&state, record.at + at, by);
            let found = (record.offloads(), record.count_adoption());
            let expected = if at < SEAL { (0, 2) } else { (5, MANY_ADOPTIONS + 1) };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(state.take_damage().len(), 1);
        }

        #[test]
        fn any_damaged_octet_of_a_datagram_from_the_host_costs_that_datagram(
            at in prop_oneof![
                0..8 + NetHeader::SHORT_LEN, SLOT_HEADER..SLOT_HEADER + 100,
            ],
            by in 1..=255u8,
        ) {
            let state = state();
            let slot = HostSlot::of(&state, NetworkId(1));
            slot.memory().write(slot.at + SLOT_HEADER, &[0x45; 100]).unwrap();
            slot.publish(100, &[0x45; 100]);
            prop_assert_eq!((slot.recover(), slot.len()), (Left::Whole, 100));
            flip(&state, slot.at + at, by);
            prop_assert_eq!((slot.recover(), slot.len()), (Left::Damaged, 0));
            prop_assert_eq!(slot.recover(), Left::Whole);
        }
    }
}

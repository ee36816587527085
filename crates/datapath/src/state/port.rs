//! One port's record: how far its front end's negotiation went, and where the worker was.
//!
//! # Theory of operation
//! The vhost-user dispatcher keeps the numbers of a negotiation here and nowhere else; in the
//! process live only what numbers cannot hold, descriptors and mappings. Each descriptor is kept
//! by the holder under a key that the record implies, so a successor can put both together again.
//!
//! Changes of the negotiation happen between [`PortRecord::open_request`] and
//! [`PortRecord::close_request`], which seals it. If a successor finds the mark standing, the record
//! may be half changed and counts for nothing: that front end has to negotiate anew. What it does
//! with a record that was damaged says [`trust`].
//!
//! ```text
//! 0     name: length (paired), then the octets
//! 72    connected (paired), request mark (paired), interruptions
//! 96    features offered and acknowledged, of virtio and of the protocol
//! 128   requests carried out, and the one at which a base died last
//! 144   the MAC address that the guest's first frame told, a check, 2
//! 152   queue pairs offered, but for the first
//! 160   seal of the negotiation, seal of the name
//! 176   what is held against the port: `suspicion`
//! 256   one block for each ring of the first pair: size, addresses, base, flags, fault (paired),
//!       `position`; of other pairs also what is held against the ring (`suspicion`)
//! 1024  memory slots: guest address, user address, length, offset in the file
//! 3072  the blocks of the other pairs' rings
//! ```
//! The seal of the negotiation is over the features, the number of pairs, the rings' words up to their
//! flags and the memory slots. Everything else changes without a request, and has its own check where a wrong
//! number could do harm.
//!
//! # Invariants
//! - The dispatcher's thread writes; the MAC address and three words per ring (fault, position)
//!   belong to the worker while the ring runs. The dispatcher resets those when a ring is set up anew:
//!   it has stopped the ring before, so that the worker does not write them.
//! - While a front end is connected and the request mark is not set, the seal is right.
//! - Every word can be read whatever it contains; whether the whole makes sense is for the reader.

mod assign;
mod pairs;
mod position;
pub(super) mod trust;

pub use assign::assign;
pub(in crate::state) use pairs::pairs_at;
pub use position::{Remembered, RingJournal};

use super::seal::{pair, unpair};
use super::suspicion::PortSuspicion;
use super::{PORT_LEN, Place, StateMemory, port_at};
use crate::names::{MAX_PAIRS, Mac, PortId, RingId};

/// Octets of the longest port name.
pub const MAX_NAME: usize = 64;
/// Memory regions one front end can share.
pub const MAX_MEMORY_SLOTS: usize = 32;

const NAME_LEN_AT: usize = 0;
const NAME_AT: usize = 8;
const CONNECTED_AT: usize = 72;
const REQUEST_AT: usize = 80;
const INTERRUPTIONS_AT: usize = 88;
const OFFERED_AT: usize = 96;
const FEATURES_AT: usize = 104;
const PROTOCOL_OFFERED_AT: usize = 112;
const PROTOCOL_AT: usize = 120;
const REQUESTS_AT: usize = 128;
const INTERRUPTED_AT: usize = 136;
const MAC_AT: usize = 144;
const MORE_PAIRS_AT: usize = 152;
const SEAL_AT: usize = 160;
const NAME_SEAL_AT: usize = 168;

/// The part of a word that counts requests; the other half says which request it was.
const PLACE: u64 = u32::MAX as u64;

const RINGS_AT: usize = 256;
const MORE_RINGS_AT: usize = 3072;
const RING_LEN: usize = 128;
/// Rings of the first pair.
const FIRST_RINGS: usize = 2;
const SIZE_AT: usize = 0;
const DESC_AT: usize = 8;
const AVAIL_AT: usize = 16;
const USED_AT: usize = 24;
const BASE_AT: usize = 32;
const FLAGS_AT: usize = 40;
const FAULT_AT: usize = 64;

const SLOTS_AT: usize = 1024;
const SLOT_LEN: usize = 64;
const GUEST_AT: usize = 0;
const USER_AT: usize = 8;
const LEN_AT: usize = 16;
const OFFSET_AT: usize = 24;

const _: () = assert!(SLOTS_AT + MAX_MEMORY_SLOTS * SLOT_LEN <= MORE_RINGS_AT);
const _: () = assert!(MORE_RINGS_AT + (2 * MAX_PAIRS - FIRST_RINGS) * RING_LEN <= PORT_LEN);
const _: () = assert!(NAME_AT + MAX_NAME <= CONNECTED_AT);

const HAS_ADDRESSES: u64 = 1;
const ENABLED: u64 = 1 << 1;
const STARTED: u64 = 1 << 2;
const KICK: u64 = 1 << 3;
const POLLED: u64 = 1 << 4;
const CALL: u64 = 1 << 5;
const ERR: u64 = 1 << 6;

/// Where the front end sees the three parts of a ring, in its own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// How the driver says that it has put something into a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kick {
    /// Not said yet: the ring is stopped.
    #[default]
    Unset,
    /// By a descriptor.
    Descriptor,
    /// Not at all: the ring has to be polled.
    Polled,
}

/// How far one ring's negotiation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingState {
    /// Descriptors; 0 until it is set.
    pub size: u16,
    /// Where it lies.
    pub addresses: Option<RingAddresses>,
    /// What the front end says to start with, or was told at the last stop: an index; of a packed
    /// ring, two places.
    pub base: u32,
    /// The front end has enabled it.
    pub enabled: bool,
    /// The worker has it.
    pub started: bool,
    /// How it is kicked.
    pub kick: Kick,
    /// There is a descriptor to interrupt the driver with.
    pub call: bool,
    /// There is a descriptor to report a broken ring with.
    pub err: bool,
}

/// One memory region, as the front end described it. Its index is the number in its keeper's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySlot {
    /// Where the guest sees it.
    pub guest: u64,
    /// Where the front end sees it.
    pub user: u64,
    /// Octets, at least one.
    pub len: u64,
    /// Where in the file it starts.
    pub offset: u64,
}

/// A port's record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PortRecord {
    state: StateMemory,
    id: PortId,
    at: usize,
}

impl PortRecord {
    /// The record of `id` in the state memory.
    pub fn of(state: &StateMemory, id: PortId) -> Self {
        Self { state: state.clone(), id, at: port_at(id) }
    }

    fn get(&self, offset: usize) -> u64 {
        self.state.get(self.at.saturating_add(offset))
    }

    fn put(&self, offset: usize, value: u64) {
        self.state.put(self.at.saturating_add(offset), value);
    }

    /// The name this record was given, if it was and can be trusted.
    pub fn name(&self) -> Option<String> {
        let octets = self.name_octets()?;
        if self.get(NAME_SEAL_AT) != self.name_seal(&octets) {
            return None;
        }
        String::from_utf8(octets).ok()
    }

    /// Gives the record a name. `false`, and nothing changed, if it is empty or too long.
    pub fn set_name(&self, name: &str) -> bool {
        let Some(len) = u32::try_from(name.len()).ok().filter(|_| name.len() <= MAX_NAME) else {
            return false;
        };
        if len == 0 {
            return false;
        }
        self.put(NAME_LEN_AT, 0);
        self.state.memory().write(self.at.saturating_add(NAME_AT), name.as_bytes());
        self.put(NAME_SEAL_AT, self.name_seal(name.as_bytes()));
        self.put(NAME_LEN_AT, pair(len));
        true
    }

    /// Makes the record nobody's.
    pub fn clear(&self) {
        self.put(NAME_LEN_AT, 0);
        self.forget_negotiation();
        self.suspicion().clear();
        self.rings().for_each(|ring| self.forget_position(ring));
        self.put(MORE_PAIRS_AT, 0);
        self.put(INTERRUPTIONS_AT, 0);
        self.put(INTERRUPTED_AT, 0);
        self.put(MAC_AT, 0);
    }

    /// The MAC address that was learned from the guest, if it can be trusted; kept for as long as
    /// the record has its name.
    pub fn mac(&self) -> Option<Mac> {
        let [a, b, c, d, e, f, ..] = self.get(MAC_AT).to_ne_bytes();
        let mac = Mac([a, b, c, d, e, f]);
        (self.get(MAC_AT) == trust::mac_word(mac)).then_some(mac)
    }

    /// Notes the MAC address that was learned from the guest.
    pub fn set_mac(&self, mac: Mac) {
        self.put(MAC_AT, trust::mac_word(mac));
    }

    /// Sets everything that belongs to one connection back to the beginning, but for the number of pairs
    /// and where packed rings stood: they may come back. From the first step on there is no front end, whatever else still
    /// stands.
    pub fn forget_negotiation(&self) {
        self.set_disconnected();
        for at in [OFFERED_AT, FEATURES_AT, PROTOCOL_OFFERED_AT, PROTOCOL_AT, REQUESTS_AT] {
            self.put(at, 0);
        }
        self.rings().for_each(|ring| self.begin(ring));
        for slot in 0..MAX_MEMORY_SLOTS {
            self.set_slot(slot, None);
        }
        self.put(REQUEST_AT, 0);
    }

    /// What is held against the port. It outlives its front ends.
    pub fn suspicion(&self) -> PortSuspicion {
        PortSuspicion::at(&self.state, self.at)
    }

    /// Whether a front end is attached.
    pub fn connected(&self) -> bool {
        self.get(CONNECTED_AT) != 0
    }

    /// Notes that a front end is attached.
    pub fn set_connected(&self) {
        self.put(CONNECTED_AT, pair(1));
    }

    /// Notes that none is: a successor takes nothing over, and nothing else has to be whole.
    pub fn set_disconnected(&self) {
        self.put(CONNECTED_AT, 0);
    }

    /// Marks a request as begun: until [`PortRecord::close_request`], the record may be half
    /// changed. `request` is its number in the protocol, for the successor's report.
    pub fn open_request(&self, request: u32) {
        self.put(REQUEST_AT, pair(request.saturating_add(1)));
    }

    /// Seals the record and takes the mark away: it is whole, and what it implies is with the
    /// keeper.
    pub fn close_request(&self) {
        let requests = self.get(REQUESTS_AT).saturating_add(1);
        self.put(REQUESTS_AT, requests);
        if requests > self.get(INTERRUPTED_AT) & PLACE {
            self.put(INTERRUPTIONS_AT, 0);
        }
        self.seal();
        self.put(REQUEST_AT, 0);
    }

    /// The request whose mark stands; `u32::MAX` if the mark is damaged.
    pub fn request_open(&self) -> Option<u32> {
        match self.get(REQUEST_AT) {
            0 => None,
            mark => Some(unpair(mark).and_then(|n| n.checked_sub(1)).unwrap_or(u32::MAX)),
        }
    }

    /// Counts that a base died of its own making in the middle of `request`, and gives the number in
    /// a row. Front ends say the same things in the same order, so a message that kills comes again
    /// at the same place of the next connection, or earlier, if the last had been long: then it is
    /// known by its number in the protocol.
    pub fn count_interruption(&self, request: u32) -> u64 {
        let place = self.get(REQUESTS_AT) & PLACE;
        let last = self.get(INTERRUPTED_AT);
        let same = place == last & PLACE || u64::from(request) == last >> 32;
        let before = if same { self.interruptions() } else { 0 };
        let times = before.saturating_add(1);
        self.put(INTERRUPTED_AT, u64::from(request) << 32 | place);
        self.put(INTERRUPTIONS_AT, times);
        times
    }

    /// How often in a row a base died of its own making at the same request of this port's front
    /// end. Nought again as soon as a base has lived through that request.
    pub fn interruptions(&self) -> u64 {
        self.get(INTERRUPTIONS_AT)
    }

    /// Virtio features that this front end was offered: they do not change while it lives.
    pub fn offered(&self) -> u64 {
        self.get(OFFERED_AT)
    }

    /// Protocol features that this front end was offered.
    pub fn protocol_offered(&self) -> u64 {
        self.get(PROTOCOL_OFFERED_AT)
    }

    /// Virtio features acknowledged.
    pub fn features(&self) -> u64 {
        self.get(FEATURES_AT)
    }

    /// Notes the virtio features acknowledged.
    pub fn set_features(&self, features: u64) {
        self.put(FEATURES_AT, features);
    }

    /// Protocol features acknowledged.
    pub fn protocol(&self) -> u64 {
        self.get(PROTOCOL_AT)
    }

    /// Notes the protocol features acknowledged.
    pub fn set_protocol(&self, features: u64) {
        self.put(PROTOCOL_AT, features);
    }

    pub(super) fn ring_at(ring: RingId, offset: usize) -> usize {
        let number = usize::from(ring.number());
        let (area, nth) = match number.checked_sub(FIRST_RINGS) {
            None => (RINGS_AT, number),
            Some(nth) => (MORE_RINGS_AT, nth),
        };
        area.saturating_add(nth.saturating_mul(RING_LEN)).saturating_add(offset)
    }

    fn get_ring(&self, ring: RingId, offset: usize) -> u64 {
        self.get(Self::ring_at(ring, offset))
    }

    fn put_ring(&self, ring: RingId, offset: usize, value: u64) {
        self.put(Self::ring_at(ring, offset), value);
    }

    /// How far a ring's negotiation went.
    pub fn ring(&self, ring: RingId) -> RingState {
        let flags = self.get_ring(ring, FLAGS_AT);
        let has = |bit: u64| flags & bit != 0;
        RingState {
            size: self.get_ring(ring, SIZE_AT) as u16,
            addresses: has(HAS_ADDRESSES).then(|| RingAddresses {
                desc: self.get_ring(ring, DESC_AT),
                avail: self.get_ring(ring, AVAIL_AT),
                used: self.get_ring(ring, USED_AT),
            }),
            base: self.get_ring(ring, BASE_AT) as u32,
            enabled: has(ENABLED),
            started: has(STARTED),
            kick: match (has(KICK), has(POLLED)) {
                (true, _) => Kick::Descriptor,
                (false, true) => Kick::Polled,
                (false, false) => Kick::Unset,
            },
            call: has(CALL),
            err: has(ERR),
        }
    }

    /// Notes how far a ring's negotiation went.
    pub fn set_ring(&self, id: RingId, ring: RingState) {
        let none = RingAddresses { desc: 0, avail: 0, used: 0 };
        let addresses = ring.addresses.unwrap_or(none);
        let flag = |yes: bool, bit: u64| if yes { bit } else { 0 };
        let flags = flag(ring.addresses.is_some(), HAS_ADDRESSES)
            | flag(ring.enabled, ENABLED)
            | flag(ring.started, STARTED)
            | flag(ring.kick == Kick::Descriptor, KICK)
            | flag(ring.kick == Kick::Polled, POLLED)
            | flag(ring.call, CALL)
            | flag(ring.err, ERR);
        self.put_ring(id, SIZE_AT, ring.size.into());
        self.put_ring(id, DESC_AT, addresses.desc);
        self.put_ring(id, AVAIL_AT, addresses.avail);
        self.put_ring(id, USED_AT, addresses.used);
        self.put_ring(id, BASE_AT, ring.base.into());
        self.put_ring(id, FLAGS_AT, flags);
    }

    /// Changes a ring's state.
    pub fn update_ring(&self, ring: RingId, change: impl FnOnce(&mut RingState)) {
        let mut state = self.ring(ring);
        change(&mut state);
        self.set_ring(ring, state);
    }

    /// The fault for which the worker stopped a ring, as it numbered it. A broken ring stays
    /// stopped, in a successor too, until the front end sets it up anew.
    pub fn fault(&self, ring: RingId) -> Option<u16> {
        match self.get_ring(ring, FAULT_AT) {
            0 => None,
            word => {
                let fault = unpair(word).and_then(|n| u16::try_from(n.checked_sub(1)?).ok());
                Some(fault.unwrap_or(u16::MAX))
            }
        }
    }

    /// Notes that the worker stopped a ring for a fault, or that the ring is new.
    pub fn set_fault(&self, ring: RingId, fault: Option<u16>) {
        let word = fault.map_or(0, |f| pair(u32::from(f).saturating_add(1)));
        self.put_ring(ring, FAULT_AT, word);
    }

    fn slot_at(slot: usize, offset: usize) -> usize {
        let slot = slot.min(MAX_MEMORY_SLOTS.saturating_sub(1));
        SLOTS_AT.saturating_add(slot.saturating_mul(SLOT_LEN)).saturating_add(offset)
    }

    /// The memory region in a slot.
    pub fn slot(&self, slot: usize) -> Option<MemorySlot> {
        if slot >= MAX_MEMORY_SLOTS {
            return None;
        }
        let len = self.get(Self::slot_at(slot, LEN_AT));
        (len != 0).then(|| MemorySlot {
            guest: self.get(Self::slot_at(slot, GUEST_AT)),
            user: self.get(Self::slot_at(slot, USER_AT)),
            len,
            offset: self.get(Self::slot_at(slot, OFFSET_AT)),
        })
    }

    /// Fills or empties a slot. `false`, and nothing changed, if there is no such slot.
    pub fn set_slot(&self, slot: usize, region: Option<MemorySlot>) -> bool {
        if slot >= MAX_MEMORY_SLOTS {
            return false;
        }
        let none = MemorySlot { guest: 0, user: 0, len: 0, offset: 0 };
        let region = region.unwrap_or(none);
        self.put(Self::slot_at(slot, GUEST_AT), region.guest);
        self.put(Self::slot_at(slot, USER_AT), region.user);
        self.put(Self::slot_at(slot, OFFSET_AT), region.offset);
        self.put(Self::slot_at(slot, LEN_AT), region.len);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PortRecord {
        let (state, _fd) = StateMemory::create().unwrap();
        PortRecord::of(&state, PortId(3))
    }

    #[test]
    fn a_record_gives_back_what_was_written() {
        let record = record();
        let ring = RingState {
            size: 256,
            addresses: Some(RingAddresses { desc: 1, avail: 2, used: 3 }),
            base: 0x8005_8005,
            enabled: true,
            started: false,
            kick: Kick::Polled,
            call: true,
            err: false,
        };
        record.set_ring(RingId::TX, ring);
        assert_eq!(record.ring(RingId::TX), ring);
        assert_eq!(record.ring(RingId::RX), RingState::default());
        let slot = MemorySlot { guest: 0, user: 0x7f00, len: 4096, offset: 8192 };
        assert!(record.set_slot(31, Some(slot)));
        assert_eq!(record.slot(31), Some(slot));
        assert_eq!(record.slot(30), None);
        assert!(!record.set_slot(32, Some(slot)));
        assert!(record.set_name("web"));
        assert_eq!(record.name().as_deref(), Some("web"));
        assert!(!record.set_name(&"x".repeat(MAX_NAME + 1)));
        assert!(!record.set_name(""));
    }

    #[test]
    fn forgetting_a_negotiation_keeps_the_name_the_mac_and_the_interruptions() {
        let record = record();
        record.set_name("web");
        record.set_connected();
        record.set_features(5);
        record.set_mac(Mac([2, 0, 0, 0, 0, 9]));
        record.set_slot(0, Some(MemorySlot { guest: 0, user: 0, len: 1, offset: 0 }));
        record.open_request(5);
        assert_eq!(record.request_open(), Some(5));
        assert_eq!(record.count_interruption(5), 1);
        record.forget_negotiation();
        assert_eq!(record.interruptions(), 1);
        assert_eq!(record.name().as_deref(), Some("web"));
        assert!(!record.connected());
        assert_eq!((record.features(), record.slot(0), record.request_open()), (0, None, None));
        assert_eq!(record.mac(), Some(Mac([2, 0, 0, 0, 0, 9])));
        record.clear();
        assert_eq!(record.mac(), None);
    }

    #[test]
    fn interruptions_are_counted_in_a_row_at_the_same_place_of_a_connection_only() {
        let record = record();
        let request = |n| {
            record.open_request(n);
            record.close_request();
        };
        for times in 1..=3 {
            request(0);
            request(1);
            record.open_request(5);
            assert_eq!(record.request_open(), Some(5));
            assert_eq!(record.count_interruption(5), times);
            record.forget_negotiation();
        }
        request(0);
        request(1);
        assert_eq!(record.interruptions(), 3);
        request(5);
        assert_eq!(record.interruptions(), 0);
        record.open_request(0);
        assert_eq!(record.request_open(), Some(0));
        assert_eq!(record.count_interruption(0), 1);
    }

    #[test]
    fn a_request_that_kills_is_known_again_in_a_shorter_connection() {
        let record = record();
        for (before, times) in [(40, 1), (3, 2), (3, 3)] {
            for _ in 0..before {
                record.open_request(7);
                record.close_request();
            }
            record.open_request(10);
            assert_eq!(record.count_interruption(10), times);
            record.forget_negotiation();
        }
    }

    #[test]
    fn a_fault_of_number_nought_is_a_fault() {
        let record = record();
        assert_eq!(record.fault(RingId::RX), None);
        record.set_fault(RingId::RX, Some(0));
        assert_eq!(record.fault(RingId::RX), Some(0));
        assert_eq!(record.fault(RingId::TX), None);
    }
}

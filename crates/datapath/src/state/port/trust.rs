//! Whether a port's record is what was written.
//!
//! # What follows from damage
//! - *The name.* A record whose name has not the right seal counts for nobody, so that no VM ever gets
//!   another's front end. Its own VM finds the place again: the name's octets or its seal still
//!   speak for it ([`PortRecord::speaks_for`]). It keeps its number, and its counters with it; what
//!   else the record says is not believed, and its front end negotiates anew.
//! - *The negotiation, a mark, a fault, a packed ring's position.* The front end is shut out and
//!   negotiates anew; of split rings nothing is lost. A ring's fault is among them because a ring that is taken for broken
//!   would stand still for ever.
//! - *The MAC address that was learned.* It is learned again.

use super::*;
use crate::state::seal;
use crate::vhost::features::RING_PACKED;

/// Octets of a ring's block that are under the seal.
const SEALED_RING: usize = FLAGS_AT + 8;
/// Octets of all memory slots.
const SLOTS_LEN: usize = MAX_MEMORY_SLOTS * SLOT_LEN;
/// Last octet of a word that holds a MAC address.
const KNOWN: u8 = 2;

/// A MAC address in a word: six octets, their XOR with a constant, [`KNOWN`].
pub(in super::super) fn mac_word(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_ne_bytes([a, b, c, d, e, f, a ^ b ^ c ^ d ^ e ^ f ^ 0x5a, KNOWN])
}

impl PortRecord {
    /// The octets of its name, whether whole or not.
    pub(super) fn name_octets(&self) -> Option<Vec<u8>> {
        let len = usize::try_from(unpair(self.get(NAME_LEN_AT))?).ok()?;
        let mut octets = vec![0; Some(len).filter(|n| (1..=MAX_NAME).contains(n))?];
        self.state.memory().read(self.at.saturating_add(NAME_AT), &mut octets)?;
        Some(octets)
    }

    /// The seal that a record of this name has here.
    pub(super) fn name_seal(&self, name: &[u8]) -> u64 {
        seal::seal(self.at.saturating_add(NAME_AT), &[name])
    }

    /// Notes that a part of the record was damaged.
    pub fn note(&self, what: impl Into<String>) {
        self.state.note(Place::Port(self.id), what.into());
    }

    /// Whether the record had a name that cannot be trusted any more.
    pub fn name_is_damaged(&self) -> bool {
        self.get(NAME_LEN_AT) != 0 && self.name().is_none()
    }

    /// Whether what is left of a damaged name says that the record was this VM's.
    pub fn speaks_for(&self, name: &str) -> bool {
        self.name_is_damaged()
            && (self.get(NAME_SEAL_AT) == self.name_seal(name.as_bytes())
                || self.name_octets().is_some_and(|octets| octets == name.as_bytes()))
    }

    /// Whether the MAC address that was learned is lost.
    pub fn mac_is_damaged(&self) -> bool {
        self.get(MAC_AT) != 0 && self.mac().is_none()
    }

    /// Forgets the MAC address that was learned.
    pub fn forget_mac(&self) {
        self.put(MAC_AT, 0);
    }

    /// Puts the seal on what the negotiation has come to.
    pub(crate) fn seal(&self) {
        self.put(SEAL_AT, self.right_seal());
    }

    fn right_seal(&self) -> u64 {
        let at = |offset: usize| self.at.saturating_add(offset);
        let features: [u8; REQUESTS_AT - OFFERED_AT] = self.state.octets(at(OFFERED_AT));
        let ring = |id| self.state.octets::<SEALED_RING>(at(Self::ring_at(id, SIZE_AT)));
        let [rx, tx] = RingId::FIRST.map(ring);
        let slots: [u8; SLOTS_LEN] = self.state.octets(at(SLOTS_AT));
        let more = self.get(MORE_PAIRS_AT);
        if more == 0 {
            // As in the layouts that knew of one pair only.
            return seal::seal(self.at, &[&features, &rx, &tx, &slots]);
        }
        let others: Vec<_> = self.rings().skip(FIRST_RINGS).map(ring).collect();
        let others = others.as_flattened();
        seal::seal(self.at, &[&features, &rx, &tx, &slots, &more.to_ne_bytes(), others])
    }

    /// Which part of what is needed to take its front end over is damaged, if one is.
    pub fn damage(&self) -> Option<&'static str> {
        let whole = |word: u64| word == 0 || unpair(word).is_some();
        let mark = self.get(REQUEST_AT);
        if !whole(mark) {
            return Some("the mark of its front end's requests");
        }
        if !whole(self.get(CONNECTED_AT)) {
            return Some("the word whether a front end is attached");
        }
        if mark != 0 || !self.connected() {
            // The front end is shut out anyway, or there is none.
            return None;
        }
        if self.get(SEAL_AT) != self.right_seal() {
            return Some("its front end's negotiation");
        }
        if self.rings().any(|ring| !whole(self.get_ring(ring, FAULT_AT))) {
            return Some("the fault of a ring");
        }
        let packed = self.features() & RING_PACKED != 0;
        if packed && self.rings().any(|ring| self.position_is_damaged(ring)) {
            return Some("the position of a packed ring");
        }
        None
    }

    /// Brings a record of the first layout to today's: that had numbers alone and no seals. Nothing
    /// happens to one that was brought up already.
    pub(in super::super) fn bring_up(&self) {
        let paired = |word: u64| match u32::try_from(word) {
            Ok(number) if number != 0 => pair(number),
            // Nought, or brought up already.
            _ => word,
        };
        let raise = |at: usize| self.put(at, paired(self.get(at)));
        raise(NAME_LEN_AT);
        let Some(name) = self.name_octets() else { return };
        self.put(NAME_SEAL_AT, self.name_seal(&name));
        raise(CONNECTED_AT);
        for ring in RingId::FIRST {
            raise(Self::ring_at(ring, FAULT_AT));
        }
        let [a, b, c, d, e, f, check, known] = self.get(MAC_AT).to_ne_bytes();
        if (check, known) == (0, 1) {
            self.set_mac(Mac([a, b, c, d, e, f]));
        }
        self.seal();
        raise(REQUEST_AT);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAIRS: usize = 4;
    const LAST_RING: usize = MORE_RINGS_AT + (2 * PAIRS - FIRST_RINGS - 1) * RING_LEN;

    fn record() -> PortRecord {
        let record = PortRecord::of(&StateMemory::create().unwrap().0, PortId(3));
        assert!(record.set_name("web"));
        record.set_mac(Mac([2, 0, 0, 0, 0, 9]));
        record.open_request(0);
        record.set_connected();
        record.set_offered(7, 7, PAIRS);
        for (ring, n) in record.rings().zip(1..) {
            let addresses = Some(RingAddresses { desc: n, avail: n << 8, used: n << 16 });
            record.set_ring(ring, RingState { size: 256, addresses, ..RingState::default() });
        }
        for slot in [0, MAX_MEMORY_SLOTS - 1] {
            record.set_slot(slot, Some(MemorySlot { guest: 1, user: 2, len: 3, offset: 4 }));
        }
        record.close_request();
        assert_eq!(record.damage(), None);
        assert!(!record.name_is_damaged() && !record.mac_is_damaged());
        record
    }

    /// What is written of these octets, and of nothing else.
    fn flip(record: &PortRecord, at: usize, by: u8) {
        let octet = record.state.memory().u8_at(record.at + at).unwrap();
        octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
    }

    #[test]
    fn a_record_is_whole_when_it_is_nobodys_and_after_all_that_changes_it() {
        let record = record();
        record.set_fault(RingId::RX, Some(3));
        record.set_mac(Mac([9; 6]));
        assert_eq!(record.damage(), None);
        record.open_request(5);
        record.update_ring(RingId::TX, |ring| ring.enabled = true);
        assert_eq!(record.damage(), None, "half changed, and marked so");
        record.close_request();
        assert_eq!(record.damage(), None);
        record.set_disconnected();
        record.update_ring(RingId::TX, |ring| ring.base = 5);
        assert_eq!(record.damage(), None, "nobody is attached");
        record.clear();
        assert_eq!(record.damage(), None);
        assert!(!record.name_is_damaged() && !record.mac_is_damaged());
        let unused = PortRecord::of(&record.state, PortId(4));
        assert!(unused.damage().is_none() && !unused.name_is_damaged());
    }

    #[test]
    fn a_record_at_another_place_is_nobodys() {
        let record = record();
        let mut octets = vec![0; PORT_LEN];
        record.state.memory().read(record.at, &mut octets).unwrap();
        let other = PortRecord::of(&record.state, PortId(5));
        record.state.memory().write(other.at, &octets).unwrap();
        assert_eq!(other.name(), None);
        assert_eq!(other.damage(), Some("its front end's negotiation"));
    }

    proptest! {
        #[test]
        fn any_damaged_octet_of_the_name_makes_the_record_nobodys_and_its_vm_finds_it(
            at in prop_oneof![NAME_LEN_AT..NAME_AT + 3, NAME_SEAL_AT..NAME_SEAL_AT + 8],
            by in 1..=255u8,
        ) {
            let record = record();
            flip(&record, at, by);
            prop_assert_eq!(record.name(), None);
            prop_assert!(record.name_is_damaged());
            // No single octet makes the other name of it.
            prop_assert!(record.speaks_for("web") && !record.speaks_for("dbs"));
        }

        #[test]
        fn any_damaged_octet_of_the_negotiation_is_noticed(
            at in prop_oneof![
                CONNECTED_AT..REQUEST_AT,
                REQUEST_AT..INTERRUPTIONS_AT,
                OFFERED_AT..REQUESTS_AT,
                SEAL_AT..SEAL_AT + 8,
                RINGS_AT..RINGS_AT + SEALED_RING,
                RINGS_AT + FAULT_AT..RINGS_AT + FAULT_AT + 8,
                RINGS_AT + RING_LEN..RINGS_AT + RING_LEN + SEALED_RING,
                MORE_PAIRS_AT..MORE_PAIRS_AT + 8,
                MORE_RINGS_AT..MORE_RINGS_AT + SEALED_RING,
                MORE_RINGS_AT + FAULT_AT..MORE_RINGS_AT + FAULT_AT + 8,
                LAST_RING..LAST_RING + SEALED_RING,
                SLOTS_AT..SLOTS_AT + SLOTS_LEN,
            ],
            by in 1..=255u8,
        ) {
            let record = record();
            flip(&record, at, by);
            prop_assert!(record.damage().is_some());
        }

        #[test]
        fn any_damaged_octet_of_a_standing_mark_is_noticed(at in 0..8usize, by in 1..=255u8) {
            let record = record();
            record.open_request(5);
            flip(&record, REQUEST_AT + at, by);
            prop_assert_eq!(record.request_open(), Some(u32::MAX));
            prop_assert!(record.damage().is_some());
        }

        #[test]
        fn any_damaged_octet_of_a_learned_mac_is_noticed(at in 0..8usize, by in 1..=255u8) {
            let record = record();
            flip(&record, MAC_AT + at, by);
            prop_assert_eq!(record.mac(), None);
            prop_assert!(record.mac_is_damaged());
        }
    }
}

//! What was learned on a network's LAN and would take time to learn again: who has which MAC
//! address, and which of the VMs' addresses are ours there.
//!
//! # Why it exists
//! A successor that knows no neighbour has to ask before it can send, and only few datagrams may
//! wait meanwhile; one that does not know which addresses were probed for would either claim what
//! somebody else has or be silent about what is ours.
//!
//! # Layout
//! Two tables, neighbours and held addresses, of entries of 32 octets:
//! ```text
//!  0  0 if nothing is here; else 1 | family << 8 | MAC address << 16
//!  8  the address (16)
//! 24  seal of the above
//! ```
//! An address has four places, by its hash. When all are taken one gives way: what falls out is
//! asked for or probed for once more by a successor, nothing worse. A neighbour that is in use comes
//! back when it answers next.
//!
//! # Invariants
//! - The first word is cleared before anything of an entry is written and set last: whatever a
//!   successor finds there is whole, or was damaged. An entry that was damaged is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::seal::seal;
use super::{Place, StateMemory, lan_at};
use crate::names::{Mac, NetworkId};

const ENTRY: usize = 32;
const WAYS: usize = 4;
const NEIGHBORS: usize = 1024;
const HELD: usize = 4096;
/// Octets of both tables.
pub(super) const LEN: usize = (NEIGHBORS + HELD) * ENTRY;

const PRESENT: u8 = 1;
const SEAL_AT: usize = 24;

/// What lies in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Free,
    Damaged,
    Known(IpAddr, Mac),
}

/// One of a network's tables.
#[derive(Clone, Debug)]
struct Table {
    state: StateMemory,
    at: usize,
    entries: usize,
}

/// What a network's LAN is known to be.
#[derive(Clone, Debug)]
pub struct LanRecord {
    network: NetworkId,
    neighbors: Table,
    held: Table,
}

impl LanRecord {
    /// The record of `network`.
    pub fn of(state: &StateMemory, network: NetworkId) -> Self {
        let at = lan_at(network);
        let table = |at, entries| Table { state: state.clone(), at, entries };
        Self {
            network,
            neighbors: table(at, NEIGHBORS),
            held: table(at.saturating_add(NEIGHBORS * ENTRY), HELD),
        }
    }

    /// A neighbour has this MAC address, or none that is known.
    pub fn set_neighbor(&self, address: IpAddr, mac: Option<Mac>) {
        self.neighbors.set(address, mac);
    }

    /// All neighbours that were known. Those whose entries were damaged are not, and that is noted.
    pub fn neighbors(&self) -> Vec<(IpAddr, Mac)> {
        let (known, damaged) = self.neighbors.all();
        self.tell(damaged, "neighbours", "asked for");
        known
    }

    /// All addresses that were found to be ours. Those whose entries were damaged are not, and that
    /// is noted.
    pub fn held(&self) -> Vec<IpAddr> {
        let (known, damaged) = self.held.all();
        self.tell(damaged, "addresses that are ours", "probed for");
        known.into_iter().map(|(address, _)| address).collect()
    }

    fn tell(&self, damaged: usize, whose: &str, again: &str) {
        if damaged > 0 {
            let what = format!(
                "of what was known of {whose} on its LAN, {damaged} entries were damaged: \
                 {again} again"
            );
            self.neighbors.state.note(Place::Network(self.network), what);
        }
    }

    /// A VM's address is ours on the LAN, or no longer.
    pub fn set_held(&self, address: IpAddr, held: bool) {
        self.held.set(address, held.then(Mac::default));
    }

    /// Forgets everything: the network is gone.
    pub fn clear(&self) {
        self.neighbors.clear();
        self.held.clear();
    }

    /// Whether a VM's address was found to be ours.
    pub fn is_held(&self, address: IpAddr) -> bool {
        self.held.find(address).is_some()
    }

    /// Brings the record of the first layout to today's.
    pub(super) fn bring_up(&self) {
        self.neighbors.bring_up();
        self.held.bring_up();
    }
}

impl Table {
    fn clear(&self) {
        for index in 0..self.entries {
            // Untouched memory stays untouched.
            if self.state.get(self.place(index)) != 0 {
                self.state.put(self.place(index), 0);
            }
        }
    }

    fn place(&self, index: usize) -> usize {
        self.at.saturating_add(index.saturating_mul(ENTRY))
    }

    /// What lies in a place.
    fn entry(&self, index: usize) -> Entry {
        let at = self.place(index);
        let tag = self.state.get(at);
        if tag == 0 {
            return Entry::Free;
        }
        if self.state.get(at.saturating_add(SEAL_AT)) != self.right_seal(at, tag) {
            return Entry::Damaged;
        }
        let [present, family, mac @ ..] = tag.to_le_bytes();
        let octets: [u8; 16] = self.state.octets(at.saturating_add(8));
        let [a, b, c, d, ..] = octets;
        match (present, family) {
            (PRESENT, 4) => Entry::Known(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), Mac(mac)),
            (PRESENT, 6) => Entry::Known(IpAddr::V6(Ipv6Addr::from(octets)), Mac(mac)),
            _ => Entry::Damaged,
        }
    }

    fn right_seal(&self, at: usize, tag: u64) -> u64 {
        let octets: [u8; 16] = self.state.octets(at.saturating_add(8));
        seal(at, &[&tag.to_le_bytes(), &octets])
    }

    /// All that is known, and how many entries were damaged; these are free now.
    fn all(&self) -> (Vec<(IpAddr, Mac)>, usize) {
        let (mut known, mut damaged) = (Vec::new(), 0usize);
        for index in 0..self.entries {
            match self.entry(index) {
                Entry::Free => {}
                Entry::Known(address, mac) => known.push((address, mac)),
                Entry::Damaged => {
                    self.state.put(self.place(index), 0);
                    damaged = damaged.saturating_add(1);
                }
            }
        }
        (known, damaged)
    }

    /// Seals all entries of the first layout, which had no seals.
    fn bring_up(&self) {
        for at in (0..self.entries).map(|index| self.place(index)) {
            let tag = self.state.get(at);
            if tag != 0 {
                self.state.put(at.saturating_add(SEAL_AT), self.right_seal(at, tag));
            }
        }
    }

    /// The places where an address may lie.
    fn places(&self, address: IpAddr) -> impl Iterator<Item = usize> + use<> {
        let (_, octets) = parts(address);
        // Neighbouring addresses differ in their last octets: the sum spreads them evenly.
        let word = |half: &[u8]| half.first_chunk().map_or(0, |o| u64::from_le_bytes(*o));
        let (high, low) = octets.split_at_checked(8).unwrap_or_default();
        let hash = (word(high) ^ word(low).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sets = self.entries.checked_div(WAYS).unwrap_or(1);
        let set = usize::try_from(hash >> 40).unwrap_or(0).checked_rem(sets).unwrap_or(0);
        let first = set.saturating_mul(WAYS);
        first..first.saturating_add(WAYS)
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        let is = |i: &usize| matches!(self.entry(*i), Entry::Known(a, _) if a == address);
        self.places(address).find(is)
    }

    fn set(&self, address: IpAddr, mac: Option<Mac>) {
        let found = self.find(address);
        let (family, octets) = parts(address);
        match (mac, found) {
            (None, None) => {}
            (None, Some(index)) => self.state.put(self.place(index), 0),
            (Some(mac), Some(index)) if self.entry(index) == Entry::Known(address, mac) => {}
            (Some(Mac(m)), found) => {
                let [m0, m1, m2, m3, m4, m5] = m;
                let tag = u64::from_le_bytes([PRESENT, family, m0, m1, m2, m3, m4, m5]);
                let is_free = |i: &usize| !matches!(self.entry(*i), Entry::Known(..));
                let free = || self.places(address).find(is_free);
                // No place left: the last octet says, more or less, whose turn it is to go.
                let any = || self.places(address).nth(usize::from(m5) & (WAYS - 1));
                let Some(index) = found.or_else(free).or_else(any) else { return };
                let at = self.place(index);
                self.state.put(at, 0);
                self.state.memory().write(at.saturating_add(8), &octets);
                self.state.put(at.saturating_add(SEAL_AT), self.right_seal(at, tag));
                self.state.put(at, tag);
            }
        }
    }
}

/// Family and octets, padded to sixteen.
fn parts(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        IpAddr::V6(v6) => (6, v6.octets()),
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn addresses(count: u32) -> impl Iterator<Item = IpAddr> {
        let v4 = (0..count / 2).map(|i| IpAddr::V4((0xcb00_7100 + i).into()));
        let first = 0x2001_0db8_0001_0000_u128 << 64;
        v4.chain((0..count / 2).map(move |i| IpAddr::V6((first + u128::from(i)).into())))
    }

    #[test]
    fn a_successor_finds_neighbours_and_held_addresses_of_its_own_network() {
        let (state, _fd) = StateMemory::create().unwrap();
        let (own, other) =
            (LanRecord::of(&state, NetworkId(0)), LanRecord::of(&state, NetworkId(1)));
        for address in addresses(20) {
            own.set_neighbor(address, Some(mac(1)));
            own.set_neighbor(address, Some(mac(2)));
            own.set_held(address, true);
        }
        let again = LanRecord::of(&state, NetworkId(0));
        let mut found = again.neighbors();
        found.sort_unstable();
        let mut expected: Vec<_> = addresses(20).map(|a| (a, mac(2))).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(addresses(20).all(|a| again.is_held(a) && !other.is_held(a)));
        assert!(other.neighbors().is_empty());
    }

    #[test]
    fn a_network_that_is_gone_leaves_nothing() {
        let (state, _fd) = StateMemory::create().unwrap();
        let record = LanRecord::of(&state, NetworkId(1));
        for address in addresses(20) {
            record.set_neighbor(address, Some(mac(1)));
            record.set_held(address, true);
        }
        let mut held = record.held();
        held.sort_unstable();
        let mut expected: Vec<_> = addresses(20).collect();
        expected.sort_unstable();
        assert_eq!(held, expected);
        record.clear();
        assert!(record.held().is_empty() && record.neighbors().is_empty());
    }

    #[test]
    fn what_is_let_go_is_gone() {
        let (state, _fd) = StateMemory::create().unwrap();
        let record = LanRecord::of(&state, NetworkId(63));
        for address in addresses(2) {
            record.set_neighbor(address, Some(mac(1)));
            record.set_neighbor(address, None);
            record.set_held(address, true);
            record.set_held(address, false);
            assert!(!record.is_held(address));
        }
        assert!(record.neighbors().is_empty());
    }

    #[test]
    fn a_busy_lan_fits_and_too_many_push_each_other_out_without_mixing() {
        let (state, _fd) = StateMemory::create().unwrap();
        let record = LanRecord::of(&state, NetworkId(0));
        addresses(500).for_each(|a| record.set_neighbor(a, Some(mac(1))));
        assert!(record.neighbors().len() > 480, "{}", record.neighbors().len());
        addresses(10_000).for_each(|a| record.set_neighbor(a, Some(mac(1))));
        let found = record.neighbors();
        assert!((900..=NEIGHBORS).contains(&found.len()), "{}", found.len());
        let all: Vec<_> = addresses(10_000).collect();
        assert!(found.iter().all(|(a, m)| all.contains(a) && *m == mac(1)));
    }

    #[test]
    fn a_neighbour_that_fell_out_is_known_again_when_it_answers() {
        let (state, _fd) = StateMemory::create().unwrap();
        let record = LanRecord::of(&state, NetworkId(0));
        let busy = addresses(2).next().unwrap();
        record.set_neighbor(busy, Some(mac(1)));
        let others = addresses(10_000).skip(1).zip((0..=255).cycle());
        others.for_each(|(address, n)| record.set_neighbor(address, Some(mac(n))));
        assert!(!record.neighbors().contains(&(busy, mac(1))));
        for _ in 0..2 {
            record.set_neighbor(busy, Some(mac(1)));
            assert_eq!(record.neighbors().iter().filter(|(a, _)| *a == busy).count(), 1);
        }
    }

    #[test]
    fn octets_that_nobody_wrote_are_no_entry() {
        let (state, _fd) = StateMemory::create().unwrap();
        for i in 0..LEN / 8 {
            state.put(lan_at(NetworkId(0)) + i * 8, 0x0101_0101_0101_0101 * (i as u64 % 7));
        }
        assert!(LanRecord::of(&state, NetworkId(0)).neighbors().is_empty());
    }

    proptest! {
        #[test]
        fn any_damaged_octet_of_an_entry_makes_it_none_and_is_told(
            six: bool, at in 0..ENTRY, by in 1..=255u8,
        ) {
            let (state, _fd) = StateMemory::create().unwrap();
            let record = LanRecord::of(&state, NetworkId(2));
            let address = addresses(2).nth(six.into()).unwrap();
            record.set_neighbor(address, Some(mac(1)));
            record.set_held(address, true);
            for table in [&record.neighbors, &record.held] {
                let place = table.place(table.find(address).unwrap());
                let octet = state.memory().u8_at(place + at).unwrap();
                octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
            }
            prop_assert!(!record.is_held(address));
            prop_assert!(record.neighbors().is_empty());
            prop_assert!(record.held().is_empty());
            prop_assert_eq!(state.take_damage().len(), 2);
            record.set_neighbor(address, Some(mac(2)));
            record.set_held(address, true);
            prop_assert_eq!(record.held(), [address]);
            prop_assert_eq!(record.neighbors(), [(address, mac(2))]);
            prop_assert!(state.take_damage().is_empty());
        }
    }
}

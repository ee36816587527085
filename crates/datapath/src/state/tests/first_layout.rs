//! A memory of the first layout, written here octet by octet and by nothing else, is read.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::super::header::{VERSION, look};
use super::super::lan::LanRecord;
use super::super::network::{HostSlot, Left, NetworkRecord, Position, RingRecord};
use super::super::*;
use crate::counters::{Counter, Counters};
use crate::names::{Mac, RingId};
use crate::offload::Offload;
use crate::pending::Pending;
use crate::state::port::{Kick, MemorySlot, PortRecord, RingAddresses, RingState};

/// A memory of the first layout. All numbers here are those that it had.
pub(crate) struct First(OwnedFd);

pub(crate) const PORT_5: u64 = 266_240 + 5 * 8192;
const NETWORK_1: u64 = 4096 + 4096;
const COUNTERS_OF_PORT_5: u64 = 8_654_848 + 5 * 2048;
const SLOT_0: u64 = 11_014_144;
const HOST_1: u64 = 86_511_616 + 73_728;
const LAN_1: u64 = 91_230_208 + 163_840;

impl First {
    pub(crate) fn new() -> Self {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        let fd = memfd_create("first", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 101_715_968).unwrap();
        let first = Self(fd);
        first.write(0, b"ipvisor\0");
        first.words(8, &[1, 3]);
        first
    }

    pub(crate) fn write(&self, at: u64, octets: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.0, octets, at).unwrap(), octets.len());
    }

    pub(crate) fn words(&self, at: u64, words: &[u64]) {
        let octets: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        self.write(at, &octets);
    }

    pub(crate) fn fd(self) -> OwnedFd {
        self.0
    }
}

/// A port, a network with a card, and a datagram at each place where one may rest.
fn memory() -> First {
    let first = First::new();
    first.words(PORT_5, &[3]);
    first.write(PORT_5 + 8, b"web");
    first.words(PORT_5 + 72, &[1, 0, 2]);
    first.words(PORT_5 + 96, &[0xf0, 0x30, 0xff, 0x0f, 17, 16]);
    first.write(PORT_5 + 144, &[2, 0, 0, 0, 0, 9, 0, 1]);
    for (ring, flags, fault) in [(256, 0b10_1111, 0), (384, 0b11_0111, 7)] {
        first.words(PORT_5 + ring, &[256, 0x1000, 0x2000, 0x3000, 44, flags]);
        first.words(PORT_5 + ring + 64, &[fault]);
    }
    first.words(PORT_5 + 1024 + 64 * 31, &[0x1000, 0x7000, 0x8000, 0x9000]);
    first.words(COUNTERS_OF_PORT_5, &[1234]);

    first.words(NETWORK_1, &[70_000, 70_001, 1 << 20 | 69_904 << 32, 18 | 6 << 32, 0b101]);
    let mac = |last: u64| (0x02 | last << 40) << 16;
    first.words(LAN_1 + 32 * 77, &[1 | 4 << 8 | mac(8)]);
    first.write(LAN_1 + 32 * 77 + 8, &[203, 0, 113, 1]);
    // 3704 is where 203.0.113.10 lies among the held ones.
    let held = LAN_1 + 32 * (1024 + HELD_PLACE);
    first.words(held, &[1 | 4 << 8]);
    first.write(held + 8, &[203, 0, 113, 10]);

    first.words(SLOT_0, &[1, 9]);
    // Network 1, a port's, IPv4, port 5, checksum valid; 4 octets, for 203.0.113.1.
    first.write(SLOT_0 + 16, &[1, 0, 0, 4, 5, 0, 1, 0, 4, 0, 0, 0]);
    first.write(SLOT_0 + 40, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 203, 0, 113, 1]);
    first.words(SLOT_0 + 120, &[1]);
    first.write(SLOT_0 + 128, b"wait");
    first.words(HOST_1, &[4]);
    first.write(HOST_1 + 128, b"host");
    first
}

const HELD_PLACE: u64 = 3704;

fn check(state: &StateMemory) {
    let port = PortRecord::of(state, PortId(5));
    assert_eq!(port.name().as_deref(), Some("web"));
    assert_eq!(port.damage(), None);
    assert!(port.connected());
    let features = (port.offered(), port.features(), port.protocol_offered(), port.protocol());
    assert_eq!(features, (0xf0, 0x30, 0xff, 0x0f));
    assert_eq!((port.interruptions(), port.mac()), (2, Some(Mac([2, 0, 0, 0, 0, 9]))));
    let ring = RingState {
        size: 256,
        addresses: Some(RingAddresses { desc: 0x1000, avail: 0x2000, used: 0x3000 }),
        base: 44,
        enabled: true,
        started: true,
        kick: Kick::Descriptor,
        call: true,
        err: false,
    };
    assert_eq!(port.ring(RingId::RX), ring);
    assert_eq!(port.ring(RingId::TX), RingState { kick: Kick::Polled, ..ring });
    assert_eq!(RingId::FIRST.map(|ring| port.fault(ring)), [None, Some(6)]);
    let slot = MemorySlot { guest: 0x1000, user: 0x7000, len: 0x8000, offset: 0x9000 };
    assert_eq!(port.slot(31), Some(slot));
    assert_eq!(Counters::of(state, Owner::Port(PortId(5))).get(Counter::Taken), 1234);

    let id = NetworkId(1);
    let network = NetworkRecord::of(state, id);
    let ring = RingRecord { block_size: 1 << 20, frame_size: 69_904, blocks: 18 };
    assert_eq!((network.ring(), network.position()), (Some(ring), Position::Between(70_000)));
    assert_eq!(network.offloads(), 0b101);
    let lan = LanRecord::of(state, id);
    let router: IpAddr = "203.0.113.1".parse().unwrap();
    assert_eq!(lan.neighbors(), [(router, Mac([2, 0, 0, 0, 0, 8]))]);
    let own: IpAddr = "203.0.113.10".parse().unwrap();
    assert_eq!(lan.held(), [own]);
    assert!(lan.is_held(own), "at its place");
    let host = HostSlot::of(state, id);
    assert_eq!((host.recover(), host.len()), (Left::Whole, 4));

    let mut pending = Pending::adopt(state.clone());
    let waiting = pending.next(id, router).unwrap();
    assert_eq!((waiting.owner(), waiting.bytes()), (Owner::Port(PortId(5)), &b"wait"[..]));
    let valid = crate::offload::Checksum::Valid;
    assert_eq!(waiting.offload(), Offload { checksum: valid, segmentation: None });
    assert!(state.take_damage().is_empty());
}

#[test]
fn a_memory_of_the_first_layout_is_read_whole_and_is_of_todays_afterwards() {
    let fd = memory().fd();
    assert_eq!(look(fd.as_fd()).unwrap().version, 1);
    let state = StateMemory::adopt(fd.as_fd()).unwrap();
    assert_eq!(look(fd.as_fd()).unwrap().version, VERSION);
    assert_eq!(state.takeovers(), 4);
    check(&state);
    assert_eq!(NetworkRecord::of(&state, NetworkId(1)).count_adoption(), 7);
    let again = StateMemory::adopt(fd.as_fd()).unwrap();
    assert_eq!(again.takeovers(), 5);
    check(&again);
    assert_eq!(NetworkRecord::of(&again, NetworkId(1)).count_adoption(), 8);
}

#[test]
fn a_successor_that_died_while_it_brought_the_memory_up_is_followed_by_one_that_does_it_again() {
    let fd = memory().fd();
    let state = StateMemory::adopt(fd.as_fd()).unwrap();
    // As it was when all was done but the version.
    state.put(8, 1);
    let again = StateMemory::adopt(fd.as_fd()).unwrap();
    assert_eq!(again.takeovers(), 5);
    check(&again);
}

#[test]
fn a_request_that_was_open_in_the_first_layout_is_open_still() {
    let first = memory();
    first.words(PORT_5 + 80, &[6]);
    let state = StateMemory::adopt(first.fd().as_fd()).unwrap();
    let port = PortRecord::of(&state, PortId(5));
    assert_eq!((port.request_open(), port.damage()), (Some(5), None));
}

#[test]
fn nonsense_in_the_first_layout_is_read_without_harm() {
    let first = memory();
    for at in [PORT_5, SLOT_0, SLOT_0 + 120, HOST_1] {
        first.words(at, &[u64::MAX]);
    }
    let state = StateMemory::adopt(first.fd().as_fd()).unwrap();
    assert_eq!(PortRecord::of(&state, PortId(5)).name(), None);
    assert!(Pending::adopt(state.clone()).is_empty());
    assert_eq!(HostSlot::of(&state, NetworkId(1)).recover(), Left::Damaged);
}

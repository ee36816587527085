//! A memory of the third layout, which knew of one queue pair for each port, is read as it is.

use std::os::fd::{AsFd, OwnedFd};

use super::super::header::{VERSION, VERSION_AGAIN_AT, VERSION_AT, look};
use super::super::seal::{pair, seal};
use super::super::*;
use crate::names::{Pair, RingId};
use crate::state::marks::Stretch;
use crate::state::port::{MemorySlot, PortRecord, RingAddresses, RingState};

/// Where the third layout had the record of port 5, and its length.
const PORT_5: usize = 266_240 + 5 * 8192;

fn ring(at: u64) -> RingState {
    let addresses = Some(RingAddresses { desc: at, avail: at + 64, used: at + 128 });
    RingState { size: 256, addresses, enabled: true, started: true, ..RingState::default() }
}

/// A front end is attached at port 5, and something is held against it. The seal is put together here.
fn memory() -> OwnedFd {
    let (state, fd) = StateMemory::create().unwrap();
    let record = PortRecord::of(&state, PortId(5));
    assert!(record.set_name("web"));
    record.set_connected();
    record.set_offered(7, 9, 1);
    record.set_ring(RingId::RX, ring(0x1000));
    record.set_ring(RingId::TX, ring(0x2000));
    record.set_slot(0, Some(MemorySlot { guest: 1, user: 2, len: 3, offset: 4 }));
    record.suspicion().set_sent(Pair::FIRST, Some(Stretch { at: 5, len: 6 }));
    let octets = |at: usize, len: usize| {
        let mut octets = vec![0; len];
        state.memory().read(PORT_5 + at, &mut octets).unwrap();
        octets
    };
    let [features, rx, tx, slots] =
        [(96, 32), (256, 48), (384, 48), (1024, 2048)].map(|(at, len)| octets(at, len));
    state.put(PORT_5 + 160, seal(PORT_5, &[&features, &rx, &tx, &slots]));
    // Words that it left alone.
    assert_eq!(octets(152, 8), [0; 8]);
    assert_eq!(octets(3072, 8192 - 3072), [0; 8192 - 3072]);
    state.put(VERSION_AT, pair(3));
    state.put(VERSION_AGAIN_AT, pair(3));
    fd
}

#[test]
fn a_memory_of_the_third_layout_is_taken_over_whole_and_has_one_pair_for_each_port() {
    let fd = memory();
    assert_eq!(look(fd.as_fd()).unwrap().version, 3);
    for takeovers in 1..3 {
        let state = StateMemory::adopt(fd.as_fd()).unwrap();
        assert_eq!(look(fd.as_fd()).unwrap().version, VERSION);
        assert_eq!(state.takeovers(), takeovers);
        let record = PortRecord::of(&state, PortId(5));
        assert_eq!((record.damage(), record.pairs()), (None, 1));
        assert!(record.connected() && record.rings().eq(RingId::FIRST));
        assert_eq!(record.ring(RingId::TX), ring(0x2000));
        let suspected = record.suspicion().sent(Pair::FIRST);
        assert_eq!(suspected, Some(Stretch { at: 5, len: 6 }));
        assert!(state.take_damage().is_empty());
    }
}

#[test]
fn what_a_base_with_several_pairs_wrote_is_not_read_by_one_that_knows_of_one() {
    let (state, fd) = StateMemory::create().unwrap();
    PortRecord::of(&state, PortId(5)).set_offered(7, 9, 8);
    // The bases of the third layout took nothing above it.
    assert!(look(fd.as_fd()).unwrap().version > 3);
}

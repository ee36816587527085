//! The header, and memory that cannot be taken over.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::super::header::{
    MAGIC_AGAIN_AT, MAGIC_AT, TAKEOVERS_AT, VERSION, VERSION_AGAIN_AT, VERSION_AT, look,
};
use super::super::seal::pair;
use super::super::*;
use crate::state::port::PortRecord;

fn named() -> (StateMemory, OwnedFd) {
    let (state, fd) = StateMemory::create().unwrap();
    assert!(PortRecord::of(&state, PortId(7)).set_name("web"));
    (state, fd)
}

fn name(state: &StateMemory) -> Option<String> {
    PortRecord::of(state, PortId(7)).name()
}

#[test]
fn a_successor_finds_what_the_predecessor_wrote_and_counts_the_takeover() {
    let (first, fd) = named();
    drop(first);
    assert_eq!(look(fd.as_fd()).unwrap().version, VERSION);
    for takeovers in 1..=3 {
        let next = StateMemory::adopt(fd.as_fd()).unwrap();
        assert_eq!(name(&next).as_deref(), Some("web"));
        assert_eq!(next.takeovers(), takeovers);
        assert!(next.take_damage().is_empty());
    }
}

#[test]
fn a_damaged_octet_of_the_header_is_told_and_mended_from_its_copy() {
    let words = [MAGIC_AT, VERSION_AT, MAGIC_AGAIN_AT, VERSION_AGAIN_AT, TAKEOVERS_AT];
    for at in words.into_iter().flat_map(|word| word..word + 8) {
        for by in [1, 3, 0x80, 0xff] {
            let (first, fd) = named();
            let first = {
                drop(first);
                StateMemory::adopt(fd.as_fd()).unwrap()
            };
            first.memory().u8_at(at).unwrap().fetch_xor(by, Ordering::Relaxed);
            let next = StateMemory::adopt(fd.as_fd()).unwrap();
            assert_eq!(name(&next).as_deref(), Some("web"));
            let told = next.take_damage();
            assert!(matches!(&told[..], [Damage { place: Place::Instance, .. }]), "{told:?}");
            let again = StateMemory::adopt(fd.as_fd()).unwrap();
            assert!(again.take_damage().is_empty(), "mended at {at}");
        }
    }
}

#[test]
fn what_is_not_a_state_memory_or_of_a_layout_to_come_is_refused_and_replaced() {
    type Spoil = fn(&StateMemory);
    type Check = fn(&StateError) -> bool;
    let cases: [(Spoil, Check); 4] = [
        (
            |s| {
                s.put(VERSION_AT, pair(99));
                s.put(VERSION_AGAIN_AT, pair(99));
            },
            |e| matches!(e, StateError::Newer { version: 99 }),
        ),
        (
            |s| {
                s.put(MAGIC_AT, 5);
                s.put(MAGIC_AGAIN_AT, 5);
            },
            |e| matches!(e, StateError::Foreign { magic: 5, .. }),
        ),
        (
            |s| {
                s.put(VERSION_AT, 0);
                s.put(VERSION_AGAIN_AT, 0);
            },
            |e| matches!(e, StateError::Foreign { version: 0, .. }),
        ),
        (
            |s| (0..4096 / 8).for_each(|n| s.put(n * 8, 0)),
            |e| matches!(e, StateError::Foreign { magic: 0, version: 0 }),
        ),
    ];
    for (spoil, expected) in cases {
        let (state, fd) = named();
        spoil(&state);
        let error = StateMemory::adopt(fd.as_fd()).unwrap_err();
        assert!(expected(&error), "{error}");
        let (next, made) = StateMemory::succeed(Some(fd.as_fd()), 4).unwrap();
        assert_eq!((name(&next), next.takeovers()), (None, 4));
        let told = next.take_damage();
        assert!(told[0].to_string().starts_with(&error.to_string()), "{told:?}");
        let after = StateMemory::adopt(made.unwrap().as_fd()).unwrap();
        assert_eq!(after.takeovers(), 5);
    }
}

#[test]
fn where_the_predecessor_left_none_a_new_one_is_made_and_that_is_told() {
    let (next, made) = StateMemory::succeed(None, 2).unwrap();
    assert!(made.is_some());
    assert!(next.take_damage()[0].to_string().contains("left no state memory"));
    let (_, fd) = named();
    let (next, made) = StateMemory::succeed(Some(fd.as_fd()), 2).unwrap();
    assert!(made.is_none() && next.take_damage().is_empty());
    assert_eq!((name(&next).as_deref(), next.takeovers()), (Some("web"), 1));
}

/// Every length of the first 64 KiB by 8 octets, and around every boundary between parts.
#[test]
fn a_memory_cut_at_any_length_is_refused_with_both_lengths_and_never_mapped() {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let (state, _fd) = named();
    let mut octets = vec![0; NETWORKS_AT];
    state.memory().read(0, &mut octets).unwrap();
    let cut = memfd_create("cut", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::pwrite(&cut, &octets, 0).unwrap();
    let parts = [NETWORKS_AT, PORTS_AT, COUNTERS_AT, PENDING_AT, HOST_AT, LAN_AT, LEN];
    let around = parts.into_iter().flat_map(|at| [at - 4096, at - 1, at, at + 1, at + 4096]);
    let mut lengths: Vec<usize> = (0..0x1_0000).step_by(8).chain(around).collect();
    lengths.extend((0..LEN).step_by(1 << 16));
    lengths.sort_unstable();
    for len in lengths.into_iter().rev() {
        ftruncate(&cut, len as u64).unwrap();
        match StateMemory::adopt(cut.as_fd()) {
            Ok(next) => assert!(len >= LEN && name(&next).is_none(), "{len}"),
            Err(StateError::TooShort { len: found, need }) => {
                assert_eq!((found, need), (len as u64, LEN as u64));
            }
            Err(other) => panic!("{other}"),
        }
    }
    let (next, made) = StateMemory::succeed(Some(cut.as_fd()), 1).unwrap();
    assert!(made.is_some());
    assert!(next.take_damage()[0].to_string().starts_with("the state memory has 0x0 octets"));
}

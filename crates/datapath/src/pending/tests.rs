//! Who waits, who gives way, and what a successor finds of it.

#![allow(clippy::arithmetic_side_effects)]

use std::collections::HashMap as Map;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;

use super::*;
use crate::names::PortId;
use crate::offload::{Checksum, Kind, Offload, Segmentation};
use crate::state::{MAX_NETWORKS, MAX_PORTS, SLOT_HEADER, pending_at};

const NETWORK: NetworkId = NetworkId(3);
const HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const HOP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

fn port(n: u16) -> Owner {
    Owner::Port(PortId(n))
}

fn hop(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc633_6400 + n).into()
}

fn new() -> (Pending, StateMemory, OwnedFd) {
    let (state, fd) = StateMemory::create().unwrap();
    let pending = Pending::adopt(state.clone());
    assert!(pending.is_empty() && state.take_damage().is_empty());
    (pending, state, fd)
}

fn push(pending: &mut Pending, owner: Owner, hop: IpAddr, bytes: &[u8]) -> Option<Owner> {
    pending.push(NETWORK, owner, hop, &Offload::default(), bytes)
}

fn len(pending: &Pending) -> usize {
    pending.records.iter().flatten().count()
}

fn drain(
    pending: &mut Pending,
    mut next: impl FnMut(&mut Pending) -> Option<Waiting>,
) -> Vec<(Owner, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(waiting) = next(pending) {
        all.push((waiting.owner(), waiting.bytes().to_vec()));
        pending.done(waiting);
    }
    all
}

fn taken(pending: &mut Pending, hop: IpAddr) -> Vec<(Owner, Vec<u8>)> {
    drain(pending, |p| p.next(NETWORK, hop))
}

fn large() -> Offload {
    Offload {
        checksum: Checksum::Partial { start: 20, offset: 16 },
        segmentation: Some(Segmentation {
            kind: Kind::Tcp4,
            size: 50,
            transport: 20,
            header_len: 40,
            ecn: true,
        }),
    }
}

#[test]
fn what_waits_for_a_neighbour_comes_out_whole_and_in_order() {
    let (mut pending, ..) = new();
    let longest = vec![7; ROOM];
    push(&mut pending, port(1), HOP, b"first");
    push(&mut pending, port(1), HOP6, b"other hop");
    push(&mut pending, port(2), HOP, &longest);
    push(&mut pending, port(1), HOP, b"");
    pending.push(NetworkId(4), port(1), HOP, &large(), &[4; 100]);
    assert_eq!((len(&pending), pending.len_of(port(1))), (5, 4));
    let expected = vec![(port(1), b"first".to_vec()), (port(2), longest), (port(1), vec![])];
    assert_eq!(taken(&mut pending, HOP), expected);
    assert_eq!(taken(&mut pending, HOP), []);
    assert_eq!(taken(&mut pending, HOP6), [(port(1), b"other hop".to_vec())]);
    let other = pending.next(NetworkId(4), HOP).unwrap();
    assert_eq!((other.offload(), other.bytes()), (large(), &[4; 100][..]));
    pending.done(other);
    assert!(pending.is_empty());
}

#[test]
fn of_more_than_one_neighbours_share_the_oldest_for_that_neighbour_goes() {
    let (mut pending, ..) = new();
    push(&mut pending, port(1), HOP6, b"older, elsewhere");
    for n in 0..PER_HOP as u8 {
        assert_eq!(push(&mut pending, port(1), HOP, &[n]), None);
    }
    assert_eq!(push(&mut pending, port(2), HOP, b"another's"), None);
    assert_eq!(push(&mut pending, port(1), HOP, b"new"), Some(port(1)));
    let out = taken(&mut pending, HOP);
    assert_eq!(out.len(), PER_HOP + 1);
    assert_eq!((&out[0].1[..], &out.last().unwrap().1[..]), (&[1][..], &b"new"[..]));
    assert_eq!(taken(&mut pending, HOP6).len(), 1);
}

#[test]
fn of_more_than_an_owners_share_its_oldest_goes_and_nobody_elses() {
    let (mut pending, ..) = new();
    push(&mut pending, port(2), hop(0), b"another's");
    for n in 0..1000 {
        let expected = (n >= PER_OWNER as u32).then_some(port(1));
        assert_eq!(push(&mut pending, port(1), hop(n), b"x"), expected);
    }
    assert_eq!((pending.len_of(port(1)), pending.len_of(port(2))), (PER_OWNER, 1));
    assert_eq!(taken(&mut pending, hop(999 - PER_OWNER as u32)), []);
    assert_eq!(taken(&mut pending, hop(1000 - PER_OWNER as u32)).len(), 1);
}

#[test]
fn when_all_slots_are_in_use_the_oldest_of_whoever_has_most_goes() {
    let (mut pending, ..) = new();
    let full = PENDING_SLOTS / PER_OWNER;
    for owner in 0..full as u16 {
        for n in 0..PER_OWNER as u32 {
            assert_eq!(push(&mut pending, port(owner), hop(n), b"x"), None);
        }
    }
    for n in 0..full as u32 {
        let evicted = push(&mut pending, port(500), hop(n), b"y");
        assert!(evicted.is_some_and(|owner| owner != port(500)));
    }
    assert_eq!(len(&pending), PENDING_SLOTS);
    for owner in 0..full as u16 {
        assert_eq!(pending.len_of(port(owner)), PER_OWNER - 1);
    }
}

#[test]
fn a_newcomer_that_finds_no_room_is_the_one_that_goes() {
    let (mut pending, ..) = new();
    assert_eq!(push(&mut pending, port(1), HOP, &vec![0; ROOM + 1]), Some(port(1)));
    assert!(pending.is_empty());
    for n in 0..PENDING_SLOTS as u32 {
        push(&mut pending, port(n as u16), hop(n), b"x");
    }
    let mut out = Vec::new();
    out.extend(std::iter::from_fn(|| pending.next_on(NETWORK)));
    assert_eq!(out.len(), PENDING_SLOTS);
    assert_eq!(push(&mut pending, port(1), HOP, b"y"), Some(port(1)));
    pending.done(out.pop().unwrap());
    assert_eq!(push(&mut pending, port(1), HOP, b"y"), None);
}

#[test]
fn a_successor_finds_all_that_waited_and_goes_on_in_order() {
    let (mut pending, state, fd) = new();
    let (last_port, last_network) =
        (port(MAX_PORTS as u16 - 1), NetworkId(MAX_NETWORKS as u16 - 1));
    push(&mut pending, port(9), HOP, b"taken before");
    pending.push(NETWORK, last_port, HOP6, &large(), &[1; 9000]);
    assert_eq!(taken(&mut pending, HOP).len(), 1);
    // Lies in a lower slot than the older one.
    pending.push(NETWORK, last_port, HOP6, &large(), &[2; 100]);
    let valid = Offload { checksum: Checksum::Valid, segmentation: None };
    pending.push(last_network, Owner::Host(last_network), HOP, &valid, b"host's");
    drop((pending, state));

    let state = StateMemory::adopt(fd.as_fd()).unwrap();
    let mut pending = Pending::adopt(state.clone());
    assert!(state.take_damage().is_empty());
    assert_eq!(len(&pending), 3);
    let mut hops: Vec<_> = pending.hops().collect();
    hops.sort_by_key(|h| h.0);
    let host = (last_network, HOP, Owner::Host(last_network));
    assert_eq!(hops, [(NETWORK, HOP6, last_port), host]);
    pending.push(NETWORK, last_port, HOP6, &large(), &[3; 70]);
    for expected in [vec![1; 9000], vec![2; 100], vec![3; 70]] {
        let waiting = pending.next(NETWORK, HOP6).unwrap();
        assert_eq!((waiting.offload(), waiting.owner()), (large(), last_port));
        assert_eq!(waiting.bytes(), expected);
        pending.done(waiting);
    }
    let waiting = pending.next(last_network, HOP).unwrap();
    assert_eq!((waiting.offload(), waiting.bytes()), (valid, &b"host's"[..]));
}

#[test]
fn what_a_predecessor_let_wait_is_not_driven_out_by_what_comes_once_more() {
    let (mut pending, state, _fd) = new();
    let most = u8::try_from(PER_HOP).unwrap();
    let numbers = |from, to| (from..to).map(|n| (port(1), vec![n])).collect::<Vec<_>>();
    for n in 0..most - 4 {
        assert_eq!(push(&mut pending, port(1), HOP, &[n]), None);
    }
    // Of the last ones nobody knows whether their buffers were given back.
    let mut pending = Pending::adopt(state);
    for n in 20..20 + most {
        assert_eq!(push(&mut pending, port(1), HOP, &[n]), None);
    }
    assert_eq!(push(&mut pending, port(1), HOP, &[20 + most]), Some(port(1)));
    let left = [numbers(0, most - 4), numbers(21, 21 + most)].concat();
    assert_eq!(taken(&mut pending, HOP), left);
}

#[test]
fn what_was_taken_out_and_not_done_with_waits_again_after_a_death() {
    let (mut pending, state, _fd) = new();
    push(&mut pending, port(1), HOP, b"x");
    let waiting = pending.next(NETWORK, HOP).unwrap();
    assert!(pending.is_empty());
    assert_eq!(len(&Pending::adopt(state.clone())), 1);
    pending.done(waiting);
    assert!(Pending::adopt(state).is_empty());
}

/// Whose drop by damage is counted.
fn dropped(state: &StateMemory, owner: Owner) -> u64 {
    Counters::of(state, owner).get(Counter::DropStateDamaged)
}

#[test]
fn a_slot_that_was_damaged_is_dropped_by_name_at_its_owner_where_that_is_known() {
    // State, record, sums of the record and of the datagram, datagram.
    let places = (0..64).chain(SLOT_HEADER..SLOT_HEADER + 100);
    for at in places {
        let (mut pending, state, _fd) = new();
        pending.push(NETWORK, port(100), HOP, &large(), &[1; 100]);
        pending.push(NETWORK, port(100), HOP, &large(), &[2; 100]);
        let octet = state.memory().u8_at(pending_at(0) + at).unwrap();
        octet.fetch_xor(0x41, std::sync::atomic::Ordering::Relaxed);
        let mut next = Pending::adopt(state.clone());
        let owner = match at {
            8..60 => Owner::Uplink(NetworkId(0)),
            _ => port(100),
        };
        assert_eq!((dropped(&state, owner), len(&next)), (1, 1), "at {at}");
        assert_eq!(state.take_damage().len(), 1);
        assert_eq!(taken(&mut next, HOP), [(port(100), vec![2; 100])]);
        assert!(Pending::adopt(state.clone()).is_empty() && state.take_damage().is_empty());
    }
}

#[test]
fn if_the_number_of_used_slots_was_damaged_all_are_looked_at() {
    for at in 120..128 {
        let (mut pending, state, _fd) = new();
        push(&mut pending, port(1), HOP, b"first");
        push(&mut pending, port(1), HOP, b"second");
        let octet = state.memory().u8_at(pending_at(0) + at).unwrap();
        octet.fetch_xor(2, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(len(&Pending::adopt(state.clone())), 2);
        assert_eq!(state.take_damage().len(), 1);
    }
}

#[test]
fn slots_that_hold_nonsense_under_right_sums_are_freed_and_told() {
    type Break = (usize, &'static [u8]);
    let breaks: [Break; 11] = [
        (16, &[MAX_NETWORKS as u8, 0]),  // network
        (18, &[3]),                      // owner's kind
        (18, &[1]),                      // a port's number as a network's
        (19, &[5]),                      // family
        (20, &[0xff, 0xff]),             // owner
        (22, &[3]),                      // checksum's kind
        (23, &[3]),                      // segmentation's kind
        (24, &[0xff, 0xff, 0xff, 0x7f]), // length
        (28, &[99, 0]),                  // checksum beyond the datagram
        (32, &[1, 0]),                   // segment size
        (36, &[101, 0]),                 // headers beyond the datagram
    ];
    for (at, bytes) in breaks {
        let (mut pending, state, _fd) = new();
        pending.push(NETWORK, port(100), HOP, &large(), &[1; 100]);
        pending.push(NETWORK, port(100), HOP, &large(), &[2; 100]);
        state.memory().write(pending_at(0) + at, bytes).unwrap();
        seal_slot(&state, 100);
        let mut next = Pending::adopt(state.clone());
        let network = Owner::Uplink(NetworkId(0));
        assert_eq!((dropped(&state, network), len(&next)), (1, 1), "at {at}");
        assert_eq!(taken(&mut next, HOP), [(port(100), vec![2; 100])]);
    }
}

/// Makes the sums of the first slot right, whatever it holds.
fn seal_slot(state: &StateMemory, len: usize) {
    let at = pending_at(0);
    let sum = |at: usize, from: usize, len: usize| {
        let mut octets = vec![0; len];
        state.memory().read(at + from, &mut octets).unwrap();
        u64::from(crate::state::seal::sum(at, &[&octets]))
    };
    state.put(at + 56, sum(at, 8, 48) | sum(at, SLOT_HEADER, len) << 32);
}

#[test]
fn what_waits_of_an_owner_or_network_that_goes_away_comes_out() {
    let (mut pending, ..) = new();
    push(&mut pending, port(1), HOP, b"a");
    push(&mut pending, port(2), HOP, b"b");
    push(&mut pending, port(2), HOP6, b"c");
    pending.push(NetworkId(4), port(3), HOP, &Offload::default(), b"d");
    let out = drain(&mut pending, |p| p.next_owned(port(2)));
    assert_eq!(out, [(port(2), b"b".to_vec()), (port(2), b"c".to_vec())]);
    assert_eq!(drain(&mut pending, |p| p.next_on(NETWORK)), [(port(1), b"a".to_vec())]);
    assert_eq!(drain(&mut pending, |p| p.next_on(NetworkId(4))), [(port(3), b"d".to_vec())]);
    assert!(pending.is_empty());
}

#[test]
fn a_successor_looks_at_no_slot_that_was_never_used() {
    let (mut pending, state, _fd) = new();
    assert_eq!(used(&state), 0);
    for n in 0..100 {
        push(&mut pending, port(1), hop(n % 3), b"x");
        taken(&mut pending, hop(n % 3));
    }
    assert_eq!(used(&state), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Push { owner: u16, hop: u32, len: usize },
    Take { hop: u32 },
    TakeOwned { owner: u16 },
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u16..4, 0u32..20, 0usize..50)
            .prop_map(|(owner, hop, len)| Step::Push { owner, hop, len }),
        2 => (0u32..20).prop_map(|hop| Step::Take { hop }),
        1 => (0u16..4).prop_map(|owner| Step::TakeOwned { owner }),
        1 => Just(Step::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a plain list: the same come out, in the same order, the same give way, deaths of the
    /// base or not.
    #[test]
    fn it_behaves_as_a_list_with_limits(steps in prop::collection::vec(step(), 1..400)) {
        let (mut pending, state, _fd) = new();
        let mut model: Vec<(u16, u32, Vec<u8>)> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push { owner, hop: h, len } => {
                    let bytes = vec![n as u8; len];
                    let evicted = push(&mut pending, port(owner), hop(h), &bytes);
                    let mut counts = Map::new();
                    for (o, h, _) in &model {
                        *counts.entry((*o, None)).or_insert(0) += 1;
                        *counts.entry((*o, Some(*h))).or_insert(0) += 1;
                    }
                    let count = |key| counts.get(&key).copied().unwrap_or(0);
                    let gone = if count((owner, Some(h))) >= PER_HOP {
                        model.iter().position(|m| (m.0, m.1) == (owner, h))
                    } else if count((owner, None)) >= PER_OWNER {
                        model.iter().position(|m| m.0 == owner)
                    } else {
                        None
                    };
                    let gone = gone.map(|at| port(model.remove(at).0));
                    prop_assert_eq!(evicted, gone);
                    model.push((owner, h, bytes));
                }
                Step::Take { hop: h } => {
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|m| m.1 == h)
                        .map(|m| (port(m.0), m.2.clone()))
                        .collect();
                    model.retain(|m| m.1 != h);
                    prop_assert_eq!(taken(&mut pending, hop(h)), expected);
                }
                Step::TakeOwned { owner } => {
                    let expected: Vec<_> =
                        model.iter().filter(|m| m.0 == owner).map(|m| m.2.clone()).collect();
                    model.retain(|m| m.0 != owner);
                    let out = drain(&mut pending, |p| p.next_owned(port(owner)));
                    let out: Vec<_> = out.into_iter().map(|(_, bytes)| bytes).collect();
                    prop_assert_eq!(out, expected);
                }
                Step::Die => {
                    pending = Pending::adopt(state.clone());
                    prop_assert!(state.take_damage().is_empty());
                }
            }
            prop_assert_eq!(len(&pending), model.len());
        }
    }

    /// Whatever a slot holds, the successor starts.
    #[test]
    fn any_slot_is_read_or_refused(
        record in prop::collection::vec(any::<u8>(), 56), used: u64, sealed: bool,
    ) {
        let (mut first, state, _fd) = new();
        push(&mut first, port(1), HOP, b"x");
        state.memory().write(pending_at(0) + 8, &record).unwrap();
        state.put(pending_at(0) + 120, used);
        if sealed {
            seal_slot(&state, record[16].into());
        }
        let mut pending = Pending::adopt(state);
        for (network, hop, _) in pending.hops().collect::<Vec<_>>() {
            drain(&mut pending, |p| p.next(network, hop));
        }
        prop_assert!(pending.is_empty());
    }
}

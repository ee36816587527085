#![allow(clippy::arithmetic_side_effects)]

use std::collections::HashMap as Map;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;

use super::*;
use crate::names::PortId;
use crate::offload::{Checksum, Kind, Offload, Segmentation};
use crate::state::{MAX_NETWORKS, MAX_PORTS, pending_at};

const NETWORK: NetworkId = NetworkId(3);
const HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const HOP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

fn port(n: u16) -> Owner {
    Owner::Port(PortId(n))
}

fn waiting(owner: Owner, hop: IpAddr) -> Waiting {
    Waiting { network: NETWORK, owner, hop, offload: Offload::default(), since: 5 }
}

fn hop(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc633_6400 + n).into()
}

fn new() -> (Pending, StateMemory, OwnedFd) {
    let (state, fd) = StateMemory::create().unwrap();
    let (pending, broken) = Pending::open(state.clone());
    assert_eq!((broken, pending.len()), (0, 0));
    (pending, state, fd)
}

fn taken(pending: &mut Pending, hop: IpAddr) -> Vec<(Owner, Vec<u8>)> {
    let mut all = Vec::new();
    let count = pending.take(NETWORK, hop, |w, bytes| all.push((w.owner, bytes.to_vec())));
    assert_eq!(count, all.len());
    pending.release();
    all
}

#[test]
fn what_waits_for_a_neighbour_comes_out_whole_and_in_order() {
    let (mut pending, ..) = new();
    let longest = vec![7; ROOM];
    pending.push(&waiting(port(1), HOP), b"first").unwrap();
    pending.push(&waiting(port(1), HOP6), b"other hop").unwrap();
    pending.push(&waiting(port(2), HOP), &longest).unwrap();
    pending.push(&waiting(port(1), HOP), b"").unwrap();
    let elsewhere = Waiting { network: NetworkId(4), ..waiting(port(1), HOP) };
    pending.push(&elsewhere, b"other network").unwrap();
    assert_eq!((pending.len(), pending.len_of(port(1))), (5, 4));
    let expected = vec![(port(1), b"first".to_vec()), (port(2), longest), (port(1), vec![])];
    assert_eq!(taken(&mut pending, HOP), expected);
    assert_eq!(taken(&mut pending, HOP), []);
    assert_eq!(taken(&mut pending, HOP6), [(port(1), b"other hop".to_vec())]);
    assert_eq!((pending.len(), pending.is_empty()), (1, false));
    assert_eq!(pending.take_network(NetworkId(4), |_, _| {}), 1);
    assert!(pending.is_empty());
}

#[test]
fn of_more_than_one_neighbours_share_the_oldest_for_that_neighbour_goes() {
    let (mut pending, ..) = new();
    pending.push(&waiting(port(1), HOP6), b"older, elsewhere").unwrap();
    for n in 0..PER_HOP as u8 {
        assert_eq!(pending.push(&waiting(port(1), HOP), &[n]), Ok(None));
    }
    assert_eq!(pending.push(&waiting(port(2), HOP), b"another's"), Ok(None));
    assert_eq!(pending.push(&waiting(port(1), HOP), b"new"), Ok(Some(port(1))));
    let out = taken(&mut pending, HOP);
    assert_eq!(out.len(), PER_HOP + 1);
    assert_eq!((&out[0].1[..], &out.last().unwrap().1[..]), (&[1][..], &b"new"[..]));
    assert_eq!(taken(&mut pending, HOP6).len(), 1);
}

#[test]
fn of_more_than_an_owners_share_its_oldest_goes_and_nobody_elses() {
    let (mut pending, ..) = new();
    pending.push(&waiting(port(2), hop(0)), b"another's").unwrap();
    for n in 0..1000 {
        let expected = (n >= PER_OWNER as u32).then_some(port(1));
        assert_eq!(pending.push(&waiting(port(1), hop(n)), b"x"), Ok(expected));
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
            assert_eq!(pending.push(&waiting(port(owner), hop(n)), b"x"), Ok(None));
        }
    }
    for n in 0..full as u32 {
        let evicted = pending.push(&waiting(port(500), hop(n)), b"y").unwrap();
        assert!(evicted.is_some_and(|owner| owner != port(500)));
    }
    assert_eq!(pending.len(), PENDING_SLOTS);
    for owner in 0..full as u16 {
        assert_eq!(pending.len_of(port(owner)), PER_OWNER - 1);
    }
}

#[test]
fn a_successor_finds_all_that_waited_and_goes_on_in_order() {
    let (mut pending, state, fd) = new();
    let large = Waiting {
        offload: Offload {
            checksum: Checksum::Partial { start: 40, offset: 16 },
            segmentation: Some(Segmentation {
                kind: Kind::Tcp6,
                size: 1440,
                transport: 40,
                header_len: 60,
                ecn: true,
            }),
        },
        since: 77,
        ..waiting(port(MAX_PORTS as u16 - 1), HOP6)
    };
    let host = Waiting { network: NetworkId(63), ..waiting(Owner::Host(NetworkId(63)), HOP) };
    pending.push(&waiting(port(9), HOP), b"taken before").unwrap();
    pending.push(&large, &[1; 9000]).unwrap();
    assert_eq!(taken(&mut pending, HOP).len(), 1);
    pending.push(&large, &[2; 100]).unwrap(); // lies in a lower slot than the older one
    pending.push(&host, b"host's").unwrap();
    drop((pending, state));

    let state = StateMemory::adopt(fd.as_fd()).unwrap();
    let (mut pending, broken) = Pending::open(state);
    assert_eq!((broken, pending.len()), (0, 3));
    assert_eq!(pending.iter().filter(|w| **w == large).count(), 2);
    pending.push(&large, &[3; 70]).unwrap();
    let mut all = Vec::new();
    pending.take(NETWORK, HOP6, |w, bytes| all.push((*w, bytes.to_vec())));
    let expected = [(large, vec![1; 9000]), (large, vec![2; 100]), (large, vec![3; 70])];
    assert_eq!(all, expected);
    assert_eq!(pending.take_network(NetworkId(63), |w, _| assert_eq!(*w, host)), 1);
}

#[test]
fn what_was_taken_and_not_given_back_waits_again_after_a_death() {
    let (mut pending, state, _fd) = new();
    pending.push(&waiting(port(1), HOP), b"x").unwrap();
    assert_eq!(pending.take(NETWORK, HOP, |_, _| {}), 1);
    assert_eq!(pending.len(), 0);
    assert_eq!(Pending::open(state.clone()).0.len(), 1);
    pending.release();
    assert_eq!(Pending::open(state).0.len(), 0);
}

#[test]
fn slots_that_hold_nonsense_are_freed_and_told() {
    type Break = (usize, &'static [u8]);
    let breaks: [Break; 12] = [
        (0, &[2]),                       // state
        (24, &[MAX_NETWORKS as u8, 0]),  // network
        (26, &[3]),                      // owner's kind
        (26, &[1]),                      // a port's number as a network's
        (27, &[5]),                      // family
        (28, &[0xff, 0xff]),             // owner
        (30, &[3]),                      // checksum's kind
        (31, &[3]),                      // segmentation's kind
        (32, &[0xff, 0xff, 0xff, 0x7f]), // length
        (36, &[99, 0]),                  // checksum beyond the datagram
        (40, &[1, 0]),                   // segment size
        (44, &[101, 0]),                 // headers beyond the datagram
    ];
    let right = Waiting {
        offload: Offload {
            checksum: Checksum::Partial { start: 20, offset: 16 },
            segmentation: Some(Segmentation {
                kind: Kind::Tcp4,
                size: 50,
                transport: 20,
                header_len: 40,
                ecn: false,
            }),
        },
        ..waiting(port(100), HOP)
    };
    for (at, bytes) in breaks {
        let (mut pending, state, _fd) = new();
        pending.push(&right, &[1; 100]).unwrap();
        pending.push(&right, &[2; 100]).unwrap();
        state.memory().write(pending_at(0) + at, bytes).unwrap();
        let (mut next, broken) = Pending::open(state.clone());
        assert_eq!((broken, next.len()), (1, 1), "at {at}");
        assert_eq!(taken(&mut next, HOP), [(port(100), vec![2; 100])]);
        assert_eq!(Pending::open(state).1, 0);
    }
}

#[test]
fn those_of_an_owner_that_goes_and_those_that_wait_too_long_are_taken() {
    let (mut pending, ..) = new();
    pending.push(&waiting(port(1), HOP), b"a").unwrap();
    pending.push(&waiting(port(2), HOP), b"b").unwrap();
    pending.push(&Waiting { since: 9, ..waiting(port(2), HOP6) }, b"c").unwrap();
    assert_eq!(pending.take_owned(port(1), |_, bytes| assert_eq!(bytes, b"a")), 1);
    assert_eq!(pending.take_older(5, |_, _| {}), 0);
    assert_eq!(pending.take_older(6, |_, bytes| assert_eq!(bytes, b"b")), 1);
    assert_eq!(pending.len(), 1);
}

#[test]
fn a_datagram_longer_than_a_slot_is_refused() {
    let (mut pending, ..) = new();
    let refused = pending.push(&waiting(port(1), HOP), &vec![0; ROOM + 1]);
    assert_eq!(refused, Err(Counter::DropFrameLength));
    assert!(pending.is_empty());
}

#[test]
fn a_successor_looks_at_no_slot_that_was_never_used() {
    let (mut pending, state, _fd) = new();
    assert_eq!(used(&state), 0);
    for n in 0..100 {
        pending.push(&waiting(port(1), hop(n % 3)), b"x").unwrap();
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
                    let evicted = pending.push(&waiting(port(owner), hop(h)), &bytes).unwrap();
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
                    let mut out = Vec::new();
                    pending.take_owned(port(owner), |_, bytes| out.push(bytes.to_vec()));
                    pending.release();
                    prop_assert_eq!(out, expected);
                }
                Step::Die => {
                    let (next, broken) = Pending::open(state.clone());
                    prop_assert_eq!(broken, 0);
                    pending = next;
                }
            }
            prop_assert_eq!(pending.len(), model.len());
        }
    }

    /// Whatever a slot holds, the successor starts.
    #[test]
    fn any_slot_is_read_or_refused(
        record in prop::collection::vec(any::<u8>(), 64), used: u64,
    ) {
        let (_, state, _fd) = new();
        state.memory().write(pending_at(0) + 8, &record).unwrap();
        state.put(pending_at(0), 1);
        state.put(pending_at(0) + 120, used);
        let (mut pending, _) = Pending::open(state);
        pending.take_older(u64::MAX, |_, _| {});
    }
}

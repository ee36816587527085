//! The card's ring and the way out.

use std::os::fd::AsFd;

use virtqueue::NetHeader;

use super::world::{CARD_MAC, PEER_MAC, World, ethernet, frame_in, ip4, readable, readable_within};
use crate::answer::LastInch;
use crate::counters::Counter;
use crate::names::{Mac, NetworkId, Owner, PortId};
use crate::neighbor::{Lan, Settings};
use crate::state::StateMemory;
use crate::state::network::{NetworkRecord, Position, RingRecord};
use crate::uplink::{Guard, Outgoing, PacketUplink, Received, Refusal, Sent, SocketFilter};
use crate::worker::{self, NetworkSetup, UplinkFacts, UplinkSetup};

const NETWORK: NetworkId = NetworkId(0);

fn open(world: &World, state: &StateMemory) -> PacketUplink {
    let filter = Guard::open("test").unwrap().socket_filter().unwrap();
    PacketUplink::open(world.card.index, 15, &filter, state, NETWORK).unwrap()
}

fn state() -> StateMemory {
    StateMemory::create().unwrap().0
}

/// A frame whose datagram carries a number.
pub(super) fn numbered(n: u32) -> Vec<u8> {
    let payload = [&n.to_be_bytes()[..], &[0; 40]].concat();
    frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.10", 253, &payload))
}

pub(super) fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[34..38].try_into().unwrap())
}

/// Takes the next frame, waiting for it, and returns a copy.
pub(super) fn take(uplink: &mut PacketUplink) -> (NetHeader, Vec<u8>) {
    for _ in 0..2 {
        match uplink.next() {
            Some(Received::Frame { header, bytes, .. }) => return (header, bytes.to_vec()),
            Some(other) => panic!("{other:?}"),
            None => assert!(readable(&*uplink), "a frame in time"),
        }
    }
    panic!("readable, and nothing there")
}

fn outgoing(datagram: &[u8]) -> Outgoing<'_> {
    let ethernet = ethernet(PEER_MAC, CARD_MAC, 0x0800);
    Outgoing { header: NetHeader::default(), ethernet, datagram }
}

/// The base that has this socket ends, and its successor takes the socket over.
fn succeed(uplink: PacketUplink, world: &World, state: &StateMemory) -> PacketUplink {
    let kept = uplink.as_fd().try_clone_to_owned().unwrap();
    drop(uplink);
    PacketUplink::adopt(kept, world.card.index, state, NETWORK).unwrap()
}

#[test]
fn a_frame_comes_in_as_it_was_sent() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let peer = world.peer();
        assert_eq!(uplink.next(), None);
        let frame = numbered(7);
        peer.send(&frame);
        let (header, bytes) = take(&mut uplink);
        assert_eq!(bytes, frame);
        assert_eq!((header.gso_type, header.flags & NetHeader::F_NEEDS_CSUM), (0, 0));
        assert_eq!(uplink.position(), 0);
        uplink.release();
        assert_eq!(uplink.position(), 1);
        assert_eq!(uplink.next(), None);
        assert!(!readable_within(&uplink, std::time::Duration::ZERO), "released: not readable");
    });
}

#[test]
fn frames_of_a_batch_stay_readable_until_the_release() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let peer = world.peer();
        (0..3).for_each(|n| peer.send(&numbered(n)));
        let mut slots = Vec::new();
        while slots.len() < 3 {
            match uplink.next() {
                Some(Received::Frame { slot, .. }) => slots.push(slot),
                Some(other) => panic!("{other:?}"),
                None => assert!(readable(&uplink)),
            }
        }
        let numbers: Vec<_> = slots.iter().map(|s| number(uplink.frame(*s).unwrap())).collect();
        assert_eq!(numbers, [0, 1, 2]);
        uplink.release();
        assert!(slots.iter().all(|s| uplink.frame(*s).is_none()), "released: no longer lent");
    });
}

#[test]
fn a_frame_goes_out_with_what_was_left_to_offload_done_or_passed_on() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let peer = world.peer();
        let datagram = ip4("203.0.113.10", "203.0.113.2", 253, b"out");
        assert_eq!(uplink.send(&[outgoing(&datagram)]), Sent { count: 1, refused: None });
        let (_, frame) = peer.receive();
        assert_eq!(&frame[..14], ethernet(PEER_MAC, CARD_MAC, 0x0800));
        assert_eq!(&frame[14..], datagram);
        assert_eq!(uplink.next(), None, "what this machine sends is not seen");
    });
}

#[test]
fn what_others_on_this_machine_send_is_not_seen_either() {
    World::run(|world| {
        world.address();
        let everything = SocketFilter::keeping(-1);
        let mut uplink =
            PacketUplink::open(world.card.index, 15, &everything, &state(), NETWORK).unwrap();
        let peer = world.peer();
        let host = std::net::UdpSocket::bind("203.0.113.1:0").unwrap();
        host.set_broadcast(true).unwrap();
        host.send_to(b"all", "255.255.255.255:9").unwrap();
        while peer.receive().1[12..14] != [8, 0] {}
        peer.send(&numbered(5));
        let mut seen = Vec::new();
        while !seen.contains(&5) {
            let (_, bytes) = take(&mut uplink);
            assert_ne!(bytes[6..12], CARD_MAC.0, "its own frame");
            seen.push(if bytes[12..14] == [8, 0] { number(&bytes) } else { 0 });
        }
    });
}

#[test]
fn more_frames_than_fit_one_call_go_out_in_order() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let peer = world.peer();
        let datagrams: Vec<_> = (0..150u32)
            .map(|n| ip4("203.0.113.10", "203.0.113.2", 253, &n.to_be_bytes()))
            .collect();
        let frames: Vec<_> = datagrams.iter().map(|d| outgoing(d)).collect();
        assert_eq!(uplink.send(&frames), Sent { count: 150, refused: None });
        for n in 0..150 {
            assert_eq!(number(&peer.receive().1), n);
        }
        assert_eq!(uplink.send(&[]), Sent { count: 0, refused: None });
    });
}

/// A large TCP send: headers, then `len` octets of payload, checksum left open.
pub(super) fn large_send(from: &str, to: &str, len: usize) -> (NetHeader, Vec<u8>) {
    let mut tcp = vec![0x10, 0x00, 0x20, 0x00, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff];
    tcp.extend([0, 0, 0, 0]);
    tcp.extend((0..len).map(|i| i as u8));
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        gso_type: NetHeader::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    (header, ip4(from, to, 6, &tcp))
}

#[test]
fn a_large_send_comes_in_whole_with_its_segment_size() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let (header, datagram) = large_send("203.0.113.2", "203.0.113.10", 65_481);
        let frame = frame_in(0x0800, &datagram);
        assert_eq!(frame.len(), 65_535, "the largest that a veth passes whole");
        world.peer().send_with(header, &frame);
        let (seen, bytes) = take(&mut uplink);
        assert!(bytes == frame);
        assert_eq!((seen.gso_type, seen.gso_size), (NetHeader::GSO_TCPV4, 1448));
        assert_eq!(seen.flags & NetHeader::F_NEEDS_CSUM, NetHeader::F_NEEDS_CSUM);
        assert_eq!((seen.csum_start, seen.csum_offset), (34, 16));
    });
}

#[test]
fn a_large_send_goes_out_whole_where_the_card_takes_it() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let peer = world.peer();
        let (header, datagram) = large_send("203.0.113.10", "203.0.113.2", 60_000);
        let sent = uplink.send(&[Outgoing { header, ..outgoing(&datagram) }]);
        assert_eq!(sent, Sent { count: 1, refused: None });
        let (seen, frame) = peer.receive();
        assert!(frame[14..] == datagram);
        assert_eq!((seen.gso_type, seen.gso_size), (NetHeader::GSO_TCPV4, 1448));
    });
}

#[test]
fn a_frame_cut_short_is_a_drop_by_its_name() {
    World::run(|world| {
        let filter = SocketFilter::keeping(40);
        let mut uplink =
            PacketUplink::open(world.card.index, 15, &filter, &state(), NETWORK).unwrap();
        world.peer().send(&numbered(1));
        assert!(readable(&uplink));
        assert_eq!(uplink.next(), Some(Received::Dropped(Counter::DropUplinkClipped)));
        uplink.release();
        assert_eq!(uplink.position(), 1);
    });
}

#[test]
fn a_tagged_frame_is_a_drop_by_its_name() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let inner = ip4("203.0.113.2", "203.0.113.10", 253, &[0; 100]);
        let tagged = [&[0x00, 0x05, 0x08, 0x00][..], &inner].concat();
        world.peer().send(&frame_in(0x8100, &tagged));
        assert!(readable(&uplink));
        assert_eq!(uplink.next(), Some(Received::Dropped(Counter::DropVlan)));
    });
}

#[test]
fn a_successor_goes_on_where_the_predecessor_stopped_and_loses_nothing() {
    World::run(|world| {
        let (state, fd) = StateMemory::create().unwrap();
        let mut uplink = open(world, &state);
        let peer = world.peer();
        // Several laps of the ring of 15, each life ends at another place in it.
        let (mut sent, mut expected) = (0, 0);
        for life in 0..40 {
            for _ in 0..7 {
                peer.send(&numbered(sent));
                sent += 1;
            }
            let finished = life % 5 + 5;
            for _ in 0..finished.min(sent - expected) {
                assert_eq!(number(&take(&mut uplink).1), expected, "life {life}");
                uplink.release();
                expected += 1;
            }
            if expected < sent {
                // Taken, not finished: comes again.
                assert_eq!(number(&take(&mut uplink).1), expected);
            }
            let state = StateMemory::adopt(fd.as_fd()).unwrap();
            uplink = succeed(uplink, world, &state);
            assert_eq!(uplink.position(), u64::from(expected));
        }
        while expected < sent {
            assert_eq!(number(&take(&mut uplink).1), expected);
            uplink.release();
            expected += 1;
        }
        assert_eq!(uplink.next(), None);
        assert_eq!(uplink.kernel_drops(), 0);
    });
}

#[test]
fn a_death_between_giving_a_slot_back_and_counting_it_leaves_no_gap() {
    World::run(|world| {
        let (state, _fd) = StateMemory::create().unwrap();
        let mut uplink = open(world, &state);
        let peer = world.peer();
        (0..2).for_each(|n| peer.send(&numbered(n)));
        assert_eq!(number(&take(&mut uplink).1), 0);
        uplink.release();
        // As if it had died right before counting.
        let record = NetworkRecord::of(&state, NETWORK);
        record.released(0);
        assert_eq!(record.position(), Position::Between(0));
        let mut uplink = succeed(uplink, world, &state);
        assert_eq!(uplink.position(), 1);
        assert_eq!(number(&take(&mut uplink).1), 1);
    });
}

#[test]
fn a_death_beside_a_slot_of_a_full_ring_goes_on_with_the_oldest_frame() {
    for given_back in [false, true] {
        World::run(move |world| {
            let (state, _fd) = StateMemory::create().unwrap();
            let mut uplink = open(world, &state);
            let peer = world.peer();
            (0..15).for_each(|n| peer.send(&numbered(n)));
            assert_eq!(number(&take(&mut uplink).1), 0);
            uplink.release();
            // The last frame takes the first one's slot: the ring is full.
            peer.send(&numbered(15));
            assert_eq!(number(&take(&mut uplink).1), 1);
            let record = NetworkRecord::of(&state, NETWORK);
            if given_back {
                uplink.release();
                peer.send(&numbered(16));
                record.released(1);
            } else {
                uplink.announce_release();
            }
            assert_eq!(record.position(), Position::Between(1));
            let mut uplink = succeed(uplink, world, &state);
            let first = if given_back { 2 } else { 1 };
            for n in first..first + 15 {
                assert_eq!(number(&take(&mut uplink).1), n);
            }
        });
    }
}

#[test]
fn a_record_that_does_not_fit_the_ring_is_refused_with_its_numbers() {
    World::run(|world| {
        let state = state();
        let uplink = open(world, &state);
        let kept = uplink.as_fd().try_clone_to_owned().unwrap();
        let other = StateMemory::create().unwrap().0;
        let error = PacketUplink::adopt(kept, world.card.index, &other, NETWORK).unwrap_err();
        assert!(error.to_string().contains("its layout is damaged"), "{error}");
        let record = NetworkRecord::of(&other, NETWORK);
        record.start_ring(RingRecord { block_size: 4096, frame_size: 2048, blocks: 3 });
        let again = uplink.as_fd().try_clone_to_owned().unwrap();
        let error = PacketUplink::adopt(again, world.card.index, &other, NETWORK).unwrap_err();
        assert!(error.to_string().contains("receive ring: 6 slots"), "{error}");
    });
}

#[test]
fn what_the_kernel_drops_because_the_ring_is_full_is_counted() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let peer = world.peer();
        (0..20).for_each(|n| peer.send(&numbered(n)));
        for n in 0..15 {
            assert_eq!(number(&take(&mut uplink).1), n);
        }
        assert_eq!(uplink.next(), None, "a whole lap is taken");
        uplink.release();
        assert_eq!((uplink.kernel_drops(), uplink.kernel_drops()), (5, 0));
        peer.send(&numbered(20));
        assert_eq!(number(&take(&mut uplink).1), 20);
    });
}

#[test]
fn a_link_that_is_down_refuses_by_name_and_works_at_once_when_it_is_up_again() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let datagram = ip4("203.0.113.10", "203.0.113.2", 253, b"out");
        world.netlink.set_link_up(world.card.index, false).unwrap();
        let refused = Sent { count: 0, refused: Some(Refusal::Down) };
        assert_eq!(uplink.send(&[outgoing(&datagram)]), refused);
        world.netlink.set_link_up(world.card.index, true).unwrap();
        let peer = world.peer();
        assert_eq!(uplink.send(&[outgoing(&datagram)]), Sent { count: 1, refused: None });
        assert_eq!(&peer.receive().1[14..], datagram);
        // That the link was down is told where frames come in, once.
        assert!(uplink.take_error().is_some());
        assert!(uplink.take_error().is_none());
        peer.send(&numbered(1));
        assert_eq!(number(&take(&mut uplink).1), 1);
    });
}

#[test]
fn without_a_cable_frames_are_refused_rather_than_thrown_away() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let datagram = ip4("203.0.113.10", "203.0.113.2", 253, b"out");
        uplink.set_carrier(false);
        let refused = Sent { count: 0, refused: Some(Refusal::Down) };
        assert_eq!(uplink.send(&[outgoing(&datagram)]), refused);
        assert_eq!(uplink.send(&[]), Sent { count: 0, refused: None });
        uplink.set_carrier(true);
        assert_eq!(uplink.send(&[outgoing(&datagram)]).refused, None);
    });
}

#[test]
fn a_frame_too_long_for_the_card_is_refused_and_those_before_it_went() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        let small = ip4("203.0.113.10", "203.0.113.2", 253, b"out");
        let large = ip4("203.0.113.10", "203.0.113.2", 253, &[0; 2000]);
        let sent = uplink.send(&[outgoing(&small), outgoing(&large), outgoing(&small)]);
        assert_eq!(sent, Sent { count: 1, refused: Some(Refusal::TooLong) });
    });
}

#[test]
fn a_card_that_was_taken_out_and_came_back_is_used_again() {
    World::run(|world| {
        let mut uplink = open(world, &state());
        world.replace_card();
        assert!(uplink.take_error().is_some(), "the socket tells that its card is gone");
        let datagram = ip4("203.0.113.10", "203.0.113.2", 253, b"out");
        assert_eq!(uplink.send(&[outgoing(&datagram)]).refused, Some(Refusal::Down));
        uplink.rebind(world.card.index).unwrap();
        let peer = world.peer();
        peer.send(&numbered(3));
        assert_eq!(number(&take(&mut uplink).1), 3);
        assert_eq!(uplink.send(&[outgoing(&datagram)]), Sent { count: 1, refused: None });
    });
}

#[test]
fn a_successor_finds_the_card_that_came_back_while_nobody_looked() {
    World::run(|world| {
        let state = state();
        let uplink = open(world, &state);
        let kept = uplink.as_fd().try_clone_to_owned().unwrap();
        drop(uplink);
        world.replace_card();
        let mut uplink = PacketUplink::adopt(kept, world.card.index, &state, NETWORK).unwrap();
        world.peer().send(&numbered(3));
        assert_eq!(number(&take(&mut uplink).1), 3);
    });
}

#[test]
fn a_group_is_joined_and_left_even_after_a_takeover() {
    let group = Mac([0x33, 0x33, 0xff, 0, 0, 0x10]);
    let joined = || {
        std::fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap().contains("3333ff000010")
    };
    World::run(|world| {
        let state = state();
        let mut uplink = open(world, &state);
        uplink.join(group).unwrap();
        assert!(joined());
        let mut uplink = succeed(uplink, world, &state);
        uplink.join(group).unwrap();
        uplink.leave(group).unwrap();
        assert!(!joined());
    });
}

#[test]
fn the_groups_of_the_vms_are_joined_again_on_a_card_that_took_the_place_of_the_old_one() {
    let joined = || {
        std::fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap().contains("3333ff000010")
    };
    World::run(|world| {
        let state = state();
        let card = open(world, &state);
        let (worker, _) = worker::spawn(state, Box::new(|_| {})).unwrap();
        let outward = LastInch::silent(1500);
        let setup = NetworkSetup { id: NETWORK, mtu: 1500, on_link: Vec::new(), outward };
        worker.add_network(setup).unwrap();
        let facts = UplinkFacts { mac: CARD_MAC, mtu: 1500, up: true };
        let lan = Lan::new(Settings { mac: CARD_MAC, ..Settings::default() });
        worker.set_uplink(NETWORK, Some(UplinkSetup { card, facts, lan })).unwrap().unwrap();
        worker.serve().unwrap();
        worker
            .with_lan(NETWORK, |lan, now, out| {
                lan.claim(now, "2001:db8:1::10".parse().unwrap(), PortId(0), out);
            })
            .unwrap();
        assert!(joined());
        world.replace_card();
        assert!(!joined());
        worker.rebind(NETWORK, world.card.index).unwrap().unwrap();
        assert!(joined());
        worker.shut_down();
    });
}

#[test]
fn another_hosts_frame_and_a_card_that_is_not_there_are_refused() {
    World::run(|world| {
        let state = state();
        let mut uplink = open(world, &state);
        let mut foreign = numbered(1);
        foreign[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
        world.peer().send(&foreign);
        world.peer().send(&numbered(2));
        assert_eq!(number(&take(&mut uplink).1), 2);
        let filter = SocketFilter::keeping(40);
        let error = PacketUplink::open(4242, 15, &filter, &state, NETWORK).unwrap_err();
        assert_eq!(error.to_string(), "cannot bind a packet socket to link number 4242");
    });
}

#[test]
fn who_floods_a_slow_card_does_not_keep_others_from_it() {
    World::run(|world| {
        // A card that carries less than is offered, behind a queue longer than the send buffer.
        let slow = "qdisc add dev card root tbf rate 10mbit burst 32kb limit 64mb";
        let done = std::process::Command::new("tc").args(slow.split(' ')).status().unwrap();
        assert!(done.success(), "tc {slow}");
        let datagram = ip4("203.0.113.10", "203.0.113.2", 253, &[7; 1400]);
        let flood = [outgoing(&datagram); 32];
        let (busy, modest) = (Owner::Port(PortId(1)), Owner::Port(PortId(2)));
        // Without shares the modest one is refused: the test can tell.
        for shared in [false, true] {
            let mut uplink = open(world, &state());
            let (mut refused, mut lost) = (0, 0);
            for turn in 0..2000 {
                if !shared || uplink.may_put(busy, flood.len(), flood.len() * datagram.len()) {
                    refused += flood.len() - uplink.send(&flood).count;
                } else {
                    refused += flood.len();
                }
                if turn % 10 == 0 {
                    let may = !shared || uplink.may_put(modest, 1, datagram.len());
                    lost += usize::from(!may || uplink.send(&flood[..1]).count == 0);
                }
            }
            assert!(refused > 0, "the flood found no limit");
            assert_eq!(lost == 0, shared, "{lost} of 200 lost");
        }
    });
}

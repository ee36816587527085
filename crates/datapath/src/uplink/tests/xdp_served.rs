//! A worker whose card is used by AF_XDP.

use std::time::{Duration, Instant};

use virtqueue::NetHeader;

use super::served::{Base, NETWORK, PATIENCE, PORT, UPLINK};
use super::world::{CARD, CARD_MAC, PEER_MAC, Peer, World, arp_request, ethernet, frame_in, ip4};
use super::xdp::{completed, is_right, left_open};
use crate::counters::{Counter, Counters};
use crate::names::Owner;
use crate::offload::{Checksum, Kind, Offload, Segmentation};
use crate::pending::Pending;
use crate::state::StateMemory;
use crate::uplink::{Guard, Woken, XdpSetup, XdpUplink};
use crate::worker::UplinkFacts;

/// Gives a base that has a card the same card by AF_XDP.
fn give_xdp(base: &Base, world: &World) {
    base.worker.set_xdp(NETWORK, open(world)).unwrap().unwrap();
}

fn open(world: &World) -> XdpUplink {
    let guard = Guard::open("xdp").unwrap();
    guard.add_vm("203.0.113.10/32".parse().unwrap()).unwrap();
    let card = XdpUplink::open(&XdpSetup {
        name: CARD,
        index: world.card.index,
        mac: CARD_MAC,
        mtu: 1500,
        frames: 256,
        maps: guard.descriptors(),
    });
    let card = card.unwrap();
    card.begin().unwrap();
    card
}

/// A card in whose transmit ring a frame was left lying, because its link was down.
fn with_a_frame_left(world: &mut World) -> XdpUplink {
    let mut card = open(world);
    world.netlink.set_link_up(world.card.index, false).unwrap();
    card.put(
        &ethernet(PEER_MAC, CARD_MAC, 0x0800),
        &ip4("203.0.113.10", "203.0.113.2", 253, b"vm"),
    );
    assert_eq!((card.send(), card.unsent()), (Woken::default(), 1));
    card
}

/// Whether that frame arrives.
fn arrives(peer: &Peer) -> bool {
    let end = Instant::now() + PATIENCE;
    std::iter::from_fn(|| peer.receive_within(end.saturating_duration_since(Instant::now())))
        .any(|(_, frame)| frame[12..14] == [8, 0])
}

#[test]
fn what_a_predecessor_left_lying_is_sent_though_nobody_sends() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.give_card(world, true);
        let card = with_a_frame_left(world);
        world.netlink.set_link_up(world.card.index, true).unwrap();
        base.worker.set_xdp(NETWORK, card).unwrap().unwrap();
        assert!(arrives(&peer));
    });
}

#[test]
fn what_lay_while_the_link_was_down_is_sent_when_it_is_up_though_nobody_sends() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.give_card(world, false);
        let card = with_a_frame_left(world);
        base.worker.set_xdp(NETWORK, card).unwrap().unwrap();
        // Long enough for all that it tries by itself.
        std::thread::sleep(Duration::from_millis(50));
        base.worker.comes_round().unwrap();
        world.netlink.set_link_up(world.card.index, true).unwrap();
        let facts = UplinkFacts { mac: CARD_MAC, mtu: 1500, up: true };
        base.worker.set_facts(NETWORK, facts).unwrap();
        assert!(arrives(&peer));
    });
}

#[test]
fn what_lies_in_the_rings_at_the_end_is_served_sent_or_counted() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        let card = with_a_frame_left(world);
        let kept = card.descriptors().into_iter().map(|(_, fd)| fd.try_clone_to_owned().unwrap());
        let kept: Vec<_> = kept.collect();
        world.netlink.set_link_up(world.card.index, true).unwrap();
        let frame = frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.10", 253, b"vm"));
        base.worker.set_xdp(NETWORK, card).unwrap().unwrap();
        (0..50).for_each(|_| peer.send(&frame));
        base.worker.end_xdp(NETWORK).unwrap();
        // The holder keeps it all still: the other way is taken all the same.
        (0..50).for_each(|_| peer.send(&frame));
        base.wait(Counter::ToVm, 100);
        assert!(arrives(&peer));
        drop(kept);

        let card = with_a_frame_left(world);
        let facts = UplinkFacts { mac: CARD_MAC, mtu: 1500, up: false };
        base.worker.set_facts(NETWORK, facts).unwrap();
        base.worker.set_xdp(NETWORK, card).unwrap().unwrap();
        assert_eq!(base.count(Counter::RxCardLost), 0);
        base.worker.end_xdp(NETWORK).unwrap();
        assert_eq!(base.count(Counter::RxCardLost), 1);
    });
}

/// The answer to the base's question for its neighbour.
fn answer() -> Vec<u8> {
    let mut answer = arp_request("203.0.113.2", "203.0.113.1");
    answer[21] = 2;
    answer[..6].copy_from_slice(&CARD_MAC.0);
    answer[32..38].copy_from_slice(&CARD_MAC.0);
    answer
}

#[test]
fn every_frame_meets_one_fate_whichever_way_it_comes() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        give_xdp(&base, world);
        // No more than the packet socket's ring holds, however late the worker is.
        for _ in 0..50 {
            peer.send(&frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.10", 253, b"vm")));
            peer.send(&frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.11", 253, b"nobody")));
        }
        base.wait(Counter::ToVm, 50);
        base.wait(Counter::DropUnknownDestination, 50);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((base.count(Counter::Taken), base.count(Counter::ToVm)), (100, 50));
    });
}

#[test]
fn changing_the_way_loses_nothing() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        let frame = frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.10", 253, b"vm"));
        const ROUNDS: u64 = 10;
        for _ in 0..ROUNDS {
            give_xdp(&base, world);
            (0..50).for_each(|_| peer.send(&frame));
            base.worker.end_xdp(NETWORK).unwrap();
            (0..50).for_each(|_| peer.send(&frame));
            base.worker.comes_round().unwrap();
        }
        base.wait(Counter::ToVm, ROUNDS * 100);
        assert_eq!(base.count(Counter::Taken), ROUNDS * 100);
        assert_eq!(base.count(Counter::DropUplinkRingFull), 0);
    });
}

#[test]
fn what_a_vm_left_open_leaves_filled_in_and_what_is_large_in_segments() {
    World::run(|world| {
        let state = StateMemory::create().unwrap().0;
        let mut pending = Pending::adopt(state.clone());
        let (hop, owner) = ("203.0.113.2".parse().unwrap(), Owner::Port(PORT));
        let content: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        let checksum = Checksum::Partial { start: 20, offset: 16 };
        let (kind, transport, header_len) = (Kind::Tcp4, 20, 40);
        let large = Segmentation { kind, size: 1400, transport, header_len, ecn: false };
        for (content, segmentation) in [(&content[..700], None), (&content[..], Some(large))] {
            let (_, frame) = left_open(false, true, content, 0);
            let offload = Offload { checksum, segmentation };
            assert_eq!(pending.push(NETWORK, owner, hop, &offload, &frame[14..]), None);
        }
        let (base, peer) = (Base::serving(state, 1500), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        give_xdp(&base, world);
        peer.send(&answer());
        let (mut arrived, mut frames) = (Vec::new(), 0);
        let end = Instant::now() + Duration::from_secs(5);
        while arrived.len() < 700 + content.len() {
            assert!(Instant::now() < end, "{} octets in time", arrived.len());
            let (net, frame) = peer.receive();
            if frame[12..14] != [8, 0] {
                continue;
            }
            assert_eq!((net.flags & NetHeader::F_NEEDS_CSUM, net.gso_type), (0, 0));
            assert_eq!(&frame[..12], [PEER_MAC.0, CARD_MAC.0].concat());
            assert!(is_right(&frame[14..]) && !completed(&frame).1, "frame {frames}");
            arrived.extend(&frame[54..]);
            frames += 1;
        }
        assert_eq!((&arrived[..700], &arrived[700..]), (&content[..700], &content[..]));
        assert_eq!(frames, 1 + 20_000_usize.div_ceil(1400));
        base.wait(Counter::Segmented, 1);
        let vm = Counters::of(&base.state, owner);
        assert_eq!((vm.get(Counter::ToUplink), vm.get(Counter::DropUplinkSend)), (2, 0));
        assert_eq!(Counters::of(&base.state, UPLINK).get(Counter::Delivered), 2);
    });
}

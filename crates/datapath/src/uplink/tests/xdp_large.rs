//! A card by AF_XDP whose datagrams are larger than a frame of its sockets: they come and go in pieces.

use std::time::{Duration, Instant};

use super::world::{CARD_MAC, PEER_MAC, World, ethernet, frame_in, ip4};
use super::xdp::{guard, nothing, setup, succeed, take};
use crate::uplink::{Guard, WHOLE_XDP_MTU, Woken, XdpSetup, XdpUplink};

const MTU: u32 = 9000;
/// Octets of an IPv4 header.
const HEADER: usize = 20;

/// A card with a large MTU, used by AF_XDP.
fn open(world: &mut World, guard: &Guard) -> XdpUplink {
    world.netlink.set_link_mtu(world.card.index, MTU).unwrap();
    let peer = world.peer.index;
    world.outside(|netlink| netlink.set_link_mtu(peer, MTU).unwrap());
    let uplink = XdpUplink::open(&XdpSetup { mtu: MTU, ..setup(world, guard) }).unwrap();
    uplink.begin().unwrap();
    uplink
}

/// A datagram for the VM with so many octets in all, of which each tells where it is and whose.
fn datagram(octets: usize, number: u32) -> Vec<u8> {
    let content = (0..octets - HEADER).map(|n| (n as u32 * 7 + n as u32 / 256 + number) as u8);
    ip4("203.0.113.2", "203.0.113.10", 253, &content.collect::<Vec<_>>())
}

/// Sizes around the ends of pieces, on the way in (3,840 octets each) and out (4,096).
fn sizes() -> impl Iterator<Item = usize> {
    let ends = [3840, 2 * 3840, 4096, 2 * 4096].into_iter();
    let around = ends.flat_map(|end| (-15..=2i32).map(move |by| (end + by) as usize));
    [40, 1500].into_iter().chain(around).chain([MTU as usize - 1, MTU as usize])
}

#[test]
fn datagrams_of_every_size_come_in_whole_and_go_out_whole() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        assert!(uplink.largest_mtu() >= MTU);
        for (n, octets) in (0..).zip(sizes()) {
            let frame = frame_in(0x0800, &datagram(octets, n));
            peer.send(&frame);
            assert_eq!(take(&mut uplink), frame, "{octets} octets");
            uplink.release(0);
            assert!(nothing(&mut uplink));
            let (header, out) = (ethernet(PEER_MAC, CARD_MAC, 0x0800), datagram(octets, n + 100));
            uplink.put(&header, &out).expect("free frames");
            assert_eq!(uplink.send(), Woken::default());
            let (_, arrived) = peer.receive();
            assert_eq!(arrived, [&header[..], &out].concat(), "{octets} octets");
        }
        assert_eq!(uplink.kernel_drops(), 0);
    });
}

#[test]
fn a_successor_finds_large_frames_whole_wherever_the_base_died() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        let frame = |n: u32| frame_in(0x0800, &datagram([60, 5000, 9000][n as usize % 3], n));
        // Several times round all frames, with a death after each batch.
        for round in 0..40u32 {
            let first = round * 30;
            (0..30).for_each(|n| peer.send(&frame(first + n)));
            (0..10).for_each(|n| assert_eq!(take(&mut uplink), frame(first + n)));
            uplink.release(0);
            // Half of the next batch is copied when the base dies.
            (10..13).for_each(|n| assert_eq!(take(&mut uplink), frame(first + n)));
            uplink = succeed(uplink, world);
            (10..30).for_each(|n| assert_eq!(take(&mut uplink), frame(first + n)));
            uplink.release(0);
            assert!(nothing(&mut uplink));
            let header = ethernet(PEER_MAC, CARD_MAC, 0x0800);
            for n in 0..20 {
                uplink.put(&header, &frame(n)[14..]).expect("free frames");
            }
            if round % 2 == 0 {
                uplink.send();
                (0..20).for_each(|n| assert_eq!(peer.receive().1[14..], frame(n)[14..]));
            }
            // What was put and not sent is nobody's loss: its senders still have it.
            uplink = succeed(uplink, world);
        }
        assert_eq!(uplink.kernel_drops(), 0);
        assert_eq!(peer.receive_within(Duration::from_millis(20)), None);
    });
}

#[test]
fn of_a_frame_for_which_there_is_no_room_nothing_comes() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        const SENT: u32 = 300;
        let frame = |n| frame_in(0x0800, &datagram(9000, n));
        (0..SENT).for_each(|n| peer.send(&frame(n)));
        let (mut got, mut room) = (0, vec![0; 70_000]);
        while let Some(taken) = uplink.next(0, &mut room) {
            assert_eq!(room[..taken.unwrap()], frame(got));
            got += 1;
        }
        assert!(got < SENT, "all of them had room");
        assert_eq!(u64::from(got) + uplink.kernel_drops(), u64::from(SENT));
        uplink.release(0);
        peer.send(&frame(SENT));
        assert_eq!(take(&mut uplink), frame(SENT));
    });
}

#[test]
fn a_transmit_ring_that_is_full_takes_no_part_of_a_frame() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        let header = ethernet(PEER_MAC, CARD_MAC, 0x0800);
        let all = uplink.free();
        let mut put = 0;
        while uplink.put(&header, &datagram(9000, put)).is_some() {
            put += 1;
        }
        assert_eq!((put as usize, uplink.free()), (all / 3, all % 3));
        uplink.abandon();
        assert_eq!(uplink.free(), all);
        // No more at once than the other end has room for.
        for first in (0..50).step_by(5) {
            let numbers = first..first + 5;
            numbers.clone().for_each(|n| uplink.put(&header, &datagram(9000, n)).unwrap());
            assert_eq!(uplink.send(), Woken::default());
            numbers.for_each(|n| assert_eq!(peer.receive().1[14..], datagram(9000, n)));
        }
        let end = Instant::now() + Duration::from_secs(5);
        while uplink.free() < all {
            assert!(Instant::now() < end, "{} of {all} free", uplink.free());
        }
    });
}

#[test]
fn sockets_for_small_frames_take_no_large_ones_and_say_so() {
    World::run(|world| {
        let guard = guard();
        let uplink = XdpUplink::open(&setup(world, &guard)).unwrap();
        let mut uplink = succeed(uplink, world);
        assert_eq!(uplink.largest_mtu(), WHOLE_XDP_MTU);
        let header = ethernet(PEER_MAC, CARD_MAC, 0x0800);
        assert_eq!(uplink.put(&header, &datagram(5000, 0)), None);
    });
}

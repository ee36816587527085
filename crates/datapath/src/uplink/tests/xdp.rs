//! A card by AF_XDP: what the program takes, what comes in and goes out, and deaths in between.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use virtqueue::NetHeader;

use super::packet::{number, numbered};
use super::world::{
    CARD, CARD_MAC, PEER, PEER_MAC, World, arp_request, ethernet, frame_in, icmp6, ip4, ip6,
    readable, readable_within, solicitation,
};
use crate::checksum::Sum;
use crate::counters::Counter;
use crate::datagram::parse_ip;
use crate::names::{Mac, NetworkId};
use crate::offload::{Checksum, Offload, complete_checksum};
use crate::state::StateMemory;
use crate::uplink::bpf::{self, Link, ProgramKind, SocketMap};
use crate::uplink::sys;
use crate::uplink::{
    Guard, GuardMaps, LARGEST_XDP_MTU, PacketUplink, UplinkError, Woken, XdpSetup, XdpUplink,
};

/// A guard that knows one VM, as in [`numbered`] and with an IPv6 address.
pub(super) fn guard() -> Guard {
    let guard = Guard::open("test").unwrap();
    for vm in ["203.0.113.10/32", "2001:db8:1::10/128"] {
        guard.add_vm(vm.parse().unwrap()).unwrap();
    }
    guard
}

pub(super) fn setup<'a>(world: &World, guard: &'a Guard) -> XdpSetup<'a> {
    XdpSetup {
        name: CARD,
        index: world.card.index,
        mac: CARD_MAC,
        mtu: 1500,
        frames: 64,
        maps: guard.descriptors(),
    }
}

fn open(world: &World, guard: &Guard) -> XdpUplink {
    let uplink = XdpUplink::open(&setup(world, guard)).unwrap();
    uplink.begin().unwrap();
    uplink
}

/// The packet socket beside it.
fn open_packet(world: &World, guard: &Guard) -> PacketUplink {
    let filter = guard.socket_filter().unwrap();
    let state = StateMemory::create().unwrap().0;
    PacketUplink::open(world.card.index, 64, &filter, &state, NetworkId(0)).unwrap()
}

/// The next frame of the only queue, waiting for it.
pub(super) fn take(uplink: &mut XdpUplink) -> Vec<u8> {
    let mut room = vec![0; 70_000];
    for _ in 0..2 {
        match uplink.next(0, &mut room) {
            Some(Ok(len)) => return room[..len].to_vec(),
            Some(Err(reason)) => panic!("{reason:?}"),
            None => assert!(readable(uplink.socket(0).unwrap()), "a frame in time"),
        }
    }
    panic!("readable, and nothing there")
}

pub(super) fn nothing(uplink: &mut XdpUplink) -> bool {
    uplink.next(0, &mut [0; 4096]).is_none()
}

/// What a holder would keep.
fn kept(uplink: &XdpUplink) -> BTreeMap<String, OwnedFd> {
    let all = uplink.descriptors().into_iter();
    all.map(|(name, fd)| (name, fd.try_clone_to_owned().unwrap())).collect()
}

/// The base ends, and its successor takes over.
pub(super) fn succeed(uplink: XdpUplink, world: &World) -> XdpUplink {
    let kept = kept(&uplink);
    drop(uplink);
    XdpUplink::adopt(kept, world.card.index).unwrap()
}

fn send(uplink: &mut XdpUplink, n: u32) {
    let datagram = &numbered(n)[14..];
    uplink.put(&ethernet(PEER_MAC, CARD_MAC, 0x0800), datagram).expect("a free frame");
}

#[test]
fn a_datagram_comes_in_and_one_goes_out() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        assert_eq!(uplink.queues(), 1);
        assert!(nothing(&mut uplink));
        peer.send(&numbered(7));
        assert_eq!(take(&mut uplink), numbered(7));
        assert_eq!(uplink.position(0), 0);
        uplink.release(0);
        assert_eq!(uplink.position(0), 1);
        assert!(nothing(&mut uplink));
        assert!(!readable_within(uplink.socket(0).unwrap(), std::time::Duration::ZERO));
        send(&mut uplink, 8);
        assert_eq!(uplink.send(), Woken::default());
        let (_, frame) = peer.receive();
        assert_eq!(frame[..14], ethernet(PEER_MAC, CARD_MAC, 0x0800));
        assert_eq!(frame[14..], numbered(8)[14..]);
    });
}

#[test]
fn the_program_takes_what_is_for_a_vm_and_passes_on_everything_else() {
    World::run(|world| {
        let guard = guard();
        let mut uplink = open(world, &guard);
        let mut packet = open_packet(world, &guard);
        let peer = world.peer();
        let to = |mac: Mac, kind: u16, datagram: &[u8]| {
            [&ethernet(mac, PEER_MAC, kind)[..], datagram].concat()
        };
        let other = Mac([0x02, 9, 9, 9, 9, 9]);
        let (vm4, vm6) = ("203.0.113.10", "2001:db8:1::10");
        let mut fragment = ip4("203.0.113.2", vm4, 17, &[0; 24]);
        fragment[6..8].copy_from_slice(&[0x20, 0x10]);
        let echo = icmp6("2001:db8:1::2", vm6, &[128, 0, 0, 0, 0, 1, 0, 1]);
        let advertisement = icmp6("2001:db8:1::2", vm6, &[136, 0, 0, 0, 0, 0, 0, 0]);
        let tagged = [&[0, 5, 8, 0], &ip4("203.0.113.2", vm4, 17, &[0; 8])[..]].concat();
        let taken = [
            frame_in(0x0800, &ip4("203.0.113.2", vm4, 17, &[0; 8])),
            frame_in(0x0800, &fragment),
            frame_in(0x0800, &ip4("203.0.113.2", vm4, 253, &[])),
            frame_in(0x86dd, &ip6("2001:db8:1::2", vm6, 6, 64, &[0; 20])),
            frame_in(0x86dd, &ip6("2001:db8:1::2", vm6, 59, 64, &[])),
            frame_in(0x86dd, &echo),
        ];
        let passed = [
            arp_request("203.0.113.2", vm4),
            solicitation("2001:db8:1::2", vm6),
            frame_in(0x86dd, &advertisement),
            frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.11", 17, &[0; 8])),
            frame_in(0x86dd, &ip6("2001:db8:1::2", "2001:db8:1::11", 17, 64, &[0; 8])),
            to(Mac::BROADCAST, 0x0800, &ip4("203.0.113.2", vm4, 17, &[0; 8])),
            frame_in(0x88b5, &[0; 46]),
        ];
        for frame in taken.iter().chain(&passed) {
            peer.send(frame);
        }
        // For another card, and tagged: neither comes to the socket.
        peer.send(&to(other, 0x0800, &ip4("203.0.113.2", vm4, 17, &[0; 8])));
        peer.send(&to(CARD_MAC, 0x8100, &tagged));
        for frame in &taken {
            assert_eq!(&take(&mut uplink), frame);
        }
        for frame in &passed {
            assert_eq!(&super::packet::take(&mut packet).1, frame);
        }
        assert!(nothing(&mut uplink));
    });
}

#[test]
fn a_successor_finds_what_was_not_released_and_nothing_else() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        // Several times round all frames, with a death after each batch.
        for round in 0..40u32 {
            (0..30).for_each(|n| peer.send(&numbered(round * 30 + n)));
            for n in 0..10 {
                assert_eq!(number(&take(&mut uplink)), round * 30 + n);
            }
            uplink.release(0);
            assert_eq!(number(&take(&mut uplink)), round * 30 + 10);
            uplink = succeed(uplink, world);
            for n in 10..30 {
                assert_eq!(number(&take(&mut uplink)), round * 30 + n);
            }
            uplink.release(0);
            assert!(nothing(&mut uplink));
            for n in 0..100 {
                send(&mut uplink, n);
            }
            if round % 2 == 0 {
                uplink.send();
                (0..100).for_each(|n| assert_eq!(number(&peer.receive().1), n));
            }
            // What was put and not sent is nobody's loss: its senders still have it.
            uplink = succeed(uplink, world);
        }
        assert_eq!(uplink.kernel_drops(), 0);
        assert_eq!(peer.receive_within(std::time::Duration::from_millis(20)), None);
    });
}

#[test]
fn each_receive_queue_has_a_socket_and_each_flow_its_queue() {
    World::run(|world| {
        sys::set_queues(CARD, 2, 1).unwrap();
        world.outside(|_| sys::set_queues(PEER, 1, 2).unwrap());
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        assert_eq!(uplink.queues(), 2);
        const FLOWS: u8 = 64;
        let mut queue_of = BTreeMap::new();
        for round in 0..3u8 {
            for flow in 0..FLOWS {
                let ports = [0x20, flow, 0, 9, 0, 9, 0, 0, round];
                let datagram = ip4("203.0.113.2", "203.0.113.10", 17, &ports);
                peer.send(&frame_in(0x0800, &datagram));
            }
            let mut room = vec![0; 4096];
            let mut got = 0;
            while got < FLOWS {
                for queue in 0..2 {
                    while let Some(found) = uplink.next(queue, &mut room) {
                        assert_eq!((found, room[42]), (Ok(43), round));
                        assert_eq!(*queue_of.entry(room[35]).or_insert(queue), queue);
                        got += 1;
                    }
                    uplink.release(queue);
                }
            }
            uplink = succeed(uplink, world);
        }
        let first = queue_of.values().filter(|queue| **queue == 0).count();
        assert!(first > 0 && first < FLOWS.into(), "{first} of {FLOWS} by the first queue");
        send(&mut uplink, 1);
        uplink.send();
        assert_eq!(number(&peer.receive().1), 1);
    });
}

#[test]
fn what_arrives_while_no_base_lives_waits() {
    World::run(|world| {
        let guard = guard();
        let (uplink, peer) = (open(world, &guard), world.peer());
        let kept = kept(&uplink);
        drop(uplink);
        (0..200).for_each(|n| peer.send(&numbered(n)));
        let mut uplink = XdpUplink::adopt(kept, world.card.index).unwrap();
        (0..200).for_each(|n| assert_eq!(number(&take(&mut uplink)), n));
    });
}

#[test]
fn what_finds_no_room_is_counted_once_by_however_many_bases() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        (0..600).for_each(|n| peer.send(&numbered(n)));
        assert!(readable(uplink.socket(0).unwrap()));
        let mut got = 0;
        while uplink.next(0, &mut [0; 4096]).is_some() {
            got += 1;
        }
        let dropped = uplink.kernel_drops();
        assert_eq!((got, got + dropped), (512, 600));
        uplink.release(0);
        let uplink = succeed(uplink, world);
        assert_eq!(uplink.kernel_drops(), 0);
    });
}

#[test]
fn a_ring_that_is_full_refuses_until_the_kernel_has_sent() {
    World::run(|world| {
        let guard = guard();
        let mut uplink = open(world, &guard);
        let room = uplink.free();
        (0..room as u32).for_each(|n| send(&mut uplink, n));
        let full = uplink.put(&ethernet(PEER_MAC, CARD_MAC, 0x0800), &numbered(0)[14..]);
        assert_eq!((full, uplink.free()), (None, 0));
        let thrown_away = uplink.send().lost;
        assert_eq!(uplink.unsent(), 0);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while uplink.free() < room {
            assert!(std::time::Instant::now() < end, "{} of {room} free", uplink.free());
        }
        assert!(thrown_away < room as u32 / 2, "{thrown_away} of {room}");
    });
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        let header = ethernet(PEER_MAC, CARD_MAC, 0x0800);
        assert_eq!(uplink.put(&header, &[0; 4083]), None);
        peer.send(&numbered(1));
        assert!(readable(uplink.socket(0).unwrap()));
        let short = uplink.next(0, &mut [0; 20]);
        assert_eq!(short, Some(Err(Counter::DropFrameLength)));
    });
}

#[test]
fn a_card_whose_datagrams_do_not_fit_its_frames_is_left_alone() {
    World::run(|world| {
        let guard = guard();
        let large = XdpSetup { mtu: LARGEST_XDP_MTU + 1, ..setup(world, &guard) };
        let error = XdpUplink::open(&large).unwrap_err();
        assert!(error.to_string().contains("MTU"), "{error}");
        // Nothing of it is left there.
        drop(open(world, &guard));
    });
}

#[test]
fn a_foreign_program_is_left_where_it_is() {
    World::run(|world| {
        let guard = guard();
        let sockets = SocketMap::create(1).unwrap();
        let GuardMaps { vm4, vm6, .. } = guard.descriptors();
        let program = bpf::redirect(vm4, vm6, sockets.as_fd(), CARD_MAC).unwrap();
        let program = bpf::load(ProgramKind::Xdp, &program).unwrap();
        let foreign = Link::create(&program, world.card.index).unwrap();
        let error = XdpUplink::open(&setup(world, &guard)).unwrap_err();
        assert!(error.to_string().contains("XDP program of somebody else"), "{error}");
        drop(foreign);
        let ours = open(world, &guard);
        let error = XdpUplink::open(&setup(world, &guard)).unwrap_err();
        assert!(error.to_string().contains("AF_XDP socket of somebody else"), "{error}");
        // The kernel lets go of a queue some time after its socket: that is waited for.
        drop(ours);
        drop(open(world, &guard));
    });
}

#[test]
fn no_frame_comes_before_everything_is_kept() {
    World::run(|world| {
        let guard = guard();
        let mut uplink = XdpUplink::open(&setup(world, &guard)).unwrap();
        let (mut packet, peer) = (open_packet(world, &guard), world.peer());
        peer.send(&numbered(1));
        assert_eq!(number(&super::packet::take(&mut packet).1), 1);
        assert!(nothing(&mut uplink));
        // Whoever finds all of it after a death begins.
        let mut uplink = succeed(uplink, world);
        peer.send(&numbered(2));
        assert_eq!(number(&take(&mut uplink)), 2);
    });
}

#[test]
fn the_program_goes_though_somebody_keeps_its_link() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        let kept = kept(&uplink);
        peer.send(&numbered(1));
        uplink.control().unwrap().detach().unwrap();
        peer.send(&numbered(2));
        assert_eq!(number(&take(&mut uplink)), 1);
        assert!(nothing(&mut uplink));
        let mut packet = open_packet(world, &guard);
        peer.send(&numbered(3));
        assert_eq!(number(&super::packet::take(&mut packet).1), 3);
        // One who takes over what is left finds what was not released, and no program to replace.
        drop(uplink);
        let mut uplink = XdpUplink::adopt(kept, world.card.index).unwrap();
        assert_eq!(number(&take(&mut uplink)), 1);
        let control = uplink.control().unwrap();
        let program = control.load(&setup(world, &guard)).unwrap();
        assert!(control.renew(&program).is_err());
    });
}

#[test]
fn another_mac_address_takes_another_program() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        let mac = Mac([0x02, 7, 7, 7, 7, 7]);
        let control = uplink.control().unwrap();
        let program = control.load(&XdpSetup { mac, ..setup(world, &guard) }).unwrap();
        control.renew(&program).unwrap();
        peer.send(&numbered(1));
        let mut frame = numbered(2);
        frame[..6].copy_from_slice(&mac.0);
        peer.send(&frame);
        assert_eq!(number(&take(&mut uplink)), 2);
    });
}

#[test]
fn what_is_not_whole_is_not_taken_over() {
    World::run(|world| {
        let guard = guard();
        let uplink = open(world, &guard);
        for missing in ["umem", "map", "link", "0"] {
            let mut kept = kept(&uplink);
            kept.remove(missing);
            let error = XdpUplink::adopt(kept, world.card.index).unwrap_err();
            assert!(matches!(error, UplinkError::Adopt { .. }), "{missing}: {error}");
        }
        let error = XdpUplink::adopt(kept(&uplink), world.card.index + 1).unwrap_err();
        assert!(matches!(error, UplinkError::Adopt { .. }), "{error}");
        let mut strange = kept(&uplink);
        strange
            .insert("0".to_owned(), guard.descriptors().vm4.as_fd().try_clone_to_owned().unwrap());
        assert!(XdpUplink::adopt(strange, world.card.index).is_err());
    });
}

/// A TCP segment or UDP datagram for the VM whose checksum is left open, with its virtio-net header.
pub(super) fn left_open(v6: bool, tcp: bool, content: &[u8], size: u16) -> (NetHeader, Vec<u8>) {
    let (number, header, offset) = if tcp { (6, 20, 16) } else { (17, 8, 6) };
    let mut transport = vec![0; header];
    transport[..4].copy_from_slice(&[0x10, 0, 0, 7]);
    if tcp {
        transport[12..14].copy_from_slice(&[5 << 4, 0x10]);
    }
    transport.extend(content);
    let len = transport.len() as u16;
    if !tcp {
        transport[4..6].copy_from_slice(&len.to_be_bytes());
    }
    let (from, to) = match v6 {
        true => ("2001:db8:1::2", "2001:db8:1::10"),
        false => ("203.0.113.2", "203.0.113.10"),
    };
    let octets = |text: &str| match text.parse().unwrap() {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    let pseudo = Sum::of(&octets(from)).plus(&octets(to)).word(number).word(len).fold();
    transport[offset..offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    let frame = match v6 {
        true => frame_in(0x86dd, &ip6(from, to, number as u8, 64, &transport)),
        false => frame_in(0x0800, &ip4(from, to, number as u8, &transport)),
    };
    let start = (frame.len() - transport.len()) as u16;
    let mut net = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        csum_start: start,
        csum_offset: offset as u16,
        ..NetHeader::default()
    };
    if size > 0 {
        net.gso_type = if v6 { NetHeader::GSO_TCPV6 } else { NetHeader::GSO_TCPV4 };
        net.gso_size = size;
        net.hdr_len = start + header as u16;
    }
    (net, frame)
}

/// The datagram of a frame, with what was found to be open filled in; whether anything was.
pub(super) fn completed(frame: &[u8]) -> (Vec<u8>, bool) {
    let mut datagram = frame[14..].to_vec();
    let found = Offload::found(&parse_ip(&datagram).unwrap());
    assert_eq!(found.segmentation, None);
    match found.checksum {
        Checksum::Partial { start, offset } => {
            complete_checksum(&mut datagram, start, offset).unwrap();
            (datagram, true)
        }
        Checksum::None | Checksum::Valid => (datagram, false),
    }
}

/// Whether its TCP or UDP checksum is right, by somebody else's arithmetic.
pub(super) fn is_right(datagram: &[u8]) -> bool {
    let sliced = etherparse::SlicedPacket::from_ip(datagram).unwrap();
    let (from, to) = match sliced.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            (ip.header().source().to_vec(), ip.header().destination().to_vec())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            (ip.header().source().to_vec(), ip.header().destination().to_vec())
        }
        other => panic!("{other:?}"),
    };
    let array = |octets: &[u8]| <[u8; 4]>::try_from(octets).ok();
    let array6 = |octets: &[u8]| <[u8; 16]>::try_from(octets).unwrap();
    match sliced.transport.unwrap() {
        etherparse::TransportSlice::Tcp(tcp) => {
            let right = match (array(&from), array(&to)) {
                (Some(from), Some(to)) => tcp.calc_checksum_ipv4(from, to).unwrap(),
                _ => tcp.calc_checksum_ipv6(array6(&from), array6(&to)).unwrap(),
            };
            right == tcp.checksum()
        }
        etherparse::TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let right = match (array(&from), array(&to)) {
                (Some(from), Some(to)) => {
                    header.calc_checksum_ipv4_raw(from, to, udp.payload()).unwrap()
                }
                _ => header
                    .calc_checksum_ipv6_raw(array6(&from), array6(&to), udp.payload())
                    .unwrap(),
            };
            right == udp.checksum()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_other_end_of_the_cable_left_open_is_found_and_filled_in() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
            let (net, frame) = left_open(v6, tcp, b"content that is odd", 0);
            peer.send_with(net, &frame);
            let arrived = take(&mut uplink);
            assert_eq!(arrived, frame, "undone, as the sender left it");
            let (datagram, was_open) = completed(&arrived);
            assert!(was_open && is_right(&datagram), "{v6} {tcp}");
            // Filled in already: a wire would have brought it so.
            let whole = [&frame[..14], &datagram].concat();
            peer.send(&whole);
            assert_eq!(completed(&take(&mut uplink)), (datagram, false));
        }
    });
}

#[test]
fn a_large_send_at_the_other_end_comes_in_segments() {
    World::run(|world| {
        let guard = guard();
        let (mut uplink, peer) = (open(world, &guard), world.peer());
        let content: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        for v6 in [false, true] {
            let (net, frame) = left_open(v6, true, &content, 1400);
            peer.send_with(net, &frame);
            let mut arrived: Vec<u8> = Vec::new();
            while arrived.len() < content.len() {
                let (datagram, _) = completed(&take(&mut uplink));
                assert!(is_right(&datagram));
                let header = if v6 { 60 } else { 40 };
                arrived.extend(&datagram[header..]);
            }
            assert_eq!(arrived, content);
            uplink.release(0);
        }
    });
}

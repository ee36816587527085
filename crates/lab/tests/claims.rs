//! Unchanged: the datagram that arrives is the datagram that was sent, octet by octet, taken at the
//! sender's driver and at the receiver's driver or on the LAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::frames::{self, Ip4, Ip6, fragment_header, options_header, pattern, protocol};
use lab::scene::{OUTSIDE, Pair, vm};
use lab::wired::{LIMIT, MACS, Wired, Wiring, delivered};
use virtqueue::NetHeader;

/// Octets of the largest datagram of these tests.
const JUMBO: u16 = 9000;

type Case = (&'static str, Vec<u8>);

fn cases4(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<Case> {
    let (s, d) = (IpAddr::V4(source), IpAddr::V4(destination));
    let ip = |protocol, payload| Ip4::new(source, destination, protocol, payload);
    let udp = |length| frames::udp(s, d, (4000, 4001), &pattern(length));
    let tcp = |flags, options: &[u8]| frames::tcp(s, d, (4000, 4001), flags, options, &pattern(99));
    let mut wrong_sum = udp(40);
    wrong_sum[6] ^= 0xff;
    let mut no_sum = udp(40);
    no_sum[6..8].fill(0);
    let long = usize::from(JUMBO);
    let fragment = |more_fragments, fragment_offset| Ip4 {
        more_fragments,
        fragment_offset,
        ..ip(protocol::UDP, udp(1000)[..800].to_vec())
    };
    let seen: Vec<(&'static str, Ip4)> = vec![
        ("a header and nothing else, 20 octets", ip(protocol::EXPERIMENT, vec![])),
        ("21 octets", ip(protocol::EXPERIMENT, vec![7])),
        ("UDP without data", ip(protocol::UDP, udp(0))),
        ("UDP of an odd length", ip(protocol::UDP, udp(333))),
        ("UDP, 1500 octets", ip(protocol::UDP, udp(1472))),
        ("UDP, 1499 octets", ip(protocol::UDP, udp(1471))),
        ("UDP, 9000 octets", ip(protocol::UDP, udp(long - 28))),
        ("UDP without a checksum", ip(protocol::UDP, no_sum)),
        ("UDP with a wrong checksum", ip(protocol::UDP, wrong_sum)),
        ("TCP SYN with options", ip(protocol::TCP, tcp(2, &[2, 4, 5, 0xb4, 1, 1, 4, 2]))),
        ("TCP with data", ip(protocol::TCP, tcp(0x18, &[]))),
        ("TCP with congestion echoed", ip(protocol::TCP, tcp(0x50, &[]))),
        ("echo request", ip(protocol::ICMP, frames::icmp(s, d, 8, 0, &pattern(60)))),
        ("TTL 1", Ip4 { ttl: 1, ..ip(protocol::UDP, udp(10)) }),
        ("TTL 255", Ip4 { ttl: 255, ..ip(protocol::UDP, udp(10)) }),
        ("may not be fragmented", Ip4 { dont_fragment: true, ..ip(protocol::UDP, udp(10)) }),
        ("identification 0", Ip4 { identification: 0, ..ip(protocol::UDP, udp(10)) }),
        ("congestion experienced, DSCP set", Ip4 { service: 0xbb, ..ip(protocol::UDP, udp(10)) }),
        ("first fragment", fragment(true, 0)),
        ("middle fragment", fragment(true, 100)),
        ("last fragment", fragment(false, 200)),
        ("router alert option", Ip4 { options: vec![148, 4, 0, 0], ..ip(protocol::UDP, udp(10)) }),
        ("40 octets of options", Ip4 { options: vec![1; 40], ..ip(protocol::UDP, udp(10)) }),
        ("unknown protocol", ip(protocol::EXPERIMENT, pattern(1201))),
        ("GRE", ip(protocol::GRE, pattern(100))),
        ("ESP", ip(protocol::ESP, pattern(100))),
        ("SCTP", ip(protocol::SCTP, pattern(100))),
    ];
    seen.into_iter().map(|(name, ip)| (name, ip.bytes())).collect()
}

fn cases6(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<Case> {
    let (s, d) = (IpAddr::V6(source), IpAddr::V6(destination));
    let ip = |next, payload| Ip6::new(source, destination, next, payload);
    let udp = |length| frames::udp(s, d, (4000, 4001), &pattern(length));
    let tcp = |flags, options: &[u8]| frames::tcp(s, d, (4000, 4001), flags, options, &pattern(99));
    let after = |headers: &[Vec<u8>], rest: Vec<u8>| [headers.concat(), rest].concat();
    let long = usize::from(JUMBO);
    let chain = || {
        after(
            &[
                options_header(protocol::DESTINATION),
                options_header(protocol::FRAGMENT),
                fragment_header(protocol::DESTINATION, 0, false),
                options_header(protocol::UDP),
            ],
            udp(50),
        )
    };
    let fragment = |offset, more| {
        after(&[fragment_header(protocol::UDP, offset, more)], udp(1000)[..800].to_vec())
    };
    let seen: Vec<(&'static str, Ip6)> = vec![
        ("a header and nothing else, 40 octets", ip(protocol::NOTHING, vec![])),
        ("41 octets", ip(protocol::EXPERIMENT, vec![7])),
        ("UDP without data", ip(protocol::UDP, udp(0))),
        ("UDP of an odd length", ip(protocol::UDP, udp(333))),
        ("UDP, 1500 octets", ip(protocol::UDP, udp(1452))),
        ("UDP, 9000 octets", ip(protocol::UDP, udp(long - 48))),
        ("TCP SYN with options", ip(protocol::TCP, tcp(2, &[2, 4, 5, 0xa0, 1, 1, 4, 2]))),
        ("TCP with data", ip(protocol::TCP, tcp(0x18, &[]))),
        ("TCP with congestion echoed", ip(protocol::TCP, tcp(0x50, &[]))),
        ("echo request", ip(protocol::ICMP6, frames::icmp(s, d, 128, 0, &pattern(60)))),
        ("hop limit 1", Ip6 { hop_limit: 1, ..ip(protocol::UDP, udp(10)) }),
        ("hop limit 255", Ip6 { hop_limit: 255, ..ip(protocol::UDP, udp(10)) }),
        ("flow label and class", Ip6 { flow: 0xabcde, class: 0xbb, ..ip(protocol::UDP, udp(10)) }),
        ("hop-by-hop options", ip(0, after(&[options_header(protocol::UDP)], udp(10)))),
        ("destination options", ip(60, after(&[options_header(protocol::UDP)], udp(10)))),
        ("first fragment", ip(protocol::FRAGMENT, fragment(0, true))),
        ("middle fragment", ip(protocol::FRAGMENT, fragment(100, true))),
        ("last fragment", ip(protocol::FRAGMENT, fragment(200, false))),
        ("atomic fragment", ip(protocol::FRAGMENT, fragment(0, false))),
        ("a chain of four headers", ip(protocol::HOP_BY_HOP, chain())),
        ("unknown next header", ip(protocol::EXPERIMENT, pattern(1201))),
        ("ESP", ip(protocol::ESP, pattern(100))),
        ("SCTP", ip(protocol::SCTP, pattern(100))),
    ];
    seen.into_iter().map(|(name, ip)| (name, ip.bytes())).collect()
}

fn cases(from: Pair, to: Pair) -> Vec<Case> {
    let mut all = Vec::new();
    for (source, destination) in from.into_iter().zip(to) {
        all.extend(match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => cases4(s, d),
            (IpAddr::V6(s), IpAddr::V6(d)) => cases6(s, d),
            _ => panic!("a pair is IPv4, IPv6"),
        });
    }
    all
}

fn jumbo() -> Wired {
    Wired::up(&Wiring { mtu: JUMBO, ..Wiring::default() }).unwrap()
}

#[test]
fn from_vm_to_vm_nothing_changes() {
    let mut w = jumbo();
    let cases = cases(vm(0), vm(1));
    for (name, datagram) in &cases {
        let frame = w.from_a(datagram);
        w.a.send_plain(&frame).unwrap();
        let (_, got) = delivered(&mut w.b, datagram).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(got[..12], [MACS[1], w.base_mac].concat(), "{name}");
    }
    println!("{} cases", cases.len());
    assert!(cases.len() >= 50);
}

#[test]
fn from_vm_to_the_lan_nothing_changes_and_the_source_is_the_cards_mac() {
    let mut w = jumbo();
    let cases = cases(vm(0), OUTSIDE);
    for (name, datagram) in &cases {
        let frame = w.from_a(datagram);
        w.a.send_plain(&frame).unwrap();
        let got =
            w.seen_outside(name, |f| frames::datagram_of(&f.bytes) == datagram.as_slice()).unwrap();
        assert_eq!(got.bytes[..12], [w.lan_mac, w.card_mac].concat(), "{name}");
    }
    println!("{} cases", cases.len());
}

#[test]
fn from_the_lan_to_a_vm_nothing_changes() {
    let mut w = jumbo();
    let cases = cases(OUTSIDE, vm(0));
    for (name, datagram) in &cases {
        w.tap.send(&w.from_lan(datagram)).unwrap();
        let (_, got) = delivered(&mut w.a, datagram).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(got[..12], [MACS[0], w.base_mac].concat(), "{name}");
    }
    println!("{} cases", cases.len());
}

#[test]
fn padding_behind_a_short_datagram_stays_on_the_lan() {
    let mut w = jumbo();
    for (source, destination) in OUTSIDE.into_iter().zip(vm(0)) {
        let datagram = frames::datagram(source, destination, protocol::EXPERIMENT, vec![9]);
        let mut frame = w.from_lan(&datagram);
        frame.resize(60.max(frame.len() + 3), 0xee);
        w.tap.send(&frame).unwrap();
        delivered(&mut w.a, &datagram).unwrap();
    }
}

#[test]
fn every_ip4_length_up_to_200_arrives_as_it_is() {
    let mut w = jumbo();
    let (IpAddr::V4(s), IpAddr::V4(d)) = (vm(0)[0], vm(1)[0]) else { panic!() };
    for length in 0..=180 {
        let datagram = Ip4::new(s, d, protocol::EXPERIMENT, pattern(length)).bytes();
        let frame = w.from_a(&datagram);
        w.a.send_plain(&frame).unwrap();
        let got = w.b.receive_matching(LIMIT, |_, f| f.len() == 34 + length).unwrap();
        assert_eq!(frames::datagram_of(&got.unwrap().1), datagram);
    }
}

#[test]
fn the_receivers_header_is_built_afresh() {
    let mut w = jumbo();
    let (s, d) = (vm(0)[0], vm(1)[0]);
    let datagram = frames::datagram(s, d, protocol::UDP, frames::udp(s, d, (1, 2), &pattern(64)));
    // Nothing is left to offload, and yet these fields are not zero.
    let header = NetHeader { hdr_len: 77, csum_start: 3, csum_offset: 5, ..Default::default() };
    let frame = w.from_a(&datagram);
    w.a.send(&header, &frame).unwrap();
    let (got, _) = delivered(&mut w.b, &datagram).unwrap();
    assert_eq!((got.hdr_len, got.csum_start, got.csum_offset, got.gso_type), (0, 0, 0, 0));
}

#[test]
fn nothing_arrives_over_a_cut_cable() {
    let mut w = jumbo();
    w.scene.outside.run("ip link set lan0 down").unwrap();
    let (s, d) = (vm(0)[0], OUTSIDE[0]);
    let datagram = frames::datagram(s, d, protocol::EXPERIMENT, pattern(64));
    let frame = w.from_a(&datagram);
    w.a.send_plain(&frame).unwrap();
    let seen = w.seen_outside("it", |f| frames::datagram_of(&f.bytes) == datagram.as_slice());
    assert!(seen.is_err());
}

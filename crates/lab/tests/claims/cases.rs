//! The table: datagrams of every kind that may pass, written octet by octet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::frames::{self, Ip4, Ip6, fragment_header, options_header, pattern, protocol};
use lab::scene::Pair;

use super::checks::{Case, JUMBO};

/// Both tables for a pair of machines.
pub fn cases(from: Pair, to: Pair) -> Vec<Case> {
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

const PORTS: (u16, u16) = (4000, 4001);

fn spoiled(mut message: Vec<u8>, at: usize) -> Vec<u8> {
    message[at] ^= 0xff;
    message
}

fn without_sum(mut udp: Vec<u8>) -> Vec<u8> {
    udp[6..8].fill(0);
    udp
}

/// The table for IPv4.
pub fn cases4(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<Case> {
    let (s, d) = (IpAddr::V4(source), IpAddr::V4(destination));
    let ip = |protocol, payload| Ip4::new(source, destination, protocol, payload);
    let udp = |length| frames::udp(s, d, PORTS, &pattern(length));
    let sized = |length: usize| ip(protocol::UDP, udp(length - 28));
    let tcp = |flags, options: &[u8]| frames::tcp(s, d, PORTS, flags, options, &pattern(99));
    let small = || ip(protocol::UDP, udp(10));
    let fragment = |more_fragments, fragment_offset| Ip4 {
        more_fragments,
        fragment_offset,
        ..ip(protocol::UDP, udp(1000)[..800].to_vec())
    };
    let with_options = |options: &[u8]| Ip4 { options: options.to_vec(), ..small() };
    let quoted = small().bytes();
    let unreachable = frames::icmp(s, d, 3, 1, &[&[0; 4], &quoted[..]].concat());
    let table: Vec<(&'static str, Ip4)> = vec![
        ("IPv4: a header and nothing else, 20 octets", ip(protocol::EXPERIMENT, vec![])),
        ("IPv4: 21 octets", ip(protocol::EXPERIMENT, vec![7])),
        ("IPv4: UDP without data", ip(protocol::UDP, udp(0))),
        ("IPv4: UDP of an odd length", ip(protocol::UDP, udp(333))),
        ("IPv4: 576 octets", sized(576)),
        ("IPv4: 1279 octets", sized(1279)),
        ("IPv4: 1499 octets", sized(1499)),
        ("IPv4: 1500 octets", sized(1500)),
        ("IPv4: 1501 octets", sized(1501)),
        ("IPv4: 4095 octets", sized(4095)),
        ("IPv4: 4096 octets", sized(4096)),
        ("IPv4: 8999 octets", sized(8999)),
        ("IPv4: 9000 octets", sized(usize::from(JUMBO))),
        ("IPv4: UDP without a checksum", ip(protocol::UDP, without_sum(udp(40)))),
        ("IPv4: UDP with a wrong checksum", ip(protocol::UDP, spoiled(udp(40), 6))),
        ("IPv4: UDP with a wrong length", ip(protocol::UDP, spoiled(udp(40), 5))),
        ("IPv4: TCP with a wrong checksum", ip(protocol::TCP, spoiled(tcp(16, &[]), 16))),
        ("IPv4: TCP SYN with options", ip(protocol::TCP, tcp(2, &[2, 4, 5, 0xb4, 1, 1, 4, 2]))),
        ("IPv4: TCP with data", ip(protocol::TCP, tcp(0x18, &[]))),
        ("IPv4: TCP with congestion echoed", ip(protocol::TCP, tcp(0x50, &[]))),
        (
            "IPv4: TCP with a header that claims too much",
            ip(protocol::TCP, spoiled(tcp(16, &[]), 12)),
        ),
        ("IPv4: half a TCP header", ip(protocol::TCP, tcp(2, &[])[..10].to_vec())),
        ("IPv4: echo request", ip(protocol::ICMP, frames::icmp(s, d, 8, 0, &pattern(60)))),
        ("IPv4: unreachable", ip(protocol::ICMP, unreachable)),
        ("IPv4: an ICMP type nobody knows", ip(protocol::ICMP, frames::icmp(s, d, 200, 9, &[1]))),
        ("IPv4: TTL 1", Ip4 { ttl: 1, ..small() }),
        ("IPv4: TTL 255", Ip4 { ttl: 255, ..small() }),
        ("IPv4: may not be fragmented", Ip4 { dont_fragment: true, ..small() }),
        ("IPv4: 9000 octets, not to be fragmented", Ip4 { dont_fragment: true, ..sized(9000) }),
        ("IPv4: identification 0", Ip4 { identification: 0, ..small() }),
        ("IPv4: identification 65535", Ip4 { identification: 0xffff, ..small() }),
        ("IPv4: ECN capable (1)", Ip4 { service: 1, ..small() }),
        ("IPv4: ECN capable (0)", Ip4 { service: 2, ..small() }),
        ("IPv4: congestion experienced", Ip4 { service: 3, ..small() }),
        ("IPv4: DSCP EF", Ip4 { service: 0xb8, ..small() }),
        ("IPv4: DSCP CS7, congestion experienced", Ip4 { service: 0xe3, ..small() }),
        ("IPv4: first fragment", fragment(true, 0)),
        ("IPv4: middle fragment", fragment(true, 100)),
        ("IPv4: last fragment", fragment(false, 200)),
        ("IPv4: last fragment of the longest datagram", fragment(false, 0x1fff - 100)),
        ("IPv4: router alert", with_options(&[148, 4, 0, 0])),
        ("IPv4: record route", with_options(&[7, 7, 4, 0, 0, 0, 0, 0])),
        ("IPv4: source route", with_options(&[131, 7, 4, 198, 51, 100, 1, 0])),
        ("IPv4: options that make no sense", with_options(&[200, 0, 99, 250])),
        ("IPv4: 40 octets of options", with_options(&[1; 40])),
        ("IPv4: fragment with options", Ip4 { options: vec![148, 4, 0, 0], ..fragment(true, 0) }),
        ("IPv4: protocol 253", ip(protocol::EXPERIMENT, pattern(1201))),
        ("IPv4: protocol 99", ip(99, pattern(3))),
        ("IPv4: protocol 255", ip(255, pattern(64))),
        ("IPv4: GRE", ip(protocol::GRE, pattern(100))),
        ("IPv4: ESP", ip(protocol::ESP, pattern(100))),
        ("IPv4: SCTP", ip(protocol::SCTP, pattern(100))),
        ("IPv4: IPv4 inside", ip(4, quoted.clone())),
    ];
    let mut cases: Vec<Case> = table.into_iter().map(|(name, ip)| (name, ip.bytes())).collect();
    let mut reserved = small().bytes();
    reserved[6] |= 0x80;
    frames::fix_ip4_checksum(&mut reserved);
    cases.push(("IPv4: the reserved flag", reserved));
    cases
}

/// An IPv6 extension header of `units` eight octets, filled with nonsense of its own.
fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![next, units - 1, 1, usize::from(units) as u8 * 8 - 4];
    header.extend(pattern(usize::from(units) * 8 - 4));
    header
}

/// A routing header of `kind` with one address.
fn routing(next: u8, kind: u8, via: Ipv6Addr) -> Vec<u8> {
    [&[next, 2, kind, 1, 0, 0, 0, 0][..], &via.octets()].concat()
}

/// The table for IPv6.
pub fn cases6(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<Case> {
    use protocol::{DESTINATION, EXPERIMENT, FRAGMENT, HOP_BY_HOP, ICMP6, ROUTING, TCP, UDP};
    const AUTHENTICATION: u8 = 51;
    const MOBILITY: u8 = 135;
    let (s, d) = (IpAddr::V6(source), IpAddr::V6(destination));
    let ip = |next, payload| Ip6::new(source, destination, next, payload);
    let udp = |length| frames::udp(s, d, PORTS, &pattern(length));
    let sized = |length: usize| ip(UDP, udp(length - 48));
    let tcp = |flags, options: &[u8]| frames::tcp(s, d, PORTS, flags, options, &pattern(99));
    let small = || ip(UDP, udp(10));
    let before = |headers: &[Vec<u8>], rest: Vec<u8>| [headers.concat(), rest].concat();
    let fragment = |offset, more| {
        ip(FRAGMENT, before(&[fragment_header(UDP, offset, more)], udp(1000)[..800].to_vec()))
    };
    let via: Ipv6Addr = "2001:db8:9::1".parse().unwrap();
    let authentication = [vec![UDP, 4, 0, 0], pattern(20)].concat();
    let quoted = small().bytes();
    let too_big = frames::icmp(s, d, 2, 0, &[&1280u32.to_be_bytes(), &quoted[..]].concat());
    let chain = before(
        &[
            options_header(DESTINATION),
            options_header(ROUTING),
            routing(FRAGMENT, 4, via),
            fragment_header(DESTINATION, 0, false),
            options_header(UDP),
        ],
        udp(50),
    );
    let table: Vec<(&'static str, Ip6)> = vec![
        ("IPv6: a header and nothing else, 40 octets", ip(protocol::NOTHING, vec![])),
        ("IPv6: 41 octets", ip(EXPERIMENT, vec![7])),
        ("IPv6: nothing follows, and yet something does", ip(protocol::NOTHING, pattern(13))),
        ("IPv6: UDP without data", ip(UDP, udp(0))),
        ("IPv6: UDP of an odd length", ip(UDP, udp(333))),
        ("IPv6: 1280 octets", sized(1280)),
        ("IPv6: 1499 octets", sized(1499)),
        ("IPv6: 1500 octets", sized(1500)),
        ("IPv6: 1501 octets", sized(1501)),
        ("IPv6: 4097 octets", sized(4097)),
        ("IPv6: 8999 octets", sized(8999)),
        ("IPv6: 9000 octets", sized(usize::from(JUMBO))),
        ("IPv6: UDP without a checksum", ip(UDP, without_sum(udp(40)))),
        ("IPv6: UDP with a wrong checksum", ip(UDP, spoiled(udp(40), 7))),
        ("IPv6: TCP with a wrong checksum", ip(TCP, spoiled(tcp(16, &[]), 17))),
        ("IPv6: TCP SYN with options", ip(TCP, tcp(2, &[2, 4, 5, 0xa0, 1, 1, 4, 2]))),
        ("IPv6: TCP with data", ip(TCP, tcp(0x18, &[]))),
        ("IPv6: TCP with congestion echoed", ip(TCP, tcp(0x50, &[]))),
        ("IPv6: echo request", ip(ICMP6, frames::icmp(s, d, 128, 0, &pattern(60)))),
        ("IPv6: packet too big", ip(ICMP6, too_big)),
        ("IPv6: an ICMPv6 type nobody knows", ip(ICMP6, frames::icmp(s, d, 200, 9, &[1]))),
        ("IPv6: hop limit 1", Ip6 { hop_limit: 1, ..small() }),
        ("IPv6: hop limit 255", Ip6 { hop_limit: 255, ..small() }),
        ("IPv6: flow label", Ip6 { flow: 0xabcde, ..small() }),
        ("IPv6: congestion experienced", Ip6 { class: 3, ..small() }),
        ("IPv6: DSCP EF, ECN capable", Ip6 { class: 0xba, ..small() }),
        ("IPv6: hop-by-hop options", ip(HOP_BY_HOP, before(&[options_header(UDP)], udp(10)))),
        ("IPv6: long hop-by-hop options", ip(HOP_BY_HOP, before(&[extension(UDP, 9)], udp(10)))),
        ("IPv6: destination options", ip(DESTINATION, before(&[options_header(UDP)], udp(11)))),
        ("IPv6: routing header, type 0", ip(ROUTING, before(&[routing(UDP, 0, via)], udp(10)))),
        ("IPv6: routing header, type 4", ip(ROUTING, before(&[routing(UDP, 4, via)], udp(10)))),
        ("IPv6: authentication header", ip(AUTHENTICATION, before(&[authentication], udp(10)))),
        ("IPv6: mobility header", ip(MOBILITY, extension(protocol::NOTHING, 2))),
        ("IPv6: first fragment", fragment(0, true)),
        ("IPv6: middle fragment", fragment(100, true)),
        ("IPv6: last fragment", fragment(200, false)),
        ("IPv6: atomic fragment", fragment(0, false)),
        ("IPv6: a chain of five headers", ip(HOP_BY_HOP, chain)),
        ("IPv6: next header 253", ip(EXPERIMENT, pattern(1201))),
        ("IPv6: next header 99", ip(99, pattern(3))),
        ("IPv6: ESP", ip(protocol::ESP, pattern(100))),
        ("IPv6: SCTP", ip(protocol::SCTP, pattern(100))),
        ("IPv6: IPv6 inside", ip(41, quoted)),
    ];
    table.into_iter().map(|(name, ip)| (name, ip.bytes())).collect()
}

//! ICMP errors: what they quote, and when there must be none.

use super::*;
use crate::answer::errors::{Unreachable, too_big, unreachable};
use crate::datagram::parse_ip;

fn tell(datagram: &[u8], error: impl Fn(&Payload<'_>, &mut Replies) -> bool) -> Option<Vec<u8>> {
    let mut replies = Replies::new();
    let told = error(&parse_ip(datagram).unwrap(), &mut replies);
    assert_eq!(told, replies.len() == 1);
    replies.iter().next().map(<[u8]>::to_vec)
}

fn too_big_for(datagram: &[u8]) -> Option<Vec<u8>> {
    tell(datagram, |original, replies| too_big(&inch(), original, 1400, replies))
}

/// The ICMP message in `frame`, with its checksum checked and taken out.
fn message4(frame: &[u8]) -> Vec<u8> {
    let (ethernet, Payload::Ip4(ip)) = parse(frame).unwrap() else { panic!("not IPv4") };
    assert_eq!(ethernet, Ethernet { destination: GUEST, source: Mac::BASE });
    assert_eq!((ip.source(), ip.destination()), (inch().icmp_source4, OWN4));
    assert_eq!((ip.protocol(), ip.tos()), (1, 0xc0));
    let mut message = ip.payload().to_vec();
    assert_eq!(message, icmp4_message(message.clone()));
    message[2..4].fill(0);
    message
}

fn message6(frame: &[u8]) -> Vec<u8> {
    let (ethernet, Payload::Ip6(ip)) = parse(frame).unwrap() else { panic!("not IPv6") };
    assert_eq!(ethernet, Ethernet { destination: GUEST, source: Mac::BASE });
    assert_eq!((ip.source(), ip.destination()), (inch().icmp_source6, OWN6));
    let mut message = ip.upper_bytes().to_vec();
    assert_eq!(message, icmp6_message((ip.source(), OWN6), message.clone()));
    message[2..4].fill(0);
    message
}

#[test]
fn a_datagram_too_big_is_quoted_with_the_mtu_that_fits() {
    let original = ip4_with((OWN4, DNS4), 17, &[1, 1, 1, 0], &[7; 1400], |h| h[6] = 0x40);
    let message = message4(&too_big_for(&original).unwrap());
    assert_eq!(message[..8], [3, 4, 0, 0, 0, 0, 0x05, 0x78]);
    assert_eq!(message[8..], original[..576 - 28]);
    let original = udp6((OWN6, DNS6), (1, 2), &[7; 1400]);
    let message = message6(&too_big_for(&original).unwrap());
    assert_eq!(message[..8], [2, 0, 0, 0, 0, 0, 0x05, 0x78]);
    assert_eq!(message[8..], original[..1280 - 48]);
}

#[test]
fn an_unreachable_destination_is_told_by_kind_and_a_short_datagram_quoted_whole() {
    let four = udp4((OWN4, OTHER4), (1, 2), b"hello");
    let six = udp6((OWN6, OTHER6), (1, 2), b"hello");
    for (kind, code4, code6) in [(Unreachable::Network, 0, 0), (Unreachable::Host, 1, 3)] {
        let error = |original: &Payload<'_>, replies: &mut Replies| {
            unreachable(&inch(), original, kind, replies)
        };
        let head = [3, code4, 0, 0, 0, 0, 0, 0];
        assert_eq!(message4(&tell(&four, error).unwrap()), [&head, &four[..]].concat());
        let head = [1, code6, 0, 0, 0, 0, 0, 0];
        assert_eq!(message6(&tell(&six, error).unwrap()), [&head, &six[..]].concat());
    }
}

#[test]
fn there_is_no_error_about_an_icmp_error_and_one_about_a_query() {
    let told4 = |kind| too_big_for(&ip4((OWN4, DNS4), 1, &[kind, 0, 0, 0, 0, 0, 0, 0])).is_some();
    let told6 = |kind| too_big_for(&ip6((OWN6, DNS6), 58, 64, &[kind, 0, 0, 0, 0])).is_some();
    for kind in [3, 4, 5, 11, 12, 40, 255] {
        assert!(!told4(kind), "type {kind}");
    }
    for kind in [0, 8, 13, 17] {
        assert!(told4(kind), "type {kind}");
    }
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        assert!(!told6(kind), "type {kind}");
    }
    for kind in [128, 129, 139] {
        assert!(told6(kind), "type {kind}");
    }
    // The error hides behind a header.
    let hidden = [58, 0, 1, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    assert!(too_big_for(&ip6((OWN6, DNS6), 60, 64, &hidden)).is_none());
    assert!(too_big_for(&ip4((OWN4, DNS4), 1, &[])).is_none());
    assert!(too_big_for(&ip6((OWN6, DNS6), 58, 64, &[])).is_none());
}

#[test]
fn only_the_first_fragment_causes_an_error() {
    let four = |flags: [u8; 2]| {
        ip4_with((OWN4, DNS4), 17, &[], &[0; 64], |h| h[6..8].copy_from_slice(&flags))
    };
    assert!(too_big_for(&four([0x20, 0])).is_some());
    assert!(too_big_for(&four([0x20, 1])).is_none());
    assert!(too_big_for(&four([0, 9])).is_none());
    let six = |offset: [u8; 2]| {
        let payload = [&[17, 0, offset[0], offset[1], 0, 0, 0, 1][..], &[0; 64]].concat();
        ip6((OWN6, DNS6), 44, 64, &payload)
    };
    assert!(too_big_for(&six([0, 1])).is_some());
    assert!(too_big_for(&six([0, 9])).is_none());
}

#[test]
fn there_is_no_error_to_or_about_an_address_that_is_not_one_hosts() {
    for to in ["224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "240.0.0.1"] {
        assert!(too_big_for(&ip4((OWN4, to.parse().unwrap()), 17, &[0; 8])).is_none(), "{to}");
    }
    for from in [OTHER4, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST] {
        assert!(too_big_for(&ip4((from, DNS4), 17, &[0; 8])).is_none(), "{from}");
    }
    for to in [ALL_NODES, Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
        assert!(too_big_for(&ip6((OWN6, to), 17, 64, &[0; 8])).is_none(), "{to}");
    }
    for from in [OTHER6, LINK_LOCAL, Ipv6Addr::UNSPECIFIED] {
        assert!(too_big_for(&ip6((from, DNS6), 17, 64, &[0; 8])).is_none(), "{from}");
    }
    let arp = Payload::Arp(&[0; 28]);
    assert!(!too_big(&inch(), &arp, 1400, &mut Replies::new()));
    let unknown = LastInch { guest_mac: None, ..inch() };
    let original = ip4((OWN4, DNS4), 17, &[0; 8]);
    assert!(!too_big(&unknown, &parse_ip(&original).unwrap(), 1400, &mut Replies::new()));
}

//! What a guest hears to what it says, by bytes and with other implementations as the other side.
#![allow(clippy::arithmetic_side_effects)]

mod arp;
mod dhcp4;
mod dhcp6;
mod echo;
mod errors;
mod hostile;
mod ndp;
mod resolve;

use super::*;
use crate::answer::dhcp6::ALL_SERVERS;
use crate::datagram::craft::*;
use crate::datagram::parse;

/// The VM's first IPv4 address.
const OWN4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Its second.
const SECOND4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// Another VM's.
const OTHER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const DNS4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const SECOND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x20);
const DNS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x53);
/// What the guest's kernel gave itself.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe12, 0x3456);

fn inch() -> LastInch {
    let lease = |address| Lease4 { address, prefix_len: 24, router: ROUTER4 };
    LastInch {
        guest_mac: Some(GUEST),
        addresses4: vec![lease(OWN4), lease(SECOND4)],
        addresses6: vec![OWN6, SECOND6],
        dns: vec![DNS4.into(), DNS6.into()],
        search: String::new(),
        resolves: false,
        mtu: 1500,
        hostname: "web".into(),
        icmp_source4: Ipv4Addr::new(192, 0, 0, 8),
        icmp_source6: BASE6,
    }
}

/// A VM that has no address at all.
fn bare() -> LastInch {
    LastInch { addresses4: vec![], addresses6: vec![], ..inch() }
}

/// What the base makes of a frame, and the frames it sends back.
fn say(inch: &LastInch, frame: &[u8]) -> (Answer, Vec<Vec<u8>>) {
    let (ethernet, payload) = parse(frame).expect("a frame that reaches the answers");
    let mut replies = Replies::new();
    let answer = answer(inch, &ethernet, &payload, false, &mut replies);
    (answer, replies.iter().map(<[u8]>::to_vec).collect())
}

/// The one frame that comes back.
fn reply(inch: &LastInch, frame: &[u8]) -> Vec<u8> {
    let (answer, mut frames) = say(inch, frame);
    assert_eq!((answer, frames.len()), (Answer::Replied, 1));
    let frame = frames.remove(0);
    assert_eq!(parse(&frame).unwrap().0.source, Mac::BASE);
    frame
}

/// The fate of a frame that calls for no answer.
fn fate(inch: &LastInch, frame: &[u8]) -> Answer {
    let (answer, frames) = say(inch, frame);
    assert!(answer != Answer::Replied && frames.is_empty(), "{answer:?} {frames:02x?}");
    answer
}

/// Addresses and UDP payload of an answer over IPv4, its checksums and ports checked.
fn udp_reply4(frame: &[u8], ports: (u16, u16)) -> (Mac, (Ipv4Addr, Ipv4Addr), Vec<u8>) {
    let (ethernet, Payload::Ip4(ip)) = parse(frame).unwrap() else { panic!("not IPv4") };
    let addresses = (ip.source(), ip.destination());
    let payload = ip.payload()[8..].to_vec();
    let expected = udp4(addresses, ports, &payload);
    assert_eq!(ip.payload(), &expected[20..], "ports, length and checksum");
    (ethernet.destination, addresses, payload)
}

/// The same over IPv6.
fn udp_reply6(frame: &[u8], ports: (u16, u16)) -> ((Ipv6Addr, Ipv6Addr), Vec<u8>) {
    let (ethernet, Payload::Ip6(ip)) = parse(frame).unwrap() else { panic!("not IPv6") };
    assert_eq!(ethernet.destination, GUEST);
    let addresses = (ip.source(), ip.destination());
    let payload = ip.bytes()[48..].to_vec();
    assert_eq!(ip.bytes(), udp6(addresses, ports, &payload), "ports, length and checksum");
    (addresses, payload)
}

#[test]
fn transit_datagrams_are_not_the_bases_to_answer() {
    let four = |to| frame4(&udp4((OWN4, to), (1000, 2000), b"hello"));
    let six = |to| frame6(&udp6((OWN6, to), (1000, 2000), b"hello"));
    let multicast4 = Ipv4Addr::new(224, 0, 0, 251);
    let all_nodes = ALL_NODES;
    for to in [OTHER4, OWN4, multicast4, Ipv4Addr::BROADCAST, Ipv4Addr::new(169, 254, 0, 2)] {
        assert_eq!(fate(&inch(), &four(to)), Answer::NotForBase, "{to}");
    }
    for to in [OTHER6, OWN6, all_nodes, ALL_SERVERS, LINK_LOCAL] {
        assert_eq!(fate(&inch(), &six(to)), Answer::NotForBase, "{to}");
    }
}

#[test]
fn what_the_base_does_not_serve_is_dropped_by_name_and_lies_by_theirs() {
    let four = |from| frame4(&udp4((from, BASE4), (1000, 53), b"hello"));
    let six = |from| frame6(&udp6((from, BASE6), (1000, 53), b"hello"));
    let not_served = Answer::Drop(Counter::DropNotServed);
    let not_own = Answer::Drop(Counter::DropSourceNotOwn);
    assert_eq!(fate(&inch(), &four(OWN4)), not_served);
    assert_eq!(fate(&inch(), &four(OTHER4)), not_own);
    assert_eq!(fate(&inch(), &four(Ipv4Addr::UNSPECIFIED)), not_own);
    assert_eq!(fate(&inch(), &six(OWN6)), not_served);
    assert_eq!(fate(&inch(), &six(LINK_LOCAL)), not_served);
    assert_eq!(fate(&inch(), &six(OTHER6)), not_own);
    assert_eq!(fate(&inch(), &six(BASE6)), not_own);
    assert_eq!(fate(&inch(), &six(Ipv6Addr::UNSPECIFIED)), not_own);
}

#[test]
fn the_base_reassembles_nothing() {
    let fragment = ip4_with((OWN4, BASE4), 17, &[], &[0; 16], |h| h[6] = 0x20);
    assert_eq!(fate(&inch(), &frame4(&fragment)), Answer::Drop(Counter::DropNotServed));
    let fragment = [&[58, 0, 0, 1, 0, 0, 0, 7, 128][..], &[0; 15]].concat();
    let fragment = ip6((OWN6, BASE6), 44, 64, &fragment);
    assert_eq!(fate(&inch(), &frame6(&fragment)), Answer::Drop(Counter::DropNotServed));
}

#[test]
fn a_guest_whose_mac_is_not_known_yet_is_answered_where_it_spoke_from() {
    let unknown = LastInch { guest_mac: None, ..inch() };
    let echo = frame4(&ip4((OWN4, BASE4), 1, &icmp4_message(vec![8, 0, 0, 0, 0, 1, 0, 1])));
    assert_eq!(parse(&reply(&unknown, &echo)).unwrap().0.destination, GUEST);
    let known = LastInch { guest_mac: Some(Mac([2, 0, 0, 0, 0, 9])), ..inch() };
    assert_eq!(parse(&reply(&known, &echo)).unwrap().0.destination, Mac([2, 0, 0, 0, 0, 9]));
}

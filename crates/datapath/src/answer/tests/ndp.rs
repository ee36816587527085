//! Neighbour and router discovery: who gets an answer, and what it says.

use super::*;

const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const NOT_OWN: Answer = Answer::Drop(Counter::DropSourceNotOwn);
const MALFORMED: Answer = Answer::Drop(Counter::DropAnswerMalformed);
const LAST_INCH: Answer = Answer::Drop(Counter::DropLastInch);

/// The source link-layer address option of the guest.
const SOURCE_MAC: [u8; 8] = [1, 1, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

fn group_of(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let [low, high] = [u16::from_be_bytes([b, c]), 0xff00 | u16::from(a)];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

fn solicitation(target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), options].concat()
}

fn ask(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let options: &[u8] = if source.is_unspecified() { &[] } else { &SOURCE_MAC };
    frame6(&icmp6((source, group_of(target)), 255, solicitation(target, options)))
}

/// Destination, flags and target of the neighbour advertisement in `frame`.
fn advert(frame: &[u8]) -> (Mac, Ipv6Addr, u8, Ipv6Addr) {
    let (ethernet, Payload::Ip6(ip)) = parse(frame).unwrap() else { panic!("not IPv6") };
    assert_eq!((ip.hop_limit(), ip.upper().protocol), (255, 58));
    let message = ip.upper_bytes();
    assert_eq!(message, icmp6_message((ip.source(), ip.destination()), message.to_vec()));
    let target = Ipv6Addr::from(*message[8..].first_chunk::<16>().unwrap());
    assert_eq!(ip.source(), target);
    assert_eq!(message[..2], [136, 0]);
    assert_eq!(message[24..], [2, 1, 0x02, 0x69, 0x70, 0x76, 0x00, 0x01]);
    (ethernet.destination, ip.destination(), message[4], target)
}

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

#[test]
fn every_solicitation_for_a_foreign_address_is_answered_with_the_bases_mac() {
    for source in [OWN6, SECOND6, LINK_LOCAL] {
        for target in [OTHER6, "2001:db8:99::1".parse().unwrap()] {
            let flags = SOLICITED | OVERRIDE;
            let expected = (GUEST, source, flags, target);
            assert_eq!(advert(&reply(&inch(), &ask(source, target))), expected);
        }
        let expected = (GUEST, source, ROUTER | SOLICITED | OVERRIDE, BASE6);
        assert_eq!(advert(&reply(&inch(), &ask(source, BASE6))), expected);
    }
}

#[test]
fn a_duplicate_check_finds_every_address_taken_but_ones_own_and_link_local_ones() {
    let all_nodes = (Mac([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES);
    for (target, flags) in [(OTHER6, OVERRIDE), (BASE6, OVERRIDE | ROUTER)] {
        let expected = (all_nodes.0, all_nodes.1, flags, target);
        assert_eq!(advert(&reply(&inch(), &ask(NOBODY, target))), expected);
        assert_eq!(advert(&reply(&bare(), &ask(NOBODY, target))), expected);
    }
    for target in [OWN6, SECOND6, LINK_LOCAL] {
        assert_eq!(fate(&inch(), &ask(NOBODY, target)), Answer::Silent);
        assert_eq!(fate(&inch(), &ask(LINK_LOCAL, target)), Answer::Silent);
    }
    // An address that a guest without one has made up itself.
    assert_eq!(advert(&reply(&bare(), &ask(NOBODY, OWN6))).3, OWN6);
}

#[test]
fn a_check_for_reachability_by_unicast_is_answered_too() {
    let unicast = frame6(&icmp6((OWN6, OTHER6), 255, solicitation(OTHER6, &[])));
    assert_eq!(advert(&reply(&inch(), &unicast)).3, OTHER6);
}

#[test]
fn discovery_from_an_address_that_is_not_the_vms_is_dropped() {
    for source in [OTHER6, BASE6, DNS6] {
        assert_eq!(fate(&inch(), &ask(source, DNS6)), NOT_OWN);
        let router = icmp6((source, ALL_ROUTERS), 255, vec![133, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fate(&inch(), &frame6(&router)), NOT_OWN);
    }
}

#[test]
fn a_solicitation_that_breaks_a_rule_of_rfc_4861_is_dropped() {
    let addresses = (OWN6, group_of(OTHER6));
    let good = solicitation(OTHER6, &SOURCE_MAC);
    assert_eq!(fate(&inch(), &frame6(&icmp6(addresses, 254, good.clone()))), MALFORMED);
    for (what, bad) in [
        ("code", [&[135, 1][..], &good[2..]].concat()),
        ("length", good[..23].to_vec()),
        ("empty option", [&good[..24], &[14, 0, 0, 0, 0, 0, 0, 0]].concat()),
        ("cut option", [&good[..24], &[14, 2, 0, 0, 0, 0, 0, 0]].concat()),
        ("group as target", solicitation(group_of(OTHER6), &[])),
    ] {
        assert_eq!(fate(&inch(), &frame6(&icmp6(addresses, 255, bad))), MALFORMED, "{what}");
    }
    let mut checksum = icmp6(addresses, 255, good);
    checksum[42] ^= 1;
    assert_eq!(fate(&inch(), &frame6(&checksum)), MALFORMED);
    // A duplicate check goes to the solicited-node group and names no MAC.
    let check =
        |to, options: &[u8]| frame6(&icmp6((NOBODY, to), 255, solicitation(OTHER6, options)));
    assert_eq!(fate(&inch(), &check(group_of(OTHER6), &SOURCE_MAC)), MALFORMED);
    assert_eq!(fate(&inch(), &check(ALL_NODES, &[])), MALFORMED);
}

#[test]
fn a_checksum_left_to_offload_is_not_there_to_be_verified() {
    let mut datagram = icmp6((OWN6, group_of(OTHER6)), 255, solicitation(OTHER6, &[]));
    datagram[42] ^= 1;
    let frame = frame6(&datagram);
    let (ethernet, payload) = parse(&frame).unwrap();
    let mut replies = Replies::new();
    assert_eq!(answer(&inch(), &ethernet, &payload, true, &mut replies), Answer::Replied);
}

#[test]
fn an_unknown_option_is_no_reason_for_silence() {
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6]; // RFC 7527, what Linux adds to its duplicate checks
    let check = icmp6((NOBODY, group_of(OTHER6)), 255, solicitation(OTHER6, &nonce));
    assert_eq!(advert(&reply(&inch(), &frame6(&check))).3, OTHER6);
}

#[test]
fn targets_that_nobody_can_have_get_silence() {
    for target in [NOBODY, Ipv6Addr::LOCALHOST] {
        assert_eq!(fate(&inch(), &ask(OWN6, target)), Answer::Silent);
    }
}

#[test]
fn a_guest_is_no_router_whatever_it_says() {
    for kind in [134, 137] {
        for to in [ALL_NODES, BASE6, OTHER6] {
            for hop_limit in [1, 255] {
                let message = icmp6((LINK_LOCAL, to), hop_limit, vec![kind; 48]);
                assert_eq!(fate(&inch(), &frame6(&message)), LAST_INCH);
            }
        }
    }
}

#[test]
fn a_guest_may_advertise_its_own_addresses_and_no_others() {
    let says = |source, to, target: Ipv6Addr| {
        let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets()].concat();
        fate(&inch(), &frame6(&icmp6((source, to), 255, message)))
    };
    assert_eq!(says(OWN6, ALL_NODES, OWN6), Answer::Silent);
    assert_eq!(says(LINK_LOCAL, ALL_NODES, LINK_LOCAL), Answer::Silent);
    assert_eq!(says(OWN6, BASE6, OWN6), Answer::Silent);
    assert_eq!(says(OWN6, ALL_NODES, OTHER6), NOT_OWN);
    assert_eq!(says(LINK_LOCAL, ALL_NODES, BASE6), NOT_OWN);
    assert_eq!(says(OTHER6, ALL_NODES, OWN6), NOT_OWN);
    assert_eq!(says(OWN6, OTHER6, OWN6), LAST_INCH);
}

#[test]
fn fragmented_discovery_is_dropped_and_hidden_discovery_is_found() {
    let message = icmp6_message((OWN6, OTHER6), solicitation(OTHER6, &[]));
    for more in [0, 1] {
        let payload = [&[58, 0, 0, more, 0, 0, 0, 9][..], &message].concat();
        let datagram = ip6((OWN6, OTHER6), 44, 255, &payload);
        let expected = Answer::Drop(Counter::DropNdpFragmented);
        assert_eq!(fate(&inch(), &frame6(&datagram)), expected);
    }
    let hidden = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
    let datagram = ip6((OWN6, OTHER6), 0, 255, &hidden);
    assert_eq!(advert(&reply(&inch(), &frame6(&datagram))).3, OTHER6);
}

fn router_solicitation(source: Ipv6Addr, to: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let message = [&[133, 0, 0, 0, 0, 0, 0, 0][..], options].concat();
    frame6(&icmp6((source, to), 255, message))
}

/// Destination and message of the router advertisement in `frame`.
fn router_advert(frame: &[u8]) -> (Mac, Ipv6Addr, Vec<u8>) {
    let (ethernet, Payload::Ip6(ip)) = parse(frame).unwrap() else { panic!("not IPv6") };
    assert_eq!((ip.source(), ip.hop_limit()), (BASE6, 255));
    let mut message = ip.upper_bytes().to_vec();
    assert_eq!(message, icmp6_message((BASE6, ip.destination()), message.clone()));
    message[2..4].fill(0);
    (ethernet.destination, ip.destination(), message)
}

#[test]
fn a_router_solicitation_is_told_router_mtu_and_name_servers_and_no_prefix() {
    let (mac, to, message) =
        router_advert(&reply(&inch(), &router_solicitation(LINK_LOCAL, ALL_ROUTERS, &SOURCE_MAC)));
    assert_eq!((mac, to), (GUEST, LINK_LOCAL));
    #[rustfmt::skip]
    let expected = [
        134, 0, 0, 0, 64, 0xc0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, // managed, other, 9000 s
        1, 1, 0x02, 0x69, 0x70, 0x76, 0x00, 0x01,
        5, 1, 0, 0, 0, 0, 0x05, 0xdc,
        25, 3, 0, 0, 0, 0, 0x23, 0x28,
        0x20, 0x01, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53,
    ];
    assert_eq!(message, expected);
}

#[test]
fn the_search_domain_is_advertised_behind_the_name_servers() {
    let ask = router_solicitation(LINK_LOCAL, ALL_ROUTERS, &[]);
    let plain = router_advert(&reply(&inch(), &ask)).2;
    let named = LastInch { search: "lan".into(), ..inch() };
    let option = [31, 2, 0, 0, 0, 0, 0x23, 0x28, 3, b'l', b'a', b'n', 0, 0, 0, 0];
    assert_eq!(router_advert(&reply(&named, &ask)).2, [&plain[..], &option].concat());
}

#[test]
fn a_guest_without_any_address_yet_hears_the_advertisement_by_multicast() {
    let (mac, to, message) =
        router_advert(&reply(&inch(), &router_solicitation(NOBODY, ALL_ROUTERS, &[])));
    assert_eq!((mac, to), (Mac([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES));
    let mut replies = Replies::new();
    assert!(advertise(&inch(), &mut replies));
    let unasked = replies.iter().next().unwrap();
    assert_eq!(router_advert(unasked), (mac, to, message));
}

#[test]
fn options_without_content_are_left_out_of_an_advertisement() {
    let plain = LastInch { dns: vec![DNS4.into()], mtu: 1279, ..inch() };
    let (_, _, message) =
        router_advert(&reply(&plain, &router_solicitation(LINK_LOCAL, BASE6, &[])));
    assert_eq!(message.len(), 16 + 8);
    let many = LastInch { dns: vec![DNS6.into(); 20], ..inch() };
    let (_, _, message) =
        router_advert(&reply(&many, &router_solicitation(LINK_LOCAL, ALL_ROUTERS, &[])));
    assert_eq!(message.len(), 16 + 8 + 8 + 8 + 8 * 16);
    assert_eq!(message[33], 17);
}

#[test]
fn a_vm_without_ip6_addresses_is_told_of_no_router() {
    let ask = router_solicitation(LINK_LOCAL, ALL_ROUTERS, &[]);
    assert_eq!(fate(&bare(), &ask), Answer::Silent);
    assert!(!advertise(&bare(), &mut Replies::new()));
}

#[test]
fn a_router_solicitation_that_breaks_a_rule_is_dropped() {
    let with_mac = router_solicitation(NOBODY, ALL_ROUTERS, &SOURCE_MAC);
    assert_eq!(fate(&inch(), &with_mac), MALFORMED);
    let near = icmp6((LINK_LOCAL, ALL_ROUTERS), 254, vec![133, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fate(&inch(), &frame6(&near)), MALFORMED);
    let crossing = router_solicitation(OWN6, OTHER6, &[]);
    assert_eq!(fate(&inch(), &crossing), LAST_INCH);
}

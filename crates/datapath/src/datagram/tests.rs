//! What the views accept, what they refuse and by which name.
#![allow(clippy::arithmetic_side_effects)]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::craft::*;
use super::*;

const A4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);

fn refused(frame: &[u8]) -> Counter {
    parse(frame).map(|_| ()).unwrap_err()
}

fn refused4(change: impl FnOnce(&mut Vec<u8>)) -> Counter {
    let mut datagram = ip4((A4, B4), 17, &[0; 12]);
    change(&mut datagram);
    refused(&frame4(&datagram))
}

fn view6(frame: &[u8]) -> Ip6<'_> {
    match views(frame).1 {
        Payload::Ip6(ip) => ip,
        other => panic!("not IPv6: {other:?}"),
    }
}

fn crossing(frame: &[u8]) -> Result<(), Counter> {
    last_inch_only(&parse(frame)?.1)
}

/// An extension header of `units` times eight octets.
fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut header = vec![0; usize::from(units) * 8];
    (header[0], header[1]) = (next, units - 1);
    header
}

fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let word = (offset | u16::from(more)).to_be_bytes();
    vec![next, 0, word[0], word[1], 0xab, 0xcd, 0xef, 0x01]
}

#[test]
fn an_ethernet_header_tells_who_and_what() {
    let bytes = frame(Mac::BROADCAST, ethertype::ARP, &[1, 2, 3]);
    let (ethernet, payload) = views(&bytes);
    assert_eq!(ethernet, Ethernet { destination: Mac::BROADCAST, source: GUEST });
    assert!(matches!(payload, Payload::Arp([1, 2, 3])));
}

#[test]
fn frames_that_carry_no_datagram_are_dropped_by_name() {
    assert_eq!(refused(&[0; 13]), Counter::DropFrameLength);
    assert_eq!(refused(&vec![0; MAX_FRAME + 1]), Counter::DropFrameLength);
    for (kind, name) in [
        (0x8100, Counter::DropVlan),
        (0x88a8, Counter::DropVlan),
        (0x9100, Counter::DropVlan),
        (0x88cc, Counter::DropEthertype), // LLDP
        (0x0026, Counter::DropEthertype), // 802.3 length, spanning tree
    ] {
        assert_eq!(refused(&frame(Mac::BASE, kind, &[0; 60])), name, "{kind:04x}");
    }
}

#[test]
fn an_ip4_header_is_read_field_by_field() {
    let datagram = ip4_with((A4, B4), 132, &[1, 1, 1, 0], b"abc", |h| {
        h[1] = 0xb9;
        h[4..9].copy_from_slice(&[0x12, 0x34, 0x40, 0x02, 9]);
    });
    let padded = [&datagram[..], &[0xee; 30]].concat();
    let frame = frame4(&padded);
    let Payload::Ip4(ip) = views(&frame).1 else { panic!() };
    assert_eq!((ip.source(), ip.destination()), (A4, B4));
    assert_eq!((ip.protocol(), ip.ttl(), ip.tos()), (132, 9, 0xb9));
    assert_eq!((ip.identification(), ip.header_len()), (0x1234, 24));
    assert!(ip.dont_fragment() && !ip.more_fragments() && ip.is_fragment());
    assert_eq!((ip.fragment_offset(), ip.upper()), (16, None));
    assert_eq!(ip.options(), [1, 1, 1, 0]);
    assert_eq!((ip.bytes(), ip.payload()), (&datagram[..], &b"abc"[..]));
}

#[test]
fn a_malformed_ip4_header_is_dropped_by_name() {
    assert_eq!(refused4(|d| d.truncate(19)), Counter::DropIp4Truncated);
    assert_eq!(refused4(|d| d[0] = 0x65), Counter::DropIp4Version);
    assert_eq!(refused4(|d| d[0] = 0x44), Counter::DropIp4HeaderLength);
    assert_eq!(refused4(|d| d[0] = 0x4f), Counter::DropIp4HeaderLength);
    assert_eq!(refused4(|d| d[3] = 19), Counter::DropIp4TotalLength);
    assert_eq!(refused4(|d| d[3] = 33), Counter::DropIp4TotalLength);
    assert_eq!(refused4(|d| d[11] ^= 1), Counter::DropIp4Checksum);
    assert_eq!(refused4(|d| d[8] -= 1), Counter::DropIp4Checksum);
    // The header is as long as the frame, and the total length ends inside its options.
    assert_eq!(refused4(|d| (d[0], d[3]) = (0x47, 24)), Counter::DropIp4TotalLength);
}

#[test]
fn an_ip6_header_is_read_field_by_field() {
    let mut datagram = ip6((A6, B6), 253, 3, b"abcde");
    (datagram[0], datagram[1]) = (0x6b, 0x9f);
    let padded = [&datagram[..], &[0xee; 30]].concat();
    let frame = frame6(&padded);
    let ip = view6(&frame);
    assert_eq!((ip.source(), ip.destination()), (A6, B6));
    assert_eq!((ip.hop_limit(), ip.traffic_class(), ip.next_header()), (3, 0xb9, 253));
    assert_eq!(ip.upper(), Upper { protocol: 253, offset: 40, fragment: None });
    assert_eq!((ip.bytes(), ip.upper_bytes()), (&datagram[..], &b"abcde"[..]));
}

#[test]
fn a_malformed_ip6_header_is_dropped_by_name() {
    let datagram = ip6((A6, B6), 17, 64, &[0; 12]);
    assert_eq!(refused(&frame6(&datagram[..39])), Counter::DropIp6Truncated);
    assert_eq!(refused(&frame6(&datagram[..51])), Counter::DropIp6PayloadLength);
    let mut version = datagram;
    version[0] = 0x40;
    assert_eq!(refused(&frame6(&version)), Counter::DropIp6Version);
    let mut jumbogram = ip6((A6, B6), 0, 64, &[59, 0, 0xc2, 4, 0, 1, 0, 0]);
    jumbogram[4..6].fill(0);
    assert_eq!(refused(&frame6(&jumbogram)), Counter::DropIp6PayloadLength);
}

#[test]
fn a_datagram_of_the_host_is_told_by_its_version() {
    let four = ip4((A4, B4), 1, b"x");
    let six = ip6((A6, B6), 58, 1, b"x");
    assert!(matches!(parse_ip(&four), Ok(Payload::Ip4(_))));
    assert!(matches!(parse_ip(&six), Ok(Payload::Ip6(_))));
    assert_eq!(parse_ip(&[]).unwrap_err(), Counter::DropFrameLength);
    assert_eq!(parse_ip(&[0x50; 60]).unwrap_err(), Counter::DropEthertype);
}

#[test]
fn every_extension_header_is_walked_and_esp_ends_the_chain() {
    use protocol::*;
    for kind in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, MOBILITY, HIP, SHIM6] {
        let bytes = frame6(&ip6((A6, B6), kind, 64, &[extension(17, 3), vec![1; 8]].concat()));
        assert_eq!(view6(&bytes).upper(), Upper { protocol: 17, offset: 64, fragment: None });
    }
    let mut authentication = vec![0; 24];
    authentication[..2].copy_from_slice(&[6, 4]); // (4 + 2) times four octets
    let bytes = frame6(&ip6((A6, B6), AUTHENTICATION, 64, &authentication));
    assert_eq!(view6(&bytes).upper(), Upper { protocol: 6, offset: 64, fragment: None });
    let bytes = frame6(&ip6((A6, B6), ESP, 64, &[HOP_BY_HOP; 8]));
    assert_eq!(view6(&bytes).upper(), Upper { protocol: ESP, offset: 40, fragment: None });
}

#[test]
fn a_chain_that_is_cut_short_or_too_long_is_dropped_by_name() {
    let cut = ip6((A6, B6), 60, 64, &extension(17, 3)[..16]);
    assert_eq!(refused(&frame6(&cut)), Counter::DropIp6HeaderChain);
    let chain = |n: usize| {
        let mut all = [vec![extension(60, 1); n - 1], vec![extension(17, 1)]].concat().concat();
        all.extend([0; 8]);
        frame6(&ip6((A6, B6), 60, 64, &all))
    };
    assert_eq!(view6(&chain(MAX_EXTENSIONS)).upper().protocol, 17);
    assert_eq!(refused(&chain(MAX_EXTENSIONS + 1)), Counter::DropIp6HeaderChain);
}

#[test]
fn a_fragment_header_is_read_and_the_walk_ends_at_a_later_fragment() {
    let later = [fragment_header(60, 1448, true), vec![0xff; 8]].concat();
    let bytes = frame6(&ip6((A6, B6), 44, 64, &later));
    let upper = view6(&bytes).upper();
    assert_eq!((upper.protocol, upper.offset), (60, 48));
    assert!(upper.is_later_fragment() && upper.is_fragmented());
    let fragment = upper.fragment.unwrap();
    assert_eq!((fragment.offset, fragment.more), (1448, true));
    assert_eq!(fragment.identification, 0xabcd_ef01);
    let atomic = [fragment_header(17, 0, false), vec![0; 8]].concat();
    let bytes = frame6(&ip6((A6, B6), 44, 64, &atomic));
    let upper = view6(&bytes).upper();
    assert!(!upper.is_later_fragment() && !upper.is_fragmented());
    assert_eq!((upper.protocol, upper.offset), (17, 48));
}

#[test]
fn of_two_fragment_headers_the_one_that_cuts_off_most_counts() {
    for (outer, inner, later, fragmented) in [
        ((0, false), (8, false), true, true),
        ((0, true), (8, false), true, true),
        ((0, true), (0, false), false, true),
        ((0, false), (0, true), false, true),
        ((0, false), (0, false), false, false),
    ] {
        let payload = [
            fragment_header(44, outer.0, outer.1),
            fragment_header(58, inner.0, inner.1),
            vec![128, 0, 0, 0, 0, 0, 0, 0],
        ];
        let bytes = frame6(&ip6((A6, B6), 44, 64, &payload.concat()));
        let upper = view6(&bytes).upper();
        assert_eq!(upper.is_later_fragment(), later, "{outer:?} {inner:?}");
        assert_eq!(upper.is_fragmented(), fragmented, "{outer:?} {inner:?}");
    }
}

#[test]
fn a_first_fragment_without_its_upper_layer_header_is_dropped() {
    use protocol::*;
    let first = |next, rest: &[u8]| {
        frame6(&ip6((A6, B6), 44, 64, &[&fragment_header(next, 0, true), rest].concat()))
    };
    let name = Counter::DropFirstFragment;
    assert_eq!(refused(&first(UDP, &[0; 7])), name);
    assert_eq!(refused(&first(ICMP6, &[128, 0, 0])), name);
    assert_eq!(refused(&first(TCP, &[0; 19])), name);
    assert_eq!(refused(&first(253, &[])), name);
    // The chain itself goes on where this fragment ends.
    assert_eq!(refused(&first(DESTINATION_OPTIONS, &[])), name);
    assert_eq!(refused(&first(DESTINATION_OPTIONS, &extension(58, 4)[..24])), name);
    // TCP options belong to the header.
    let mut tcp = [0; 24];
    tcp[12] = 0x70;
    assert_eq!(refused(&first(TCP, &tcp)), name);
    tcp[12] = 0x60;
    assert!(parse(&first(TCP, &tcp)).is_ok());
    assert!(parse(&first(UDP, &[0; 8])).is_ok());
    assert!(parse(&first(NO_NEXT, &[])).is_ok());
    assert!(parse(&first(DESTINATION_OPTIONS, &[extension(253, 1), vec![0]].concat())).is_ok());
}

#[test]
fn a_tiny_first_fragment_of_ip4_is_dropped_and_a_later_one_passes() {
    let datagram = |protocol, offset: u8, more: bool, len| {
        let flags = if more { 0x20 } else { 0 };
        frame4(&ip4_with((A4, B4), protocol, &[], &vec![0; len], |h| {
            h[6..8].copy_from_slice(&[flags, offset]);
        }))
    };
    assert_eq!(refused(&datagram(6, 0, true, 16)), Counter::DropFirstFragment);
    assert_eq!(refused(&datagram(17, 0, true, 0)), Counter::DropFirstFragment);
    assert_eq!(refused(&datagram(1, 0, true, 7)), Counter::DropFirstFragment);
    assert!(parse(&datagram(6, 0, true, 24)).is_ok());
    assert!(parse(&datagram(6, 1, false, 3)).is_ok());
    // A whole datagram with half a header is the receiver's to judge.
    assert!(parse(&datagram(6, 0, false, 3)).is_ok());
}

#[test]
fn discovery_never_crosses_behind_whatever_chain_and_hop_limit() {
    let chains: [(u8, Vec<u8>, Counter); 6] = [
        (58, vec![], Counter::DropLastInch),
        (0, extension(58, 1), Counter::DropLastInch),
        (60, [extension(43, 2), extension(58, 1)].concat(), Counter::DropLastInch),
        (44, fragment_header(58, 0, false), Counter::DropNdpFragmented),
        (44, fragment_header(58, 0, true), Counter::DropNdpFragmented),
        (0, [extension(44, 1), fragment_header(58, 0, true)].concat(), Counter::DropNdpFragmented),
    ];
    for (next, chain, name) in chains {
        for hop_limit in [0, 1, 64, 255] {
            for kind in 128..=140u8 {
                let message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
                let payload = [chain.clone(), message].concat();
                let fate = crossing(&frame6(&ip6((A6, B6), next, hop_limit, &payload)));
                let expected = if (133..=137).contains(&kind) { Err(name) } else { Ok(()) };
                assert_eq!(fate, expected, "type {kind} behind {chain:?}");
            }
        }
    }
}

#[test]
fn later_fragments_and_cut_icmp_messages_cross() {
    let later = [fragment_header(58, 8, false), vec![135; 8]].concat();
    assert_eq!(crossing(&frame6(&ip6((A6, B6), 44, 64, &later))), Ok(()));
    assert_eq!(crossing(&frame6(&ip6((A6, B6), 58, 64, &[]))), Ok(()));
}

#[test]
fn arp_and_what_is_sent_to_a_dhcp_client_never_cross() {
    assert_eq!(crossing(&frame(Mac::BASE, ethertype::ARP, &[0; 28])), Err(Counter::DropLastInch));
    let reply = Err(Counter::DropDhcpReply);
    for source in [67, 1234] {
        assert_eq!(crossing(&frame4(&udp4((A4, B4), (source, 68), b"x"))), reply);
    }
    for source in [547, 1234] {
        assert_eq!(crossing(&frame6(&udp6((A6, B6), (source, 546), b"x"))), reply);
        let udp = udp6((A6, B6), (source, 546), b"x");
        let hidden = [&extension(17, 1), &udp[40..]].concat();
        assert_eq!(crossing(&frame6(&ip6((A6, B6), 60, 64, &hidden))), reply);
    }
    assert_eq!(crossing(&frame4(&udp4((A4, B4), (68, 67), b"x"))), Ok(()));
    assert_eq!(crossing(&frame6(&udp6((A6, B6), (546, 547), b"x"))), Ok(()));
    // Not UDP, and not the first fragment.
    assert_eq!(crossing(&frame4(&ip4((A4, B4), 6, &[0, 67, 0, 68]))), Ok(()));
    let later = ip4_with((A4, B4), 17, &[], &[0, 67, 0, 68], |h| h[7] = 1);
    assert_eq!(crossing(&frame4(&later)), Ok(()));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = crossing(&bytes);
        if let Ok(payload) = parse_ip(&bytes) {
            let _ = last_inch_only(&payload);
        }
    }

    /// A changed datagram is refused, or its view lies within the frame and agrees with etherparse.
    #[test]
    fn a_mutated_ip4_datagram_is_refused_or_agrees_with_etherparse(
        options in prop::collection::vec(any::<u8>(), 0..40),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        at in 0usize..10, value: u8, frag: u16,
    ) {
        let options = &options[..options.len() / 4 * 4];
        let datagram = ip4_with((A4, B4), 17, options, &payload, |h| {
            h[6..8].copy_from_slice(&frag.to_be_bytes());
            h[at] = value;
        });
        let frame = frame4(&datagram);
        if let Ok((_, Payload::Ip4(ip))) = parse(&frame) {
            let (other, rest) = etherparse::Ipv4Header::from_slice(&datagram).unwrap();
            prop_assert_eq!(ip.source().octets(), other.source);
            prop_assert_eq!(ip.header_len(), other.header_len());
            prop_assert_eq!(ip.fragment_offset(), other.fragment_offset.value() << 3);
            prop_assert_eq!(ip.more_fragments(), other.more_fragments);
            prop_assert_eq!(ip.options(), &other.options[..]);
            prop_assert_eq!(ip.protocol(), other.protocol.0);
            prop_assert_eq!(ip.payload(), &rest[..ip.payload().len()]);
        }
    }

    /// The walk agrees with a slow model that follows the chain over a list of headers.
    #[test]
    fn any_chain_ends_where_a_model_says(
        kinds in prop::collection::vec((0usize..8, 1u8..4, 0u16..2, any::<bool>()), 0..20),
        cut in 0usize..8,
    ) {
        use protocol::*;
        let table =
            [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, MOBILITY, HIP, SHIM6, AUTHENTICATION, FRAGMENT];
        let types: Vec<u8> = kinds.iter().map(|k| table[k.0]).chain([UDP]).collect();
        let mut payload = Vec::new();
        // Model: (protocol, offset), whether a later or any real fragment header was met.
        let (mut model, mut later, mut first) = (None, false, false);
        for (i, &(_, units, offset, more)) in kinds.iter().enumerate() {
            let next = types[i + 1];
            payload.extend(match types[i] {
                FRAGMENT => fragment_header(next, offset * 8, more),
                AUTHENTICATION => {
                    let mut header = extension(next, units);
                    header[1] = units * 2 - 2;
                    header
                }
                _ => extension(next, units),
            });
            if types[i] == FRAGMENT && !later && i < MAX_EXTENSIONS {
                first |= more && offset == 0;
                if offset != 0 {
                    later = true;
                    model = Some((next, 40 + payload.len()));
                }
            }
        }
        let whole = payload.len();
        payload.extend([0; 8]);
        payload.truncate(payload.len() - cut);
        let bytes = frame6(&ip6((A6, B6), types[0], 64, &payload));
        let result = parse(&bytes);
        if let Some(end) = model {
            let upper = view6(&bytes).upper();
            prop_assert_eq!((upper.protocol, upper.offset), end);
            prop_assert!(upper.is_later_fragment());
        } else if kinds.len() > MAX_EXTENSIONS {
            prop_assert_eq!(result.unwrap_err(), Counter::DropIp6HeaderChain);
        } else if first && cut > 0 {
            prop_assert_eq!(result.unwrap_err(), Counter::DropFirstFragment);
        } else {
            let upper = view6(&bytes).upper();
            prop_assert_eq!((upper.protocol, upper.offset), (UDP, 40 + whole));
            prop_assert_eq!(upper.is_fragmented(), first);
        }
    }
}

//! What a sender may leave to offload, and how it goes on to receivers that can do less.

#![allow(clippy::arithmetic_side_effects)]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::checksum::{pseudo4, pseudo6};
use crate::datagram::craft::{frame4, frame6, icmp6, ip4, ip4_with, ip6, udp4, udp6};
use crate::datagram::{ETHERNET_LEN, ethertype, parse, parse_ip};

const A4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
const ALL: Sender = Sender::Guest(Abilities::ALL);

fn tcp(payload: usize) -> Vec<u8> {
    let mut tcp = vec![0; 20 + payload];
    tcp[TCP_DATA_OFFSET] = 0x50;
    tcp
}

fn needs(start: usize, offset: u16) -> NetHeader {
    NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        csum_start: start as u16,
        csum_offset: offset,
        ..NetHeader::default()
    }
}

fn large(gso_type: u8, start: usize, size: u16) -> NetHeader {
    NetHeader { gso_type, gso_size: size, hdr_len: 0xdead, ..needs(start, 16) }
}

fn check(header: NetHeader, frame: &[u8], sender: Sender) -> Result<Offload, Counter> {
    Offload::check(&header, ETHERNET_LEN, &parse(frame).unwrap().1, sender)
}

const CHECKSUM: Result<Offload, Counter> = Err(Counter::DropOffloadChecksum);
const SEGMENTATION: Result<Offload, Counter> = Err(Counter::DropOffloadSegmentation);
const NEGOTIATED: Result<Offload, Counter> = Err(Counter::DropOffloadNotNegotiated);

#[test]
fn an_open_checksum_counts_only_where_the_protocol_has_one() {
    let extension = [6, 0, 1, 4, 0, 0, 0, 0];
    for (frame, start, offset) in [
        (frame4(&ip4((A4, B4), 6, &tcp(3))), 34, 16),
        (frame4(&ip4_with((A4, B4), 6, &[1; 8], &tcp(3), |_| {})), 42, 16),
        (frame4(&udp4((A4, B4), (5, 7), b"x")), 34, 6),
        (frame6(&ip6((A6, B6), 6, 64, &tcp(3))), 54, 16),
        (frame6(&ip6((A6, B6), 60, 64, &[&extension[..], &tcp(3)].concat())), 62, 16),
        (frame6(&udp6((A6, B6), (5, 7), b"x")), 54, 6),
        (frame6(&icmp6((A6, B6), 64, vec![128, 0, 0, 0, 1, 2, 3, 4])), 54, 2),
    ] {
        let right = Checksum::Partial { start: start as u16 - 14, offset };
        let offload = check(needs(start, offset), &frame, ALL).unwrap();
        assert_eq!(offload, Offload { checksum: right, segmentation: None });
        for wrong in [0, 13, 14, start - 1, start + 1, start + 2, 65_535] {
            assert_eq!(check(needs(wrong, offset), &frame, ALL), CHECKSUM, "start {wrong}");
        }
        for wrong in (0..20).chain([0xffff]).filter(|&o| o != offset) {
            assert_eq!(check(needs(start, wrong), &frame, ALL), CHECKSUM, "offset {wrong}");
        }
    }
}

#[test]
fn a_header_without_room_for_its_checksum_has_none_left_open() {
    let frame = frame4(&ip4((A4, B4), 6, &[0; 17]));
    assert_eq!(check(needs(34, 16), &frame, ALL), CHECKSUM);
    let frame = frame4(&ip4((A4, B4), 6, &[0; 18]));
    assert!(check(needs(34, 16), &frame, ALL).is_ok());
}

#[test]
fn other_protocols_fragments_and_arp_leave_nothing_open() {
    let fragment = |place: [u8; 2]| {
        frame4(&ip4_with((A4, B4), 17, &[], &[0; 24], |h| h[6..8].copy_from_slice(&place)))
    };
    let fragment6 = |more: u8| {
        let payload = [&[17, 0, 0, more, 0, 0, 0, 1], &[0; 24][..]].concat();
        frame6(&ip6((A6, B6), 44, 64, &payload))
    };
    let mut arp = vec![0xff; 12];
    arp.extend(ethertype::ARP.to_be_bytes());
    arp.extend([0; 46]);
    for (frame, start) in [
        (fragment([0x20, 0]), 34),
        (fragment([0, 1]), 34),
        (fragment6(1), 62),
        (fragment6(0), 62),
        (frame4(&ip4((A4, B4), 132, &[0; 40])), 34),
        (frame4(&ip4((A4, B4), 58, &[0; 40])), 34),
        (arp, 34),
    ] {
        for offset in [2, 6, 8, 16] {
            assert_eq!(check(needs(start, offset), &frame, ALL), CHECKSUM);
        }
        let mut header = large(NetHeader::GSO_TCPV4, start, 100);
        header.flags = 0;
        assert_eq!(check(header, &frame, ALL), SEGMENTATION);
    }
}

#[test]
fn a_large_send_is_described_by_its_bytes_and_not_by_its_sender() {
    let mut send = tcp(3000);
    send[TCP_DATA_OFFSET] = 0x80;
    send[TCP_FLAGS] = TCP_CWR;
    let frame = frame4(&ip4_with((A4, B4), 6, &[1; 4], &send, |_| {}));
    let described = Segmentation {
        kind: Kind::Tcp4,
        size: 1448,
        transport: 24,
        header_len: 24 + 32,
        ecn: false,
    };
    let header = large(NetHeader::GSO_TCPV4, 38, 1448);
    let offload = check(header, &frame, ALL).unwrap();
    assert_eq!(offload.segmentation, Some(described));
    assert_eq!(described.segment_len(), 1504);
    let marked = large(NetHeader::GSO_TCPV4 | NetHeader::GSO_ECN, 38, 1448);
    let offload = check(marked, &frame, ALL).unwrap();
    assert_eq!(offload.segmentation, Some(Segmentation { ecn: true, ..described }));

    let frame = frame6(&ip6((A6, B6), 6, 64, &tcp(3000)));
    let offload = check(large(NetHeader::GSO_TCPV6, 54, 1000), &frame, ALL).unwrap();
    let segmentation = offload.segmentation.unwrap();
    assert_eq!((segmentation.kind, segmentation.header_len), (Kind::Tcp6, 60));
    // No CWR in the header: nothing to be careful with.
    let marked = large(NetHeader::GSO_TCPV6 | NetHeader::GSO_ECN, 54, 1000);
    assert!(!check(marked, &frame, ALL).unwrap().segmentation.unwrap().ecn);
}

#[test]
fn a_large_send_that_is_none_is_refused_or_sent_as_the_one_segment_it_is() {
    let four = frame4(&ip4((A4, B4), 6, &tcp(3000)));
    let six = frame6(&ip6((A6, B6), 6, 64, &tcp(3000)));
    let udp = frame4(&udp4((A4, B4), (5, 7), &[0; 3000]));
    use NetHeader as H;
    assert_eq!(check(large(H::GSO_TCPV6, 34, 1000), &four, ALL), SEGMENTATION);
    assert_eq!(check(large(H::GSO_TCPV4, 54, 1000), &six, ALL), SEGMENTATION);
    assert_eq!(check(large(H::GSO_TCPV4, 34, 0), &four, ALL), SEGMENTATION);
    assert_eq!(check(large(H::GSO_TCPV4, 34, MIN_SEGMENT - 1), &four, ALL), SEGMENTATION);
    assert!(check(large(H::GSO_TCPV4, 34, MIN_SEGMENT), &four, ALL).is_ok());
    // What the kernel merged came in segments of that size.
    for size in [1, 20, MIN_SEGMENT - 1] {
        let offload = check(large(H::GSO_TCPV4, 34, size), &four, Sender::Kernel).unwrap();
        assert_eq!(offload.segmentation.unwrap().size, size);
    }
    assert_eq!(check(large(H::GSO_TCPV4, 34, 0), &four, Sender::Kernel), SEGMENTATION);
    let mut udp_header = large(H::GSO_TCPV4, 34, 1000);
    udp_header.csum_offset = 6;
    assert_eq!(check(udp_header, &udp, ALL), SEGMENTATION);
    let mut closed = large(H::GSO_TCPV4, 34, 1000);
    closed.flags = 0;
    assert_eq!(check(closed, &four, ALL), SEGMENTATION);
    for kind in [2, 6, 0x7f, H::GSO_ECN] {
        assert_eq!(check(large(kind, 34, 1000), &four, ALL), SEGMENTATION, "{kind}");
    }
    for data_offset in [0x00, 0x40] {
        let mut bad = tcp(3000);
        bad[TCP_DATA_OFFSET] = data_offset;
        let frame = frame4(&ip4((A4, B4), 6, &bad));
        assert_eq!(check(large(H::GSO_TCPV4, 34, 1000), &frame, ALL), SEGMENTATION);
    }
    let mut beyond = tcp(20);
    beyond[TCP_DATA_OFFSET] = 0xf0;
    let frame = frame4(&ip4((A4, B4), 6, &beyond));
    assert_eq!(check(large(H::GSO_TCPV4, 34, 1000), &frame, ALL), SEGMENTATION);
    for size in [3000, 65_535] {
        let offload = check(large(H::GSO_TCPV4, 34, size), &four, ALL).unwrap();
        assert_eq!(offload.segmentation, None);
        assert_eq!(offload.checksum, Checksum::Partial { start: 20, offset: 16 });
    }
}

#[test]
fn what_was_not_negotiated_is_refused_by_that_name() {
    let four = frame4(&ip4((A4, B4), 6, &tcp(3000)));
    let six = frame6(&ip6((A6, B6), 6, 64, &tcp(3000)));
    let without = |change: fn(&mut Abilities)| {
        let mut abilities = Abilities::ALL;
        change(&mut abilities);
        Sender::Guest(abilities)
    };
    use NetHeader as H;
    let nothing = Sender::Guest(Abilities::default());
    assert_eq!(check(needs(34, 16), &four, nothing), NEGOTIATED);
    assert_eq!(check(large(H::GSO_TCPV4, 34, 100), &four, without(|a| a.tso4 = false)), NEGOTIATED);
    assert_eq!(check(large(H::GSO_TCPV6, 54, 100), &six, without(|a| a.tso6 = false)), NEGOTIATED);
    let ecn = large(H::GSO_TCPV4 | H::GSO_ECN, 34, 100);
    assert_eq!(check(ecn, &four, without(|a| a.ecn = false)), NEGOTIATED);
    for udp in [H::GSO_UDP, H::GSO_UDP_L4] {
        assert_eq!(check(large(udp, 34, 100), &four, ALL), NEGOTIATED);
    }
}

#[test]
fn only_the_kernel_is_believed_that_a_checksum_is_right() {
    let frame = frame4(&ip4((A4, B4), 6, &tcp(3)));
    let header = NetHeader { flags: NetHeader::F_DATA_VALID, ..NetHeader::default() };
    assert_eq!(check(header, &frame, ALL).unwrap().checksum, Checksum::None);
    let valid = check(header, &frame, Sender::Kernel).unwrap();
    assert_eq!(valid.checksum, Checksum::Valid);
    assert_eq!(valid.header_for(Abilities::ALL, 14), Handover::Whole(header));
    let empty = Handover::Whole(NetHeader::default());
    assert_eq!(valid.header_for(Abilities::default(), 14), empty);
}

#[test]
fn a_receiver_gets_what_it_takes_and_else_what_it_lacks_is_named() {
    let checksum = Checksum::Partial { start: 40, offset: 16 };
    let large =
        Segmentation { kind: Kind::Tcp6, size: 1000, transport: 40, header_len: 72, ecn: true };
    let offload = Offload { checksum, segmentation: Some(large) };
    let expected = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        gso_type: NetHeader::GSO_TCPV6 | NetHeader::GSO_ECN,
        hdr_len: 86,
        gso_size: 1000,
        csum_start: 54,
        csum_offset: 16,
        num_buffers: 0,
    };
    assert_eq!(offload.header_for(Abilities::ALL, 14), Handover::Whole(expected));
    let mut lacks = [Abilities::ALL; 3];
    lacks[0].checksum = false;
    lacks[1].tso6 = false;
    lacks[2].ecn = false;
    for receiver in lacks {
        assert_eq!(offload.header_for(receiver, 14), Handover::Segment(large));
    }
    let mut lacks_another = Abilities::ALL;
    lacks_another.tso4 = false;
    assert_eq!(offload.header_for(lacks_another, 14), Handover::Whole(expected));

    let single = Offload { checksum, segmentation: None };
    let bare = Abilities::default();
    let completed = Handover::CompleteChecksum { start: 40, offset: 16 };
    assert_eq!(single.header_for(bare, 14), completed);
    let header = NetHeader { csum_start: 40, ..needs(0, 16) };
    assert_eq!(single.header_for(lacks[1], 0), Handover::Whole(header));
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_written_as_ffff() {
    let pseudo = pseudo4(&A4.octets(), &B4.octets(), 17, 10).fold();
    let mut udp = vec![0, 5, 0, 7, 0, 10, 0, 0, 0, 0];
    udp[6..8].copy_from_slice(&pseudo.to_be_bytes());
    let rest = Sum::of(&udp).fold();
    udp[8..10].copy_from_slice(&(!rest).to_be_bytes());
    let mut datagram = ip4((A4, B4), 17, &udp);
    complete_checksum(&mut datagram, 20, 6).unwrap();
    assert_eq!(datagram[26..28], [0xff, 0xff]);
}

#[test]
fn a_field_outside_the_datagram_is_not_written() {
    let mut datagram = [7; 40];
    for (start, offset) in [(41, 0), (40, 0), (20, 20), (20, 19), (65_535, 65_535)] {
        assert_eq!(complete_checksum(&mut datagram, start, offset), None);
    }
    assert_eq!(datagram, [7; 40]);
}

proptest! {
    /// An open checksum, completed, is the one the sender would have computed itself.
    #[test]
    fn a_completed_checksum_is_what_etherparse_computes(
        payload in prop::collection::vec(any::<u8>(), 0..200), ports: (u16, u16),
    ) {
        let len = payload.len() as u16 + 8;
        let right = udp4((A4, B4), ports, &payload);
        let mut open = right.clone();
        let sum = pseudo4(&A4.octets(), &B4.octets(), 17, len).fold();
        open[26..28].copy_from_slice(&sum.to_be_bytes());
        complete_checksum(&mut open, 20, 6).unwrap();
        prop_assert_eq!(open, right);

        let right = udp6((A6, B6), ports, &payload);
        let mut open = right.clone();
        let sum = pseudo6(&A6.octets(), &B6.octets(), 17, len.into()).fold();
        open[46..48].copy_from_slice(&sum.to_be_bytes());
        complete_checksum(&mut open, 40, 6).unwrap();
        prop_assert_eq!(open, right);
    }

    /// Whatever a sender claims of whatever datagram: refused by name, or every place that the
    /// header towards the receiver names lies inside the datagram.
    #[test]
    fn no_claim_reaches_a_receiver_that_the_datagram_does_not_bear_out(
        flags: u8, gso_type in prop_oneof![Just(0u8), Just(1), Just(4), Just(0x81), any::<u8>()],
        sizes: (u16, u16),
        csum_start in prop_oneof![Just(20u16), Just(40), any::<u16>()],
        csum_offset in prop_oneof![Just(16u16), Just(6), any::<u16>()],
        v6: bool, protocol in prop_oneof![Just(6u8), Just(17)],
        upper in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let datagram = if v6 {
            ip6((A6, B6), protocol, 64, &upper)
        } else {
            ip4((A4, B4), protocol, &upper)
        };
        let header = NetHeader {
            flags, gso_type, hdr_len: sizes.0, gso_size: sizes.1, csum_start, csum_offset,
            num_buffers: 7,
        };
        let Ok(offload) = Offload::check(&header, 0, &parse_ip(&datagram).unwrap(), ALL) else {
            return Ok(());
        };
        if let Handover::Whole(header) = offload.header_for(Abilities::ALL, 0) {
            prop_assert_eq!(header.flags & !NetHeader::F_NEEDS_CSUM, 0);
            prop_assert_eq!(header.num_buffers, 0);
            if header.flags != 0 {
                let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
                prop_assert!(field + 2 <= datagram.len());
            }
            if header.gso_type != 0 {
                prop_assert!(usize::from(header.hdr_len) < datagram.len());
                prop_assert!(header.gso_size >= MIN_SEGMENT);
                let payload = datagram.len() - usize::from(header.hdr_len);
                prop_assert!(payload > usize::from(header.gso_size));
            } else {
                prop_assert_eq!(header.gso_size, 0);
            }
        }
        if let Some(large) = offload.segmentation {
            let segments = crate::segment::Segments::of(&datagram, &large).unwrap();
            let mut buffer = [0; 600];
            for i in 0..segments.count() {
                let len = segments.write(i, &mut buffer).unwrap();
                prop_assert!(parse_ip(&buffer[..len]).is_ok());
                prop_assert!(len <= large.segment_len());
            }
        }
        let mut datagram = datagram;
        if let Checksum::Partial { start, offset } = offload.checksum {
            prop_assert!(complete_checksum(&mut datagram, start, offset).is_some());
        }
    }
}

//! Segments against those that a slow sender makes one by one.

#![allow(clippy::arithmetic_side_effects)]

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Ipv4Header, TcpHeader};
use proptest::prelude::*;

use super::*;
use crate::checksum::{pseudo4, pseudo6};
use crate::datagram::craft::{ip4_with, ip6};

const A4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);

/// A TCP header as etherparse sees it, with random contents.
fn tcp() -> impl Strategy<Value = TcpHeader> {
    (any::<[u32; 2]>(), any::<[u16; 2]>(), any::<u8>(), 0usize..=10).prop_map(
        |([sequence, ack], [window, urgent], flags, options)| {
            let mut tcp = TcpHeader::new(1234, 443, sequence, window);
            tcp.acknowledgment_number = ack;
            tcp.urgent_pointer = urgent;
            tcp.fin = flags & 1 != 0;
            tcp.psh = flags & 8 != 0;
            tcp.ack = flags & 16 != 0;
            tcp.ece = flags & 64 != 0;
            tcp.cwr = flags & 128 != 0;
            tcp.set_options_raw(&vec![1; options * 4]).unwrap();
            tcp
        },
    )
}

/// The octets of a large send's TCP part: the field holds the pseudo-header's sum.
fn open(tcp: &TcpHeader, payload: &[u8], pseudo: impl Fn(u16) -> u16) -> Vec<u8> {
    let mut bytes = [&tcp.to_bytes()[..], payload].concat();
    let sum = pseudo(bytes.len() as u16);
    bytes[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What segment `index` must be, by etherparse's own header types.
fn model_tcp(tcp: &TcpHeader, index: usize, pieces: usize, from: usize) -> TcpHeader {
    let mut tcp = tcp.clone();
    tcp.sequence_number = tcp.sequence_number.wrapping_add(from as u32);
    tcp.cwr &= index == 0;
    tcp.fin &= index + 1 == pieces;
    tcp.psh &= index + 1 == pieces;
    tcp
}

fn large(kind: Kind, size: u16, transport: usize, tcp: &TcpHeader) -> Segmentation {
    let header_len = (transport + tcp.header_len()) as u16;
    Segmentation { kind, size, transport: transport as u16, header_len, ecn: tcp.cwr }
}

proptest! {
    #[test]
    fn each_ip4_segment_is_the_one_a_slow_sender_makes(
        tcp in tcp(), payload in prop::collection::vec(any::<u8>(), 1..3000), size in 32u16..1500,
        identification: u16, flags in 0u8..=1, options in 0usize..=10,
    ) {
        let pseudo = |len| pseudo4(&A4.octets(), &B4.octets(), 6, len).fold();
        let options = vec![1; options * 4];
        let datagram = ip4_with((A4, B4), 6, &options, &open(&tcp, &payload, pseudo), |h| {
            h[4..6].copy_from_slice(&identification.to_be_bytes());
            h[6] = flags << 6;
        });
        let transport = 20 + options.len();
        let segments =
            Segments::of(&datagram, &large(Kind::Tcp4, size, transport, &tcp)).unwrap();
        let pieces: Vec<_> = payload.chunks(size.into()).collect();
        prop_assert_eq!(segments.count(), pieces.len());
        let mut buffer = [0xee; 2000];
        for (i, piece) in pieces.iter().enumerate() {
            let len = segments.write(i, &mut buffer).unwrap();
            let mut ip = Ipv4Header::from_slice(&datagram).unwrap().0;
            ip.set_payload_len(tcp.header_len() + piece.len()).unwrap();
            ip.identification = identification.wrapping_add(i as u16);
            ip.header_checksum = ip.calc_header_checksum();
            let mut tcp = model_tcp(&tcp, i, pieces.len(), i * usize::from(size));
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, piece).unwrap();
            let expected = [&ip.to_bytes()[..], &tcp.to_bytes(), piece].concat();
            prop_assert_eq!(&buffer[..len], &expected[..], "segment {}", i);
        }
        prop_assert_eq!(segments.write(pieces.len(), &mut buffer), None);
    }

    #[test]
    fn each_ip6_segment_is_the_one_a_slow_sender_makes(
        tcp in tcp(), payload in prop::collection::vec(any::<u8>(), 1..3000), size in 32u16..1500,
        extensions in 0usize..3,
    ) {
        let pseudo = |len| pseudo6(&A6.octets(), &B6.octets(), 6, u32::from(len)).fold();
        let mut chain = Vec::new();
        for i in 0..extensions {
            chain.extend([if i + 1 == extensions { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        let next = if extensions == 0 { 6 } else { 60 };
        let upper = [&chain[..], &open(&tcp, &payload, pseudo)].concat();
        let datagram = ip6((A6, B6), next, 64, &upper);
        let transport = 40 + chain.len();
        let segments =
            Segments::of(&datagram, &large(Kind::Tcp6, size, transport, &tcp)).unwrap();
        let pieces: Vec<_> = payload.chunks(size.into()).collect();
        prop_assert_eq!(segments.count(), pieces.len());
        let mut buffer = [0xee; 2000];
        for (i, piece) in pieces.iter().enumerate() {
            let len = segments.write(i, &mut buffer).unwrap();
            let mut tcp = model_tcp(&tcp, i, pieces.len(), i * usize::from(size));
            tcp.checksum =
                tcp.calc_checksum_ipv6_raw(A6.octets(), B6.octets(), piece).unwrap();
            let upper = [&chain[..], &tcp.to_bytes(), piece].concat();
            let expected = ip6((A6, B6), next, 64, &upper);
            prop_assert_eq!(&buffer[..len], &expected[..], "segment {}", i);
        }
    }

    #[test]
    fn a_description_that_fits_nothing_writes_nothing_and_never_panics(
        datagram in prop::collection::vec(any::<u8>(), 0..200), room in 0usize..300,
        size: u16, transport in 0u16..300, header_len in 0u16..300, v6: bool, index in 0usize..300,
    ) {
        let kind = if v6 { Kind::Tcp6 } else { Kind::Tcp4 };
        let large = Segmentation { kind, size, transport, header_len, ecn: false };
        if let Some(segments) = Segments::of(&datagram, &large) {
            let mut buffer = vec![0; room];
            if let Some(len) = segments.write(index, &mut buffer) {
                prop_assert!(len <= room && index < segments.count());
            }
        }
    }
}

#[test]
fn the_longest_send_of_64_kib_is_cut_without_a_hole() {
    let tcp = TcpHeader::new(1, 2, u32::MAX - 100, 1000);
    let payload: Vec<u8> = (0..65_495u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let pseudo = |len| pseudo4(&A4.octets(), &B4.octets(), 6, len).fold();
    let datagram = ip4_with((A4, B4), 6, &[], &open(&tcp, &payload, pseudo), |_| {});
    assert_eq!(datagram.len(), 65_535);
    let segments = Segments::of(&datagram, &large(Kind::Tcp4, 1460, 20, &tcp)).unwrap();
    let mut buffer = [0; 1500];
    let mut all = Vec::new();
    for i in 0..segments.count() {
        let len = segments.write(i, &mut buffer).unwrap();
        all.extend_from_slice(&buffer[40..len]);
    }
    assert_eq!(all, payload);
}

#[test]
fn a_buffer_one_octet_short_is_refused() {
    let tcp = TcpHeader::new(1, 2, 3, 4);
    let datagram = ip4_with((A4, B4), 6, &[], &open(&tcp, &[5; 100], |_| 0), |_| {});
    let segments = Segments::of(&datagram, &large(Kind::Tcp4, 60, 20, &tcp)).unwrap();
    assert_eq!(segments.write(0, &mut [0; 99]), None);
    assert_eq!(segments.write(0, &mut [0; 100]), Some(100));
}

//! Fragments against what they must be put together to, and IPv4 options of any shape.

#![allow(clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::datagram::craft::ip4_with;

const A: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn datagram(options: &[u8], payload: &[u8], place: u16) -> Vec<u8> {
    ip4_with((A, B), 253, options, payload, |h| {
        h[1] = 0xb8;
        h[4..6].copy_from_slice(&0xbeefu16.to_be_bytes());
        h[6..8].copy_from_slice(&place.to_be_bytes());
        h[8] = 17;
    })
}

fn cut(datagram: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let fragments = Fragments::of(&Ip4::parse(datagram).unwrap(), mtu)?;
    let mut buffer = vec![0xee; mtu];
    let all = (0..fragments.count())
        .map(|i| {
            let len = fragments.write(i, &mut buffer).expect("fits the MTU");
            buffer[..len].to_vec()
        })
        .collect();
    assert_eq!(fragments.write(fragments.count(), &mut buffer), None);
    Some(all)
}

proptest! {
    /// Each fragment is a right datagram by itself, says what the original said, and together they
    /// are the original.
    #[test]
    fn reassembled_fragments_are_the_datagram(
        payload in prop::collection::vec(any::<u8>(), 24..4000), mtu in 68usize..1500,
        nops in 0usize..=10, offset in 0u16..100, more: bool, dont_fragment: bool,
    ) {
        let place = offset | if more { MORE } else { 0 } | if dont_fragment { 0x4000 } else { 0 };
        let original = datagram(&vec![NO_OPERATION; nops * 4], &payload, place);
        let pieces = cut(&original, mtu).unwrap();
        let mut whole = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let ip = Ip4::parse(piece).expect("lengths and header checksum are right");
            prop_assert!(piece.len() <= mtu && ip.bytes().len() == piece.len());
            prop_assert_eq!((ip.source(), ip.destination()), (A, B));
            prop_assert_eq!((ip.protocol(), ip.ttl(), ip.tos()), (253, 17, 0xb8));
            prop_assert_eq!((ip.identification(), ip.dont_fragment()), (0xbeef, dont_fragment));
            prop_assert_eq!(usize::from(ip.fragment_offset()), offset as usize * 8 + whole.len());
            let last = i + 1 == pieces.len();
            prop_assert_eq!(ip.more_fragments(), !last || more);
            prop_assert!(last || ip.payload().len().is_multiple_of(8));
            prop_assert!(!ip.payload().is_empty());
            // As full as it can be: a piece that is not the last has no room for another unit.
            prop_assert!(last || piece.len() + 8 > mtu);
            whole.extend_from_slice(ip.payload());
        }
        prop_assert_eq!(whole, payload);
        prop_assert_eq!(pieces.len() == 1, original.len() <= mtu);
    }

    #[test]
    fn options_of_any_shape_are_cut_without_panic_and_stay_within_the_header(
        options in prop::collection::vec(any::<u8>(), 0..=40), mtu in 0usize..200,
    ) {
        let options = &options[..options.len() / 4 * 4];
        if let Some(pieces) = cut(&datagram(options, &[7; 300], 0), mtu) {
            for piece in &pieces[1..] {
                let ip = Ip4::parse(piece).unwrap();
                prop_assert!(ip.header_len() <= 20 + options.len());
            }
        }
    }
}

#[test]
fn only_options_with_the_copied_bit_are_in_later_fragments() {
    // Record route (7) stays behind; router alert (148) and loose source route (131) go along.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 131, 3, 4, 0];
    let pieces = cut(&datagram(&options, &[1; 200], 0), 100).unwrap();
    assert_eq!(Ip4::parse(&pieces[0]).unwrap().options(), options);
    for piece in &pieces[1..] {
        assert_eq!(Ip4::parse(piece).unwrap().options(), [148, 4, 0, 0, 131, 3, 4, 0]);
    }
}

#[test]
fn a_datagram_that_just_fits_is_one_fragment_and_one_octet_more_makes_two() {
    let original = datagram(&[], &[9; 99], 0);
    assert_eq!(cut(&original, 119), Some(vec![original.clone()]));
    let lengths = |mtu| cut(&original, mtu).unwrap().iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(118), [116, 23]);
    // The last one need not be a multiple of eight.
    assert_eq!(lengths(71), [68, 71]);
}

#[test]
fn a_link_too_small_for_eight_octets_behind_the_header_has_no_fragments() {
    assert!(cut(&datagram(&[], &[0; 100], 0), 27).is_none());
    assert_eq!(cut(&datagram(&[], &[0; 24], 0), 28).unwrap().len(), 3);
    assert!(cut(&datagram(&[NO_OPERATION; 40], &[0; 100], 0), 67).is_none());
}

#[test]
fn a_fragment_that_claims_to_lie_beyond_the_longest_datagram_is_not_cut() {
    assert!(cut(&datagram(&[], &[0; 100], MAX_OFFSET), 68).is_none());
    assert!(cut(&datagram(&[], &[0; 40], MAX_OFFSET), 68).is_some());
}

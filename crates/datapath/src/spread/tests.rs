//! Flows: what belongs together goes together, and what does not is spread.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::datagram::craft;

const HOSTS4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
const HOSTS6: (Ipv6Addr, Ipv6Addr) = (
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
);

fn of(datagram: &[u8]) -> u32 {
    flow(datagram, &mut Trail::default())
}

/// A piece of a UDP datagram over IPv4, from `offset` on.
fn piece4(whole: &[u8], id: u16, offset: u16, more: bool) -> Vec<u8> {
    let payload = &whole[20 + usize::from(offset)..];
    let payload = if more { &payload[..8] } else { payload };
    craft::ip4_with(HOSTS4, 17, &[], payload, |header| {
        header[4..6].copy_from_slice(&id.to_be_bytes());
        let cut = offset >> 3 | if more { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&cut.to_be_bytes());
    })
}

fn piece6(whole: &[u8], id: u32, offset: u16, more: bool) -> Vec<u8> {
    let payload = &whole[40 + usize::from(offset)..];
    let payload = if more { &payload[..8] } else { payload };
    let mut fragment = vec![17, 0];
    fragment.extend((offset | u16::from(more)).to_be_bytes());
    fragment.extend(id.to_be_bytes());
    fragment.extend(payload);
    craft::ip6(HOSTS6, 44, 64, &fragment)
}

#[test]
fn flows_between_two_hosts_are_spread_evenly_over_any_number_of_rings() {
    for count in 2..=8 {
        for six in [false, true] {
            let mut rings = vec![0; count];
            for port in 0..2048u16 {
                let ports = (40_000 + port, 80);
                let datagram = match six {
                    false => craft::udp4(HOSTS4, ports, b"x"),
                    true => craft::udp6(HOSTS6, ports, b"x"),
                };
                rings[choose(of(&datagram), count)] += 1;
            }
            let even = 2048 / count;
            assert!(rings.iter().all(|n| (even * 7 / 10..even * 13 / 10).contains(n)), "{rings:?}");
        }
    }
}

#[test]
fn a_flow_is_hosts_protocol_and_ports_whatever_else_a_datagram_has() {
    let ports = (1000, 2000);
    let one = of(&craft::udp4(HOSTS4, ports, b"one"));
    assert_eq!(one, of(&craft::udp4(HOSTS4, ports, b"and another")));
    let options = craft::udp4(HOSTS4, ports, b"x")[20..].to_vec();
    assert_eq!(one, of(&craft::ip4_with(HOSTS4, 17, &[1, 1, 1, 0], &options, |h| h[8] = 9)));
    assert_ne!(one, of(&craft::udp4(HOSTS4, (1000, 2001), b"one")));
    assert_ne!(one, of(&craft::udp4(HOSTS4, (2000, 1000), b"one")));
    assert_ne!(one, of(&craft::ip4(HOSTS4, 6, &options)));
    assert_ne!(one, of(&craft::udp4((HOSTS4.0, HOSTS4.0), ports, b"one")));
    // Without ports: hosts and protocol.
    let echo = of(&craft::ip4(HOSTS4, 1, b"12345678"));
    assert_eq!(echo, of(&craft::ip4(HOSTS4, 1, b"87654321")));
    assert_ne!(echo, of(&craft::ip4(HOSTS4, 50, b"12345678")));

    let one = of(&craft::udp6(HOSTS6, ports, b"one"));
    let upper = craft::udp6(HOSTS6, ports, b"x")[40..].to_vec();
    let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &upper].concat();
    assert_eq!(one, of(&craft::ip6(HOSTS6, 60, 3, &options)), "behind destination options");
    assert_ne!(one, of(&craft::udp6(HOSTS6, (1000, 2001), b"one")));
    assert_ne!(one, of(&craft::ip6(HOSTS6, 6, 64, &upper)));
}

#[test]
fn fragments_go_where_the_whole_datagrams_of_their_flow_go() {
    let mut trail = Trail::default();
    for port in 0..200u16 {
        let four = craft::udp4(HOSTS4, (port, 9), &[7; 64]);
        let six = craft::udp6(HOSTS6, (port, 9), &[7; 64]);
        let (id, more) = (port.wrapping_mul(321), true);
        for (offset, more) in [(0, more), (8, more), (16, false)] {
            let [a, b] = [piece4(&four, id, offset, more), piece6(&six, id.into(), offset, more)];
            assert_eq!(flow(&a, &mut trail), of(&four), "{offset}");
            assert_eq!(flow(&b, &mut trail), of(&six), "{offset}");
        }
    }
}

#[test]
fn a_fragment_whose_first_is_not_known_has_the_flow_of_its_hosts() {
    let whole = craft::udp4(HOSTS4, (5, 9), &[7; 64]);
    let later = |id| piece4(&whole, id, 16, false);
    assert_eq!(of(&later(1)), of(&later(2)));
    let mut trail = Trail::default();
    flow(&piece4(&whole, 1, 0, true), &mut trail);
    assert_ne!(of(&later(1)), of(&whole));
    assert_eq!(flow(&later(1), &mut trail), of(&whole));
    assert_eq!(flow(&later(2), &mut trail), of(&later(1)));
    // Many others in between: the first is forgotten.
    for id in 3..1000 {
        flow(&piece4(&whole, id, 0, true), &mut trail);
    }
    assert_eq!(flow(&later(1), &mut trail), of(&later(2)));
    let six = craft::udp6(HOSTS6, (5, 9), &[7; 64]);
    assert_eq!(of(&piece6(&six, 1, 16, false)), of(&piece6(&six, 2, 8, true)));
}

#[test]
fn nonsense_has_some_flow() {
    for len in 0..64 {
        for first in [0, 0x45, 0x4f, 0x60, 0xff] {
            let mut datagram = vec![0xff; len];
            datagram.iter_mut().take(1).for_each(|octet| *octet = first);
            assert!(choose(of(&datagram), 3) < 3);
        }
    }
}

#[test]
fn a_number_that_comes_again_for_another_flow_is_that_flows_from_then_on() {
    let mut trail = Trail::default();
    let [early, late] = [1000, 1001].map(|port| craft::udp4(HOSTS4, (port, 2000), &[7; 64]));
    for whole in [&early, &late] {
        let first = flow(&piece4(whole, 9, 0, true), &mut trail);
        assert_eq!(first, of(whole));
        assert_eq!(flow(&piece4(whole, 9, 8, false), &mut trail), first);
    }
}

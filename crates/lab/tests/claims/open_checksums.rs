//! First exception: a checksum that the sender left to offload.
//!
//! Where the receiver can take it open it arrives as it was sent, and the header says where it
//! belongs; where the receiver cannot, it arrives complete. Nothing else differs.

use std::net::IpAddr;

use lab::driver::Settings;
use lab::frames::{self, Ip6, checksum, datagram_of, pattern, protocol, pseudo_header};
use lab::scene::{OUTSIDE, Pair, by_xdp, vm};
use lab::wired::Wiring;
use virtqueue::NetHeader;

use super::checks::{Stage, is_plain, next, same};

/// Octets of an Ethernet header.
const ETHERNET: u16 = 14;

/// A datagram with its checksum, and without.
pub struct Open {
    name: &'static str,
    complete: Vec<u8>,
    /// As the driver writes it.
    pub open: Vec<u8>,
    /// What the driver says of it.
    pub header: NetHeader,
}

impl Open {
    /// Leaves the checksum of a complete datagram open: its transport header begins at `start`.
    pub fn new(name: &'static str, complete: Vec<u8>, start: usize, kind: u8) -> Self {
        let offset = match kind {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => 2,
        };
        let pair = |s: &[u8], d: &[u8]| -> (IpAddr, IpAddr) {
            let address = |o: &[u8]| match o.first_chunk::<16>() {
                Some(six) => IpAddr::from(*six),
                None => IpAddr::from(*o.first_chunk::<4>().unwrap()),
            };
            (address(s), address(d))
        };
        let (s, d) = match complete[0] >> 4 {
            4 => pair(&complete[12..16], &complete[16..20]),
            _ => pair(&complete[8..24], &complete[24..40]),
        };
        let mut open = complete.clone();
        let sum = !checksum(&[&pseudo_header(s, d, kind, complete.len() - start)]);
        open[start + offset..][..2].copy_from_slice(&sum.to_be_bytes());
        let header = NetHeader {
            flags: NetHeader::F_NEEDS_CSUM,
            csum_start: start as u16 + ETHERNET,
            csum_offset: offset as u16,
            ..NetHeader::default()
        };
        Self { name, complete, open, header }
    }
}

/// One of each kind, for both families.
fn table(from: Pair, to: Pair) -> Vec<Open> {
    let [(s4, d4), (s6, d6)] = [(from[0], to[0]), (from[1], to[1])];
    let udp = |s, d, n| frames::udp(s, d, (4000, 4001), &pattern(n));
    let tcp = |s, d, n| frames::tcp(s, d, (4000, 4001), 0x18, &[1, 1, 1, 0], &pattern(n));
    let four =
        |name, kind, message| Open::new(name, frames::datagram(s4, d4, kind, message), 20, kind);
    let six =
        |name, kind, message| Open::new(name, frames::datagram(s6, d6, kind, message), 40, kind);
    let (IpAddr::V4(s), IpAddr::V4(d)) = (s4, d4) else { panic!() };
    let options = frames::Ip4 {
        options: vec![1; 12],
        ..frames::Ip4::new(s, d, protocol::UDP, udp(s4, d4, 77))
    };
    let (IpAddr::V6(s), IpAddr::V6(d)) = (s6, d6) else { panic!() };
    let chained = [frames::options_header(protocol::UDP), udp(s6, d6, 78)].concat();
    let chained = Ip6::new(s, d, protocol::HOP_BY_HOP, chained);
    // The sum of this message is zero, which UDP writes as all ones.
    let mut zero = udp(s4, d4, 2);
    let sum = u16::from_be_bytes([zero[6], zero[7]]);
    let data = u32::from(u16::from_be_bytes([zero[8], zero[9]])) + u32::from(sum);
    zero[8..10].copy_from_slice(&((data % 0xffff) as u16).to_be_bytes());
    zero[6..8].copy_from_slice(&[0xff, 0xff]);
    vec![
        four("UDP over IPv4", protocol::UDP, udp(s4, d4, 100)),
        four("UDP of an odd length over IPv4", protocol::UDP, udp(s4, d4, 1471)),
        four("UDP over IPv4 whose sum is zero", protocol::UDP, zero),
        four("UDP without data over IPv4", protocol::UDP, udp(s4, d4, 0)),
        four("TCP over IPv4", protocol::TCP, tcp(s4, d4, 100)),
        four("TCP of an odd length over IPv4", protocol::TCP, tcp(s4, d4, 1001)),
        Open::new("UDP behind IPv4 options", options.bytes(), 32, protocol::UDP),
        six("UDP over IPv6", protocol::UDP, udp(s6, d6, 101)),
        six("TCP over IPv6", protocol::TCP, tcp(s6, d6, 1200)),
        six("ICMPv6", protocol::ICMP6, frames::icmp(s6, d6, 128, 0, &pattern(65))),
        Open::new("UDP behind an extension header", chained.bytes(), 48, protocol::UDP),
    ]
}

fn wiring(receiver: Settings) -> Wiring {
    Wiring { drivers: [Settings::default(), receiver], ..Wiring::default() }
}

fn is_open(header: &NetHeader, case: &Open) -> bool {
    NetHeader { num_buffers: 0, ..*header } == case.header
}

#[test]
fn an_open_checksum_arrives_open_where_the_receiver_takes_it() {
    let mut stage = Stage::set(&wiring(Settings::default()));
    for case in table(vm(0), vm(1)) {
        let frame = stage.w.from_a(&case.open);
        stage.w.a.send(&case.header, &frame).unwrap();
        let (header, frame) = next(&mut stage.w.b).unwrap();
        assert!(is_open(&header, &case), "{}: {header:?}", case.name);
        assert_eq!(datagram_of(&frame), case.open, "{}", case.name);
    }
    for case in table(OUTSIDE, vm(1)) {
        stage.w.tap.send_with(case.header, &stage.w.from_lan(&case.open)).unwrap();
        let (header, frame) = next(&mut stage.w.b).unwrap();
        assert!(is_open(&header, &case), "{}, from outside: {header:?}", case.name);
        assert_eq!(datagram_of(&frame), case.open, "{}, from outside", case.name);
    }
    stage.end();
}

#[test]
fn an_open_checksum_is_filled_in_where_the_receiver_does_not_take_it() {
    let mut stage = Stage::set(&wiring(Settings::plain()));
    let (mut sent, mut arrived) = (Vec::new(), Vec::new());
    for case in table(vm(0), vm(1)) {
        let frame = stage.w.from_a(&case.open);
        stage.w.a.send(&case.header, &frame).unwrap();
        let (header, frame) = next(&mut stage.w.b).unwrap();
        assert!(is_plain(&header), "{}: {header:?}", case.name);
        sent.push((case.name, case.complete));
        arrived.push(datagram_of(&frame).to_vec());
    }
    for case in table(OUTSIDE, vm(1)) {
        stage.w.tap.send_with(case.header, &stage.w.from_lan(&case.open)).unwrap();
        let (header, frame) = next(&mut stage.w.b).unwrap();
        assert!(is_plain(&header), "{}, from outside: {header:?}", case.name);
        sent.push((case.name, case.complete));
        arrived.push(datagram_of(&frame).to_vec());
    }
    same("to a driver without checksums", &sent, &arrived);
    stage.end();
}

#[test]
fn an_open_checksum_is_filled_in_on_the_wire() {
    let mut stage = Stage::set(&wiring(Settings::default()));
    stage.meet_outside(vm(0), OUTSIDE);
    // Once as the card gets it, once with a card that leaves the work to the kernel. By AF_XDP no card
    // is asked to do anything.
    let by_xdp = by_xdp(Wiring::default().mtu);
    for (card, filled) in [("tx on", by_xdp), ("tx off", true)] {
        stage.card(card);
        let table = table(vm(0), OUTSIDE);
        for case in &table {
            let frame = stage.w.from_a(&case.open);
            stage.w.a.send(&case.header, &frame).unwrap();
        }
        let seen = stage.out(vm(0), table.len());
        for (case, (header, datagram)) in table.iter().zip(&seen) {
            let octets = if filled { &case.complete } else { &case.open };
            assert_eq!(datagram, octets, "{}, {card}", case.name);
            let right = if filled { is_plain(header) } else { is_open(header, case) };
            assert!(right, "{}, {card}: {header:?}", case.name);
        }
        assert_eq!(seen.len(), table.len());
    }
    stage.end();
}

#[test]
fn to_the_host_an_open_checksum_stays_open_and_its_stack_takes_it() {
    let mut stage = Stage::set(&wiring(Settings::default()));
    let tap = stage.host_tap();
    let host = lab::scene::HOST;
    for case in table(vm(0), host) {
        let frame = stage.w.from_a(&case.open);
        stage.w.a.send(&case.header, &frame).unwrap();
        let seen = loop {
            let seen = tap.receive(lab::wired::LIMIT).unwrap().unwrap();
            if !seen.outgoing {
                break seen;
            }
        };
        let expected = NetHeader { csum_start: case.header.csum_start - ETHERNET, ..case.header };
        assert_eq!(seen.header, expected, "{}", case.name);
        assert_eq!(seen.bytes, case.open, "{}", case.name);
    }
    stage.end();
}

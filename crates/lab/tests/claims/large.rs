//! Second exception: segmentation that the sender left to offload.
//!
//! A large send of up to 64 KiB travels whole to whom takes it whole. For everybody else it is cut:
//! segments whose headers are the large send's but for what segmentation must change, and whose
//! payloads are the large send's in order.

use std::net::IpAddr;
use std::ops::Range;

use lab::capture::Frame;
use lab::driver::{Settings, features};
use lab::frames::{self, Ip4, Ip6, datagram_of, pattern, protocol};
use lab::scene::{OUTSIDE, Pair, vm};
use lab::wired::{LIMIT, Wiring};
use virtqueue::NetHeader;

use super::checks::{BEYOND_XDP, Case, Stage, card, is_plain, next, nothing_more, same};

/// TCP flags.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// What a large send stands for.
#[derive(Clone, Debug)]
pub struct Large {
    pub name: &'static str,
    pub from: IpAddr,
    pub to: IpAddr,
    pub flags: u8,
    pub options: Vec<u8>,
    pub identification: u16,
    pub dont_fragment: bool,
    pub sequence: u32,
    pub payload: Vec<u8>,
    /// Payload octets of each segment.
    pub size: usize,
}

impl Large {
    pub fn new(name: &'static str, from: IpAddr, to: IpAddr, size: usize, length: usize) -> Self {
        Self {
            name,
            from,
            to,
            flags: ACK | PSH,
            // Timestamps, as nearly all TCP has them.
            options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            identification: 0xfff0,
            dont_fragment: true,
            sequence: 0xffff_8000,
            payload: pattern(length),
            size,
        }
    }

    /// One datagram with a right checksum: what any piece of it looks like on a wire.
    fn piece(&self, number: usize, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = frames::tcp(self.from, self.to, (4000, 4001), flags, &self.options, payload);
        let sequence = self.sequence.wrapping_add((number * self.size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[16..18].fill(0);
        let pseudo = frames::pseudo_header(self.from, self.to, protocol::TCP, tcp.len());
        let sum = frames::checksum(&[&pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        match (self.from, self.to) {
            (IpAddr::V4(s), IpAddr::V4(d)) => Ip4 {
                identification: self.identification.wrapping_add(number as u16),
                dont_fragment: self.dont_fragment,
                service: 0x02,
                ..Ip4::new(s, d, protocol::TCP, tcp)
            }
            .bytes(),
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                Ip6 { flow: 0x12345, class: 0x02, ..Ip6::new(s, d, protocol::TCP, tcp) }.bytes()
            }
            _ => panic!("of different families"),
        }
    }

    /// Some consecutive segments of it, as a large send of their own.
    pub fn part(&self, segments: Range<usize>) -> Self {
        let (from, end) = (segments.start * self.size, segments.end * self.size);
        let last = end >= self.payload.len();
        Self {
            flags: if last { self.flags } else { self.flags & !(FIN | PSH) },
            identification: self.identification.wrapping_add(segments.start as u16),
            sequence: self.sequence.wrapping_add(from as u32),
            payload: self.payload[from..end.min(self.payload.len())].to_vec(),
            ..self.clone()
        }
    }

    /// Octets of IP and TCP headers.
    pub fn headers(&self) -> usize {
        let ip = if self.from.is_ipv4() { 20 } else { 40 };
        ip + 20 + self.options.len()
    }

    /// The large send as a driver writes it: whole, its checksum open.
    pub fn whole(&self) -> (NetHeader, Vec<u8>) {
        let mut datagram = self.piece(0, self.flags, &self.payload);
        let start = self.headers() - 20 - self.options.len();
        let length = datagram.len() - start;
        let pseudo = frames::pseudo_header(self.from, self.to, protocol::TCP, length);
        let sum = !frames::checksum(&[&pseudo]);
        datagram[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
        let kind = if self.from.is_ipv4() { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        let ecn = if self.flags & CWR != 0 { NetHeader::GSO_ECN } else { 0 };
        let header = NetHeader {
            flags: NetHeader::F_NEEDS_CSUM,
            gso_type: kind | ecn,
            hdr_len: (14 + self.headers()) as u16,
            gso_size: self.size as u16,
            csum_start: (14 + start) as u16,
            csum_offset: 16,
            num_buffers: 0,
        };
        (header, datagram)
    }

    /// The segments it stands for.
    pub fn segments(&self) -> Vec<Case> {
        let count = self.payload.len().div_ceil(self.size);
        let segment = |(i, payload)| {
            let mut flags = self.flags;
            if i > 0 {
                flags &= !CWR;
            }
            if i + 1 < count {
                flags &= !(FIN | PSH);
            }
            (self.name, self.piece(i, flags, payload))
        };
        self.payload.chunks(self.size).enumerate().map(segment).collect()
    }
}

/// Octets of the longest TCP segment, header included: IPv4's total length cannot tell more, and
/// IPv6's payload length can.
const LONGEST: [usize; 2] = [65_535 - 20, 65_535];
/// Where the kernel has a part in it: what it cuts by itself is one octet longer.
const LONGEST_OF_KERNEL: [usize; 2] = [65_521 - 20, 65_521 - 40];

fn table(from: Pair, to: Pair, longest: [usize; 2]) -> Vec<Large> {
    let [four, six] = [(from[0], to[0]), (from[1], to[1])];
    // Without the TCP header and its options.
    let [longest4, longest6] = longest.map(|n| n - 32);
    let large =
        |name, (from, to): (IpAddr, IpAddr), size, length| Large::new(name, from, to, size, length);
    vec![
        large("64 KiB of TCP over IPv4", four, 1448, longest4),
        large("64 KiB of TCP over IPv6", six, 1428, longest6),
        large("64 KiB of TCP over IPv4 in jumbo segments", four, 8948, longest4),
        large("64 KiB of TCP over IPv6 in jumbo segments", six, 8928, longest6),
        large("two segments, the last of one octet", four, 1448, 1449),
        large("a whole number of segments", six, 1428, 3 * 1428),
        Large { flags: ACK | PSH | FIN, ..large("with FIN", four, 1448, 5000) },
        Large { options: vec![], ..large("without TCP options", six, 1000, 9999) },
        Large { dont_fragment: false, ..large("not marked DF", four, 536, 20_000) },
        Large { flags: ACK | PSH | CWR, ..large("congestion answered, IPv4", four, 1400, 30_000) },
        Large { flags: ACK | PSH | CWR, ..large("congestion answered, IPv6", six, 1400, 30_000) },
    ]
}

fn wiring(receiver: Settings) -> Wiring {
    Wiring { mtu: BEYOND_XDP, drivers: [Settings::default(), receiver], ..Wiring::default() }
}

fn same_header(got: &NetHeader, sent: &NetHeader) -> bool {
    NetHeader { num_buffers: 0, ..*got } == *sent
}

#[test]
fn a_large_send_travels_whole_to_a_driver_that_takes_it() {
    let no_buffers_merged = features::ALL & !features::MRG_RXBUF;
    for receiver in [
        Settings::default(),
        Settings { features: no_buffers_merged, ring: 64, ..Settings::default() },
        Settings { buffer: 1526, ..Settings::default() },
    ] {
        let mut stage = Stage::set(&wiring(receiver));
        for large in table(vm(0), vm(1), LONGEST) {
            let (header, datagram) = large.whole();
            let frame = stage.w.from_a(&datagram);
            stage.w.a.send(&header, &frame).unwrap();
            let (got, frame) = next(&mut stage.w.b).unwrap();
            assert!(same_header(&got, &header), "{}: {got:?}, sent {header:?}", large.name);
            same(large.name, &[(large.name, datagram)], &[datagram_of(&frame).to_vec()]);
        }
        nothing_more(&mut stage.w.b);
        stage.end();
    }
}

#[test]
fn a_large_send_reaches_a_driver_that_cannot_take_it_in_segments() {
    let only_checksums = Settings {
        features: features::ALL & !features::OFFLOADS | features::GUEST_CSUM,
        ..Settings::plain()
    };
    let no_congestion =
        Settings { features: features::ALL & !features::GUEST_ECN, ..Settings::default() };
    for receiver in [Settings::plain(), only_checksums, no_congestion] {
        let mut stage = Stage::set(&wiring(receiver));
        for large in table(vm(0), vm(1), LONGEST) {
            let (header, datagram) = large.whole();
            let frame = stage.w.from_a(&datagram);
            stage.w.a.send(&header, &frame).unwrap();
            let takes = stage.w.b.features & features::GUEST_TSO4 != 0;
            if takes && large.flags & CWR == 0 {
                let _ = next(&mut stage.w.b).unwrap();
            } else {
                arrives_in_segments(&mut stage, &large);
            }
        }
        nothing_more(&mut stage.w.b);
        stage.end();
    }
}

fn arrives_in_segments(stage: &mut Stage, large: &Large) {
    let segments = large.segments();
    let mut arrived = Vec::new();
    while arrived.len() < segments.len() {
        let Some((header, frame)) = next(&mut stage.w.b) else { break };
        assert!(is_plain(&header), "{}: {header:?}", large.name);
        arrived.push(datagram_of(&frame).to_vec());
    }
    same(large.name, &segments, &arrived);
    // What the segments carry is what the large send carried.
    let carried: Vec<u8> =
        arrived.iter().flat_map(|segment| &segment[large.headers()..]).copied().collect();
    assert!(carried == large.payload, "{}", large.name);
}

#[test]
fn a_large_send_to_the_lan_is_left_to_the_card() {
    let mut stage = Stage::set(&wiring(Settings::default()));
    stage.meet_outside(vm(0), OUTSIDE);
    for large in table(vm(0), OUTSIDE, LONGEST_OF_KERNEL) {
        let (header, datagram) = large.whole();
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send(&header, &frame).unwrap();
        let seen = stage.out(vm(0), 1);
        let (mut got, came) = seen.into_iter().next().unwrap();
        // A hint, which the kernel gives as it likes.
        got.hdr_len = header.hdr_len;
        assert!(same_header(&got, &header), "{}: {got:?}, sent {header:?}", large.name);
        same(large.name, &[(large.name, datagram)], &[came]);
    }
    stage.end();
}

#[test]
fn a_large_send_is_on_the_wire_in_segments_where_the_card_cannot_cut() {
    let mut stage = Stage::set(&wiring(Settings::default()));
    stage.meet_outside(vm(0), OUTSIDE);
    stage.card("tso off tx off");
    for large in table(vm(0), OUTSIDE, LONGEST_OF_KERNEL) {
        let (header, datagram) = large.whole();
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send(&header, &frame).unwrap();
        let segments = large.segments();
        let seen = stage.out(vm(0), segments.len());
        assert!(seen.iter().all(|(header, _)| is_plain(header)), "{}", large.name);
        let seen: Vec<_> = seen.into_iter().map(|(_, datagram)| datagram).collect();
        same(large.name, &segments, &seen);
    }
    stage.end();
}

#[test]
fn a_large_send_from_the_lan_arrives_whole_or_in_segments_as_the_driver_takes_it() {
    for (receiver, whole) in [(Settings::default(), true), (Settings::plain(), false)] {
        let mut stage = Stage::set(&wiring(receiver));
        for large in table(OUTSIDE, vm(1), LONGEST_OF_KERNEL) {
            let (header, datagram) = large.whole();
            stage.w.tap.send_with(header, &stage.w.from_lan(&datagram)).unwrap();
            if !whole {
                arrives_in_segments(&mut stage, &large);
                continue;
            }
            let (got, frame) = next(&mut stage.w.b).unwrap();
            assert!(same_header(&got, &header), "{}: {got:?}, sent {header:?}", large.name);
            same(large.name, &[(large.name, datagram)], &[datagram_of(&frame).to_vec()]);
        }
        nothing_more(&mut stage.w.b);
        stage.end();
    }
}

#[test]
fn a_large_send_between_vm_and_host_travels_whole_both_ways() {
    let mut stage = Stage::set(&wiring(Settings::default()));
    let tap = stage.host_tap();
    let host = lab::scene::HOST;
    // On a device without Ethernet, offsets count from the IP header.
    let on_tun =
        |h: NetHeader| NetHeader { hdr_len: h.hdr_len - 14, csum_start: h.csum_start - 14, ..h };
    for large in table(vm(0), host, LONGEST_OF_KERNEL) {
        let (header, datagram) = large.whole();
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send(&header, &frame).unwrap();
        let seen: Frame = loop {
            let seen = tap.receive(LIMIT).unwrap().unwrap();
            if !seen.outgoing {
                break seen;
            }
        };
        same(large.name, &[(large.name, datagram)], &[seen.bytes]);
        assert_eq!(seen.header.gso_size, header.gso_size, "{}", large.name);
    }
    for large in table(host, vm(1), LONGEST_OF_KERNEL) {
        let (header, datagram) = large.whole();
        tap.send_with(on_tun(header), &datagram).unwrap();
        let (got, frame) = next(&mut stage.w.b).unwrap();
        assert!(same_header(&got, &header), "{}: {got:?}, sent {header:?}", large.name);
        same(large.name, &[(large.name, datagram)], &[datagram_of(&frame).to_vec()]);
    }
    stage.end();
}

#[test]
fn a_large_send_whose_segments_do_not_fit_the_lan_is_refused_and_the_sender_told() {
    let scene = lab::scene::Scene::set().unwrap();
    card(&scene, "tso on");
    let network = "mtu = 9000".to_owned();
    let mut stage = Stage::on(scene, &Wiring { network, ..Wiring::default() });
    stage.meet_outside(vm(0), OUTSIDE);
    let pairs = vm(0).into_iter().zip(OUTSIDE);
    for (from, to) in pairs {
        let (header, datagram) = Large::new("too large", from, to, 8000, 40_000).whole();
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send(&header, &frame).unwrap();
        let (_, error) = next(&mut stage.w.a).unwrap();
        let error = datagram_of(&error);
        // Fragmentation needed, or packet too big: 1500 octets would fit.
        let (told, mtu, quoted) = match from {
            IpAddr::V4(_) => (error[20..22] == [3, 4], &error[26..28], &error[28..]),
            IpAddr::V6(_) => (error[40..42] == [2, 0], &error[46..48], &error[48..]),
        };
        assert!(told && mtu == 1500u16.to_be_bytes(), "{error:02x?}");
        assert_eq!(quoted, &datagram[..quoted.len()]);
    }
    assert_eq!(stage.out(vm(0), 0), []);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "drop.segment_too_big"), 2);
}

//! The named exceptions to "unchanged": what the sender left to offload, and fragmentation.

use std::net::IpAddr;
use std::time::Duration;

use lab::driver::{Settings, features};
use lab::frames::{self, Ip4, pattern, protocol};
use lab::scene::{OUTSIDE, vm};
use lab::wired::{LIMIT, Wired, Wiring, delivered};
use virtqueue::NetHeader;

/// Octets of TCP data in a large send.
const DATA: usize = 60_000;
/// Octets of data in each of its segments.
const SEGMENT: u16 = 1400;
/// Where the checksum lies in a TCP header.
const TCP_SUM: usize = 16;

fn ip_header(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// A large send: a TCP datagram with its header's fields for offload.
fn large(source: IpAddr, destination: IpAddr) -> (NetHeader, Vec<u8>) {
    let mut segment = frames::tcp(source, destination, (5000, 5001), 0x18, &[], &pattern(DATA));
    frames::leave_checksum(source, destination, protocol::TCP, &mut segment, TCP_SUM);
    let datagram = frames::datagram(source, destination, protocol::TCP, segment);
    let start = 14 + ip_header(source) as u16;
    let v4 = source.is_ipv4();
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        gso_type: if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 },
        hdr_len: start + 20,
        gso_size: SEGMENT,
        csum_start: start,
        csum_offset: TCP_SUM as u16,
        num_buffers: 0,
    };
    (header, datagram)
}

/// Checks one segment and gives its sequence number and data. `whole` says whether its checksum
/// must be complete.
fn segment(datagram: &[u8], source: IpAddr, destination: IpAddr, whole: bool) -> (u32, Vec<u8>) {
    let header = ip_header(source);
    let length = match source {
        IpAddr::V4(_) => {
            assert_eq!(frames::checksum(&[&datagram[..20]]), 0, "IPv4 header checksum");
            u16::from_be_bytes([datagram[2], datagram[3]]) as usize
        }
        IpAddr::V6(_) => 40 + u16::from_be_bytes([datagram[4], datagram[5]]) as usize,
    };
    assert_eq!(length, datagram.len());
    let message = &datagram[header..];
    if whole {
        assert!(frames::sums_up(source, destination, protocol::TCP, message));
    }
    let sequence = u32::from_be_bytes(*message[4..].first_chunk().unwrap());
    (sequence, message[20..].to_vec())
}

/// Puts segments together, which must follow each other, and compares with what was sent.
fn assert_whole(segments: &[(u32, Vec<u8>)]) {
    let mut next = 1000;
    let mut data: Vec<u8> = Vec::new();
    for (sequence, part) in segments {
        assert_eq!(*sequence, next);
        next += part.len() as u32;
        data.extend(part);
    }
    assert!(data == pattern(DATA), "{} octets arrived", data.len());
}

#[test]
fn a_large_send_crosses_whole_to_a_vm_that_takes_it() {
    let mut w = Wired::up(&Wiring::default()).unwrap();
    for (s, d) in vm(0).into_iter().zip(vm(1)) {
        let (header, datagram) = large(s, d);
        let frame = w.from_a(&datagram);
        w.a.send(&header, &frame).unwrap();
        let (got, _) = delivered(&mut w.b, &datagram).unwrap();
        assert_eq!(got.flags & NetHeader::F_NEEDS_CSUM, NetHeader::F_NEEDS_CSUM);
        assert_eq!((got.gso_type, got.gso_size), (header.gso_type, header.gso_size));
        assert_eq!((got.csum_start, got.csum_offset), (header.csum_start, header.csum_offset));
    }
}

#[test]
fn a_large_send_is_cut_for_a_vm_that_does_not_take_it() {
    let drivers = [Settings::default(), Settings::plain()];
    let mut w = Wired::up(&Wiring { drivers, ..Wiring::default() }).unwrap();
    for (s, d) in vm(0).into_iter().zip(vm(1)) {
        let (header, datagram) = large(s, d);
        let frame = w.from_a(&datagram);
        w.a.send(&header, &frame).unwrap();
        let mut segments = Vec::new();
        while segments.len() < DATA.div_ceil(SEGMENT.into()) {
            let wanted = |_: &NetHeader, f: &[u8]| f.len() > 14 + ip_header(s) + 20 + 100;
            let (got, frame) = w.b.receive_matching(LIMIT, wanted).unwrap().expect("a segment");
            assert_eq!((got.flags & NetHeader::F_NEEDS_CSUM, got.gso_type), (0, 0));
            segments.push(segment(frames::datagram_of(&frame), s, d, true));
        }
        assert!(segments.iter().all(|(_, data)| data.len() <= SEGMENT.into()));
        assert_whole(&segments);
    }
    let counters = w.instance.counters().unwrap();
    assert_eq!(counters.get("vm/b", "segmented"), 2);
}

#[test]
fn a_large_send_reaches_the_lan_with_all_its_data() {
    let mut w = Wired::up(&Wiring::default()).unwrap();
    for (s, d) in vm(0).into_iter().zip(OUTSIDE) {
        let (header, datagram) = large(s, d);
        let frame = w.from_a(&datagram);
        w.a.send(&header, &frame).unwrap();
        let mut segments: Vec<(u32, Vec<u8>)> = Vec::new();
        while segments.iter().map(|(_, data)| data.len()).sum::<usize>() < DATA {
            let of_this = |f: &lab::capture::Frame| {
                f.bytes.len() > 14 + ip_header(s) + 20
                    && f.bytes[14] == datagram[0]
                    && f.bytes[14 + ip_header(s)..][..4] == datagram[ip_header(s)..][..4]
            };
            let got = w.seen_outside("a segment", of_this).unwrap();
            assert_eq!(got.bytes[6..12], w.card_mac);
            let complete = got.header.flags & NetHeader::F_NEEDS_CSUM == 0;
            segments.push(segment(frames::datagram_of(&got.bytes), s, d, complete));
        }
        assert_whole(&segments);
    }
}

#[test]
fn a_checksum_left_to_offload_is_passed_on_or_completed() {
    for guest_checksum in [true, false] {
        let without = features::ALL & !features::OFFLOADS;
        let receiver = if guest_checksum { without | features::GUEST_CSUM } else { without };
        let drivers = [Settings::default(), Settings { features: receiver, ..Settings::default() }];
        let mut w = Wired::up(&Wiring { drivers, ..Wiring::default() }).unwrap();
        for (s, d) in vm(0).into_iter().zip(vm(1)) {
            let whole = frames::udp(s, d, (5000, 5001), &pattern(777));
            let mut message = whole.clone();
            frames::leave_checksum(s, d, protocol::UDP, &mut message, 6);
            let start = 14 + ip_header(s) as u16;
            let header = NetHeader {
                flags: NetHeader::F_NEEDS_CSUM,
                csum_start: start,
                csum_offset: 6,
                ..NetHeader::default()
            };
            let frame = w.from_a(&frames::datagram(s, d, protocol::UDP, message.clone()));
            w.a.send(&header, &frame).unwrap();
            let wanted = if guest_checksum { message } else { whole };
            let wanted = frames::datagram(s, d, protocol::UDP, wanted);
            let (got, _) = delivered(&mut w.b, &wanted).unwrap();
            let needs = got.flags & NetHeader::F_NEEDS_CSUM != 0;
            assert_eq!(needs, guest_checksum, "{s}");
        }
    }
}

#[test]
fn towards_a_smaller_link_ip4_is_fragmented_unless_it_says_no_and_the_sender_is_told() {
    let wiring = Wiring { vms: ["mtu = 4000".to_owned(), String::new()], ..Wiring::default() };
    let mut w = Wired::up(&wiring).unwrap();
    let (IpAddr::V4(s), IpAddr::V4(d)) = (vm(0)[0], OUTSIDE[0]) else { panic!() };
    let whole = Ip4::new(s, d, protocol::EXPERIMENT, pattern(3000));
    let frame = w.from_a(&whole.bytes());
    w.a.send_plain(&frame).unwrap();
    let mut parts: Vec<(usize, bool, Vec<u8>)> = Vec::new();
    while parts.iter().map(|p| p.2.len()).sum::<usize>() < 3000 {
        let of_this = |f: &lab::capture::Frame| {
            f.bytes.get(12..14) == Some(&[8, 0]) && f.bytes.get(23) == Some(&protocol::EXPERIMENT)
        };
        let got = w.seen_outside("a fragment", of_this).unwrap();
        let datagram = frames::datagram_of(&got.bytes);
        assert!(datagram.len() <= 1500 && frames::checksum(&[&datagram[..20]]) == 0);
        assert_eq!(datagram[4..6], whole.identification.to_be_bytes());
        assert_eq!((datagram[8], datagram[12..20].to_vec()), (64, whole.bytes()[12..20].to_vec()));
        let field = u16::from_be_bytes([datagram[6], datagram[7]]);
        let place = usize::from(field & 0x1fff) * 8;
        parts.push((place, field & 0x2000 != 0, datagram[20..].to_vec()));
    }
    parts.sort();
    let last = parts.len() - 1;
    assert!(parts.iter().enumerate().all(|(i, p)| p.1 == (i < last)));
    assert_eq!(parts.iter().map(|p| p.0).next_back(), Some(3000 - parts[last].2.len()));
    assert_eq!(parts.into_iter().flat_map(|p| p.2).collect::<Vec<_>>(), pattern(3000));

    let (told4, told6) = ((3, 4), (2, 0));
    let refused4 = Ip4 { dont_fragment: true, ..whole }.bytes();
    let refused6 = frames::datagram(vm(0)[1], OUTSIDE[1], protocol::EXPERIMENT, pattern(3000));
    for (refused, (kind, code), header) in [(refused4, told4, 20), (refused6, told6, 40)] {
        let before = w.instance.counters().unwrap();
        let frame = w.from_a(&refused);
        w.a.send_plain(&frame).unwrap();
        let icmp = |_: &NetHeader, f: &[u8]| f.get(14 + header..16 + header) == Some(&[kind, code]);
        let (_, told) = w.a.receive_matching(LIMIT, icmp).unwrap().expect("an ICMP error");
        let message = &told[14 + header..];
        assert_eq!(u16::from_be_bytes([message[6], message[7]]), 1500);
        // The beginning of what was refused comes back unchanged.
        let quoted = &message[8..];
        assert_eq!(quoted[..28], refused[..28]);
        let grown = w.instance.counters().unwrap().since(&before);
        assert_eq!(grown.get("vm/a", "drop.too_big"), 1);
    }
    assert!(w.b.receive(Duration::from_millis(10)).unwrap().is_none_or(|(_, f)| f[12] == 0x86));
}

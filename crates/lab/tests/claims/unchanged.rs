//! Unchanged: the datagram that arrives is the datagram that was sent, octet by octet, on every way
//! there is, and nothing else arrives.

use std::net::IpAddr;

use lab::driver::{DriverPort, Settings, features};
use lab::frames::{self, Ip4, datagram_of, pattern, protocol};
use lab::scene::{HOST, OUTSIDE, vm};
use lab::wired::{MACS, Wiring};
use virtqueue::NetHeader;
use virtqueue::driver::Shape;

use super::cases::cases;
use super::checks::{JUMBO, Stage, is_plain, next, nothing_more, same};
use super::large::Large;

/// As the first VM would be if it could be anywhere: a table has at least so many cases.
const ENOUGH: usize = 80;

#[test]
fn from_vm_to_vm_nothing_changes() {
    let mut stage = Stage::jumbo();
    let cases = cases(vm(0), vm(1));
    assert!(cases.len() >= ENOUGH);
    let mut arrived = Vec::new();
    for (name, datagram) in &cases {
        let frame = stage.w.from_a(datagram);
        stage.w.a.send_plain(&frame).unwrap();
        let (header, frame) = next(&mut stage.w.b).unwrap_or_else(|| panic!("{name}: nothing"));
        assert_eq!(frame[..12], [MACS[1], stage.w.base_mac].concat(), "{name}");
        assert!(is_plain(&header), "{name}: {header:?}");
        arrived.push(datagram_of(&frame).to_vec());
    }
    same("VM to VM", &cases, &arrived);
    nothing_more(&mut stage.w.b);
    nothing_more(&mut stage.w.a);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "to_vm"), cases.len() as u64);
    assert_eq!(counters.get("vm/b", "delivered"), cases.len() as u64);
}

#[test]
fn from_vm_to_the_lan_nothing_changes_and_the_source_is_the_cards_mac() {
    let mut stage = Stage::jumbo();
    stage.meet_outside(vm(0), OUTSIDE);
    let cases = cases(vm(0), OUTSIDE);
    assert!(cases.len() >= ENOUGH);
    for (_, datagram) in &cases {
        let frame = stage.w.from_a(datagram);
        stage.w.a.send_plain(&frame).unwrap();
    }
    let seen = stage.out(vm(0), cases.len());
    assert!(seen.iter().all(|(header, _)| is_plain(header)));
    let seen: Vec<_> = seen.into_iter().map(|(_, datagram)| datagram).collect();
    same("VM to LAN", &cases, &seen);
    nothing_more(&mut stage.w.b);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "to_uplink"), cases.len() as u64 + 2);
}

#[test]
fn from_the_lan_to_a_vm_nothing_changes() {
    let mut stage = Stage::jumbo();
    let cases = cases(OUTSIDE, vm(0));
    let mut arrived = Vec::new();
    for (name, datagram) in &cases {
        stage.w.tap.send(&stage.w.from_lan(datagram)).unwrap();
        let (_, frame) = next(&mut stage.w.a).unwrap_or_else(|| panic!("{name}: nothing"));
        assert_eq!(frame[..12], [MACS[0], stage.w.base_mac].concat(), "{name}");
        arrived.push(datagram_of(&frame).to_vec());
    }
    same("LAN to VM", &cases, &arrived);
    nothing_more(&mut stage.w.a);
    nothing_more(&mut stage.w.b);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "delivered"), cases.len() as u64);
}

#[test]
fn from_vm_to_the_host_nothing_changes() {
    let mut stage = Stage::jumbo();
    let cases = cases(vm(0), HOST);
    let tap = stage.host_tap();
    let mut arrived = Vec::new();
    for (name, datagram) in &cases {
        let frame = stage.w.from_a(datagram);
        stage.w.a.send_plain(&frame).unwrap();
        loop {
            let seen = tap.receive(lab::wired::LIMIT).unwrap();
            let seen = seen.unwrap_or_else(|| panic!("{name}: nothing"));
            // The host's stack may have an answer.
            if !seen.outgoing {
                arrived.push(seen.bytes);
                break;
            }
        }
    }
    same("VM to host", &cases, &arrived);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "to_host"), cases.len() as u64);
}

#[test]
fn from_the_host_to_a_vm_nothing_changes() {
    let mut stage = Stage::jumbo();
    let cases = cases(HOST, vm(0));
    let tap = stage.host_tap();
    let mut arrived = Vec::new();
    for (name, datagram) in &cases {
        tap.send(datagram).unwrap();
        let (_, frame) = next(&mut stage.w.a).unwrap_or_else(|| panic!("{name}: nothing"));
        arrived.push(datagram_of(&frame).to_vec());
    }
    same("host to VM", &cases, &arrived);
    nothing_more(&mut stage.w.a);
    stage.end();
}

#[test]
fn a_datagram_arrives_whole_however_its_driver_cut_it_into_buffers() {
    let known = features::VERSION_1 | features::PROTOCOL;
    let drivers = [
        Settings::default(),
        Settings::plain(),
        Settings { features: features::PROTOCOL, ..Settings::plain() },
        Settings { features: known, ..Settings::plain() },
        Settings {
            features: known | features::MRG_RXBUF,
            buffer: 200,
            ring: 64,
            ..Settings::default()
        },
        Settings {
            features: known | features::EVENT_IDX | features::INDIRECT_DESC,
            ..Settings::plain()
        },
    ];
    let cuts: [&[usize]; 5] = [&[], &[12], &[12, 14, 20], &[5, 7, 1, 20], &[0, 3, 0, 900]];
    let mut stage = Stage::jumbo();
    let (source, destination) = (vm(0)[0], vm(1)[0]);
    let mut sent = 0u64;
    for settings in &drivers {
        for (port, name) in [(&mut stage.w.a, "a"), (&mut stage.w.b, "b")] {
            // The old front end goes first: a port has one.
            let socket = stage.w.instance.socket(name);
            port.front_end.stream().shutdown(std::net::Shutdown::Both).unwrap();
            *port = DriverPort::connect(&socket, settings).unwrap();
        }
        for length in [20, 21, 600, 1500, 8999] {
            for cuts in cuts {
                let payload = pattern(length - 20);
                let datagram = frames::datagram(source, destination, protocol::EXPERIMENT, payload);
                let indirect = stage.w.a.features & features::INDIRECT_DESC != 0;
                for table in [None, Some(0), Some(1)] {
                    let frame = stage.w.from_a(&datagram);
                    let shape = Shape { cuts, table: table.filter(|_| indirect) };
                    stage.w.a.send_shaped(&NetHeader::default(), &frame, shape).unwrap();
                    let (_, frame) = next(&mut stage.w.b).unwrap();
                    assert_eq!(datagram_of(&frame), datagram, "{settings:?} {shape:?}");
                    sent += 1;
                }
            }
        }
        nothing_more(&mut stage.w.b);
    }
    assert_eq!(stage.end().get("vm/b", "delivered"), sent);
}

#[test]
fn padding_behind_a_short_datagram_stays_on_its_link() {
    let mut stage = Stage::jumbo();
    stage.meet_outside(vm(0), OUTSIDE);
    #[allow(clippy::needless_range_loop, reason = "the family, in three tables")]
    for i in 0..2 {
        let short = |source: IpAddr, destination: IpAddr| {
            frames::datagram(source, destination, protocol::EXPERIMENT, vec![9])
        };
        let padded = |mut frame: Vec<u8>| {
            frame.resize(60.max(frame.len() + 3), 0xee);
            frame
        };
        let datagram = short(OUTSIDE[i], vm(0)[i]);
        stage.w.tap.send(&padded(stage.w.from_lan(&datagram))).unwrap();
        assert_eq!(datagram_of(&next(&mut stage.w.a).unwrap().1), datagram);

        let datagram = short(vm(0)[i], vm(1)[i]);
        let frame = padded(stage.w.from_a(&datagram));
        stage.w.a.send_plain(&frame).unwrap();
        assert_eq!(datagram_of(&next(&mut stage.w.b).unwrap().1), datagram);

        let datagram = short(vm(0)[i], OUTSIDE[i]);
        let frame = padded(stage.w.from_a(&datagram));
        stage.w.a.send_plain(&frame).unwrap();
        assert_eq!(stage.out(vm(0), 1)[0].1, datagram);
    }
    stage.end();
}

#[test]
fn every_ip4_length_up_to_200_arrives_as_it_is() {
    let mut stage = Stage::jumbo();
    let (IpAddr::V4(s), IpAddr::V4(d)) = (vm(0)[0], vm(1)[0]) else { panic!() };
    for length in 0..=180 {
        let datagram = Ip4::new(s, d, protocol::EXPERIMENT, pattern(length)).bytes();
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send_plain(&frame).unwrap();
        assert_eq!(datagram_of(&next(&mut stage.w.b).unwrap().1), datagram);
    }
    stage.end();
}

#[test]
fn the_receivers_header_is_built_afresh() {
    let mut stage = Stage::jumbo();
    let (s, d) = (vm(0)[0], vm(1)[0]);
    let datagram = frames::datagram(s, d, protocol::UDP, frames::udp(s, d, (1, 2), &pattern(64)));
    // Nothing is left to offload, and yet these fields are not zero; nor is the sender's word that
    // the checksum is right worth anything.
    let lies = [
        NetHeader { hdr_len: 77, csum_start: 3, csum_offset: 5, ..NetHeader::default() },
        NetHeader { flags: NetHeader::F_DATA_VALID, num_buffers: 9, ..NetHeader::default() },
        NetHeader { gso_size: 1000, hdr_len: 9999, ..NetHeader::default() },
    ];
    for header in lies {
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send(&header, &frame).unwrap();
        let (got, frame) = next(&mut stage.w.b).unwrap();
        assert!(is_plain(&got), "{got:?}");
        assert_eq!(datagram_of(&frame), datagram);
    }
    stage.end();
}

#[test]
fn macs_play_no_part_in_the_way_of_a_datagram() {
    let mut stage = Stage::jumbo();
    let (s, d) = (vm(0)[0], vm(1)[0]);
    let datagram = frames::datagram(s, d, protocol::EXPERIMENT, pattern(64));
    // To nobody, to all, to the wrong VM, from a stranger: the destination's IP address decides.
    for to in [[2, 9, 9, 9, 9, 9], [0xff; 6], MACS[0], [0x33, 0x33, 0, 0, 0, 1]] {
        for from in [MACS[0], MACS[1], [2, 8, 8, 8, 8, 8]] {
            stage.w.a.send_plain(&frames::carry(to, from, &datagram)).unwrap();
            let (_, frame) = next(&mut stage.w.b).unwrap();
            assert_eq!(frame[..12], [MACS[1], stage.w.base_mac].concat());
            assert_eq!(datagram_of(&frame), datagram);
        }
    }
    nothing_more(&mut stage.w.a);
    nothing_more(&mut stage.w.b);
    stage.end();
}

#[test]
fn what_waits_for_a_neighbour_goes_out_unchanged_and_in_order() {
    let mut stage = Stage::beyond_xdp();
    for (from, to) in vm(0).into_iter().zip(OUTSIDE) {
        // Nobody has asked for this neighbour yet.
        let large = Large::new("a large send", from, to, 1400, 30_000).whole();
        let plain = |n| {
            let datagram = frames::datagram(from, to, protocol::EXPERIMENT, pattern(n));
            (NetHeader::default(), datagram)
        };
        let sent = [plain(1), large, plain(0), plain(8000), plain(7)];
        for (header, datagram) in &sent {
            let frame = stage.w.from_a(datagram);
            stage.w.a.send(header, &frame).unwrap();
        }
        let seen = stage.out(vm(0), sent.len());
        let without_hint = |h: &NetHeader| NetHeader { hdr_len: 0, ..*h };
        for ((header, datagram), (seen_header, seen)) in sent.iter().zip(&seen) {
            assert_eq!(without_hint(seen_header), without_hint(header));
            assert!(seen == datagram, "{} octets", datagram.len());
        }
        assert_eq!(seen.len(), sent.len());
    }
    let counters = stage.end();
    assert!(counters.get("vm/a", "waited") >= 2);
    assert_eq!(counters.get("vm/a", "to_uplink"), 10);
}

#[test]
fn nothing_arrives_over_a_cut_cable() {
    let mut stage = Stage::set(&Wiring { mtu: JUMBO, ..Wiring::default() });
    stage.meet_outside(vm(0), OUTSIDE);
    stage.w.scene.outside.run("ip link set lan0 down").unwrap();
    let datagram = frames::datagram(vm(0)[0], OUTSIDE[0], protocol::EXPERIMENT, pattern(64));
    let frame = stage.w.from_a(&datagram);
    stage.w.a.send_plain(&frame).unwrap();
    stage.w.a.wait_sent(lab::wired::LIMIT).unwrap();
    assert_eq!(stage.out(vm(0), 0), []);
    stage.end();
}

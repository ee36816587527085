//! Third exception: an IPv4 datagram that may be fragmented and does not fit the next link.
//!
//! It arrives in fragments that are, put together again, the datagram that was sent. Where it may not
//! be fragmented, and always in IPv6, it is dropped by name, and its sender told what would fit.

use std::net::{IpAddr, Ipv4Addr};

use lab::frames::{self, Ip4, datagram_of, fix_ip4_checksum, pattern, protocol};
use lab::scene::{OUTSIDE, Pair, vm};
use lab::wired::Wiring;
use virtqueue::NetHeader;

use super::checks::{Stage, is_plain, next, nothing_more, same};
use super::open_checksums::Open;

/// Octets that the small link carries.
const SMALL: usize = 1500;
/// Octets that the large link carries.
const LARGE: u16 = 9000;

/// Options: router alert, which every fragment keeps, and record route, which only the first does.
const OPTIONS: [u8; 12] = [148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0];
const KEPT: usize = 4;

/// One datagram that is too long, by name.
struct Long {
    name: &'static str,
    ip: Ip4,
}

fn table(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<Long> {
    let (s, d) = (IpAddr::V4(source), IpAddr::V4(destination));
    let udp = |length: usize| {
        let message = frames::udp(s, d, (4000, 4001), &pattern(length - 28));
        Ip4::new(source, destination, protocol::UDP, message)
    };
    let other =
        |length: usize| Ip4::new(source, destination, protocol::EXPERIMENT, pattern(length - 20));
    let piece =
        |more_fragments, fragment_offset| Ip4 { more_fragments, fragment_offset, ..other(4020) };
    let long = |name, ip| Long { name, ip };
    vec![
        long("one octet too long", udp(SMALL + 1)),
        long("of two full fragments", other(20 + 2 * 1480)),
        long("of two full fragments and one octet", other(20 + 2 * 1480 + 1)),
        long("4000 octets", udp(4000)),
        long("9000 octets", udp(9000)),
        long("8999 octets of an unknown protocol", other(8999)),
        long("TTL 1, marked", Ip4 { ttl: 1, service: 0xbb, ..udp(3000) }),
        long("with options", Ip4 { options: OPTIONS.to_vec(), ..udp(4000) }),
        long("with 40 octets of options", Ip4 { options: vec![1; 40], ..udp(4000) }),
        long("a first fragment", piece(true, 0)),
        long("a middle fragment", piece(true, 500)),
        long("a last fragment", piece(false, 1000)),
    ]
}

/// Puts fragments together to the datagram that they were, and checks each on the way.
fn reassembled(name: &str, original: &[u8], fragments: &[Vec<u8>]) -> Vec<u8> {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let header_of = |bytes: &[u8]| usize::from(bytes[0] & 15) * 4;
    let (mut whole, mut last) = (Vec::new(), false);
    for (i, fragment) in fragments.iter().enumerate() {
        let header = header_of(fragment);
        assert!(!last, "{name}: something follows the last fragment");
        assert!(fragment.len() <= SMALL, "{name}: a fragment of {} octets", fragment.len());
        assert_eq!(usize::from(word(fragment, 2)), fragment.len(), "{name}");
        assert_eq!(frames::checksum(&[&fragment[..header]]), 0, "{name}: header checksum");
        // Service, identification, TTL, protocol, addresses.
        for range in [1..2, 4..6, 8..10, 12..20] {
            assert_eq!(fragment[range.clone()], original[range], "{name}");
        }
        let offset = usize::from(word(fragment, 6) & 0x1fff) * 8;
        let before = usize::from(word(original, 6) & 0x1fff) * 8;
        if i == 0 {
            whole.extend(&fragment[..header]);
        } else if original[20..].starts_with(&OPTIONS) {
            // Options that are not to be copied are left out.
            assert_eq!(fragment[20..header], OPTIONS[..KEPT], "{name}");
        }
        assert_eq!(offset - before, whole.len() - header_of(&whole), "{name}: a gap");
        whole.extend(&fragment[header..]);
        last = word(fragment, 6) & 0x2000 == 0;
    }
    assert_eq!(last, word(original, 6) & 0x2000 == 0, "{name}: the last fragment");
    let length = (whole.len() as u16).to_be_bytes();
    whole[2..4].copy_from_slice(&length);
    whole[6..8].copy_from_slice(&original[6..8]);
    fix_ip4_checksum(&mut whole);
    whole
}

/// How many fragments there have to be.
fn pieces(ip: &Ip4) -> usize {
    let first = (SMALL - 20 - ip.options.len()) / 8 * 8;
    let later = SMALL - 20 - if ip.options == OPTIONS { KEPT } else { 0 };
    let rest = ip.payload.len() - first;
    1 + if ip.options.first() == Some(&1) {
        // No-operation options are not copied.
        rest.div_ceil(1480)
    } else {
        rest.div_ceil(later / 8 * 8)
    }
}

fn v4(pair: Pair) -> Ipv4Addr {
    match pair[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("a pair is IPv4, IPv6"),
    }
}

/// VMs on large links, a LAN with a small one.
fn small_lan() -> Stage {
    let network = format!("mtu = {LARGE}");
    let mut stage = Stage::set(&Wiring { network, ..Wiring::default() });
    stage.meet_outside(vm(0), OUTSIDE);
    stage
}

/// VMs on small links, a LAN with a large one.
fn small_vms() -> Stage {
    let network = format!("mtu = {SMALL}");
    Stage::set(&Wiring { mtu: LARGE, network, ..Wiring::default() })
}

#[test]
fn what_is_too_long_for_the_lan_is_on_the_wire_in_fragments() {
    let mut stage = small_lan();
    let table = table(v4(vm(0)), v4(OUTSIDE));
    let mut cut = 0;
    for Long { name, ip } in &table {
        let datagram = ip.bytes();
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send_plain(&frame).unwrap();
        let count = pieces(ip);
        let seen = stage.out(vm(0), count);
        assert!(seen.iter().all(|(header, _)| is_plain(header)), "{name}");
        let seen: Vec<_> = seen.into_iter().map(|(_, fragment)| fragment).collect();
        assert_eq!(seen.len(), count, "{name}");
        same(name, &[(name, datagram.clone())], &[reassembled(name, &datagram, &seen)]);
        cut += count;
    }
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "fragmented"), table.len() as u64);
    assert_eq!(counters.get("vm/a", "to_uplink"), cut as u64 + 2);
}

#[test]
fn what_is_too_long_for_a_vm_arrives_in_fragments() {
    let mut stage = small_vms();
    for (from_lan, source) in [(true, OUTSIDE), (false, vm(0))] {
        for Long { name, ip } in table(v4(source), v4(vm(1))) {
            let datagram = ip.bytes();
            if from_lan {
                stage.w.tap.send(&stage.w.from_lan(&datagram)).unwrap();
            } else {
                let frame = stage.w.from_a(&datagram);
                stage.w.a.send_plain(&frame).unwrap();
            }
            let mut fragments = Vec::new();
            for _ in 0..pieces(&ip) {
                let (header, frame) = next(&mut stage.w.b).unwrap();
                assert!(is_plain(&header), "{name}");
                fragments.push(datagram_of(&frame).to_vec());
            }
            same(name, &[(name, datagram.clone())], &[reassembled(name, &datagram, &fragments)]);
        }
    }
    nothing_more(&mut stage.w.b);
    stage.end();
}

#[test]
fn an_open_checksum_is_filled_in_before_a_datagram_is_cut() {
    let mut stage = small_lan();
    let (s, d) = (vm(0)[0], OUTSIDE[0]);
    let message = frames::udp(s, d, (4000, 4001), &pattern(5001));
    let complete = frames::datagram(s, d, protocol::UDP, message);
    let open = Open::new("UDP", complete.clone(), 20, protocol::UDP);
    let frame = stage.w.from_a(&open.open);
    stage.w.a.send(&open.header, &frame).unwrap();
    let seen: Vec<_> = stage.out(vm(0), 4).into_iter().map(|(_, fragment)| fragment).collect();
    same("UDP", &[("UDP", complete.clone())], &[reassembled("UDP", &complete, &seen)]);
    stage.end();
}

#[test]
fn fragments_wait_for_a_neighbour_like_whole_datagrams() {
    let network = format!("mtu = {LARGE}");
    let mut stage = Stage::set(&Wiring { network, ..Wiring::default() });
    let datagram = Ip4::new(v4(vm(0)), v4(OUTSIDE), protocol::EXPERIMENT, pattern(8000)).bytes();
    let frame = stage.w.from_a(&datagram);
    stage.w.a.send_plain(&frame).unwrap();
    let seen: Vec<_> = stage.out(vm(0), 6).into_iter().map(|(_, fragment)| fragment).collect();
    same("8000", &[("8000", datagram.clone())], &[reassembled("8000", &datagram, &seen)]);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "waited"), 6);
}

/// Whether `error` tells the sender of `datagram` that `mtu` octets would fit.
fn tells_too_big(error: &[u8], datagram: &[u8], mtu: u16) {
    let (kind, told, quoted, most) = match datagram[0] >> 4 {
        4 => (error[20..22] == [3, 4], &error[26..28], &error[28..], 576),
        _ => (error[40..42] == [2, 0], &error[46..48], &error[48..], 1280),
    };
    assert!(kind, "{error:02x?}");
    assert_eq!(told, mtu.to_be_bytes());
    assert!(error.len() <= most && quoted.len() > 200, "{} octets", error.len());
    assert_eq!(quoted, &datagram[..quoted.len()]);
}

/// Datagrams that must not be cut.
fn not_to_be_cut(from: Pair, to: Pair) -> Vec<Vec<u8>> {
    let four = Ip4 { dont_fragment: true, ..Ip4::new(v4(from), v4(to), 253, pattern(SMALL - 19)) };
    let six = frames::datagram(from[1], to[1], protocol::EXPERIMENT, pattern(SMALL - 39));
    vec![four.bytes(), six]
}

#[test]
fn a_vm_that_forbids_fragments_is_told_what_fits_the_lan() {
    let mut stage = small_lan();
    for datagram in not_to_be_cut(vm(0), OUTSIDE) {
        let frame = stage.w.from_a(&datagram);
        stage.w.a.send_plain(&frame).unwrap();
        let (_, error) = next(&mut stage.w.a).unwrap();
        tells_too_big(datagram_of(&error), &datagram, SMALL as u16);
    }
    assert_eq!(stage.out(vm(0), 0), []);
    let counters = stage.end();
    assert_eq!(counters.get("vm/a", "drop.too_big"), 2);
    assert_eq!(counters.get("vm/a", "icmp_errors"), 2);
}

#[test]
fn a_machine_outside_that_forbids_fragments_is_told_what_fits_the_vms() {
    let mut stage = small_vms();
    stage.meet_outside(vm(0), OUTSIDE);
    for datagram in not_to_be_cut(OUTSIDE, vm(1)) {
        stage.w.tap.send(&stage.w.from_lan(&datagram)).unwrap();
        let kind = if datagram[0] >> 4 == 4 { protocol::ICMP } else { protocol::ICMP6 };
        let error = stage
            .w
            .seen_outside("an ICMP error", |f| {
                let ip = datagram_of(&f.bytes);
                let quotes = ip.windows(8).any(|w| w == &datagram[8..16]);
                ip.get(if ip[0] >> 4 == 4 { 9 } else { 6 }) == Some(&kind) && quotes
            })
            .unwrap();
        tells_too_big(datagram_of(&error.bytes), &datagram, SMALL as u16);
    }
    nothing_more(&mut stage.w.b);
    let counters = stage.end();
    assert_eq!(counters.get("uplink/lan", "drop.too_big"), 2);
}

#[test]
fn what_is_too_long_for_a_vm_is_cut_by_the_hosts_own_stack() {
    // The device towards the VMs has their MTU, so there is nothing left for the base to cut.
    let mut stage = small_vms();
    let (s, d) = (lab::scene::HOST[0], vm(1)[0]);
    let send = || {
        let socket = std::net::UdpSocket::bind((s, 4000)).unwrap();
        // Not to be marked DF: path MTU discovery off.
        socket.send_to(&pattern(4000), (d, 4001)).unwrap()
    };
    stage.w.scene.host.sysctl("net.ipv4.ip_no_pmtu_disc", "1").unwrap();
    assert_eq!(stage.w.scene.host.enter(send).unwrap(), 4000);
    let mut carried: Vec<u8> = Vec::new();
    while carried.len() < 4008 {
        let (header, frame) = next(&mut stage.w.b).expect("a fragment");
        assert_eq!(header.flags & NetHeader::F_NEEDS_CSUM, 0);
        assert!(datagram_of(&frame).len() <= SMALL);
        carried.extend(&frame[34..]);
    }
    assert_eq!(carried[8..], pattern(4000));
    nothing_more(&mut stage.w.b);
    stage.end();
}

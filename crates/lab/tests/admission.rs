//! Who may say what to whom: every kind of source against every kind of destination, from a VM and
//! from outside, in both families. Fates are counted at the drivers and on the LAN; drops by name
//! at the base.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lab::frames::{self, Ip6, fragment_header, options_header, protocol};
use lab::scene::{GATEWAY, HOST, OUTSIDE, Pair, vm};
use lab::wired::{LIMIT, Wired, Wiring};

/// Kinds of addresses. "Own" is VM a's, the one that sends or is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Own,
    OtherVm,
    Host,
    Gateway,
    Outside,
    Unspecified,
    Loopback,
    LinkLocal,
    Multicast,
    Broadcast,
    Reserved,
}
use Kind::*;

const KINDS: [Kind; 11] = [
    Own,
    OtherVm,
    Host,
    Gateway,
    Outside,
    Unspecified,
    Loopback,
    LinkLocal,
    Multicast,
    Broadcast,
    Reserved,
];

/// Where it must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    ToA,
    ToB,
    ToHost,
    ToLan,
    Drop(&'static str),
    /// The base does not even see it: the host's own traffic.
    NotOurs,
}

/// The address of a kind in a family (0: IPv4, 1: IPv6), if there is one.
fn address(kind: Kind, family: usize) -> Option<IpAddr> {
    let text: [&str; 2] = match kind {
        Own => return Some(vm(0)[family]),
        OtherVm => return Some(vm(1)[family]),
        Kind::Host => return Some(HOST[family]),
        Gateway => return Some(GATEWAY[family]),
        Outside => return Some(OUTSIDE[family]),
        Unspecified => ["0.0.0.0", "::"],
        Loopback => ["127.0.0.1", "::1"],
        LinkLocal => ["169.254.7.7", "fe80::7"],
        Multicast => ["224.0.0.251", "ff02::fb"],
        Broadcast if family == 1 => return None,
        Broadcast => ["255.255.255.255", ""],
        Reserved => ["240.0.0.1", "::ffff:203.0.113.50"],
    };
    text[family].parse().ok()
}

/// Why an address may not be a source, or a destination, wherever it is said.
fn refusal(kind: Kind) -> Option<[&'static str; 2]> {
    Some(match kind {
        Unspecified => ["drop.source_unspecified", "drop.destination_unspecified"],
        Loopback => ["drop.source_loopback", "drop.destination_loopback"],
        LinkLocal => ["drop.source_link_local", "drop.destination_link_local"],
        Multicast => ["drop.source_multicast", "drop.destination_multicast"],
        Broadcast => ["drop.source_broadcast", "drop.destination_broadcast"],
        Reserved => ["drop.source_reserved", "drop.destination_reserved"],
        _ => return None,
    })
}

fn fate_from_vm(source: Kind, destination: Kind) -> Fate {
    if let Some([name, _]) = refusal(source) {
        return Fate::Drop(name);
    }
    if source != Own {
        return Fate::Drop("drop.source_not_own");
    }
    if let Some([_, name]) = refusal(destination) {
        return Fate::Drop(name);
    }
    match destination {
        Own => Fate::Drop("drop.destination_own"),
        OtherVm => Fate::ToB,
        Kind::Host => Fate::ToHost,
        _ => Fate::ToLan,
    }
}

fn fate_from_lan(source: Kind, destination: Kind) -> Fate {
    if destination == Kind::Host {
        return Fate::NotOurs;
    }
    if let Some([name, _]) = refusal(source) {
        return Fate::Drop(name);
    }
    if matches!(source, Own | OtherVm | Kind::Host) {
        return Fate::Drop("drop.source_in_list");
    }
    if let Some([_, name]) = refusal(destination) {
        return Fate::Drop(name);
    }
    match destination {
        Own => Fate::ToA,
        OtherVm => Fate::ToB,
        _ => Fate::Drop("drop.unknown_destination"),
    }
}

/// A datagram that can be told from all others by its data.
fn marked(source: IpAddr, destination: IpAddr, mark: u32) -> Vec<u8> {
    let mut data = *b"admission test \0\0\0\0";
    data[15..].copy_from_slice(&mark.to_be_bytes());
    let message = frames::udp(source, destination, (4000, 4001), &data);
    frames::datagram(source, destination, protocol::UDP, message)
}

/// The mark of a frame of this test. ICMP errors quote datagrams: those are not it.
fn mark(frame: &[u8]) -> Option<u32> {
    let kind = frame.get(12..14)?;
    let at = if kind == [8, 0] { 14 + 20 } else { 14 + 40 };
    let data = frame.get(at + 8..)?;
    let mark = data.strip_prefix(b"admission test ")?;
    Some(u32::from_be_bytes(*mark.first_chunk()?))
}

/// Collects marks wherever they arrive, until there are as many as expected; then a little more,
/// for those that should not.
fn collect(w: &mut Wired, expected: usize) -> BTreeMap<u32, Vec<Fate>> {
    let mut seen: BTreeMap<u32, Vec<Fate>> = BTreeMap::new();
    let end = Instant::now() + LIMIT;
    let mut grace = None;
    loop {
        let mut put = |mark: Option<u32>, fate| {
            if let Some(mark) = mark {
                seen.entry(mark).or_default().push(fate);
            }
        };
        let short = Duration::from_millis(2);
        while let Some((_, f)) = w.a.receive(short).unwrap() {
            put(mark(&f), Fate::ToA);
        }
        while let Some((_, f)) = w.b.receive(short).unwrap() {
            put(mark(&f), Fate::ToB);
        }
        while let Some(f) = w.tap.receive(short).unwrap() {
            put(mark(&f.bytes).filter(|_| !f.outgoing), Fate::ToLan);
        }
        let now = Instant::now();
        if seen.len() >= expected && grace.is_none() {
            grace = Some(now + Duration::from_millis(30));
        }
        if now > grace.unwrap_or(end) {
            return seen;
        }
    }
}

/// One source against all destinations, sent by `send`; `owner` is who is charged.
fn check_row(
    w: &mut Wired,
    source: Kind,
    family: usize,
    owner: &str,
    fate: fn(Kind, Kind) -> Fate,
    send: fn(&mut Wired, &[u8]),
) {
    let Some(from) = address(source, family) else { return };
    let before = w.instance.counters().unwrap();
    let mut wanted: BTreeMap<u32, Fate> = BTreeMap::new();
    for (number, destination) in (0u32..).zip(KINDS) {
        let Some(to) = address(destination, family) else { continue };
        send(w, &marked(from, to, number));
        wanted.insert(number, fate(source, destination));
    }
    let arrives = |f: &Fate| matches!(f, Fate::ToA | Fate::ToB | Fate::ToLan);
    let expected = wanted.values().filter(|f| arrives(f)).count();
    let seen = collect(w, expected);
    for (number, fate) in &wanted {
        let got = seen.get(number).cloned().unwrap_or_default();
        let should: Vec<Fate> = arrives(fate).then_some(*fate).into_iter().collect();
        let destination = KINDS[*number as usize];
        assert_eq!(got, should, "{owner}: {source:?} to {destination:?}, family {family}");
    }
    let grown = w.instance.counters().unwrap().since(&before);
    let names: BTreeSet<_> = KINDS.iter().filter_map(|&k| refusal(k)).flatten().collect();
    let more = [
        "drop.source_not_own",
        "drop.destination_own",
        "drop.source_in_list",
        "drop.unknown_destination",
    ];
    for name in names.into_iter().chain(more) {
        let should = wanted.values().filter(|&&f| f == Fate::Drop(name)).count() as u64;
        let got = grown.get(owner, name);
        assert_eq!(got, should, "{owner}: {name} of {source:?}, family {family}: {grown:?}");
    }
    let to_host = wanted.values().filter(|&&f| f == Fate::ToHost).count() as u64;
    assert_eq!(grown.get(owner, "to_host"), to_host, "{source:?}, family {family}");
}

#[test]
fn from_a_vm_every_source_to_every_destination_meets_its_fate() {
    let mut w = Wired::up(&Wiring::default()).unwrap();
    for family in [0, 1] {
        for source in KINDS {
            check_row(&mut w, source, family, "vm/a", fate_from_vm, |w, datagram| {
                let frame = w.from_a(datagram);
                w.a.send_plain(&frame).unwrap();
            });
        }
    }
}

#[test]
fn from_outside_every_source_to_every_destination_meets_its_fate() {
    let mut w = Wired::up(&Wiring::default()).unwrap();
    w.wait_quiet().unwrap();
    for family in [0, 1] {
        for source in KINDS {
            check_row(&mut w, source, family, "uplink/lan", fate_from_lan, |w, datagram| {
                w.tap.send(&w.from_lan(datagram)).unwrap();
            });
        }
    }
}

/// Messages that speak for the last inch, from `source` to `destination`: name and datagram.
fn forgeries(source: Pair, destination: Pair) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let (IpAddr::V6(s), IpAddr::V6(d)) = (source[1], destination[1]) else { panic!() };
    for (name, kind) in [
        ("router solicitation", 133),
        ("router advertisement", 134),
        ("neighbour solicitation", 135),
        ("neighbour advertisement", 136),
        ("redirect", 137),
    ] {
        let message = frames::icmp(source[1], destination[1], kind, 0, &[0; 36]);
        let wraps: [(&str, u8, Vec<u8>); 4] = [
            ("bare", protocol::ICMP6, vec![]),
            ("behind hop-by-hop", protocol::HOP_BY_HOP, options_header(protocol::ICMP6)),
            ("behind a fragment header", 44, fragment_header(protocol::ICMP6, 0, false)),
            ("behind both", 0, {
                let first = options_header(protocol::FRAGMENT);
                [first, fragment_header(protocol::ICMP6, 0, true)].concat()
            }),
        ];
        for (how, next, headers) in wraps {
            for hop_limit in [255, 64] {
                let payload = [headers.clone(), message.clone()].concat();
                let ip = Ip6 { hop_limit, ..Ip6::new(s, d, next, payload) };
                all.push((format!("{name} {how}, hop limit {hop_limit}"), ip.bytes()));
            }
        }
    }
    for (family, ports) in [(0, (67, 68)), (1, (547, 546))] {
        let (s, d) = (source[family], destination[family]);
        let message = frames::udp(s, d, ports, &[2; 300]);
        let name = format!("DHCP reply, family {family}");
        all.push((name, frames::datagram(s, d, protocol::UDP, message)));
    }
    all
}

#[test]
fn what_speaks_for_the_last_inch_never_crosses_it() {
    let mut w = Wired::up(&Wiring::default()).unwrap();
    let own = |w: &mut Wired| {
        // What the base itself says to b (advertisements, answers) is not what is looked for.
        while w.b.receive(Duration::from_millis(20)).unwrap().is_some() {}
    };
    own(&mut w);
    let before = w.instance.counters().unwrap();
    let from_vm = forgeries(vm(0), vm(1));
    let from_lan = forgeries(OUTSIDE, vm(1));
    for (_, datagram) in &from_vm {
        let frame = w.from_a(datagram);
        w.a.send_plain(&frame).unwrap();
    }
    for (_, datagram) in &from_lan {
        w.tap.send(&w.from_lan(datagram)).unwrap();
    }
    let (IpAddr::V4(s), IpAddr::V4(d)) = (OUTSIDE[0], vm(1)[0]) else { panic!() };
    for operation in [1, 2] {
        let message = frames::arp(operation, (w.lan_mac, s), ([0; 6], d));
        let frame = frames::ethernet(w.card_mac, w.lan_mac, frames::ARP, &message);
        w.tap.send(&frame).unwrap();
        let frame = frames::ethernet(w.base_mac, lab::wired::MACS[0], frames::ARP, &message);
        w.a.send_plain(&frame).unwrap();
    }
    let end = Instant::now() + Duration::from_millis(500);
    while let Some((_, frame)) = w.b.receive(end.saturating_duration_since(Instant::now())).unwrap()
    {
        let datagram = frames::datagram_of(&frame);
        let forged = from_vm.iter().chain(&from_lan).find(|(_, f)| f.as_slice() == datagram);
        assert!(forged.is_none(), "{forged:?}");
        assert_ne!(frame[12..14], frames::ARP.to_be_bytes(), "ARP reached a VM: {frame:02x?}");
    }
    let grown = w.instance.counters().unwrap().since(&before);
    for owner in ["vm/a", "uplink/lan"] {
        for name in ["drop.last_inch", "drop.dhcp_reply", "drop.ndp_fragmented"] {
            assert!(grown.get(owner, name) > 0, "{owner} {name}: {grown:?}");
        }
    }
}

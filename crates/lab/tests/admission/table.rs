//! The table: every kind of address, as source and as destination, through every door.

use std::net::IpAddr;

use lab::frames::{self, protocol};
use lab::scene::{GATEWAY, HOST, OUTSIDE, vm};

use super::stage::{Door, Place, Stage, mac_for, owner_of};

/// A kind of address with its fate. As a source: the name under which it is dropped, or nothing if it
/// may be said. As a destination: the counter that moves.
struct Kind {
    name: &'static str,
    address: IpAddr,
    /// From the first VM.
    vm: [&'static str; 2],
    /// From the LAN.
    card: [&'static str; 2],
    /// From the host's stack.
    host: [&'static str; 2],
}

/// As a destination from the LAN: the host's own stack has it, and the base never sees it.
const UNSEEN: &str = "unseen";
/// As a destination from a VM: the base itself, which answers only what it serves.
const BASE: &str = "drop.not_served";

/// Reserved addresses meet the same fate through every door.
const fn everywhere(
    name: &'static str,
    address: IpAddr,
    source: &'static str,
    destination: &'static str,
) -> Kind {
    let both = [source, destination];
    Kind { name, address, vm: both, card: both, host: both }
}

fn kinds4() -> Vec<Kind> {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let multicast = |name, text| {
        everywhere(name, ip(text), "drop.source_multicast", "drop.destination_multicast")
    };
    let broadcast = |name, text| {
        everywhere(name, ip(text), "drop.source_broadcast", "drop.destination_broadcast")
    };
    let reserved = |name, text| {
        everywhere(name, ip(text), "drop.source_reserved", "drop.destination_reserved")
    };
    let loopback = |name, text| {
        everywhere(name, ip(text), "drop.source_loopback", "drop.destination_loopback")
    };
    let unspecified = ["drop.source_unspecified", "drop.destination_unspecified"];
    let link_local = ["drop.source_link_local", "drop.destination_link_local"];
    let mut kinds = unicast(0);
    kinds.extend([
        outsider("on the LAN, nobody's", ip("203.0.113.77")),
        outsider("behind the gateway", ip("198.51.100.7")),
        outsider("private", ip("10.0.0.1")),
        outsider("shared", ip("100.64.0.1")),
        everywhere("unspecified", ip("0.0.0.0"), unspecified[0], unspecified[1]),
        reserved("this network", "0.1.2.3"),
        loopback("loopback", "127.0.0.1"),
        loopback("the end of loopback", "127.255.255.255"),
        everywhere("link-local", ip("169.254.9.9"), link_local[0], link_local[1]),
        Kind {
            vm: [link_local[0], BASE],
            ..everywhere("the base", ip("169.254.0.1"), link_local[0], link_local[1])
        },
        multicast("multicast", "224.0.0.251"),
        multicast("multicast for the world", "233.252.0.1"),
        multicast("multicast for the site", "239.1.2.3"),
        broadcast("broadcast", "255.255.255.255"),
        broadcast("the subnet's broadcast", "203.0.113.255"),
        broadcast("the subnet's first", "203.0.113.0"),
        reserved("class E", "240.0.0.1"),
        reserved("the end of class E", "255.255.255.254"),
    ]);
    kinds
}

fn kinds6() -> Vec<Kind> {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let multicast = |name, text| {
        everywhere(name, ip(text), "drop.source_multicast", "drop.destination_multicast")
    };
    let reserved = |name, text| {
        everywhere(name, ip(text), "drop.source_reserved", "drop.destination_reserved")
    };
    let link_local = ["drop.source_link_local", "drop.destination_link_local"];
    let mut kinds = unicast(1);
    kinds.extend([
        outsider("on the LAN, nobody's", ip("2001:db8:1::77")),
        outsider("behind the gateway", ip("2001:db8:2::7")),
        outsider("unique local", ip("fd00::1")),
        outsider("a VM's IPv4 address in 6to4", ip("2002:cb00:710b::1")),
        everywhere(
            "unspecified",
            ip("::"),
            "drop.source_unspecified",
            "drop.destination_unspecified",
        ),
        everywhere("loopback", ip("::1"), "drop.source_loopback", "drop.destination_loopback"),
        everywhere("link-local", ip("fe80::99"), link_local[0], link_local[1]),
        Kind {
            vm: [link_local[0], BASE],
            ..everywhere("the base", ip("fe80::1"), link_local[0], link_local[1])
        },
        multicast("all nodes", "ff02::1"),
        multicast("multicast of the interface", "ff01::1"),
        multicast("multicast for the world", "ff0e::1"),
        multicast("a VM's solicited nodes", "ff02::1:ff00:11"),
        reserved("a VM's IPv4 address, mapped", "::ffff:203.0.113.11"),
        reserved("a VM's IPv4 address, compatible", "::203.0.113.11"),
    ]);
    kinds
}

/// Somebody outside: to be reached from a VM, and from nowhere else.
fn outsider(name: &'static str, address: IpAddr) -> Kind {
    Kind {
        name,
        address,
        vm: ["drop.source_not_own", "to_uplink"],
        card: ["", "drop.unknown_destination"],
        host: ["drop.host_forwarded", "drop.host_forwarded"],
    }
}

/// Those that exist: IPv4 is family 0, IPv6 is family 1.
fn unicast(family: usize) -> Vec<Kind> {
    let listed = "drop.source_in_list";
    let forwarded = "drop.host_forwarded";
    vec![
        Kind {
            name: "its own",
            address: vm(0)[family],
            vm: ["", "drop.destination_own"],
            card: [listed, "to_vm"],
            host: [forwarded, "to_vm"],
        },
        Kind {
            name: "another VM",
            address: vm(1)[family],
            vm: ["drop.source_not_own", "to_vm"],
            card: [listed, "to_vm"],
            host: [forwarded, "to_vm"],
        },
        Kind {
            name: "the host",
            address: HOST[family],
            vm: ["drop.source_not_own", "to_host"],
            card: [listed, UNSEEN],
            host: ["", forwarded],
        },
        outsider("the gateway", GATEWAY[family]),
        outsider("outside", OUTSIDE[family]),
    ]
}

/// An echo reply that nobody asked for: what no stack has an answer to.
pub fn datagram(source: IpAddr, destination: IpAddr, mark: &[u8]) -> Vec<u8> {
    let rest = [&[0x77, 0x77, 0, 1], mark].concat();
    let (kind, protocol) =
        if source.is_ipv4() { (0, protocol::ICMP) } else { (129, protocol::ICMP6) };
    let message = frames::icmp(source, destination, kind, 0, &rest);
    frames::datagram(source, destination, protocol, message)
}

/// The counter that moves. The source is judged first; what is for the base itself is judged by what
/// it answers: the VM's own addresses, and in IPv6 those it made itself.
fn fate(door: Door, source: &Kind, destination: &Kind) -> &'static str {
    let of = |kind: &Kind| match door {
        Door::Vm => kind.vm,
        Door::Card => kind.card,
        Door::Host => kind.host,
    };
    let ([refusal, _], [_, fate]) = (of(source), of(destination));
    if door == Door::Card && fate == UNSEEN {
        return UNSEEN;
    }
    if door == Door::Vm && fate == BASE {
        let own = matches!(source.address, IpAddr::V6(a) if a.is_unicast_link_local());
        let own = own && source.name != "the base" || source.name == "its own";
        return if own { BASE } else { "drop.source_not_own" };
    }
    if refusal.is_empty() { fate } else { refusal }
}

fn row(stage: &mut Stage, door: Door, source: &Kind, destination: &Kind) {
    let fate = fate(door, source, destination);
    let (from, to) = (source.address, destination.address);
    let what = format!(
        "{door:?}: from {from} ({}) to {to} ({}), expected: {fate}",
        source.name, destination.name
    );
    let datagram = datagram(from, to, &stage.mark());
    let frame = match door {
        Door::Vm => stage.w.from_a(&datagram),
        Door::Card => frames::carry(mac_for(to, stage.w.card_mac), stage.w.lan_mac, &datagram),
        Door::Host => datagram,
    };
    let at = match fate {
        "to_vm" => owner_of(to),
        "to_uplink" => Some(Place::Lan),
        "to_host" => Some(Place::Host),
        _ => None,
    };
    let counted: &[&str] = if fate == UNSEEN { &[] } else { &[fate] };
    stage.send(what, door, &frame, counted, at);
}

/// Every kind as source with every kind as destination.
fn all(door: Door) {
    let mut stage = Stage::set();
    let mut rows = 0;
    for kinds in [kinds4(), kinds6()] {
        for source in &kinds {
            for destination in &kinds {
                row(&mut stage, door, source, destination);
                rows += 1;
            }
        }
    }
    assert_eq!(stage.end(), rows);
    println!("{rows} rows");
}

#[test]
fn from_a_vm_every_source_and_destination_meets_its_fate() {
    all(Door::Vm);
}

#[test]
fn from_the_lan_every_source_and_destination_meets_its_fate() {
    all(Door::Card);
}

#[test]
fn from_the_host_every_source_and_destination_meets_its_fate() {
    all(Door::Host);
}

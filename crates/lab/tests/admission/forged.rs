//! What speaks for a link never crosses the base: forged neighbour discovery, router advertisements,
//! redirects, ARP and DHCP replies, from a VM and from outside, whatever their hop limit and the
//! headers they hide behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::frames::{self, Ip4, Ip6, Mac, fragment_header, options_header, protocol};
use lab::scene::{GATEWAY, HOST, OUTSIDE, Pair, vm};
use lab::wired::MACS;

use super::stage::{Door, Stage, mac_for};

const AUTHENTICATION: u8 = 51;
const MOBILITY: u8 = 135;

fn v4(pair: Pair) -> Ipv4Addr {
    match pair[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("a pair is IPv4, IPv6"),
    }
}

fn v6(pair: Pair) -> Ipv6Addr {
    match pair[1] {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("a pair is IPv4, IPv6"),
    }
}

/// Headers to hide behind: a name, the first header's kind, and what builds them before a header of
/// the given kind. `true`: a fragment header is among them.
type Disguise = (&'static str, Option<u8>, fn(u8) -> Vec<u8>, bool);

fn routing_header(next: u8) -> Vec<u8> {
    [&[next, 2, 0, 0, 0, 0, 0, 0][..], &v6(vm(1)).octets()].concat()
}

fn authentication_header(next: u8) -> Vec<u8> {
    [&[next, 4, 0, 0][..], &[7; 20]].concat()
}

const DISGUISES: [Disguise; 11] = [
    ("bare", None, |_| vec![], false),
    ("behind hop-by-hop options", Some(protocol::HOP_BY_HOP), options_header, false),
    ("behind destination options", Some(protocol::DESTINATION), options_header, false),
    ("behind a routing header", Some(protocol::ROUTING), routing_header, false),
    ("behind authentication", Some(AUTHENTICATION), authentication_header, false),
    ("behind mobility", Some(MOBILITY), options_header, false),
    (
        "behind three headers",
        Some(protocol::HOP_BY_HOP),
        |next| {
            let first = options_header(protocol::ROUTING);
            [first, routing_header(protocol::DESTINATION), options_header(next)].concat()
        },
        false,
    ),
    ("as atomic fragment", Some(protocol::FRAGMENT), |next| fragment_header(next, 0, false), true),
    ("as first fragment", Some(protocol::FRAGMENT), |next| fragment_header(next, 0, true), true),
    (
        "as first fragment behind hop-by-hop options",
        Some(protocol::HOP_BY_HOP),
        |next| [options_header(protocol::FRAGMENT), fragment_header(next, 0, true)].concat(),
        true,
    ),
    (
        "as fragment before destination options",
        Some(protocol::FRAGMENT),
        |next| {
            let first = fragment_header(protocol::DESTINATION, 0, false);
            [first, options_header(next)].concat()
        },
        true,
    ),
];

/// Puts a message of `kind` behind headers.
fn disguised(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    (_, first, headers, _): &Disguise,
    kind: u8,
    message: Vec<u8>,
) -> Vec<u8> {
    let payload = [headers(kind), message].concat();
    let next = first.unwrap_or(kind);
    Ip6 { hop_limit, ..Ip6::new(source, destination, next, payload) }.bytes()
}

const SOLICIT_ROUTER: u8 = 133;
const ADVERTISE_ROUTER: u8 = 134;
const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
const REDIRECT: u8 = 137;

/// A message of neighbour discovery that says of `target` that it has this MAC address. The mark is
/// in an option that nobody knows.
fn discovery(
    kind: u8,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    target: Ipv6Addr,
    mac: Mac,
    mark: &[u8],
) -> Vec<u8> {
    let link = |option: u8| [&[option, 1][..], &mac].concat();
    let body = match kind {
        SOLICIT_ROUTER => [vec![0; 4], link(1)].concat(),
        ADVERTISE_ROUTER => {
            let prefix = [&[3, 4, 64, 0xc0][..], &[0xff; 8], &[0; 4], &[0x20; 16]].concat();
            [vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0], link(1), prefix].concat()
        }
        SOLICIT => [&[0; 4][..], &target.octets(), &link(1)].concat(),
        // Solicited, unless it is for all.
        ADVERTISE if !destination.is_multicast() => {
            [&[0x60, 0, 0, 0][..], &target.octets(), &link(2)].concat()
        }
        ADVERTISE => [&[0x20, 0, 0, 0][..], &target.octets(), &link(2)].concat(),
        _ => [&[0; 4][..], &target.octets(), &destination.octets(), &link(2)].concat(),
    };
    let marked = [&[250, 3][..], mark, &[0; 6]].concat();
    frames::icmp(source.into(), destination.into(), kind, 0, &[body, marked].concat())
}

const KINDS: [(&str, u8); 5] = [
    ("router solicitation", SOLICIT_ROUTER),
    ("router advertisement", ADVERTISE_ROUTER),
    ("neighbour solicitation", SOLICIT),
    ("neighbour advertisement", ADVERTISE),
    ("redirect", REDIRECT),
];
const HOP_LIMITS: [u8; 3] = [255, 64, 1];

/// Where a forger would aim: the other VM's address, the one that it made itself, all nodes.
fn aims() -> [Ipv6Addr; 3] {
    [v6(vm(1)), "fe80::b".parse().unwrap(), "ff02::1".parse().unwrap()]
}

#[test]
fn no_neighbour_discovery_of_a_vm_reaches_anybody() {
    let mut stage = Stage::set();
    let own = v6(vm(0));
    let sources = [own, v6(GATEWAY), "fe80::1".parse().unwrap(), "fe80::a".parse().unwrap()];
    for (name, kind) in KINDS {
        for disguise in &DISGUISES {
            for hop_limit in HOP_LIMITS {
                for to in aims() {
                    for from in sources {
                        let mark = stage.mark();
                        // That the gateway is here.
                        let message = discovery(kind, (from, to), v6(GATEWAY), MACS[0], &mark);
                        let datagram =
                            disguised((from, to), hop_limit, disguise, protocol::ICMP6, message);
                        let counted = counted_of_vm(kind, from, hop_limit, disguise.3);
                        let what = format!("{name} {}, {hop_limit}, {from} to {to}", disguise.0);
                        let frame = frames::carry(mac_for(to.into(), [2; 6]), MACS[0], &datagram);
                        stage.send(what, Door::Vm, &frame, &[counted], None);
                    }
                }
            }
        }
    }
    println!("{} forgeries", stage.end());
}

/// What a VM's message of neighbour discovery is counted as.
fn counted_of_vm(kind: u8, from: Ipv6Addr, hop_limit: u8, fragment: bool) -> &'static str {
    let may_say = from == v6(vm(0)) || from == "fe80::a".parse::<Ipv6Addr>().unwrap();
    match kind {
        _ if fragment => "drop.ndp_fragmented",
        ADVERTISE_ROUTER | REDIRECT => "drop.last_inch",
        _ if hop_limit != 255 => "drop.answer_malformed",
        // It claims the gateway's address.
        ADVERTISE => "drop.source_not_own",
        _ if !may_say => "drop.source_not_own",
        // Not where routers listen.
        SOLICIT_ROUTER => "drop.last_inch",
        // Asking is allowed: the base answers, and nobody else hears of it.
        _ => "answered",
    }
}

#[test]
fn no_neighbour_discovery_from_outside_reaches_a_vm() {
    let mut stage = Stage::set();
    let sources = [v6(OUTSIDE), v6(GATEWAY), "fe80::1".parse().unwrap()];
    for (name, kind) in KINDS {
        for disguise in &DISGUISES {
            for hop_limit in HOP_LIMITS {
                for to in [v6(vm(0))].into_iter().chain(aims()) {
                    for from in sources {
                        let mark = stage.mark();
                        let (target, mac) = (v6(GATEWAY), stage.w.lan_mac);
                        let message = discovery(kind, (from, to), target, mac, &mark);
                        let datagram =
                            disguised((from, to), hop_limit, disguise, protocol::ICMP6, message);
                        let counted: &[&str] = match kind {
                            _ if disguise.3 => &["drop.ndp_fragmented"],
                            SOLICIT_ROUTER | ADVERTISE_ROUTER | REDIRECT => &["drop.last_inch"],
                            _ if hop_limit != 255 => &["drop.answer_malformed"],
                            // Who asks for the gateway is not answered by the base, and who says
                            // that it is the gateway is heard by the base alone.
                            _ => &["silent"],
                        };
                        let what = format!("{name} {}, {hop_limit}, {from} to {to}", disguise.0);
                        let mac = mac_for(to.into(), stage.w.card_mac);
                        let frame = frames::carry(mac, stage.w.lan_mac, &datagram);
                        stage.send(what, Door::Card, &frame, counted, None);
                    }
                }
            }
        }
    }
    println!("{} forgeries", stage.end());
}

#[test]
fn what_is_said_outside_about_a_vms_address_is_heard_by_the_base_alone() {
    let mut stage = Stage::set();
    stage.wait_for_claims();
    let (outside, a, b) = (v6(OUTSIDE), v6(vm(0)), v6(vm(1)));
    // The base defends it, not more often than once in ten seconds.
    let defended = &["answered", "silent"][..];
    let [.., x, y, z] = b.octets();
    let asked =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    for (what, kind, from, to, target, counted) in [
        ("a question for it", SOLICIT, outside, asked, b, &["answered"][..]),
        ("a question for it, to it", SOLICIT, outside, b, b, &["answered"]),
        ("a question in its name", SOLICIT, b, a, outside, defended),
        ("somebody says to have it, to all", ADVERTISE, outside, aims()[2], b, defended),
        ("somebody says to have it, to it", ADVERTISE, outside, b, b, defended),
        ("somebody says to have it, to another", ADVERTISE, b, a, b, defended),
        ("a redirect to it", REDIRECT, v6(GATEWAY), a, b, &["drop.last_inch"]),
        ("a redirect from it", REDIRECT, b, a, outside, &["drop.last_inch"]),
        ("a router advertisement from it", ADVERTISE_ROUTER, b, a, b, &["drop.last_inch"]),
    ] {
        let message = discovery(kind, (from, to), target, stage.w.lan_mac, &stage.mark());
        let datagram =
            Ip6 { hop_limit: 255, ..Ip6::new(from, to, protocol::ICMP6, message) }.bytes();
        let mac = mac_for(to.into(), stage.w.card_mac);
        let frame = frames::carry(mac, stage.w.lan_mac, &datagram);
        stage.send(what.to_owned(), Door::Card, &frame, counted, None);
    }
    println!("{} forgeries", stage.end());
}

#[test]
fn no_arp_of_a_vm_reaches_anybody() {
    let mut stage = Stage::set();
    let [own, other, gateway, host] = [vm(0), vm(1), GATEWAY, HOST].map(v4);
    let mut rows = Vec::new();
    for operation in [1, 2] {
        for (whose, sender) in
            [("the other VM's", other), ("the gateway's", gateway), ("the host's", host)]
        {
            // To all and to the other VM, asking, answering and announcing.
            for target in [sender, other, own, gateway] {
                rows.push((
                    format!("{operation}: {whose} address for {target}"),
                    operation,
                    sender,
                    target,
                    "drop.source_not_own",
                ));
            }
        }
        rows.push((
            format!("{operation}: its own address, announced"),
            operation,
            own,
            own,
            "silent",
        ));
    }
    rows.push(("an answer to the other VM".to_owned(), 2, own, other, "silent"));
    rows.push(("a question for the other VM".to_owned(), 1, own, other, "answered"));
    rows.push(("a question for the host".to_owned(), 1, own, host, "answered"));
    rows.push((
        "a probe for the gateway".to_owned(),
        1,
        Ipv4Addr::UNSPECIFIED,
        gateway,
        "answered",
    ));
    rows.push(("an operation nobody knows".to_owned(), 9, own, other, "drop.arp_malformed"));
    for (what, operation, sender, target, counted) in rows {
        for to in [[0xff; 6], MACS[1], stage.w.card_mac] {
            let mut message = frames::arp(operation, (MACS[0], sender), (MACS[1], target));
            message.extend(stage.mark());
            let frame = frames::ethernet(to, MACS[0], frames::ARP, &message);
            stage.send(what.clone(), Door::Vm, &frame, &[counted], None);
        }
    }
    // What resembles it.
    for (name, kind, counted) in [
        ("reverse ARP", 0x8035, "drop.ethertype_unknown"),
        ("spanning tree", 0x0026, "drop.ethertype_unknown"),
        ("LLDP", 0x88cc, "drop.ethertype_unknown"),
        ("ARP in a VLAN", 0x8100, "drop.vlan_tagged"),
    ] {
        let message = [frames::arp(2, (MACS[0], gateway), (MACS[1], other)), stage.mark()].concat();
        let frame = frames::ethernet([0xff; 6], MACS[0], kind, &message);
        stage.send(name.to_owned(), Door::Vm, &frame, &[counted], None);
    }
    println!("{} forgeries", stage.end());
}

#[test]
fn no_arp_from_outside_reaches_a_vm() {
    let mut stage = Stage::set();
    stage.wait_for_claims();
    let [a, b, gateway, outside] = [vm(0), vm(1), GATEWAY, OUTSIDE].map(v4);
    let lan = stage.w.lan_mac;
    for (what, operation, sender, target, counted) in [
        ("a question for a VM", 1, outside, a, &["answered"][..]),
        ("an answer to a VM", 2, gateway, a, &["silent"]),
        ("the gateway announced", 1, gateway, gateway, &["silent"]),
        ("the gateway announced by an answer", 2, gateway, gateway, &["silent"]),
        // The base defends it, not more often than once in ten seconds.
        ("a VM's address announced", 1, b, b, &["answered", "silent"]),
        ("a VM's address claimed towards another", 2, b, a, &["answered", "silent"]),
        ("nobody's question for a VM", 1, Ipv4Addr::UNSPECIFIED, a, &["answered"]),
    ] {
        for to in [[0xff; 6], stage.w.card_mac] {
            let mut message = frames::arp(operation, (lan, sender), ([0; 6], target));
            message.extend(stage.mark());
            let frame = frames::ethernet(to, lan, frames::ARP, &message);
            stage.send(what.to_owned(), Door::Card, &frame, counted, None);
        }
    }
    println!("{} forgeries", stage.end());
}

/// What a DHCP server says, as far as anybody looks.
fn reply4(mark: &[u8]) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0];
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 2, 54, 4, 203, 0, 113, 1, 250, 16]);
    message.extend(mark);
    message.push(255);
    message
}

#[test]
fn no_dhcp_reply_reaches_a_vm() {
    let mut stage = Stage::set();
    for (door, own) in [(Door::Vm, v4(vm(0))), (Door::Card, v4(OUTSIDE))] {
        for from in [own, v4(GATEWAY)] {
            for to in [v4(vm(1)), Ipv4Addr::BROADCAST, Ipv4Addr::new(203, 0, 113, 255)] {
                for port in [67, 5353] {
                    let udp = |mark: &[u8]| {
                        frames::udp(from.into(), to.into(), (port, 68), &reply4(mark))
                    };
                    let plain = |mark: &[u8]| Ip4::new(from, to, protocol::UDP, udp(mark));
                    let unsigned = |mark: &[u8]| {
                        let mut message = udp(mark);
                        message[6..8].fill(0);
                        Ip4::new(from, to, protocol::UDP, message)
                    };
                    type Make<'a> = &'a dyn Fn(&[u8]) -> Ip4;
                    let ways: [(&str, Make<'_>); 5] = [
                        ("plain", &plain),
                        ("TTL 1", &|m| Ip4 { ttl: 1, ..plain(m) }),
                        ("behind options", &|m| Ip4 { options: vec![1; 8], ..plain(m) }),
                        ("as first fragment", &|m| Ip4 { more_fragments: true, ..plain(m) }),
                        ("without checksum", &unsigned),
                    ];
                    for (way, make) in ways {
                        let datagram = make(&stage.mark()).bytes();
                        let what = format!("{door:?}: DHCP {way}, {from}:{port} to {to}");
                        send_reply(&mut stage, door, to.into(), &datagram, what);
                    }
                }
            }
        }
    }
    println!("{} forgeries", stage.end());
}

fn send_reply(stage: &mut Stage, door: Door, to: IpAddr, datagram: &[u8], what: String) {
    let frame = match door {
        Door::Vm => frames::carry(mac_for(to, [2; 6]), MACS[0], datagram),
        _ => frames::carry(mac_for(to, stage.w.card_mac), stage.w.lan_mac, datagram),
    };
    stage.send(what, door, &frame, &["drop.dhcp_reply"], None);
}

#[test]
fn no_dhcp6_reply_reaches_a_vm() {
    let mut stage = Stage::set();
    let base = "fe80::1".parse().unwrap();
    for (door, sources) in
        [(Door::Vm, [v6(vm(0)), base]), (Door::Card, [v6(OUTSIDE), "fe80::d".parse().unwrap()])]
    {
        for from in sources {
            for to in aims() {
                for port in [547, 5353] {
                    for hop_limit in HOP_LIMITS {
                        for disguise in &DISGUISES {
                            // A reply, with an option that nobody knows.
                            let data = [&[7, 1, 2, 3, 0, 250, 0, 16][..], &stage.mark()].concat();
                            let message = frames::udp(from.into(), to.into(), (port, 546), &data);
                            let kind = protocol::UDP;
                            let datagram =
                                disguised((from, to), hop_limit, disguise, kind, message);
                            let what = format!(
                                "{door:?}: DHCPv6 {}, {hop_limit}, {from}:{port} to {to}",
                                disguise.0
                            );
                            send_reply(&mut stage, door, to.into(), &datagram, what);
                        }
                    }
                }
            }
        }
    }
    // What a server says, said to servers.
    let (from, to): (Ipv6Addr, Ipv6Addr) = (v6(vm(0)), "ff02::1:2".parse().unwrap());
    for kind in [2, 7, 10] {
        let data = [&[kind, 1, 2, 3, 0, 250, 0, 16][..], &stage.mark()].concat();
        let message = frames::udp(from.into(), to.into(), (547, 547), &data);
        let datagram = Ip6::new(from, to, protocol::UDP, message).bytes();
        send_reply(&mut stage, Door::Vm, to.into(), &datagram, format!("DHCPv6 {kind} to servers"));
    }
    println!("{} forgeries", stage.end());
}

#[test]
fn what_hides_the_upper_layer_is_dropped() {
    let mut stage = Stage::set();
    for (door, from) in [(Door::Vm, v6(vm(0))), (Door::Card, v6(OUTSIDE))] {
        let to = v6(vm(1));
        let advertisement =
            |mark: &[u8]| discovery(ADVERTISE_ROUTER, (from, to), to, MACS[0], mark);
        let many = |next: u8, count: usize| -> Vec<u8> {
            let mut chain = options_header(protocol::DESTINATION).repeat(count - 1);
            chain.extend(options_header(next));
            chain
        };
        let ip = |next, payload: Vec<u8>| Ip6::new(from, to, next, payload).bytes();
        let datagram =
            ip(protocol::DESTINATION, [many(58, 40), advertisement(&stage.mark())].concat());
        let what = format!("{door:?}: behind more headers than anybody needs");
        send_as(&mut stage, door, to.into(), &datagram, what, "drop.ip6_header_chain");
        // The first fragment ends before the upper layer begins (RFC 7112).
        let hidden = [
            fragment_header(protocol::DESTINATION, 0, true),
            [&[58, 2, 1, 20][..], &stage.mark(), &[0; 4]].concat(),
        ];
        let datagram = ip(protocol::FRAGMENT, hidden.concat());
        let what = format!("{door:?}: headers only in a first fragment");
        send_as(&mut stage, door, to.into(), &datagram, what, "drop.first_fragment_incomplete");
        // A second fragment header, so that the first one's offset is not the last word.
        let twice = [
            fragment_header(protocol::FRAGMENT, 0, false),
            fragment_header(protocol::ICMP6, 0, true),
            advertisement(&stage.mark()),
        ];
        let datagram = ip(protocol::FRAGMENT, twice.concat());
        let what = format!("{door:?}: two fragment headers");
        send_as(&mut stage, door, to.into(), &datagram, what, "drop.ndp_fragmented");
    }
    println!("{} forgeries", stage.end());
}

fn send_as(
    stage: &mut Stage,
    door: Door,
    to: IpAddr,
    datagram: &[u8],
    what: String,
    counted: &str,
) {
    let frame = match door {
        Door::Vm => frames::carry(mac_for(to, [2; 6]), MACS[0], datagram),
        _ => frames::carry(mac_for(to, stage.w.card_mac), stage.w.lan_mac, datagram),
    };
    stage.send(what, door, &frame, &[counted], None);
}

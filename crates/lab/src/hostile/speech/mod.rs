//! What a hostile guest says: frames and their virtio-net headers, each valid but for one thing.

mod sayings;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use virtqueue::NetHeader;

pub use sayings::SAYINGS;

use super::cast::{BASE_MAC, Who};
use super::dice::Dice;
use crate::frames::{self, Ip4, Ip6, protocol};
use crate::scene::OUTSIDE;

/// Where the checksum lies in a header of this protocol.
pub const TCP_SUM: u16 = 16;
const UDP_SUM: u16 = 6;
/// Octets of an Ethernet header.
pub const ETHERNET: u16 = 14;
/// Octets of the largest datagram on the VMs' links.
pub const MTU: usize = 1500;

/// What of a datagram's work is left to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// None.
    Nothing,
    /// The transport checksum.
    Checksum,
    /// Cutting it into segments of so many octets, and their checksums.
    Large {
        /// Payload octets of a segment.
        size: u16,
        /// Congestion was notified.
        ecn: bool,
    },
}

/// What must become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Dropped by this name, at the sender.
    Drop(&'static str),
    /// Handed on, and dropped by this name at the receiver.
    DropAt(Who, &'static str),
    /// It arrives.
    Arrive(Who, Left),
    /// It leaves by the card.
    Out,
    /// The base answers it.
    Answered,
    /// The base hears it, and says nothing.
    Silent,
}

/// A frame with its header, and what must become of it.
#[derive(Clone, Debug)]
pub struct Shot {
    /// What the driver writes before the frame.
    pub header: NetHeader,
    /// The frame.
    pub frame: Vec<u8>,
    /// What must become of it.
    pub fate: Fate,
}

/// Makes one frame with one thing wrong, or none.
pub type Saying = fn(&mut Dice) -> Shot;

/// Takes a frame as it is.
fn clean(frame: Vec<u8>, fate: Fate) -> Shot {
    Shot { header: NetHeader::default(), frame, fate }
}

fn carried(datagram: &[u8]) -> Vec<u8> {
    frames::carry(BASE_MAC, Who::Hostile.mac(), datagram)
}

fn drop(datagram: &[u8], name: &'static str) -> Shot {
    clean(carried(datagram), Fate::Drop(name))
}

fn receiver(d: &mut Dice) -> Who {
    d.pick(&[Who::Rich, Who::Plain])
}

fn family(d: &mut Dice) -> bool {
    d.once_in(2)
}

fn data(d: &mut Dice, from: u64, to: u64) -> Vec<u8> {
    let (len, shift) = (d.range(from, to) as usize, d.index(251));
    (0..len).map(|i| ((i + shift) % 251) as u8).collect()
}

/// Protocol 253, for whatever looks at IP headers only.
fn plain4(d: &mut Dice, to: Who) -> Ip4 {
    let payload = data(d, 8, 600);
    Ip4::new(Who::Hostile.ip4(), to.ip4(), protocol::EXPERIMENT, payload)
}

fn plain6(d: &mut Dice, to: Who) -> Ip6 {
    let payload = data(d, 8, 600);
    Ip6::new(Who::Hostile.ip6(), to.ip6(), protocol::EXPERIMENT, payload)
}

fn udp(d: &mut Dice, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let from = Who::Hostile.ip(to.is_ipv4());
    let message = frames::udp(from, to, ports, &data(d, 0, 1300));
    frames::datagram(from, to, protocol::UDP, message)
}

/// A datagram with a message whose checksum is left to offload, behind options or extension headers
/// now and then; and the header that says so.
fn unfinished(
    d: &mut Dice,
    to: IpAddr,
    what: u8,
    at: u16,
    mut message: Vec<u8>,
) -> (NetHeader, Vec<u8>) {
    let v4 = to.is_ipv4();
    let from = Who::Hostile.ip(v4);
    frames::leave_checksum(from, to, what, &mut message, at.into());
    let more = d.once_in(3);
    let datagram = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let options = if more { vec![1, 1, 1, 0] } else { Vec::new() };
            Ip4 { options, ..Ip4::new(from, to, what, message) }.bytes()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if more => {
            let payload = [frames::options_header(what), message].concat();
            Ip6::new(from, to, protocol::DESTINATION, payload).bytes()
        }
        _ => frames::datagram(from, to, what, message),
    };
    let ip = match (v4, more) {
        (true, more) => 20 + 4 * u16::from(more),
        (false, more) => 40 + 8 * u16::from(more),
    };
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        csum_start: ETHERNET + ip,
        csum_offset: at,
        ..NetHeader::default()
    };
    (header, datagram)
}

/// A UDP datagram whose checksum is left to offload.
fn partial(d: &mut Dice, to: Who) -> (NetHeader, Vec<u8>) {
    let v4 = family(d);
    partial_to(d, to.ip(v4))
}

fn partial_to(d: &mut Dice, to: IpAddr) -> (NetHeader, Vec<u8>) {
    let data = data(d, 0, 1300);
    let length = (8 + data.len()) as u16;
    let message = [[4000, 4001, length, 0].map(u16::to_be_bytes).concat(), data].concat();
    unfinished(d, to, protocol::UDP, UDP_SUM, message)
}

/// A large send over TCP, of which there is more than one segment.
fn large(d: &mut Dice, to: Who, flags: u8) -> (NetHeader, Vec<u8>) {
    let v4 = family(d);
    large_to(d, to.ip(v4), flags)
}

fn large_to(d: &mut Dice, to: IpAddr, flags: u8) -> (NetHeader, Vec<u8>) {
    let size = d.range(400, 1361) as u16;
    let payload = data(d, u64::from(size) + 1, 12 * u64::from(size).min(1400));
    let options: &[u8] = if d.once_in(2) { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
    let from = Who::Hostile.ip(to.is_ipv4());
    let message = frames::tcp(from, to, (5000, 5001), flags, options, &payload);
    let (mut header, datagram) = unfinished(d, to, protocol::TCP, TCP_SUM, message);
    let v4 = datagram[0] >> 4 == 4;
    header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
    header.gso_size = size;
    header.hdr_len = header.csum_start + 20 + options.len() as u16;
    (header, datagram)
}

const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

fn with((header, datagram): (NetHeader, Vec<u8>), fate: Fate) -> Shot {
    Shot { header, frame: carried(&datagram), fate }
}

/// A solicitation for `target`, from the hostile VM's own address.
fn solicitation(target: Ipv6Addr) -> Ip6 {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let from = Who::Hostile.ip6();
    let link = [&[1, 1], &Who::Hostile.mac()[..]].concat();
    let rest = [&[0; 4], &target.octets()[..], &link].concat();
    let message = frames::icmp(from.into(), group.into(), 135, 0, &rest);
    Ip6 { hop_limit: 255, ..Ip6::new(from, group, protocol::ICMP6, message) }
}

/// ICMPv6 of this type to `to`, with hop limit 255.
fn discovery(kind: u8, to: Ipv6Addr, rest: &[u8]) -> Ip6 {
    let from = Who::Hostile.ip6();
    let message = frames::icmp(from.into(), to.into(), kind, 0, rest);
    Ip6 { hop_limit: 255, ..Ip6::new(from, to, protocol::ICMP6, message) }
}

fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    frames::arp(1, (Who::Hostile.mac(), Who::Hostile.ip4()), ([0; 6], target))
}

fn arp_frame(message: &[u8]) -> Vec<u8> {
    frames::ethernet([0xff; 6], Who::Hostile.mac(), frames::ARP, message)
}

/// Sources nobody may have, and the name of each.
pub const SOURCES: &[(&str, &str)] = &[
    ("0.0.0.0", "drop.source_unspecified"),
    ("::", "drop.source_unspecified"),
    ("127.0.0.1", "drop.source_loopback"),
    ("127.255.255.255", "drop.source_loopback"),
    ("::1", "drop.source_loopback"),
    ("169.254.7.7", "drop.source_link_local"),
    ("169.254.0.1", "drop.source_link_local"),
    ("fe80::7", "drop.source_link_local"),
    ("febf::1", "drop.source_link_local"),
    ("224.0.0.1", "drop.source_multicast"),
    ("239.255.255.255", "drop.source_multicast"),
    ("ff02::1", "drop.source_multicast"),
    ("255.255.255.255", "drop.source_broadcast"),
    ("203.0.113.255", "drop.source_broadcast"),
    ("203.0.113.0", "drop.source_broadcast"),
    ("0.1.2.3", "drop.source_reserved"),
    ("240.0.0.1", "drop.source_reserved"),
    ("255.255.255.254", "drop.source_reserved"),
    ("::ffff:203.0.113.50", "drop.source_reserved"),
    ("::203.0.113.50", "drop.source_reserved"),
];

/// Destinations that nobody has, and the name of each.
pub const DESTINATIONS: &[(&str, &str)] = &[
    ("0.0.0.0", "drop.destination_unspecified"),
    ("::", "drop.destination_unspecified"),
    ("127.0.0.1", "drop.destination_loopback"),
    ("::1", "drop.destination_loopback"),
    ("169.254.7.7", "drop.destination_link_local"),
    ("fe80::7", "drop.destination_link_local"),
    ("224.0.0.1", "drop.destination_multicast"),
    ("ff02::2", "drop.destination_multicast"),
    ("ff0e::1:2:3", "drop.destination_multicast"),
    ("255.255.255.255", "drop.destination_broadcast"),
    ("203.0.113.255", "drop.destination_broadcast"),
    ("203.0.113.0", "drop.destination_broadcast"),
    ("0.1.2.3", "drop.destination_reserved"),
    ("240.0.0.1", "drop.destination_reserved"),
    ("::ffff:203.0.113.50", "drop.destination_reserved"),
];

/// An address of such a table, every name as often as any other.
pub fn named(d: &mut Dice, of: &[(&'static str, &'static str)]) -> (&'static str, &'static str) {
    let names: BTreeSet<&str> = of.iter().map(|(_, name)| *name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let name = d.pick(&names);
    let all: Vec<_> = of.iter().filter(|(_, n)| *n == name).copied().collect();
    d.pick(&all)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn between(d: &mut Dice, from: IpAddr, to: IpAddr) -> Vec<u8> {
    frames::datagram(from, to, protocol::EXPERIMENT, data(d, 1, 300))
}

/// What can be said where there is no card and no path to the host.
pub const ALONE: &[(&str, Saying)] = &[
    ("to the outside, where there is none", |d| {
        let to = if family(d) { ip("198.51.100.7") } else { ip("2001:db8:2::7") };
        drop(&udp(d, to, (4000, 4001)), "drop.no_uplink")
    }),
    ("to the host, whom nothing leads to", |d| {
        let to = if family(d) { ip("203.0.113.2") } else { ip("2001:db8:1::2") };
        drop(&udp(d, to, (4000, 4001)), "drop.no_host_path")
    }),
];

/// Addresses of many kinds, each with a name of its own: said more often than other things.
pub const ADDRESSES: &[(&str, Saying)] = &[
    ("a source that nobody has", |d| {
        let (text, name) = named(d, SOURCES);
        let from = ip(text);
        let to = receiver(d).ip(from.is_ipv4());
        drop(&between(d, from, to), name)
    }),
    ("a destination that nobody has", |d| {
        let (text, name) = named(d, DESTINATIONS);
        let to = ip(text);
        drop(&between(d, Who::Hostile.ip(to.is_ipv4()), to), name)
    }),
];

/// What can be said where there is a card, and a gateway for IPv4 only.
pub const WIRED: &[(&str, Saying)] = &[
    ("to a neighbour on the LAN", |d| {
        let to = d.pick(&OUTSIDE);
        clean(carried(&udp(d, to, (4000, 4001))), Fate::Out)
    }),
    ("to the LAN, a checksum left to offload", |d| {
        let to = d.pick(&OUTSIDE);
        with(partial_to(d, to), Fate::Out)
    }),
    ("to the LAN, a large send", |d| {
        let to = d.pick(&OUTSIDE);
        with(large_to(d, to, ACK), Fate::Out)
    }),
    ("to the LAN, hdr_len is another", |d| {
        let to = d.pick(&OUTSIDE);
        let (mut header, datagram) = large_to(d, to, ACK);
        header.hdr_len = d.word_but(header.hdr_len);
        with((header, datagram), Fate::Out)
    }),
    ("to the LAN, csum_start is another", |d| {
        let to = d.pick(&OUTSIDE);
        let (mut header, datagram) = partial_to(d, to);
        header.csum_start = d.word_but(header.csum_start);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("to the LAN, segments of few octets", |d| {
        let to = d.pick(&OUTSIDE);
        let (mut header, datagram) = large_to(d, to, ACK);
        header.gso_size = d.range(0, 32) as u16;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("beyond the LAN, where no gateway leads", |d| {
        drop(&udp(d, ip("2001:db8:2::7"), (4000, 4001)), "drop.no_gateway")
    }),
];

/// Datagram number `number` to somebody, nearly as large as the link takes.
pub fn numbered(number: u64, to: IpAddr, fate: Fate) -> Shot {
    let from = Who::Hostile.ip(to.is_ipv4());
    let data = [&number.to_be_bytes()[..], &[0x5a; 1300]].concat();
    let message = frames::udp(from, to, (4000, 4001), &data);
    clean(carried(&frames::datagram(from, to, protocol::UDP, message)), fate)
}

/// A datagram to an address on the LAN that nobody has.
pub fn to_nobody(d: &mut Dice, last: u8) -> Shot {
    let to = match last % 2 {
        0 => Ipv4Addr::new(203, 0, 113, 200 + last % 50).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0xdead, last.into()).into(),
    };
    clean(carried(&udp(d, to, (4000, 4001))), Fate::Out)
}

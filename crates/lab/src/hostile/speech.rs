//! What a hostile guest says: frames and their virtio-net headers, each valid but for one thing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use virtqueue::NetHeader;

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

/// What says something wrong, or something right that looks wrong, with the saying's name.
pub const SAYINGS: &[(&str, Saying)] = &[
    // Nothing is wrong: what is right must go on arriving.
    ("a datagram", |d| {
        let (to, v4) = (receiver(d), family(d));
        clean(carried(&udp(d, to.ip(v4), (4000, 4001))), Fate::Arrive(to, Left::Nothing))
    }),
    ("a checksum left to offload", |d| {
        let to = receiver(d);
        with(partial(d, to), Fate::Arrive(to, Left::Checksum))
    }),
    ("a large send", |d| {
        let to = receiver(d);
        let (header, datagram) = large(d, to, ACK);
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("any Ethernet addresses", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(true), (4000, 4001));
        let frame = [d.octets(12), vec![8, 0], datagram].concat();
        clean(frame, Fate::Arrive(to, Left::Nothing))
    }),
    ("octets behind the datagram", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(true), (4000, 4001));
        let trailer = d.range(1, 100) as usize;
        clean([carried(&datagram), d.octets(trailer)].concat(), Fate::Arrive(to, Left::Nothing))
    }),
    ("a question by ARP", |d| {
        let target = d.pick(&[Who::Rich.ip4(), Ipv4Addr::new(203, 0, 113, 1)]);
        clean(arp_frame(&arp_request(target)), Fate::Answered)
    }),
    ("a solicitation", |_| clean(carried(&solicitation(Who::Rich.ip6()).bytes()), Fate::Answered)),
    ("an echo request", |d| {
        let (from, to) = match family(d) {
            true => (Who::Hostile.ip(true), ip("169.254.0.1")),
            false => (Who::Hostile.ip(false), ip("fe80::1")),
        };
        let (kind, what) = if to.is_ipv4() { (8, protocol::ICMP) } else { (128, protocol::ICMP6) };
        let rest = [vec![0, 1, 0, 2], data(d, 0, 1200)].concat();
        let message = frames::icmp(from, to, kind, 0, &rest);
        clean(carried(&frames::datagram(from, to, what, message)), Fate::Answered)
    }),
    ("a probe for its own address", |_| {
        let message = frames::arp(
            1,
            (Who::Hostile.mac(), Ipv4Addr::UNSPECIFIED),
            ([0; 6], Who::Hostile.ip4()),
        );
        clean(arp_frame(&message), Fate::Silent)
    }),
    // Lies in the virtio-net header.
    ("csum_start is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.csum_start = d.word_but(header.csum_start);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("csum_offset is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.csum_offset = d.word_but(header.csum_offset);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("a checksum of a protocol without one", |d| {
        let to = receiver(d);
        let (header, mut datagram) = partial(d, to);
        let at = if datagram[0] >> 4 == 4 { 9 } else { 6 };
        datagram[at] = protocol::EXPERIMENT;
        if at == 9 {
            frames::fix_ip4_checksum(&mut datagram);
        }
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("a checksum of a fragment", |d| {
        let to = receiver(d);
        let mut fragment = plain4(d, to);
        fragment.protocol = protocol::UDP;
        fragment.more_fragments = family(d);
        fragment.fragment_offset = u16::from(!fragment.more_fragments);
        fragment.payload = data(d, 16, 100);
        fragment.payload.truncate(fragment.payload.len() / 8 * 8);
        let header = NetHeader {
            flags: NetHeader::F_NEEDS_CSUM,
            csum_start: ETHERNET + 20,
            csum_offset: UDP_SUM,
            ..NetHeader::default()
        };
        with((header, fragment.bytes()), Fate::Drop("drop.offload_checksum"))
    }),
    ("a checksum's field behind the datagram", |d| {
        let to = receiver(d);
        let mut short = plain4(d, to);
        short.protocol = protocol::UDP;
        short.payload.truncate(d.index(8));
        let header = NetHeader {
            flags: NetHeader::F_NEEDS_CSUM,
            csum_start: ETHERNET + 20,
            csum_offset: UDP_SUM,
            ..NetHeader::default()
        };
        with((header, short.bytes()), Fate::Drop("drop.offload_checksum"))
    }),
    ("a segmentation type that is none", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_type = loop {
            let kind = d.octet();
            if kind != 0 && !matches!(kind & 0x7f, 1 | 3 | 4 | 5) {
                break kind;
            }
        };
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation of the other family", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_type ^= NetHeader::GSO_TCPV4 ^ NetHeader::GSO_TCPV6;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation without a checksum left open", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.flags = 0;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation of UDP as if it were TCP", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        let v4 = datagram[0] >> 4 == 4;
        header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        header.gso_size = 500;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation that nobody was offered", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.gso_type = d.pick(&[NetHeader::GSO_UDP, NetHeader::GSO_UDP_L4]);
        header.gso_size = 500;
        with((header, datagram), Fate::Drop("drop.offload_not_negotiated"))
    }),
    ("segments of no octets", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_size = 0;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segments of few octets", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_size = d.range(1, 32) as u16;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segments larger than the link takes", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        let fits = MTU - usize::from(header.hdr_len - ETHERNET);
        let all = datagram.len() + usize::from(ETHERNET) - usize::from(header.hdr_len);
        header.gso_size = d.range(fits as u64 + 1, fits as u64 + 40) as u16;
        // With so few octets it would be no large send at all.
        let fate = if all > usize::from(header.gso_size) {
            Fate::Drop("drop.segment_too_big")
        } else if datagram.len() > MTU {
            if datagram[0] >> 4 == 4 {
                header.gso_size = fits as u16;
                Fate::Arrive(to, Left::Large { size: fits as u16, ecn: false })
            } else {
                Fate::Drop("drop.too_big")
            }
        } else {
            Fate::Arrive(to, Left::Checksum)
        };
        with((header, datagram), fate)
    }),
    ("a TCP header of a wrong length", |d| {
        let to = receiver(d);
        let (header, mut datagram) = large(d, to, ACK);
        let at = usize::from(header.csum_start - ETHERNET) + 12;
        datagram[at] = (d.range(0, 5) as u8) << 4;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("hdr_len is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.hdr_len = d.word_but(header.hdr_len);
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("congestion in the header only", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_type |= NetHeader::GSO_ECN;
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("congestion, true", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK | CWR);
        header.gso_type |= NetHeader::GSO_ECN;
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: true }))
    }),
    ("a large send of one segment", |d| {
        let to = receiver(d);
        let v4 = family(d);
        let (from, address) = (Who::Hostile.ip(v4), to.ip(v4));
        let payload = data(d, 1, 1000);
        let message = frames::tcp(from, address, (5000, 5001), ACK, &[], &payload);
        let (mut header, datagram) = unfinished(d, address, protocol::TCP, TCP_SUM, message);
        header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        header.gso_size = d.range(payload.len() as u64, 65_536) as u16;
        with((header, datagram), Fate::Arrive(to, Left::Checksum))
    }),
    ("flags that mean nothing", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(true), (4000, 4001));
        let header = NetHeader { flags: d.octet() & !1, ..NetHeader::default() };
        with((header, datagram), Fate::Arrive(to, Left::Nothing))
    }),
    ("fields that are not asked for", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(false), (4000, 4001));
        let header = NetHeader {
            flags: d.pick(&[0, NetHeader::F_DATA_VALID]),
            gso_type: NetHeader::GSO_NONE,
            hdr_len: d.word(),
            gso_size: d.word(),
            csum_start: d.word(),
            csum_offset: d.word(),
            num_buffers: d.word(),
        };
        with((header, datagram), Fate::Arrive(to, Left::Nothing))
    }),
    // Frames and headers that are none.
    ("a frame shorter than its header", |d| {
        let len = d.index(14);
        clean(d.octets(len), Fate::Drop("drop.frame_length"))
    }),
    ("a type nobody knows", |d| {
        let to = receiver(d);
        let mut frame = carried(&plain4(d, to).bytes());
        let kind = loop {
            let kind = d.word();
            if !matches!(kind, 0x0800 | 0x0806 | 0x86dd | 0x8100 | 0x88a8 | 0x9100) {
                break kind;
            }
        };
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        clean(frame, Fate::Drop("drop.ethertype_unknown"))
    }),
    ("a tag", |d| {
        let to = receiver(d);
        let frame = carried(&plain4(d, to).bytes());
        let tag = d.pick(&[[0x81, 0], [0x88, 0xa8], [0x91, 0]]);
        let frame = [&frame[..12], &tag, &d.octets(2), &frame[12..]].concat();
        clean(frame, Fate::Drop("drop.vlan_tagged"))
    }),
    ("ARP of another kind", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        let at = d.index(6);
        message[at] = d.other(&[0, 1, 2, 4, 6, 8, 255], message[at]);
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP cut short", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        message.truncate(d.index(28));
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP with an operation nobody knows", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        message[7] = d.range(3, 256) as u8;
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP from a group", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        message[8] |= d.pick(&[1, 0xff]);
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP in another's name", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        let other = d.pick(&[Who::Plain.ip4(), Ipv4Addr::new(203, 0, 113, 1)]);
        message[14..18].copy_from_slice(&other.octets());
        clean(arp_frame(&message), Fate::Drop("drop.source_not_own"))
    }),
    ("IPv4 cut within its header", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram.truncate(d.index(20));
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP4, &datagram);
        clean(frame, Fate::Drop("drop.ip4_truncated"))
    }),
    ("IPv4 of another version", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram[0] = datagram[0] & 15 | (d.other(&[0, 1, 3, 5, 6, 15], 4) << 4);
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP4, &datagram);
        clean(frame, Fate::Drop("drop.ip4_version"))
    }),
    ("an IPv4 header too short", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram[0] = 0x40 | d.range(0, 5) as u8;
        drop(&datagram, "drop.ip4_header_length")
    }),
    ("an IPv4 header longer than the frame", |d| {
        let to = receiver(d);
        let mut datagram = Ip4 { payload: vec![], ..plain4(d, to) }.bytes();
        datagram[0] = 0x40 | d.range(6, 16) as u8;
        drop(&datagram, "drop.ip4_header_length")
    }),
    ("an IPv4 length beyond the frame", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        let len = d.range(datagram.len() as u64 + 1, 65_536) as u16;
        datagram[2..4].copy_from_slice(&len.to_be_bytes());
        frames::fix_ip4_checksum(&mut datagram);
        drop(&datagram, "drop.ip4_total_length")
    }),
    ("an IPv4 length within the header", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram[2..4].copy_from_slice(&(d.range(0, 20) as u16).to_be_bytes());
        frames::fix_ip4_checksum(&mut datagram);
        drop(&datagram, "drop.ip4_total_length")
    }),
    ("one bit of an IPv4 header", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        // Not the version and the lengths: they have names of their own.
        let at = d.range(4, 20) as usize;
        datagram[at] ^= 1 << d.range(0, 8);
        drop(&datagram, "drop.ip4_checksum")
    }),
    ("IPv6 cut within its header", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to).bytes();
        datagram.truncate(d.index(40));
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP6, &datagram);
        clean(frame, Fate::Drop("drop.ip6_truncated"))
    }),
    ("IPv6 of another version", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to).bytes();
        datagram[0] = datagram[0] & 15 | (d.other(&[0, 4, 5, 7, 15], 6) << 4);
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP6, &datagram);
        clean(frame, Fate::Drop("drop.ip6_version"))
    }),
    ("an IPv6 length beyond the frame", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to).bytes();
        let len = d.range(datagram.len() as u64 - 39, 65_536) as u16;
        datagram[4..6].copy_from_slice(&len.to_be_bytes());
        drop(&datagram, "drop.ip6_payload_length")
    }),
    ("an endless chain of extension headers", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to);
        let count = d.range(17, 40) as usize;
        let mut chain = frames::options_header(protocol::DESTINATION).repeat(count);
        let last = chain.len() - 8;
        chain[last] = protocol::EXPERIMENT;
        datagram.next = protocol::DESTINATION;
        datagram.payload = chain;
        drop(&datagram.bytes(), "drop.ip6_header_chain")
    }),
    ("an extension header longer than the datagram", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to);
        datagram.next = d.pick(&[protocol::HOP_BY_HOP, protocol::ROUTING, protocol::DESTINATION]);
        datagram.payload = frames::options_header(protocol::UDP);
        datagram.payload[1] = d.range(1, 256) as u8;
        drop(&datagram.bytes(), "drop.ip6_header_chain")
    }),
    ("a first fragment without its header", |d| {
        let to = receiver(d);
        let what = d.pick(&[protocol::TCP, protocol::UDP, protocol::ICMP, protocol::SCTP]);
        let mut fragment = plain4(d, to);
        fragment.protocol = what;
        fragment.more_fragments = true;
        fragment.payload.truncate(d.index(8));
        drop(&fragment.bytes(), "drop.first_fragment_incomplete")
    }),
    ("a first IPv6 fragment without its header", |d| {
        let to = receiver(d);
        let mut fragment = plain6(d, to);
        fragment.next = protocol::FRAGMENT;
        let short = d.index(8);
        let next = d.pick(&[protocol::TCP, protocol::UDP]);
        fragment.payload = [frames::fragment_header(next, 0, true), d.octets(short)].concat();
        drop(&fragment.bytes(), "drop.first_fragment_incomplete")
    }),
    // What speaks for the last inch.
    ("a fragmented solicitation", |d| {
        let whole = solicitation(Who::Rich.ip6());
        let header = frames::fragment_header(protocol::ICMP6, 0, family(d));
        let payload = [header, whole.payload.clone()].concat();
        drop(&Ip6 { next: protocol::FRAGMENT, payload, ..whole }.bytes(), "drop.ndp_fragmented")
    }),
    ("a router advertisement", |d| {
        let to = d.pick(&[Who::Rich.ip6(), "ff02::1".parse().unwrap_or(Ipv6Addr::LOCALHOST)]);
        drop(&discovery(134, to, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]).bytes(), "drop.last_inch")
    }),
    ("a redirect behind an extension header", |d| {
        let redirect = discovery(137, receiver(d).ip6(), &[0; 36]);
        let header = frames::options_header(protocol::ICMP6);
        let payload = [header, redirect.payload.clone()].concat();
        drop(&Ip6 { next: protocol::DESTINATION, payload, ..redirect }.bytes(), "drop.last_inch")
    }),
    ("a neighbour advertisement to another", |d| {
        let rest = [&[0x60, 0, 0, 0], &Who::Hostile.ip6().octets()[..]].concat();
        drop(&discovery(136, receiver(d).ip6(), &rest).bytes(), "drop.last_inch")
    }),
    ("a solicitation from afar", |d| {
        let hop_limit = d.range(0, 255) as u8;
        let datagram = Ip6 { hop_limit, ..solicitation(Who::Rich.ip6()) };
        drop(&datagram.bytes(), "drop.answer_malformed")
    }),
    ("a solicitation with one bit changed", |d| {
        let mut datagram = solicitation(Who::Rich.ip6()).bytes();
        // Not the type: it says what the message is.
        let at = d.range(41, datagram.len() as u64) as usize;
        datagram[at] ^= 1 << d.range(0, 8);
        drop(&datagram, "drop.answer_malformed")
    }),
    ("a solicitation in another's name", |d| {
        let other = d.pick(&[Who::Rich.ip6(), "fe80::1".parse().unwrap_or(Ipv6Addr::LOCALHOST)]);
        let whole = solicitation(Who::Plain.ip6());
        let rest = &whole.payload[4..];
        let payload = frames::icmp(other.into(), whole.destination.into(), 135, 0, rest);
        drop(&Ip6 { source: other, payload, ..whole }.bytes(), "drop.source_not_own")
    }),
    ("a DHCP server's reply", |d| {
        let (to, v4) = (receiver(d), family(d));
        let ports = if v4 { (67, 68) } else { (547, 546) };
        drop(&udp(d, to.ip(v4), ports), "drop.dhcp_reply")
    }),
    ("a DHCP message of garbage", |d| {
        let from = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let to = IpAddr::V4(Ipv4Addr::BROADCAST);
        let garbage = d.range(0, 200) as usize;
        let message = frames::udp(from, to, (68, 67), &vec![0x5a; garbage]);
        drop(&frames::datagram(from, to, protocol::UDP, message), "drop.answer_malformed")
    }),
    ("something to the base that it does not serve", |d| {
        let v4 = family(d);
        let to = if v4 { ip("169.254.0.1") } else { ip("fe80::1") };
        drop(&udp(d, to, (4000, 53)), "drop.not_served")
    }),
    // Addresses.
    ("a source that another has", |d| {
        let v4 = family(d);
        let outside = if v4 { ip("198.51.100.7") } else { ip("2001:db8:2::7") };
        let from = d.pick(&[Who::Rich.ip(v4), Who::GoodA.ip(v4), outside]);
        drop(&between(d, from, Who::GoodB.ip(v4)), "drop.source_not_own")
    }),
    ("to itself", |d| {
        let own = Who::Hostile.ip(family(d));
        drop(&between(d, own, own), "drop.destination_own")
    }),
    ("a datagram too large for the link", |d| {
        let v4 = family(d);
        let head = if v4 { 20 } else { 40 };
        let (to, len) = (receiver(d), d.range(MTU as u64 + 1, 1900) as usize);
        let payload = data(d, (len - head) as u64, (len - head) as u64 + 1);
        let datagram = if v4 {
            Ip4 { dont_fragment: true, payload, ..plain4(d, to) }.bytes()
        } else {
            Ip6 { payload, ..plain6(d, to) }.bytes()
        };
        drop(&datagram, "drop.too_big")
    }),
    // Receivers that cannot take anything.
    ("to one without buffers", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Mute.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Mute, "drop.rx_no_buffer"))
    }),
    ("to one with small buffers", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Tiny.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Tiny, "drop.rx_buffer_too_small"))
    }),
    ("to one without a driver", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Absent.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Absent, "drop.rx_port_down"))
    }),
    ("to one without a MAC address", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Unknown.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Unknown, "drop.mac_unknown"))
    }),
    ("to one with broken rings", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Broken.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Broken, "drop.rx_port_broken"))
    }),
];

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

/// A datagram to an address on the LAN that nobody has.
pub fn to_nobody(d: &mut Dice, last: u8) -> Shot {
    let to = match last % 2 {
        0 => Ipv4Addr::new(203, 0, 113, 200 + last % 50).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0xdead, last.into()).into(),
    };
    clean(carried(&udp(d, to, (4000, 4001))), Fate::Out)
}

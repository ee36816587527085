//! What a hostile peer on the LAN says: frames and what it leaves to offload, each valid but for one
//! thing.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use virtqueue::NetHeader;

use super::cast::Who;
use super::dice::Dice;
use super::outside::Outside;
use super::speech::{
    DESTINATIONS, ETHERNET, Fate, Left, MTU, SOURCES, Saying, Shot, TCP_SUM, named,
};
use super::stage::{PATIENCE, Stage};
use crate::capture::Tap;
use crate::command::wait_until;
use crate::error::{LabError, Result};
use crate::frames::{self, Ip4, Ip6, Mac, protocol};
use crate::scene::{LAN_CARD, OUTSIDE};

/// The card, until it is known.
const CARD: Mac = [0x02, 0, 0, 0, 0, 0xca];
/// The peer, until it is known.
const PEER: Mac = [0x02, 0, 0, 0, 0, 0xfe];
const UDP_SUM: u16 = 6;

/// A raw socket at the other end of the card's cable.
pub struct Lan {
    tap: Tap,
    card: Mac,
    peer: Mac,
}

impl Lan {
    /// Opens it, and waits until the base has claimed the VMs' addresses on the LAN: it does not
    /// answer for them before.
    pub fn open(stage: &mut Outside) -> Result<Self> {
        let tap = Tap::open(&stage.scene.outside, LAN_CARD)?;
        let (card, peer) =
            (stage.scene.card_mac()?, crate::netns::mac(&stage.scene.outside, LAN_CARD)?);
        let lan = Self { tap, card, peer };
        let questions =
            [question(), clean(carried(&solicitation(Who::Rich.ip6()).bytes()), Fate::Answered)];
        wait_until(
            PATIENCE,
            || "answers for a VM's addresses on the LAN".to_owned(),
            || {
                let before = stage.uplink()?.get("answered");
                questions.iter().try_for_each(|shot| lan.say(shot).map(|_| ()))?;
                std::thread::sleep(Duration::from_millis(100));
                Ok((stage.uplink()?.get("answered") >= before + 2).then_some(()))
            },
        )?;
        Ok(lan)
    }

    /// Sends a frame, with the true MAC addresses. False if the peer's own kernel refuses to say it:
    /// each version of it looks a little closer at what is left to offload.
    pub fn say(&self, shot: &Shot) -> Result<bool> {
        let mut frame = shot.frame.clone();
        for (at, stands_for, mac) in [(0, CARD, self.card), (6, PEER, self.peer)] {
            if let Some(place) = frame.get_mut(at..at + 6)
                && *place == stands_for
            {
                place.copy_from_slice(&mac);
            }
        }
        match self.tap.send_with(shot.header, &frame) {
            Err(LabError::Io { source, .. }) if source.kind() == ErrorKind::InvalidInput => {
                Ok(false)
            }
            sent => sent.map(|()| true),
        }
    }

    /// The datagrams that the card has sent and it has not forgotten.
    pub fn heard(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(frame) = self.tap.receive(Duration::ZERO)? {
            if !frame.outgoing {
                all.push(frames::datagram_of(&frame.bytes).to_vec());
            }
        }
        Ok(all)
    }

    /// Forgets what it has heard.
    pub fn forget(&self) -> Result<()> {
        self.tap.drain()
    }
}

fn carried(datagram: &[u8]) -> Vec<u8> {
    frames::carry(CARD, PEER, datagram)
}

fn clean(frame: Vec<u8>, fate: Fate) -> Shot {
    Shot { header: NetHeader::default(), frame, fate }
}

fn drop(datagram: &[u8], name: &'static str) -> Shot {
    clean(carried(datagram), Fate::Drop(name))
}

fn with((header, datagram): (NetHeader, Vec<u8>), fate: Fate) -> Shot {
    Shot { header, frame: carried(&datagram), fate }
}

fn receiver(d: &mut Dice) -> Who {
    d.pick(&[Who::Rich, Who::Plain])
}

fn peer4() -> Ipv4Addr {
    match OUTSIDE[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn peer6() -> Ipv6Addr {
    match OUTSIDE[1] {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

fn peer(v4: bool) -> IpAddr {
    if v4 { peer4().into() } else { peer6().into() }
}

fn data(d: &mut Dice, from: u64, to: u64) -> Vec<u8> {
    let (len, shift) = (d.range(from, to) as usize, d.index(251));
    (0..len).map(|i| ((i + shift) % 251) as u8).collect()
}

fn plain4(d: &mut Dice) -> Ip4 {
    let to = receiver(d).ip4();
    Ip4::new(peer4(), to, protocol::EXPERIMENT, data(d, 8, 600))
}

fn plain6(d: &mut Dice) -> Ip6 {
    let to = receiver(d).ip6();
    Ip6::new(peer6(), to, protocol::EXPERIMENT, data(d, 8, 600))
}

fn udp(d: &mut Dice, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let from = peer(to.is_ipv4());
    let message = frames::udp(from, to, ports, &data(d, 0, 1300));
    frames::datagram(from, to, protocol::UDP, message)
}

fn unfinished(
    d: &mut Dice,
    to: Who,
    what: u8,
    at: u16,
    mut message: Vec<u8>,
) -> (NetHeader, Vec<u8>) {
    let v4 = d.once_in(2);
    let (from, to) = (peer(v4), to.ip(v4));
    frames::leave_checksum(from, to, what, &mut message, at.into());
    let csum_start = ETHERNET + if v4 { 20 } else { 40 };
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        csum_start,
        csum_offset: at,
        ..NetHeader::default()
    };
    (header, frames::datagram(from, to, what, message))
}

fn partial(d: &mut Dice, to: Who) -> (NetHeader, Vec<u8>) {
    let data = data(d, 64, 1300);
    let length = (8 + data.len()) as u16;
    let message = [[4000, 4001, length, 0].map(u16::to_be_bytes).concat(), data].concat();
    unfinished(d, to, protocol::UDP, UDP_SUM, message)
}

fn large(d: &mut Dice, to: Who) -> (NetHeader, Vec<u8>) {
    let size = d.range(400, 1361) as u16;
    let payload = data(d, u64::from(size) + 1, 12 * u64::from(size).min(1400));
    let (a, b) = (peer(true), to.ip(true));
    let message = frames::tcp(a, b, (5000, 5001), 0x10, &[], &payload);
    let (mut header, datagram) = unfinished(d, to, protocol::TCP, TCP_SUM, message);
    let v4 = datagram[0] >> 4 == 4;
    header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
    header.gso_size = size;
    header.hdr_len = header.csum_start + 20;
    (header, datagram)
}

fn solicitation(target: Ipv6Addr) -> Ip6 {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let rest = [&[0; 4], &target.octets()[..], &[1, 1], &PEER].concat();
    let message = frames::icmp(peer(false), group.into(), 135, 0, &rest);
    Ip6 { hop_limit: 255, ..Ip6::new(peer6(), group, protocol::ICMP6, message) }
}

fn discovery(kind: u8, to: Ipv6Addr, rest: &[u8]) -> Ip6 {
    let message = frames::icmp(peer(false), to.into(), kind, 0, rest);
    Ip6 { hop_limit: 255, ..Ip6::new(peer6(), to, protocol::ICMP6, message) }
}

fn arp_frame(message: &[u8]) -> Vec<u8> {
    frames::ethernet([0xff; 6], PEER, frames::ARP, message)
}

fn question() -> Shot {
    let message = frames::arp(1, (PEER, peer4()), ([0; 6], Who::Rich.ip4()));
    clean(arp_frame(&message), Fate::Answered)
}

fn between(d: &mut Dice, from: IpAddr, to: IpAddr) -> Vec<u8> {
    frames::datagram(from, to, protocol::EXPERIMENT, data(d, 1, 300))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// The sayings that a virtio-net header is about.
pub const BY_HEADER: [&str; 5] = [
    "a large send",
    "csum_start is another",
    "csum_offset is another",
    "segments of few octets, as a kernel makes them of what it merges",
    "segments larger than the link takes",
];

/// What is said, with its name.
pub const SAYINGS: &[(&str, Saying)] = &[
    ("a datagram", |d| {
        let (to, v4) = (receiver(d), d.once_in(2));
        clean(carried(&udp(d, to.ip(v4), (4000, 4001))), Fate::Arrive(to, Left::Nothing))
    }),
    ("a checksum left to offload", |d| {
        let to = receiver(d);
        with(partial(d, to), Fate::Arrive(to, Left::Checksum))
    }),
    ("a large send", |d| {
        let to = receiver(d);
        let (header, datagram) = large(d, to);
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("a question by ARP", |_| question()),
    ("a solicitation", |_| clean(carried(&solicitation(Who::Rich.ip6()).bytes()), Fate::Answered)),
    ("csum_start is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        // Linux wants it behind the IP header, and in the frame.
        header.csum_start = d.other(&[42, 44, 46, 50, 56, 60, 64], header.csum_start);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("csum_offset is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.csum_offset = d.other(&[0, 2, 4, 8, 12, 16], UDP_SUM);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("segments of few octets, as a kernel makes them of what it merges", |d| {
        let (mut header, datagram) = large(d, Who::Rich);
        let size = d.range(8, 32) as u16;
        header.gso_size = size;
        with((header, datagram), Fate::Arrive(Who::Rich, Left::Large { size, ecn: false }))
    }),
    ("a datagram for one in a frame for many", |d| {
        let (to, v4) = (receiver(d), d.once_in(2));
        let many = if d.once_in(2) { [0xff; 6] } else { [1, 0, 0x5e, 0, 0, 1] };
        let kind = if v4 { frames::IP4 } else { frames::IP6 };
        let datagram = udp(d, to.ip(v4), (4000, 4001));
        clean(frames::ethernet(many, PEER, kind, &datagram), Fate::Drop("drop.group_frame"))
    }),
    ("segments larger than the link takes", |d| {
        let to = receiver(d);
        let payload = data(d, 6000, 9000);
        let (a, b) = (peer(true), to.ip(true));
        let message = frames::tcp(a, b, (5000, 5001), 0x10, &[], &payload);
        let (mut header, datagram) = unfinished(d, to, protocol::TCP, TCP_SUM, message);
        let v4 = datagram[0] >> 4 == 4;
        header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        header.gso_size = d.range(1461, 5000) as u16;
        header.hdr_len = header.csum_start + 20;
        with((header, datagram), Fate::Drop("drop.segment_too_big"))
    }),
    ("a type nobody knows", |d| {
        let mut frame = carried(&plain4(d).bytes());
        frame[12..14].copy_from_slice(&d.pick(&[0x88b5u16, 0x88b6, 0x1234, 0x0801]).to_be_bytes());
        clean(frame, Fate::Drop("drop.ethertype_unknown"))
    }),
    ("a tag", |d| {
        let frame = carried(&plain4(d).bytes());
        let tag = d.pick(&[[0x81, 0], [0x88, 0xa8], [0x91, 0]]);
        let frame = [&frame[..12], &tag, &[0, 1 + d.octet() % 100], &frame[12..]].concat();
        clean(frame, Fate::Drop("drop.vlan_tagged"))
    }),
    ("ARP of another kind", |d| {
        let mut message = frames::arp(1, (PEER, peer4()), ([0; 6], Who::Rich.ip4()));
        let at = d.index(6);
        message[at] = d.other(&[0, 1, 2, 4, 6, 8, 255], message[at]);
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP cut short", |d| {
        let mut message = frames::arp(1, (PEER, peer4()), ([0; 6], Who::Rich.ip4()));
        message.truncate(d.index(28));
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("IPv4 cut within its header", |d| {
        let mut datagram = plain4(d).bytes();
        datagram.truncate(d.index(20));
        clean(
            frames::ethernet(CARD, PEER, frames::IP4, &datagram),
            Fate::Drop("drop.ip4_truncated"),
        )
    }),
    ("IPv4 of another version", |d| {
        let mut datagram = plain4(d).bytes();
        datagram[0] = datagram[0] & 15 | (d.other(&[0, 1, 3, 5, 6, 15], 4) << 4);
        clean(frames::ethernet(CARD, PEER, frames::IP4, &datagram), Fate::Drop("drop.ip4_version"))
    }),
    ("an IPv4 header too short", |d| {
        let mut datagram = plain4(d).bytes();
        datagram[0] = 0x40 | d.range(0, 5) as u8;
        drop(&datagram, "drop.ip4_header_length")
    }),
    ("an IPv4 length beyond the frame", |d| {
        let mut datagram = plain4(d).bytes();
        let len = d.range(datagram.len() as u64 + 1, 65_536) as u16;
        datagram[2..4].copy_from_slice(&len.to_be_bytes());
        frames::fix_ip4_checksum(&mut datagram);
        drop(&datagram, "drop.ip4_total_length")
    }),
    ("one bit of an IPv4 header", |d| {
        let mut datagram = plain4(d).bytes();
        // Not the destination: what is the host's does not come to the base.
        datagram[d.range(4, 16) as usize] ^= 1 << d.range(0, 8);
        drop(&datagram, "drop.ip4_checksum")
    }),
    ("IPv6 cut within its header", |d| {
        let mut datagram = plain6(d).bytes();
        datagram.truncate(d.index(40));
        clean(
            frames::ethernet(CARD, PEER, frames::IP6, &datagram),
            Fate::Drop("drop.ip6_truncated"),
        )
    }),
    ("IPv6 of another version", |d| {
        let mut datagram = plain6(d).bytes();
        datagram[0] = datagram[0] & 15 | (d.other(&[0, 4, 5, 7, 15], 6) << 4);
        clean(frames::ethernet(CARD, PEER, frames::IP6, &datagram), Fate::Drop("drop.ip6_version"))
    }),
    ("an IPv6 length beyond the frame", |d| {
        let mut datagram = plain6(d).bytes();
        let len = d.range(datagram.len() as u64 - 39, 65_536) as u16;
        datagram[4..6].copy_from_slice(&len.to_be_bytes());
        drop(&datagram, "drop.ip6_payload_length")
    }),
    ("an endless chain of extension headers", |d| {
        let mut datagram = plain6(d);
        let mut chain =
            frames::options_header(protocol::DESTINATION).repeat(d.range(17, 40) as usize);
        let last = chain.len() - 8;
        chain[last] = protocol::EXPERIMENT;
        datagram.next = protocol::DESTINATION;
        datagram.payload = chain;
        drop(&datagram.bytes(), "drop.ip6_header_chain")
    }),
    ("a first fragment without its header", |d| {
        let mut fragment = plain4(d);
        fragment.protocol = d.pick(&[protocol::TCP, protocol::UDP, protocol::ICMP]);
        fragment.more_fragments = true;
        fragment.payload.truncate(d.index(8));
        drop(&fragment.bytes(), "drop.first_fragment_incomplete")
    }),
    ("a fragmented solicitation", |d| {
        let whole = solicitation(Who::Rich.ip6());
        let header = frames::fragment_header(protocol::ICMP6, 0, d.once_in(2));
        let payload = [header, whole.payload.clone()].concat();
        drop(&Ip6 { next: protocol::FRAGMENT, payload, ..whole }.bytes(), "drop.ndp_fragmented")
    }),
    ("a router advertisement", |d| {
        let to = receiver(d).ip6();
        drop(&discovery(134, to, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]).bytes(), "drop.last_inch")
    }),
    ("a redirect behind an extension header", |d| {
        let redirect = discovery(137, receiver(d).ip6(), &[0; 36]);
        let header = frames::options_header(protocol::ICMP6);
        let payload = [header, redirect.payload.clone()].concat();
        drop(&Ip6 { next: protocol::DESTINATION, payload, ..redirect }.bytes(), "drop.last_inch")
    }),
    ("a solicitation with one bit changed", |d| {
        let mut datagram = solicitation(Who::Rich.ip6()).bytes();
        let at = d.range(41, 64) as usize;
        datagram[at] ^= 1 << d.range(0, 8);
        drop(&datagram, "drop.answer_malformed")
    }),
    ("a DHCP server's reply", |d| {
        let (to, v4) = (receiver(d), d.once_in(2));
        let ports = if v4 { (67, 68) } else { (547, 546) };
        drop(&udp(d, to.ip(v4), ports), "drop.dhcp_reply")
    }),
    ("a source that a VM or the host has", |d| {
        let v4 = d.once_in(2);
        let host = crate::scene::HOST[usize::from(!v4)];
        let from = d.pick(&[Who::Hostile.ip(v4), Who::GoodA.ip(v4), host]);
        let to = receiver(d).ip(v4);
        drop(&between(d, from, to), "drop.source_in_list")
    }),
    ("a destination that is not in the list", |d| {
        let to = match d.once_in(2) {
            true => Ipv4Addr::new(198, 51, 100, d.octet()).into(),
            false => ip("2001:db8:2::7"),
        };
        drop(&between(d, peer(to.is_ipv4()), to), "drop.unknown_destination")
    }),
    ("a datagram too large for the link", |d| {
        let v4 = d.once_in(2);
        let len = MTU + d.range(1, 5) as usize - if v4 { 20 } else { 40 };
        let payload = data(d, len as u64, len as u64 + 1);
        let datagram = if v4 {
            Ip4 { dont_fragment: true, payload, ..plain4(d) }.bytes()
        } else {
            Ip6 { payload, ..plain6(d) }.bytes()
        };
        drop(&datagram, "drop.too_big")
    }),
];

/// Addresses of many kinds, each with a name of its own: said more often than other things.
pub const ADDRESSES: &[(&str, Saying)] = &[
    ("a source that nobody has", |d| {
        let (text, name) = named(d, SOURCES);
        let to = receiver(d).ip(ip(text).is_ipv4());
        drop(&between(d, ip(text), to), name)
    }),
    ("a destination that nobody has", |d| {
        let (text, name) = named(d, DESTINATIONS);
        let to = ip(text);
        drop(&between(d, peer(to.is_ipv4()), to), name)
    }),
];

/// A large send larger than the base has room for: only a kernel that was told to makes them.
pub fn giant(d: &mut Dice) -> Shot {
    let (from, to) = (peer(false), Who::Rich.ip(false));
    let payload = data(d, 75_000, 90_000);
    let message = frames::tcp(from, to, (5000, 5001), 0x10, &[], &payload);
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        gso_type: NetHeader::GSO_TCPV6,
        gso_size: 1400,
        hdr_len: 60_000,
        csum_start: ETHERNET + 40,
        csum_offset: TCP_SUM,
        ..NetHeader::default()
    };
    with(
        (header, frames::datagram(from, to, protocol::TCP, message)),
        Fate::Drop("drop.uplink_clipped"),
    )
}

/// A large send that takes the base longer than the kernel: its receiver takes no offload.
pub fn costly(d: &mut Dice) -> Shot {
    let size = 400u16;
    let (from, to) = (peer(true), Who::Plain.ip(true));
    let message = frames::tcp(from, to, (5000, 5001), 0x10, &[], &data(d, 20_000, 20_001));
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        gso_type: NetHeader::GSO_TCPV4,
        gso_size: size,
        hdr_len: ETHERNET + 40,
        csum_start: ETHERNET + 20,
        csum_offset: TCP_SUM,
        ..NetHeader::default()
    };
    let left = Left::Large { size, ecn: false };
    with(
        (header, frames::datagram(from, to, protocol::TCP, message)),
        Fate::Arrive(Who::Plain, left),
    )
}

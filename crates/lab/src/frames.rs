//! Datagrams and frames, written octet by octet, right or wrong as the test wants.
//!
//! Nothing here is shared with the base: what a test compares must not come from what it tests.
//! Structs have plain fields and sensible defaults; `bytes` writes them with right lengths and
//! checksums. What is to be wrong is changed in the octets afterwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv4.
pub const IP4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IP6: u16 = 0x86dd;

/// Protocol and next-header numbers.
pub mod protocol {
    #![allow(missing_docs)]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const ICMP6: u8 = 58;
    pub const NOTHING: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const SCTP: u8 = 132;
    /// For experiments (RFC 3692).
    pub const EXPERIMENT: u8 = 253;
}

/// A MAC address.
pub type Mac = [u8; 6];

/// An Ethernet frame.
pub fn ethernet(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [destination.as_slice(), &source, &kind.to_be_bytes(), payload].concat()
}

/// A frame around an IP datagram, with the EtherType that its version calls for.
pub fn carry(destination: Mac, source: Mac, datagram: &[u8]) -> Vec<u8> {
    let kind = if datagram.first().is_some_and(|b| b >> 4 == 6) { IP6 } else { IP4 };
    ethernet(destination, source, kind, datagram)
}

/// What follows a frame's Ethernet header.
pub fn datagram_of(frame: &[u8]) -> &[u8] {
    frame.get(14..).unwrap_or_default()
}

/// The Internet checksum of what the parts are together; all but the last have even lengths.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The part of a transport checksum that is about the IP header.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = length as u32;
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let rest = [0, protocol, (length >> 8) as u8, length as u8];
            [s.octets().as_slice(), &d.octets(), &rest].concat()
        }
        (s, d) => {
            let octets = |a: IpAddr| match a {
                IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                IpAddr::V6(a) => a.octets(),
            };
            let rest = [&length.to_be_bytes()[..], &[0, 0, 0, protocol]].concat();
            [octets(s).as_slice(), &octets(d), &rest].concat()
        }
    }
}

/// An IPv4 datagram.
#[derive(Clone, Debug)]
pub struct Ip4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service: six bits of DSCP, two of ECN.
    pub service: u8,
    /// Identification.
    pub identification: u16,
    /// May not be fragmented.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Where this fragment belongs, in units of 8 octets.
    pub fragment_offset: u16,
    /// Options; a multiple of 4 octets, at most 40.
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ip4 {
    /// A datagram with default fields.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: 64,
            service: 0,
            identification: 0x1234,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            options: Vec::new(),
            payload,
        }
    }

    /// As sent.
    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = (header + self.payload.len()) as u16;
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13;
        let mut bytes = vec![0x40 | (header / 4) as u8, self.service];
        bytes.extend(length.to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend((flags | self.fragment_offset).to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        fix_ip4_checksum(&mut bytes);
        bytes.extend(&self.payload);
        bytes
    }
}

/// Writes the right header checksum into an IPv4 datagram.
pub fn fix_ip4_checksum(datagram: &mut [u8]) {
    let header = usize::from(datagram[0] & 15) * 4;
    datagram[10..12].fill(0);
    let sum = checksum(&[&datagram[..header.min(datagram.len())]]);
    datagram[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv6 datagram.
#[derive(Clone, Debug)]
pub struct Ip6 {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Kind of the first header of the payload.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: six bits of DSCP, two of ECN.
    pub class: u8,
    /// Flow label.
    pub flow: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ip6 {
    /// A datagram with default fields.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: Vec<u8>) -> Self {
        Self { source, destination, next, hop_limit: 64, class: 0, flow: 0, payload }
    }

    /// As sent.
    pub fn bytes(&self) -> Vec<u8> {
        let first = 6 << 28 | u32::from(self.class) << 20 | self.flow & 0xf_ffff;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend((self.payload.len() as u16).to_be_bytes());
        bytes.extend([self.next, self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.payload);
        bytes
    }
}

/// A datagram of either family with default fields.
pub fn datagram(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => Ip4::new(s, d, protocol, payload).bytes(),
        (IpAddr::V6(s), IpAddr::V6(d)) => Ip6::new(s, d, protocol, payload).bytes(),
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// Octets that differ from their neighbours, to be told from others that are shifted.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

/// A UDP message with its checksum.
pub fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let length = 8 + data.len();
    let mut bytes = [ports.0, ports.1, length as u16, 0].map(u16::to_be_bytes).concat();
    bytes.extend(data);
    let pseudo = pseudo_header(source, destination, protocol::UDP, length);
    let sum = match checksum(&[&pseudo, &bytes]) {
        0 => 0xffff,
        n => n,
    };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A TCP segment with its checksum. `flags` are the low eight bits (SYN is 2, ACK 16, ECE 64).
pub fn tcp(
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = [ports.0, ports.1].map(u16::to_be_bytes).concat();
    bytes.extend([1000u32, 2000].map(u32::to_be_bytes).concat());
    bytes.extend([(((20 + options.len()) / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(data);
    let pseudo = pseudo_header(source, destination, protocol::TCP, bytes.len());
    let sum = checksum(&[&pseudo, &bytes]);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Replaces a transport checksum, `at` octets into the message, by the sum over the pseudo header
/// alone: what a driver leaves there when the rest is left to offload.
pub fn leave_checksum(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    message: &mut [u8],
    at: usize,
) {
    let pseudo = pseudo_header(source, destination, protocol, message.len());
    message[at..at + 2].copy_from_slice(&(!checksum(&[&pseudo])).to_be_bytes());
}

/// Whether the checksum over a transport message and its pseudo header is right.
pub fn sums_up(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> bool {
    checksum(&[&pseudo_header(source, destination, protocol, message.len()), message]) == 0
}

/// An ICMP or ICMPv6 message with its checksum: type, code, and all that follows the checksum.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0], rest].concat();
    let pseudo = match source {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(_) => pseudo_header(source, destination, protocol::ICMP6, bytes.len()),
    };
    let sum = checksum(&[&pseudo, &bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An IPv6 options header (hop-by-hop or destination) of 8 octets, filled with padding.
pub fn options_header(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

/// An IPv6 fragment header; the offset in units of 8 octets.
pub fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, high, low, 0xde, 0xad, 0xbe, 0xef]
}

/// An ARP message: 1 asks, 2 answers.
pub fn arp(operation: u16, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    for (mac, address) in [from, to] {
        bytes.extend(mac);
        bytes.extend(address.octets());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_parser_finds_lengths_and_checksums_right() {
        let pairs: [(IpAddr, IpAddr); 2] = [
            ("203.0.113.10".parse().unwrap(), "203.0.113.11".parse().unwrap()),
            ("2001:db8:1::10".parse().unwrap(), "2001:db8:1::11".parse().unwrap()),
        ];
        for (s, d) in pairs {
            let message = udp(s, d, (1000, 2000), &pattern(33));
            let bytes = datagram(s, d, protocol::UDP, message);
            let parsed = etherparse::SlicedPacket::from_ip(&bytes).unwrap();
            let Some(etherparse::TransportSlice::Udp(slice)) = parsed.transport else {
                panic!("{parsed:?}")
            };
            assert_eq!(slice.payload(), pattern(33));
            // A right checksum makes the sum over all of it zero.
            let pseudo = pseudo_header(s, d, protocol::UDP, 41);
            let header = bytes.len() - 41;
            assert_eq!(checksum(&[&pseudo, &bytes[header..]]), 0);
        }
    }

    #[test]
    fn an_ip4_header_with_options_sums_up() {
        let (s, d) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
        let options = vec![148, 4, 0, 0];
        let bytes = Ip4 { options, ..Ip4::new(s, d, protocol::EXPERIMENT, vec![1]) }.bytes();
        assert_eq!((bytes[0], bytes.len()), (0x46, 25));
        assert_eq!(checksum(&[&bytes[..24]]), 0);
    }
}

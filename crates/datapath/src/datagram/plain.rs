//! The common datagram, judged in a straight line.
//!
//! # Why it exists
//! Nearly every datagram has no options, is no fragment, and goes from one ordinary address to
//! another. For such a one most questions have the same answer; asked one by one, with a name for
//! each refusal, they cost more than all the rest.
//!
//! # Theory of operation
//! [`plain`] looks at a frame once. What it lets pass is such that [`parse`](super::parse) would take
//! it, the base would not answer it, [`last_inch_only`](super::last_inch_only) would let it cross, and
//! neither address is [reserved](crate::reserved). What it does not let pass goes the general way,
//! which finds out what it is, and its drop's name. So nothing is refused here.
//!
//! # Invariants
//! - It says no where it is not sure: the general way is always right.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::last_inch::{DHCP4_CLIENT, DHCP6_CLIENT, protocol};
use super::{ETHERNET_LEN, Ip4, Ip6, chain, ethertype};
use crate::reserved::Class;

/// Octets before the payload of an IPv4 datagram without options, the Ethernet header included.
const HEADERS4: usize = ETHERNET_LEN + Ip4::HEADER_LEN;
/// The same of an IPv6 datagram without extension headers.
const HEADERS6: usize = ETHERNET_LEN + Ip6::HEADER_LEN;
/// Version 4, and a header of five words.
const WITHOUT_OPTIONS: u8 = 0x45;

/// What is known of a common datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plain {
    /// It is none.
    #[default]
    Other,
    /// IPv4.
    Four {
        /// Source address.
        source: Ipv4Addr,
        /// Destination address.
        destination: Ipv4Addr,
        /// Octets of the datagram, padding left out.
        len: u32,
    },
    /// IPv6. Its addresses are where they are: [`plain_addresses6`].
    Six {
        /// Octets of the datagram, padding left out.
        len: u32,
    },
}

impl Plain {
    /// Octets of the datagram; `None` if it is not a common one.
    #[inline]
    pub fn octets(&self) -> Option<usize> {
        match self {
            Self::Other => None,
            Self::Four { len, .. } | Self::Six { len } => Some(*len as usize),
        }
    }
}

/// Reads a frame that may carry a common datagram.
#[inline]
pub fn plain(frame: &[u8]) -> Plain {
    let Some(headers) = frame.first_chunk::<HEADERS4>() else { return Plain::Other };
    match u16::from_be_bytes([headers[12], headers[13]]) {
        ethertype::IP4 => four(headers, frame),
        ethertype::IP6 => six(frame),
        _ => Plain::Other,
    }
}

#[inline]
fn four(headers: &[u8; HEADERS4], frame: &[u8]) -> Plain {
    let Some((_, ip)) = headers.split_last_chunk::<{ Ip4::HEADER_LEN }>() else {
        return Plain::Other;
    };
    let len = u16::from_be_bytes([ip[2], ip[3]]);
    // Without the bit "don't fragment" and the one above it.
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    let Some(payload) = frame.get(HEADERS4..ETHERNET_LEN.wrapping_add(len.into())) else {
        return Plain::Other;
    };
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    if ip[0] != WITHOUT_OPTIONS
        || fragment != 0
        || !has_right_sum(ip)
        || (ip[9] == protocol::UDP && !may_cross(payload, DHCP4_CLIENT))
        || !Class::is_unicast4(source)
        || !Class::is_unicast4(destination)
    {
        return Plain::Other;
    }
    Plain::Four { source, destination, len: len.into() }
}

#[inline(never)]
fn six(frame: &[u8]) -> Plain {
    read6(frame).map_or(Plain::Other, |len| Plain::Six { len })
}

fn read6(frame: &[u8]) -> Option<u32> {
    let (source, destination) = plain_addresses6(frame)?;
    let header = frame.get(ETHERNET_LEN..)?.first_chunk::<{ Ip6::HEADER_LEN }>()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = frame.get(HEADERS6..HEADERS6.wrapping_add(len))?;
    let next = header[6];
    if header[0] >> 4 != 6 || chain::is_extension(next) {
        return None;
    }
    match next {
        protocol::UDP if !may_cross(payload, DHCP6_CLIENT) => return None,
        // Discovery, or an empty message.
        protocol::ICMP6 if matches!(payload.first(), None | Some(133..=137)) => return None,
        _ => {}
    }
    let ordinary = |address| Class::of6(address) == Class::Unicast;
    let len = u32::try_from(len.saturating_add(Ip6::HEADER_LEN)).ok()?;
    (ordinary(source) && ordinary(destination)).then_some(len)
}

/// Source and destination of a common IPv6 datagram in its frame.
#[inline]
pub fn plain_addresses6(frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let headers = frame.first_chunk::<HEADERS6>()?;
    let (_, addresses) = headers.split_last_chunk::<32>()?;
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    Some((Ipv6Addr::from(*source), Ipv6Addr::from(*destination.first_chunk::<16>()?)))
}

/// Whether the header's checksum is right. The ones' complement sum of its words is 0xffff, whatever
/// their size and byte order, if their plain sum is a multiple of that and not zero: and zero it is
/// not, because of the version.
#[inline]
fn has_right_sum(header: &[u8; Ip4::HEADER_LEN]) -> bool {
    let mut sum = 0u64;
    for word in header.as_chunks::<4>().0 {
        sum = sum.wrapping_add(u32::from_ne_bytes(*word).into());
    }
    sum.is_multiple_of(0xffff)
}

/// Whether a UDP payload has ports, and is not for a DHCP client.
#[inline]
fn may_cross(udp: &[u8], client: u16) -> bool {
    super::udp_destination(udp).is_some_and(|port| port != client)
}

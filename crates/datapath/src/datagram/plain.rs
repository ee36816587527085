//! The common datagram, judged in a straight line.
//!
//! # Why it exists
//! Nearly every datagram has no options, is no fragment, and goes from one ordinary address to
//! another. For such a one most questions have the same answer; asked one by one, with a name for
//! each refusal, they cost more than all the rest.
//!
//! # Theory of operation
//! [`plain()`] looks at a frame once. What it lets pass is such that [`parse`](super::parse) would take
//! it, and [`last_inch_only`](super::last_inch_only) would let it cross. If neither address is
//! [reserved](crate::reserved), which is for admission to see, the base would not answer it either.
//! What it does not let pass goes the general way, which finds out what it is, and its drop's name. So
//! nothing is refused here.
//!
//! # Invariants
//! - It says no where it is not sure: the general way is always right.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::last_inch::{DHCP4_CLIENT, DHCP6_CLIENT, protocol};
use super::{ETHERNET_LEN, Ip4, Ip6, chain, ethertype};

/// Octets before the payload of an IPv4 datagram without options, the Ethernet header included.
const HEADERS4: usize = ETHERNET_LEN + Ip4::HEADER_LEN;
/// The same of an IPv6 datagram without extension headers.
const HEADERS6: usize = ETHERNET_LEN + Ip6::HEADER_LEN;
/// Version 4, and a header of five words.
const WITHOUT_OPTIONS: u8 = 0x45;

/// What is known of a frame that may carry a common datagram. Two words, which stay in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// [`Kind`] and length.
    what: u64,
    /// IPv4 source and destination. IPv6 addresses are left where they are: [`plain_addresses6`].
    addresses: u64,
}

/// What a frame carries, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// No common datagram.
    #[default]
    Other,
    /// A common IPv4 datagram.
    Four,
    /// A common IPv6 datagram.
    Six,
}

impl Plain {
    /// Another frame.
    pub const OTHER: Self = Self { what: 0, addresses: 0 };
    const FOUR: u64 = 1 << 32;
    const SIX: u64 = 2 << 32;

    /// What it is.
    #[inline]
    pub fn kind(self) -> Kind {
        if self.what & Self::FOUR != 0 {
            Kind::Four
        } else if self.what & Self::SIX != 0 {
            Kind::Six
        } else {
            Kind::Other
        }
    }

    /// Octets of the datagram, padding left out.
    #[inline]
    pub fn octets(self) -> u32 {
        self.what as u32
    }

    /// The source address of an IPv4 datagram.
    #[inline]
    pub fn source4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.addresses >> 32) as u32)
    }

    /// The destination address of an IPv4 datagram.
    #[inline]
    pub fn destination4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.addresses as u32)
    }
}

/// Reads a frame that may carry a common datagram.
#[inline]
pub fn plain(frame: &[u8]) -> Plain {
    let Some(headers) = frame.first_chunk::<HEADERS4>() else { return Plain::OTHER };
    match u16::from_be_bytes([headers[12], headers[13]]) {
        ethertype::IP4 => four(headers, frame),
        ethertype::IP6 => six(frame),
        _ => Plain::OTHER,
    }
}

#[inline]
fn four(headers: &[u8; HEADERS4], frame: &[u8]) -> Plain {
    let Some((_, ip)) = headers.split_last_chunk::<{ Ip4::HEADER_LEN }>() else {
        return Plain::OTHER;
    };
    let len = u16::from_be_bytes([ip[2], ip[3]]);
    // Without the bit "don't fragment" and the one above it.
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    let Some(payload) = frame.get(HEADERS4..ETHERNET_LEN.wrapping_add(len.into())) else {
        return Plain::OTHER;
    };
    if ip[0] != WITHOUT_OPTIONS
        || fragment != 0
        || !has_right_sum(ip)
        || (ip[9] == protocol::UDP && !may_cross(payload, DHCP4_CLIENT))
    {
        return Plain::OTHER;
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    let addresses = u64::from_be_bytes([s0, s1, s2, s3, d0, d1, d2, d3]);
    Plain { what: Plain::FOUR | u64::from(len), addresses }
}

#[inline(never)]
fn six(frame: &[u8]) -> Plain {
    read6(frame)
        .map_or(Plain::OTHER, |len| Plain { what: Plain::SIX | u64::from(len), addresses: 0 })
}

fn read6(frame: &[u8]) -> Option<u32> {
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
    u32::try_from(len.saturating_add(Ip6::HEADER_LEN)).ok()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datagram::craft::{frame4, frame6, icmp6, ip4, ip4_with, ip6, udp4, udp6};
    use crate::datagram::{Payload, last_inch_only, parse};

    const A4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
    const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
    const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
    const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 9);

    /// What the straight way says must be what the general way says, asked one by one.
    fn agree(frame: &[u8]) -> Kind {
        let found = plain(frame);
        if found.kind() == Kind::Other {
            return Kind::Other;
        }
        let (_, payload) = parse(frame).unwrap();
        last_inch_only(&payload).unwrap();
        assert_eq!(payload.bytes().len(), found.octets() as usize);
        match payload {
            Payload::Arp(_) => panic!("ARP is no datagram"),
            Payload::Ip4(ip) => {
                assert_eq!(found.kind(), Kind::Four);
                assert_eq!(
                    (ip.source(), ip.destination()),
                    (found.source4(), found.destination4())
                );
            }
            Payload::Ip6(ip) => {
                assert_eq!(found.kind(), Kind::Six);
                let addresses = Some((ip.source(), ip.destination()));
                assert_eq!(addresses, plain_addresses6(frame));
            }
        }
        found.kind()
    }

    #[test]
    fn common_datagrams_of_either_family_take_the_straight_way() {
        let padded = [udp4((A4, B4), (1, 2), b"x"), vec![0; 20]].concat();
        for datagram in [udp4((A4, B4), (1, 2), b"abc"), ip4((A4, B4), 6, &[0; 20]), padded] {
            assert_eq!(agree(&frame4(&datagram)), Kind::Four);
        }
        for datagram in [udp6((A6, B6), (1, 2), b"abc"), ip6((A6, B6), 6, 64, &[0; 20])] {
            assert_eq!(agree(&frame6(&datagram)), Kind::Six);
        }
        let ping = icmp6((A6, B6), 64, vec![128, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(agree(&frame6(&ping)), Kind::Six);
    }

    #[test]
    fn whatever_has_a_name_of_its_own_goes_the_general_way() {
        let fragment = |word: u16| {
            ip4_with((A4, B4), 17, &[], &[0; 20], |h| h[6..8].copy_from_slice(&word.to_be_bytes()))
        };
        let mut wrong = ip4((A4, B4), 6, &[0; 20]);
        wrong[8] ^= 1;
        for datagram in [
            wrong,
            fragment(0x2000),
            fragment(1),
            ip4_with((A4, B4), 17, &[1, 1, 1, 1], &[0; 20], |_| {}),
            udp4((A4, B4), (67, 68), b"reply"),
            ip4((A4, B4), 17, &[0; 3]),
            ip4((A4, B4), 6, &[0; 20])[..39].to_vec(),
        ] {
            assert_eq!(agree(&frame4(&datagram)), Kind::Other);
        }
        for datagram in [
            udp6((A6, B6), (547, 546), b"reply"),
            icmp6((A6, B6), 255, vec![135, 0, 0, 0, 0, 0, 0, 0]),
            ip6((A6, B6), 60, 64, &[17, 0, 0, 0, 0, 0, 0, 0]),
            ip6((A6, B6), 6, 64, &[0; 20])[..59].to_vec(),
        ] {
            assert_eq!(agree(&frame6(&datagram)), Kind::Other);
        }
        assert_eq!(plain(&[]), Plain::OTHER);
    }

    proptest! {
        #[test]
        fn a_changed_datagram_goes_the_straight_way_only_if_the_general_way_would_take_it(
            six: bool, protocol in prop_oneof![Just(17u8), Just(58), Just(6), any::<u8>()],
            payload in prop::collection::vec(any::<u8>(), 0..40),
            changes in prop::collection::vec((12usize..60, any::<u8>()), 0..3), cut in 0usize..6,
        ) {
            let mut frame = if six {
                frame6(&ip6((A6, B6), protocol, 64, &payload))
            } else {
                frame4(&ip4_with((A4, B4), protocol, &[], &payload, |h| {
                    // Changed before the checksum is put in.
                    for (at, value) in &changes {
                        if let Some(place) = h.get_mut(at - 12) {
                            *place = *value;
                        }
                    }
                }))
            };
            if six {
                for (at, value) in &changes {
                    if let Some(place) = frame.get_mut(*at) {
                        *place = *value;
                    }
                }
            }
            frame.truncate(frame.len() - cut);
            agree(&frame);
        }
    }
}

//! What a sender has left to offload, found where no header tells it.
//!
//! AF_XDP brings frames bare. What comes from a wire has its checksum filled in; but what a sender on
//! this very machine, at the other end of a veth, has left open arrives with nothing in the field
//! but the sum of the pseudo-header. That is recognised: the field of a whole datagram holds that
//! number once in 65,536, and then its sum is right.

use super::{Checksum, ICMP6_CHECKSUM, Offload, TCP_CHECKSUM, Transport, UDP_CHECKSUM};
use crate::checksum::{Sum, pseudo4, pseudo6};
use crate::datagram::Payload;
use crate::datagram::protocol;

impl Offload {
    /// What the sender of a datagram that came without a header has left to do.
    pub fn found(payload: &Payload<'_>) -> Self {
        let checksum = Transport::of(payload)
            .and_then(|transport| open(payload, &transport))
            .unwrap_or(Checksum::None);
        Self { checksum, segmentation: None }
    }
}

/// The checksum, if it is open.
fn open(payload: &Payload<'_>, transport: &Transport<'_>) -> Option<Checksum> {
    let offset = match transport.protocol {
        protocol::TCP => TCP_CHECKSUM,
        protocol::UDP => UDP_CHECKSUM,
        protocol::ICMP6 if transport.ipv6 => ICMP6_CHECKSUM,
        _ => return None,
    };
    let bytes = transport.datagram.get(transport.start..)?;
    let found = u16::from_be_bytes(*bytes.get(offset..)?.first_chunk()?);
    let len = u16::try_from(bytes.len()).ok()?;
    let pseudo = match payload {
        Payload::Arp(_) => return None,
        Payload::Ip4(ip) => {
            let (from, to) = (ip.source().octets(), ip.destination().octets());
            pseudo4(&from, &to, transport.protocol, len)
        }
        Payload::Ip6(ip) => {
            let (from, to) = (ip.source().octets(), ip.destination().octets());
            pseudo6(&from, &to, transport.protocol, len.into())
        }
    };
    if pseudo.fold() != found || Sum::of(bytes).word(pseudo.fold()).checksum() == 0 {
        return None;
    }
    let start = u16::try_from(transport.start).ok()?;
    Some(Checksum::Partial { start, offset: u16::try_from(offset).ok()? })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::complete_checksum;
    use super::*;
    use crate::datagram::parse_ip;

    /// A TCP, UDP or ICMPv6 datagram with this in its checksum's field.
    fn datagram(v6: bool, number: u8, content: &[u8], sum: Option<u16>) -> (Vec<u8>, u16, u16) {
        let (header, offset) = match number {
            protocol::TCP => (20, TCP_CHECKSUM),
            protocol::UDP => (8, UDP_CHECKSUM),
            _ => (8, ICMP6_CHECKSUM),
        };
        let mut transport = vec![0; header];
        transport[1] = 7;
        if number == protocol::TCP {
            transport[12] = 5 << 4;
        }
        transport.extend(content);
        let len = transport.len() as u16;
        if number == protocol::UDP {
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let (from, to): (IpAddr, IpAddr) = match v6 {
            true => ("2001:db8:1::2".parse().unwrap(), "2001:db8:1::10".parse().unwrap()),
            false => ("203.0.113.2".parse().unwrap(), "203.0.113.10".parse().unwrap()),
        };
        let (mut ip, pseudo) = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, number, 0, 0];
                ip[2..4].copy_from_slice(&(20 + len).to_be_bytes());
                ip.extend(from.octets().into_iter().chain(to.octets()));
                let sum = Sum::of(&ip).checksum().to_be_bytes();
                ip[10..12].copy_from_slice(&sum);
                (ip, pseudo4(&from.octets(), &to.octets(), number, len))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = vec![0x60, 0, 0, 0, 0, 0, number, 64];
                ip[4..6].copy_from_slice(&len.to_be_bytes());
                ip.extend(from.octets().into_iter().chain(to.octets()));
                (ip, pseudo6(&from.octets(), &to.octets(), number, len.into()))
            }
            _ => unreachable!(),
        };
        let sum = sum.unwrap_or(pseudo.fold());
        transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        let start = ip.len() as u16;
        ip.extend(transport);
        (ip, start, offset as u16)
    }

    #[test]
    fn an_open_checksum_is_found_and_a_whole_one_left_alone() {
        let cases = [
            (false, protocol::TCP),
            (false, protocol::UDP),
            (true, protocol::TCP),
            (true, protocol::UDP),
            (true, protocol::ICMP6),
        ];
        for (v6, number) in cases {
            let (mut bytes, start, offset) = datagram(v6, number, b"content", None);
            let found = Offload::found(&parse_ip(&bytes).unwrap());
            assert_eq!(found.checksum, Checksum::Partial { start, offset });
            complete_checksum(&mut bytes, start, offset).unwrap();
            assert_eq!(Offload::found(&parse_ip(&bytes).unwrap()), Offload::default());
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_and_none_stays_none() {
        for sum in [0, 0xbad] {
            let (bytes, ..) = datagram(false, protocol::UDP, b"content", Some(sum));
            assert_eq!(Offload::found(&parse_ip(&bytes).unwrap()), Offload::default());
        }
    }

    #[test]
    fn a_checksum_that_is_the_pseudo_headers_by_chance_is_left_alone() {
        // Content that makes the whole sum come out so.
        let (open, start, _) = datagram(false, protocol::UDP, &[0, 0], None);
        let pseudo = u16::from_be_bytes([open[26], open[27]]);
        let rest = Sum::of(&open[usize::from(start)..]).word(pseudo).fold();
        let (bytes, ..) = datagram(false, protocol::UDP, &(!rest).to_be_bytes(), None);
        let payload = parse_ip(&bytes).unwrap();
        assert_eq!(Offload::found(&payload), Offload::default());
    }
}

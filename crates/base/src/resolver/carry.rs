//! IP datagrams of the last inch: UDP taken out of them, and put into them.

use std::net::{IpAddr, SocketAddr};

use datapath::datagram::{Payload, parse_ip, protocol};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

/// Octets of a UDP header.
const UDP: usize = 8;
/// Octets of an IPv4 header.
const IP4: usize = 20;
/// Octets of an IPv6 header.
const IP6: usize = 40;
const HOPS: u8 = 64;

/// What a datagram from a guest carries.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried<'a> {
    /// A UDP message.
    Udp {
        /// Who sent it.
        source: SocketAddr,
        /// To which of the base's addresses.
        destination: IpAddr,
        /// What it says.
        payload: &'a [u8],
    },
    /// A TCP segment.
    Tcp,
}

/// Reads a datagram; none if it is nothing that is served, or damaged.
pub fn read(datagram: &[u8]) -> Option<Carried<'_>> {
    let (from, to, kind, upper): (IpAddr, IpAddr, u8, &[u8]) = match parse_ip(datagram).ok()? {
        Payload::Ip4(ip) if !ip.is_fragment() => {
            (ip.source().into(), ip.destination().into(), ip.protocol(), ip.payload())
        }
        Payload::Ip6(ip) if !ip.upper().is_fragmented() => {
            let kind = ip.upper().protocol;
            (ip.source().into(), ip.destination().into(), kind, ip.upper_bytes())
        }
        _ => return None,
    };
    match kind {
        protocol::TCP => return Some(Carried::Tcp),
        protocol::UDP => {}
        _ => return None,
    }
    let udp = UdpPacket::new_checked(upper).ok()?;
    let sound = match udp.checksum() {
        0 => from.is_ipv4(),
        _ => udp.verify_checksum(&from.into(), &to.into()),
    };
    let source = SocketAddr::new(from, udp.src_port());
    (sound && source.port() != 0).then(|| Carried::Udp {
        source,
        destination: to,
        payload: udp.payload(),
    })
}

/// Octets of a UDP message that fit a datagram of so many.
pub fn room(mtu: u16, to: IpAddr) -> usize {
    let header = if to.is_ipv4() { IP4 } else { IP6 };
    usize::from(mtu).saturating_sub(header).saturating_sub(UDP)
}

/// A datagram from the base's address and the port of DNS, with a UDP message. Empty if the addresses are of
/// different families.
pub fn write(from: IpAddr, to: SocketAddr, message: &[u8]) -> Vec<u8> {
    let payload_len = UDP.saturating_add(message.len());
    let (next_header, hop_limit) = (IpProtocol::Udp, HOPS);
    let (mut datagram, header) = match (from, to.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let mut datagram = vec![0; IP4.saturating_add(payload_len)];
            let header = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            let mut packet = Ipv4Packet::new_unchecked(&mut datagram);
            header.emit(&mut packet, &ChecksumCapabilities::default());
            (datagram, IP4)
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let mut datagram = vec![0; IP6.saturating_add(payload_len)];
            let header = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            header.emit(&mut Ipv6Packet::new_unchecked(&mut datagram));
            (datagram, IP6)
        }
        _ => return Vec::new(),
    };
    let room = datagram.get_mut(header..).unwrap_or_default();
    UdpRepr { src_port: datapath::answer::DNS_PORT, dst_port: to.port() }.emit(
        &mut UdpPacket::new_unchecked(room),
        &from.into(),
        &to.ip().into(),
        message.len(),
        |room| room.copy_from_slice(message),
        &ChecksumCapabilities::default(),
    );
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_what_is_damaged_is_not() {
        let pairs = [("169.254.0.1", "203.0.113.10:1000"), ("fe80::1", "[fe80::5054:ff]:1000")];
        for (from, to) in pairs.map(|(f, t)| (f.parse().unwrap(), t.parse().unwrap())) {
            let mut datagram = write(from, to, b"hello");
            assert_eq!(datagram.len(), 5 + 1500 - room(1500, from));
            let source = SocketAddr::new(from, 53);
            let carried = Carried::Udp { source, destination: to.ip(), payload: b"hello" };
            assert_eq!(read(&datagram), Some(carried));
            *datagram.last_mut().unwrap() ^= 1;
            assert_eq!(read(&datagram), None);
            datagram.pop();
            assert_eq!(read(&datagram), None);
        }
        assert_eq!(write("fe80::1".parse().unwrap(), "1.2.3.4:5".parse().unwrap(), b""), b"");
        assert_eq!(read(&[]), None);
    }
}

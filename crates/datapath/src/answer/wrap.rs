//! Headers around what the base says to a guest: Ethernet, IP and UDP, from smoltcp's `wire`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

use super::Replies;
use crate::datagram::{ETHERNET_LEN, Ip4, Ip6};
use crate::names::Mac;

/// Octets of a UDP header.
const UDP_LEN: usize = 8;
/// TTL and hop limit of what the base itself says, but for neighbour discovery.
pub(super) const HOPS: u8 = 64;

/// A new frame from the base to `to`; returns the `len` octets behind its header.
pub(super) fn ethernet(
    replies: &mut Replies,
    to: Mac,
    ethertype: EthernetProtocol,
    len: usize,
) -> &mut [u8] {
    let frame = replies.frame(ETHERNET_LEN.saturating_add(len));
    let header = EthernetRepr {
        src_addr: EthernetAddress(Mac::BASE.0),
        dst_addr: EthernetAddress(to.0),
        ethertype,
    };
    header.emit(&mut EthernetFrame::new_unchecked(&mut *frame));
    frame.get_mut(ETHERNET_LEN..).unwrap_or_default()
}

/// A new IPv4 datagram to the guest; returns the `len` octets behind its header.
pub(super) fn ip4(
    replies: &mut Replies,
    to: Mac,
    addresses: (Ipv4Addr, Ipv4Addr),
    protocol: IpProtocol,
    len: usize,
) -> &mut [u8] {
    ip4_urgent(replies, to, addresses, protocol, 0, len)
}

/// The same with a DSCP. DF is set and the identification zero: nobody fragments on this link
/// (RFC 6864).
pub(super) fn ip4_urgent(
    replies: &mut Replies,
    to: Mac,
    (src_addr, dst_addr): (Ipv4Addr, Ipv4Addr),
    next_header: IpProtocol,
    dscp: u8,
    payload_len: usize,
) -> &mut [u8] {
    let total = Ip4::HEADER_LEN.saturating_add(payload_len);
    let datagram = ethernet(replies, to, EthernetProtocol::Ipv4, total);
    let header = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOPS };
    let mut packet = Ipv4Packet::new_unchecked(&mut *datagram);
    header.emit(&mut packet, &ChecksumCapabilities::ignored());
    packet.set_dscp(dscp);
    packet.fill_checksum();
    datagram.get_mut(Ip4::HEADER_LEN..).unwrap_or_default()
}

/// A new IPv6 datagram to the guest; returns the `len` octets behind its header.
pub(super) fn ip6(
    replies: &mut Replies,
    to: Mac,
    (src_addr, dst_addr): (Ipv6Addr, Ipv6Addr),
    next_header: IpProtocol,
    hop_limit: u8,
    payload_len: usize,
) -> &mut [u8] {
    let total = Ip6::HEADER_LEN.saturating_add(payload_len);
    let datagram = ethernet(replies, to, EthernetProtocol::Ipv6, total);
    let header = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
    header.emit(&mut Ipv6Packet::new_unchecked(&mut *datagram));
    datagram.get_mut(Ip6::HEADER_LEN..).unwrap_or_default()
}

/// A new UDP datagram over IPv4 with this payload.
pub(super) fn udp4(
    replies: &mut Replies,
    to: Mac,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
    payload: &[u8],
) {
    let len = UDP_LEN.saturating_add(payload.len());
    let datagram = ip4(replies, to, (source, destination), IpProtocol::Udp, len);
    udp(datagram, (source.into(), destination.into()), ports, payload);
}

/// A new UDP datagram over IPv6 with this payload.
pub(super) fn udp6(
    replies: &mut Replies,
    to: Mac,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    ports: (u16, u16),
    payload: &[u8],
) {
    let len = UDP_LEN.saturating_add(payload.len());
    let datagram = ip6(replies, to, (source, destination), IpProtocol::Udp, HOPS, len);
    udp(datagram, (source.into(), destination.into()), ports, payload);
}

fn udp(
    bytes: &mut [u8],
    (source, destination): (IpAddr, IpAddr),
    (src_port, dst_port): (u16, u16),
    payload: &[u8],
) {
    UdpRepr { src_port, dst_port }.emit(
        &mut UdpPacket::new_unchecked(bytes),
        &source.into(),
        &destination.into(),
        payload.len(),
        |room| room.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464, section 7).
pub(super) fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

//! What speaks for the last inch and never crosses it, whoever sent it.

use super::{Ip4, Ip6, Payload};
use crate::counters::Counter;

/// Protocol numbers, of upper layers and of IPv6 extension headers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP4: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMP6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;

    /// Octets of an upper layer's fixed header: what a first fragment must have of it. Of a protocol
    /// that is not known here one octet is asked for, of "no next header" none.
    pub fn fixed_header(protocol: u8) -> usize {
        match protocol {
            TCP => 20,
            ICMP4 | UDP | UDP_LITE | ESP => 8,
            DCCP | SCTP => 12,
            ICMP6 => 4,
            NO_NEXT => 0,
            _ => 1,
        }
    }
}

/// UDP port of a DHCPv4 client: what a server's replies are sent to.
pub(super) const DHCP4_CLIENT: u16 = 68;
/// UDP port of a DHCPv6 client.
pub(super) const DHCP6_CLIENT: u16 = 546;

/// Whether this may cross: from a VM to another, to or from the card, to or from the host. What the
/// base answers was answered before.
///
/// Refused are ARP, ICMPv6 133 to 137 (neighbour and router discovery, redirects) behind whatever
/// chain and with whatever hop limit, all the more if fragmented (RFC 6980, atomic fragments
/// included), and what is sent to a DHCP client's port. A server's source port is not looked at:
/// RFC 8415 does not fix it, and clients do not check it.
#[inline]
pub fn last_inch_only(payload: &Payload<'_>) -> Result<(), Counter> {
    #[cfg(feature = "fault-injection")]
    if crate::faults::is("last-inch") {
        return Ok(());
    }
    match payload {
        Payload::Arp(_) => Err(Counter::DropLastInch),
        Payload::Ip4(ip) => ip4(ip),
        Payload::Ip6(ip) => ip6(ip),
    }
}

#[inline]
fn ip4(ip: &Ip4<'_>) -> Result<(), Counter> {
    if ip.protocol() == protocol::UDP && ip.upper().and_then(udp_destination) == Some(DHCP4_CLIENT)
    {
        return Err(Counter::DropDhcpReply);
    }
    Ok(())
}

#[inline]
fn ip6(ip: &Ip6<'_>) -> Result<(), Counter> {
    let upper = ip.upper();
    match upper.protocol {
        protocol::ICMP6 if discovery_type(ip).is_some() => Err(if upper.fragment.is_some() {
            Counter::DropNdpFragmented
        } else {
            Counter::DropLastInch
        }),
        protocol::UDP
            if !upper.is_later_fragment()
                && udp_destination(ip.upper_bytes()) == Some(DHCP6_CLIENT) =>
        {
            Err(Counter::DropDhcpReply)
        }
        _ => Ok(()),
    }
}

/// The ICMPv6 type, if it is one of neighbour and router discovery (133 to 137).
#[inline]
pub(crate) fn discovery_type(ip: &Ip6<'_>) -> Option<u8> {
    let upper = ip.upper();
    if upper.protocol != protocol::ICMP6 || upper.is_later_fragment() {
        return None;
    }
    ip.upper_bytes().first().copied().filter(|kind| matches!(kind, 133..=137))
}

/// The destination port, if there are four octets to hold the ports.
#[inline]
pub(crate) fn udp_destination(upper: &[u8]) -> Option<u16> {
    let &[_, _, d0, d1] = upper.first_chunk::<4>()?;
    Some(u16::from_be_bytes([d0, d1]))
}

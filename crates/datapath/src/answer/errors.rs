//! ICMP errors that the base sends to a guest about a datagram of that guest.
//!
//! # Theory of operation
//! [`too_big`] and [`unreachable()`] take the view of a datagram that was dropped and add one ICMP error
//! to the replies, or nothing where the rules forbid an error:
//! - about an ICMP error, or an IPv6 redirect, or an ICMP type that may be one (RFC 1122, section
//!   3.2.2; RFC 4443, section 2.4 e);
//! - about a fragment other than the first;
//! - to or about a multicast, broadcast, unspecified, loopback or otherwise reserved address;
//! - about a source that is not the VM's: it would be an error about a lie.
//!
//! The error quotes the datagram's octets as they came: up to 576 octets in all for IPv4 (RFC 1812,
//! section 4.3.2.3), up to IPv6's least MTU (RFC 4443, section 2.4 c).
//!
//! # Limits
//! How many errors a guest gets is the caller's to limit; a `false` here costs nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};

use super::{LastInch, Replies, wrap};
use crate::datagram::{Ip4, Ip6, Payload, protocol};

/// Octets of an IPv4 error at most, headers included.
const MAX4: usize = 576;
/// Octets of an IPv6 error at most, headers included.
const MAX6: usize = 1280;
/// Octets of an ICMP error in front of what it quotes.
const ICMP_LEN: usize = 8;
/// DSCP of an IPv4 error: network control (RFC 1812, section 4.3.2.5).
const NETWORK_CONTROL: u8 = 48;

/// Why a destination cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no way to the destination's network.
    Network,
    /// The neighbour that has the address does not answer.
    Host,
}

/// Tells the sender that its datagram does not fit the next link and that `mtu` octets would:
/// "fragmentation needed" or "packet too big". Returns whether an error was added.
pub fn too_big(inch: &LastInch, original: &Payload<'_>, mtu: u16, replies: &mut Replies) -> bool {
    let [high, low] = mtu.to_be_bytes();
    let head4 = [Icmpv4Message::DstUnreachable.into(), 4, 0, 0, 0, 0, high, low];
    let head6 = [Icmpv6Message::PktTooBig.into(), 0, 0, 0, 0, 0, high, low];
    report(inch, original, head4, head6, replies)
}

/// Tells the sender that its datagram cannot reach its destination. Returns whether an error was added.
pub fn unreachable(
    inch: &LastInch,
    original: &Payload<'_>,
    kind: Unreachable,
    replies: &mut Replies,
) -> bool {
    let (code4, code6) = match kind {
        Unreachable::Network => (0, 0),
        Unreachable::Host => (1, 3),
    };
    let head4 = [Icmpv4Message::DstUnreachable.into(), code4, 0, 0, 0, 0, 0, 0];
    let head6 = [Icmpv6Message::DstUnreachable.into(), code6, 0, 0, 0, 0, 0, 0];
    report(inch, original, head4, head6, replies)
}

fn report(
    inch: &LastInch,
    original: &Payload<'_>,
    head4: [u8; ICMP_LEN],
    head6: [u8; ICMP_LEN],
    replies: &mut Replies,
) -> bool {
    let Some(mac) = inch.guest_mac else {
        return false;
    };
    match original {
        Payload::Arp(_) => false,
        Payload::Ip4(ip) if !inch.owns4(ip.source()) || !may_report4(ip) => false,
        Payload::Ip6(ip) if !inch.owns6(ip.source()) || !may_report6(ip) => false,
        Payload::Ip4(ip) => {
            let quote = quote(ip.bytes(), MAX4.saturating_sub(Ip4::HEADER_LEN));
            let len = ICMP_LEN.saturating_add(quote.len());
            let addresses = (inch.icmp_source4, ip.source());
            let room =
                wrap::ip4_urgent(replies, mac, addresses, IpProtocol::Icmp, NETWORK_CONTROL, len);
            fill(room, head4, quote);
            Icmpv4Packet::new_unchecked(room).fill_checksum();
            true
        }
        Payload::Ip6(ip) => {
            let quote = quote(ip.bytes(), MAX6.saturating_sub(Ip6::HEADER_LEN));
            let len = ICMP_LEN.saturating_add(quote.len());
            let addresses = (inch.icmp_source6, ip.source());
            let room = wrap::ip6(replies, mac, addresses, IpProtocol::Icmpv6, wrap::HOPS, len);
            fill(room, head6, quote);
            Icmpv6Packet::new_unchecked(room).fill_checksum(&addresses.0, &addresses.1);
            true
        }
    }
}

/// As much of the datagram as the error has room for behind its IP header.
fn quote(datagram: &[u8], room: usize) -> &[u8] {
    datagram.get(..room.saturating_sub(ICMP_LEN)).unwrap_or(datagram)
}

fn fill(room: &mut [u8], head: [u8; ICMP_LEN], quote: &[u8]) {
    if let Some((first, rest)) = room.split_first_chunk_mut::<ICMP_LEN>() {
        *first = head;
        rest.copy_from_slice(quote);
    }
}

fn may_report4(ip: &Ip4<'_>) -> bool {
    let reserved = |a: Ipv4Addr| {
        let [first, ..] = a.octets();
        matches!(first, 0 | 127 | 224..)
    };
    let Some(upper) = ip.upper() else {
        return false;
    };
    // Echo, router discovery, timestamp, information and address mask: all else is, or may be, an error.
    let query = matches!(upper.first(), Some(0 | 8 | 9 | 10 | 13..=18));
    (ip.protocol() != protocol::ICMP4 || query)
        && !reserved(ip.source())
        && !reserved(ip.destination())
}

fn may_report6(ip: &Ip6<'_>) -> bool {
    const REDIRECT: u8 = 137;
    let single = |a: Ipv6Addr| !a.is_multicast() && !a.is_unspecified() && !a.is_loopback();
    let upper = ip.upper();
    let informational =
        ip.upper_bytes().first().is_some_and(|kind| *kind >= 128 && *kind != REDIRECT);
    !upper.is_later_fragment()
        && (upper.protocol != protocol::ICMP6 || informational)
        && single(ip.source())
        && single(ip.destination())
}

//! DNS at the base's own addresses: which messages go to the resolver, and what of its answers comes in.
//!
//! # Theory of operation
//! ```text
//! guest -> asks       port 53 of 169.254.0.1 or fe80::1, UDP or TCP --> resolver (a process of its own)
//! guest <- pass_on    the resolver's datagram, if it is one that this guest may be told by it
//! ```
//! Names are read and written at length by what others said, so that is done by a process without
//! privileges (`worker::resolver` is the way there). Nothing of a DNS message is looked at here, and the
//! process is not believed: what it says goes to the port it names only from the base's own address and
//! port 53, to an address that speaks to the base there, and no longer than the link's MTU.

use smoltcp::wire::EthernetProtocol;

use super::{BASE4, BASE6, Guest, LastInch, Replies, wrap};
use crate::counters::Counter;
use crate::datagram::{self, Payload, protocol, udp_destination};

/// The port of DNS, by UDP and TCP.
pub const DNS_PORT: u16 = 53;

/// Whether a message to the base's own address is the resolver's to answer.
pub(super) fn asks(guest: &Guest<'_>, protocol: u8, upper: &[u8]) -> bool {
    // Both have their ports in the same place.
    guest.inch.resolves && is_carrier(protocol) && udp_destination(upper) == Some(DNS_PORT)
}

fn is_carrier(protocol: u8) -> bool {
    matches!(protocol, protocol::UDP | protocol::TCP)
}

/// Adds a datagram of the resolver's to the replies, if the guest may be told it; otherwise why not.
pub fn pass_on(inch: &LastInch, datagram: &[u8], replies: &mut Replies) -> Result<(), Counter> {
    let refused = Counter::RxResolver;
    let payload = datagram::parse_ip(datagram).map_err(|_| refused)?;
    let (kind, protocol, upper, addressed) = match &payload {
        Payload::Ip4(ip) => {
            let addressed = ip.source() == BASE4 && inch.owns4(ip.destination());
            let whole = !ip.is_fragment();
            (EthernetProtocol::Ipv4, ip.protocol(), ip.payload(), addressed && whole)
        }
        Payload::Ip6(ip) => {
            let addressed = ip.source() == BASE6 && inch.may_ask6(ip.destination());
            let (upper, whole) = (ip.upper(), !ip.upper().is_fragmented());
            (EthernetProtocol::Ipv6, upper.protocol, ip.upper_bytes(), addressed && whole)
        }
        Payload::Arp(_) => return Err(refused),
    };
    let from_dns = upper.first_chunk::<2>() == Some(&DNS_PORT.to_be_bytes());
    let fits = datagram.len() == payload.bytes().len() && datagram.len() <= inch.mtu.into();
    if !(inch.resolves && addressed && is_carrier(protocol) && from_dns && fits) {
        return Err(refused);
    }
    let mac = inch.guest_mac.ok_or(Counter::RxMacUnknown)?;
    wrap::ethernet(replies, mac, kind, datagram.len()).copy_from_slice(datagram);
    Ok(())
}

//! What a frame is: ARP, IPv4 or IPv6, its headers checked once and carried as typed views.
//!
//! # Theory of operation
//! ```text
//! frame ---- parse ----> Ethernet + Payload::{Arp, Ip4, Ip6}     from a VM, from the card
//! datagram - parse_ip -> Payload::{Ip4, Ip6}                     from the host (no Ethernet)
//!                |
//!                '--> Err(Counter): the drop's name
//! ```
//! 1. `parse` looks at the base's own copy of a frame, never at guest memory, so what it has checked
//!    stays true. It cuts off what an Ethernet card pads a short frame with.
//! 2. A view exists only for a header that was checked: no accessor can fail.
//! 3. [`Ip6`] has walked its chain of extension headers (`chain.rs`): the common datagram, which has
//!    none, takes a straight line. So nothing that cares for the upper layer can be fooled by a
//!    header in front of it.
//! 4. [`plain()`] takes the common datagram through all of it in a straight line, and leaves the others
//!    to the general way.
//! 5. [`last_inch_only`] names what must not cross, whoever sent it.
//!
//! # First fragments
//! A first fragment must bring its whole header chain (RFC 7112), up to the upper layer's header:
//! else nobody on the way can tell what the datagram is. Without it the fragment is dropped here
//! ([`Counter::DropFirstFragment`]), for IPv6 by that RFC and for IPv4 after RFC 1858, section 3
//! (tiny fragments): TCP, UDP, ICMP and the like must have their fixed header in the first fragment.
//! The second half of RFC 1858 and RFC 3128 (fragments at offset 8 that overwrite TCP flags) is left
//! alone: the base decides nothing by TCP flags, and fragments pass unchanged.
//! Unfragmented datagrams with a cut upper-layer header pass: it is the receiver's to judge.
//!
//! # Limits
//! What ESP hides cannot be seen, and tunnels are not looked into: whoever unpacks one judges it.
//! Options of IPv4 and the contents of extension headers are not looked at, and pass.

mod chain;
mod ip4;
mod ip6;
mod last_inch;
mod plain;

pub use chain::{Fragment, MAX_EXTENSIONS, Upper};
pub use ip4::Ip4;
pub use ip6::Ip6;
pub(crate) use last_inch::{discovery_type, udp_destination};
pub use last_inch::{last_inch_only, protocol};
pub use plain::{Kind, Plain, plain, plain_addresses6};

use crate::counters::Counter;
use crate::names::Mac;

/// Octets of an Ethernet header without a tag.
pub const ETHERNET_LEN: usize = 14;
/// Octets of the longest frame: an IPv6 datagram with the longest payload its header can tell.
pub const MAX_FRAME: usize = ETHERNET_LEN + ip6::HEADER_LEN + u16::MAX as usize;

/// Ethernet's type field.
pub mod ethertype {
    /// IPv4.
    pub const IP4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IP6: u16 = 0x86dd;
    /// A VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// An outer VLAN tag (802.1ad).
    pub const OUTER_VLAN: u16 = 0x88a8;
    /// An outer VLAN tag as it was before the standard.
    pub const OLD_OUTER_VLAN: u16 = 0x9100;
}

/// The addresses of an Ethernet header. They say nothing about where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// To whom the frame is addressed.
    pub destination: Mac,
    /// Who sent it.
    pub source: Mac,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// An ARP message, padding included: nothing of it was looked at.
    Arp(&'a [u8]),
    /// An IPv4 datagram.
    Ip4(Ip4<'a>),
    /// An IPv6 datagram.
    Ip6(Ip6<'a>),
}

impl<'a> Payload<'a> {
    /// The datagram's octets, headers included and padding left out; an ARP message with its padding.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Arp(message) => message,
            Self::Ip4(ip) => ip.bytes(),
            Self::Ip6(ip) => ip.bytes(),
        }
    }

    /// Ethernet's type field for it.
    pub fn ethertype(&self) -> u16 {
        match self {
            Self::Arp(_) => ethertype::ARP,
            Self::Ip4(_) => ethertype::IP4,
            Self::Ip6(_) => ethertype::IP6,
        }
    }
}

/// Reads a frame. Every malformed header has its own name.
#[inline]
pub fn parse(frame: &[u8]) -> Result<(Ethernet, Payload<'_>), Counter> {
    let (header, rest) =
        frame.split_first_chunk::<ETHERNET_LEN>().ok_or(Counter::DropFrameLength)?;
    if frame.len() > MAX_FRAME {
        return Err(Counter::DropFrameLength);
    }
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let ethernet = Ethernet {
        destination: Mac([d0, d1, d2, d3, d4, d5]),
        source: Mac([s0, s1, s2, s3, s4, s5]),
    };
    let payload = match u16::from_be_bytes([t0, t1]) {
        ethertype::IP4 => Payload::Ip4(Ip4::parse(rest)?),
        ethertype::IP6 => Payload::Ip6(Ip6::parse(rest)?),
        ethertype::ARP => Payload::Arp(rest),
        ethertype::VLAN | ethertype::OUTER_VLAN | ethertype::OLD_OUTER_VLAN => {
            return Err(Counter::DropVlan);
        }
        _ => return Err(Counter::DropEthertype),
    };
    Ok((ethernet, payload))
}

/// Reads a datagram that comes without an Ethernet header; its version field tells the family.
#[inline]
pub fn parse_ip(datagram: &[u8]) -> Result<Payload<'_>, Counter> {
    if datagram.len() > MAX_FRAME - ETHERNET_LEN {
        return Err(Counter::DropFrameLength);
    }
    match datagram.first().ok_or(Counter::DropFrameLength)? >> 4 {
        4 => Ip4::parse(datagram).map(Payload::Ip4),
        6 => Ip6::parse(datagram).map(Payload::Ip6),
        _ => Err(Counter::DropEthertype),
    }
}

#[cfg(test)]
pub(crate) mod craft;
#[cfg(test)]
mod tests;

//! A checked IPv6 datagram (RFC 8200).

use std::net::Ipv6Addr;

use super::chain::{self, Upper};
use super::last_inch::protocol;
use crate::counters::Counter;

/// Octets of the fixed header.
pub(super) const HEADER_LEN: usize = 40;

/// An IPv6 datagram whose version and length were found right and whose extension headers were
/// walked. `parse` is the only way in, so no accessor can fail.
#[derive(Clone, Copy, Debug)]
pub struct Ip6<'a> {
    header: &'a [u8; HEADER_LEN],
    /// The datagram, as long as its header says.
    bytes: &'a [u8],
    upper: Upper,
}

impl<'a> Ip6<'a> {
    /// Octets of the fixed header.
    pub const HEADER_LEN: usize = HEADER_LEN;

    /// Checks the header and walks the chain. What follows the datagram in `bytes` is padding.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Counter> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Counter::DropIp6Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Counter::DropIp6Version);
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = bytes
            .get(..HEADER_LEN.saturating_add(payload_len))
            .ok_or(Counter::DropIp6PayloadLength)?;
        let next = header[6];
        let upper = if chain::is_extension(next) {
            if payload_len == 0 && next == protocol::HOP_BY_HOP {
                // A jumbogram (RFC 2675) keeps its length in a hop-by-hop option.
                return Err(Counter::DropIp6PayloadLength);
            }
            chain::walk(bytes, next)?
        } else {
            Upper { protocol: next, offset: HEADER_LEN, fragment: None }
        };
        Ok(Self { header, bytes, upper })
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        let [_, _, _, _, _, _, _, _, rest @ ..] = self.header;
        Ipv6Addr::from(*rest.first_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(*self.header.last_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        (self.header[0] << 4) | (self.header[1] >> 4)
    }

    /// The first header's type behind the fixed one.
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// The whole datagram: exactly as many octets as its header says.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the chain of extension headers ends.
    pub fn upper(&self) -> Upper {
        self.upper
    }

    /// What follows the extension headers. In a later fragment it is a part of the datagram without
    /// any header.
    pub fn upper_bytes(&self) -> &'a [u8] {
        self.bytes.get(self.upper.offset..).unwrap_or_default()
    }
}

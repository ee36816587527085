//! A checked IPv4 datagram (RFC 791).

use std::net::Ipv4Addr;

use super::last_inch::protocol;
use crate::counters::Counter;

/// Octets of a header without options.
const HEADER_LEN: usize = 20;

/// An IPv4 datagram whose version, lengths and header checksum were found right. `parse` is the only
/// way in, so no accessor can fail.
#[derive(Clone, Copy, Debug)]
pub struct Ip4<'a> {
    header: &'a [u8; HEADER_LEN],
    /// The datagram, as long as its header says.
    bytes: &'a [u8],
    /// The part of `bytes` behind the header and its options.
    payload: &'a [u8],
}

impl<'a> Ip4<'a> {
    /// Octets of a header without options.
    pub const HEADER_LEN: usize = HEADER_LEN;

    /// Checks the header. What follows the datagram in `bytes` is padding.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Counter> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Counter::DropIp4Truncated)?;
        if header[0] >> 4 != 4 {
            return Err(Counter::DropIp4Version);
        }
        let header_len = usize::from(header[0] & 0x0f) << 2;
        let options = bytes.get(HEADER_LEN..header_len).ok_or(Counter::DropIp4HeaderLength)?;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let bytes = bytes.get(..total_len).ok_or(Counter::DropIp4TotalLength)?;
        let payload = bytes.get(header_len..).ok_or(Counter::DropIp4TotalLength)?;
        if header_sum(header, options) != 0xffff {
            return Err(Counter::DropIp4Checksum);
        }
        let datagram = Self { header, bytes, payload };
        if datagram.more_fragments() && datagram.fragment_offset() == 0 {
            datagram.check_first_fragment()?;
        }
        Ok(datagram)
    }

    /// A first fragment must have its upper layer's fixed header (RFC 1858, section 3).
    #[cold]
    fn check_first_fragment(&self) -> Result<(), Counter> {
        if self.payload.len() < protocol::fixed_header(self.protocol()) {
            return Err(Counter::DropFirstFragment);
        }
        Ok(())
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[12], self.header[13], self.header[14], self.header[15])
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[16], self.header[17], self.header[18], self.header[19])
    }

    /// The upper layer's protocol number.
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Time to live.
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.header[1]
    }

    /// Identification.
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Whether the datagram may not be fragmented.
    pub fn dont_fragment(&self) -> bool {
        self.header[6] & 0x40 != 0
    }

    /// Whether another fragment follows this one.
    pub fn more_fragments(&self) -> bool {
        self.header[6] & 0x20 != 0
    }

    /// Where in the whole datagram's payload this fragment lies, in octets.
    pub fn fragment_offset(&self) -> u16 {
        (u16::from_be_bytes([self.header[6], self.header[7]]) & 0x1fff) << 3
    }

    /// Whether this is a part of a datagram and not the whole of it.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments() || self.fragment_offset() != 0
    }

    /// Octets of the header with its options.
    pub fn header_len(&self) -> usize {
        usize::from(self.header[0] & 0x0f) << 2
    }

    /// The options, up to 40 octets; nothing of them was looked at.
    pub fn options(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..self.header_len()).unwrap_or_default()
    }

    /// The whole datagram: exactly as many octets as its header says.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header; in a fragment, a part of that.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// What starts with the upper layer's header: the payload, but for later fragments.
    pub fn upper(&self) -> Option<&'a [u8]> {
        (self.fragment_offset() == 0).then_some(self.payload)
    }
}

/// Ones' complement sum of a header; 0xffff when its checksum is right. It comes out the same in any
/// byte order and word size (RFC 1071, section 2), so it is taken over words of the machine's order.
#[inline]
fn header_sum(header: &[u8; HEADER_LEN], options: &[u8]) -> u16 {
    let mut sum = 0u64;
    for word in header.as_chunks::<4>().0 {
        sum = sum.wrapping_add(u32::from_ne_bytes(*word).into());
    }
    for word in options.as_chunks::<4>().0 {
        sum = sum.wrapping_add(u32::from_ne_bytes(*word).into());
    }
    // 15 words at most: nothing overflows, and three folds bring it to 16 bits.
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add((sum >> 16) & 0xffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    (sum & 0xffff).wrapping_add(sum >> 16) as u16
}

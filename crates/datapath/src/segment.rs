//! Cuts a large TCP send into the segments it stands for, for a receiver that cannot do it itself.
//!
//! # Theory of operation
//! A large send is one datagram with one header and up to 64 KiB of payload. Segment `i` is a copy
//! of that header with its lengths, TCP sequence number and flags adjusted, and the `i`-th piece of
//! the payload behind it:
//! ```text
//! large:    [IP|TCP|........ payload ........]
//! segments: [IP|TCP|.... 0 ....] [IP|TCP|.... 1 ....] [IP|TCP|. 2 .]
//! ```
//! - IPv4: total length, identification (counts up, DF or not, as Linux does), header checksum.
//!   IPv6: payload length.
//! - TCP: sequence number; FIN and PSH on the last segment only, CWR on the first only; checksum.
//!
//! The checksum field of the large send holds the sum of its pseudo-header (that is what an open
//! checksum means), so a segment's is that sum with the length exchanged. Addresses are not needed,
//! which is right even where a routing header names another final destination.
//!
//! # Invariants
//! - Nothing is allocated: each segment is written into a buffer of the caller's.
//! - Nothing of the large send is changed, and no octet of its payload is lost or sent twice.

use crate::checksum::Sum;
use crate::offload::{Kind, Segmentation, TCP_CHECKSUM, TCP_CWR, TCP_FLAGS};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const TCP_SEQUENCE: usize = 4;
const IP4_TOTAL_LENGTH: usize = 2;
const IP4_IDENTIFICATION: usize = 4;
const IP4_CHECKSUM: usize = 10;
const IP6_PAYLOAD_LENGTH: usize = 4;
const IP6_HEADER: usize = 40;

/// The segments of one large send.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// IP and TCP headers.
    header: &'a [u8],
    payload: &'a [u8],
    transport: usize,
    size: usize,
    kind: Kind,
}

impl<'a> Segments<'a> {
    /// The segments of `datagram`, for which [`crate::offload::Offload::check`] gave `large`. `None`
    /// if they do not fit together.
    pub fn of(datagram: &'a [u8], large: &Segmentation) -> Option<Self> {
        let (header, payload) = datagram.split_at_checked(large.header_len.into())?;
        let transport = usize::from(large.transport);
        (large.size > 0 && transport < header.len()).then_some(Self {
            header,
            payload,
            transport,
            size: large.size.into(),
            kind: large.kind,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Writes segment `index` into `into` and tells its length. `None` if there is no such segment
    /// or it does not fit.
    pub fn write(&self, index: usize, into: &mut [u8]) -> Option<usize> {
        let from = index.checked_mul(self.size)?;
        let last = index.checked_add(1)? == self.count();
        let rest = self.payload.get(from..)?;
        let piece = rest.get(..self.size).unwrap_or(rest);
        if piece.is_empty() && index > 0 {
            return None;
        }
        let len = self.header.len().checked_add(piece.len())?;
        let segment = into.get_mut(..len)?;
        let (header, payload) = segment.split_at_mut_checked(self.header.len())?;
        header.copy_from_slice(self.header);
        payload.copy_from_slice(piece);
        let (ip, transport) = segment.split_at_mut_checked(self.transport)?;
        let transport_len = u16::try_from(transport.len()).ok()?;
        match self.kind {
            Kind::Tcp4 => adjust_ip4(ip, index, transport_len)?,
            Kind::Tcp6 => adjust_ip6(ip, transport_len)?,
        }
        self.adjust_tcp(transport, from, index == 0, last)?;
        Some(len)
    }

    fn adjust_tcp(&self, tcp: &mut [u8], from: usize, first: bool, last: bool) -> Option<()> {
        let sequence = tcp.get_mut(TCP_SEQUENCE..)?.first_chunk_mut::<4>()?;
        let advanced = u32::from_be_bytes(*sequence).wrapping_add(u32::try_from(from).ok()?);
        *sequence = advanced.to_be_bytes();
        let flags = tcp.get_mut(TCP_FLAGS)?;
        if !first {
            *flags &= !TCP_CWR;
        }
        if !last {
            *flags &= !(FIN | PSH);
        }
        // The field holds the pseudo-header's sum with the large send's length in it.
        let large_len = self.header.len().checked_add(self.payload.len())?;
        let large_len = u16::try_from(large_len.checked_sub(self.transport)?).ok()?;
        let sum = Sum::of(tcp).without(large_len).word(u16::try_from(tcp.len()).ok()?);
        *tcp.get_mut(TCP_CHECKSUM..)?.first_chunk_mut()? = sum.checksum().to_be_bytes();
        Some(())
    }
}

fn adjust_ip4(ip: &mut [u8], index: usize, transport_len: u16) -> Option<()> {
    let total = u16::try_from(ip.len()).ok()?.checked_add(transport_len)?;
    *ip.get_mut(IP4_TOTAL_LENGTH..)?.first_chunk_mut()? = total.to_be_bytes();
    let identification = ip.get_mut(IP4_IDENTIFICATION..)?.first_chunk_mut::<2>()?;
    let advanced = u16::from_be_bytes(*identification).wrapping_add(index as u16);
    *identification = advanced.to_be_bytes();
    finish_ip4(ip)
}

/// Puts in the checksum of an IPv4 header, options included.
pub(crate) fn finish_ip4(header: &mut [u8]) -> Option<()> {
    *header.get_mut(IP4_CHECKSUM..)?.first_chunk_mut()? = [0, 0];
    let sum = Sum::of(header).checksum();
    *header.get_mut(IP4_CHECKSUM..)?.first_chunk_mut()? = sum.to_be_bytes();
    Some(())
}

fn adjust_ip6(ip: &mut [u8], transport_len: u16) -> Option<()> {
    let extensions = u16::try_from(ip.len().checked_sub(IP6_HEADER)?).ok()?;
    let length = extensions.checked_add(transport_len)?;
    *ip.get_mut(IP6_PAYLOAD_LENGTH..)?.first_chunk_mut()? = length.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests;

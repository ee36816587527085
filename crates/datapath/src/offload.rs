//! What a sender left to offload, and what a receiver can take: checksums and large sends.
//!
//! # Why it exists
//! Between VMs a 64 KiB TCP send travels whole, and nobody computes its checksum. The sender says so
//! in a virtio-net header beside the frame. A guest writes there what it likes, so a claim counts
//! only where the datagram itself bears it out, and the header towards the receiver is built afresh.
//!
//! # Theory of operation
//! ```text
//! sender's header + parsed datagram --check--> Offload --header_for--> Whole(header)
//!                                     |                            |-> CompleteChecksum
//!                                     '--> drop, counted by reason '-> Segment
//! ```
//! 1. [`Offload::check`] admits a checksum only at the place where the protocol has one (TCP, UDP,
//!    ICMPv6), of an unfragmented datagram, and a large send only of TCP over the named IP version.
//!    Lengths of headers are computed from the bytes; the sender's `hdr_len` is never read.
//! 2. [`Offload::header_for`] says how it goes on to a given receiver.
//! 3. [`complete_checksum`] makes up for a receiver that takes no open checksums;
//!    [`crate::segment`] for one that takes no large sends.
//!
//! # Invariants
//! - A guest's word that a checksum is right (`DATA_VALID`) is not passed on; the kernel's is.
//! - A large send whose payload fits one segment is no large send.
//!
//! # Limits
//! Large sends over UDP are refused: no guest is offered them, and the kernel sends them up only
//! where that was asked for. A checksum inside a tunnel cannot be left open.

use virtqueue::NetHeader;

use crate::checksum::Sum;
use crate::counters::Counter;
use crate::datagram::{Payload, protocol};

/// Where TCP has its checksum.
pub(crate) const TCP_CHECKSUM: usize = 16;
/// Where UDP has it.
pub(crate) const UDP_CHECKSUM: usize = 6;
/// Where ICMPv6 has it.
const ICMP6_CHECKSUM: usize = 2;

const TCP_MIN_HEADER: usize = 20;
/// Where TCP has its header length and its flags.
pub(crate) const TCP_DATA_OFFSET: usize = 12;
/// Where TCP has its flags.
pub(crate) const TCP_FLAGS: usize = 13;
/// The TCP flag that answers a congestion notice.
pub(crate) const TCP_CWR: u8 = 0x80;

/// Payload octets of a segment of a guest's large send, at least. Linux sends no less than 48, TCP
/// options included; a guest that asked for 1 would have the base make 65,000 segments of one
/// buffer. What the kernel has merged may be of any size: so small were the segments that came.
pub const MIN_SEGMENT: u16 = 32;

/// What is known of a datagram's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: it is in its place, right or wrong.
    #[default]
    None,
    /// Somebody who is believed has found it right.
    Valid,
    /// It is still to be computed; the field holds the sum of the pseudo-header.
    Partial {
        /// Where the transport header starts, from the first octet of the IP datagram.
        start: u16,
        /// Where in the transport header the field is.
        offset: u16,
    },
}

/// The kinds of large sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// A large send: one datagram that stands for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// What it is.
    pub kind: Kind,
    /// Payload octets of each segment but the last.
    pub size: u16,
    /// Where the TCP header starts, from the first octet of the IP datagram.
    pub transport: u16,
    /// Octets of IP and TCP headers together.
    pub header_len: u16,
    /// The first segment answers a congestion notice (CWR).
    pub ecn: bool,
}

impl Segmentation {
    /// Octets of the longest segment, IP header included: what a link's MTU must fit.
    pub fn segment_len(&self) -> usize {
        usize::from(self.size).saturating_add(self.header_len.into())
    }

    /// Segments that a datagram of `len` octets stands for.
    pub fn segments(&self, len: usize) -> usize {
        len.saturating_sub(self.header_len.into()).div_ceil(self.size.max(1).into())
    }
}

/// What is left to do with a datagram, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// Set for a large send.
    pub segmentation: Option<Segmentation>,
}

/// What one side of a port may use: as a sender (CSUM, HOST_TSO4/6, HOST_ECN) or as a receiver
/// (GUEST_CSUM, GUEST_TSO4/6, GUEST_ECN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Open checksums.
    pub checksum: bool,
    /// Large sends of TCP over IPv4.
    pub tso4: bool,
    /// Large sends of TCP over IPv6.
    pub tso6: bool,
    /// Large sends whose first segment answers a congestion notice.
    pub ecn: bool,
}

impl Abilities {
    /// All of them: the kernel's packet sockets and TUN devices.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true, ecn: true };
}

/// Who wrote the header that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A driver that negotiated this much; its word on valid checksums is not believed.
    Guest(Abilities),
    /// The host's kernel.
    Kernel,
}

/// What of a datagram bears on offload.
#[derive(Clone, Copy, Debug)]
struct Transport<'a> {
    /// The datagram, from its IP header to its last octet, padding gone.
    datagram: &'a [u8],
    ipv6: bool,
    /// The protocol behind all extension headers.
    protocol: u8,
    /// Where that starts.
    start: usize,
}

impl<'a> Transport<'a> {
    /// `None` where nothing can be left to offload: ARP, fragments (atomic ones too).
    fn of(payload: &Payload<'a>) -> Option<Self> {
        match payload {
            Payload::Arp(_) => None,
            Payload::Ip4(ip) => (!ip.is_fragment()).then(|| Self {
                datagram: ip.bytes(),
                ipv6: false,
                protocol: ip.protocol(),
                start: ip.header_len(),
            }),
            Payload::Ip6(ip) => {
                let upper = ip.upper();
                upper.fragment.is_none().then(|| Self {
                    datagram: ip.bytes(),
                    ipv6: true,
                    protocol: upper.protocol,
                    start: upper.offset,
                })
            }
        }
    }
}

/// How a datagram goes on to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// As it is, behind this header.
    Whole(NetHeader),
    /// With its checksum filled in by [`complete_checksum`], behind an empty header.
    CompleteChecksum {
        /// As in [`Checksum::Partial`].
        start: u16,
        /// As in [`Checksum::Partial`].
        offset: u16,
    },
    /// Cut by [`crate::segment::Segments`], each behind an empty header.
    Segment(Segmentation),
}

impl Offload {
    /// Checks a sender's `header` for a frame whose IP datagram starts `l2_len` octets in (0 from a
    /// TUN device) against the datagram itself.
    #[inline]
    pub fn check(
        header: &NetHeader,
        l2_len: usize,
        payload: &Payload<'_>,
        sender: Sender,
    ) -> Result<Self, Counter> {
        const NEWS: u8 = NetHeader::F_NEEDS_CSUM | NetHeader::F_DATA_VALID;
        if header.flags & NEWS == 0 && header.gso_type == NetHeader::GSO_NONE {
            return Ok(Self::default());
        }
        let transport = Transport::of(payload);
        let (allowed, believed) = match sender {
            Sender::Guest(allowed) => (allowed, false),
            Sender::Kernel => (Abilities::ALL, true),
        };
        let checksum = if header.flags & NetHeader::F_NEEDS_CSUM != 0 {
            if !allowed.checksum {
                return Err(Counter::DropOffloadNotNegotiated);
            }
            transport
                .and_then(|t| partial(header, l2_len, &t))
                .ok_or(Counter::DropOffloadChecksum)?
        } else if believed && header.flags & NetHeader::F_DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::None
        };
        if header.gso_type == NetHeader::GSO_NONE {
            return Ok(Self { checksum, segmentation: None });
        }
        let least = if believed { 1 } else { MIN_SEGMENT };
        let segmentation = segmentation(header, transport, allowed, checksum)?;
        if segmentation.is_some_and(|large| large.size < least) {
            return Err(Counter::DropOffloadSegmentation);
        }
        Ok(Self { checksum, segmentation })
    }

    /// Whether nothing was left to do, and nothing is known.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.segmentation.is_none() && self.checksum == Checksum::None
    }

    /// How the datagram goes on to a receiver with these abilities, in a frame whose IP datagram
    /// starts `l2_len` octets in.
    pub fn header_for(&self, receiver: Abilities, l2_len: u16) -> Handover {
        if let Some(large) = self.segmentation {
            let takes = match large.kind {
                Kind::Tcp4 => receiver.tso4,
                Kind::Tcp6 => receiver.tso6,
            };
            if !(takes && receiver.checksum && (receiver.ecn || !large.ecn)) {
                return Handover::Segment(large);
            }
        }
        let mut header = NetHeader::default();
        match self.checksum {
            Checksum::None => {}
            Checksum::Valid if receiver.checksum => header.flags = NetHeader::F_DATA_VALID,
            Checksum::Valid => {}
            Checksum::Partial { start, offset } if receiver.checksum => {
                header.flags = NetHeader::F_NEEDS_CSUM;
                header.csum_start = start.saturating_add(l2_len);
                header.csum_offset = offset;
            }
            Checksum::Partial { start, offset } => {
                return Handover::CompleteChecksum { start, offset };
            }
        }
        if let Some(large) = self.segmentation {
            header.gso_type = match large.kind {
                Kind::Tcp4 => NetHeader::GSO_TCPV4,
                Kind::Tcp6 => NetHeader::GSO_TCPV6,
            };
            if large.ecn {
                header.gso_type |= NetHeader::GSO_ECN;
            }
            header.gso_size = large.size;
            header.hdr_len = large.header_len.saturating_add(l2_len);
        }
        Handover::Whole(header)
    }
}

/// The open checksum, if it is where the datagram has one.
fn partial(header: &NetHeader, l2_len: usize, transport: &Transport<'_>) -> Option<Checksum> {
    let offset = match transport.protocol {
        protocol::TCP => TCP_CHECKSUM,
        protocol::UDP => UDP_CHECKSUM,
        protocol::ICMP6 if transport.ipv6 => ICMP6_CHECKSUM,
        _ => return None,
    };
    let start = usize::from(header.csum_start).checked_sub(l2_len)?;
    let field_end = start.checked_add(offset)?.checked_add(size_of::<u16>())?;
    let fits = start == transport.start
        && usize::from(header.csum_offset) == offset
        && field_end <= transport.datagram.len();
    let start = u16::try_from(start).ok()?;
    fits.then_some(Checksum::Partial { start, offset: header.csum_offset })
}

/// The large send, if the datagram is one; `None` if its payload fits one segment anyway.
fn segmentation(
    header: &NetHeader,
    transport: Option<Transport<'_>>,
    allowed: Abilities,
    checksum: Checksum,
) -> Result<Option<Segmentation>, Counter> {
    let ecn = header.gso_type & NetHeader::GSO_ECN != 0;
    let (kind, allowed_kind) = match header.gso_type & !NetHeader::GSO_ECN {
        NetHeader::GSO_TCPV4 => (Kind::Tcp4, allowed.tso4),
        NetHeader::GSO_TCPV6 => (Kind::Tcp6, allowed.tso6),
        NetHeader::GSO_UDP | NetHeader::GSO_UDP_L4 => {
            return Err(Counter::DropOffloadNotNegotiated);
        }
        _ => return Err(Counter::DropOffloadSegmentation),
    };
    if !allowed_kind || (ecn && !allowed.ecn) {
        return Err(Counter::DropOffloadNotNegotiated);
    }
    transport
        .and_then(|t| large_tcp(header.gso_size, &t, kind, ecn, checksum))
        .ok_or(Counter::DropOffloadSegmentation)
}

fn large_tcp(
    size: u16,
    transport: &Transport<'_>,
    kind: Kind,
    ecn: bool,
    checksum: Checksum,
) -> Option<Option<Segmentation>> {
    let Checksum::Partial { start, .. } = checksum else { return None };
    if transport.protocol != protocol::TCP || transport.ipv6 != (kind == Kind::Tcp6) || size == 0 {
        return None;
    }
    let tcp = transport.datagram.get(transport.start..)?;
    let tcp_len = usize::from(tcp.get(TCP_DATA_OFFSET)? >> 4).checked_mul(4)?;
    let payload = tcp.len().checked_sub(tcp_len)?;
    if tcp_len < TCP_MIN_HEADER {
        return None;
    }
    if payload <= size.into() {
        return Some(None);
    }
    let header_len = u16::try_from(transport.start.checked_add(tcp_len)?).ok()?;
    let ecn = ecn && tcp.get(TCP_FLAGS)? & TCP_CWR != 0;
    Some(Some(Segmentation { kind, size, transport: start, header_len, ecn }))
}

/// Fills in a checksum that was left open: sums from `start` to the end of `datagram`, the
/// pseudo-header's sum that stands in the field included. `None`, and nothing changed, if the field
/// is not inside.
pub fn complete_checksum(datagram: &mut [u8], start: u16, offset: u16) -> Option<()> {
    let transport = datagram.get_mut(usize::from(start)..)?;
    let sum = match Sum::of(transport).checksum() {
        // In UDP a zero says that there is no checksum (RFC 768).
        0 if usize::from(offset) == UDP_CHECKSUM => 0xffff,
        sum => sum,
    };
    let field = transport.get_mut(usize::from(offset)..)?.first_chunk_mut::<2>()?;
    *field = sum.to_be_bytes();
    Some(())
}

mod found;
#[cfg(test)]
mod tests;

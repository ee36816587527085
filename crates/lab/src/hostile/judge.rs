//! Looks at every frame that a receiver gets, and at its virtio-net header.
//!
//! What the sender wrote in its header must not be found in the receiver's: the header is computed
//! here once more, from the datagram alone, and must be the one that came. A receiver that takes no
//! offload must find all work done.

use std::collections::VecDeque;

use virtqueue::NetHeader;

use super::cast::{BASE_MAC, Who};
use super::speech::{ETHERNET, Left, TCP_SUM};
use crate::error::{LabError, Result};
use crate::frames::{self, protocol};

/// The transport message of a datagram: its protocol, and where it begins.
struct Transport {
    v4: bool,
    protocol: u8,
    start: usize,
}

impl Transport {
    /// Of a datagram that is no fragment; read without the base's help.
    fn of(datagram: &[u8]) -> Option<Self> {
        let ip = etherparse::IpSlice::from_slice(datagram).ok()?;
        let payload = ip.payload();
        if payload.fragmented {
            return None;
        }
        let start = datagram.len().checked_sub(payload.payload.len())?;
        Some(Self { v4: ip.ipv4().is_some(), protocol: payload.ip_number.0, start })
    }

    fn addresses(datagram: &[u8]) -> Option<(std::net::IpAddr, std::net::IpAddr)> {
        Some(if datagram.first()? >> 4 == 4 {
            let (s, d) = (datagram.get(12..)?.first_chunk()?, datagram.get(16..)?.first_chunk()?);
            (<[u8; 4]>::into(*s), <[u8; 4]>::into(*d))
        } else {
            let (s, d) = (datagram.get(8..)?.first_chunk()?, datagram.get(24..)?.first_chunk()?);
            (<[u8; 16]>::into(*s), <[u8; 16]>::into(*d))
        })
    }

    fn sums_up(&self, datagram: &[u8]) -> bool {
        let message = datagram.get(self.start..).unwrap_or_default();
        Self::addresses(datagram)
            .is_some_and(|(s, d)| frames::sums_up(s, d, self.protocol, message))
    }

    fn sum_offset(&self) -> Option<u16> {
        Some(match self.protocol {
            protocol::TCP => TCP_SUM,
            protocol::UDP => 6,
            protocol::ICMP6 if !self.v4 => 2,
            _ => return None,
        })
    }
}

/// The header that a receiver of every offload must find before this datagram.
fn header_of(datagram: &[u8], left: Left) -> Option<NetHeader> {
    if left == Left::Nothing {
        return Some(NetHeader::default());
    }
    let transport = Transport::of(datagram)?;
    let mut header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        csum_start: ETHERNET + transport.start as u16,
        csum_offset: transport.sum_offset()?,
        ..NetHeader::default()
    };
    if let Left::Large { size, ecn } = left {
        let data_offset = usize::from(datagram.get(transport.start + 12)? >> 4) * 4;
        header.gso_size = size;
        header.gso_type = if transport.v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        if ecn {
            header.gso_type |= NetHeader::GSO_ECN;
        }
        header.hdr_len = ETHERNET + (transport.start + data_offset) as u16;
    }
    Some(header)
}

/// What one receiver has got and is still to get.
#[derive(Debug)]
pub struct Judge {
    who: Who,
    /// It takes every offload.
    takes_all: bool,
    expected: VecDeque<(Vec<u8>, Left)>,
    /// Segments of the first expected datagram that have come.
    segments: Vec<Vec<u8>>,
}

impl Judge {
    /// Nothing is expected yet.
    pub fn new(who: Who) -> Self {
        let expected = VecDeque::new();
        Self { who, takes_all: who == Who::Rich, expected, segments: Vec::new() }
    }

    /// Whose frames it looks at.
    pub fn who(&self) -> Who {
        self.who
    }

    /// This datagram is to come next.
    pub fn expect(&mut self, datagram: &[u8], left: Left) {
        self.expected.push_back((datagram.to_vec(), left));
    }

    /// Fails if something is still to come.
    pub fn settled(&self) -> Result<()> {
        match self.expected.len() {
            0 => Ok(()),
            n => Err(self.wrong(format!("{n} datagrams have not arrived"))),
        }
    }

    fn wrong(&self, what: String) -> LabError {
        LabError::Unexpected(format!("receiver {}: {what}", self.who.name()))
    }

    /// Looks at a frame that has arrived. What the base says itself passes.
    pub fn look(&mut self, header: &NetHeader, frame: &[u8]) -> Result<()> {
        let Some(datagram) = self.carried(frame)? else { return Ok(()) };
        let mut found = NetHeader { num_buffers: 0, ..*header };
        let Some((sent, left)) = self.expected.front().cloned() else {
            return Err(self.wrong(format!("an unexpected datagram {datagram:02x?}")));
        };
        // What the kernel has verified is passed on; a guest's word would not be.
        let from_lan =
            Transport::addresses(&sent).is_some_and(|(s, _)| s != Who::Hostile.ip(s.is_ipv4()));
        if from_lan && left == Left::Nothing && self.takes_all {
            found.flags &= !NetHeader::F_DATA_VALID;
        }
        if self.takes_all || left == Left::Nothing {
            let expected = header_of(&sent, left).ok_or_else(|| self.wrong("no header".into()))?;
            if datagram != sent || found != expected {
                return Err(self.wrong(format!(
                    "sent {sent:02x?}, arrived {datagram:02x?}\nheader {found:?}, not {expected:?}"
                )));
            }
            self.expected.pop_front();
            return Ok(());
        }
        if found != NetHeader::default() {
            return Err(self.wrong(format!("takes no offload, and got {found:?}")));
        }
        let complete = Transport::of(datagram).is_some_and(|t| t.sums_up(datagram));
        if !complete || !ip4_sums_up(datagram) {
            return Err(self.wrong(format!("an unfinished checksum in {datagram:02x?}")));
        }
        match left {
            Left::Large { size, .. } => {
                self.segments.push(datagram.to_vec());
                self.put_together(&sent, size.into())
            }
            _ => {
                if !same_but_for_checksum(&sent, datagram) {
                    let text = format!("sent {sent:02x?}, arrived {datagram:02x?}");
                    return Err(self.wrong(text));
                }
                self.expected.pop_front();
                Ok(())
            }
        }
    }

    /// The datagram in a frame, unless the base made it itself.
    fn carried<'f>(&self, frame: &'f [u8]) -> Result<Option<&'f [u8]>> {
        let datagram = frames::datagram_of(frame);
        let own = frame.get(20) == Some(&protocol::ICMP6)
            && frame.get(54).is_some_and(|kind| matches!(kind, 1..=4 | 129 | 133..=137));
        if own && frame.get(12..14) == Some(&[0x86, 0xdd]) {
            return Ok(None);
        }
        let ethernet = [&self.who.mac()[..], &BASE_MAC].concat();
        if frame.get(..12) != Some(&ethernet) {
            return Err(self.wrong(format!("a frame with other addresses: {frame:02x?}")));
        }
        let kind = if datagram.first().is_some_and(|b| b >> 4 == 6) { 0x86dd } else { 0x0800u16 };
        if frame.get(12..14) != Some(&kind.to_be_bytes()) {
            return Err(self.wrong(format!("a frame of another type: {frame:02x?}")));
        }
        Ok(Some(datagram))
    }

    /// Compares the segments with the large send they are made of, once all are there.
    fn put_together(&mut self, sent: &[u8], size: usize) -> Result<()> {
        let parts = |datagram: &[u8]| -> Option<(Vec<u8>, Vec<u8>)> {
            let transport = Transport::of(datagram)?;
            let data = transport.start + usize::from(datagram.get(transport.start + 12)? >> 4) * 4;
            let (head, data) = datagram.split_at_checked(data)?;
            Some((head.to_vec(), data.to_vec()))
        };
        let Some((_, whole)) = parts(sent) else { return Err(self.wrong("no TCP".into())) };
        let mut data = Vec::new();
        for segment in &self.segments {
            let Some((_, part)) = parts(segment) else { return Err(self.wrong("no TCP".into())) };
            if part.len() > size || part.is_empty() {
                return Err(self.wrong(format!("a segment of {} octets, not {size}", part.len())));
            }
            data.extend(part);
        }
        if whole.get(..data.len()) != Some(&data[..]) {
            return Err(self.wrong("segments with other data".into()));
        }
        if data.len() == whole.len() {
            let least = whole.len().div_ceil(size);
            if self.segments.len() != least {
                return Err(self.wrong(format!("{} segments, not {least}", self.segments.len())));
            }
            self.segments.clear();
            self.expected.pop_front();
        }
        Ok(())
    }
}

/// Whether an IPv4 header's checksum is right; IPv6 has none.
fn ip4_sums_up(datagram: &[u8]) -> bool {
    let Some(first) = datagram.first().filter(|first| **first >> 4 == 4) else { return true };
    datagram
        .get(..usize::from(first & 15) * 4)
        .is_some_and(|header| frames::checksum(&[header]) == 0)
}

fn same_but_for_checksum(sent: &[u8], arrived: &[u8]) -> bool {
    let Some(transport) = Transport::of(sent) else { return false };
    let Some(offset) = transport.sum_offset() else { return false };
    let at = transport.start + usize::from(offset);
    sent.len() == arrived.len()
        && sent.get(..at) == arrived.get(..at)
        && sent.get(at + 2..) == arrived.get(at + 2..)
}

/// Looks at a frame of which nothing is known but that it came: its sender rewrote it while it was
/// being taken. Whatever it is, datagram and header must fit together.
pub fn consistent(who: Who, header: &NetHeader, frame: &[u8]) -> Result<()> {
    let judge = Judge::new(who);
    let Some(datagram) = judge.carried(frame)? else { return Ok(()) };
    let found = NetHeader { num_buffers: 0, ..*header };
    let wrong = |what: &str| judge.wrong(format!("{what}: {found:?} before {datagram:02x?}"));
    if !ip4_sums_up(datagram) {
        return Err(wrong("a wrong header checksum"));
    }
    let Some((source, destination)) = Transport::addresses(datagram) else {
        return Err(wrong("no datagram"));
    };
    let v4 = source.is_ipv4();
    if source != Who::Hostile.ip(v4) || destination != who.ip(v4) {
        return Err(wrong("other addresses"));
    }
    let open = found.flags & NetHeader::F_NEEDS_CSUM != 0;
    let large = found.gso_type != NetHeader::GSO_NONE;
    let left = match (large, open) {
        (true, _) => {
            Left::Large { size: found.gso_size, ecn: found.gso_type & NetHeader::GSO_ECN != 0 }
        }
        (false, true) => Left::Checksum,
        (false, false) => Left::Nothing,
    };
    if !judge.takes_all && left != Left::Nothing {
        return Err(wrong("an offload that was not asked for"));
    }
    if header_of(datagram, left) != Some(found) {
        return Err(wrong("a header that does not fit"));
    }
    if large {
        let data = datagram.len() + usize::from(ETHERNET) - usize::from(found.hdr_len);
        if data <= found.gso_size.into() || found.gso_size < 32 {
            return Err(wrong("a large send that is none"));
        }
    } else if datagram.len() > super::speech::MTU {
        return Err(wrong("larger than the link"));
    }
    Ok(())
}

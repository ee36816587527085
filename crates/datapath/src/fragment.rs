//! Cuts an IPv4 datagram that may be fragmented into fragments that fit the next link.
//!
//! # Theory of operation
//! Fragmentation as in RFC 791, section 3.2. The first fragment keeps all options, the others keep
//! those whose "copied" bit is set, so their header can be shorter. Every fragment but the last
//! carries a multiple of eight octets. What is cut may itself be a fragment: offsets go on from its
//! own, and the last piece keeps its "more fragments" bit.
//!
//! # Invariants
//! - Nothing is allocated: each fragment is written into a buffer of the caller's.
//! - Reassembled, the fragments are the datagram: payload, identification, TTL and the rest.
//! - Whether it *may* be cut (DF) is the caller's to ask; an open checksum must be filled in before.

use crate::datagram::Ip4;
use crate::segment::finish_ip4;

/// Octets of the longest IPv4 header.
const MAX_HEADER: usize = 60;
const MIN_HEADER: usize = Ip4::HEADER_LEN;
/// Fragments lie at multiples of this many octets.
const UNIT: usize = 8;
/// The highest offset that the header can tell, in units.
const MAX_OFFSET: u16 = 0x1fff;
const MORE: u16 = 0x2000;
const COPIED: u8 = 0x80;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The fragments of one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Fragments<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    /// The header of all fragments but the first.
    later: [u8; MAX_HEADER],
    later_len: usize,
    /// Payload octets that fit the first fragment, and each that follows.
    first: Room,
    rest: Room,
    offset: u16,
    more: bool,
}

impl<'a> Fragments<'a> {
    /// The fragments of `ip`, none longer than `mtu`. `None` if the link is too small for any, or
    /// the datagram claims to lie beyond the end of the longest datagram.
    pub fn of(ip: &Ip4<'a>, mtu: usize) -> Option<Self> {
        let (header, payload) = ip.bytes().split_at_checked(ip.header_len())?;
        let (later, later_len) = later_header(header)?;
        let fragments = Self {
            header,
            payload,
            later,
            later_len,
            first: Room::of(mtu, header.len())?,
            rest: Room::of(mtu, later_len)?,
            offset: ip.fragment_offset() >> 3,
            more: ip.more_fragments(),
        };
        let last = fragments.start_of(fragments.count().checked_sub(1)?)?;
        fragments.offset_at(last).is_some().then_some(fragments)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        if self.payload.len() <= self.first.last {
            return 1;
        }
        // One after the first is the last; before it go those that must be full.
        let behind_first = self.payload.len().saturating_sub(self.first.full);
        let full = behind_first.saturating_sub(self.rest.last).div_ceil(self.rest.full);
        full.saturating_add(2)
    }

    /// Writes fragment `index` into `into` and tells its length. `None` if there is no such fragment
    /// or it does not fit.
    pub fn write(&self, index: usize, into: &mut [u8]) -> Option<usize> {
        if index >= self.count() {
            return None;
        }
        let start = self.start_of(index)?;
        let (header, room) = if index == 0 {
            (self.header, &self.first)
        } else {
            (self.later.get(..self.later_len)?, &self.rest)
        };
        let rest = self.payload.get(start..)?;
        let piece = if rest.len() <= room.last { rest } else { rest.get(..room.full)? };
        let more = self.more || piece.len() < rest.len();
        let len = header.len().checked_add(piece.len())?;
        let fragment = into.get_mut(..len)?;
        let (head, body) = fragment.split_at_mut_checked(header.len())?;
        head.copy_from_slice(header);
        body.copy_from_slice(piece);
        *head.get_mut(2..)?.first_chunk_mut()? = u16::try_from(len).ok()?.to_be_bytes();
        let place = head.get_mut(6..)?.first_chunk_mut::<2>()?;
        // DF and the reserved bit stay.
        let flags = u16::from_be_bytes(*place) & !(MORE | MAX_OFFSET);
        let flags = flags | self.offset_at(start)? | if more { MORE } else { 0 };
        *place = flags.to_be_bytes();
        finish_ip4(head)?;
        Some(len)
    }

    /// Where fragment `index` starts in the payload.
    fn start_of(&self, index: usize) -> Option<usize> {
        match index.checked_sub(1) {
            None => Some(0),
            Some(before) => self.first.full.checked_add(before.checked_mul(self.rest.full)?),
        }
    }

    /// What the offset field says of a piece that starts at `start` in the payload.
    fn offset_at(&self, start: usize) -> Option<u16> {
        let units = u16::try_from(start.checked_div(UNIT)?).ok()?;
        self.offset.checked_add(units).filter(|&o| o <= MAX_OFFSET)
    }
}

/// Payload octets that fit behind a header.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Of a fragment that others follow: a multiple of [`UNIT`].
    full: usize,
    /// Of the last one.
    last: usize,
}

impl Room {
    fn of(mtu: usize, header_len: usize) -> Option<Self> {
        let last = mtu.checked_sub(header_len)?;
        let full = last & !(UNIT.saturating_sub(1));
        (full > 0).then_some(Self { full, last })
    }
}

/// The header of later fragments: `header` with the options that are to be copied.
fn later_header(header: &[u8]) -> Option<([u8; MAX_HEADER], usize)> {
    let (fixed, options) = header.split_at_checked(MIN_HEADER)?;
    let mut later = [END; MAX_HEADER];
    later.get_mut(..MIN_HEADER)?.copy_from_slice(fixed);
    let mut len = MIN_HEADER;
    let mut rest = options;
    while let Some(&kind) = rest.first() {
        let option_len = match kind {
            END => break,
            NO_OPERATION => 1,
            // An option without a sensible length ends the list: nobody could read on.
            _ => match rest.get(1) {
                Some(&n) if n >= 2 => usize::from(n),
                _ => break,
            },
        };
        let Some((option, behind)) = rest.split_at_checked(option_len) else { break };
        if kind & COPIED != 0 {
            let end = len.checked_add(option_len)?;
            later.get_mut(len..end)?.copy_from_slice(option);
            len = end;
        }
        rest = behind;
    }
    let len = len.next_multiple_of(4);
    let words = u8::try_from(len.checked_div(4)?).ok()?;
    *later.first_mut()? = 0x40 | words;
    Some((later, len))
}

#[cfg(test)]
mod tests;

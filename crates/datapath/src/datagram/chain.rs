//! The chain of IPv6 extension headers, walked to its end.
//!
//! # Theory of operation
//! Each extension header says the type of the next one and its own length. The walk goes on until
//! a type that is not an extension header: the upper layer, or ESP (what follows is hidden), or "no
//! next header". It also ends at a fragment that is not the first: what follows there is a part of
//! the payload and no header at all.
//!
//! Headers may come in any order and more than once (RFC 8200, section 4.1), so they are walked in
//! any order; at most [`MAX_EXTENSIONS`] of them, more than any use needs, fewer than would cost.

use super::ip6::HEADER_LEN;
use super::last_inch::protocol;
use crate::counters::Counter;

/// Extension headers that are walked; a datagram with more is dropped by name.
pub const MAX_EXTENSIONS: usize = 16;

/// Where the chain of extension headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The protocol number at the end of the chain. In a later fragment, what the fragment header
    /// names: perhaps another extension header, that lies in the first fragment.
    pub protocol: u8,
    /// Where that protocol's octets start, counted from the datagram's first octet.
    pub offset: usize,
    /// The fragment header, if there is one; of several, the one that cuts off most.
    pub fragment: Option<Fragment>,
}

impl Upper {
    /// Whether the octets at `offset` are no header but a part from the middle of a datagram.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|f| f.offset != 0)
    }

    /// Whether the datagram is a part of another. An atomic fragment is a whole datagram.
    pub fn is_fragmented(&self) -> bool {
        self.fragment.is_some_and(|f| !f.is_atomic())
    }
}

/// A fragment header (RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where in the whole datagram's fragmentable part this fragment lies, in octets.
    pub offset: u16,
    /// Whether another fragment follows.
    pub more: bool,
    /// Identification.
    pub identification: u32,
}

impl Fragment {
    /// A fragment header in front of a whole datagram (RFC 6946).
    pub fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Whether a header of this type has another one behind it.
#[inline]
pub(super) fn is_extension(next: u8) -> bool {
    use protocol::*;
    matches!(
        next,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | DESTINATION_OPTIONS
            | AUTHENTICATION
            | MOBILITY
            | HIP
            | SHIM6
    )
}

/// Walks the chain of the datagram `bytes`, whose fixed header names `next`.
#[cold]
pub(super) fn walk(bytes: &[u8], next: u8) -> Result<Upper, Counter> {
    let mut upper = Upper { protocol: next, offset: HEADER_LEN, fragment: None };
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(upper.protocol) {
            return checked(bytes, upper);
        }
        let Some((next, len, header)) = read(bytes, &upper) else {
            // In a first fragment the rest of the chain lies elsewhere, where it must not.
            return Err(if upper.is_fragmented() {
                Counter::DropFirstFragment
            } else {
                Counter::DropIp6HeaderChain
            });
        };
        if upper.protocol == protocol::FRAGMENT {
            let fragment = fragment(header);
            if upper.fragment.is_none_or(|f| f.is_atomic()) || fragment.offset != 0 {
                upper.fragment = Some(fragment);
            }
        }
        upper.protocol = next;
        upper.offset = upper.offset.saturating_add(len);
        if upper.is_later_fragment() {
            return Ok(upper);
        }
    }
    if is_extension(upper.protocol) {
        Err(Counter::DropIp6HeaderChain)
    } else {
        checked(bytes, upper)
    }
}

/// The type of the header behind the one at `upper`, the length of that one, and its first octets.
fn read<'a>(bytes: &'a [u8], upper: &Upper) -> Option<(u8, usize, &'a [u8; 8])> {
    let rest = bytes.get(upper.offset..)?;
    let header = rest.first_chunk::<8>()?;
    let units = usize::from(header[1]);
    let len = match upper.protocol {
        protocol::FRAGMENT => 8,
        protocol::AUTHENTICATION => units.saturating_add(2) << 2,
        _ => units.saturating_add(1) << 3,
    };
    (len <= rest.len()).then_some((header[0], len, header))
}

/// Reads a fragment header.
fn fragment(header: &[u8; 8]) -> Fragment {
    let [_, _, o0, o1, i0, i1, i2, i3] = *header;
    let word = u16::from_be_bytes([o0, o1]);
    Fragment {
        offset: word & 0xfff8,
        more: word & 1 == 1,
        identification: u32::from_be_bytes([i0, i1, i2, i3]),
    }
}

/// A first fragment must have its upper layer's header (RFC 7112): the fixed one, and for TCP its
/// options too.
fn checked(bytes: &[u8], upper: Upper) -> Result<Upper, Counter> {
    if upper.is_fragmented() {
        let have = bytes.get(upper.offset..).unwrap_or_default();
        let mut need = protocol::fixed_header(upper.protocol);
        if let (protocol::TCP, Some(&data_offset)) = (upper.protocol, have.get(12)) {
            need = need.max(usize::from(data_offset >> 4) << 2);
        }
        if have.len() < need {
            return Err(Counter::DropFirstFragment);
        }
    }
    Ok(upper)
}

//! The format of DHCPv6 messages (RFC 8415), as much as a server with one client needs.
//!
//! # Why by hand
//! The format is nothing but options in options, and this reads what a guest wrote. The library for
//! it (dhcproto 0.15) panics on a status code option shorter than two octets where overflow is
//! checked, overflows a thread's stack on a message of 64 KiB full of nested options, and brings some
//! 70 packages. It is the other side in the tests instead.
//!
//! # Invariants
//! [`Request::parse`] has checked every length that is read later: of the message's options, and of the
//! options in its identity associations. So all of it is bounded by the message, two levels deep.

use std::net::Ipv6Addr;

/// Message types that a client sends, and the two it gets.
pub(super) mod kind {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const RECONFIGURE: u8 = 10;
    pub const INFORMATION_REQUEST: u8 = 11;
}

/// Option codes.
pub(super) mod code {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDRESS: u16 = 5;
    pub const PREFERENCE: u16 = 7;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const DNS: u16 = 23;
    pub const SEARCH: u16 = 24;
    pub const IA_PD: u16 = 25;
}

/// Status codes.
pub(super) mod status {
    pub const SUCCESS: u16 = 0;
    pub const NO_ADDRESSES: u16 = 2;
    pub const NOT_ON_LINK: u16 = 4;
    pub const NO_PREFIXES: u16 = 6;
}

/// Octets of the longest identifier that RFC 8415 allows.
const MAX_DUID: usize = 130;
/// Identity associations in one message at most: a client has one of each kind.
const MAX_ASSOCIATIONS: usize = 8;

/// A client's message.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub kind: u8,
    pub transaction: [u8; 3],
    pub client_id: Option<&'a [u8]>,
    pub server_id: Option<&'a [u8]>,
    pub rapid_commit: bool,
    options: &'a [u8],
}

/// An identity association: what a client asks addresses or prefixes for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Association<'a> {
    /// `IA_NA`, `IA_TA` or `IA_PD`.
    pub code: u16,
    pub id: [u8; 4],
    options: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a message. None if any length in it is wrong, or it is absurdly large.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (&[kind, a, b, c], all) = message.split_first_chunk::<4>()?;
        let mut request = Self {
            kind,
            transaction: [a, b, c],
            client_id: None,
            server_id: None,
            rapid_commit: false,
            options: all,
        };
        let mut associations = 0usize;
        let mut rest = all;
        while !rest.is_empty() {
            let (code, data, after) = option(rest)?;
            rest = after;
            match code {
                code::CLIENT_ID | code::SERVER_ID if !(2..=MAX_DUID).contains(&data.len()) => {
                    return None;
                }
                code::CLIENT_ID => request.client_id = Some(data),
                code::SERVER_ID => request.server_id = Some(data),
                code::RAPID_COMMIT => request.rapid_commit = true,
                code::IA_NA | code::IA_TA | code::IA_PD => {
                    associations = associations.saturating_add(1);
                    check_association(association(code, data)?)?;
                }
                _ => {}
            }
        }
        (associations <= MAX_ASSOCIATIONS).then_some(request)
    }

    /// The identity associations, in the client's order.
    pub fn associations(&self) -> impl Iterator<Item = Association<'a>> {
        options(self.options).filter_map(|(code, data)| association(code, data))
    }
}

impl<'a> Association<'a> {
    /// The addresses that the client names in it.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        options(self.options)
            .filter(|(code, _)| *code == code::IA_ADDRESS)
            .filter_map(|(_, data)| data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets)))
    }
}

fn association(code: u16, data: &[u8]) -> Option<Association<'_>> {
    let (&id, rest) = data.split_first_chunk::<4>()?;
    let options = match code {
        code::IA_TA => rest,
        code::IA_NA | code::IA_PD => rest.get(8..)?, // behind T1 and T2
        _ => return None,
    };
    Some(Association { code, id, options })
}

/// Checks the lengths in an identity association.
fn check_association(association: Association<'_>) -> Option<()> {
    let mut rest = association.options;
    while !rest.is_empty() {
        let (code, data, after) = option(rest)?;
        rest = after;
        if code == code::IA_ADDRESS && data.len() < 24 {
            return None;
        }
    }
    Some(())
}

/// The first option in `bytes`, and what is behind it.
fn option(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (&[c0, c1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let (data, after) = rest.split_at_checked(u16::from_be_bytes([l0, l1]).into())?;
    Some((u16::from_be_bytes([c0, c1]), data, after))
}

/// The options in `bytes`.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, data, after) = option(bytes)?;
        bytes = after;
        Some((code, data))
    })
}

/// Writes a message, option by option.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Octets of the longest message: with its headers it fits IPv6's least MTU.
    const MAX: usize = 1280 - 40 - 8;

    pub fn new(kind: u8, transaction: [u8; 3]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(kind);
        bytes.extend(transaction);
        Self(bytes)
    }

    /// Adds an option of these parts; leaves it out where it would make the message too long.
    pub fn option(&mut self, code: u16, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let Some(octets) = u16::try_from(len).ok().filter(|_| self.has_room(len)) else {
            return;
        };
        self.0.extend(code.to_be_bytes());
        self.0.extend(octets.to_be_bytes());
        parts.iter().for_each(|part| self.0.extend(*part));
    }

    /// Adds an option that starts with `head` and goes on with the options that `inner` adds.
    pub fn nested(&mut self, code: u16, head: &[&[u8]], inner: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.option(code, head);
        if self.0.len() == start {
            return;
        }
        inner(self);
        let len = self.0.len().saturating_sub(start).saturating_sub(4);
        let at = start.saturating_add(2);
        if let (Ok(len), Some(field)) =
            (u16::try_from(len), self.0.get_mut(at..).and_then(|b| b.first_chunk_mut::<2>()))
        {
            *field = len.to_be_bytes();
        }
    }

    /// Adds a status code without text.
    pub fn status(&mut self, status: u16) {
        self.option(code::STATUS, &[&status.to_be_bytes()]);
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn has_room(&self, len: usize) -> bool {
        self.0.len().saturating_add(4).saturating_add(len) <= Self::MAX
    }
}

//! The header: whether this is a state memory, of which layout, and how often it was taken over.
//!
//! ```text
//!   0  magic
//!   8  layout version, paired (1 alone in the first layout)
//!  16  takeovers, paired (alone in the first layout)
//! 208  magic once more
//! 216  layout version, paired, once more
//! 256  the workers' marks, to 1024
//! ```
//! Magic and version stand twice because without them nothing else can be read: of damage to one of
//! the two the other tells. They are read with a system call before anything is mapped, so that a
//! memory that is too short, or of a layout that is to come, is met with a refusal only.

use std::os::fd::BorrowedFd;

use super::seal::{pair, unpair};
use super::{LEN, StateError, StateMemory};

/// The layout that this base writes.
pub(super) const VERSION: u32 = 4;
/// The oldest layout that this base reads.
pub(super) const OLDEST: u32 = 1;
/// The layouts that [`StateMemory::adopt`] reads.
pub const LAYOUTS: std::ops::RangeInclusive<u32> = OLDEST..=VERSION;

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"ipvisor\0");
pub(super) const MAGIC_AT: usize = 0;
pub(super) const VERSION_AT: usize = 8;
pub(super) const TAKEOVERS_AT: usize = 16;
pub(super) const MAGIC_AGAIN_AT: usize = 208;
pub(super) const VERSION_AGAIN_AT: usize = 216;
const HEADER_LEN: usize = 224;

/// A header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Its layout.
    pub version: u32,
    /// Which part of it is damaged and known from its copy, or a damaged copy.
    pub damaged: Option<&'static str>,
}

/// Looks at the header of what is said to be a state memory.
pub(super) fn look(fd: BorrowedFd<'_>) -> Result<Header, StateError> {
    let len = rustix::fs::fstat(fd).map_err(|e| StateError::Examine(e.into()))?.st_size;
    let len = u64::try_from(len).unwrap_or(0);
    if len < LEN as u64 {
        return Err(StateError::TooShort { len, need: LEN as u64 });
    }
    let mut octets = [0; HEADER_LEN];
    let read = rustix::io::pread(fd, &mut octets, 0).map_err(|e| StateError::Examine(e.into()))?;
    if read < HEADER_LEN {
        return Err(StateError::TooShort { len: read as u64, need: LEN as u64 });
    }
    let word = |at: usize| {
        let octets = octets.get(at..).and_then(|rest| rest.first_chunk::<8>());
        octets.map_or(0, |o| u64::from_ne_bytes(*o))
    };
    parse(word)
}

fn parse(word: impl Fn(usize) -> u64) -> Result<Header, StateError> {
    let (magic, version) = (word(MAGIC_AT), word(VERSION_AT));
    let foreign = StateError::Foreign { magic, version };
    let first = if version == 1 { Some(1) } else { unpair(version).filter(|v| *v > 1) };
    let again = unpair(word(VERSION_AGAIN_AT)).filter(|v| *v > 1);
    let magics = [magic, word(MAGIC_AGAIN_AT)].map(|m| m == MAGIC);
    let known = match (first, again) {
        (Some(version), _) | (None, Some(version)) if magics.contains(&true) => version,
        _ => return Err(foreign),
    };
    if known > VERSION {
        return Err(StateError::Newer { version: known });
    }
    // The first layout has no copies.
    let copies = known > 1;
    let damaged = match (magics, first, again) {
        ([false, _], ..) => Some("its magic"),
        (_, None, _) => Some("its layout version"),
        ([_, false], ..) if copies => Some("the copy of its magic"),
        (_, _, other) if copies && other != Some(known) => Some("the copy of its layout version"),
        _ => None,
    };
    Ok(Header { version: known, damaged })
}

/// Writes magic and version, the words that make the rest valid last.
pub(super) fn write(state: &StateMemory) {
    state.put(MAGIC_AGAIN_AT, MAGIC);
    state.put(VERSION_AGAIN_AT, pair(VERSION));
    state.put(VERSION_AT, pair(VERSION));
    state.put(MAGIC_AT, MAGIC);
}

/// How often a successor has taken over; `None` if the number is damaged.
pub(super) fn takeovers(state: &StateMemory) -> Option<u32> {
    match state.get(TAKEOVERS_AT) {
        0 => Some(0),
        word => unpair(word),
    }
}

/// Notes how often a successor has taken over.
pub(super) fn set_takeovers(state: &StateMemory, takeovers: u32) {
    state.put(TAKEOVERS_AT, pair(takeovers));
}

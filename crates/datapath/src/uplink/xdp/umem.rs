//! The frames of a card's AF_XDP sockets: one memory file that outlives the base.
//!
//! ```text
//! socket 0: frames of the way in | frames of the way out      each socket registers its own stretch
//! socket 1: frames of the way in                              as its umem
//! ...
//! record: layout, seal, what was counted of each socket's drops
//! ```
//! The kernel has the pages in its hands as long as a socket lives. A successor maps the file again and
//! finds in the record how it is divided; which frames are whose, the rings say.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use virtqueue::Mapping;

use super::super::UplinkError;
use super::refused;
use crate::state::seal::seal;

/// Octets of a frame: a page, the largest that the kernel takes.
pub(super) const FRAME: u64 = 4096;
/// Octets of the record at the end.
const RECORD: u64 = 4096;
/// Changes when the record or the division of the file does, or what socket serves what.
const VERSION: u32 = 2;
/// The same of sockets whose frames may be in pieces: a base that does not know that does not take them
/// over.
const VERSION_IN_PIECES: u32 = 3;
/// Octets of the sealed part of the record.
const SEALED: usize = 20;
const SEAL_AT: usize = 24;
const COUNTED_AT: usize = 32;

/// How the file is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The card's interface index.
    pub index: u32,
    /// Sockets: one for each receive queue.
    pub queues: u32,
    /// Frames of each socket's way in; a power of two.
    pub inward: u32,
    /// Frames of the way out, which the first socket has; a power of two.
    pub outward: u32,
    /// A frame of the card may take several of these.
    pub in_pieces: bool,
}

impl Layout {
    fn octets(self) -> [u8; SEALED] {
        let version = if self.in_pieces { VERSION_IN_PIECES } else { VERSION };
        let words = [version, self.index, self.queues, self.inward, self.outward];
        let mut octets = [0; SEALED];
        for (to, from) in octets.iter_mut().zip(words.into_iter().flat_map(u32::to_ne_bytes)) {
            *to = from;
        }
        octets
    }

    /// Octets of a socket's stretch.
    fn stretch(self, queue: u32) -> u64 {
        let outward = if queue == 0 { self.outward } else { 0 };
        u64::from(self.inward).wrapping_add(outward.into()).saturating_mul(FRAME)
    }

    /// Where a socket's stretch begins.
    fn start(self, queue: u32) -> u64 {
        (0..queue).fold(0u64, |sum, before| sum.saturating_add(self.stretch(before)))
    }

    /// How many pieces a frame of the card may have.
    pub fn most_pieces(self) -> u32 {
        if self.in_pieces { super::MOST_PIECES } else { 1 }
    }

    /// Where the way out begins in the first socket's stretch.
    pub fn outward_at(self) -> u64 {
        u64::from(self.inward).saturating_mul(FRAME)
    }

    /// Where the record begins.
    fn end(self) -> u64 {
        self.start(self.queues)
    }
}

/// The file and its record.
#[derive(Debug)]
pub(super) struct Umem {
    file: OwnedFd,
    record: Mapping,
    pub layout: Layout,
}

impl Umem {
    /// Makes one, sealed against every change of its length.
    pub fn create(layout: Layout) -> Result<Self, UplinkError> {
        let refused = |e: rustix::io::Errno| refused("make the memory of AF_XDP frames", e);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("ipvisor-xdp", flags).map_err(refused)?;
        ftruncate(&file, layout.end().saturating_add(RECORD)).map_err(refused)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(refused)?;
        let record = map(file.as_fd(), layout.end(), RECORD)?;
        let octets = layout.octets();
        record.write(0, &octets);
        record.write(SEAL_AT, &seal(0, &[&octets]).to_ne_bytes());
        Ok(Self { file, record, layout })
    }

    /// Takes over a predecessor's.
    pub fn adopt(file: OwnedFd) -> Result<Self, UplinkError> {
        let damaged = |what: &str| UplinkError::Adopt {
            object: "memory of AF_XDP frames",
            why: what.to_owned(),
        };
        let len = fstat(&file).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
        let Some(at) = len.and_then(|len| len.checked_sub(RECORD)) else {
            return Err(damaged("it is too short"));
        };
        let record = map(file.as_fd(), at, RECORD)?;
        let mut octets = [0; SEALED];
        let mut sealed = [0; 8];
        record.read(0, &mut octets);
        record.read(SEAL_AT, &mut sealed);
        let (words, _) = octets.as_chunks::<4>();
        let &[version, index, queues, inward, outward] = words else {
            return Err(damaged("its record is too short"));
        };
        let number = |octets: [u8; 4]| u32::from_ne_bytes(octets);
        let layout = Layout {
            index: number(index),
            queues: number(queues),
            inward: number(inward),
            outward: number(outward),
            in_pieces: number(version) == VERSION_IN_PIECES,
        };
        let known = [VERSION, VERSION_IN_PIECES].contains(&number(version));
        if u64::from_ne_bytes(sealed) != seal(0, &[&octets]) || !known {
            return Err(damaged("the record of its layout is damaged, or of another version"));
        }
        if layout.end() != at || layout.queues > super::MOST_QUEUES {
            return Err(damaged("its length is not that of its layout"));
        }
        Ok(Self { file, record, layout })
    }

    /// Maps a socket's stretch.
    pub fn stretch(&self, queue: u32) -> Result<Mapping, UplinkError> {
        map(self.file.as_fd(), self.layout.start(queue), self.layout.stretch(queue))
    }

    /// Counts what a socket has dropped in all: how many of these are new.
    pub fn count_drops(&self, queue: u32, all: u64) -> u64 {
        let at = COUNTED_AT.saturating_add((queue as usize).saturating_mul(size_of::<u64>()));
        let Some(word) = self.record.u64_at(at) else { return 0 };
        all.saturating_sub(word.swap(all, Ordering::Relaxed))
    }
}

impl AsFd for Umem {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn map(file: BorrowedFd<'_>, at: u64, len: u64) -> Result<Mapping, UplinkError> {
    Mapping::shared(file, at, len).map_err(|e| refused("map the memory of AF_XDP frames", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { index: 3, queues: 3, inward: 8, outward: 4, in_pieces: false };

    #[test]
    fn stretches_lie_one_behind_the_other_and_the_record_last() {
        let starts: Vec<_> = (0..4).map(|queue| LAYOUT.start(queue) / FRAME).collect();
        assert_eq!(starts, [0, 12, 20, 28]);
        assert_eq!(LAYOUT.end(), 28 * FRAME);
    }

    #[test]
    fn a_successor_finds_the_layout_and_counts_drops_once() {
        let umem = Umem::create(LAYOUT).unwrap();
        assert_eq!((umem.count_drops(2, 5), umem.count_drops(2, 7)), (5, 2));
        let umem = Umem::adopt(umem.file).unwrap();
        assert_eq!(umem.layout, LAYOUT);
        let in_pieces = Layout { in_pieces: true, ..LAYOUT };
        let other = Umem::adopt(Umem::create(in_pieces).unwrap().file).unwrap();
        assert_eq!(other.layout, in_pieces);
        assert_eq!((umem.count_drops(2, 8), umem.count_drops(0, 1)), (1, 1));
    }

    #[test]
    fn any_damaged_octet_of_the_layout_is_noticed() {
        for at in (0..SEALED).chain(SEAL_AT..SEAL_AT + 8) {
            let umem = Umem::create(LAYOUT).unwrap();
            umem.record.u8_at(at).unwrap().fetch_xor(0x10, Ordering::Relaxed);
            let error = Umem::adopt(umem.file).unwrap_err();
            assert!(matches!(error, UplinkError::Adopt { .. }), "octet {at}: {error}");
        }
    }
}

//! A piece of shared memory, mapped into the base and touched only through bounds-checked calls.
//!
//! # Theory of operation
//! Guest memory, the state memory and an adapter's rings are all files (memfd, packet socket) that
//! somebody else maps too. A [`Mapping`] owns one such mapping. It never hands out `&[u8]` or
//! `&mut [u8]`: the other side may write at any moment. Bytes are copied in and out; words that two
//! sides agree on are reached as atomics.
//!
//! Around each mapping lies a page on either side that nobody can touch, so that an access that went
//! astray in spite of all checks ends the process instead of reaching somebody else's memory.
//!
//! # Invariants
//! - The mapping lives exactly as long as the `Mapping`.
//! - Every access is checked against its length; a wrong offset is `None`, never a fault.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::piece::Piece;
use crate::sigbus::Entry;

/// What `fstatfs` says of files made of huge pages.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Why a piece of memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The length is zero, or offset and length together do not fit the address space.
    #[error("cannot map {len:#x} octets at offset {offset:#x}: the range is empty or too large")]
    BadRange {
        /// Octets into the file.
        offset: u64,
        /// Octets asked for.
        len: u64,
    },
    /// The file is shorter than the range that was announced.
    #[error("cannot map {len:#x} octets at offset {offset:#x}: the file has only {have:#x}")]
    FileTooShort {
        /// Octets into the file.
        offset: u64,
        /// Octets asked for.
        len: u64,
        /// Octets the file has.
        have: u64,
    },
    /// The kernel refused.
    #[error("cannot map {len:#x} octets at offset {offset:#x}")]
    Kernel {
        /// Octets into the file.
        offset: u64,
        /// Octets asked for.
        len: u64,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One shared mapping, unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    /// First octet that belongs to the caller.
    start: NonNull<u8>,
    /// Octets that belong to the caller.
    len: usize,
    /// Known to the SIGBUS handler. Dropped before the addresses are given back: they may belong to
    /// somebody else at once.
    entry: Entry,
    /// The addresses that are ours: the mapping and its guard pages.
    _reserved: Reservation,
}

// SAFETY: a `Mapping` is a range of shared memory without thread affinity; all access goes through
// raw copies and atomics, which tolerate other writers.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method hands out a plain reference into the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` octets of `fd` from `offset` (which need not be page aligned), shared, readable
    /// and writable. A regular file must already be that long; other files (packet sockets) are
    /// left to the kernel's own check.
    pub fn shared(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, MappingError> {
        let bad = MappingError::BadRange { offset, len };
        let page = page_size(fd) as u64;
        let skew = offset.checked_rem(page).unwrap_or(0);
        let Some(end) = offset.checked_add(len) else { return Err(bad) };
        let Some(mapped) = len
            .checked_add(skew)
            .and_then(|n| n.checked_next_multiple_of(page))
            .and_then(|n| usize::try_from(n).ok())
        else {
            return Err(bad);
        };
        if len == 0 || mapped > isize::MAX as usize {
            return Err(bad);
        }
        let kernel = |source| MappingError::Kernel { offset, len, source };
        let stat = rustix::fs::fstat(fd.as_fd()).map_err(|e| kernel(e.into()))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile {
            let have = u64::try_from(stat.st_size).unwrap_or(0);
            if have < end {
                return Err(MappingError::FileTooShort { offset, len, have });
            }
        }
        let aligned = offset.saturating_sub(skew);
        let (skew, page, octets) = (skew as usize, page as usize, len as usize);
        let reserved = Reservation::new(mapped, page).map_err(kernel)?;
        let base = reserved.inner(page);
        let map = |at: *mut u8, flags: MapFlags| {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: either no address is asked for, and the kernel picks an unused range, or
            // `base`, where the reservation has `mapped` octets that nobody uses.
            unsafe { mmap(at.cast(), mapped, prot, MapFlags::SHARED | flags, fd, aligned) }
        };
        // Whatever the kernel has against this file, it is to say where nothing is replaced.
        let trial = map(std::ptr::null_mut(), MapFlags::empty()).map_err(|e| kernel(e.into()))?;
        // SAFETY: mapped a moment ago, and unknown to anybody else.
        let _ = unsafe { munmap(trial, mapped) };
        if let Err(e) = map(base.as_ptr(), MapFlags::FIXED) {
            // The kernel may have given part of the range away already: it is not ours to release.
            std::mem::forget(reserved);
            return Err(kernel(e.into()));
        }
        // SAFETY: `skew` < `mapped` because `len` > 0, so the result stays inside the mapping.
        let start = unsafe { base.add(skew) };
        let entry = Entry::new(base.as_ptr().expose_provenance(), mapped, page);
        Ok(Self { start, len: octets, entry, _reserved: reserved })
    }

    /// Octets that can be reached.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an empty range is refused by [`Mapping::shared`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True once the file was shrunk under the mapping, and the loss was met by an access: what
    /// was lost reads as zeroes, private to this process (see [`crate::sigbus`]).
    pub fn is_torn(&self) -> bool {
        self.entry.is_torn()
    }

    /// The `len` octets at `offset`, if they lie inside.
    #[inline]
    pub(crate) fn piece(&self, offset: usize, len: usize) -> Option<Piece<'_>> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset` + `len` <= `self.len`, checked above; the mapping lives as long as
        // `self`, and hands out no references but to atomics.
        Some(unsafe { Piece::new(self.start.add(offset), len) })
    }

    /// The pointer to `len` octets at `offset`, if they lie inside.
    fn range(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        self.piece(offset, len).map(Piece::start)
    }

    /// Copies `into.len()` octets from `offset`. `None`, and nothing copied, if they do not lie
    /// inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.piece(offset, into.len())?.copy_out(into);
        Some(())
    }

    /// Copies `from` to `offset`. `None`, and nothing copied, if it does not fit inside.
    pub fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.piece(offset, from.len())?.copy_in(from);
        Some(())
    }

    /// The octet at `offset`.
    pub fn u8_at(&self, offset: usize) -> Option<&AtomicU8> {
        let at = self.range(offset, size_of::<u8>())?;
        // SAFETY: inside the mapping, which lives as long as `self`; only atomics and raw copies
        // reach it.
        Some(unsafe { AtomicU8::from_ptr(at.as_ptr()) })
    }

    /// The 16-bit word at `offset`; `None` if it is outside or not aligned.
    pub fn u16_at(&self, offset: usize) -> Option<&AtomicU16> {
        let at = self.range(offset, size_of::<u16>())?.cast::<u16>();
        // SAFETY: inside the mapping and aligned; otherwise as in `u8_at`.
        at.is_aligned().then(|| unsafe { AtomicU16::from_ptr(at.as_ptr()) })
    }

    /// The 32-bit word at `offset`; `None` if it is outside or not aligned.
    pub fn u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        let at = self.range(offset, size_of::<u32>())?.cast::<u32>();
        // SAFETY: inside the mapping and aligned; otherwise as in `u8_at`.
        at.is_aligned().then(|| unsafe { AtomicU32::from_ptr(at.as_ptr()) })
    }

    /// The 64-bit word at `offset`; `None` if it is outside or not aligned.
    pub fn u64_at(&self, offset: usize) -> Option<&AtomicU64> {
        let at = self.range(offset, size_of::<u64>())?.cast::<u64>();
        // SAFETY: inside the mapping and aligned; otherwise as in `u8_at`.
        at.is_aligned().then(|| unsafe { AtomicU64::from_ptr(at.as_ptr()) })
    }

    /// `count` 32-bit words from `offset`; `None` if they are not all inside, or not aligned.
    #[cfg(any(test, feature = "driver"))]
    pub(crate) fn u32s_at(&self, offset: usize, count: usize) -> Option<&[AtomicU32]> {
        let at = self.range(offset, count.checked_mul(size_of::<u32>())?)?.cast::<AtomicU32>();
        // SAFETY: inside the mapping and aligned, and all of it atomics; otherwise as in `u8_at`.
        at.is_aligned().then(|| unsafe { std::slice::from_raw_parts(at.as_ptr(), count) })
    }

    /// `count` 64-bit words from `offset`; `None` if they are not all inside, or not aligned.
    #[cfg(any(test, feature = "driver"))]
    pub(crate) fn u64s_at(&self, offset: usize, count: usize) -> Option<&[AtomicU64]> {
        let at = self.range(offset, count.checked_mul(size_of::<u64>())?)?.cast::<AtomicU64>();
        // SAFETY: as in `u32s_at`.
        at.is_aligned().then(|| unsafe { std::slice::from_raw_parts(at.as_ptr(), count) })
    }
}

/// A range of addresses that nothing else of this process uses; released when dropped.
#[derive(Debug)]
struct Reservation {
    start: NonNull<u8>,
    len: usize,
}

impl Reservation {
    /// Room for `mapped` octets aligned to `page`, and at least a page on either side.
    fn new(mapped: usize, page: usize) -> io::Result<Self> {
        let len = page.checked_mul(3).and_then(|n| n.checked_add(mapped));
        let len = len.ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: no address is asked for, so the kernel picks an unused range; nothing of ours is
        // replaced.
        let raw = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(raw.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The first aligned address that leaves a page before it.
    fn inner(&self, page: usize) -> NonNull<u8> {
        let misaligned = self.start.addr().get().checked_rem(page).unwrap_or(0);
        // SAFETY: at most two pages, and the reservation has three beside what is to be mapped.
        unsafe { self.start.add(page.saturating_mul(2).saturating_sub(misaligned)) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are what `mmap` gave, whatever was mapped inside since is the
        // `Mapping`'s that owns this; no reference into it outlives that.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Octets in which the kernel maps this file: more than an ordinary page for huge pages, which can
/// only be mapped and unmapped whole.
fn page_size(fd: BorrowedFd<'_>) -> usize {
    match rustix::fs::fstatfs(fd) {
        Ok(fs) if fs.f_type == HUGETLBFS_MAGIC => usize::try_from(fs.f_bsize).unwrap_or(0),
        _ => 0,
    }
    .max(rustix::param::page_size())
}

//! A piece of shared memory, mapped into the base and touched only through bounds-checked calls.
//!
//! # Theory of operation
//! Guest memory, the state memory and an adapter's rings are all files (memfd, packet socket) that
//! somebody else maps too. A [`Mapping`] owns one such mapping. It never hands out `&[u8]` or
//! `&mut [u8]`: the other side may write at any moment. Bytes are copied in and out; words that two
//! sides agree on are reached as atomics.
//!
//! # Invariants
//! - The mapping lives exactly as long as the `Mapping`.
//! - Every access is checked against its length; a wrong offset is `None`, never a fault.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

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
    /// Where the mapping starts: page aligned, at or before `start`.
    base: NonNull<u8>,
    /// Octets mapped from `base`.
    mapped: usize,
    /// First octet that belongs to the caller.
    start: NonNull<u8>,
    /// Octets that belong to the caller.
    len: usize,
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
        let page = rustix::param::page_size() as u64;
        let skew = offset.checked_rem(page).unwrap_or(0);
        let Some(end) = offset.checked_add(len) else { return Err(bad) };
        let Some(mapped) = len.checked_add(skew).and_then(|n| usize::try_from(n).ok()) else {
            return Err(bad);
        };
        if len == 0 || mapped > isize::MAX as usize {
            return Err(bad);
        }
        let kernel = |source: io::Error| MappingError::Kernel { offset, len, source };
        let stat = rustix::fs::fstat(fd.as_fd()).map_err(|e| kernel(e.into()))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile {
            let have = u64::try_from(stat.st_size).unwrap_or(0);
            if have < end {
                return Err(MappingError::FileTooShort { offset, len, have });
            }
        }
        let aligned = offset.saturating_sub(skew);
        // SAFETY: no address is asked for, so the kernel picks an unused range; nothing of ours is
        // replaced. The range is released in `drop` only.
        let raw = unsafe {
            mmap(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                aligned,
            )
        }
        .map_err(|e| kernel(e.into()))?;
        let Some(base) = NonNull::new(raw.cast::<u8>()) else { return Err(bad) };
        // SAFETY: `skew` < `mapped` because `len` > 0, so the result stays inside the mapping.
        let start = unsafe { base.add(skew as usize) };
        let len = mapped.saturating_sub(skew as usize);
        Ok(Self { base, mapped, start, len })
    }

    /// Octets that can be reached.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an empty range is refused by [`Mapping::shared`].
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True once the file was shrunk under the mapping: what was lost reads as zeroes.
    pub fn is_torn(&self) -> bool {
        false
    }

    /// The pointer to `len` octets at `offset`, if they lie inside.
    pub(crate) fn range(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `offset` <= `self.len`, checked above.
        Some(unsafe { self.start.add(offset) })
    }

    /// Copies `into.len()` octets from `offset`. `None`, and nothing copied, if they do not lie
    /// inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let from = self.range(offset, into.len())?;
        // SAFETY: `range` checked the source; the destination is a slice of ours that cannot
        // overlap a mapping that nobody else in this process has a reference into.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copies `from` to `offset`. `None`, and nothing copied, if it does not fit inside.
    pub fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let into = self.range(offset, from.len())?;
        // SAFETY: as in `read`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
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
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `mapped` are what `mmap` gave; no reference into it outlives `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

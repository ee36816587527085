//! The three parts of a split virtqueue in shared memory, as typed accessors (virtio 1.2, 2.7).
//!
//! # Theory of operation
//! Each part is found and checked once, when the ring starts; then it is a pointer. An index into a
//! part is always taken modulo the ring's size, so no index can lead outside. What a word means, and
//! whether to believe it, is for the ring to decide.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::piece::{Piece, Use, near};

/// Octets of a descriptor.
pub(crate) const DESC_LEN: usize = 16;
/// The descriptor has a successor.
pub(crate) const F_NEXT: u16 = 1;
/// The buffer is for the device to write.
pub(crate) const F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(crate) const F_INDIRECT: u16 = 4;
/// In the available ring: the driver wants no notification.
pub(crate) const AVAIL_NO_INTERRUPT: u16 = 1;
/// In the used ring: the device wants no notification.
pub(crate) const USED_NO_NOTIFY: u16 = 1;

/// Octets of the flags and the index before the entries of either ring.
const HEAD: usize = 4;
/// Octets of an entry of the used ring.
const USED_ENTRY: usize = 8;
/// Octets of an entry of the available ring.
const AVAIL_ENTRY: usize = 2;

/// One descriptor, as it was when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    /// Out of its two words.
    #[inline]
    fn new(address: u64, rest: u64) -> Self {
        Self { address, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }
}

/// A table of descriptors: the ring's own, or an indirect one.
#[derive(Clone, Copy)]
pub(crate) struct Table<'m>(pub(crate) Piece<'m>);

impl Table<'_> {
    /// Entries.
    #[inline]
    pub(crate) fn entries(self) -> u32 {
        u32::try_from(self.0.len() / DESC_LEN).unwrap_or(u32::MAX)
    }

    /// Reads a descriptor, each word once; `None` beyond the table.
    #[inline]
    pub(crate) fn get(self, index: u32) -> Option<Descriptor> {
        let (address, rest) = self.words(index)?;
        Some(Descriptor::new(address, rest))
    }

    /// The two words of a descriptor, each read once: what the second means depends on the layout.
    #[inline]
    pub(crate) fn words(self, index: u32) -> Option<(u64, u64)> {
        let offset = (index as usize).checked_mul(DESC_LEN)?;
        let address = self.0.word(offset)?;
        let rest = self.0.word(offset.checked_add(size_of::<u64>())?)?;
        Some((address, rest))
    }
}

/// A ring's own table of descriptors, reached by heads: indices below the ring's size.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    start: NonNull<u8>,
    mask: u16,
}

// SAFETY: the pointer leads into a mapping without thread affinity, reached by atomics only.
unsafe impl Send for Heads {}

impl Heads {
    /// # Safety
    /// `piece` must stay mapped as long as the result lives, be aligned to 16 and have
    /// [`DESC_LEN`] octets for each of `mask` + 1 descriptors (a power of two).
    pub(crate) unsafe fn new(piece: Piece<'_>, mask: u16) -> Self {
        Self { start: piece.start(), mask }
    }

    #[inline]
    fn at(&self, index: u16) -> NonNull<u8> {
        let offset = usize::from(index & self.mask).wrapping_mul(DESC_LEN);
        // SAFETY: the index is below the size, so the descriptor lies inside.
        unsafe { self.start.add(offset) }
    }

    /// Asks for the descriptor.
    #[inline]
    pub(crate) fn foresee(&self, index: u16) {
        near(self.at(index), 0, Use::Read);
    }

    /// Reads the descriptor `index`, modulo the ring's size, each word once.
    #[inline]
    pub(crate) fn get(&self, index: u16) -> Descriptor {
        let at = self.at(index).cast::<u64>();
        // SAFETY: both words lie inside the descriptor, which is aligned to 16.
        let (address, rest) = unsafe {
            let address = AtomicU64::from_ptr(at.as_ptr()).load(Ordering::Relaxed);
            let rest = AtomicU64::from_ptr(at.add(1).as_ptr()).load(Ordering::Relaxed);
            (u64::from_le(address), u64::from_le(rest))
        };
        Descriptor::new(address, rest)
    }
}

/// Octets of the available ring.
pub(crate) fn avail_len(size: u16, event_idx: bool) -> usize {
    let entries = usize::from(size).saturating_mul(AVAIL_ENTRY);
    HEAD.saturating_add(entries).saturating_add(if event_idx { 2 } else { 0 })
}

/// Octets of the used ring.
pub(crate) fn used_len(size: u16, event_idx: bool) -> usize {
    let entries = usize::from(size).saturating_mul(USED_ENTRY);
    HEAD.saturating_add(entries).saturating_add(if event_idx { 2 } else { 0 })
}

/// The 16-bit word at `offset` of a ring.
///
/// # Safety
/// The ring at `start` must be mapped for longer than `'a`, aligned to 2, and `offset` be even and
/// inside it.
#[inline]
unsafe fn word16<'a>(start: NonNull<u8>, offset: usize) -> &'a AtomicU16 {
    // SAFETY: promised by the caller.
    unsafe { AtomicU16::from_ptr(start.add(offset).cast::<u16>().as_ptr()) }
}

/// The available ring: the driver writes, the device reads.
#[derive(Clone, Copy)]
pub(crate) struct Avail {
    start: NonNull<u8>,
    mask: u16,
    event_idx: bool,
}

// SAFETY: the pointer leads into a mapping without thread affinity, reached by atomics only.
unsafe impl Send for Avail {}

impl Avail {
    /// # Safety
    /// `piece` must stay mapped as long as the result lives, be aligned to 2 and have
    /// [`avail_len`] octets for a ring of `mask` + 1 entries (a power of two) and `event_idx`.
    pub(crate) unsafe fn new(piece: Piece<'_>, mask: u16, event_idx: bool) -> Self {
        Self { start: piece.start(), mask, event_idx }
    }

    #[inline]
    pub(crate) fn flags(&self) -> u16 {
        // SAFETY: the first word; the constructor's caller promised the rest.
        u16::from_le(unsafe { word16(self.start, 0) }.load(Ordering::Relaxed))
    }

    /// The index; what the driver wrote before it can be read after this.
    #[inline]
    pub(crate) fn index(&self) -> u16 {
        // SAFETY: the second word; the constructor's caller promised the rest.
        u16::from_le(unsafe { word16(self.start, 2) }.load(Ordering::Acquire))
    }

    /// The entry at `position`, modulo the ring's size.
    #[inline]
    pub(crate) fn entry(&self, position: u16) -> u16 {
        let slot = usize::from(position & self.mask);
        let offset = slot.wrapping_mul(AVAIL_ENTRY).wrapping_add(HEAD);
        // SAFETY: `slot` < size, so the word lies inside.
        u16::from_le(unsafe { word16(self.start, offset) }.load(Ordering::Relaxed))
    }

    /// The used index at which the driver wants to be notified; `None` without event index.
    #[inline]
    pub(crate) fn used_event(&self) -> Option<u16> {
        if !self.event_idx {
            return None;
        }
        let offset = usize::from(self.mask).wrapping_add(1).wrapping_mul(AVAIL_ENTRY);
        // SAFETY: the word after the last entry, measured because `event_idx` is set.
        let word = unsafe { word16(self.start, offset.wrapping_add(HEAD)) };
        Some(u16::from_le(word.load(Ordering::Relaxed)))
    }
}

/// The used ring: the device writes, the driver reads.
pub(crate) struct Used {
    start: NonNull<u8>,
    mask: u16,
    event_idx: bool,
}

// SAFETY: the pointer leads into a mapping without thread affinity, reached by atomics only.
unsafe impl Send for Used {}

impl Used {
    /// # Safety
    /// `piece` must stay mapped as long as the result lives, be aligned to 4 and have [`used_len`]
    /// octets for a ring of `mask` + 1 entries (a power of two) and `event_idx`.
    pub(crate) unsafe fn new(piece: Piece<'_>, mask: u16, event_idx: bool) -> Self {
        Self { start: piece.start(), mask, event_idx }
    }

    #[inline]
    pub(crate) fn set_flags(&self, flags: u16) {
        // SAFETY: the first word; the constructor's caller promised the rest.
        unsafe { word16(self.start, 0) }.store(flags.to_le(), Ordering::Relaxed);
    }

    /// The index in memory: read once, when the ring starts.
    pub(crate) fn index(&self) -> u16 {
        // SAFETY: the second word; the constructor's caller promised the rest.
        u16::from_le(unsafe { word16(self.start, 2) }.load(Ordering::Acquire))
    }

    /// Publishes the index: the driver then sees all that was written before.
    #[inline]
    pub(crate) fn set_index(&self, index: u16) {
        // SAFETY: as in `index`.
        unsafe { word16(self.start, 2) }.store(index.to_le(), Ordering::Release);
    }

    /// Writes the entry at `position`, modulo the ring's size.
    #[inline]
    pub(crate) fn set_entry(&self, position: u16, head: u16, len: u32) {
        let slot = usize::from(position & self.mask);
        let offset = slot.wrapping_mul(USED_ENTRY).wrapping_add(HEAD);
        // SAFETY: `slot` < size, so both words lie inside; the ring is aligned to 4, and so is the
        // offset.
        unsafe {
            let at = self.start.add(offset).cast::<u32>();
            AtomicU32::from_ptr(at.as_ptr()).store(u32::from(head).to_le(), Ordering::Relaxed);
            AtomicU32::from_ptr(at.add(1).as_ptr()).store(len.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks for the entry at `position`, to be written.
    #[inline]
    pub(crate) fn foresee(&self, position: u16) {
        let slot = usize::from(position & self.mask);
        let offset = slot.wrapping_mul(USED_ENTRY).wrapping_add(HEAD);
        near(self.start, offset, Use::Write);
    }

    /// Says at which available index the device wants to be notified; false, and nothing said,
    /// without event index.
    #[inline]
    pub(crate) fn set_avail_event(&self, index: u16) -> bool {
        if !self.event_idx {
            return false;
        }
        let offset = usize::from(self.mask).wrapping_add(1).wrapping_mul(USED_ENTRY);
        // SAFETY: the word after the last entry, measured because `event_idx` is set.
        let word = unsafe { word16(self.start, offset.wrapping_add(HEAD)) };
        word.store(index.to_le(), Ordering::Relaxed);
        true
    }
}

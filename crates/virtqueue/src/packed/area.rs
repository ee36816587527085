//! The three parts of a packed virtqueue in shared memory, as typed accessors (virtio 1.2, 2.8).
//!
//! # Theory of operation
//! Each part is found and checked once, when the ring starts; then it is a pointer. The second half
//! of a descriptor, length, buffer id and flags, is one word of eight octets that is read and written
//! at once: so a used descriptor is there whole or not at all, whenever its writer dies. The address
//! before it is never written by a device.
//!
//! What a word means, and whether to believe it, is for the ring to decide.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::packed::position::Position;
use crate::piece::{LINE, Piece, Use, near};
use crate::split::{DESC_LEN, F_INDIRECT, F_NEXT, F_WRITE};

/// Descriptors that share a cache line.
const DESCS_OF_A_LINE: usize = LINE / DESC_LEN;
/// Octets of an event suppression structure.
pub(crate) const EVENT_LEN: usize = 4;
/// The lap in which the driver made the descriptor available.
pub(crate) const F_AVAIL: u16 = 1 << 7;
/// The lap in which the device used it.
pub(crate) const F_USED: u16 = 1 << 15;

/// An event suppression structure says: notify.
pub(crate) const EVENTS_ON: u16 = 0;
/// Do not notify.
pub(crate) const EVENTS_OFF: u16 = 1;
/// Notify when this place is passed (with event index only).
pub(crate) const EVENTS_AT: u16 = 2;

/// The second half of a descriptor, as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// Octets.
    pub(crate) len: u32,
    /// The driver's own name for the buffer.
    pub(crate) id: u16,
    pub(crate) flags: u16,
}

impl Rest {
    /// The flags that say in which lap it is available, and what kind of descriptor it is.
    pub(crate) const KIND: u16 = F_AVAIL | F_USED | F_NEXT | F_WRITE | F_INDIRECT;

    #[inline]
    pub(crate) fn from_word(word: u64) -> Self {
        Self { len: word as u32, id: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }

    #[inline]
    pub(crate) fn word(self) -> u64 {
        u64::from(self.len) | u64::from(self.id) << 32 | u64::from(self.flags) << 48
    }

    /// A used descriptor.
    #[inline]
    pub(crate) fn used(id: u16, len: u32, wrap: bool) -> Self {
        let lap = if wrap { F_AVAIL | F_USED } else { 0 };
        Self { len, id, flags: lap | if len == 0 { 0 } else { F_WRITE } }
    }

    /// Whether the driver has made it available in the lap with this wrap counter.
    #[inline]
    pub(crate) fn is_available(self, wrap: bool) -> bool {
        let expected = if wrap { F_AVAIL } else { F_USED };
        self.flags & (F_AVAIL | F_USED) == expected
    }

    /// Its flags if it is available in the lap with this wrap counter and is of this kind, for a
    /// comparison: [`Rest::KIND`] of them count.
    #[inline]
    pub(crate) fn expected(kind: u16, wrap: bool) -> u16 {
        kind | if wrap { F_AVAIL } else { F_USED }
    }

    /// Whether a device has used it in the lap with this wrap counter. Still so after the driver has
    /// made it available again in the next lap; no longer when it was used in that.
    #[inline]
    pub(crate) fn was_used(self, wrap: bool) -> bool {
        (self.flags & F_USED != 0) == wrap
    }
}

/// One descriptor in shared memory.
#[repr(C)]
pub(crate) struct Desc {
    address: AtomicU64,
    rest: AtomicU64,
}

impl Desc {
    /// The second half; what the driver wrote before it can be read after this.
    #[inline]
    pub(crate) fn rest(&self) -> Rest {
        Rest::from_word(u64::from_le(self.rest.load(Ordering::Acquire)))
    }

    /// The guest address: to be read after the second half.
    #[inline]
    pub(crate) fn address(&self) -> u64 {
        u64::from_le(self.address.load(Ordering::Relaxed))
    }
}

/// The ring of descriptors: both sides write.
pub(crate) struct Descs {
    start: NonNull<Desc>,
    size: u16,
}

// SAFETY: the pointer leads into a mapping without thread affinity, reached by atomics only.
unsafe impl Send for Descs {}

impl Descs {
    /// # Safety
    /// `piece` must stay mapped as long as the result lives, be aligned to 16 and have [`DESC_LEN`]
    /// octets for each of `size` descriptors, one at least.
    pub(crate) unsafe fn new(piece: Piece<'_>, size: u16) -> Self {
        const { assert!(size_of::<Desc>() == DESC_LEN) };
        Self { start: piece.start().cast(), size }
    }

    /// The descriptors of the ring.
    #[inline]
    fn all(&self) -> &[Desc] {
        // SAFETY: `size` descriptors lie there, aligned and mapped as long as `self` lives: the
        // constructor's caller promised it. They are made of atomics, so others may write them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size.into()) }
    }

    /// Those from `at` to the end of the ring.
    #[inline]
    pub(crate) fn from(&self, at: Position) -> &[Desc] {
        self.all().get(usize::from(at.offset())..).unwrap_or_default()
    }

    /// Asks for the lines of `n` descriptors from `at` on.
    #[inline]
    pub(crate) fn ask(&self, at: Position, n: u16, purpose: Use) {
        let here = n.min(self.size.saturating_sub(at.offset()));
        let line =
            |slot: u16| near(self.start.cast(), usize::from(slot).wrapping_mul(DESC_LEN), purpose);
        // Where they begin in the middle of a line, the last one is in another.
        let ahead = (0..here).step_by(DESCS_OF_A_LINE).chain(here.checked_sub(1));
        ahead.for_each(|ahead| line(at.offset().wrapping_add(ahead)));
        (0..n.wrapping_sub(here).min(self.size)).step_by(DESCS_OF_A_LINE).for_each(line);
    }

    #[inline]
    fn one(&self, at: Position) -> &Desc {
        // A place of a ring of another size never gets here; if it did, it would be another place.
        let offset = if at.offset() < self.size { usize::from(at.offset()) } else { 0 };
        // SAFETY: `offset` < size, which is at least one; otherwise as in `all`.
        unsafe { self.start.add(offset).as_ref() }
    }

    /// [`Desc::rest`] of one.
    #[inline]
    pub(crate) fn rest(&self, at: Position) -> Rest {
        self.one(at).rest()
    }

    /// [`Desc::address`] of one.
    #[inline]
    pub(crate) fn address(&self, at: Position) -> u64 {
        self.one(at).address()
    }

    /// Writes the second half, as its word: who sees it sees all that was written before.
    #[inline]
    pub(crate) fn publish(&self, at: Position, rest: u64) {
        self.one(at).rest.store(rest.to_le(), Ordering::Release);
    }
}

/// What one side says about the notifications it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// A place and its wrap counter, for [`EVENTS_AT`].
    pub(crate) place: u16,
    /// [`EVENTS_ON`], [`EVENTS_OFF`] or [`EVENTS_AT`].
    pub(crate) flags: u16,
}

impl Wish {
    /// Out of its word.
    #[inline]
    pub(crate) fn from_word(word: u32) -> Self {
        Self { place: word as u16, flags: (word >> 16) as u16 }
    }

    /// Its word.
    #[inline]
    pub(crate) fn word(self) -> u32 {
        u32::from(self.place) | u32::from(self.flags) << 16
    }

    /// Whether who wishes this is to be notified when the ring went from `before` to `now`.
    #[inline]
    pub(crate) fn is_met(
        self,
        before: Position,
        now: Position,
        event_idx: bool,
        size: u16,
    ) -> bool {
        if self.flags & (EVENTS_OFF | EVENTS_AT) != EVENTS_AT || !event_idx {
            return self.flags & EVENTS_OFF == 0;
        }
        // A place that the ring does not have is one that nobody passes: better to notify.
        Position::from_word(self.place, size)
            .is_none_or(|at| before.distance(at, size) < before.distance(now, size))
    }
}

/// An event suppression structure in shared memory: one side writes, the other reads.
pub(crate) struct Event {
    start: NonNull<u8>,
}

// SAFETY: the pointer leads into a mapping without thread affinity, reached by atomics only.
unsafe impl Send for Event {}

impl Event {
    /// # Safety
    /// `piece` must stay mapped as long as the result lives, be aligned to 4 and have [`EVENT_LEN`]
    /// octets.
    pub(crate) unsafe fn new(piece: Piece<'_>) -> Self {
        Self { start: piece.start() }
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: four octets, aligned, mapped as long as `self` lives: the constructor's caller
        // promised it.
        unsafe { AtomicU32::from_ptr(self.start.cast::<u32>().as_ptr()) }
    }

    /// What is wished.
    #[inline]
    pub(crate) fn load(&self) -> Wish {
        Wish::from_word(u32::from_le(self.word().load(Ordering::Relaxed)))
    }

    /// Says what is wished.
    #[inline]
    pub(crate) fn store(&self, wish: Wish) {
        self.word().store(wish.word().to_le(), Ordering::Relaxed);
    }
}

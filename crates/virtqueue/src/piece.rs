//! A piece of shared memory: checked once to lie inside a mapping, then copied from or into.
//!
//! # Theory of operation
//! A [`Piece`] is made only from a range that was checked, and can only become smaller. The bytes
//! behind it may change at any moment, so they are never borrowed, only copied; after a copy out of
//! shared memory a compiler fence keeps the compiler from going back to the source for a second
//! look.
//!
//! With the feature `atomic_copy` the copies are made of atomic accesses. They are slower, but
//! ThreadSanitizer then knows that writers at the same time are expected.
//!
//! # Cost
//! Most datagrams are short, so a short copy is a few moves in place, not a call. What the other side
//! wrote last lies in its core's cache, 100 cycles and more away: [`near`] asks for it while there is
//! other work to do. It is a hint: nothing is read, and nothing is believed.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

/// Octets of a cache line.
pub(crate) const LINE: usize = 64;

/// What a cache line is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// To be read.
    Read,
    /// To be written: the other side's copy of it is of no use.
    Write,
}

/// Whether this processor knows how to fetch a line for writing.
pub(crate) fn fetches_for_writing() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        const EXTENDED: u32 = 0x8000_0000;
        const FEATURES: u32 = EXTENDED | 1;
        const PREFETCHW: u32 = 1 << 8;
        __cpuid(EXTENDED).eax >= FEATURES && __cpuid(FEATURES).ecx & PREFETCHW != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Asks for the cache line `offset` octets after `start`, whatever lies there, if anything.
/// [`Use::Write`] only where [`fetches_for_writing`].
#[inline(always)]
pub(crate) fn near(start: NonNull<u8>, offset: usize, purpose: Use) {
    let at = start.as_ptr().wrapping_add(offset);
    #[cfg(target_arch = "x86_64")]
    match purpose {
        Use::Read => {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint; it reads nothing, and no address makes it fail.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>()) }
        }
        Use::Write => {
            // SAFETY: as above; it changes no octet, register or flag. The caller asked whether the
            // processor knows it.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) at,
                    options(nostack, preserves_flags, readonly));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, purpose);
}

/// `len` octets of shared memory at `start`, valid for `'m`.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'m> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> Piece<'m> {
    /// # Safety
    /// `start` must be the first of `len` octets of shared memory, mapped readable and writable for
    /// all of `'m`, and nobody in this process may hold a reference into them.
    #[inline]
    pub(crate) unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, memory: PhantomData }
    }

    /// Octets.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// The first octet.
    #[inline]
    pub(crate) fn start(self) -> NonNull<u8> {
        self.start
    }

    /// The piece without its first `n` octets; empty if it has not more.
    #[inline]
    pub(crate) fn skip(self, n: usize) -> Self {
        let n = n.min(self.len);
        // SAFETY: `n` <= `len`, so the result stays inside the piece or at its end.
        Self { start: unsafe { self.start.add(n) }, len: self.len.wrapping_sub(n), ..self }
    }

    /// Fills `into` from the beginning of the piece as far as both reach; how far.
    #[inline]
    pub(crate) fn copy_out(self, into: &mut [u8]) -> usize {
        let n = self.len.min(into.len());
        // SAFETY: the piece is valid for `n` <= `len` octets, `into` for `n` <= `into.len()`. They
        // do not overlap: nobody holds a reference into the shared memory.
        unsafe { copy::out(self.start.as_ptr(), into.as_mut_ptr(), n) };
        compiler_fence(Ordering::SeqCst);
        n
    }

    /// Writes `from` to the beginning of the piece as far as both reach; how far.
    #[inline]
    pub(crate) fn copy_in(self, from: &[u8]) -> usize {
        let n = self.len.min(from.len());
        // SAFETY: as in `copy_out`, the other way round.
        unsafe { copy::into(from.as_ptr(), self.start.as_ptr(), n) };
        n
    }

    /// Writes `from` to the beginning of the piece; the rest of it. `None`, and nothing written, if it
    /// is too short.
    #[inline]
    pub(crate) fn put<const N: usize>(self, from: &[u8; N]) -> Option<Self> {
        if self.len < N {
            return None;
        }
        // SAFETY: as in `copy_in`, for `N` <= `len` octets.
        unsafe { copy::array(from, self.start.as_ptr()) };
        Some(self.skip(N))
    }

    /// The 64-bit little-endian word at `offset`, read once; `None` if it is not inside.
    #[inline]
    pub(crate) fn word(self, offset: usize) -> Option<u64> {
        if offset.checked_add(size_of::<u64>())? > self.len {
            return None;
        }
        // SAFETY: `offset` + 8 <= `len`.
        let at = unsafe { self.start.add(offset) }.cast::<u64>();
        if at.is_aligned() {
            // SAFETY: inside the piece and aligned; others reach it by atomics or from outside.
            let word = unsafe { AtomicU64::from_ptr(at.as_ptr()) };
            return Some(u64::from_le(word.load(Ordering::Relaxed)));
        }
        let mut octets = [0; size_of::<u64>()];
        self.skip(offset).copy_out(&mut octets);
        Some(u64::from_le_bytes(octets))
    }
}

#[cfg(not(feature = "atomic_copy"))]
mod copy {
    //! Plain copies. A concurrent writer can make the result a mixture, and nothing else: each
    //! octet is moved and not looked at, and no decision is taken before the fence.

    /// Octets moved at once.
    const BLOCK: usize = 16;
    /// Octets of four blocks.
    const FOUR: usize = 4 * BLOCK;
    /// Octets up to which a copy is made in place. Beyond, `memcpy` has better ways.
    const SHORT: usize = 4 * FOUR;

    /// # Safety
    /// Both pointers must be valid for [`BLOCK`] octets at `at`, and the ranges must not overlap.
    #[inline(always)]
    unsafe fn block(from: *const u8, into: *mut u8, at: usize) {
        // SAFETY: promised by the caller; arrays of octets need no alignment.
        unsafe {
            let octets = from.add(at).cast::<[u8; BLOCK]>().read();
            into.add(at).cast::<[u8; BLOCK]>().write(octets);
        }
    }

    /// # Safety
    /// As `block`, for [`FOUR`] octets.
    #[inline(always)]
    unsafe fn four(from: *const u8, into: *mut u8, at: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            block(from, into, at);
            block(from, into, at.wrapping_add(BLOCK));
            block(from, into, at.wrapping_add(2 * BLOCK));
            block(from, into, at.wrapping_add(3 * BLOCK));
        }
    }

    /// From both ends to the middle, where the last blocks may repeat some of the first: no loop, for
    /// the compiler would make a call of it.
    ///
    /// # Safety
    /// Both pointers must be valid for `n` octets, and the ranges must not overlap.
    #[inline]
    pub(super) unsafe fn out(from: *const u8, into: *mut u8, n: usize) {
        if (FOUR..=SHORT).contains(&n) {
            // SAFETY: each four blocks lie within `n` octets, by the condition before them.
            unsafe {
                four(from, into, 0);
                if n > 2 * FOUR {
                    four(from, into, FOUR);
                    if n > 3 * FOUR {
                        four(from, into, 2 * FOUR);
                    }
                }
                four(from, into, n.wrapping_sub(FOUR));
            }
        } else if (BLOCK..FOUR).contains(&n) {
            // SAFETY: likewise.
            unsafe {
                block(from, into, 0);
                if n > 2 * BLOCK {
                    block(from, into, BLOCK);
                    block(from, into, n.wrapping_sub(2 * BLOCK));
                }
                block(from, into, n.wrapping_sub(BLOCK));
            }
        } else {
            // SAFETY: promised by the caller.
            unsafe { std::ptr::copy_nonoverlapping(from, into, n) }
        }
    }

    /// # Safety
    /// `into` must be valid for `N` octets, and `from` not lie in them.
    #[inline(always)]
    pub(super) unsafe fn array<const N: usize>(from: &[u8; N], into: *mut u8) {
        // SAFETY: promised by the caller; arrays of octets need no alignment.
        unsafe { into.cast::<[u8; N]>().write(*from) }
    }

    /// # Safety
    /// As `out`.
    #[inline]
    pub(super) unsafe fn into(from: *const u8, into: *mut u8, n: usize) {
        // SAFETY: promised by the caller.
        unsafe { out(from, into, n) }
    }
}

#[cfg(feature = "atomic_copy")]
mod copy {
    //! Copies made of relaxed atomic octets on the shared side.

    use std::sync::atomic::{AtomicU8, Ordering};

    /// # Safety
    /// Both pointers must be valid for `n` octets, and the ranges must not overlap.
    pub(super) unsafe fn out(from: *const u8, into: *mut u8, n: usize) {
        for i in 0..n {
            // SAFETY: `i` < `n`, and the caller promises `n` octets on both sides.
            unsafe {
                *into.add(i) = AtomicU8::from_ptr(from.add(i).cast_mut()).load(Ordering::Relaxed);
            }
        }
    }

    /// # Safety
    /// `into` must be valid for `N` octets, and `from` not lie in them.
    pub(super) unsafe fn array<const N: usize>(from: &[u8; N], at: *mut u8) {
        // SAFETY: promised by the caller.
        unsafe { into(from.as_ptr(), at, N) }
    }

    /// # Safety
    /// As `out`.
    pub(super) unsafe fn into(from: *const u8, into: *mut u8, n: usize) {
        for i in 0..n {
            // SAFETY: `i` < `n`, and the caller promises `n` octets on both sides.
            unsafe { AtomicU8::from_ptr(into.add(i)).store(*from.add(i), Ordering::Relaxed) }
        }
    }
}

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

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

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
    //! Plain copies. A concurrent writer can make the result a mixture, and nothing else: both
    //! calls become `memcpy`, and no decision is taken before the fence.

    /// # Safety
    /// Both pointers must be valid for `n` octets, and the ranges must not overlap.
    #[inline]
    pub(super) unsafe fn out(from: *const u8, into: *mut u8, n: usize) {
        // SAFETY: promised by the caller.
        unsafe { std::ptr::copy_nonoverlapping(from, into, n) }
    }

    /// # Safety
    /// As `out`.
    #[inline]
    pub(super) unsafe fn into(from: *const u8, into: *mut u8, n: usize) {
        // SAFETY: promised by the caller.
        unsafe { std::ptr::copy_nonoverlapping(from, into, n) }
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
    /// As `out`.
    pub(super) unsafe fn into(from: *const u8, into: *mut u8, n: usize) {
        for i in 0..n {
            // SAFETY: `i` < `n`, and the caller promises `n` octets on both sides.
            unsafe { AtomicU8::from_ptr(into.add(i)).store(*from.add(i), Ordering::Relaxed) }
        }
    }
}

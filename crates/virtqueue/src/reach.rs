//! From a guest address to the memory behind it, with the last answer remembered.
//!
//! # Theory of operation
//! Buffers of one guest mostly lie in one region. The window of the last answer is tried first: one
//! subtraction and two comparisons. Else the regions are searched.
//!
//! Memory can be taken away by its owner at any moment; it reads as zeroes from then on
//! ([`sigbus`]). [`Reach::whole`] tells.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::fault::RingFault;
use crate::memory::{GuestAddress, GuestMemory};
use crate::piece::{LINE, Piece, Use, near};
use crate::sigbus;

/// A guest's memory, as a queue reaches it.
pub(crate) struct Reach {
    memory: Arc<GuestMemory>,
    /// The region that held the last address found. At first one that holds nothing.
    last: Cell<Window>,
    /// Value of [`sigbus::tears`] at the last look at the regions.
    tears: Cell<u32>,
}

/// One region: guest addresses and where they are mapped.
#[derive(Clone, Copy)]
struct Window {
    guest: u64,
    len: u64,
    start: NonNull<u8>,
}

// SAFETY: the pointer in `last` leads into a mapping that `memory` keeps alive, without thread
// affinity, and is reached by atomics and raw copies only.
unsafe impl Send for Reach {}

impl Reach {
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        let nothing = Window { guest: u64::MAX, len: 0, start: NonNull::dangling() };
        Self { memory, last: Cell::new(nothing), tears: Cell::new(0) }
    }

    /// Refuses if memory was taken away. Costs one load as long as no mapping of the whole process
    /// was ever torn.
    #[inline]
    pub(crate) fn whole(&self) -> Result<(), RingFault> {
        let tears = sigbus::tears();
        if tears == self.tears.get() {
            return Ok(());
        }
        if let Some(fault) = self.torn() {
            return Err(fault);
        }
        self.tears.set(tears);
        Ok(())
    }

    #[cold]
    fn torn(&self) -> Option<RingFault> {
        let region = self.memory.torn()?;
        Some(RingFault::MemoryTorn { guest: region.guest.0 })
    }

    /// The fault to report for `fault`: torn memory reads as zeroes, so it explains all others.
    #[cold]
    pub(crate) fn blame(&self, fault: RingFault) -> RingFault {
        self.torn().unwrap_or(fault)
    }

    /// The `len` octets at guest address `address`; `None` unless they lie in one region.
    #[inline]
    pub(crate) fn find(&self, address: u64, len: u32) -> Option<Piece<'_>> {
        match self.inside(self.last.get(), address, len) {
            Some(piece) => Some(piece),
            None => self.search(address, len),
        }
    }

    /// To find many buffers in a row.
    #[inline]
    pub(crate) fn finder(&self) -> Finder<'_> {
        Finder { reach: self, window: self.last.get() }
    }

    #[inline]
    fn inside(&self, window: Window, address: u64, len: u32) -> Option<Piece<'_>> {
        // An address before the window wraps to one far behind it: no region reaches so far.
        let offset = address.wrapping_sub(window.guest);
        if offset >= window.len || u64::from(len) > window.len.wrapping_sub(offset) {
            return None;
        }
        // SAFETY: `offset` + `len` <= `window.len`, which is at most what the region's mapping has
        // (checked by `GuestMemory::new`). `memory` keeps the mapping alive as long as `self`, and
        // mappings hand out no references but to atomics.
        Some(unsafe { Piece::new(window.start.add(offset as usize), len as usize) })
    }

    #[cold]
    fn search(&self, address: u64, len: u32) -> Option<Piece<'_>> {
        let region = self.memory.region_of(GuestAddress(address))?;
        let octets = usize::try_from(region.len).ok()?;
        let start = region.mapping.piece(0, octets)?.start();
        let window = Window { guest: region.guest.0, len: region.len, start };
        let piece = self.inside(window, address, len)?;
        self.last.set(window);
        Some(piece)
    }
}

/// Finds buffers one after the other: the window stays in registers.
pub(crate) struct Finder<'m> {
    reach: &'m Reach,
    window: Window,
}

impl<'m> Finder<'m> {
    /// As [`Reach::find`].
    #[inline]
    pub(crate) fn find(&mut self, address: u64, len: u32) -> Option<Piece<'m>> {
        match self.reach.inside(self.window, address, len) {
            Some(piece) => Some(piece),
            None => self.search(address, len),
        }
    }

    #[cold]
    fn search(&mut self, address: u64, len: u32) -> Option<Piece<'m>> {
        let found = self.reach.search(address, len);
        self.window = self.reach.last.get();
        found
    }

    /// Asks for the first lines of a short frame at `address`, if that lies where the last one did.
    #[inline]
    pub(crate) fn foresee(&self, address: u64, purpose: Use) {
        let offset = address.wrapping_sub(self.window.guest);
        if offset < self.window.len {
            near(self.window.start, offset as usize, purpose);
            near(self.window.start, (offset as usize).wrapping_add(LINE), purpose);
        }
    }
}

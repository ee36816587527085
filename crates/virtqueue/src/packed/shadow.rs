//! What a packed ring is going to write, noted while buffers are taken: nothing of it is in the ring yet.
//!
//! # Theory of operation
//! One word for each buffer: its used descriptor's second half without the lap, which the place tells.
//! Two bits that no used descriptor has say what else there is to know:
//!
//! ```text
//! NEXT      the frame ends here
//! INDIRECT  a chain of another length than one: that stands beside
//! ```
//! So a frame in one descriptor, as nearly all are, costs one store here.

use std::cell::Cell;

use crate::packed::Rest;
use crate::split::{F_INDIRECT, F_NEXT};

/// The next buffer belongs to another frame.
const ENDS_FRAME: u64 = (F_NEXT as u64) << 48;
/// It is a chain of more than one descriptor.
const CHAIN: u64 = (F_INDIRECT as u64) << 48;

/// One buffer that goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    word: u64,
    /// Descriptors of its chain.
    pub(crate) slots: u16,
}

impl Entry {
    /// The used descriptor's second half in a lap.
    #[inline]
    pub(crate) fn used(self, wrap: bool) -> u64 {
        self.word & !(ENDS_FRAME | CHAIN) | Rest::used(0, 0, wrap).word()
    }
}

/// All that was taken and is not published.
pub(crate) struct Shadow {
    words: Box<[Cell<u64>]>,
    /// Descriptors of a chain, where the word says that it is one.
    slots: Box<[Cell<u16>]>,
}

impl Shadow {
    /// Room for as many buffers as the ring has descriptors.
    pub(crate) fn new(size: u16) -> Self {
        let (words, slots) = (vec![Cell::new(0); size.into()], vec![Cell::new(1); size.into()]);
        Self { words: words.into(), slots: slots.into() }
    }

    /// The `n`th buffer is a frame by itself, in one descriptor.
    #[inline]
    pub(crate) fn single(&self, n: u16, id: u16, len: u32) {
        if let Some(word) = self.words.get(usize::from(n)) {
            word.set(Rest::used(id, len, false).word() | ENDS_FRAME);
        }
    }

    /// The `n`th buffer is part of a frame that goes on, as far as it is known.
    #[inline]
    pub(crate) fn part(&self, n: u16, id: u16, len: u32, slots: u16) {
        let n = usize::from(n);
        if let Some((word, beside)) = self.words.get(n).zip(self.slots.get(n)) {
            word.set(Rest::used(id, len, false).word() | if slots == 1 { 0 } else { CHAIN });
            beside.set(slots);
        }
    }

    /// A frame ends before the `n`th buffer.
    #[inline]
    pub(crate) fn end_frame(&self, n: u16) {
        let last = usize::from(n).checked_sub(1);
        if let Some(word) = last.and_then(|last| self.words.get(last)) {
            word.set(word.get() | ENDS_FRAME);
        }
    }

    /// The first `n` buffers.
    #[inline]
    pub(crate) fn batch(&self, n: u16) -> Batch<'_> {
        let n = usize::from(n);
        let words = self.words.get(..n).unwrap_or_default();
        Batch { words, slots: self.slots.get(..n).unwrap_or_default() }
    }
}

/// Buffers that go back, one behind the other.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    words: &'a [Cell<u64>],
    slots: &'a [Cell<u16>],
}

impl Batch<'_> {
    /// How many.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.words.len()
    }

    /// How many of the first are frames by themselves, in one descriptor.
    #[inline]
    pub(crate) fn singles(self) -> usize {
        let single = |word: &&Cell<u64>| word.get() & (ENDS_FRAME | CHAIN) == ENDS_FRAME;
        self.words.iter().take_while(single).count()
    }

    /// How many of the first are one frame.
    #[inline]
    pub(crate) fn frame(self) -> usize {
        let last = self.words.iter().position(|word| word.get() & ENDS_FRAME != 0);
        last.map_or(self.len(), |last| last.saturating_add(1))
    }

    /// The first `n`, and the others.
    #[inline]
    pub(crate) fn split(self, n: usize) -> (Self, Self) {
        let (words, later_words) = self.words.split_at_checked(n).unwrap_or((self.words, &[]));
        let (slots, later_slots) = self.slots.split_at_checked(n).unwrap_or((self.slots, &[]));
        (Self { words, slots }, Self { words: later_words, slots: later_slots })
    }

    /// Each of them.
    #[inline]
    pub(crate) fn entries(self) -> impl DoubleEndedIterator<Item = Entry> {
        self.words.iter().zip(self.slots).map(|(word, slots)| {
            let word = word.get();
            Entry { word, slots: if word & CHAIN == 0 { 1 } else { slots.get() } }
        })
    }
}

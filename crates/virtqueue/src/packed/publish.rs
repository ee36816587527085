//! The stores by which a packed ring gives buffers back, in their order.
//!
//! Why in this order, says [`super`]. Here it is computed; the ring hands in what is done with each.

use std::cell::Cell;

use crate::packed::{Flow, Intent, Position, Rest};

/// One buffer that goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The used descriptor's second half.
    used: u64,
    /// Descriptors of its chain.
    slots: u16,
    /// The next buffer belongs to another frame.
    pub(crate) ends_frame: bool,
}

impl Entry {
    /// A buffer of a frame that goes on in the next one, as far as it is known.
    #[inline]
    pub(crate) fn part(used: Rest, slots: u16) -> Self {
        Self { used: used.word(), slots, ends_frame: false }
    }

    /// A frame in one descriptor.
    #[inline]
    pub(crate) fn single(used: Rest) -> Self {
        Self { used: used.word(), slots: 1, ends_frame: true }
    }

    #[inline]
    fn is_single(self) -> bool {
        self.ends_frame && self.slots == 1
    }
}

/// One store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Into the journal.
    Intent(Intent),
    /// Into the ring: a second half.
    Used(Position, u64),
}

/// Gives each store of a publication to `write`, and where the ring stands after it: the place, and
/// the index of the buffer there. `from` is where it stands before.
#[inline]
pub(crate) fn publication(
    entries: &[Cell<Entry>],
    from: (Position, u16),
    flow: Flow,
    size: u16,
    mut write: impl FnMut(Write),
) -> (Position, u16) {
    let (mut at, mut first) = from;
    let mut left = entries;
    while !left.is_empty() {
        let singles = match flow {
            Flow::Out => 0,
            Flow::In => left.iter().take_while(|entry| entry.get().is_single()).count(),
        };
        let together = match (flow, singles) {
            (Flow::Out, _) => left.len(),
            (Flow::In, 0) => {
                let last = left.iter().position(|entry| entry.get().ends_frame);
                last.map_or(left.len(), |last| last.saturating_add(1))
            }
            (Flow::In, singles) => singles,
        };
        let Some((now, later)) = left.split_at_checked(together) else { break };
        let slots = now.iter().fold(0u16, |sum, entry| sum.wrapping_add(entry.get().slots));
        let to = at.plus(slots, size);
        // As many buffers as the ring has descriptors, at most.
        let buffers = u16::try_from(together).unwrap_or(u16::MAX);
        write(Write::Intent(Intent { from: at.word(), to: to.word(), first, buffers }));
        match singles {
            0 => backwards(now, to, size, &mut write),
            _ => forwards(now, at, size, &mut write),
        }
        (at, first) = (to, first.wrapping_add(buffers));
        left = later;
    }
    (at, first)
}

/// The used descriptors of buffers that end at `to`, the last one first.
#[inline]
pub(crate) fn backwards(
    entries: &[Cell<Entry>],
    to: Position,
    size: u16,
    write: &mut impl FnMut(Write),
) {
    let mut at = to;
    for entry in entries.iter().rev() {
        at = at.minus(entry.get().slots, size);
        write(Write::Used(at, entry.get().used));
    }
}

/// The used descriptors of buffers of one descriptor each from `at` on, the first one first.
#[inline]
fn forwards(entries: &[Cell<Entry>], mut at: Position, size: u16, write: &mut impl FnMut(Write)) {
    for entry in entries {
        write(Write::Used(at, entry.get().used));
        at = at.plus(1, size);
    }
}

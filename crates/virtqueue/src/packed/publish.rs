//! The stores by which a packed ring gives buffers back, in their order.
//!
//! Why in this order, says [`super`]. Here it is computed; the ring hands in what is done with each.

use std::cell::Cell;

use crate::packed::{Flow, Intent, Position, Rest};

/// One buffer that goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The driver's name for it.
    pub(crate) id: u16,
    /// Descriptors of its chain.
    pub(crate) slots: u16,
    /// Octets written into it.
    pub(crate) len: u32,
    /// The next buffer belongs to another frame.
    pub(crate) ends_frame: bool,
}

/// One store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Into the journal.
    Intent(Intent),
    /// Into the ring.
    Used(Position, Rest),
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
    while let Some((one, others)) = left.split_first() {
        if flow == Flow::In && one.get().ends_frame {
            // The common case, at the price of one descriptor.
            let Entry { id, slots, len, .. } = one.get();
            let to = at.plus(slots, size);
            write(Write::Intent(Intent { from: at.word(), to: to.word(), first, buffers: 1 }));
            write(Write::Used(at, Rest::used(id, len, at.wrap())));
            (at, first) = (to, first.wrapping_add(1));
            left = others;
            continue;
        }
        let together = match flow {
            Flow::Out => left.len(),
            Flow::In => {
                let last = left.iter().position(|entry| entry.get().ends_frame);
                last.map_or(left.len(), |last| last.saturating_add(1))
            }
        };
        let Some((now, later)) = left.split_at_checked(together) else { break };
        let slots = now.iter().fold(0u16, |sum, e| sum.saturating_add(e.get().slots));
        let to = at.plus(slots, size);
        // As many buffers as the ring has descriptors, at most.
        let buffers = u16::try_from(together).unwrap_or(u16::MAX);
        write(Write::Intent(Intent { from: at.word(), to: to.word(), first, buffers }));
        backwards(now, to, size, &mut write);
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
        let Entry { id, slots, len, .. } = entry.get();
        at = at.minus(slots, size);
        write(Write::Used(at, Rest::used(id, len, at.wrap())));
    }
}

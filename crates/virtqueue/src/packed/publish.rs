//! The stores by which a packed ring gives buffers back, in their order.
//!
//! Why in this order, says [`super`]. Here it is computed; the ring hands in what is done with each.

use crate::packed::shadow::Batch;
use crate::packed::{Flow, Intent, Position};

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
    batch: Batch<'_>,
    from: (Position, u16),
    flow: Flow,
    size: u16,
    mut write: impl FnMut(Write),
) -> (Position, u16) {
    let (mut at, mut first) = from;
    let mut left = batch;
    while left.len() > 0 {
        let singles = if flow == Flow::In { left.singles() } else { 0 };
        let together = match (flow, singles) {
            (Flow::Out, _) => left.len(),
            (Flow::In, 0) => left.frame(),
            (Flow::In, singles) => singles,
        };
        let (now, later) = left.split(together);
        // As many buffers as the ring has descriptors, at most.
        let buffers = u16::try_from(now.len()).unwrap_or(u16::MAX);
        let slots = match singles {
            0 => now.entries().fold(0u16, |sum, entry| sum.wrapping_add(entry.slots)),
            _ => buffers,
        };
        let to = at.plus(slots, size);
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
pub(crate) fn backwards(batch: Batch<'_>, to: Position, size: u16, write: &mut impl FnMut(Write)) {
    let mut at = to;
    for entry in batch.entries().rev() {
        at = at.minus(entry.slots, size);
        write(Write::Used(at, entry.used(at.wrap())));
    }
}

/// The used descriptors of buffers of one descriptor each from `at` on, the first one first.
#[inline]
fn forwards(batch: Batch<'_>, mut at: Position, size: u16, write: &mut impl FnMut(Write)) {
    for entry in batch.entries() {
        write(Write::Used(at, entry.used(at.wrap())));
        at = at.plus(1, size);
    }
}

//! What a packed ring finds out about buffers ahead of their use.
//!
//! # Theory of operation
//! ```text
//! next                                            what is found, and where: descriptors before it
//!  | b0 | b1 | b2 ......| b3 | b4 | not there     b0 0, b1 1, (b2: a chain, passed over), b3 5, b4 6
//! ```
//! Descriptors are read once, from the next one on. A buffer in one descriptor is noted together with its
//! place, so that taking it reads nothing again. A chain is passed over, and followed when it is taken.
//! By then its driver may have made another of it, longer or shorter, and what was found behind it is
//! no longer where the ring stands: then it is not used.

use crate::packed::{Descs, PackedRing, Place, Position};
use crate::piece::Use;
use crate::split::{F_INDIRECT, F_NEXT, F_WRITE};
use crate::walk::{AHEAD, Found};

/// Descriptors that a look ahead passes over at most, however long the chains are.
const LOOK_AHEAD: u16 = 4 * AHEAD as u16;

impl PackedRing {
    /// Finds the next `n` buffers, as [`Walk::foresee_buffers`](crate::walk::Walk::foresee_buffers)
    /// says.
    #[inline]
    pub(super) fn look_ahead(&mut self, n: u16, flags: u16, purpose: Use) {
        (self.ahead_from, self.ahead_len) = (self.next.buffers, 0);
        let Place { mut at, mut slots, .. } = self.next;
        let limit = slots.saturating_add(LOOK_AHEAD).min(self.size);
        let mut finder = self.reach.finder();
        for slot in self.ahead.iter_mut().take(n.into()) {
            let rest = self.descs.rest(at);
            if slots >= limit || !rest.is_available(at.wrap()) {
                return;
            }
            let kind = rest.flags & (F_NEXT | F_WRITE | F_INDIRECT);
            let piece = match kind == flags {
                true => finder.find(self.descs.address(at), rest.len),
                false => None,
            };
            *slot = match piece {
                Some(piece) => Found::new(piece, rest.len, rest.id, purpose).behind(slots),
                None => Found::NOTHING,
            };
            (at, slots) = (at.plus(1, self.size), slots.wrapping_add(1));
            if kind & F_NEXT != 0 {
                let Some(end) = end_of_chain(&self.descs, (at, slots), limit, self.size) else {
                    return;
                };
                (at, slots) = end;
            }
            self.ahead_len = self.ahead_len.wrapping_add(1);
        }
    }

    /// What was found of the next buffers, if they are still there.
    #[inline]
    pub(super) fn known(&self) -> &[Found] {
        let number = self.next.buffers.wrapping_sub(self.ahead_from);
        let found = self.ahead.get(number.into()..self.ahead_len.into()).unwrap_or_default();
        match found.first() {
            Some(one) if one.is_behind(self.next.slots) => found,
            _ => &[],
        }
    }
}

/// The place behind a chain of which a descriptor was passed that leads on, and the descriptors before
/// it; `None` if it does not end before `limit`.
#[cold]
fn end_of_chain(
    descs: &Descs,
    (mut at, mut slots): (Position, u16),
    limit: u16,
    size: u16,
) -> Option<(Position, u16)> {
    while slots < limit {
        let rest = descs.rest(at);
        if !rest.is_available(at.wrap()) {
            return None;
        }
        (at, slots) = (at.plus(1, size), slots.wrapping_add(1));
        if rest.flags & F_NEXT == 0 {
            return Some((at, slots));
        }
    }
    None
}

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
//!
//! The other side wrote the descriptors last, four to a cache line, so their lines are asked for before.
//! Where there may be none, they are not: their driver is about to write there.

use crate::packed::{Descs, PackedRing, Position, Rest};
use crate::piece::Use;
use crate::split::F_NEXT;
use crate::walk::{AHEAD, Found};

/// Descriptors that a look ahead passes over at most, however long the chains are.
const LOOK_AHEAD: u16 = 4 * AHEAD as u16;

impl PackedRing {
    /// Finds the next `n` buffers, as [`Walk::foresee_buffers`](crate::walk::Walk::foresee_buffers)
    /// says.
    #[inline]
    pub(super) fn look_ahead(&mut self, n: u16, flags: u16, purpose: Use) {
        (self.ahead_from, self.ahead_len) = (self.next.buffers, 0);
        let (mut at, mut slots) = (self.at(self.next), self.next.slots);
        let limit = slots.saturating_add(LOOK_AHEAD).min(self.size);
        let (mut finder, mut ahead) = (self.reach.finder(), self.ahead.iter_mut().take(n.into()));
        loop {
            // Common ones, up to the end of the ring.
            let expected = Rest::expected(flags, at.wrap());
            let room = limit.saturating_sub(slots).into();
            let (mut other, mut found) = (None, 0u16);
            for (desc, slot) in self.descs.from(at).iter().take(room).zip(&mut ahead) {
                let rest = desc.rest();
                if rest.flags & Rest::KIND != expected {
                    other = Some((rest, slot));
                    break;
                }
                *slot = match finder.find(desc.address(), rest.len) {
                    Some(piece) => {
                        let behind = slots.wrapping_add(found);
                        Found::new(piece, rest.len, rest.id, purpose).behind(behind)
                    }
                    None => Found::NOTHING,
                };
                found = found.wrapping_add(1);
            }
            (at, slots) = (at.plus(found, self.size), slots.wrapping_add(found));
            self.ahead_len = self.ahead_len.wrapping_add(found);
            let Some((rest, slot)) = other else {
                if found == 0 {
                    return;
                }
                continue;
            };
            // One that is not there, or is of another kind: its chain is passed over.
            *slot = Found::NOTHING;
            if !rest.is_available(at.wrap()) {
                return;
            }
            (at, slots) = (at.plus(1, self.size), slots.wrapping_add(1));
            if rest.flags & F_NEXT != 0 {
                match end_of_chain(&self.descs, (at, slots), limit, self.size) {
                    Some(end) => (at, slots) = end,
                    None => return,
                }
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

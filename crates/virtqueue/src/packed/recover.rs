//! How a successor finds where a packed ring stands: the table of [`super`], in code.

use crate::fault::{LayoutDefect, LayoutPart, RingFault};
use crate::packed::publish::backwards;
use crate::packed::{Flow, Head, Intent, PackedRing, Place, Position, Write};
use crate::walk::{Budget, Walk};

impl PackedRing {
    /// Sets the ring to where its predecessor left it, after completing what that had begun.
    pub(super) fn recover(&mut self) -> Result<(), RingFault> {
        let intent = self.journal.last().unwrap_or(Intent::fresh());
        let from = self.place(intent.from)?;
        let to = self.place(intent.to)?;
        self.stand_at(from, intent.first);
        let slots = from.distance(to, self.size);
        if slots == 0 {
            return Ok(());
        }
        if slots > self.size.into() {
            return Err(RingFault::Publication { from: intent.from, to: intent.to });
        }
        let singles = self.flow == Flow::In && slots == u32::from(intent.buffers);
        match self.used_from(from, if singles { intent.buffers } else { 1 }) {
            0 if !self.complete(to, slots)? => return Ok(()),
            used if singles && (1..intent.buffers).contains(&used) => {
                self.stand_at(from.plus(used, self.size), intent.first.wrapping_add(used));
                // The next publication begins where the last one that was noted ends.
                let stands = Intent::resting(self.published.word(), self.first);
                self.store(Write::Intent(stands));
            }
            _ => self.stand_at(to, intent.first.wrapping_add(intent.buffers)),
        }
        Ok(())
    }

    /// How many of the next `most` descriptors were used in their lap, one behind the other.
    fn used_from(&self, from: Position, most: u16) -> u16 {
        let was_used = |n: &u16| {
            let at = from.plus(*n, self.size);
            self.descs.rest(at).was_used(at.wrap())
        };
        (0..most).find(|n| !was_used(n)).unwrap_or(most)
    }

    /// A place out of the journal.
    fn place(&self, word: u16) -> Result<Position, RingFault> {
        Position::from_word(word, self.size).ok_or(RingFault::Layout {
            part: LayoutPart::Base,
            value: word.into(),
            defect: LayoutDefect::Beyond,
        })
    }

    fn stand_at(&mut self, at: Position, first: u16) {
        (self.published, self.first) = (at, first);
        self.next = Place::FIRST;
    }

    /// Publishes the buffers before the first one that is used already, all of them before `to`,
    /// which is `slots` descriptors ahead. False, and nothing done, if none is.
    fn complete(&self, to: Position, slots: u32) -> Result<bool, RingFault> {
        let mut place = self.next;
        loop {
            let walked = u32::from(place.slots);
            if walked == slots {
                return Ok(false);
            }
            if walked > slots {
                let (from, to) = (self.published.word(), to.word());
                return Err(RingFault::Publication { from, to });
            }
            let at = self.at(place);
            if walked > 0 && self.descs.rest(at).was_used(at.wrap()) {
                break;
            }
            let mut head = Head { place, slots: 0, id: 0 };
            let len = match self.flow {
                Flow::Out => self.walk(&mut head, |_, _| Ok(())).map(|()| 0)?,
                Flow::In => self.room(&mut head)?,
            };
            place = self.give_back(place, head, len);
        }
        let rest = self.shadow.batch(place.buffers);
        backwards(rest, self.at(place), self.size, &mut |write| self.store(write));
        Ok(true)
    }

    /// Octets of a buffer that was filled.
    fn room(&self, head: &mut Head) -> Result<u32, RingFault> {
        let mut room = 0usize;
        self.follow(head, true, &mut Budget::of_a_frame(), |piece| {
            room = room.saturating_add(piece.len());
            true
        })?;
        Ok(u32::try_from(room).unwrap_or(u32::MAX))
    }
}

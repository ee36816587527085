//! Places in a packed ring: an offset and the lap it belongs to.
//!
//! # Theory of operation
//! A packed ring may have any size, so an offset alone does not say which of two laps is meant. The
//! *wrap counter*, one bit that turns over at each end of the ring, does. Two laps in a row are all
//! that can be told apart, and all that ever lie between two places that are compared:
//!
//! ```text
//! line:   0 ........ size-1 | size ........ 2*size-1 | 0 ...
//! place:  wrap 1, 0 ..      | wrap 0, 0 ..           | wrap 1, 0 ...
//! ```
//! All sums are taken on that line, modulo twice the size.

/// The bit of a word that holds the wrap counter; the others are the offset.
const WRAP: u16 = 0x8000;

/// A place in a packed ring. The offset is below the ring's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    offset: u16,
    wrap: bool,
}

impl Position {
    /// Where a ring begins that was just set up: both sides' wrap counters are 1.
    pub(crate) const START: Self = Self { offset: 0, wrap: true };

    /// Out of a word as virtio has it; `None` if no ring of this size has that place.
    pub(crate) fn from_word(word: u16, size: u16) -> Option<Self> {
        let offset = word & !WRAP;
        (offset < size).then_some(Self { offset, wrap: word & WRAP != 0 })
    }

    /// As virtio has it: the offset, and the wrap counter in bit 15.
    #[inline]
    pub(crate) fn word(self) -> u16 {
        if self.wrap { self.offset | WRAP } else { self.offset }
    }

    /// The word of the same offset in the lap with this wrap counter.
    pub(crate) fn word_in_lap(self, wrap: bool) -> u16 {
        Self { wrap, ..self }.word()
    }

    /// Descriptors before it.
    #[inline]
    pub(crate) fn offset(self) -> u16 {
        self.offset
    }

    /// The wrap counter.
    #[inline]
    pub(crate) fn wrap(self) -> bool {
        self.wrap
    }

    /// The place `slots` descriptors later; no more than `size` of them.
    #[inline]
    pub(crate) fn plus(self, slots: u16, size: u16) -> Self {
        let sum = u32::from(self.offset).wrapping_add(slots.into());
        match sum.checked_sub(size.into()) {
            None => Self { offset: sum as u16, wrap: self.wrap },
            Some(over) => Self { offset: over as u16, wrap: !self.wrap },
        }
    }

    /// The place `slots` descriptors earlier; no more than `size` of them.
    #[inline]
    pub(crate) fn minus(self, slots: u16, size: u16) -> Self {
        match self.offset.checked_sub(slots) {
            Some(offset) => Self { offset, wrap: self.wrap },
            None => {
                let sum = u32::from(self.offset).wrapping_add(size.into());
                Self { offset: sum.wrapping_sub(slots.into()) as u16, wrap: !self.wrap }
            }
        }
    }

    /// Descriptors from here to `to`: below twice the size.
    #[inline]
    pub(crate) fn distance(self, to: Self, size: u16) -> u32 {
        let size = u32::from(size);
        let line = |p: Self| u32::from(p.offset).wrapping_add(if p.wrap { 0 } else { size });
        match line(to).checked_sub(line(self)) {
            Some(ahead) => ahead,
            None => line(to).wrapping_add(size.wrapping_mul(2)).wrapping_sub(line(self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_add_up_over_both_laps_whatever_the_size() {
        for size in [1, 2, 3, 7, 256, 0x7fff, 0x8000] {
            let mut at = Position::START;
            for step in [1, size / 2, size, size - size / 3, 1, size] {
                let to = at.plus(step, size);
                assert!(to.offset < size);
                assert_eq!(at.distance(to, size), u32::from(step), "{at:?} {to:?} {size}");
                assert_eq!(to.minus(step, size), at);
                assert_eq!(Position::from_word(to.word(), size), Some(to));
                at = to;
            }
        }
    }

    #[test]
    fn a_place_that_no_ring_of_the_size_has_is_none() {
        assert_eq!(Position::from_word(3, 3), None);
        assert_eq!(Position::from_word(WRAP | 3, 3), None);
        assert_eq!(Position::from_word(WRAP | 2, 3), Some(Position { offset: 2, wrap: true }));
    }
}

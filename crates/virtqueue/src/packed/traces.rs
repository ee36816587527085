//! What a packed ring itself tells about where its device stands.
//!
//! # Theory of operation
//! A device that uses a buffer sets the USED bit of its first descriptor to the wrap counter of that
//! lap, and nobody else ever does: a driver makes a descriptor available with the other value. So in a
//! ring whose buffers have one descriptor each, as nearly all have, the bits make one step, where the
//! device stands:
//!
//! ```text
//! USED   w w w w w | !w !w !w !w        used in this lap | not yet
//!                  ^ the place, wrap counter w
//! ```
//! A ring that its driver has just set up is all zeroes in these bits, until a device comes to it. In a
//! ring with longer chains a step may be elsewhere, so it counts where nothing else is known.

use crate::fault::{LayoutPart, RingFault};
use crate::layout::QueueLayout;
use crate::memory::GuestMemory;
use crate::packed::{DESC_LEN, Descs, Position};
use crate::walk::locate;

/// The USED bits of a packed ring, as they were at one moment.
#[derive(Clone, Debug)]
pub struct Traces {
    used: Vec<bool>,
}

impl Traces {
    /// Reads those of the ring that lies there.
    pub fn of(memory: &GuestMemory, layout: QueueLayout) -> Result<Self, RingFault> {
        let size = super::checked_size(layout.size)?;
        let len = usize::from(size).saturating_mul(DESC_LEN);
        let piece = locate(memory, LayoutPart::Desc, layout.desc, len, DESC_LEN)?;
        // SAFETY: valid as long as `memory` is borrowed, which is longer than `descs` lives; `locate`
        // checked length and alignment.
        let descs = unsafe { Descs::new(piece, size) };
        // A descriptor that was used in the lap with wrap counter 1 has the bit.
        let used = |at: Position| descs.rest(at).was_used(true);
        Ok(Self { used: (0..size).map(|slot| used(Position::START.plus(slot, size))).collect() })
    }

    /// Whether no device has ever used a buffer of it: its driver has just set it up.
    pub fn is_fresh(&self) -> bool {
        !self.used.contains(&true)
    }

    /// Whether no device can stand at a place (its offset, and the wrap counter in bit 15): there is
    /// none, or its buffer was used in that lap.
    pub fn contradict(&self, place: u16) -> bool {
        let size = u16::try_from(self.used.len()).unwrap_or_default();
        Position::from_word(place, size)
            .is_none_or(|at| self.used.get(usize::from(at.offset())) == Some(&at.wrap()))
    }

    /// Where the device stands, if all buffers have one descriptor each; `None` if they have not.
    pub fn place(&self) -> Option<u16> {
        let first = *self.used.first()?;
        let step = self.used.iter().position(|used| *used != first);
        let Some(step) = step else {
            // All of a lap is used, and nothing of the next.
            return Some(Position::START.word_in_lap(!first));
        };
        let behind = self.used.get(step..).unwrap_or_default();
        let offset = u16::try_from(step).ok()?;
        let place = Position::START.plus(offset, u16::MAX);
        (!behind.contains(&first)).then(|| place.word_in_lap(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(bits: &str) -> Traces {
        Traces { used: bits.bytes().map(|b| b == b'1').collect() }
    }

    #[test]
    fn the_bits_make_one_step_where_the_device_stands() {
        for (bits, place) in [
            ("0000", Some(0x8000)),
            ("1000", Some(0x8001)),
            ("1110", Some(0x8003)),
            ("1111", Some(0)),
            ("0111", Some(1)),
            ("0001", Some(3)),
            ("0", Some(0x8000)),
            ("1", Some(0)),
            ("1010", None),
            ("0110", None),
        ] {
            assert_eq!(traces(bits).place(), place, "{bits}");
        }
    }

    #[test]
    fn a_place_whose_buffer_was_used_in_its_lap_is_none() {
        let ring = traces("1100");
        for (place, cannot_be) in [
            (0x8000, true),
            (0x8001, true),
            (0x8002, false),
            (0x8003, false),
            (0, false),
            (2, true),
            (4, true),
            (0x8004, true),
        ] {
            assert_eq!(ring.contradict(place), cannot_be, "{place:#x}");
        }
        assert!(!ring.is_fresh() && traces("000").is_fresh());
    }
}

//! What a packed ring writes down outside of the guest's memory, so that a successor finds its place.
//!
//! Why it is needed, and how it is read, says [`super`].

/// A publication that is about to be made, or was made last: buffers from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The first descriptor's place: its offset, and the wrap counter in bit 15.
    pub from: u16,
    /// The place behind the last one's chain. The same as `from`: there is nothing to publish.
    pub to: u16,
    /// The index of the first buffer: how many were given back before it, modulo 65536.
    pub first: u16,
    /// How many buffers.
    pub buffers: u16,
}

/// The wrap counter's bit in a place.
const WRAP: u16 = 0x8000;

impl Intent {
    /// A ring that stands at a place, with nothing under way.
    pub const fn resting(at: u16, first: u16) -> Self {
        Self { from: at, to: at, first, buffers: 0 }
    }

    /// A ring that was just set up.
    pub const fn fresh() -> Self {
        Self::resting(WRAP, 0)
    }

    /// Where a ring of `size` descriptors goes on, by what a front end says in SET_VRING_BASE: in the
    /// lower half the place up to which buffers had been taken, in the upper the one up to which
    /// they had been given back.
    ///
    /// What lies between is taken again. Front ends that fill in the lower half alone are read as if
    /// nothing did.
    pub fn at_base(base: u32, size: u16) -> Self {
        let line = |place: u16| {
            let lap = if place & WRAP == 0 { u32::from(size) } else { 0 };
            u32::from(place & !WRAP).saturating_add(lap)
        };
        let (taken, used) = (base as u16, (base >> 16) as u16);
        let laps = u32::from(size).saturating_mul(2);
        let between = line(taken).saturating_add(laps).saturating_sub(line(used));
        let between = between.checked_rem(laps).unwrap_or(0);
        let told = base >> 16 != 0;
        let known = told && used & !WRAP < size && between < u32::from(size);
        Self::resting(if known { used } else { taken }, 0)
    }
}

/// Where intents are written down: a memory that outlives the base.
pub trait Journal: Send {
    /// Writes an intent over the last one. Whoever dies in it leaves the one or the other, or a ring
    /// that rests where the last one ended. (A new intent begins there, unless nothing is under way in
    /// it.)
    fn note(&self, intent: Intent);

    /// The intent written last; `None` if there is none that could be believed.
    fn last(&self) -> Option<Intent>;

    /// The used descriptor at this place was written: for a base that is told to die there.
    #[cfg(feature = "fault-injection")]
    fn stored(&self, _place: u16) {}
}

/// The journal of a ring that was just set up, and that nobody is to take over.
pub(crate) struct NoSuccessor;

impl Journal for NoSuccessor {
    fn note(&self, _: Intent) {}

    fn last(&self) -> Option<Intent> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_goes_on_behind_what_was_given_back() {
        for (base, size, place) in [
            // As virtio-user says it: nothing in the upper half.
            (0x8000, 256, 0x8000),
            (0x0005, 256, 0x0005),
            // As a device says it that holds nothing.
            (0x8005_8005, 256, 0x8005),
            (0x0005_0005, 256, 0x0005),
            // Three were taken and not given back; over the end of a lap, too.
            (0x8002_8005, 256, 0x8002),
            (0x80ff_0002, 256, 0x80ff),
            // What was given back cannot lie a lap or more behind, or outside.
            (0x0005_8005, 256, 0x8005),
            (0x8006_8005, 256, 0x8005),
            (0x8100_8005, 256, 0x8005),
        ] {
            assert_eq!(Intent::at_base(base, size), Intent::resting(place, 0), "{base:#x}");
        }
        assert_eq!(Intent::at_base(u32::MAX, 0).buffers, 0);
    }
}

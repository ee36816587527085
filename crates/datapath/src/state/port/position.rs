//! Where a packed ring stands: its journal, two words of the ring's block.
//!
//! # Theory of operation
//! A publication is noted in two words, each with a check, written in this order (how they are read
//! together with the ring, says `virtqueue`):
//!
//! ```text
//! 80  from | how many buffers << 16 | index of the first << 32
//! 72  from | to << 16
//! ```
//! A new publication begins where the last one ended. So whoever dies between the two stores leaves a
//! first word that begins at the *end* of the second: the last publication was made, and nothing is
//! under way. Two words that do not fit so are damaged.
//!
//! The words change with every batch, outside of requests, so they are not under the port's seal. The
//! worker writes them while the ring runs, the dispatcher empties them when a front end says where
//! the ring is to begin.

use virtqueue::{Intent, Journal};

use super::PortRecord;
use crate::names::Side;
use crate::state::StateMemory;
use crate::state::seal::{counted, uncounted};

const SPAN_AT: usize = 72;
const BUFFERS_AT: usize = 80;

/// The journal of one ring.
#[derive(Clone, Debug)]
pub struct RingJournal {
    state: StateMemory,
    span: usize,
    buffers: usize,
}

impl RingJournal {
    fn words(&self) -> (u64, u64) {
        (self.state.get(self.span), self.state.get(self.buffers))
    }
}

impl Journal for RingJournal {
    fn note(&self, intent: Intent) {
        let Intent { from, to, first, buffers } = intent;
        let word = |parts: [u16; 3]| {
            let [a, b, c] = parts.map(u64::from);
            counted(a | b << 16 | c << 32)
        };
        self.state.put(self.buffers, word([from, buffers, first]));
        self.state.put(self.span, word([from, to, 0]));
    }

    fn last(&self) -> Option<Intent> {
        let (span, buffers) = self.words();
        let parts = |word: u64| [word as u16, (word >> 16) as u16, (word >> 32) as u16];
        let [from, to, _] = parts(uncounted(span)?);
        let [of, buffers, first] = parts(uncounted(buffers)?);
        if of == from {
            Some(Intent { from, to, first, buffers })
        } else if of == to {
            Some(Intent::resting(to, first))
        } else {
            None
        }
    }
}

impl PortRecord {
    /// A ring's journal. While the ring runs it is the worker's.
    pub fn journal(&self, side: Side) -> RingJournal {
        let at = |offset| self.at.saturating_add(Self::ring_at(side, offset));
        RingJournal { state: self.state.clone(), span: at(SPAN_AT), buffers: at(BUFFERS_AT) }
    }

    /// Where a packed ring stands is for the front end to say.
    pub fn forget_position(&self, side: Side) {
        self.put_ring(side, SPAN_AT, 0);
        self.put_ring(side, BUFFERS_AT, 0);
    }

    /// Whether it was said, or found out, where a packed ring stands.
    pub fn has_position(&self, side: Side) -> bool {
        self.journal(side).words() != (0, 0)
    }

    /// Whether what says where a packed ring stands cannot be believed.
    pub(super) fn position_is_damaged(&self, side: Side) -> bool {
        self.has_position(side) && self.journal(side).last().is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::PortId;

    fn record() -> PortRecord {
        PortRecord::of(&StateMemory::create().unwrap().0, PortId(3))
    }

    const BEFORE: Intent = Intent { from: 0x8005, to: 0x8009, first: 65_535, buffers: 3 };
    const AFTER: Intent = Intent { from: 0x8009, to: 3, first: 2, buffers: 6 };

    #[test]
    fn an_intent_comes_back_and_each_ring_has_its_own() {
        let record = record();
        assert!(!record.has_position(Side::Rx));
        assert_eq!(record.journal(Side::Rx).last(), None);
        record.journal(Side::Rx).note(BEFORE);
        assert_eq!(record.journal(Side::Rx).last(), Some(BEFORE));
        record.journal(Side::Rx).note(AFTER);
        assert_eq!(record.journal(Side::Rx).last(), Some(AFTER));
        assert!(!record.has_position(Side::Tx));
        record.forget_negotiation();
        assert!(!record.has_position(Side::Rx) && !record.position_is_damaged(Side::Rx));
    }

    #[test]
    fn a_death_between_the_two_stores_leaves_a_ring_that_rests_where_the_last_one_ended() {
        let record = record();
        for before in [BEFORE, Intent::resting(0x8009, 2)] {
            record.journal(Side::Tx).note(before);
            let span = record.get_ring(Side::Tx, SPAN_AT);
            record.journal(Side::Tx).note(AFTER);
            record.put_ring(Side::Tx, SPAN_AT, span);
            let found = record.journal(Side::Tx).last().unwrap();
            assert_eq!((found.from, found.to, found.first), (0x8009, 0x8009, 2));
        }
    }

    proptest! {
        #[test]
        fn any_damaged_octet_is_noticed(at in SPAN_AT..BUFFERS_AT + 8, by in 1..=255u8) {
            let record = record();
            record.journal(Side::Rx).note(BEFORE);
            let octet = record.at + PortRecord::ring_at(Side::Rx, at);
            let octet = record.state.memory().u8_at(octet).unwrap();
            octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
            prop_assert!(record.position_is_damaged(Side::Rx));
        }
    }
}

//! Where a packed ring stands: its journal, and which ring it is about.
//!
//! # Theory of operation
//! A publication is noted in two words, each with a check, written in this order (how they are read
//! together with the ring, says `virtqueue`):
//!
//! ```text
//! 80  from | how many buffers << 16 | index of the first << 32
//! 72  from | to << 16
//! 88  which ring it is, paired: the checksum of what tells it from others
//! 96  the ring has its place in this connection, paired 1
//! ```
//! A new publication begins where the last one ended. So whoever dies between the two stores leaves a
//! first word that begins at the *end* of the second: the last publication was made, and nothing is
//! under way. A note of a place where a ring rests, with nothing under way, may begin elsewhere: the very
//! first one, which finds the second word empty, and one of a successor that found a publication half
//! made. So a first word without buffers is enough. Two words that do not fit so are damaged.
//!
//! The first three outlive the connection: a front end that was cut off comes back with the same ring,
//! and cannot say where that stands (`vhost/place.rs`). The third word is taken away before the others
//! change in any other way than by a note, so it never vouches for the words of another ring.
//!
//! The words change with every batch, outside of requests, so they are not under the port's seal. The
//! worker writes the first two while the ring runs, the dispatcher all of them while it does not.

use virtqueue::{Intent, Journal};

use super::PortRecord;
use crate::counters::{Counter, Counters};
use crate::faults::{self, Point};
use crate::names::{Owner, RingId};
use crate::state::StateMemory;
use crate::state::seal::{counted, pair, uncounted, unpair};

const SPAN_AT: usize = 72;
const BUFFERS_AT: usize = 80;
const RING_AT: usize = 88;
pub(super) const PLACED_AT: usize = 96;

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
    #[inline]
    fn note(&self, intent: Intent) {
        let Intent { from, to, first, buffers } = intent;
        let word = |parts: [u16; 3]| {
            let [a, b, c] = parts.map(u64::from);
            counted(a | b << 16 | c << 32)
        };
        self.state.put(self.buffers, word([from, buffers, first]));
        if buffers > 0 {
            faults::pass(Point::PackedNoting);
        }
        self.state.put(self.span, word([from, to, 0]));
        if buffers > 0 {
            faults::pass(Point::PackedNoted);
        }
    }

    #[cfg(feature = "fault-injection")]
    fn stored(&self, place: u16) {
        let first = self.last().is_some_and(|intent| intent.from == place);
        faults::pass(if first { Point::PackedHead } else { Point::PackedTail });
    }

    fn last(&self) -> Option<Intent> {
        let (span, buffers) = self.words();
        let parts = |word: u64| [word as u16, (word >> 16) as u16, (word >> 32) as u16];
        let [of, buffers, first] = parts(uncounted(buffers)?);
        if span == 0 && buffers == 0 {
            return Some(Intent::resting(of, first));
        }
        let [from, to, _] = parts(uncounted(span)?);
        if buffers == 0 {
            Some(Intent::resting(of, first))
        } else if of == from {
            Some(Intent { from, to, first, buffers })
        } else if of == to {
            Some(Intent::resting(to, first))
        } else {
            None
        }
    }
}

/// What an earlier connection left about a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// Nothing, or it is about another ring.
    Nothing,
    /// Its journal is whole.
    Whole,
    /// It is this ring's, and cannot be believed.
    Damaged,
}

impl PortRecord {
    /// A ring's journal. While the ring runs it is the worker's.
    pub fn journal(&self, id: RingId) -> RingJournal {
        let at = |offset| self.at.saturating_add(Self::ring_at(id, offset));
        RingJournal { state: self.state.clone(), span: at(SPAN_AT), buffers: at(BUFFERS_AT) }
    }

    /// Notes where a packed ring begins, and which ring it is.
    pub fn place(&self, id: RingId, ring: u32, intent: Intent) {
        self.forget_position(id);
        self.journal(id).note(intent);
        self.put_ring(id, RING_AT, pair(ring));
        self.keep_place(id);
    }

    /// A packed ring goes on where an earlier connection left it.
    pub fn keep_place(&self, id: RingId) {
        self.put_ring(id, PLACED_AT, pair(1));
    }

    /// What an earlier connection left about this ring.
    pub fn remembered(&self, id: RingId, ring: u32) -> Remembered {
        if unpair(self.get_ring(id, RING_AT)) != Some(ring) {
            return Remembered::Nothing;
        }
        self.journal(id).last().map_or(Remembered::Damaged, |_| Remembered::Whole)
    }

    /// Whether this connection's ring has its place.
    pub fn is_placed(&self, id: RingId) -> bool {
        self.get_ring(id, PLACED_AT) != 0
    }

    /// There is no ring, but one may come back.
    pub(super) fn displace(&self, id: RingId) {
        self.put_ring(id, PLACED_AT, 0);
    }

    /// Where a packed ring stands is for the front end to say.
    pub fn forget_position(&self, id: RingId) {
        for at in [PLACED_AT, RING_AT, SPAN_AT, BUFFERS_AT] {
            self.put_ring(id, at, 0);
        }
    }

    /// A packed ring went on at a place that nothing vouches for.
    pub fn count_renegotiated(&self) {
        // The dispatcher alone counts this.
        Counters::of(&self.state, Owner::Port(self.id)).add(Counter::PortRenegotiated, 1);
    }

    /// Whether what says where a packed ring stands cannot be believed.
    pub(super) fn position_is_damaged(&self, id: RingId) -> bool {
        match self.get_ring(id, PLACED_AT) {
            0 => false,
            placed => unpair(placed) != Some(1) || self.journal(id).last().is_none(),
        }
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

    const RING: u32 = 0x1234_5678;
    const BEFORE: Intent = Intent { from: 0x8005, to: 0x8009, first: 65_535, buffers: 3 };
    const AFTER: Intent = Intent { from: 0x8009, to: 3, first: 2, buffers: 6 };

    #[test]
    fn an_intent_comes_back_and_each_ring_has_its_own() {
        let record = record();
        assert!(!record.is_placed(RingId::RX));
        assert_eq!(record.journal(RingId::RX).last(), None);
        record.place(RingId::RX, RING, BEFORE);
        assert_eq!(record.journal(RingId::RX).last(), Some(BEFORE));
        record.journal(RingId::RX).note(AFTER);
        assert_eq!(record.journal(RingId::RX).last(), Some(AFTER));
        assert!(record.is_placed(RingId::RX) && !record.is_placed(RingId::TX));
    }

    #[test]
    fn where_a_ring_stood_outlives_its_connection_and_is_of_no_meaning_to_another_ring() {
        let record = record();
        record.place(RingId::RX, RING, BEFORE);
        record.forget_negotiation();
        assert!(!record.is_placed(RingId::RX) && !record.position_is_damaged(RingId::RX));
        assert_eq!(record.remembered(RingId::RX, RING), Remembered::Whole);
        assert_eq!(record.remembered(RingId::RX, RING + 1), Remembered::Nothing);
        assert_eq!(record.remembered(RingId::TX, RING), Remembered::Nothing);
        record.keep_place(RingId::RX);
        assert_eq!(record.journal(RingId::RX).last(), Some(BEFORE));
        record.put_ring(RingId::RX, SPAN_AT, 7);
        assert_eq!(record.remembered(RingId::RX, RING), Remembered::Damaged);
        record.clear();
        assert_eq!(record.remembered(RingId::RX, RING), Remembered::Nothing);
    }

    #[test]
    fn a_death_between_the_two_stores_leaves_a_ring_that_rests_where_the_last_one_ended() {
        let record = record();
        for before in [BEFORE, Intent::resting(0x8009, 2)] {
            record.place(RingId::TX, RING, before);
            let span = record.get_ring(RingId::TX, SPAN_AT);
            record.journal(RingId::TX).note(AFTER);
            record.put_ring(RingId::TX, SPAN_AT, span);
            let found = record.journal(RingId::TX).last().unwrap();
            assert_eq!((found.from, found.to, found.first), (0x8009, 0x8009, 2));
        }
    }

    #[test]
    fn a_death_in_the_very_first_note_leaves_a_ring_that_rests_where_it_begins() {
        let record = record();
        let begins = Intent::resting(0x8003, 0);
        record.place(RingId::TX, RING, begins);
        record.put_ring(RingId::TX, SPAN_AT, 0);
        assert!(!record.position_is_damaged(RingId::TX));
        assert_eq!(record.journal(RingId::TX).last(), Some(begins));
        // Buffers are never under way in it.
        record.journal(RingId::TX).note(AFTER);
        record.put_ring(RingId::TX, SPAN_AT, 0);
        assert!(record.position_is_damaged(RingId::TX));
    }

    #[test]
    fn a_death_while_a_successor_notes_where_it_stands_leaves_a_ring_that_rests_there() {
        let record = record();
        record.place(RingId::RX, RING, BEFORE);
        let within = Intent::resting(0x8007, 1);
        let span = record.get_ring(RingId::RX, SPAN_AT);
        record.journal(RingId::RX).note(within);
        assert_eq!(record.journal(RingId::RX).last(), Some(within));
        let noted = record.get_ring(RingId::RX, SPAN_AT);
        record.put_ring(RingId::RX, SPAN_AT, span);
        assert_eq!(record.journal(RingId::RX).last(), Some(within));
        record.put_ring(RingId::RX, SPAN_AT, noted);
        // And the next publication, which begins there.
        record.journal(RingId::RX).note(Intent { from: within.to, to: 3, first: 1, buffers: 12 });
        record.put_ring(RingId::RX, SPAN_AT, noted);
        let found = record.journal(RingId::RX).last().unwrap();
        assert_eq!((found.from, found.to, found.first), (within.to, within.to, 1));
    }

    proptest! {
        #[test]
        fn any_damaged_octet_is_noticed(
            at in prop_oneof![SPAN_AT..BUFFERS_AT + 8, PLACED_AT..PLACED_AT + 8],
            by in 1..=255u8,
        ) {
            let record = record();
            record.place(RingId::RX, RING, BEFORE);
            let octet = record.at + PortRecord::ring_at(RingId::RX, at);
            let octet = record.state.memory().u8_at(octet).unwrap();
            octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
            prop_assert!(record.position_is_damaged(RingId::RX));
        }

        #[test]
        fn a_damaged_octet_of_which_ring_it_is_makes_it_no_ring_of_ours(at in 0..8usize, by in 1..=255u8) {
            let record = record();
            record.place(RingId::RX, RING, BEFORE);
            let octet = record.at + PortRecord::ring_at(RingId::RX, RING_AT + at);
            let octet = record.state.memory().u8_at(octet).unwrap();
            octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
            prop_assert_eq!(record.remembered(RingId::RX, RING), Remembered::Nothing);
        }
    }
}

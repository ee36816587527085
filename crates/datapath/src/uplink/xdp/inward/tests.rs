//! A base that dies between any two steps, and a kernel that goes on meanwhile.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::model::{Card, Frames, Kept};
use super::super::ring::GOES_ON;
use super::*;

const FRAMES: u32 = 4;
const FIRST: u64 = 3 * FRAME;

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// The kernel takes a frame into its hands.
    Grab,
    /// A frame arrives, in so many pieces.
    Arrive(u32),
    /// The base takes so many frames.
    Take(u32),
    /// It releases what it took.
    Release,
    /// It dies in the middle of that, after so many of the three steps.
    Die(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        1 => Just(Deed::Grab),
        4 => (1..=3u32).prop_map(Deed::Arrive),
        3 => (1..4u32).prop_map(Deed::Take),
        2 => Just(Deed::Release),
        1 => (0..3u8).prop_map(Deed::Die),
    ]
}

struct Stage {
    receive: Kept,
    fill: Kept,
    card: Card,
    frames: Frames,
    base: Option<Inward>,
    arrived: u32,
    /// The pieces' numbers in the order in which bases have seen them.
    seen: Vec<u32>,
    /// The pieces of each frame, by the number of the first.
    whole: BTreeMap<u32, u32>,
}

impl Stage {
    fn new() -> Self {
        let (receive, fill) = (Kept::new(FRAMES, 0), Kept::new(FRAMES, 0));
        let base = Some(Inward::start(receive.ring(), fill.ring(), FIRST, FRAMES));
        let card = Card::new(&receive, &fill);
        let (frames, seen, whole) = (Frames::new(), Vec::new(), BTreeMap::new());
        Self { receive, fill, card, frames, base, arrived: 0, seen, whole }
    }

    fn base(&mut self) -> &mut Inward {
        let (receive, fill) = (&self.receive, &self.fill);
        self.base.get_or_insert_with(|| {
            Inward::adopt(receive.ring(), fill.ring(), FIRST, FRAMES).unwrap()
        })
    }

    fn take(&mut self, most: u32) {
        for _ in 0..most {
            let Some(frame) = self.base().next() else { break };
            let begin = self.seen.len();
            let pieces: Vec<_> = self.base().pieces(frame).collect();
            self.seen.extend(pieces.iter().map(|found| self.frames[&found.unwrap().address]));
            assert_eq!(self.whole.get(&self.seen[begin]), Some(&frame.count()), "not whole");
        }
    }

    fn arrive(&mut self, pieces: u32) -> bool {
        let arrived = self.card.arrive(self.arrived, pieces, &mut self.frames);
        if arrived {
            self.whole.insert(self.arrived, pieces);
            self.arrived += pieces;
        }
        arrived
    }

    fn do_it(&mut self, deed: Deed) {
        match deed {
            Deed::Grab => self.card.grab(),
            Deed::Arrive(pieces) => _ = self.arrive(pieces),
            Deed::Take(most) => self.take(most),
            Deed::Release => self.base().release(),
            Deed::Die(steps) => {
                let base = self.base();
                let from = base.receive.consumer();
                base.write_back(from, base.taken.wrapping_sub(from));
                if steps > 0 {
                    base.give_back();
                }
                if steps > 1 {
                    base.offer();
                }
                self.base = None;
            }
        }
    }

    /// No number is missing, and those that come again come in order.
    fn check(mut self) {
        // Everything that waits is served, so all frames are the kernel's.
        for _ in 0..2 {
            self.take(FRAMES);
            self.base().release();
        }
        let mut next = 0;
        for number in &self.seen {
            assert!(*number <= next, "number {next} was lost: {:?}", self.seen);
            next = next.max(number + 1);
        }
        assert_eq!(next, self.arrived, "{:?}", self.seen);
        for _ in 0..FRAMES {
            self.card.grab();
        }
        let all: Vec<_> = (0..u64::from(FRAMES)).map(|n| FIRST + n * FRAME).collect();
        assert_eq!(self.card.hands.into_iter().collect::<Vec<_>>(), all, "a frame is lost");
    }
}

proptest! {
    #[test]
    fn a_death_between_any_two_steps_loses_neither_frame_nor_datagram(
        deeds in prop::collection::vec(deed(), 0..60)
    ) {
        let mut stage = Stage::new();
        deeds.into_iter().for_each(|deed| stage.do_it(deed));
        stage.check();
    }
}

#[test]
fn what_was_released_does_not_come_again() {
    let mut stage = Stage::new();
    for deed in [Deed::Arrive(1), Deed::Take(1), Deed::Die(2), Deed::Arrive(1), Deed::Take(1)] {
        stage.do_it(deed);
    }
    assert_eq!(stage.seen, [0, 1]);
    stage.check();
}

#[test]
fn what_was_not_released_comes_again() {
    let mut stage = Stage::new();
    for deed in [Deed::Arrive(1), Deed::Take(1), Deed::Die(0), Deed::Take(1)] {
        stage.do_it(deed);
    }
    assert_eq!(stage.seen, [0, 0]);
    stage.check();
}

#[test]
fn no_more_is_lent_than_there_is() {
    let mut stage = Stage::new();
    while stage.arrive(1) {}
    stage.take(2 * FRAMES);
    assert_eq!(stage.seen, [0, 1, 2, 3]);
    stage.check();
}

#[test]
fn rings_that_contradict_each_other_are_refused() {
    let adopt = |stage: &Stage| {
        Inward::adopt(stage.receive.ring(), stage.fill.ring(), FIRST, FRAMES).map(|_| ())
    };
    let stage = Stage::new();
    assert_eq!(adopt(&stage), Ok(()));
    stage.fill.ring().set_producer(FRAMES + 1);
    assert!(adopt(&stage).is_err(), "more offered than there are");
    let stage = Stage::new();
    stage.receive.ring().set_producer(FRAMES + 1);
    assert!(adopt(&stage).is_err(), "more received than there are");
    let stage = Stage::new();
    stage.fill.ring().set_producer(FRAMES - 1);
    stage.fill.ring().set_address(FRAMES - 1, FIRST + FRAMES as u64 * FRAME);
    assert!(adopt(&stage).is_err(), "a frame that is another's");
}

#[test]
fn a_descriptor_outside_its_frames_is_no_frame() {
    for address in [FIRST - 1, FIRST + u64::from(FRAMES) * FRAME, FIRST + FRAME - 59, u64::MAX] {
        let mut stage = Stage::new();
        stage.card.grab();
        let receive = stage.receive.ring();
        receive.set_descriptor(0, Descriptor { address, len: 60, options: 0 });
        receive.set_producer(1);
        let frame = stage.base().next().unwrap();
        let found: Vec<_> = stage.base().pieces(frame).collect();
        assert_eq!(found, [None], "{address:#x}");
    }
}

/// Writes one piece of a frame behind those that are there.
fn add_piece(stage: &mut Stage, options: u32) {
    stage.card.grab();
    let receive = stage.receive.ring();
    let (address, next) = (FIRST + 256, receive.producer());
    receive.set_descriptor(next, Descriptor { address, len: 60, options });
    receive.set_producer(next + 1);
}

#[test]
fn a_frame_whose_end_is_not_there_is_not_there_and_nothing_of_it_is_released() {
    let mut stage = Stage::new();
    add_piece(&mut stage, 0);
    add_piece(&mut stage, GOES_ON);
    assert_eq!(stage.base().next().unwrap().count(), 1);
    assert_eq!(stage.base().next(), None);
    stage.base().release();
    assert_eq!((stage.base().position(), stage.base().taken()), (1, 0));
    // The base dies, and the rest comes.
    stage.base = None;
    assert_eq!(stage.base().next(), None);
    add_piece(&mut stage, 0);
    assert_eq!(stage.base().next().unwrap().count(), 2);
    stage.base().release();
    assert_eq!(stage.base().position(), 3);
}

#[test]
fn a_frame_without_an_end_does_not_hold_all_frames_for_ever() {
    let mut stage = Stage::new();
    for _ in 0..FRAMES {
        assert_eq!(stage.base().next(), None);
        add_piece(&mut stage, GOES_ON);
    }
    assert_eq!(stage.base().next().unwrap().count(), FRAMES);
    stage.base().release();
    assert_eq!(stage.base().position(), FRAMES);
}

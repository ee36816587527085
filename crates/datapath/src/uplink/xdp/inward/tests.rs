//! A base that dies between any two steps, and a kernel that goes on meanwhile.

use proptest::prelude::*;

use super::super::model::{Card, Frames, Kept};
use super::*;

const FRAMES: u32 = 4;
const FIRST: u64 = 3 * FRAME;

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// The kernel takes a frame into its hands.
    Grab,
    /// A frame arrives.
    Arrive,
    /// The base takes so many.
    Take(u32),
    /// It releases what it took.
    Release,
    /// It dies in the middle of that, after so many of the three steps.
    Die(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        1 => Just(Deed::Grab),
        4 => Just(Deed::Arrive),
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
    /// Numbers in the order in which bases have seen them.
    seen: Vec<u32>,
}

impl Stage {
    fn new() -> Self {
        let (receive, fill) = (Kept::new(FRAMES, 0), Kept::new(FRAMES, 0));
        let base = Some(Inward::start(receive.ring(), fill.ring(), FIRST, FRAMES));
        let card = Card::new(&receive, &fill);
        Self { receive, fill, card, frames: Frames::new(), base, arrived: 0, seen: Vec::new() }
    }

    fn base(&mut self) -> &mut Inward {
        let (receive, fill) = (&self.receive, &self.fill);
        self.base.get_or_insert_with(|| {
            Inward::adopt(receive.ring(), fill.ring(), FIRST, FRAMES).unwrap()
        })
    }

    fn take(&mut self, most: u32) {
        for _ in 0..most {
            let Some(found) = self.base().next() else { break };
            self.seen.push(self.frames[&found.unwrap().address]);
        }
    }

    fn do_it(&mut self, deed: Deed) {
        match deed {
            Deed::Grab => self.card.grab(),
            Deed::Arrive => {
                if self.card.arrive(self.arrived, &mut self.frames) {
                    self.arrived += 1;
                }
            }
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
    for deed in [Deed::Arrive, Deed::Take(1), Deed::Die(2), Deed::Arrive, Deed::Take(1)] {
        stage.do_it(deed);
    }
    assert_eq!(stage.seen, [0, 1]);
    stage.check();
}

#[test]
fn what_was_not_released_comes_again() {
    let mut stage = Stage::new();
    for deed in [Deed::Arrive, Deed::Take(1), Deed::Die(0), Deed::Take(1)] {
        stage.do_it(deed);
    }
    assert_eq!(stage.seen, [0, 0]);
    stage.check();
}

#[test]
fn no_more_is_lent_than_there_is() {
    let mut stage = Stage::new();
    while stage.card.arrive(stage.arrived, &mut stage.frames) {
        stage.arrived += 1;
    }
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
        assert_eq!(stage.base().next(), Some(None), "{address:#x}");
    }
}

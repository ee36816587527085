//! A base that dies between any two steps, and a kernel that goes on meanwhile.

use proptest::prelude::*;

use super::super::model::{Frames, Kept, Wire};
use super::*;

const FRAMES: u32 = 4;
const FIRST: u64 = 5 * FRAME;

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// The base puts so many frames and sends them, each in so many pieces.
    Send(u32, u32),
    /// It dies in the middle of that, after so many of the three steps.
    Die(u32, u32, u8),
    /// It puts so many and thinks better of it.
    Abandon(u32, u32),
    /// The kernel begins to send a frame.
    Begin,
    /// One of those it has begun is done.
    End(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => (0..5u32, 1..4u32).prop_map(|(n, pieces)| Deed::Send(n, pieces)),
        1 => (0..5u32, 1..4u32, 1..4u8).prop_map(|(n, pieces, steps)| Deed::Die(n, pieces, steps)),
        1 => (0..5u32, 1..4u32).prop_map(|(n, pieces)| Deed::Abandon(n, pieces)),
        4 => Just(Deed::Begin),
        4 => any::<usize>().prop_map(Deed::End),
    ]
}

struct Stage {
    transmit: Kept,
    completion: Kept,
    wire: Wire,
    frames: Frames,
    base: Option<Outward>,
    /// The number that is next, and those that the base has reason to think sent.
    next: u32,
    promised: Vec<u32>,
}

impl Stage {
    fn new(late: bool) -> Self {
        let (transmit, completion) = (Kept::new(FRAMES, 0), Kept::new(2 * FRAMES, 0));
        let wire = Wire::new(&transmit, &completion, late);
        Self {
            transmit,
            completion,
            wire,
            frames: Frames::new(),
            base: None,
            next: 0,
            promised: Vec::new(),
        }
    }

    fn base(&mut self) -> &mut Outward {
        let (transmit, completion) = (&self.transmit, &self.completion);
        self.base.get_or_insert_with(|| {
            Outward::adopt(transmit.ring(), completion.ring(), FIRST, FRAMES).unwrap()
        })
    }

    /// Puts frames in so many pieces, each with a number; those for which there was room.
    fn put(&mut self, most: u32, pieces: u32) -> Vec<u32> {
        let mut put = Vec::new();
        for _ in 0..most {
            let free = self.base().free();
            let mut at = Vec::new();
            let done = self.base().put(pieces, |nth, address| {
                assert_eq!(nth as usize, at.len());
                at.push(address);
                Some(60)
            });
            assert_eq!(done.is_some(), free >= pieces, "{free} frames are free");
            if done.is_none() {
                assert_eq!(self.base().free(), free, "of one that has no room nothing is left");
                break;
            }
            for address in at {
                assert!(!self.wire.pending().contains(&address), "{address:#x} is under way");
                self.frames.insert(address, self.next);
                put.push(self.next);
                self.next += 1;
            }
        }
        put
    }

    fn do_it(&mut self, deed: Deed) {
        match deed {
            Deed::Send(most, pieces) => {
                let put = self.put(most, pieces);
                self.base().publish();
                self.promised.extend(put);
            }
            Deed::Die(most, pieces, steps) => {
                let put = self.put(most, pieces);
                if steps > 1 {
                    self.base().hand_over();
                    self.promised.extend(put);
                }
                if steps > 2 {
                    self.base().use_up();
                }
                self.base = None;
            }
            Deed::Abandon(most, pieces) => {
                self.put(most, pieces);
                self.base().abandon();
            }
            Deed::Begin => _ = self.wire.begin(&self.frames),
            Deed::End(which) => self.wire.end(which),
        }
    }

    fn check(mut self) {
        self.wire.finish(&self.frames);
        assert_eq!(self.wire.sent, self.promised, "sent, in order, once");
        assert_eq!(self.base().free(), FRAMES, "a frame is lost");
        // Each can be used, and all at once.
        assert_eq!(self.put(2 * FRAMES, 1).len(), FRAMES as usize);
        self.base().publish();
        let mut all = self.wire.pending();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), FRAMES as usize);
    }
}

proptest! {
    #[test]
    fn a_death_between_any_two_steps_loses_no_frame_and_sends_what_was_handed_over_once(
        deeds in prop::collection::vec(deed(), 0..60),
        late: bool,
    ) {
        let mut stage = Stage::new(late);
        deeds.into_iter().for_each(|deed| stage.do_it(deed));
        stage.check();
    }
}

#[test]
fn counts_that_begin_anew_change_nothing() {
    // As after 2^32 frames, less a few.
    let past = u32::MAX - 2;
    let mut stage = Stage::new(false);
    stage.transmit.ring().set_producer(past);
    stage.transmit.ring().set_consumer(past);
    stage.wire = Wire::new(&stage.transmit, &stage.completion, false);
    let completion = stage.completion.ring();
    for frame in 0..FRAMES {
        let count = past.wrapping_sub(FRAMES).wrapping_add(frame);
        completion.set_address(count, FIRST + u64::from(frame) * FRAME);
    }
    completion.set_consumer(past.wrapping_sub(FRAMES));
    completion.set_producer(past);
    for round in 0..6 {
        for deed in [Deed::Send(3, 1), Deed::Begin, Deed::Begin, Deed::Begin, Deed::End(round)] {
            stage.do_it(deed);
        }
        stage.do_it(Deed::Die(2, 1, (round % 3) as u8 + 1));
        for deed in [Deed::End(1), Deed::Begin, Deed::End(0), Deed::End(0), Deed::End(0)] {
            stage.do_it(deed);
        }
    }
    stage.check();
}

#[test]
fn rings_that_contradict_each_other_are_refused() {
    for (written, used_up, completed) in [(9, 2, 4), (2, 3, 3), (5, 0, 0), (0, 1, 1)] {
        let stage = Stage::new(false);
        stage.transmit.ring().set_producer(written);
        stage.transmit.ring().set_consumer(written);
        stage.completion.ring().set_consumer(used_up);
        stage.completion.ring().set_producer(completed);
        let (transmit, completion) = (stage.transmit.ring(), stage.completion.ring());
        let adopted = Outward::adopt(transmit, completion, FIRST, FRAMES);
        assert!(adopted.is_err(), "{written} {used_up} {completed}");
    }
}

/// A way out with many frames, all of them handed over, and what a kernel does when it is woken.
fn handed_over(late: bool) -> (Outward, Wire, Frames) {
    const MANY: u32 = 128;
    let (transmit, completion) = (Kept::new(MANY, 0), Kept::new(2 * MANY, 0));
    transmit.ask_for_wakeups();
    let wire = Wire::new(&transmit, &completion, late);
    let mut out = Outward::adopt(transmit.ring(), completion.ring(), FIRST, MANY).unwrap();
    let mut frames = Frames::new();
    for number in 0..MANY {
        out.put(1, |_, address| {
            frames.insert(address, number);
            Some(60)
        })
        .unwrap();
    }
    out.publish();
    (out, wire, frames)
}

#[test]
fn everything_is_sent_though_the_kernel_tells_late_how_far_it_has_come() {
    for late in [false, true] {
        let (out, mut wire, frames) = handed_over(late);
        let mut calls = 0;
        let woken = out.wake(|| {
            calls += 1;
            wire.call(TAKEN_AT_ONCE, &frames)
        });
        assert_eq!((woken, wire.sent.len(), out.unsent()), (Woken::default(), 128, 0), "{late}");
        assert_eq!(calls, 4, "{late}");
    }
}

#[test]
fn a_kernel_that_sends_nothing_is_not_asked_for_ever() {
    for (answer, most) in
        [(Ok(()), 1), (Err(Errno::NOBUFS), 1), (Err(Errno::AGAIN), 5), (Err(Errno::NETDOWN), 1)]
    {
        let (out, ..) = handed_over(false);
        let mut calls = 0;
        let woken = out.wake(|| {
            calls += 1;
            answer
        });
        assert_eq!((woken, calls), (Woken::default(), most), "{answer:?}");
    }
}

#[test]
fn what_is_thrown_away_is_told_and_so_is_a_card_that_is_gone() {
    let (out, mut wire, frames) = handed_over(false);
    let mut calls = 0;
    let woken = out.wake(|| {
        calls += 1;
        wire.begin(&frames);
        if calls <= 3 { Err(Errno::BUSY) } else { Err(Errno::NXIO) }
    });
    assert_eq!((woken, calls), (Woken { lost: 3, gone: true }, 4));
}

#[test]
fn a_frame_in_pieces_is_marked_and_counted_as_one() {
    let mut stage = Stage::new(false);
    assert_eq!(stage.put(1, 3), [0, 1, 2]);
    assert_eq!(stage.put(1, 2), [0; 0], "no part of one that does not fit");
    assert_eq!(stage.put(1, 1), [3]);
    stage.base().publish();
    assert_eq!((stage.base().unsent(), stage.base().unsent_frames()), (4, 2));
    let transmit = stage.transmit.ring();
    let goes_on: Vec<_> = (0..4).map(|n| transmit.descriptor(n).goes_on()).collect();
    assert_eq!(goes_on, [true, true, false, false]);
}

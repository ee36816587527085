//! Deaths, one after the other, and what is held against whom.

use super::*;
use crate::names::{Inlet, Lane, Pair, RingId};
use crate::offload::Offload;
use crate::state::suspicion::Care;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const C: PortId = PortId(3);
const LAN: NetworkId = NetworkId(0);

fn state() -> StateMemory {
    StateMemory::create().unwrap().0
}

/// A death of the base's own making, with these marks.
fn dies(state: &StateMemory, mark: impl FnOnce(&Marks)) -> Vec<Verdict> {
    let marks = Marks::of(state);
    mark(&marks);
    let verdicts = judge(state, true, 100);
    assert_eq!(marks.found(), Found::default());
    verdicts
}

fn suspected(verdicts: &[Verdict]) -> bool {
    matches!(verdicts, [Verdict::Suspected(_)])
}

#[test]
fn the_second_death_within_the_batch_of_the_first_quarantines_its_port_by_the_datagram() {
    let state = state();
    assert!(suspected(&dies(&state, |m| m.datagram(Lane::first(A), 65_530, 10))));
    let care = Care::at(65_530, PortSuspicion::of(&state, A).sent(Pair::FIRST), None);
    assert_eq!(care.most(), 1);
    let why = Quarantine::Sending(Pair::FIRST, 2);
    assert_eq!(dies(&state, |m| m.datagram(Lane::first(A), 2, 1)), [Verdict::Quarantined(A, why)]);
    assert_eq!(PortSuspicion::of(&state, A).quarantine(), Some(why));
    assert_eq!(PortSuspicion::of(&state, B).quarantine(), None);
}

#[test]
fn a_death_is_held_against_all_workers_and_the_next_against_the_one_that_was_at_work() {
    let state = state();
    let mark = |worker, port| Marks::of_worker(&state, worker).datagram(Lane::first(port), 40, 8);
    mark(0, B);
    mark(1, A);
    let verdicts = judge(&state, true, 100);
    let both = [A, B].map(|port| PortSuspicion::of(&state, port).sent(Pair::FIRST).is_some());
    assert_eq!((verdicts.len(), both), (2, [true, true]));
    // One at a time now: whoever was beside it has no mark.
    mark(1, A);
    let why = Quarantine::Sending(Pair::FIRST, 40);
    assert_eq!(judge(&state, true, 101), [Verdict::Quarantined(A, why)]);
    assert_eq!(PortSuspicion::of(&state, B).quarantine(), None);
}

#[test]
fn deaths_with_progress_in_between_are_accidents() {
    let state = state();
    for n in 0..100u16 {
        let index = n.wrapping_mul(700);
        let verdicts = dies(&state, |m| {
            m.datagram(Lane::first(A), index, 64);
            m.delivering(Lane::first(B), index);
        });
        assert!(suspected(&verdicts), "{n}: {verdicts:?}");
    }
}

#[test]
fn kills_from_outside_are_held_against_nobody() {
    let state = state();
    let record = PortRecord::of(&state, B);
    let marks = Marks::of(&state);
    for _ in 0..100 {
        marks.datagram(Lane::first(A), 7, 1);
        marks.delivering(Lane::first(B), 9);
        marks.set_door(Some(C));
        marks.set_network(Some(LAN));
        record.open_request(5);
        assert_eq!(judge(&state, false, 0), []);
        assert_eq!(marks.found(), Found::default());
    }
    for port in [A, B, C] {
        let suspicion = PortSuspicion::of(&state, port);
        assert_eq!((suspicion.quarantine(), suspicion.adoptions()), (None, 0));
        assert_eq!((suspicion.sent(Pair::FIRST), suspicion.receiving(Pair::FIRST)), (None, None));
    }
    assert_eq!((record.interruptions(), NetworkSuspicion::of(&state, LAN).adoptions()), (0, 0));
}

#[test]
fn a_ring_that_stood_while_its_senders_went_on_is_what_kills() {
    let state = state();
    assert!(suspected(&dies(&state, |m| {
        m.datagram(Lane::first(A), 10, 4);
        m.delivering(Lane::first(C), 77);
    })));
    let verdicts = dies(&state, |m| {
        m.frame(LAN, Inlet::PACKET, 3, 1);
        m.delivering(Lane::first(C), 77);
    });
    assert_eq!(verdicts, [Verdict::Quarantined(C, Quarantine::Receiving(Pair::FIRST, 77))]);
}

#[test]
fn a_sender_that_stood_while_the_ring_went_on_is_what_kills() {
    let state = state();
    for (index, expected) in [(77, None), (80, Some(Quarantine::Sending(Pair::FIRST, 10)))] {
        let verdicts = dies(&state, |m| {
            m.datagram(Lane::first(A), 10, 1);
            m.delivering(Lane::first(C), index);
        });
        assert_eq!(suspected(&verdicts), expected.is_none());
        assert_eq!(PortSuspicion::of(&state, A).quarantine(), expected);
    }
    assert_eq!(PortSuspicion::of(&state, C).quarantine(), None);
}

#[test]
fn one_sender_costs_one_receiver_and_then_itself() {
    let state = state();
    let die = |receiver: PortId, index: u16| {
        dies(&state, |m| {
            m.datagram(Lane::first(A), index, 1);
            m.delivering(Lane::first(receiver), 5);
        })
    };
    assert!(suspected(&die(B, 10)));
    assert_eq!(die(B, 10), [Verdict::Quarantined(B, Quarantine::Receiving(Pair::FIRST, 5))]);
    assert!(suspected(&die(C, 500)));
    assert_eq!(die(C, 500), [Verdict::Quarantined(A, Quarantine::Sending(Pair::FIRST, 500))]);
    assert_eq!(PortSuspicion::of(&state, C).quarantine(), None);
}

#[test]
fn a_card_costs_one_receiver_and_then_its_frames_are_left_out() {
    let state = state();
    let die = |receiver: PortId, number: u64| {
        dies(&state, |m| {
            m.frame(LAN, Inlet::PACKET, number, 1);
            m.delivering(Lane::first(receiver), 5);
        })
    };
    die(B, 10);
    assert_eq!(die(B, 10), [Verdict::Quarantined(B, Quarantine::Receiving(Pair::FIRST, 5))]);
    die(C, 500);
    assert_eq!(die(C, 500), [Verdict::FrameLeftOut(LAN, 500)]);
}

#[test]
fn a_port_that_dies_of_its_own_ring_is_blamed_itself() {
    let state = state();
    let die = || {
        dies(&state, |m| {
            m.datagram(Lane::first(A), 1, 1);
            m.delivering(Lane::first(A), 5);
        })
    };
    die();
    assert_eq!(die(), [Verdict::Quarantined(A, Quarantine::Receiving(Pair::FIRST, 5))]);
    assert!(!PortSuspicion::of(&state, A).has_cost_a_receiver(100));
}

#[test]
fn a_frame_of_which_a_base_dies_twice_is_left_out() {
    let state = state();
    let number = 0x5_0000_fffe;
    for inlet in [Inlet::PACKET, Inlet::queue(0), Inlet::queue(3)] {
        assert!(suspected(&dies(&state, |m| m.frame(LAN, inlet, number, 5))));
        let card = NetworkSuspicion::of(&state, LAN);
        let first = Some(Stretch { at: 0xfffe, len: 5 });
        assert_eq!((card.frames(inlet), card.skip_frame(inlet)), (first, None));
        let verdict = dies(&state, |m| m.frame(LAN, inlet, number + 3, 1));
        assert_eq!(verdict, [Verdict::FrameLeftOut(LAN, 1)]);
        assert_eq!(card.skip_frame(inlet), Some(1));
    }
}

#[test]
fn a_frame_of_another_ring_is_another_frame() {
    let state = state();
    let card = NetworkSuspicion::of(&state, LAN);
    for inlet in [Inlet::PACKET, Inlet::queue(0), Inlet::PACKET] {
        assert!(suspected(&dies(&state, |m| m.frame(LAN, inlet, 7, 1))));
    }
    assert_eq!(card.frames(Inlet::queue(0)), None);
    card.forget_frames(Inlet::queue(0));
    assert_eq!(card.frames(Inlet::PACKET), Some(Stretch { at: 7, len: 1 }));
}

#[test]
fn a_datagram_from_the_host_of_which_a_base_dies_twice_is_left_out() {
    let state = state();
    assert!(suspected(&dies(&state, |m| m.host(LAN))));
    assert_eq!(dies(&state, |m| m.host(LAN)), [Verdict::HostLeftOut(LAN)]);
    let host = NetworkSuspicion::of(&state, LAN);
    assert!(host.skip_host() && !host.host());
}

#[test]
fn a_waiting_datagram_of_which_a_base_dies_twice_is_dropped_at_its_owner() {
    let state = state();
    let mut pending = crate::pending::Pending::adopt(state.clone());
    let (owner, hop) = (Owner::Port(A), "203.0.113.1".parse().unwrap());
    for content in [[1; 40], [2; 40]] {
        assert_eq!(pending.push(LAN, owner, hop, &Offload::default(), &content), None);
    }
    assert!(suspected(&dies(&state, |m| m.waiting(0))));
    assert_eq!(dies(&state, |m| m.waiting(0)), [Verdict::WaitingDropped(owner)]);
    assert_eq!(Counters::of(&state, owner).get(Counter::DropPoison), 1);
    let mut pending = crate::pending::Pending::adopt(state.clone());
    assert_eq!(pending.next(LAN, hop).unwrap().bytes(), [2; 40]);
    assert_eq!(dies(&state, |m| m.waiting(40_000)).len(), 1, "no such slot");
    assert_eq!(dies(&state, |m| m.waiting(40_000)), []);
}

#[test]
fn the_second_death_at_the_same_request_quarantines_the_port_and_shuts_its_front_end_out() {
    let state = state();
    let record = PortRecord::of(&state, B);
    let negotiate = |requests: u32| {
        record.forget_negotiation();
        for request in 1..=requests {
            record.open_request(request);
            record.close_request();
        }
    };
    negotiate(4);
    record.open_request(10);
    assert_eq!(dies(&state, |_| {}), []);
    negotiate(4);
    record.open_request(10);
    let why = Quarantine::Request(10);
    assert_eq!(dies(&state, |_| {}), [Verdict::Quarantined(B, why)]);
    assert!(why.shuts_out());
    assert_eq!(
        why.to_string(),
        "the base died twice of the request SET_VRING_BASE of its front end"
    );
}

#[test]
fn a_port_that_cannot_be_taken_over_is_made_anew_and_then_quarantined() {
    let state = state();
    let suspicion = PortSuspicion::of(&state, C);
    for times in 1..LAST_ADOPTION {
        assert_eq!(dies(&state, |m| m.set_door(Some(C))), []);
        assert_eq!((suspicion.adoptions(), suspicion.quarantine()), (times, None));
    }
    let verdicts = dies(&state, |m| m.set_door(Some(C)));
    assert_eq!(verdicts, [Verdict::Quarantined(C, Quarantine::Adoption)]);
    dies(&state, |m| m.set_network(Some(LAN)));
    assert_eq!(NetworkSuspicion::of(&state, LAN).adoptions(), 1);
}

#[test]
fn after_a_reset_only_the_poison_is_left_out() {
    let state = state();
    for _ in 0..2 {
        dies(&state, |m| m.datagram(Lane::first(A), 9, 1));
    }
    let port = PortSuspicion::of(&state, A);
    assert_eq!(port.release(), Some(Quarantine::Sending(Pair::FIRST, 9)));
    assert!(Care::at(9, port.sent(Pair::FIRST), port.skip(RingId::TX)).skip);
    assert!(!Care::at(10, port.sent(Pair::FIRST), port.skip(RingId::TX)).skip);
}

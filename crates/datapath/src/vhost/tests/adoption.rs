//! A base dies and its successor takes the front ends over, or shuts them out and says why.

use std::io::Write;

use proptest::prelude::*;
use vhost::vhost_user::message::FrontendReq;

use super::stage::{FEATURES, Guest, ID, Message, PATIENCE, Stage, Step};
use crate::names::RingId;
use crate::state::port::MemorySlot;
use crate::vhost::{PortEvent, Refusal, Renegotiate, Socket, features};

/// Waits until the last request's mark is closed, which is after its reply.
fn quiet(stage: &Stage) {
    assert!(stage.handle.answers_within(PATIENCE));
}

fn negotiated(guest: &Guest) -> (Stage, super::stage::FrontEnd) {
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    quiet(&stage);
    (stage, front)
}

fn why(stage: &Stage) -> Renegotiate {
    match stage.event() {
        PortEvent::Renegotiate { why } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_front_end_notices_nothing_of_a_takeover() {
    let guest = Guest::new();
    let (mut stage, mut front) = negotiated(&guest);
    for _ in 0..3 {
        for id in RingId::FIRST {
            guest.interrupts(id);
        }
        // Half a message lies in the socket when the base dies, the rest comes while there is none.
        let question = Message::new(FrontendReq::GET_PROTOCOL_FEATURES, &[]).bytes();
        front.socket.write_all(&question[..7]).unwrap();
        stage = stage.succeed();
        front.socket.write_all(&question[7..]).unwrap();
        stage.add(stage.door()).unwrap();
        assert!(matches!(stage.event(), PortEvent::Adopted));
        let answer = front.reply().unwrap();
        assert_eq!(answer.1, features::PROTOCOL_OFFERED.to_ne_bytes());
        assert_eq!(stage.owner.steps(), [Step::Start(RingId::RX), Step::Start(RingId::TX)]);
        for id in RingId::FIRST {
            let ring = stage.owner.ring(id).unwrap();
            assert_eq!(ring.layout, guest.rings[usize::from(id.number())].layout());
            assert_eq!(ring.features, FEATURES);
            assert_eq!(guest.interrupts(id), 1);
        }
        assert_eq!(front.check(&guest.region(FrontendReq::REM_MEM_REG, 1)), Some(true));
        assert_eq!(front.check(&guest.region(FrontendReq::ADD_MEM_REG, 1)), Some(true));
    }
    drop(front);
    assert!(matches!(stage.event(), PortEvent::Detached { .. }));
    stage.connect().say(&guest.conversation());
}

#[test]
fn a_front_end_is_taken_over_at_every_point_of_its_conversation() {
    let guest = Guest::new();
    let conversation = guest.conversation();
    for said in 0..=conversation.len() {
        let stage = Stage::listening();
        let mut front = stage.connect();
        front.say(&conversation[..said]);
        let stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        front.say(&conversation[said..]);
        assert_eq!(stage.owner.running(), 2, "after {said} messages");
    }
}

#[test]
fn a_front_end_whose_request_was_cut_off_has_to_negotiate_anew() {
    let guest = Guest::new();
    let (mut stage, mut front) = negotiated(&guest);
    for _ in 0..3 {
        stage.record().open_request(FrontendReq::SET_MEM_TABLE.into());
        stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        assert_eq!(why(&stage).to_string(), "the base died while it carried out SET_MEM_TABLE");
        assert!(front.is_hung_up());
        assert_eq!(stage.owner.running(), 0);
        assert_eq!(stage.keeper.keys(), ["port/web/listener"]);
        front = stage.connect();
        front.say(&guest.conversation());
        assert_eq!(stage.owner.running(), 2);
        assert!(matches!(stage.event(), PortEvent::Attached));
        quiet(&stage);
    }
}

#[test]
fn a_front_end_that_left_while_there_was_no_base_is_found_gone() {
    let guest = Guest::new();
    let (stage, front) = negotiated(&guest);
    let stage = {
        drop(front);
        stage.succeed()
    };
    stage.add(stage.door()).unwrap();
    let mut next = stage.connect();
    next.say(&guest.conversation());
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn a_port_without_a_front_end_is_taken_over_with_its_listener() {
    let stage = Stage::listening().succeed();
    let waiting = stage.connect();
    stage.add(stage.door()).unwrap();
    assert!(matches!(stage.event(), PortEvent::Attached));
    let mut waiting = waiting;
    assert!(waiting.settle());
}

#[test]
fn a_record_that_contradicts_what_was_kept_costs_the_connection_only() {
    type Spoil = fn(&Stage);
    type Check = fn(&Renegotiate) -> bool;
    let cases: [(Spoil, Check); 8] = [
        (
            |s| crate::keeper::Keeper::forget(&*s.keeper, "port/web/memory/1").unwrap(),
            |w| matches!(w, Renegotiate::NotKept { key } if key == "port/web/memory/1"),
        ),
        (
            |s| crate::keeper::Keeper::forget(&*s.keeper, "port/web/tx/kick").unwrap(),
            |w| matches!(w, Renegotiate::NotKept { key } if key == "port/web/tx/kick"),
        ),
        (
            |s| crate::keeper::Keeper::forget(&*s.keeper, "port/web/connection").unwrap(),
            |w| matches!(w, Renegotiate::NotKept { key } if key == "port/web/connection"),
        ),
        (|s| s.record().set_features(u64::MAX), |w| matches!(w, Renegotiate::Record(_))),
        (
            |s| s.record().update_ring(RingId::TX, |r| r.size = 3),
            |w| matches!(w, Renegotiate::Refused(Refusal::RingSize { size: 3 })),
        ),
        (
            |s| {
                let slot = s.record().slot(0).unwrap();
                s.record().set_slot(2, Some(slot));
                s.record().open_request(1);
                let file = s.keeper.kept().remove("port/web/memory/0").unwrap();
                let file = std::os::fd::AsFd::as_fd(&file);
                crate::keeper::Keeper::keep(&*s.keeper, "port/web/memory/2", file).unwrap();
                s.record().close_request();
            },
            |w| matches!(w, Renegotiate::Refused(Refusal::Memory(_))),
        ),
        (
            |s| {
                let slot = s.record().slot(0).unwrap();
                s.record().set_slot(0, Some(MemorySlot { len: u64::MAX, ..slot }));
            },
            |w| matches!(w, Renegotiate::Refused(Refusal::Region { .. })),
        ),
        (
            |s| {
                s.record().update_ring(RingId::RX, |r| {
                    if let Some(addresses) = &mut r.addresses {
                        addresses.used = 16;
                    }
                });
            },
            |w| matches!(w, Renegotiate::Refused(Refusal::RingOutside { .. })),
        ),
    ];
    for (spoil, expected) in cases {
        let guest = Guest::new();
        let (stage, mut front) = negotiated(&guest);
        spoil(&stage);
        // Behind the seal, each part is looked at again.
        stage.record().seal();
        let without_connection = !stage.keeper.keys().contains(&"port/web/connection".to_owned());
        let stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        let told = why(&stage);
        assert!(expected(&told), "{told:?}");
        assert!(without_connection || front.is_hung_up());
        assert_eq!(stage.owner.running(), 0);
        assert_eq!(stage.keeper.keys(), ["port/web/listener"]);
        stage.connect().say(&guest.conversation());
    }
}

#[test]
fn a_ring_that_was_broken_stays_stopped_in_the_successor() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    stage.record().set_fault(RingId::RX, Some(1));
    let stage = stage.succeed();
    stage.add(stage.door()).unwrap();
    assert_eq!(stage.owner.steps(), [Step::Start(RingId::TX)]);
    front.say(&[guest.set_kick(RingId::RX)]);
    assert_eq!(stage.owner.steps(), [Step::Start(RingId::RX)]);
}

#[test]
fn a_living_front_end_is_offered_what_it_was_offered_before() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    let stage = stage.succeed();
    let mut door = stage.door();
    door.features_mask = features::VERSION_1;
    stage.add(door).unwrap();
    assert_eq!(front.get(FrontendReq::GET_FEATURES), Some(features::OFFERED));
    stage.handle.reset_port(ID);
    let mut next = stage.connect();
    assert_eq!(next.get(FrontendReq::GET_FEATURES), Some(features::VERSION_1));
}

#[test]
fn a_door_that_moved_takes_the_living_front_end_along() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    let stage = stage.succeed();
    let old = stage.path();
    let mut door = stage.door();
    door.socket = Socket::Listen(stage.dir.path().join("moved.sock"));
    stage.add(door).unwrap();
    assert!(matches!(stage.event(), PortEvent::Adopted));
    assert!(front.settle());
    assert!(!old.exists());
    let stage = stage.succeed();
    let mut door = stage.door();
    door.socket = Socket::Connect(old);
    stage.add(door).unwrap();
    assert!(front.settle());
    assert!(!stage.keeper.keys().contains(&"port/web/listener".to_owned()));
}

#[test]
fn a_door_that_cannot_be_opened_shuts_the_predecessors_front_end_out() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    let stage = stage.succeed();
    let mut door = stage.door();
    door.socket = Socket::Listen(stage.dir.path().join("no/such/directory"));
    assert!(stage.add(door).is_err());
    assert!(front.is_hung_up());
    assert_eq!(stage.owner.running(), 0);
}

#[test]
fn no_spoilt_record_harms_the_successor() {
    let word = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        (0..64u32).prop_map(|n| 1 << n),
        (0..256u64),
        any::<u64>(),
    ];
    // The rings, the memory slots, and what lies before them.
    let place = prop_oneof![8..18usize, 32..64usize, 128..160usize];
    let spoilt = (prop::collection::vec((place, word), 1..5), any::<bool>());
    let guest = Guest::new();
    let config = ProptestConfig::with_cases(128);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&spoilt, |(words, sealed)| {
        let (stage, front) = negotiated(&guest);
        for (place, word) in words {
            stage.state.put(crate::state::port_at(ID) + place * 8, word);
        }
        if sealed {
            stage.record().seal();
        }
        let stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        prop_assert!(stage.handle.answers_within(PATIENCE));
        drop(front);
        stage.handle.reset_port(ID);
        prop_assert_eq!(stage.owner.running(), 0);
        let mut next = stage.connect();
        next.say(&guest.conversation());
        prop_assert_eq!(stage.owner.running(), 2);
        Ok(())
    });
    outcome.unwrap();
}

//! Front ends whose port is quarantined: for what goes through its rings, for what they say.

use std::os::unix::net::UnixStream;

use vhost::vhost_user::message::FrontendReq;

use super::stage::{Guest, ID, PATIENCE, Stage, Step};
use crate::names::{Lane, Pair, RingId};
use crate::state::blame::{LAST_ADOPTION, Verdict, judge};
use crate::state::marks::Marks;
use crate::state::suspicion::Quarantine;
use crate::vhost::{PortEvent, Renegotiate};

/// The base dies of its own making; what its successor decides, before it takes anything over.
fn die(stage: Stage, mark: impl FnOnce(&Stage)) -> (Stage, Vec<Verdict>) {
    assert!(stage.handle.answers_within(PATIENCE));
    mark(&stage);
    let stage = stage.succeed();
    let verdicts = judge(&stage.state, true, 0);
    (stage, verdicts)
}

/// Frees the port as the base does.
fn free(stage: &Stage) -> Option<Quarantine> {
    let why = stage.record().suspicion().release();
    stage.handle.free_port(ID).unwrap();
    why
}

#[test]
fn a_request_that_kills_twice_shuts_the_door_until_the_port_is_freed() {
    let guest = Guest::new();
    let kills = |stage: &Stage| stage.record().open_request(FrontendReq::SET_VRING_BASE.into());
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    let (stage, verdicts) = die(stage, kills);
    assert_eq!(verdicts, []);
    stage.add(stage.door()).unwrap();
    let PortEvent::Renegotiate { why } = stage.event() else { panic!("not told") };
    assert!(matches!(why, Renegotiate::RequestOpen { times: 1, .. }), "{why}");
    assert!(front.is_hung_up());
    let mut front = stage.connect();
    front.say(&guest.conversation());

    let (mut stage, verdicts) = die(stage, kills);
    let why = Quarantine::Request(u32::from(FrontendReq::SET_VRING_BASE) as u16);
    assert_eq!(verdicts, [Verdict::Quarantined(ID, why)]);
    // It outlives more than one takeover.
    for _ in 0..2 {
        stage.add(stage.door()).unwrap();
        assert!(front.is_hung_up());
        assert_eq!(stage.keeper.keys(), [""; 0]);
        assert!(UnixStream::connect(stage.path()).is_err());
        assert_eq!(stage.owner.running(), 0);
        stage = stage.succeed();
        assert_eq!(judge(&stage.state, false, 0), []);
    }
    stage.add(stage.door()).unwrap();
    assert_eq!(free(&stage), Some(why));
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert_eq!(stage.owner.running(), 2);
    assert_eq!(free(&stage), None);
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn a_port_quarantined_for_its_rings_keeps_its_front_end_and_they_stand_still() {
    let guest = Guest::new();
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    let (stage, _) = die(stage, |s| Marks::of(&s.state).datagram(Lane::first(ID), 3, 1));
    stage.add(stage.door()).unwrap();
    assert_eq!(stage.owner.steps(), [Step::Start(RingId::RX), Step::Start(RingId::TX)]);
    let (stage, verdicts) = die(stage, |s| Marks::of(&s.state).datagram(Lane::first(ID), 3, 1));
    assert_eq!(verdicts, [Verdict::Quarantined(ID, Quarantine::Sending(Pair::FIRST, 3))]);
    stage.add(stage.door()).unwrap();
    assert!(matches!(stage.event(), PortEvent::Adopted));
    assert_eq!(stage.owner.steps(), []);
    // A guest that starts its driver anew meanwhile is served, and waits as well.
    front.say(&[guest.set_kick(RingId::RX), guest.set_kick(RingId::TX)]);
    assert_eq!(stage.owner.running(), 0);
    assert!(free(&stage).is_some());
    assert_eq!(stage.owner.steps(), [Step::Start(RingId::RX), Step::Start(RingId::TX)]);
    assert!(front.settle());
    assert_eq!(stage.record().suspicion().skip(RingId::TX), Some(3));
}

#[test]
fn a_front_end_that_comes_to_a_quarantined_port_gets_its_rings_when_that_is_freed() {
    let guest = Guest::new();
    let stage = Stage::listening();
    stage.record().suspicion().set_quarantine(Quarantine::Receiving(Pair::FIRST, 0));
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert_eq!(stage.owner.running(), 0);
    assert!(free(&stage).is_some());
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn a_front_end_of_whose_takeover_the_base_dies_negotiates_anew_and_then_is_shut_out() {
    let guest = Guest::new();
    let mut stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    for times in 1..LAST_ADOPTION {
        let verdicts;
        (stage, verdicts) = die(stage, |s| Marks::of(&s.state).set_door(Some(ID)));
        assert_eq!((verdicts, stage.record().suspicion().adoptions()), (vec![], times));
    }
    stage.add(stage.door()).unwrap();
    let PortEvent::Renegotiate { why } = stage.event() else { panic!("not told") };
    assert!(matches!(why, Renegotiate::Deadly { times: 2 }), "{why}");
    assert!(front.is_hung_up());
    assert_eq!(stage.record().suspicion().adoptions(), 0, "it was taken over");
    let mut front = stage.connect();
    front.say(&guest.conversation());
    for _ in 0..LAST_ADOPTION {
        (stage, _) = die(stage, |s| Marks::of(&s.state).set_door(Some(ID)));
    }
    stage.add(stage.door()).unwrap();
    assert!(front.is_hung_up());
    assert!(UnixStream::connect(stage.path()).is_err());
    assert_eq!(free(&stage), Some(Quarantine::Adoption));
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert_eq!(stage.owner.running(), 2);
}

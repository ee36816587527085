//! Front ends with several queue pairs: what they are offered, which of their rings run, and what a
//! successor finds of them.

use std::collections::BTreeSet;

use vhost::vhost_user::message::FrontendReq;

use super::stage::{FrontEnd, Guest, ID, Message, PATIENCE, Stage, Step, pair};
use crate::keeper::Keeper as _;
use crate::names::{MAX_PAIRS, Pair, RingId, Side};
use crate::state::suspicion::Quarantine;
use crate::vhost::{PortDoor, PortEvent, Refusal, Renegotiate, features};

const PAIRS: usize = 4;

fn door(stage: &Stage, pairs: usize) -> PortDoor {
    PortDoor { pairs, ..stage.door() }
}

fn stage() -> Stage {
    let stage = Stage::new();
    stage.add(door(&stage, PAIRS)).unwrap();
    stage
}

fn negotiated(guest: &Guest) -> (Stage, FrontEnd) {
    let stage = stage();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert!(stage.handle.answers_within(PATIENCE));
    (stage, front)
}

/// The rings that run.
fn running(stage: &Stage) -> BTreeSet<RingId> {
    RingId::all(MAX_PAIRS).filter(|id| stage.owner.ring(*id).is_some()).collect()
}

fn ring(number: u32) -> RingId {
    RingId::from_number(number, MAX_PAIRS).unwrap()
}

#[test]
fn several_pairs_are_offered_where_the_port_has_them_and_all_their_rings_run() {
    for pairs in [1, 2, PAIRS, MAX_PAIRS] {
        let (stage, guest) = (Stage::new(), Guest::with(pairs));
        stage.add(door(&stage, pairs)).unwrap();
        let mut front = stage.connect();
        let several = pairs > 1;
        let offered = front.get(FrontendReq::GET_FEATURES).unwrap();
        assert_eq!(offered & features::MQ != 0, several);
        let offered = front.get(FrontendReq::GET_PROTOCOL_FEATURES).unwrap();
        assert_eq!(offered & features::PROTOCOL_MQ != 0, several);
        // QEMU 7.2 would add each region of memory once for every pair.
        assert_eq!(offered & features::MEM_SLOTS != 0, !several);
        assert_eq!(front.get(FrontendReq::GET_QUEUE_NUM), Some(pairs as u64));
        front.say(&guest.conversation());
        assert_eq!(running(&stage), guest.all().collect());
        for id in guest.all() {
            let found = stage.owner.ring(id).unwrap();
            assert_eq!(found.layout, guest.rings[usize::from(id.number())].layout(), "{id}");
        }
    }
}

#[test]
fn a_front_end_that_starts_the_first_pair_only_has_that() {
    let (stage, guest) = (stage(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation_with(PAIRS));
    assert_eq!(running(&stage), RingId::FIRST.into());
}

#[test]
fn a_ring_that_the_port_does_not_have_is_refused_and_nothing_changes() {
    let (stage, guest) = (stage(), Guest::with(PAIRS));
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.events();
    stage.owner.steps();
    let outside = 2 * PAIRS as u64;
    for number in [outside, outside + 1, 0xff] {
        let bell = |request| Message::new(request, &[number]).with(&guest.kicks[0]);
        for said in [
            Message::new(FrontendReq::SET_VRING_NUM, &[256 << 32 | number]),
            Message::new(FrontendReq::SET_VRING_ENABLE, &[number]),
            Message::new(FrontendReq::SET_VRING_ADDR, &[number, 0, 0, 0, 0]),
            bell(FrontendReq::SET_VRING_KICK),
            bell(FrontendReq::SET_VRING_CALL),
        ] {
            assert_eq!(front.check(&said), Some(false), "{said:?}");
        }
    }
    for event in stage.events() {
        let PortEvent::Refused { why: why @ Refusal::RingIndex { .. }, .. } = event else {
            panic!("{event:?}");
        };
        assert!(why.to_string().contains("this port has 4 queue pairs"), "{why}");
    }
    assert_eq!((stage.owner.steps(), running(&stage).len()), (vec![], 2 * PAIRS));
    // Where the protocol has an answer of its own, nothing can be refused.
    front.send(&Message::new(FrontendReq::GET_VRING_BASE, &[outside])).unwrap();
    assert!(front.is_hung_up());
    assert!(stage.connect().settle());
}

#[test]
fn a_ring_is_taken_out_of_use_and_comes_back_while_the_others_run() {
    let (stage, guest) = (stage(), Guest::with(PAIRS));
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.owner.steps();
    let [rx, tx] = [ring(4), ring(5)];
    front.say(&[Guest::enable(rx, false), Guest::enable(tx, false)]);
    assert_eq!(stage.owner.steps(), [Step::Stop(rx), Step::Stop(tx)]);
    front.say(&[Guest::enable(rx, true)]);
    assert_eq!(stage.owner.steps(), [Step::Start(rx)]);
    assert_eq!(
        front.ask(&Message::new(FrontendReq::GET_VRING_BASE, &[pair(rx, 0)])).map(|b| b as u32),
        Some(4)
    );
    front.say(&[guest.set_kick(rx)]);
    assert_eq!(running(&stage), guest.all().filter(|id| *id != tx).collect());
}

#[test]
fn a_front_end_with_several_pairs_is_taken_over_at_every_point_of_its_conversation() {
    let guest = Guest::with(PAIRS);
    let conversation = guest.conversation();
    for said in 0..=conversation.len() {
        let stage = stage();
        let mut front = stage.connect();
        front.say(&conversation[..said]);
        let before = running(&stage);
        let stage = stage.succeed();
        // Its configuration may say something else now: what was offered stands.
        stage.add(door(&stage, 1 + said % 2)).unwrap();
        assert!(matches!(stage.event(), PortEvent::Adopted), "after {said} messages");
        assert_eq!(running(&stage), before, "after {said} messages");
        assert_eq!(front.get(FrontendReq::GET_QUEUE_NUM), Some(PAIRS as u64));
        front.say(&conversation[said..]);
        assert_eq!(running(&stage), guest.all().collect(), "after {said} messages");
    }
}

#[test]
fn what_was_not_kept_of_any_ring_costs_the_connection_and_the_next_leaves_nothing_behind() {
    let guest = Guest::with(PAIRS);
    for key in ["rx1/kick", "tx1/call", "rx3/call", "tx3/kick"] {
        let (stage, mut front) = negotiated(&guest);
        let key = format!("port/web/{key}");
        assert!(stage.keeper.keys().contains(&key), "{key}");
        stage.keeper.forget(&key).unwrap();
        let stage = stage.succeed();
        stage.add(door(&stage, 2)).unwrap();
        let PortEvent::Renegotiate { why: Renegotiate::NotKept { key: missed } } = stage.event()
        else {
            panic!("{key}");
        };
        assert_eq!(missed, key);
        assert!(front.is_hung_up());
        assert_eq!(stage.keeper.keys(), ["port/web/listener"]);
        // Fewer pairs now: nothing of the others is found again when there are more.
        let fewer = Guest::with(2);
        let mut front = stage.connect();
        front.say(&fewer.conversation_with(2));
        assert!(stage.handle.answers_within(PATIENCE));
        assert_eq!(running(&stage), fewer.all().collect());
        let record = stage.record();
        let unused = |id: &RingId| record.ring(*id).size == 0 && record.fault(*id).is_none();
        assert!(RingId::all(PAIRS).skip(4).all(|id| unused(&id)));
    }
}

#[test]
fn a_broken_ring_of_any_pair_stays_stopped_in_a_successor_until_it_is_set_up_anew() {
    let guest = Guest::with(PAIRS);
    let (stage, mut front) = negotiated(&guest);
    let broken = ring(7);
    stage.record().set_fault(broken, Some(3));
    let stage = stage.succeed();
    stage.add(door(&stage, PAIRS)).unwrap();
    assert_eq!(running(&stage), guest.all().filter(|id| *id != broken).collect());
    front.say(&[guest.set_kick(broken)]);
    assert_eq!(running(&stage), guest.all().collect());
}

#[test]
fn no_ring_of_a_quarantined_port_runs_until_it_is_freed() {
    let guest = Guest::with(PAIRS);
    let (stage, mut front) = negotiated(&guest);
    let pair = Pair::new(2).unwrap();
    let why = Quarantine::Sending(pair, 17);
    stage.record().suspicion().set_quarantine(why);
    assert!(why.to_string().contains("index 17 of its tx2 ring"), "{why}");
    let stage = stage.succeed();
    stage.add(door(&stage, PAIRS)).unwrap();
    assert_eq!(running(&stage), BTreeSet::new());
    assert!(front.settle());
    let suspicion = stage.record().suspicion();
    assert_eq!(suspicion.release(), Some(why));
    stage.handle.free_port(ID).unwrap();
    assert_eq!(running(&stage), guest.all().collect());
    let skipped = |id: &RingId| suspicion.skip(*id).is_some();
    let only: Vec<_> = guest.all().filter(skipped).collect();
    assert_eq!(only, [RingId { pair, side: Side::Tx }]);
}

//! What requests do, in the orders in which real front ends send them.

use std::os::fd::AsRawFd;

use vhost::vhost_user::message::FrontendReq;

use super::stage::{FEATURES, Guest, MEMORY, Message, RING_SIZE, STOPPED_AT, Stage, Step, pair};
use crate::names::RingId;
use crate::vhost::{Farewell, PortEvent, Refusal, features};

#[test]
fn both_rings_start_with_what_was_negotiated() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    assert_eq!(front.get(FrontendReq::GET_FEATURES), Some(features::OFFERED));
    assert_eq!(front.get(FrontendReq::GET_PROTOCOL_FEATURES), Some(features::PROTOCOL_OFFERED));
    front.say(&guest.conversation());
    for id in RingId::FIRST {
        let ring = stage.owner.ring(id).unwrap();
        assert_eq!(ring.layout, guest.rings[usize::from(id.number())].layout());
        assert_eq!(ring.features, FEATURES);
        assert_eq!(ring.memory.regions().len(), 2);
        assert!(ring.kick.is_some() && ring.call.is_some() && ring.err.is_none());
        assert_eq!(guest.interrupts(id), 2, "at the start and by the call set last");
    }
    let events = stage.events();
    assert!(matches!(events.first(), Some(PortEvent::Attached)));
    assert!(events.iter().any(|e| matches!(e, PortEvent::Negotiated { features: FEATURES })));
    let started =
        |e: &&PortEvent| matches!(e, PortEvent::Started { size: RING_SIZE, polled: false, .. });
    assert_eq!(events.iter().filter(started).count(), 2);
    let keys = [
        "port/web/connection",
        "port/web/listener",
        "port/web/memory/0",
        "port/web/memory/1",
        "port/web/rx/call",
        "port/web/rx/kick",
        "port/web/tx/call",
        "port/web/tx/kick",
    ];
    assert_eq!(stage.keeper.keys(), keys);
}

#[test]
fn rings_start_whatever_the_order() {
    let guest = Guest::new();
    let conversation = guest.conversation();
    // All but the features, which say whether rings have to be enabled, come in any order.
    for turn in 0..conversation.len() {
        let stage = Stage::listening();
        let mut front = stage.connect();
        front.say(&[Message::new(FrontendReq::SET_FEATURES, &[FEATURES])]);
        let mut said = conversation.clone();
        said.rotate_left(turn);
        front.say(&said);
        assert_eq!(stage.owner.running(), 2, "turned by {turn}");
    }
}

#[test]
fn a_ring_waits_for_each_thing_it_needs() {
    let guest = Guest::new();
    let conversation = guest.conversation();
    let needed = [
        FrontendReq::SET_MEM_TABLE,
        FrontendReq::SET_VRING_NUM,
        FrontendReq::SET_VRING_ADDR,
        FrontendReq::SET_VRING_KICK,
        FrontendReq::SET_VRING_ENABLE,
    ];
    for without in needed {
        let stage = Stage::listening();
        let mut front = stage.connect();
        let (late, early): (Vec<_>, Vec<_>) =
            conversation.iter().cloned().partition(|m| m.request == u32::from(without));
        front.say(&early);
        assert_eq!(stage.owner.running(), 0, "without {without:?}");
        front.say(&late);
        assert_eq!(stage.owner.running(), 2, "after {without:?}");
    }
}

#[test]
fn rings_need_no_enabling_without_protocol_features() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    let mut said = vec![
        Message::new(FrontendReq::SET_OWNER, &[]),
        Message::new(FrontendReq::SET_FEATURES, &[features::VERSION_1]),
        guest.memory_table(),
    ];
    for id in RingId::FIRST {
        said.extend([guest.set_size(id), guest.set_addresses(id), guest.set_kick(id)]);
    }
    front.say(&said);
    assert_eq!(stage.owner.running(), 2);
    assert_eq!(stage.owner.ring(RingId::TX).unwrap().features, features::VERSION_1);
}

#[test]
fn a_ring_without_a_kick_is_polled() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    let no_kick = Message::new(FrontendReq::SET_VRING_KICK, &[1 << 8 | 1]);
    let no_call = Message::new(FrontendReq::SET_VRING_CALL, &[1 << 8 | 1]);
    front.say(&[no_kick, no_call]);
    let ring = stage.owner.ring(RingId::TX).unwrap();
    assert!(ring.kick.is_none() && ring.call.is_none());
    assert!(stage.owner.ring(RingId::RX).unwrap().kick.is_some());
    let polled =
        |e: &PortEvent| matches!(e, PortEvent::Started { ring: RingId::TX, polled: true, .. });
    assert!(stage.events().iter().any(polled));
}

#[test]
fn asking_for_a_rings_base_stops_it_until_it_is_kicked_anew() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    let base = Message::new(FrontendReq::GET_VRING_BASE, &[pair(RingId::TX, 0)]);
    assert_eq!(front.ask(&base), Some(pair(RingId::TX, STOPPED_AT)));
    assert_eq!(stage.owner.running(), 1);
    assert_eq!(stage.record().ring(RingId::TX).base, STOPPED_AT);
    assert!(!stage.keeper.keys().contains(&"port/web/tx/kick".to_owned()));
    front.say(&[Guest::enable(RingId::TX, true), guest.set_size(RingId::TX)]);
    assert_eq!(stage.owner.running(), 1);
    front.say(&[guest.set_kick(RingId::TX)]);
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn disabling_stops_one_ring_and_enabling_starts_it() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.owner.steps();
    front.say(&[Guest::enable(RingId::RX, true), Guest::enable(RingId::RX, false)]);
    assert_eq!(stage.owner.steps(), [Step::Stop(RingId::RX)]);
    front.say(&[Guest::enable(RingId::RX, true)]);
    assert_eq!(stage.owner.steps(), [Step::Start(RingId::RX)]);
}

#[test]
fn a_new_call_changes_over_without_a_stop() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    guest.interrupts(RingId::RX);
    stage.owner.steps();
    front.say(&[guest.set_call(RingId::RX)]);
    assert_eq!(stage.owner.steps(), [Step::Call(RingId::RX)]);
    assert_eq!(guest.interrupts(RingId::RX), 1);
}

#[test]
fn memory_changes_under_running_rings() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.owner.steps();
    let all = [
        Step::Stop(RingId::RX),
        Step::Stop(RingId::TX),
        Step::Start(RingId::RX),
        Step::Start(RingId::TX),
    ];
    assert_eq!(front.check(&guest.memory_table()), Some(true));
    assert_eq!(stage.owner.steps(), all);
    assert_eq!(front.get(FrontendReq::GET_MAX_MEM_SLOTS), Some(32));
    assert_eq!(front.check(&guest.region(FrontendReq::REM_MEM_REG, 1)), Some(true));
    assert_eq!(stage.owner.steps(), all);
    assert_eq!(stage.owner.ring(RingId::RX).unwrap().memory.regions().len(), 1);
    assert!(!stage.keeper.keys().contains(&"port/web/memory/1".to_owned()));
    assert_eq!(front.check(&guest.region(FrontendReq::ADD_MEM_REG, 1)), Some(true));
    assert_eq!(stage.owner.steps(), all);
    assert!(stage.keeper.keys().contains(&"port/web/memory/1".to_owned()));
    assert_eq!(stage.record().slot(1).unwrap().len, MEMORY);
    // The region in which the rings lie goes, and comes again.
    assert_eq!(front.check(&guest.region(FrontendReq::REM_MEM_REG, 0)), Some(false));
    assert_eq!(stage.owner.running(), 0);
    assert_eq!(front.check(&guest.region(FrontendReq::ADD_MEM_REG, 0)), Some(true));
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn a_refused_request_changes_nothing_and_the_connection_goes_on() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.owner.steps();
    let refused = [
        Message::new(FrontendReq::SET_FEATURES, &[features::OFFERED | 1 << 40]),
        Message::new(FrontendReq::SET_PROTOCOL_FEATURES, &[1 << 12]),
        Message::new(FrontendReq::SET_VRING_NUM, &[pair(RingId::RX, 63)]),
        Message::new(FrontendReq::SET_VRING_NUM, &[pair(RingId::RX, 65536)]),
        Message::new(FrontendReq::SET_VRING_ADDR, &[pair(RingId::RX, 0), 8, 0, 0, 0]),
        Message::new(FrontendReq::SET_VRING_ADDR, &[pair(RingId::RX, 1), 0, 0, 0, 0]),
        Message::new(FrontendReq::SET_VRING_ENABLE, &[2]),
        Message::new(FrontendReq::SET_VRING_KICK, &[0]),
        Message::new(FrontendReq::SET_VRING_KICK, &[1 << 8]).with(&guest.kicks[0]),
        Message::new(FrontendReq::SET_VRING_KICK, &[0]).with(&guest.kicks[0]).with(&guest.kicks[1]),
        Message::new(FrontendReq::SET_VRING_CALL, &[]),
        Message::new(FrontendReq::SET_OWNER, &[]).with(&guest.kicks[0]),
        Message::new(FrontendReq::SET_MEM_TABLE, &[33]),
        Message::new(FrontendReq::SET_MEM_TABLE, &[1, 0, MEMORY, 0, 0]),
        Message::new(FrontendReq::SET_MEM_TABLE, &[1, 0, MEMORY, 0, 0]).with(&guest.kicks[0]),
        Message::new(FrontendReq::SET_MEM_TABLE, &[1]).with(&guest.kicks[0]),
        guest.region(FrontendReq::ADD_MEM_REG, 0),
        Message::new(FrontendReq::REM_MEM_REG, &[0, 1, 2, 3, 4]),
        Message::new(FrontendReq::SET_LOG_BASE, &[0, 0]).with(&guest.kicks[0]),
        Message::new(FrontendReq::GET_CONFIG, &[0, 0]),
        Message { request: 4000, ..Message::new(FrontendReq::SET_OWNER, &[7; 99]) },
    ];
    for message in &refused {
        assert_eq!(front.check(message), Some(false), "{message:?}");
    }
    assert_eq!(stage.owner.steps(), []);
    assert_eq!(stage.owner.running(), 2);
    let told = stage.events().into_iter().filter(|e| matches!(e, PortEvent::Refused { .. }));
    assert_eq!(told.count(), refused.len());
    assert!(front.settle());
}

#[test]
fn requests_that_are_not_served_are_passed_over_where_no_answer_is_asked_for() {
    let stage = Stage::listening();
    let mut front = stage.connect();
    let said = [
        Message { request: 4000, ..Message::new(FrontendReq::SET_OWNER, &[]) },
        Message::new(FrontendReq::SET_LOG_BASE, &[0, 0]),
        Message::new(FrontendReq::SET_VRING_ENABLE, &[pair(RingId::RX, 1) + 7]),
        // The bit that asks for an answer means nothing before it is negotiated.
        Message { flags: 9, ..Message::new(FrontendReq::SET_OWNER, &[]) },
        Message::new(FrontendReq::SEND_RARP, &[0]),
    ];
    front.say(&said);
}

#[test]
fn a_front_end_that_cannot_be_told_of_a_refusal_is_shut_out() {
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.send(&Message::new(FrontendReq::SET_FEATURES, &[u64::MAX])).unwrap();
    assert!(front.is_hung_up());
    assert!(matches!(stage.event(), PortEvent::Attached));
    let PortEvent::Detached { why: Farewell::Refused { request, why } } = stage.event() else {
        panic!("no farewell");
    };
    assert_eq!(request.to_string(), "SET_FEATURES");
    assert!(matches!(why, Refusal::Features { .. }));
    stage.assert_well();
}

#[test]
fn the_answer_to_the_acknowledgement_of_protocol_features_is_not_asked_for() {
    let stage = Stage::listening();
    let mut front = stage.connect();
    let words = [features::REPLY_ACK];
    let first = Message::new(FrontendReq::SET_PROTOCOL_FEATURES, &words);
    front.send(&Message { flags: 9, ..first }).unwrap();
    assert!(front.settle(), "the only answer is to the question");
    assert_eq!(front.check(&Message::new(FrontendReq::SET_OWNER, &[])), Some(true));
}

#[test]
fn a_port_can_offer_less() {
    let stage = Stage::new();
    let mut door = stage.door();
    door.features_mask = features::VERSION_1 | features::PROTOCOL_FEATURES | 1 << 63;
    stage.add(door).unwrap();
    let mut front = stage.connect();
    let offered = features::VERSION_1 | features::PROTOCOL_FEATURES;
    assert_eq!(front.get(FrontendReq::GET_FEATURES), Some(offered));
}

#[test]
fn features_that_change_under_running_rings_restart_them() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.owner.steps();
    front.say(&[Message::new(FrontendReq::SET_FEATURES, &[FEATURES])]);
    assert_eq!(stage.owner.steps(), []);
    let fewer = features::VERSION_1 | features::PROTOCOL_FEATURES;
    front.say(&[Message::new(FrontendReq::SET_FEATURES, &[fewer])]);
    assert_eq!(stage.owner.ring(RingId::RX).unwrap().features, fewer);
    assert_eq!(stage.owner.steps().len(), 4);
}

#[test]
fn a_broken_ring_stays_stopped_until_it_is_set_up_anew() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    stage.record().set_fault(RingId::TX, Some(3));
    front.say(&[guest.memory_table()]);
    assert_eq!(stage.owner.running(), 1);
    front.say(&[guest.set_kick(RingId::TX)]);
    assert_eq!(stage.owner.running(), 2);
    assert_eq!(stage.record().fault(RingId::TX), None);
}

#[test]
fn resetting_the_owner_stops_both_rings() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    front.say(&[Message::new(FrontendReq::RESET_OWNER, &[])]);
    assert_eq!(stage.owner.running(), 0);
    front.say(&guest.conversation());
    assert_eq!(stage.owner.running(), 2);
}

#[test]
fn the_rings_descriptors_do_not_block() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    for bell in guest.kicks.iter().chain(&guest.calls) {
        rustix::fs::fcntl_setfl(bell, rustix::fs::OFlags::empty()).unwrap();
    }
    stage.connect().say(&guest.conversation());
    for bell in guest.kicks.iter().chain(&guest.calls) {
        let flags = rustix::fs::fcntl_getfl(bell).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK), "{}", bell.as_raw_fd());
    }
}

//! Front ends with packed rings: where the rings begin, where they go on, and what a death costs.

use vhost::vhost_user::message::FrontendReq;
use virtqueue::{Intent, Journal};

use super::stage::{
    FEATURES, FrontEnd, Guest, ID, Message, PATIENCE, STOPPED_AT, Stage, Step, pair,
};
use crate::counters::{Counter, Counters};
use crate::names::{Owner, Side};
use crate::vhost::{PortEvent, Renegotiate, features};

/// A ring's beginning, as virtio-user says it: the lower half alone.
const BEGINNING: u32 = 0x8000;

/// The conversation of a front end with packed rings, which begin at `base`.
fn conversation(guest: &Guest, base: u32) -> Vec<Message> {
    let mut said = guest.conversation();
    for message in &mut said {
        if message.request == u32::from(FrontendReq::SET_FEATURES) {
            message.body = (FEATURES | features::RING_PACKED).to_ne_bytes().to_vec();
        }
        if message.request == u32::from(FrontendReq::SET_VRING_BASE) {
            message.body[4..8].copy_from_slice(&base.to_ne_bytes());
        }
    }
    said
}

fn negotiated(guest: &Guest) -> (Stage, FrontEnd) {
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&conversation(guest, BEGINNING));
    assert_eq!(stage.owner.running(), 2);
    assert!(stage.handle.answers_within(PATIENCE));
    (stage, front)
}

fn set_base(side: Side, base: u32) -> Message {
    Message::new(FrontendReq::SET_VRING_BASE, &[pair(side, base)])
}

fn intent(stage: &Stage, side: Side) -> Option<Intent> {
    stage.record().journal(side).last()
}

fn lost(stage: &Stage) -> u64 {
    Counters::of(&stage.state, Owner::Port(ID)).get(Counter::PortRenegotiated)
}

/// A publication, as the worker notes it.
const UNDER_WAY: Intent = Intent { from: 0x8005, to: 0x8009, first: 5, buffers: 4 };

#[test]
fn a_packed_ring_begins_where_its_front_end_says() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    let ring = stage.owner.ring(Side::Tx).unwrap();
    assert_eq!(ring.features, FEATURES | features::RING_PACKED);
    for side in Side::BOTH {
        assert_eq!(intent(&stage, side), Some(Intent::resting(0x8000, 0)));
    }
    stage.owner.steps();
    // Three were taken and not given back: they are taken again.
    front.say(&[set_base(Side::Tx, 0x8002_8005)]);
    assert_eq!(intent(&stage, Side::Tx), Some(Intent::resting(0x8002, 0)));
    assert_eq!(intent(&stage, Side::Rx), Some(Intent::resting(0x8000, 0)));
    assert_eq!(stage.owner.steps(), [Step::Stop(Side::Tx), Step::Start(Side::Tx)]);
}

#[test]
fn a_packed_ring_goes_on_where_it_stood_however_often_it_stops() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    stage.record().journal(Side::Rx).note(UNDER_WAY);
    front.say(&[guest.memory_table(), guest.set_size(Side::Rx), guest.set_kick(Side::Rx)]);
    assert_eq!(intent(&stage, Side::Rx), Some(UNDER_WAY));
    let get = Message::new(FrontendReq::GET_VRING_BASE, &[pair(Side::Rx, 0)]);
    assert_eq!(front.ask(&get).map(|answer| (answer >> 32) as u32), Some(STOPPED_AT));
    front.say(&[guest.set_kick(Side::Rx)]);
    assert_eq!(intent(&stage, Side::Rx), Some(UNDER_WAY));
    // Until it is told.
    front.say(&[set_base(Side::Rx, 0x0003_0003)]);
    assert_eq!(intent(&stage, Side::Rx), Some(Intent::resting(3, 0)));
}

#[test]
fn a_packed_ring_may_have_any_size_and_a_split_one_may_not() {
    let guest = Guest::new();
    let size = |n: u32| Message::new(FrontendReq::SET_VRING_NUM, &[pair(Side::Rx, n)]);
    let (_stage, mut front) = negotiated(&guest);
    for (n, fine) in [(63, true), (1, true), (32_768, true), (0, false), (32_769, false)] {
        assert_eq!(front.check(&size(n)), Some(fine), "{n}");
    }
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert_eq!(front.check(&size(63)), Some(false));
    assert_eq!(intent(&stage, Side::Rx), None, "a split ring has no journal");
}

#[test]
fn a_front_end_with_packed_rings_notices_nothing_of_a_takeover() {
    let guest = Guest::new();
    let (mut stage, mut front) = negotiated(&guest);
    stage.record().journal(Side::Tx).note(UNDER_WAY);
    for _ in 0..3 {
        stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        assert!(matches!(stage.event(), PortEvent::Adopted));
        assert_eq!(stage.owner.running(), 2);
        assert_eq!(intent(&stage, Side::Tx), Some(UNDER_WAY));
        assert!(front.settle());
        assert_eq!(lost(&stage), 0);
    }
}

#[test]
fn a_death_in_the_middle_of_a_request_is_counted_where_the_rings_are_packed() {
    for packed in [false, true] {
        let guest = Guest::new();
        let stage = Stage::listening();
        let said = if packed { conversation(&guest, BEGINNING) } else { guest.conversation() };
        let mut front = stage.connect();
        front.say(&said);
        let mut stage = stage;
        for times in 1..=3 {
            assert!(stage.handle.answers_within(PATIENCE));
            stage.record().open_request(FrontendReq::SET_MEM_TABLE.into());
            stage = stage.succeed();
            stage.add(stage.door()).unwrap();
            assert!(front.is_hung_up());
            assert_eq!(lost(&stage), if packed { times } else { 0 });
            front = stage.connect();
            front.say(&said);
            assert_eq!(stage.owner.running(), 2);
        }
    }
}

#[test]
fn a_packed_ring_whose_position_was_damaged_costs_the_connection_and_is_counted() {
    for (at, by) in [(72, 1), (79, 0x80), (80, 4), (87, 1)] {
        let guest = Guest::new();
        let (stage, mut front) = negotiated(&guest);
        // The block of the rx ring.
        let place = crate::state::port_at(ID) + 256 + at;
        let octet = stage.state.memory().u8_at(place).unwrap();
        octet.fetch_xor(by, std::sync::atomic::Ordering::Relaxed);
        let stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        match stage.event() {
            PortEvent::Renegotiate { why: Renegotiate::Damaged(part) } => {
                assert_eq!(part, "the position of a packed ring");
            }
            other => panic!("{other:?}"),
        }
        assert!(front.is_hung_up());
        assert_eq!(lost(&stage), 1);
        stage.connect().say(&conversation(&guest, BEGINNING));
        assert_eq!(stage.owner.running(), 2);
    }
}

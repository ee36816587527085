//! Front ends with packed rings: where the rings begin, where they go on, and what a death costs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::FrontendReq;
use virtqueue::driver::{DriverRx, DriverTx, PackedQueue, Shape};
use virtqueue::{GuestAddress, Intent, Journal, NetHeader, QueueFeatures, QueueLayout, TxQueue};

use super::stage::{
    FEATURES, FrontEnd, Guest, ID, Message, PATIENCE, RING_SIZE, STOPPED_AT, Stage, Step, pair,
};
use crate::counters::{Counter, Counters};
use crate::names::{Owner, RingId, Side};
use crate::state::suspicion::Quarantine;
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

fn set_base(id: RingId, base: u32) -> Message {
    Message::new(FrontendReq::SET_VRING_BASE, &[pair(id, base)])
}

fn intent(stage: &Stage, id: RingId) -> Option<Intent> {
    stage.record().journal(id).last()
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
    let ring = stage.owner.ring(RingId::TX).unwrap();
    assert_eq!(ring.features, FEATURES | features::RING_PACKED);
    for id in RingId::FIRST {
        assert_eq!(intent(&stage, id), Some(Intent::resting(0x8000, 0)));
    }
    stage.owner.steps();
    // Three were taken and not given back: they are taken again.
    front.say(&[set_base(RingId::TX, 0x8002_8005)]);
    assert_eq!(intent(&stage, RingId::TX), Some(Intent::resting(0x8002, 0)));
    assert_eq!(intent(&stage, RingId::RX), Some(Intent::resting(0x8000, 0)));
    assert_eq!(stage.owner.steps(), [Step::Stop(RingId::TX), Step::Start(RingId::TX)]);
}

#[test]
fn a_packed_ring_that_was_never_used_begins_at_its_beginning_if_the_wrap_counter_is_not_said() {
    for base in [0, 0x8000_0000] {
        let mut driver = Packed::new();
        let stage = Stage::listening();
        let mut front = stage.connect();
        front.say(&driver.conversation_from(base));
        for side in RingId::FIRST {
            assert_eq!(intent(&stage, side), Some(Intent::resting(0x8000, 0)), "{base:#x}");
        }
        let size = driver.layout(RingId::TX).size;
        driver.carry(&stage, size);
        // Now that is where it stands.
        front.say(&[set_base(RingId::TX, 0)]);
        assert_eq!(intent(&stage, RingId::TX), Some(Intent::resting(0, 0)));
        driver.carry(&stage, size);
        assert_eq!(lost(&stage), 0);
    }
}

#[test]
fn a_packed_ring_goes_on_where_it_stood_however_often_it_stops() {
    let guest = Guest::new();
    let (stage, mut front) = negotiated(&guest);
    stage.record().journal(RingId::RX).note(UNDER_WAY);
    front.say(&[guest.memory_table(), guest.set_size(RingId::RX), guest.set_kick(RingId::RX)]);
    assert_eq!(intent(&stage, RingId::RX), Some(UNDER_WAY));
    let get = Message::new(FrontendReq::GET_VRING_BASE, &[pair(RingId::RX, 0)]);
    assert_eq!(front.ask(&get).map(|answer| (answer >> 32) as u32), Some(STOPPED_AT));
    front.say(&[guest.set_kick(RingId::RX)]);
    assert_eq!(intent(&stage, RingId::RX), Some(UNDER_WAY));
    // Until it is told.
    front.say(&[set_base(RingId::RX, 0x0003_0003)]);
    assert_eq!(intent(&stage, RingId::RX), Some(Intent::resting(3, 0)));
}

#[test]
fn a_packed_ring_may_have_any_size_and_a_split_one_may_not() {
    let guest = Guest::new();
    let size = |n: u32| Message::new(FrontendReq::SET_VRING_NUM, &[pair(RingId::RX, n)]);
    let (_stage, mut front) = negotiated(&guest);
    for (n, fine) in [(63, true), (1, true), (32_768, true), (0, false), (32_769, false)] {
        assert_eq!(front.check(&size(n)), Some(fine), "{n}");
    }
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert_eq!(front.check(&size(63)), Some(false));
    assert_eq!(intent(&stage, RingId::RX), None, "a split ring has no journal");
}

#[test]
fn a_front_end_with_packed_rings_notices_nothing_of_a_takeover() {
    let guest = Guest::new();
    let (mut stage, mut front) = negotiated(&guest);
    stage.record().journal(RingId::TX).note(UNDER_WAY);
    for _ in 0..3 {
        stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        assert!(matches!(stage.event(), PortEvent::Adopted));
        assert_eq!(stage.owner.running(), 2);
        assert_eq!(intent(&stage, RingId::TX), Some(UNDER_WAY));
        assert!(front.settle());
        assert_eq!(lost(&stage), 0);
    }
}

/// A driver with packed rings, and the device's side of them.
struct Packed {
    guest: Guest,
    tx: DriverTx<PackedQueue>,
    rx: DriverRx<PackedQueue>,
}

impl Packed {
    fn new() -> Self {
        let guest = Guest::new();
        let features = QueueFeatures::from_bits(FEATURES | features::RING_PACKED);
        let ring =
            || PackedQueue::new(Arc::clone(&guest.memory), RING_SIZE, features, BEGINNING as u16);
        let (tx, rx) = (DriverTx::over(ring(), 256), DriverRx::over(ring(), 256));
        Self { guest, tx, rx }
    }

    fn layout(&self, id: RingId) -> QueueLayout {
        match id.side {
            Side::Rx => self.rx.queue.layout(),
            Side::Tx => self.tx.queue.layout(),
        }
    }

    /// What the front end says whose connection was cut, and who only knows where the rings began.
    fn conversation(&self) -> Vec<Message> {
        self.conversation_from(BEGINNING)
    }

    /// The same with rings that stand at `base`, as it says.
    fn conversation_from(&self, base: u32) -> Vec<Message> {
        let user = self.guest.memory.regions()[0].user();
        let mut said = conversation(&self.guest, base);
        for message in &mut said {
            if message.request == u32::from(FrontendReq::SET_VRING_ADDR) {
                let id = if message.body[0] == 0 { RingId::RX } else { RingId::TX };
                let QueueLayout { desc, avail, used, .. } = self.layout(id);
                let words = [pair(id, 0), desc.0 + user, used.0 + user, avail.0 + user, 0];
                message.body = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
            }
        }
        said
    }

    /// The worker's part: takes so many frames of the driver's.
    fn carry(&mut self, stage: &Stage, frames: u16) {
        let features = self.tx.queue.features();
        let journal = Box::new(stage.record().journal(RingId::TX));
        let memory = self.guest.memory.share();
        let layout = self.layout(RingId::TX);
        let mut device = TxQueue::resume_packed(memory, layout, features, journal).unwrap();
        for n in 0..frames {
            assert!(
                self.tx.send(&NetHeader::default(), &[n as u8; 60], Shape::default()).is_some()
            );
            self.tx.queue.expose();
            assert!(device.copy_next(&mut [0; 200]).unwrap().is_some());
            device.complete().unwrap();
        }
        assert_eq!(self.tx.reclaim(), usize::from(frames), "the driver saw something else");
    }

    /// The driver sets its rings up anew, where they were.
    fn boot(&mut self) {
        let features = self.tx.queue.features();
        let ring =
            |layout| PackedQueue::at(Arc::clone(&self.guest.memory), layout, features, 0x8000);
        let (tx, rx) = (ring(self.layout(RingId::TX)), ring(self.layout(RingId::RX)));
        (self.tx, self.rx) = (DriverTx::over(tx, 256), DriverRx::over(rx, 256));
    }
}

/// The base dies in the middle of a request, and its successor shuts the front end out.
fn cut_off(stage: Stage, front: &mut FrontEnd) -> Stage {
    assert!(stage.handle.answers_within(PATIENCE));
    stage.record().open_request(FrontendReq::SET_MEM_TABLE.into());
    let stage = stage.succeed();
    stage.add(stage.door()).unwrap();
    assert!(front.is_hung_up());
    stage
}

#[test]
fn a_front_end_that_was_cut_off_goes_on_where_its_packed_rings_stood_whatever_it_says() {
    let mut driver = Packed::new();
    let mut stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    for times in 1..=3 {
        driver.carry(&stage, 50);
        stage = cut_off(stage, &mut front);
        front = stage.connect();
        front.say(&driver.conversation());
        assert_eq!(stage.owner.running(), 2);
        let journal = intent(&stage, RingId::TX).unwrap();
        assert_eq!(journal.first.wrapping_add(journal.buffers), 50 * times);
        assert_eq!(intent(&stage, RingId::RX), Some(Intent::resting(0x8000, 0)));
    }
    driver.carry(&stage, 50);
    assert_eq!(lost(&stage), 0);
}

/// The ring looks as on its first day then: no descriptor has the bit that says it was used.
#[test]
fn a_front_end_that_was_cut_off_between_two_laps_goes_on_there_whatever_it_says() {
    let mut driver = Packed::new();
    let mut stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    let size = driver.layout(RingId::TX).size;
    for laps in [2, 1, 1, 2] {
        (0..laps).for_each(|_| driver.carry(&stage, size));
        stage = cut_off(stage, &mut front);
        front = stage.connect();
        front.say(&driver.conversation_from(BEGINNING | 50));
        driver.carry(&stage, 10);
        driver.carry(&stage, size - 10);
    }
    assert_eq!(lost(&stage), 0);
}

#[test]
fn a_guest_that_booted_while_it_was_cut_off_begins_at_the_beginning() {
    let mut driver = Packed::new();
    let mut stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    driver.carry(&stage, 50);
    stage = cut_off(stage, &mut front);
    driver.boot();
    front = stage.connect();
    front.say(&driver.conversation());
    assert_eq!(intent(&stage, RingId::TX), Some(Intent::resting(0x8000, 0)));
    driver.carry(&stage, 50);
    // So does another one in its place.
    stage = cut_off(stage, &mut front);
    driver = Packed::new();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    assert_eq!(intent(&stage, RingId::TX), Some(Intent::resting(0x8000, 0)));
    driver.carry(&stage, 50);
    assert_eq!(lost(&stage), 0);
}

#[test]
fn a_front_end_that_names_a_place_that_cannot_be_is_put_right_by_the_ring_and_that_is_counted() {
    let mut driver = Packed::new();
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    driver.carry(&stage, 50);
    let mut stage = cut_off(stage, &mut front);
    // Nothing is left of the record but its name.
    stage.record().forget_position(RingId::TX);
    stage = stage.succeed();
    stage.add(stage.door()).unwrap();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    assert_eq!(intent(&stage, RingId::TX), Some(Intent::resting(0x8000 | 50, 0)));
    assert_eq!(lost(&stage), 1);
    driver.carry(&stage, 50);
}

#[test]
fn a_port_that_was_quarantined_for_its_front_end_loses_no_place() {
    let mut driver = Packed::new();
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    driver.carry(&stage, 50);
    assert!(stage.handle.answers_within(PATIENCE));
    stage.record().open_request(FrontendReq::SET_MEM_TABLE.into());
    stage.record().suspicion().set_quarantine(Quarantine::Request(5));
    let stage = stage.succeed();
    stage.add(stage.door()).unwrap();
    assert!(front.is_hung_up());
    assert!(stage.record().suspicion().release().is_some());
    stage.handle.free_port(ID).unwrap();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    driver.carry(&stage, 50);
    assert_eq!(lost(&stage), 0);
}

#[test]
fn a_packed_ring_that_does_not_run_is_said_to_stand_where_it_does() {
    let mut driver = Packed::new();
    let stage = Stage::listening();
    let mut front = stage.connect();
    front.say(&driver.conversation());
    driver.carry(&stage, 50);
    assert!(stage.handle.answers_within(PATIENCE));
    // The worker has stopped it; what it was about to give back is still the device's.
    stage.record().set_fault(RingId::TX, Some(3));
    driver.tx.send(&NetHeader::default(), &[0; 60], Shape::default()).unwrap();
    driver.tx.queue.expose();
    let last = intent(&stage, RingId::TX).unwrap();
    let next = Intent { from: last.to, to: last.to + 1, first: 50, buffers: 1 };
    stage.record().journal(RingId::TX).note(next);
    let stage = stage.succeed();
    stage.add(stage.door()).unwrap();
    assert_eq!(stage.owner.running(), 1);
    let get = Message::new(FrontendReq::GET_VRING_BASE, &[pair(RingId::TX, 0)]);
    assert_eq!(front.ask(&get).map(|answer| (answer >> 32) as u32), Some(0x8032_8032));
    // Where the ring cannot be followed, the journal says it alone.
    let next = Intent { from: 0x8033, to: 0x8035, first: 51, buffers: 2 };
    stage.record().journal(RingId::TX).note(next);
    driver.tx.send(&NetHeader::default(), &[0; 60], Shape::default()).unwrap();
    let at = driver.tx.queue.descriptor_at(0x33).0 + 8;
    let endless = u64::from(1u16 | 1 << 7) << 48;
    driver.guest.memory.u64_at(GuestAddress(at)).store(endless, Ordering::Relaxed);
    assert_eq!(front.ask(&get).map(|answer| (answer >> 32) as u32), Some(0x8035_8035));
}

#[test]
fn a_packed_ring_whose_position_was_damaged_costs_the_connection_and_the_ring_tells_it() {
    for (at, by) in [(72, 1), (79, 0x80), (80, 4), (87, 1)] {
        let mut driver = Packed::new();
        let stage = Stage::listening();
        let mut front = stage.connect();
        front.say(&driver.conversation());
        driver.carry(&stage, 50);
        assert!(stage.handle.answers_within(PATIENCE));
        // The block of the tx ring.
        let place = crate::state::port_at(ID) + 256 + 128 + at;
        let octet = stage.state.memory().u8_at(place).unwrap();
        octet.fetch_xor(by, Ordering::Relaxed);
        let stage = stage.succeed();
        stage.add(stage.door()).unwrap();
        match stage.event() {
            PortEvent::Renegotiate { why: Renegotiate::Damaged(part) } => {
                assert_eq!(part, "the position of a packed ring");
            }
            other => panic!("{other:?}"),
        }
        assert!(front.is_hung_up());
        let mut front = stage.connect();
        front.say(&driver.conversation());
        assert_eq!(stage.owner.running(), 2);
        assert_eq!(lost(&stage), 1);
        driver.carry(&stage, 50);
    }
}

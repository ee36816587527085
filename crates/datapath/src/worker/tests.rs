//! Turns made by hand, without a thread: when they end, and what needs nobody's rest.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use virtqueue::driver::{DriverMemory, DriverQueue, DriverTx, Shape};
use virtqueue::{NetHeader, QueueFeatures};

use super::change::Change;
use super::handle::WorkerHandle;
use super::network::Network;
use super::turn::{Own, Turn};
use super::world::Crew;
use super::{NetworkSetup, PortSetup, Token};
use crate::answer::LastInch;
use crate::counters::{Counter, Counters};
use crate::names::{Mac, NetworkId, Owner, Pair, PortId, RingId, Side};
use crate::neighbor::Event as LanEvent;
use crate::offload::Offload;
use crate::port::Port;
use crate::state::StateMemory;
use crate::state::port::PortRecord;
use crate::sync::lock;
use crate::vhost::{Ring, RingOwner, features};

const FEATURES: u64 = features::VERSION_1;

/// One whose guest's MAC address is known.
pub(super) fn silent() -> LastInch {
    LastInch { guest_mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..LastInch::silent(1500) }
}

fn bell() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap())
}

/// How often a descriptor was written to since the last look.
fn rung(bell: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(bell, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

/// A port whose guest has frames to send that go nowhere.
struct Guest {
    id: PortId,
    tx: DriverTx<DriverQueue>,
    call: Arc<OwnedFd>,
    ring: Ring,
}

impl Guest {
    fn new(crew: &Crew, id: u16) -> Self {
        let id = PortId(id);
        let memory = DriverMemory::new(&[(0, 1 << 20)]).unwrap();
        let queue = QueueFeatures::from_bits(FEATURES);
        let tx = DriverTx::over(DriverQueue::new(memory.clone(), 256, queue, 0), 256);
        let (call, layout) = (bell(), tx.queue.layout());
        let (kick, memory) = (Some(bell()), memory.share());
        let ring =
            Ring { memory, layout, features: FEATURES, kick, call: Some(call.clone()), err: None };
        let mut world = crew.write();
        let journal = PortRecord::of(&world.state, id).journal(RingId::TX);
        let mut port = Port::new(id, NetworkId(0), format!("vm{}", id.0), 0, silent());
        port.start(RingId::TX, ring.clone(), journal).unwrap();
        world.ports.put(id.0, Box::new(port));
        rung(&call);
        Self { id, tx, call, ring }
    }

    fn send(&mut self) {
        self.tx.send(&NetHeader::default(), &[0; 60], Shape::default()).unwrap();
        self.tx.queue.expose();
    }
}

fn crew() -> Crew {
    let (state, _fd) = StateMemory::create().unwrap();
    let crew = Crew::new(state, 1, false, Box::new(|_| {})).unwrap();
    let id = NetworkId(0);
    let setup = NetworkSetup { id, mtu: 1500, on_link: vec![], outward: silent() };
    crew.write().networks.put(id.0, Box::new(Network::new(setup, 0)));
    crew
}

fn taken(crew: &Crew, guest: &Guest) -> u64 {
    Counters::of(&crew.read().state, Owner::Port(guest.id)).get(Counter::Taken)
}

#[test]
fn a_turn_ends_after_a_batch_when_somebody_waits_and_the_next_goes_on_behind_it() {
    let crew = crew();
    let mut guests: Vec<_> = (1..=5).map(|id| Guest::new(&crew, id)).collect();
    let mut own = Own::new(&crew.read().state, 0);
    own.look_at(&guests.iter().map(|guest| guest.id).collect::<Vec<_>>());
    let mut turn = |guests: &mut [Guest]| {
        guests.iter_mut().for_each(Guest::send);
        let world = crew.read();
        Turn { world: &world, own: &mut own, crew: &crew }.serve_active(Instant::now());
    };
    turn(&mut guests);
    assert!(guests.iter().all(|guest| taken(&crew, guest) == 1), "nobody waits");
    crew.await_change();
    for round in 1..=3 {
        for served in 0..guests.len() {
            turn(&mut guests[served..=served]);
            let all: Vec<_> = guests.iter().map(|guest| taken(&crew, guest)).collect();
            let each = |n| if n <= served { 1 + round } else { round };
            assert_eq!(all, (0..guests.len()).map(each).collect::<Vec<_>>());
        }
    }
    crew.change_begins();
    turn(&mut guests);
    assert!(guests.iter().all(|guest| taken(&crew, guest) == 5), "nobody waits any more");
}

#[test]
fn events_that_a_turn_has_not_come_to_are_left_for_the_next() {
    let crew = crew();
    let guests: Vec<_> = (1..=3).map(|id| Guest::new(&crew, id)).collect();
    let mut own = Own::new(&crew.read().state, 0);
    let flags = rustix::event::epoll::EventFlags::IN;
    let event = |guest: &Guest| {
        let data = Token::Port(guest.id).data();
        rustix::event::epoll::Event { flags, data }
    };
    let events: Vec<_> = guests.iter().map(event).collect();
    let world = crew.read();
    let mut turn = Turn { world: &world, own: &mut own, crew: &crew };
    crew.await_change();
    assert_eq!(turn.serve_events(&events, Instant::now()), (1, false));
    assert_eq!(turn.serve_events(&events[1..], Instant::now()), (1, false));
    crew.change_begins();
    assert_eq!(turn.serve_events(&events[2..], Instant::now()), (1, false));
    assert_eq!(turn.own.active.len(), 3);
}

#[test]
fn a_call_changes_beside_a_turn() {
    let crew = Arc::new(crew());
    let mut guest = Guest::new(&crew, 1);
    let mut own = Own::new(&crew.read().state, 0);
    own.look_at(&[guest.id]);
    let (commands, _nobody) = channel();
    let handle = WorkerHandle::of(commands, &crew);
    let (new, id) = (bell(), guest.id);
    let world = crew.read();
    // On another thread: it would wait for ever.
    let (told, done) = channel();
    let call = new.clone();
    std::thread::spawn(move || {
        handle.set_call(id, RingId::TX, Some(call));
        told.send(()).unwrap();
    });
    done.recv_timeout(std::time::Duration::from_secs(10)).expect("it waits for the world");
    assert_eq!((rung(&guest.call), rung(&new)), (0, 1), "once, for what was told by the other");
    guest.send();
    Turn { world: &world, own: &mut own, crew: &crew }.serve_active(Instant::now());
    assert_eq!((rung(&guest.call), rung(&new)), (0, 1));
    drop(world);
    drop(guest.ring);
    assert_eq!(Arc::strong_count(&guest.call), 1, "the other is held no more");
}

#[test]
fn a_call_is_not_changed_by_waiting_for_who_has_the_port() {
    let crew = crew();
    let guest = Guest::new(&crew, 1);
    let (new, id) = (bell(), guest.id);
    let world = crew.read();
    let busy = world.ports.get(id.0).unwrap().sending();
    assert!(!world.ports.get(id.0).unwrap().try_set_call(RingId::TX, &Some(new.clone())));
    assert_eq!(rung(&new), 0);
    drop(busy);
    assert!(world.ports.get(id.0).unwrap().try_set_call(RingId::TX, &Some(new.clone())));
    assert_eq!(rung(&new), 1);
}

#[test]
fn two_rings_of_a_port_that_break_in_one_turn_are_told_of() {
    let crew = crew();
    let (guest, other) = (Guest::new(&crew, 1), Guest::new(&crew, 2));
    let mut own = Own::new(&crew.read().state, 0);
    let mut world = crew.write();
    let mut change = Change { world: &mut world, own: &mut own, crew: &crew };
    let second = RingId { pair: Pair::new(1).unwrap(), side: Side::Tx };
    change.start_ring(guest.id, second, other.ring.clone());
    drop(world);
    for broken in [&guest, &other] {
        let queue = &broken.tx.queue;
        queue.memory().u16_at(queue.avail_index_at()).store(40_000, Ordering::Relaxed);
    }
    own.look_at(&[guest.id]);
    let long_ago = Instant::now();
    // In one turn: who has nothing else to do goes to sleep at once, and looks at all rings then.
    Turn { world: &crew.read(), own: &mut own, crew: &crew }.serve_active(long_ago);
    let mut world = crew.write();
    Change { world: &mut world, own: &mut own, crew: &crew }.do_what_was_noted();
    let broken = Counters::of(&world.state, Owner::Port(guest.id)).get(Counter::BreakAvailIndex);
    assert_eq!(broken, 1);
    let sending = world.ports.get_mut(guest.id.0).unwrap().own_sending();
    assert!(!sending.sends() && !sending.active);
}

#[test]
fn a_port_that_is_made_anew_is_not_taken_for_the_one_before_it() {
    let crew = crew();
    let mut guest = Guest::new(&crew, 1);
    let mut own = Own::new(&crew.read().state, 0);
    own.look_at(&[guest.id]);
    guest.send();
    Turn { world: &crew.read(), own: &mut own, crew: &crew }.serve_active(Instant::now());
    assert_eq!(own.active.len(), 1);
    let mut world = crew.write();
    let mut change = Change { world: &mut world, own: &mut own, crew: &crew };
    change.remove_port(guest.id);
    let (network, name) = (NetworkId(0), "another".to_owned());
    let setup = PortSetup { id: guest.id, network, name, inch: silent(), prefixes: vec![] };
    change.add_port(setup).unwrap();
    change.start_ring(guest.id, RingId::TX, guest.ring.clone());
    drop(world);
    own.look_at(&crew.desk(0).read());
    guest.send();
    Turn { world: &crew.read(), own: &mut own, crew: &crew }.serve_active(Instant::now());
    assert_eq!(taken(&crew, &guest), 2);
    assert_eq!(own.active.len(), 1, "it is served once a turn");
}

#[test]
fn what_comes_to_wait_after_its_neighbour_was_found_dead_waits_on() {
    let crew = crew();
    let (network, hop) = (NetworkId(0), IpAddr::from([203, 0, 113, 2]));
    let (early, late) = (Owner::Port(PortId(1)), Owner::Port(PortId(2)));
    let wait = |owner| {
        let world = crew.read();
        let pushed = lock(&world.pending).push(network, owner, hop, &Offload::default(), &[0; 60]);
        assert_eq!(pushed, None);
    };
    let mut own = Own::new(&crew.read().state, 0);
    let world = crew.read();
    let mut turn = Turn { world: &world, own: &mut own, crew: &crew };
    wait(early);
    turn.hear(network, LanEvent::Unreachable { hop });
    // The way out is let go of, and another worker asks for the neighbour anew.
    wait(late);
    wait(early);
    turn.lan_rest(Instant::now());
    let dropped = |owner| Counters::of(&world.state, owner).get(Counter::DropNeighborUnreachable);
    assert_eq!([early, late].map(dropped), [1, 0]);
    assert_eq!([early, late].map(|owner| lock(&world.pending).len_of(owner)), [1, 1]);
    turn.hear(network, LanEvent::Unreachable { hop });
    turn.lan_rest(Instant::now());
    assert_eq!([early, late].map(dropped), [2, 1]);
}

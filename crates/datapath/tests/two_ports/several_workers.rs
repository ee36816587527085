//! Ports of several workers: two that deliver to one receiver, ports that are moved, rings that come, go
//! and break while others are served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datapath::counters::{Counter, Counters};
use datapath::event::Event;
use datapath::names::{Owner, PortId, RingId};
use datapath::state::StateMemory;
use datapath::vhost::{Ring, RingOwner};
use datapath::worker::{NotMoved, WorkerHandle};
use virtqueue::driver::{Buffer, DriverQueue, PackedQueue, Shape};
use virtqueue::{GuestAddress, NetHeader, QueueLayout};

use crate::stage::{FEATURES, Layout, PATIENCE, Vm, world_of, world_over};

/// A sender's datagrams, each with its number in it, and the numbers that a receiver has seen.
struct Flow<Q> {
    from: Vm<Q>,
    id: u16,
    sent: u32,
}

impl<Q: Layout> Flow<Q> {
    fn of(worker: &WorkerHandle, id: u16) -> Self {
        Self { from: Vm::attach(worker, id), id, sent: 0 }
    }

    /// Sends as many as its ring takes, up to a number.
    fn send(&mut self, to: std::net::Ipv4Addr, most: u32) {
        self.from.tx.reclaim();
        while self.sent < most {
            let payload = [&self.id.to_be_bytes()[..], &self.sent.to_be_bytes()].concat();
            let frame = self.from.udp(to, &payload);
            let sent = self.from.tx.send(&NetHeader::default(), &frame, Shape::default());
            if sent.is_none() {
                break;
            }
            self.sent += 1;
        }
        if self.from.tx.queue.expose() {
            rustix::io::write(&*self.from.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }
}

/// What a receiver has seen of each flow, in order and without a gap.
#[derive(Default)]
struct Seen(BTreeMap<u16, u32>);

impl Seen {
    fn look<Q: Layout>(&mut self, at: &mut Vm<Q>) {
        let mut frame = Vec::new();
        while at.rx.receive(&mut frame).is_some() {
            if frame[12..14] != [8, 0] {
                continue;
            }
            let flow = u16::from_be_bytes([frame[42], frame[43]]);
            let number = u32::from_be_bytes([frame[44], frame[45], frame[46], frame[47]]);
            let next = self.0.entry(flow).or_default();
            assert_eq!(number, *next, "flow {flow}: lost or overtaken");
            *next += 1;
        }
        at.rx.fill(2048);
        at.rx.queue.expose();
    }

    fn all(&self) -> u32 {
        self.0.values().sum()
    }
}

fn count(state: &StateMemory, port: u16, counter: Counter) -> u64 {
    Counters::of(state, Owner::Port(PortId(port))).get(counter)
}

fn workers_of(worker: &WorkerHandle) -> Vec<usize> {
    worker.placed().unwrap().into_iter().map(|(_, worker)| worker).collect()
}

#[test]
fn ports_go_to_the_worker_that_has_fewest() {
    let (_state, worker) = world_of(3);
    let _vms: Vec<_> = (0..7).map(|id| Vm::<DriverQueue>::attach(&worker, id)).collect();
    assert_eq!(workers_of(&worker), [0, 1, 2, 0, 1, 2, 0]);
    worker.remove_port(PortId(1)).unwrap();
    let _again = Vm::<DriverQueue>::attach(&worker, 7);
    assert_eq!(workers_of(&worker), [0, 2, 0, 1, 2, 0, 1]);
    let last = NotMoved::NoWorker { worker: 3, last: 2 };
    assert_eq!(worker.move_port(PortId(0), 3).unwrap(), Err(last));
    assert_eq!(worker.move_port(PortId(1), 0).unwrap(), Err(NotMoved::NoPort));
    worker.shut_down();
}

#[test]
fn two_workers_deliver_to_one_receiver_all_that_was_sent_in_order() {
    deliver_to_one::<DriverQueue>();
    deliver_to_one::<PackedQueue>();
}

fn deliver_to_one<Q: Layout>() {
    const EACH: u32 = 5000;
    let (state, worker) = world_of(2);
    let mut flows = [Flow::<Q>::of(&worker, 1), Flow::of(&worker, 2)];
    let mut to = Vm::<Q>::attach(&worker, 3);
    assert_eq!(workers_of(&worker), [0, 1, 0]);
    let (mut seen, until) = (Seen::default(), Instant::now() + 6 * PATIENCE);
    while seen.all() < 2 * EACH {
        for flow in &mut flows {
            // No more under way than the receiver has buffers for.
            let most = (seen.all() / 2 + 100).min(EACH);
            flow.send(to.address, most);
        }
        seen.look(&mut to);
        assert!(Instant::now() < until, "{:?} of {EACH} each", seen.0);
    }
    worker.comes_round().unwrap();
    let all = u64::from(2 * EACH);
    assert_eq!(count(&state, 3, Counter::Delivered), all);
    assert_eq!(count(&state, 1, Counter::ToVm) + count(&state, 2, Counter::ToVm), all);
    worker.shut_down();
}

#[test]
fn a_port_that_is_moved_while_it_sends_loses_nothing_and_nothing_is_overtaken() {
    moved_while_it_sends::<DriverQueue>();
    moved_while_it_sends::<PackedQueue>();
}

fn moved_while_it_sends<Q: Layout>() {
    const ALL: u32 = 20_000;
    let (state, worker) = world_of(2);
    let mut flow = Flow::<Q>::of(&worker, 1);
    let mut to = Vm::<Q>::attach(&worker, 2);
    let (mut seen, until) = (Seen::default(), Instant::now() + 6 * PATIENCE);
    let mut moves = 0;
    while seen.all() < ALL {
        let most = (seen.all() + 200).min(ALL);
        flow.send(to.address, most);
        worker.move_port(PortId(1), moves % 2).unwrap().unwrap();
        moves += 1;
        seen.look(&mut to);
        assert!(Instant::now() < until, "{} of {ALL}", seen.all());
    }
    worker.comes_round().unwrap();
    assert_eq!(count(&state, 1, Counter::ToVm), u64::from(ALL));
    assert!(moves > 50, "{moves} moves");
    worker.shut_down();
}

#[test]
fn a_kick_is_never_lost_however_the_port_is_moved_around_it() {
    let (_state, worker) = world_of(2);
    let mut flow = Flow::<DriverQueue>::of(&worker, 1);
    let mut to = Vm::<DriverQueue>::attach(&worker, 2);
    let mover = worker.clone();
    let (moved, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, end) = (moved.clone(), ended.clone());
    let moving = std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            let moves = count.fetch_add(1, Ordering::Relaxed);
            mover.move_port(PortId(1), moves % 2).unwrap().unwrap();
            // Now and then long enough for everybody to fall asleep.
            if moves.is_multiple_of(7) {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    let (mut seen, mut n) = (Seen::default(), 0);
    while n < 3000 || moved.load(Ordering::Relaxed) < 200 {
        n += 1;
        // One datagram with one kick, and no other before it has arrived: a kick that is lost is
        // made up for by nobody.
        flow.send(to.address, n);
        let until = Instant::now() + PATIENCE;
        while seen.all() < n {
            seen.look(&mut to);
            assert!(Instant::now() < until, "datagram {n} lies in the ring");
        }
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ended.store(true, Ordering::Relaxed);
    moving.join().unwrap();
    worker.shut_down();
}

#[test]
fn a_ring_that_breaks_is_told_of_once_and_the_others_go_on() {
    let (state, _fd) = StateMemory::create().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count_told = told.clone();
    let tell = move |event| {
        if matches!(event, Event::RingBroken { .. }) {
            count_told.fetch_add(1, Ordering::Relaxed);
        }
    };
    let worker = world_over(&state, 2, Box::new(tell));
    let mut flows = [Flow::<DriverQueue>::of(&worker, 1), Flow::of(&worker, 2)];
    let mut to = Vm::<DriverQueue>::attach_without_buffers(&worker, 3, FEATURES);
    let mut beside = Vm::<DriverQueue>::attach(&worker, 4);
    // Both workers write to a ring whose next buffer is in no memory.
    let nowhere = Buffer { address: GuestAddress(1 << 40), len: 2048 };
    to.rx.queue.add(&[nowhere], true, None).unwrap();
    to.rx.queue.expose();
    let until = Instant::now() + 6 * PATIENCE;
    while count(&state, 3, Counter::BreakDescriptorAddress) == 0 {
        for flow in &mut flows {
            let most = flow.sent + 32;
            flow.send(to.address, most);
        }
        assert!(Instant::now() < until);
    }
    let mut seen = Seen::default();
    let starts = flows.each_ref().map(|flow| flow.sent);
    for (flow, start) in flows.iter().zip(starts) {
        seen.0.insert(flow.id, start);
    }
    let first = seen.all();
    while seen.all() < first + 2000 {
        for (flow, start) in flows.iter_mut().zip(starts) {
            let most = (seen.0[&flow.id] + 100).min(start + 1000);
            flow.send(beside.address, most);
        }
        seen.look(&mut beside);
        assert!(Instant::now() < until, "{:?}", seen.0);
    }
    worker.comes_round().unwrap();
    assert_eq!(count(&state, 3, Counter::BreakDescriptorAddress), 1);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    worker.shut_down();
}

#[test]
fn rings_that_come_and_go_disturb_nobody_on_the_other_worker() {
    const ALL: u32 = 20_000;
    let (state, worker) = world_of(2);
    let mut flow = Flow::<DriverQueue>::of(&worker, 1);
    let mut to = Vm::<DriverQueue>::attach(&worker, 2);
    let unstable = Vm::<DriverQueue>::attach(&worker, 3);
    let (mut seen, until) = (Seen::default(), Instant::now() + 6 * PATIENCE);
    let wrong = QueueLayout { size: 3, ..unstable.tx.queue.layout() };
    let mut rounds = 0u64;
    while seen.all() < ALL {
        flow.send(to.address, (seen.all() + 200).min(ALL));
        worker.move_port(PortId(3), (rounds % 2) as usize).unwrap().unwrap();
        let (memory, kick) = (unstable.tx.queue.memory().share(), Some(unstable.kick.clone()));
        let ring = Ring { memory, layout: wrong, features: FEATURES, kick, call: None, err: None };
        worker.start(PortId(3), RingId::TX, ring);
        unstable.start(&worker, PortId(3));
        worker.stop(PortId(3), RingId::TX);
        rounds += 1;
        seen.look(&mut to);
        assert!(Instant::now() < until, "{} of {ALL}", seen.all());
    }
    assert_eq!(count(&state, 3, Counter::BreakLayout), rounds);
    worker.shut_down();
}

#[test]
fn a_vm_that_floods_a_receiver_does_not_keep_another_workers_from_it() {
    let (state, worker) = world_of(2);
    let mut flood = Flow::<DriverQueue>::of(&worker, 1);
    let mut other = Flow::<DriverQueue>::of(&worker, 2);
    // It has no buffers: what matters here is who gets at its ring.
    let to = Vm::<DriverQueue>::attach_without_buffers(&worker, 3, FEATURES);
    assert_eq!(workers_of(&worker)[..2], [0, 1]);
    let until = Instant::now() + 6 * PATIENCE;
    while count(&state, 2, Counter::ToVm) < 5000 {
        flood.send(to.address, u32::MAX);
        other.send(to.address, 5000);
        assert!(Instant::now() < until, "{}", count(&state, 2, Counter::ToVm));
    }
    worker.comes_round().unwrap();
    let sent = count(&state, 1, Counter::ToVm) + count(&state, 2, Counter::ToVm);
    let dropped = || count(&state, 3, Counter::RxNoBuffer);
    while dropped() < sent {
        assert!(Instant::now() < until, "{} of {sent}", dropped());
    }
    worker.shut_down();
}

#[test]
fn what_lies_in_a_ring_when_it_starts_is_served_without_a_kick() {
    for workers in [1, 2] {
        let (state, worker) = world_of(workers);
        let mut from = Vm::<DriverQueue>::attach(&worker, 1);
        let mut to = Vm::<DriverQueue>::attach(&worker, 2);
        worker.stop(PortId(1), RingId::TX);
        for n in 0..50u32 {
            let frame = from.udp(to.address, &[&1u16.to_be_bytes()[..], &n.to_be_bytes()].concat());
            from.tx.send(&NetHeader::default(), &frame, Shape::default()).unwrap();
        }
        from.tx.queue.expose();
        worker.start(PortId(1), RingId::TX, from.rings[1].clone());
        let (mut seen, until) = (Seen::default(), Instant::now() + PATIENCE);
        while seen.all() < 50 {
            seen.look(&mut to);
            assert!(
                Instant::now() < until,
                "{} with {workers} workers",
                count(&state, 1, Counter::Taken)
            );
        }
        worker.shut_down();
    }
}

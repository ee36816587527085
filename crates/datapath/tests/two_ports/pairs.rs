//! Ports with several queue pairs: which ring a datagram comes by, who gets how much, what a kick wakes,
//! and what is left when a ring breaks, stops, or the worker dies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use datapath::counters::{Counter, Counters};
use datapath::names::{MAX_PAIRS, Owner, Pair, PortId, RingId, Side};
use datapath::state::StateMemory;
use datapath::state::marks::Stretch;
use datapath::state::port::PortRecord;
use datapath::state::suspicion::PortSuspicion;
use datapath::vhost::RingOwner;
use datapath::worker::WorkerHandle;
use virtqueue::driver::{Buffer, DriverQueue, PackedQueue, Shape};
use virtqueue::{GuestAddress, NetHeader};

use crate::stage::{FEATURES, Layout, PATIENCE, Vm, world, world_at_rest, world_of};

/// A VM whose card has several pairs: what it has of each is a [`Vm`] of the same address.
struct Many<Q> {
    id: u16,
    ends: Vec<Vm<Q>>,
}

impl<Q: Layout> Many<Q> {
    fn attach(state: &StateMemory, worker: &WorkerHandle, id: u16, pairs: usize) -> Self {
        let made = |_| Vm::made(id, FEATURES, 256, 2048);
        let mut many = Self { id, ends: Pair::first(pairs).map(made).collect() };
        for end in &mut many.ends {
            end.rx.fill(2048);
            end.rx.queue.expose();
        }
        // As a front end's attachment notes it.
        PortRecord::of(state, PortId(id)).set_offered(0, 0, pairs);
        many.set_up(worker);
        many
    }

    fn set_up(&self, worker: &WorkerHandle) {
        self.ends[0].set_up(worker, self.id);
        for (pair, end) in Pair::first(MAX_PAIRS).zip(&self.ends) {
            end.start_as(worker, PortId(self.id), pair);
        }
    }

    fn address(&self) -> Ipv4Addr {
        self.ends[0].address
    }

    /// What came by each ring since the last look: its frames that carry IPv4.
    fn look(&mut self) -> Vec<Vec<Vec<u8>>> {
        let look = |end: &mut Vm<Q>| {
            let (mut frame, mut seen) = (Vec::new(), Vec::new());
            while end.rx.receive(&mut frame).is_some() {
                if frame[12..14] == [8, 0] {
                    seen.push(frame.clone());
                }
            }
            end.rx.fill(2048);
            end.rx.queue.expose();
            seen
        };
        self.ends.iter_mut().map(look).collect()
    }
}

fn ring(pair: usize, side: Side) -> RingId {
    RingId { pair: Pair::new(pair as u32).unwrap(), side }
}

/// The second half of a datagram, and with `first` the first, as fragments with the number in them.
fn fragment(whole: &[u8], id: u16, first: bool) -> Vec<u8> {
    let mut frame = whole.to_vec();
    let udp = frame.split_off(34);
    let (first_half, second) = udp.split_at(16);
    let (payload, cut) = if first { (first_half, 0x2000u16) } else { (second, 2) };
    frame.extend(payload);
    frame[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&cut.to_be_bytes());
    frame[24..26].fill(0);
    let sum = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(fold(fold(sum)) as u16)).to_be_bytes());
    frame
}

/// Flow and number, wherever in a frame they stand.
fn told(frame: &[u8]) -> (u16, u32) {
    let later = u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff != 0;
    let at = if later { 34 } else { 42 };
    let number = u32::from_be_bytes(frame[at + 2..at + 6].try_into().unwrap());
    (u16::from_be_bytes([frame[at], frame[at + 1]]), number)
}

/// What each flow has come to: its ring and its last number.
#[derive(Default)]
struct Flows(BTreeMap<u16, (usize, u32)>);

impl Flows {
    /// Takes in what came by each ring: each flow by one, in order, nothing missing.
    fn see(&mut self, rings: Vec<Vec<Vec<u8>>>) {
        for (ring, frames) in rings.into_iter().enumerate() {
            for frame in frames {
                let (flow, number) = told(&frame);
                let (its, last) = self.0.entry(flow).or_insert((ring, 0));
                assert_eq!((ring, number), (*its, *last + 1), "flow {flow}");
                *last = number;
            }
        }
    }

    fn all(&self) -> u32 {
        self.0.values().map(|(_, last)| last).sum()
    }

    fn rings(&self) -> BTreeSet<usize> {
        self.0.values().map(|(ring, _)| *ring).collect()
    }
}

#[test]
fn each_flow_comes_by_one_ring_in_order_and_all_rings_are_used() {
    for workers in [1, 2] {
        flows_are_spread::<DriverQueue>(workers);
        flows_are_spread::<PackedQueue>(workers);
    }
}

fn flows_are_spread<Q: Layout>(workers: usize) {
    const FLOWS: u16 = 24;
    const EACH: u32 = 60;
    let (state, worker) = world_of(workers);
    let mut from = [Vm::<Q>::attach(&worker, 1), Vm::<Q>::attach(&worker, 2)];
    let mut to = Many::<Q>::attach(&state, &worker, 3, 4);
    let (mut flows, until) = (Flows::default(), Instant::now() + 6 * PATIENCE);
    let mut sent = 0;
    for n in 0..EACH / 3 {
        for flow in 0..FLOWS {
            let vm = &mut from[usize::from(flow % 2)];
            let frame = |half: u32| {
                let number = |n: u32| [&flow.to_be_bytes()[..], &n.to_be_bytes(), &[0; 2]].concat();
                let payload = [number(3 * n + half), number(3 * n + 3)].concat();
                assert_eq!(payload.len(), 16);
                payload
            };
            // Whole, then in two fragments: all of one flow.
            let whole = vm.udp_from(5000 + flow, to.address(), &frame(1));
            let cut = vm.udp_from(5000 + flow, to.address(), &frame(2));
            let id = (n as u16) << 8 | flow;
            for frame in [whole, fragment(&cut, id, true), fragment(&cut, id, false)] {
                vm.tx.reclaim();
                vm.send(&frame);
                sent += 1;
            }
        }
        if workers == 2 {
            worker.move_port(PortId(1), n as usize % 2).unwrap().unwrap();
        }
        while flows.all() < sent {
            flows.see(to.look());
            assert!(Instant::now() < until, "{} of {sent}", flows.all());
        }
    }
    assert_eq!(flows.rings(), BTreeSet::from([0, 1, 2, 3]));
    worker.shut_down();
}

#[test]
fn a_ring_that_does_not_run_is_never_delivered_to() {
    let (state, worker) = world();
    let mut from = Vm::<DriverQueue>::attach(&worker, 1);
    let mut to = Many::<DriverQueue>::attach(&state, &worker, 2, 4);
    let mut number = 0;
    let mut used = |to: &mut Many<DriverQueue>| {
        let mut rings = BTreeSet::new();
        number += 1;
        for flow in 0..64u16 {
            let payload = [&flow.to_be_bytes()[..], &u32::to_be_bytes(number), &[0; 10]].concat();
            let frame = from.udp_from(flow, to.address(), &payload);
            from.tx.reclaim();
            from.send(&frame);
        }
        let (mut seen, until) = (0, Instant::now() + PATIENCE);
        while seen < 64 {
            for (ring, frames) in to.look().into_iter().enumerate() {
                seen += frames.len();
                rings.extend((!frames.is_empty()).then_some(ring));
            }
            assert!(Instant::now() < until, "{seen} of 64");
        }
        rings.into_iter().collect::<Vec<_>>()
    };
    let port = PortId(2);
    assert_eq!(used(&mut to), [0, 1, 2, 3]);
    for pair in [3, 1] {
        worker.stop(port, ring(pair, Side::Rx)).unwrap();
    }
    assert_eq!(used(&mut to), [0, 2]);
    worker.stop(port, ring(0, Side::Rx)).unwrap();
    assert_eq!(used(&mut to), [2], "the first has no privilege here");
    for pair in [1, 0] {
        worker.start(port, ring(pair, Side::Rx), to.ends[pair].rings[0].clone());
    }
    assert_eq!(used(&mut to), [0, 1, 2]);
    worker.shut_down();
}

#[test]
fn a_port_that_floods_by_all_its_rings_gets_one_ports_share_and_each_ring_its_part_of_it() {
    const FULL: u32 = 256;
    const BATCH: usize = 64;
    let (state, _fd) = StateMemory::create().unwrap();
    let worker = world_at_rest(&state, 1, Box::new(|_| {}));
    let mut to = Vm::<DriverQueue>::made(3, FEATURES, 4096, 128);
    to.rx.fill(128);
    to.rx.queue.expose();
    to.set_up(&worker, 3);
    let fill = |vm: &mut Vm<DriverQueue>, flow: u16| {
        for n in 0..FULL {
            let frame = vm.udp(to.address, &[&flow.to_be_bytes()[..], &n.to_be_bytes()].concat());
            vm.tx.send(&NetHeader::default(), &frame, Shape::default()).unwrap();
        }
        vm.tx.queue.expose();
    };
    let mut flood = Many::<DriverQueue>::attach(&state, &worker, 1, MAX_PAIRS);
    let mut other = Vm::<DriverQueue>::made(2, FEATURES, 256, 2048);
    (0..).zip(&mut flood.ends).for_each(|(flow, end)| fill(end, flow));
    fill(&mut other, 100);
    other.set_up(&worker, 2);
    other.start(&worker, PortId(2));
    to.start(&worker, PortId(3));
    worker.serve().unwrap();
    let (mut order, mut frame) = (Vec::new(), Vec::new());
    let until = Instant::now() + 2 * PATIENCE;
    while order.len() < FULL as usize * (MAX_PAIRS + 1) {
        if to.rx.receive(&mut frame).is_some() && frame[12..14] == [8, 0] {
            order.push(told(&frame).0);
        }
        assert!(Instant::now() < until, "{}", order.len());
    }
    let last = order.iter().rposition(|flow| *flow == 100).unwrap();
    assert!(last < 2 * FULL as usize + 2 * BATCH, "the other's last datagram is number {last}");
    let first: BTreeSet<u16> =
        order.iter().filter(|flow| **flow != 100).take(MAX_PAIRS * BATCH).copied().collect();
    assert_eq!(first, (0..MAX_PAIRS as u16).collect(), "each ring had its turn");
    worker.shut_down();
}

#[test]
fn a_kick_of_any_ring_wakes_the_worker_whichever_others_run() {
    for workers in [1, 2] {
        let (state, worker) = world_of(workers);
        let mut from = Many::<DriverQueue>::attach(&state, &worker, 1, 4);
        let mut to = Vm::<DriverQueue>::attach(&worker, 2);
        let port = PortId(1);
        let mut number = 0u8;
        let mut kick = |from: &mut Many<DriverQueue>, pair: usize| {
            // The worker sleeps.
            std::thread::sleep(Duration::from_millis(5));
            number += 1;
            let frame = from.ends[pair].udp(to.address, &[number]);
            from.ends[pair].tx.reclaim();
            from.ends[pair].send(&frame);
            assert_eq!(to.receive()[42], number, "pair {pair}");
        };
        (0..4).for_each(|pair| kick(&mut from, pair));
        worker.stop(port, ring(0, Side::Tx)).unwrap();
        (1..4).for_each(|pair| kick(&mut from, pair));
        worker.move_port(port, workers - 1).unwrap().unwrap();
        (1..4).for_each(|pair| kick(&mut from, pair));
        worker.stop(port, ring(2, Side::Tx)).unwrap();
        worker.start(port, ring(0, Side::Tx), from.ends[0].rings[1].clone());
        [0, 1, 3].into_iter().for_each(|pair| kick(&mut from, pair));
        worker.shut_down();
    }
}

#[test]
fn a_ring_that_breaks_stops_all_of_the_port_and_nobody_elses() {
    for (pair, side) in [(2, Side::Tx), (3, Side::Rx)] {
        let (state, worker) = world();
        let mut many = Many::<DriverQueue>::attach(&state, &worker, 1, 4);
        let mut other = Vm::<DriverQueue>::attach(&worker, 2);
        let nowhere = Buffer { address: GuestAddress(1 << 40), len: 64 };
        let end = &mut many.ends[pair];
        if side == Side::Tx {
            end.tx.queue.add(&[nowhere], false, None).unwrap();
            end.tx.queue.expose();
            rustix::io::write(&*end.kick, &1u64.to_ne_bytes()).unwrap();
        } else {
            // Only this one, and with no other buffer before.
            for others in [0, 1, 2] {
                worker.stop(PortId(1), ring(others, Side::Rx)).unwrap();
            }
            worker.stop(PortId(1), ring(pair, Side::Rx)).unwrap();
            *end = Vm::made(1, FEATURES, 256, 2048);
            end.rx.queue.add(&[nowhere], true, None).unwrap();
            end.rx.queue.expose();
            worker.start(PortId(1), ring(pair, Side::Rx), end.rings[0].clone());
            let frame = other.udp(many.address(), b"x");
            other.send(&frame);
        }
        let counters = Counters::of(&state, Owner::Port(PortId(1)));
        let until = Instant::now() + PATIENCE;
        while counters.get(Counter::BreakDescriptorAddress) == 0 {
            assert!(Instant::now() < until, "{side:?}");
        }
        worker.comes_round().unwrap();
        let record = PortRecord::of(&state, PortId(1));
        assert!(RingId::all(4).all(|ring| record.fault(ring).is_some()), "{side:?}");
        let address = many.address();
        let broken = || counters.get(Counter::RxPortBroken);
        let before = broken();
        let frame = other.udp(address, b"y");
        other.tx.reclaim();
        other.send(&frame);
        while broken() == before {
            assert!(Instant::now() < until, "{side:?}");
        }
        for frames in many.look() {
            assert!(frames.is_empty());
        }
        // All of them set up anew: it goes on.
        many.ends = Pair::first(4).map(|_| Vm::made(1, FEATURES, 256, 2048)).collect();
        many.look();
        for (pair, end) in Pair::first(4).zip(&many.ends) {
            end.start_as(&worker, PortId(1), pair);
        }
        let frame = many.ends[3].udp(other.address, b"again");
        many.ends[3].send(&frame);
        assert_eq!(other.receive()[42..47], *b"again");
        assert_eq!(counters.get(Counter::BreakDescriptorAddress), 1);
        worker.shut_down();
    }
}

#[test]
fn what_killed_a_base_in_a_ring_of_another_pair_is_left_out_there_and_nowhere_else() {
    let (state, worker) = world();
    let mut from = Many::<DriverQueue>::attach(&state, &worker, 1, 3);
    let mut to = Vm::<DriverQueue>::attach(&worker, 2);
    let (port, pair) = (PortId(1), Pair::new(2).unwrap());
    for pair in 0..3 {
        worker.stop(port, ring(pair, Side::Tx)).unwrap();
        for n in 0..4u8 {
            let frame = from.ends[pair].udp(to.address, &[pair as u8, n]);
            from.ends[pair].send(&frame);
        }
    }
    let suspicion = PortSuspicion::of(&state, port);
    suspicion.set_skip(ring(2, Side::Tx), Some(0));
    suspicion.set_sent(pair, Some(Stretch { at: 0, len: 3 }));
    for pair in 0..3 {
        worker.start(port, ring(pair, Side::Tx), from.ends[pair].rings[1].clone());
    }
    let mut seen: Vec<[u8; 2]> =
        (0..11).map(|_| to.receive()[42..44].try_into().unwrap()).collect();
    seen.sort();
    let all = (0..3).flat_map(|pair| (0..4).map(move |n| [pair, n]));
    assert_eq!(seen, all.filter(|told| *told != [2, 0]).collect::<Vec<_>>());
    let counters = Counters::of(&state, Owner::Port(port));
    assert_eq!(counters.get(Counter::DropPoison), 1);
    let until = Instant::now() + PATIENCE;
    while suspicion.sent(pair).is_some() || suspicion.skip(ring(2, Side::Tx)).is_some() {
        assert!(Instant::now() < until);
    }
    worker.shut_down();
}

#[test]
fn a_successor_goes_on_in_every_ring_where_the_worker_before_it_stood() {
    succeeds::<DriverQueue>();
    succeeds::<PackedQueue>();
}

fn succeeds<Q: Layout>() {
    let (state, mut worker) = world();
    let mut from = Many::<Q>::attach(&state, &worker, 1, 3);
    let mut to = Many::<Q>::attach(&state, &worker, 2, 2);
    let (mut flows, mut sent) = (Flows::default(), 0);
    for n in 1..=200u32 {
        for flow in 0..9u16 {
            let payload = [&flow.to_be_bytes()[..], &n.to_be_bytes(), &[0; 10]].concat();
            let end = &mut from.ends[usize::from(flow % 3)];
            let frame = end.udp_from(flow, to.address(), &payload);
            end.tx.reclaim();
            end.send(&frame);
            sent += 1;
        }
        // Every now and then with something in the rings.
        if n % 23 == 0 {
            worker.shut_down();
            worker = world_at_rest(&state, 1, Box::new(|_| {}));
            from.set_up(&worker);
            to.set_up(&worker);
            worker.serve().unwrap();
        }
        let until = Instant::now() + PATIENCE;
        while flows.all() < sent {
            flows.see(to.look());
            assert!(Instant::now() < until, "{} of {sent}", flows.all());
        }
    }
    assert_eq!(flows.rings(), BTreeSet::from([0, 1]));
    worker.shut_down();
}

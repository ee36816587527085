//! One run of one case, in this process: two drivers, the worker, and for some cases a card.
//!
//! # Theory of operation
//! All datagrams of a run lie in the sender's ring, or in the card's, before the worker may look at
//! them, and the receiver's ring has room for all. So the worker's thread carries full batches until
//! it is done, the same in each run, while the thread that set all this up sleeps. What the run is
//! for is counted from outside: the instructions of the worker's thread.
//!
//! ```text
//!  VM 1  ══ 500 addresses ══╗
//!                           ╠═ worker ═ the card, a cable (see `cable`)
//!  VM 2  ══ 500 addresses ══╝
//! ```
//! Each datagram has another of the addresses, so that no one place in the list decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::frames::{self, Ends};
use datapath::answer::{LastInch, Lease4};
use datapath::counters::{Counter, Counters};
use datapath::names::{Mac, NetworkId, Owner, PortId, RingId};
use datapath::state::StateMemory;
use datapath::vhost::{Ring, RingOwner, features};
use datapath::worker::{self, NetworkSetup, PortSetup, WorkerHandle};
use rustix::event::{EventfdFlags, eventfd};
use virtqueue::QueueFeatures;
use virtqueue::driver::{AnyQueue, DriverMemory, DriverRing, DriverRx, DriverTx, Shape};

use crate::cable::{self, HOST, OUTSIDE, PATIENCE, ROUTER};
use crate::cases::{Case, Way};

const NETWORK: NetworkId = NetworkId(0);
/// Addresses of each of the two VMs.
const ADDRESSES: u16 = 500;
/// What a Linux guest takes of what is offered, whose device was not told to have packed rings.
const FEATURES: u64 = features::OFFERED & !(features::ANY_LAYOUT | features::RING_PACKED);
/// Entries of the rings that carry nothing.
const IDLE_RING: u16 = 64;
/// Octets of a receive buffer: as Linux posts them, and for large receives a page.
const BUFFER: usize = 1536;
const LARGE_BUFFER: usize = 4096;

/// The `n`th address of VM `vm`: addresses for benchmarks (RFC 2544), or documentation's.
fn address(vm: u16, n: u16, ip6: bool) -> IpAddr {
    let [high, low] = (n + 1).to_be_bytes();
    match ip6 {
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, vm, 0, 0, 0, n + 1).into(),
        false => Ipv4Addr::new(198, 18, vm as u8 * 16 + high, low).into(),
    }
}

fn mac(vm: u16) -> Mac {
    Mac([2, 0, 0, 0, 0, vm as u8])
}

/// What the base says on a link with this address.
fn inch(guest_mac: Option<Mac>, own: Option<Ipv4Addr>) -> LastInch {
    let lease = |address| Lease4 { address, prefix_len: 32, router: ROUTER };
    LastInch {
        guest_mac,
        addresses4: own.map(lease).into_iter().collect(),
        addresses6: vec![],
        icmp_source4: HOST,
        ..LastInch::silent(1500)
    }
}

/// One VM's driver.
struct Vm {
    number: u16,
    tx: DriverTx<AnyQueue>,
    rx: DriverRx<AnyQueue>,
    rings: [Ring; 2],
}

impl Vm {
    /// A driver that can send `send` frames of a case, and receive `receive` of them.
    fn new(number: u16, send: u16, receive: u16, case: &Case) -> Self {
        let octets = case.octets;
        let features = FEATURES | if case.packed { features::RING_PACKED } else { 0 };
        let (buffer, each) = match octets {
            0..BUFFER => (BUFFER, 1),
            _ => (LARGE_BUFFER, (octets + 12).div_ceil(LARGE_BUFFER) as u16),
        };
        let buffers = (receive * each).max(IDLE_RING).next_power_of_two();
        let send = send.max(IDLE_RING).next_power_of_two();
        let room = octets + 128;
        let rings = 64 * usize::from(buffers.max(send)) + 65_536;
        let octets = usize::from(send) * room + usize::from(buffers) * buffer + 2 * rings;
        let octets = octets.next_multiple_of(4096) as u64;
        let memory = DriverMemory::new(&[(0, octets)]).expect("memory for a guest");
        let queue = QueueFeatures::from_bits(features);
        let ring = |size| AnyQueue::set_up(memory.clone(), size, queue);
        let tx = DriverTx::over(ring(send), room);
        let mut rx = DriverRx::over(ring(buffers), buffer);
        rx.fill(buffer);
        rx.queue.expose();
        rx.queue.disarm();
        let shared = memory.share();
        let event = || Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"));
        let ring = |layout| Ring {
            memory: shared.clone(),
            layout,
            features,
            kick: Some(event()),
            call: Some(event()),
            err: None,
        };
        let rings = [ring(rx.queue.layout()), ring(tx.queue.layout())];
        Self { number, tx, rx, rings }
    }

    /// Serves the VM's port: its addresses are those of the case's family.
    fn attach(&self, worker: &WorkerHandle, ip6: bool) {
        let prefixes = (0..ADDRESSES).map(|n| address(self.number, n, ip6).into());
        let IpAddr::V4(first) = address(self.number, 0, false) else { unreachable!() };
        let setup = PortSetup {
            id: PortId(self.number),
            network: NETWORK,
            name: format!("vm{}", self.number),
            inch: inch(Some(mac(self.number)), Some(first)),
            prefixes: prefixes.collect(),
        };
        worker.add_port(setup).expect("a worker").expect("addresses that nobody has");
    }

    fn start(&self, worker: &WorkerHandle, id: RingId) {
        let ring = &self.rings[usize::from(id.number())];
        worker.start(PortId(self.number), id, ring.clone());
    }

    /// Puts so many frames of a case into the output ring.
    fn fill(&mut self, case: &Case, count: u16) {
        self.tx.reclaim();
        for n in (0..count).map(|n| n % ADDRESSES) {
            let to = match case.way {
                Way::Out => IpAddr::V4(OUTSIDE),
                Way::Between | Way::In => address(2, n, case.ip6),
            };
            let ends = Ends {
                macs: [mac(self.number).0, Mac::BASE.0],
                addresses: [address(self.number, n, case.ip6), to],
            };
            let (header, frame) = frames::build(case.kind, ends, case.octets);
            self.tx.send(&header, &frame, Shape::default()).expect("room in the ring");
        }
        self.tx.queue.expose();
    }

    /// Frames that arrived with a payload of the case's length.
    fn received(&mut self, case: &Case) -> u16 {
        let mut frame = Vec::new();
        let mut count = 0;
        while self.rx.receive(&mut frame).is_some() {
            count += u16::from(frame.len() == case.octets);
        }
        count
    }
}

/// Runs a case with `count` datagrams. Panics unless each of them met its fate.
pub fn run(case: &Case, count: u16) {
    let (state, _fd) = StateMemory::create().expect("a state memory");
    let (worker, thread) = worker::spawn(state.clone(), Box::new(|_| {})).expect("a worker");
    let outward = inch(None, None);
    let network = NetworkSetup { id: NETWORK, mtu: 1500, on_link: vec![], outward };
    worker.add_network(network).expect("a worker");
    // The same rings in the short and in the long run. One more, for the router to be found.
    let [_, most] = case.runs;
    let (send, receive) = match case.way {
        Way::Between => (most, most),
        Way::Out => (most + 1, 0),
        Way::In => (0, most),
    };
    let mut vms = [Vm::new(1, send, 0, case), Vm::new(2, 0, receive, case)];
    if case.needs_card() {
        let uplink = cable::lay(&state, NETWORK, most.into());
        worker.set_uplink(NETWORK, Some(uplink)).expect("a worker").expect("a card to watch");
    }
    for vm in &vms {
        vm.attach(&worker, case.ip6);
        vm.start(&worker, RingId::RX);
    }
    let [sender, receiver] = &mut vms;
    let sent = || Counters::of(&state, Owner::Port(PortId(1))).get(Counter::ToUplink);
    let delivered = || Counters::of(&state, Owner::Port(PortId(2))).get(Counter::Delivered);
    match case.way {
        Way::Between => {
            sender.fill(case, count);
            worker.serve().expect("a worker");
            sender.start(&worker, RingId::TX);
            change_list(&worker, case.updates(count));
            wait("the receiver to have all", || delivered() >= count.into());
        }
        Way::Out => {
            worker.serve().expect("a worker");
            sender.fill(case, 1);
            sender.start(&worker, RingId::TX);
            wait("the router to be found", || sent() == 1);
            worker.stop(PortId(1), RingId::TX);
            sender.fill(case, count);
            sender.start(&worker, RingId::TX);
            wait("the card to have all", || sent() > count.into());
        }
        Way::In => {
            let to = (0..count).map(|n| address(2, n % ADDRESSES, case.ip6));
            cable::send(to, case.octets);
            worker.serve().expect("a worker");
            wait("the receiver to have all", || delivered() >= count.into());
        }
    }
    worker.shut_down();
    thread.join().expect("a worker that does not panic");
    match case.way {
        Way::Between | Way::In => assert_eq!(receiver.received(case), count),
        Way::Out => assert_eq!(sender.tx.reclaim(), usize::from(count)),
    }
}

/// Lets addresses come to the list and go from it by turns, so many times.
fn change_list(worker: &WorkerHandle, times: u16) {
    for n in 0..times {
        // Of no VM's; each comes once and goes once.
        let address = address(3, n / 2, false);
        match n % 2 {
            0 => worker.add_host_address(NETWORK, address).expect("a worker").expect("nobody's"),
            _ => worker.remove_host_address(NETWORK, address).expect("a worker"),
        }
    }
}

/// Waits for something that must happen. The worker's thread, if it is the only other one, has the
/// processor meanwhile.
fn wait(what: &str, happened: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! Drivers and workers, without sockets.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::answer::{LastInch, Lease4};
use datapath::event::Event;
use datapath::names::{Mac, NetworkId, Pair, PortId, RingId, Side};
use datapath::state::StateMemory;
use datapath::vhost::{Ring, RingOwner, features};
use datapath::worker::{self, NetworkSetup, PortSetup, WorkerHandle, Workers};
use etherparse::PacketBuilder;
use rustix::event::{EventfdFlags, eventfd};
use virtqueue::driver::{
    DriverMemory, DriverQueue, DriverRing, DriverRx, DriverTx, PackedQueue, Shape,
};
use virtqueue::{NetHeader, QueueFeatures};

pub const NETWORK: NetworkId = NetworkId(0);
pub const FEATURES: u64 = features::VERSION_1
    | features::RING_EVENT_IDX
    | features::RING_INDIRECT_DESC
    | features::MRG_RXBUF;
pub const PATIENCE: Duration = Duration::from_secs(5);

pub struct Vm<Q = DriverQueue> {
    pub address: Ipv4Addr,
    pub mac: Mac,
    pub tx: DriverTx<Q>,
    pub rx: DriverRx<Q>,
    pub kick: Arc<OwnedFd>,
    pub tx_call: Arc<OwnedFd>,
    pub rings: [Ring; 2],
}

/// A ring's layout, and the feature that asks for it.
pub trait Layout: DriverRing {
    const FEATURE: u64;
}

impl Layout for DriverQueue {
    const FEATURE: u64 = 0;
}

impl Layout for PackedQueue {
    const FEATURE: u64 = features::RING_PACKED;
}

impl<Q: Layout> Vm<Q> {
    pub fn attach(worker: &WorkerHandle, id: u16) -> Self {
        Self::attach_with(worker, id, FEATURES)
    }

    pub fn attach_with(worker: &WorkerHandle, id: u16, features: u64) -> Self {
        let mut vm = Self::attach_without_buffers(worker, id, features);
        vm.rx.fill(2048);
        vm.rx.queue.expose();
        vm
    }

    pub fn attach_without_buffers(worker: &WorkerHandle, id: u16, features: u64) -> Self {
        let vm = Self::made(id, features, 256, 2048);
        vm.set_up(worker, id);
        vm.start(worker, PortId(id));
        vm
    }

    /// One that has no port yet, with rings of so many buffers of that many octets.
    pub fn made(id: u16, features: u64, size: u16, room: usize) -> Self {
        let features = features | Q::FEATURE;
        let address = Ipv4Addr::new(203, 0, 113, 10 + id as u8);
        let mac = Mac([2, 0, 0, 0, 0, id as u8]);
        let memory =
            DriverMemory::new(&[(0, (4 << 20).max(u64::from(size) * 4 * room as u64))]).unwrap();
        let queue = QueueFeatures::from_bits(features);
        let tx = DriverTx::over(Q::set_up(memory.clone(), size, queue), room);
        let rx = DriverRx::over(Q::set_up(memory.clone(), size, queue), room);
        let event = || Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let kick = event();
        let shared = memory.share();
        let tx_call = event();
        let ring = |layout, kick, call| Ring {
            memory: shared.clone(),
            layout,
            features,
            kick: Some(kick),
            call: Some(call),
            err: None,
        };
        let rings = [
            ring(rx.queue.layout(), event(), event()),
            ring(tx.queue.layout(), kick.clone(), tx_call.clone()),
        ];
        Self { address, mac, tx, rx, kick, tx_call, rings }
    }

    /// Its port.
    pub fn set_up(&self, worker: &WorkerHandle, id: u16) {
        let (address, mac) = (self.address, self.mac);
        let lease = Lease4 { address, prefix_len: 24, router: Ipv4Addr::new(203, 0, 113, 1) };
        let inch =
            LastInch { guest_mac: Some(mac), addresses4: vec![lease], ..LastInch::silent(1500) };
        let prefixes = vec![IpAddr::V4(address).into()];
        let name = format!("vm{id}");
        worker
            .add_port(PortSetup { id: PortId(id), network: NETWORK, name, inch, prefixes })
            .unwrap()
            .unwrap();
    }

    pub fn start(&self, worker: &WorkerHandle, port: PortId) {
        self.start_as(worker, port, Pair::FIRST);
    }

    /// Has its rings served as those of a pair.
    pub fn start_as(&self, worker: &WorkerHandle, port: PortId, pair: Pair) {
        for (side, ring) in [Side::Rx, Side::Tx].into_iter().zip(&self.rings) {
            worker.start(port, RingId { pair, side }, ring.clone());
        }
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.tx.send(&NetHeader::default(), frame, Shape::default()).unwrap();
        if self.tx.queue.expose() {
            rustix::io::write(&*self.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }

    pub fn udp(&self, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        self.udp_from(1000, to, payload)
    }

    pub fn udp_from(&self, port: u16, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.mac.0, Mac::BASE.0)
            .ipv4(self.address.octets(), to.octets(), 7)
            .udp(port, 2000)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    pub fn echo(&self, to: Ipv4Addr) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.mac.0, Mac::BASE.0)
            .ipv4(self.address.octets(), to.octets(), 7)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, b"ping")
            .unwrap();
        frame
    }

    /// The next frame that carries IPv4.
    pub fn receive(&mut self) -> Vec<u8> {
        loop {
            let frame = self.receive_any();
            if frame[12..14] == [8, 0] {
                return frame;
            }
        }
    }

    /// The next frame but for router advertisements, which are not what is waited for here.
    pub fn receive_any(&mut self) -> Vec<u8> {
        let until = Instant::now() + PATIENCE;
        let mut frame = Vec::new();
        loop {
            if self.rx.receive(&mut frame).is_some() {
                self.rx.fill(2048);
                self.rx.queue.expose();
                if frame[12..14] != [0x86, 0xdd] {
                    return frame;
                }
            }
            assert!(Instant::now() < until, "nothing arrived");
        }
    }
}

/// One worker.
pub fn world() -> (StateMemory, WorkerHandle) {
    world_of(1)
}

/// So many workers.
pub fn world_of(workers: usize) -> (StateMemory, WorkerHandle) {
    let (state, _fd) = StateMemory::create().unwrap();
    let worker = world_over(&state, workers, Box::new(|_| {}));
    (state, worker)
}

/// Workers over what others may have left.
pub fn world_over(
    state: &StateMemory,
    workers: usize,
    tell: Box<dyn Fn(Event) + Send + Sync>,
) -> WorkerHandle {
    let worker = world_at_rest(state, workers, tell);
    worker.serve().unwrap();
    worker
}

/// The same, and nothing is served yet.
pub fn world_at_rest(
    state: &StateMemory,
    workers: usize,
    tell: Box<dyn Fn(Event) + Send + Sync>,
) -> WorkerHandle {
    let workers = Workers { cores: vec![None; workers], one_by_one: false };
    let (worker, _thread) = worker::spawn_several(state.clone(), &workers, tell).unwrap();
    let on_link = vec!["203.0.113.0/24".parse().unwrap()];
    let outward = LastInch::silent(1500);
    worker.add_network(NetworkSetup { id: NETWORK, mtu: 1500, on_link, outward }).unwrap();
    worker
}

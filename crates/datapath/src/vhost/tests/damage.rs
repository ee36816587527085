//! Every octet of the state memory that is in use is damaged in turn, under two front ends and a
//! whole datapath with eight addresses: the successor starts, each port goes on or negotiates anew,
//! each address is where the configuration has it, and what has a seal is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use etherparse::PacketBuilder;
use virtqueue::NetHeader;
use virtqueue::driver::{DriverRx, DriverTx, Shape};

use super::stage::{FrontEnd, Guest, Message, PATIENCE, TestKeeper};
use crate::answer::{LastInch, Lease4};
use crate::counters::{Counter, Counters};
use crate::names::{Inlet, Mac, NetworkId, Owner, Pair, PortId};
use crate::offload::Offload;
use crate::pending::Pending;
use crate::state::blame;
use crate::state::lan::LanRecord;
use crate::state::marks::Stretch;
use crate::state::network::{HostSlot, NetworkRecord, Position, RingRecord};
use crate::state::network_name::NetworkName;
use crate::state::port::{self, PortRecord};
use crate::state::suspicion::{NetworkSuspicion, PortSuspicion};
use crate::state::{
    Place, SLOT_HEADER, StateMemory, counters_at, host_at, lan_at, network_at, pending_at, port_at,
};
use crate::vhost::{Dispatcher, DispatcherHandle, PortDoor, PortEvent, Socket};
use crate::worker::{self, NetworkSetup, PortSetup, WorkerHandle};

const NETWORK: NetworkId = NetworkId(0);
const NAMES: [&str; 2] = ["db", "web"];
/// Octets of the datagrams that rest in the state memory.
const RESTING: usize = 40;

/// The addresses of a VM: two of either family.
fn addresses(vm: usize) -> [IpAddr; 4] {
    let vm = vm as u16;
    let four = |n: u16| IpAddr::V4(Ipv4Addr::from(0xcb00_7100 + u32::from(10 * vm + n)));
    let six = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, vm, n));
    [four(10), four(11), six(10), six(11)]
}

/// A driver and its front end.
struct Vm {
    number: usize,
    path: PathBuf,
    conversation: Vec<Message>,
    tx: DriverTx,
    rx: DriverRx,
    kick: Arc<OwnedFd>,
    front: Option<FrontEnd>,
}

impl Vm {
    fn new(dir: &Path, number: usize) -> Self {
        let guest = Guest::new();
        let conversation = guest.conversation_with(1 + number);
        let Guest { rings, kicks, .. } = guest;
        let Ok([rx, tx]) = <[_; 2]>::try_from(rings) else { unreachable!() };
        let kick = kicks[1].clone();
        let (tx, mut rx) = (DriverTx::over(tx, 2048), DriverRx::over(rx, 2048));
        rx.fill(2048);
        rx.queue.expose();
        let path = dir.join(NAMES[number]);
        Self { number, path, conversation, tx, rx, kick, front: None }
    }

    /// Comes to the port, or comes again.
    fn attach(&mut self) {
        let mut front = FrontEnd::over(UnixStream::connect(&self.path).unwrap());
        front.say(&self.conversation);
        self.front = Some(front);
    }

    fn send(&mut self, to: IpAddr, payload: &[u8]) {
        let mac = [2, 0, 0, 0, 0, self.number as u8];
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2(mac, Mac::BASE.0);
        let [four, _, six, _] = addresses(self.number);
        let ip = match (four, six, to) {
            (IpAddr::V4(from), _, IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 7),
            (_, IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 7),
            _ => unreachable!(),
        };
        ip.udp(1000, 2000).write(&mut frame, payload).unwrap();
        self.tx.reclaim();
        self.tx.send(&NetHeader::default(), &frame, Shape::default()).unwrap();
        self.tx.queue.expose();
        rustix::io::write(&*self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Destination and payload of the next datagram that a VM sent, if one is there.
    fn receive(&mut self) -> Option<(IpAddr, Vec<u8>)> {
        let mut frame = Vec::new();
        while self.rx.receive(&mut frame).is_some() {
            self.rx.fill(2048);
            self.rx.queue.expose();
            let ip = &frame[14..];
            let (to, udp) = match ip[0] >> 4 {
                4 if ip[9] == 17 => (IpAddr::from(*ip[16..].first_chunk::<4>().unwrap()), 20),
                6 if ip[6] == 17 => (IpAddr::from(*ip[24..].first_chunk::<16>().unwrap()), 40),
                _ => continue,
            };
            return Some((to, ip[udp + 8..].to_vec()));
        }
        None
    }
}

/// A base: all that it has of what the successor takes over.
struct Base {
    state: StateMemory,
    worker: WorkerHandle,
    doors: DispatcherHandle,
    events: Receiver<(PortId, PortEvent)>,
    ids: BTreeMap<String, PortId>,
    /// The new state memory, if one had to be made.
    made: Option<OwnedFd>,
}

impl Base {
    /// The adopting function: state memory, worker, list, doors, as the base's instance does it.
    fn start(left: &OwnedFd, keeper: &Arc<TestKeeper>, dir: &Path) -> Self {
        let (state, made) = StateMemory::succeed(Some(left.as_fd()), 1).unwrap();
        // The one before is said to have died of its own making: whatever is marked counts.
        blame::judge(&state, true, 1);
        let ids = port::assign(&state, &BTreeSet::from(NAMES));
        let (worker, _) = worker::spawn(state.clone(), Box::new(|_| {})).unwrap();
        let (tell, events) = channel();
        let sink = Box::new(move |port, event| {
            let _ = tell.send((port, event));
        });
        let owner = Box::new(worker.clone());
        let doors = Dispatcher::spawn(state.clone(), keeper.clone(), owner, sink).unwrap();
        let setup = NetworkSetup {
            id: NETWORK,
            mtu: 1500,
            on_link: vec![],
            outward: LastInch::silent(1500),
        };
        worker.add_network(setup).unwrap();
        read_network(&state);
        for (number, name) in NAMES.into_iter().enumerate() {
            let prefixes = addresses(number).map(Into::into).to_vec();
            let mut inch = LastInch::silent(1500);
            for address in addresses(number) {
                match address {
                    IpAddr::V4(address) => {
                        let router = Ipv4Addr::new(203, 0, 113, 1);
                        inch.addresses4.push(Lease4 { address, prefix_len: 24, router });
                    }
                    IpAddr::V6(address) => inch.addresses6.push(address),
                }
            }
            let (id, name) = (ids[name], name.to_owned());
            let setup = PortSetup { id, network: NETWORK, name, inch, prefixes };
            worker.add_port(setup).unwrap().unwrap();
        }
        for name in NAMES {
            let prefix = format!("port/{name}/");
            let mut kept = keeper.kept();
            kept.retain(|key, _| key.starts_with(&prefix));
            let (name, socket) = (name.to_owned(), Socket::Listen(dir.join(name)));
            // The second port offers a pair that its front end does not use.
            let (id, pairs) = (ids[&name], if name == NAMES[1] { 2 } else { 1 });
            let door = PortDoor { id, name, socket, features_mask: u64::MAX, pairs };
            doors.add_port(door, kept).unwrap();
        }
        worker.serve().unwrap();
        Self { state, worker, doors, events, ids, made }
    }

    fn end(self) {
        self.doors.shutdown();
        self.worker.shut_down();
    }
}

/// Reads what a successor with a card and a path to the host reads. It notes what they would.
fn read_network(state: &StateMemory) {
    let record = NetworkRecord::of(state, NETWORK);
    if record.ring().is_none() {
        record.note("the ring's layout");
    } else if record.position() == Position::Lost {
        record.note("the cursor");
    }
    record.offloads();
    record.count_adoption();
    let lan = LanRecord::of(state, NETWORK);
    for (address, mac) in lan.neighbors() {
        assert_eq!((address, mac), neighbor());
    }
    for address in lan.held() {
        assert!((0..2).any(|vm| addresses(vm).contains(&address)), "{address}");
    }
    if HostSlot::of(state, NETWORK).recover() == crate::state::network::Left::Damaged {
        record.note("the datagram from the host");
    }
}

fn neighbor() -> (IpAddr, Mac) {
    (IpAddr::from([203, 0, 113, 1]), Mac([2, 0, 0, 0, 9, 9]))
}

/// Puts something at each place where something may lie, as far as it is not there.
fn furnish(state: &StateMemory) {
    let record = NetworkRecord::of(state, NETWORK);
    record.start_ring(RingRecord { block_size: 1 << 20, frame_size: 69_904, blocks: 2 });
    record.set_position(5);
    record.set_offloads(3);
    record.count_adoption();
    let lan = LanRecord::of(state, NETWORK);
    lan.set_neighbor(neighbor().0, Some(neighbor().1));
    for address in (0..2).flat_map(addresses) {
        lan.set_held(address, true);
    }
    let mut pending = Pending::adopt(state.clone());
    if pending.is_empty() {
        let (owner, hop) = (Owner::Port(PortId(0)), neighbor().0);
        assert_eq!(pending.push(NETWORK, owner, hop, &Offload::default(), &[7; RESTING]), None);
    }
    let host = HostSlot::of(state, NETWORK);
    let (_, (at, _)) = host.places();
    host.memory().write(at, &[7; RESTING]).unwrap();
    host.publish(RESTING, &[7; RESTING]);
    NetworkName::of(state, NETWORK).set("lan", Some("eth1"));
    let suspected = Some(Stretch { at: 0, len: 2 });
    NetworkSuspicion::of(state, NETWORK).set_frames(Inlet::PACKET, Stretch { at: 0, len: 2 });
    for port in [0, 1] {
        PortSuspicion::of(state, PortId(port)).set_sent(Pair::FIRST, suspected);
    }
    assert!(state.take_damage().is_empty());
}

/// What damage to an octet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It is told of the instance or the network; no front end notices.
    Told,
    /// It is told of this port, and its front end negotiates anew.
    Renegotiates(usize),
    /// It is told of this port, and no front end notices.
    ToldOf(usize),
    /// Nobody looks, or a number is wrong.
    Nothing,
}

/// All octets in use, and what damage to them does.
fn places(base: &Base) -> Vec<(Range<usize>, Expected)> {
    use Expected::{Nothing, Renegotiates, Told, ToldOf};
    let mut places = Vec::new();
    let mut part = |at: usize, ranges: &[(Range<usize>, Expected)]| {
        places.extend(ranges.iter().map(|(r, e)| (at + r.start..at + r.end, *e)));
    };
    part(0, &[(0..24, Told), (24..208, Nothing), (208..224, Told), (224..296, Nothing)]);
    part(network_at(NETWORK), &[(0..56, Told), (56..64, Nothing), (512..648, Nothing)]);
    part(network_at(NETWORK), &[(1024..1072, Nothing)]);
    for (vm, name) in NAMES.into_iter().enumerate() {
        let at = port_at(base.ids[name]);
        let anew = Renegotiates(vm);
        let name_end = 8 + name.len();
        part(at, &[(0..name_end, anew), (name_end..72, Nothing)]);
        part(at, &[(72..88, anew), (88..96, Nothing), (96..128, anew), (128..144, Nothing)]);
        part(at, &[(144..152, ToldOf(vm)), (152..176, anew)]);
        part(at, &[(176..256, Nothing)]);
        // What follows the fault is a packed ring's position: these are split.
        for ring in [at + 256, at + 384] {
            part(ring, &[(0..48, anew), (48..64, Nothing), (64..72, anew), (72..88, Nothing)]);
        }
        // Of the other pair, what is held against its rings besides.
        for ring in [at + 3072, at + 3200].into_iter().filter(|_| vm == 1) {
            part(ring, &[(0..48, anew), (48..64, Nothing), (64..72, anew), (72..128, Nothing)]);
        }
        // Two regions are shared; of the free slots, the first and the last.
        part(at + 1024, &[(0..192, anew), (1984..2048, anew)]);
        let counters = counters_at(Owner::Port(base.ids[name]));
        part(counters, &[(0..Counter::ALL.len() * 8, Nothing)]);
    }
    let slot = [(0..64, Told), (64..120, Nothing), (120..128 + RESTING, Told)];
    part(pending_at(0), &slot);
    let slot = [(0..18, Told), (18..128, Nothing), (SLOT_HEADER..SLOT_HEADER + RESTING, Told)];
    part(host_at(NETWORK), &slot);
    let mut entries = 0;
    for entry in (0..1024 + 4096).map(|n| lan_at(NETWORK) + 32 * n) {
        if base.state.get(entry) != 0 {
            part(entry, &[(0..32, Told)]);
            entries += 1;
        }
    }
    assert_eq!(entries, 9, "a neighbour and eight addresses");
    places
}

/// A state memory, what the keeper kept, two VMs.
struct House {
    dir: tempfile::TempDir,
    memory: OwnedFd,
    keeper: Arc<TestKeeper>,
    vms: [Vm; 2],
}

impl House {
    fn new() -> (Self, Base) {
        let dir = tempfile::tempdir().unwrap();
        let (_, memory) = StateMemory::create().unwrap();
        let keeper = Arc::default();
        let base = Base::start(&memory, &keeper, dir.path());
        let mut vms = [0, 1].map(|number| Vm::new(dir.path(), number));
        vms.iter_mut().for_each(Vm::attach);
        // A new memory has none of what a successor looks for.
        base.state.take_damage();
        let mut house = Self { dir, memory, keeper, vms };
        house.exchange(&base, "at first");
        (house, base)
    }

    /// The base goes, `spoil` does what it does, a successor comes. Which front ends it did not
    /// take over, and of what it told.
    fn succeed(
        &mut self,
        base: Base,
        spoil: impl FnOnce(&StateMemory),
    ) -> (Base, Vec<usize>, Vec<Place>) {
        let state = base.state.clone();
        base.end();
        furnish(&state);
        spoil(&state);
        drop(state);
        let mut base = Base::start(&self.memory, &self.keeper, self.dir.path());
        if let Some(made) = base.made.take() {
            self.memory = made;
        }
        let mut anew = Vec::new();
        for (port, event) in base.events.try_iter() {
            let number = NAMES.iter().position(|name| base.ids[*name] == port).unwrap();
            if let PortEvent::Renegotiate { .. } = event {
                assert!(self.vms[number].front.take().unwrap().is_hung_up());
                self.vms[number].attach();
                anew.push(number);
            }
        }
        let told = base.state.take_damage().into_iter().map(|damage| damage.place).collect();
        (base, anew, told)
    }

    /// Each VM sends to each of the other's addresses: all arrive, and nothing anywhere else.
    fn exchange(&mut self, base: &Base, when: &str) {
        let tag = when.as_bytes();
        // The first frame tells a guest's MAC address; what is for it before that is dropped.
        for (vm, other) in [(0, 1), (1, 0)] {
            self.vms[vm].send(addresses(other)[0], b"hello");
            let until = Instant::now() + PATIENCE;
            while PortRecord::of(&base.state, base.ids[NAMES[vm]]).mac().is_none() {
                assert!(Instant::now() < until, "{when}: no MAC address is learned");
            }
        }
        for (vm, other) in [(0, 1), (1, 0)] {
            addresses(other).into_iter().for_each(|to| self.vms[vm].send(to, tag));
        }
        let mut missing = [addresses(0).to_vec(), addresses(1).to_vec()];
        let until = Instant::now() + PATIENCE;
        while missing.iter().any(|left| !left.is_empty()) {
            assert!(
                Instant::now() < until,
                "{when}: nothing came to {missing:?}; counted: {:?}",
                NAMES.map(|name| {
                    let counters = Counters::of(&base.state, Owner::Port(base.ids[name]));
                    counters.all().filter(|(_, n)| *n > 0).collect::<Vec<_>>()
                })
            );
            for (vm, left) in self.vms.iter_mut().zip(&mut missing) {
                while let Some((to, payload)) = vm.receive() {
                    let own = addresses(vm.number).contains(&to);
                    assert!(own, "{when}: {} got what is {to}'s", NAMES[vm.number]);
                    if payload == tag {
                        let at = left.iter().position(|address| *address == to);
                        left.swap_remove(at.unwrap_or_else(|| panic!("{when}: {to} twice")));
                    } else {
                        assert_eq!(payload, b"hello", "{when}");
                    }
                }
            }
        }
    }
}

#[test]
fn any_damaged_octet_costs_at_worst_one_negotiation_and_no_address_goes_astray() {
    let (mut house, mut base) = House::new();
    furnish(&base.state);
    let mut cases = 0;
    for (range, expected) in places(&base) {
        for at in range {
            let by = [0xff, 1 << (at % 8)][at / 8 % 2];
            let mut before = 0;
            let octet = |state: &StateMemory, change: &dyn Fn(u8) -> u8| {
                let octet = state.memory().u8_at(at).unwrap();
                octet.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |o| Some(change(o)))
            };
            let (next, anew, told) = house.succeed(base, |state| {
                before = octet(state, &|o| o ^ by).unwrap();
            });
            let when = format!("octet {at} ^ {by:#x}, {expected:?}");
            let of = |vm: usize| Place::Port(next.ids[NAMES[vm]]);
            match expected {
                Expected::Told => {
                    assert!(anew.is_empty(), "{when}: {anew:?}");
                    let general = [Place::Instance, Place::Network(NETWORK)];
                    assert!(told.len() == 1 && general.contains(&told[0]), "{when}: {told:?}");
                }
                Expected::Renegotiates(vm) => {
                    assert_eq!((anew, told), (vec![vm], vec![of(vm)]), "{when}");
                }
                Expected::ToldOf(vm) => {
                    assert!(anew.is_empty(), "{when}: {anew:?}");
                    assert_eq!(told, [of(vm)], "{when}");
                }
                Expected::Nothing => {
                    assert!(anew.is_empty() && told.is_empty(), "{when}: {anew:?}, {told:?}");
                }
            }
            house.exchange(&next, &when);
            // What nobody looks at, nobody mends either.
            if expected == Expected::Nothing {
                let _ = octet(&next.state, &|o| if o == before ^ by { before } else { o });
            }
            base = next;
            cases += 1;
        }
    }
    println!("{cases} octets");
    base.end();
}

#[test]
fn a_memory_that_was_cut_is_replaced_and_all_negotiate_anew() {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let (mut house, mut base) = House::new();
    for len in [0, 8, 4095, 4096, 8192, port_at(PortId(0)), port_at(PortId(1)), pending_at(0)] {
        let mut octets = vec![0; 1 << 20];
        base.state.memory().read(0, &mut octets).unwrap();
        let cut = memfd_create("cut", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&cut, &octets, 0).unwrap();
        ftruncate(&cut, len as u64).unwrap();
        house.memory = cut;
        let (next, anew, told) = house.succeed(base, |_| {});
        assert_eq!((anew, told[0]), (vec![0, 1], Place::Instance), "{len}");
        house.exchange(&next, &format!("cut to {len}"));
        base = next;
    }
    base.end();
}

//! A worker with a card, and somebody on the LAN: what goes on without any VM.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::world::{CARD_MAC, PEER_MAC, Peer, World, arp_request, frame_in, ip4};
use crate::answer::LastInch;
use crate::counters::{Counter, Counters};
use crate::event::Event;
use crate::names::{Mac, NetworkId, Owner, PortId};
use crate::neighbor::{Lan, Settings};
use crate::offload::Offload;
use crate::pending::Pending;
use crate::state::StateMemory;
use crate::uplink::{Guard, PacketUplink};
use crate::worker::{self, NetworkSetup, PortSetup, UplinkFacts, UplinkSetup, WorkerHandle};

pub(super) const NETWORK: NetworkId = NetworkId(0);
pub(super) const UPLINK: Owner = Owner::Uplink(NETWORK);
pub(super) const PORT: PortId = PortId(3);
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A serving worker and what it says.
pub(super) struct Base {
    pub state: StateMemory,
    pub worker: WorkerHandle,
    events: Receiver<Event>,
}

impl Base {
    pub fn serving(state: StateMemory, mtu: u32) -> Self {
        let (told, events) = channel();
        let say = move |event| {
            let _ = told.send(event);
        };
        let (worker, _) = worker::spawn(state.clone(), Box::new(say)).unwrap();
        let mut outward = LastInch::silent(1500);
        outward.icmp_source4 = [203, 0, 113, 1].into();
        outward.guest_mac = Some(Mac::default());
        outward.mtu = mtu as u16;
        worker
            .add_network(NetworkSetup { id: NETWORK, mtu, on_link: Vec::new(), outward })
            .unwrap();
        worker.serve().unwrap();
        Self { state, worker, events }
    }

    pub fn fresh() -> Self {
        Self::serving(StateMemory::create().unwrap().0, 1500)
    }

    pub fn give_card(&self, world: &World, up: bool) {
        let filter = Guard::open("test").unwrap().socket_filter().unwrap();
        let card = PacketUplink::open(world.card.index, 64, &filter, &self.state, NETWORK).unwrap();
        let settings = Settings {
            mac: CARD_MAC,
            prefixes: vec!["203.0.113.0/24".parse().unwrap()],
            on_link: true,
            ..Settings::default()
        };
        let facts = UplinkFacts { mac: CARD_MAC, mtu: 1500, up };
        let setup = UplinkSetup { card, facts, lan: Lan::new(settings) };
        self.worker.set_uplink(NETWORK, Some(setup)).unwrap().unwrap();
    }

    pub fn add_port(&self, prefixes: &[&str]) {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        let setup = PortSetup {
            id: PORT,
            network: NETWORK,
            name: "vm".into(),
            inch: LastInch::silent(1500),
            prefixes,
        };
        self.worker.add_port(setup).unwrap().unwrap();
    }

    fn claim(&self, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        self.worker
            .with_lan(NETWORK, move |lan, now, out| lan.claim(now, address, PORT, out))
            .unwrap();
    }

    pub fn count(&self, counter: Counter) -> u64 {
        Counters::of(&self.state, UPLINK).get(counter)
    }

    pub fn wait(&self, counter: Counter, at_least: u64) {
        let end = Instant::now() + PATIENCE;
        while self.count(counter) < at_least {
            let all: Vec<_> =
                Counters::of(&self.state, UPLINK).all().filter(|(_, n)| *n > 0).collect();
            assert!(Instant::now() < end, "{counter:?} is not {at_least} in time: {all:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.worker.shut_down();
    }
}

/// Who asks for whom in the next ARP request on the LAN.
fn asked(peer: &Peer, within: Duration) -> Option<([u8; 4], [u8; 4])> {
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let (_, frame) = peer.receive_within(left)?;
        if frame[12..14] == [8, 6] && frame[21] == 1 {
            return Some((frame[28..32].try_into().unwrap(), frame[38..42].try_into().unwrap()));
        }
    }
}

#[test]
fn a_card_without_a_link_claims_nothing_until_it_has_one() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, false);
        base.claim("203.0.113.10");
        let heard = base.events.recv_timeout(Duration::from_secs(2));
        assert!(heard.is_err(), "nobody was asked: {heard:?}");
        let facts = UplinkFacts { mac: CARD_MAC, mtu: 1500, up: true };
        base.worker.set_facts(NETWORK, facts).unwrap();
        for _ in 0..3 {
            let probe = ([0; 4], [203, 0, 113, 10]);
            assert_eq!(asked(&peer, Duration::from_secs(1)), Some(probe));
        }
        let address = "203.0.113.10".parse().unwrap();
        let claimed = Event::AddressClaimed { network: NETWORK, address };
        assert_eq!(base.events.recv_timeout(PATIENCE), Ok(claimed));
    });
}

#[test]
fn what_waits_since_before_the_card_came_back_is_asked_for_and_sent() {
    World::run(|world| {
        let state = StateMemory::create().unwrap().0;
        let datagram = ip4("203.0.113.10", "203.0.113.2", 253, b"waits");
        let hop = "203.0.113.2".parse().unwrap();
        let owner = Owner::Port(PORT);
        let offload = Offload::default();
        let evicted = Pending::adopt(state.clone()).push(NETWORK, owner, hop, &offload, &datagram);
        assert_eq!(evicted, None);

        let (base, peer) = (Base::serving(state, 1500), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        let (_, target) = asked(&peer, Duration::from_secs(1)).expect("a question");
        assert_eq!(target, [203, 0, 113, 2]);
        let mut answer = arp_request("203.0.113.2", "203.0.113.1");
        answer[21] = 2;
        answer[..6].copy_from_slice(&CARD_MAC.0);
        answer[32..38].copy_from_slice(&CARD_MAC.0);
        peer.send(&answer);
        loop {
            let (_, frame) = peer.receive();
            if frame[12..14] == [8, 0] {
                assert_eq!((&frame[..6], &frame[14..]), (&PEER_MAC.0[..], &datagram[..]));
                break;
            }
        }
    });
}

#[test]
fn an_address_refused_inside_a_prefix_is_nobodys_and_the_rest_of_it_stays() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.add_port(&["203.0.113.64/28"]);
        base.give_card(world, true);
        base.claim("203.0.113.65");
        // Somebody has it.
        let mut used = arp_request("203.0.113.65", "203.0.113.1");
        used[21] = 2;
        peer.send(&used);
        let address = "203.0.113.65".parse().unwrap();
        let conflict = Event::AddressConflict { network: NETWORK, address, mac: PEER_MAC };
        assert_eq!(base.events.recv_timeout(PATIENCE), Ok(conflict));

        let say = |from: &str, to: &str| peer.send(&frame_in(0x0800, &ip4(from, to, 253, b"x")));
        // It is outside now, and its neighbours hear it.
        say("203.0.113.65", "203.0.113.66");
        base.wait(Counter::ToVm, 1);
        say("203.0.113.2", "203.0.113.65");
        base.wait(Counter::DropUnknownDestination, 1);
        assert_eq!((base.count(Counter::ToVm), base.count(Counter::DropSourceInList)), (1, 0));
    });
}

#[test]
fn an_error_goes_back_to_where_the_frame_came_from_and_nobody_is_asked_for() {
    World::run(|world| {
        let state = StateMemory::create().unwrap().0;
        let (base, peer) = (Base::serving(state, 1400), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        let send = |last: u8, to: Mac| {
            let source = format!("203.0.113.{last}");
            let mut datagram = ip4(&source, "203.0.113.10", 253, &[7; 1460]);
            // Not to be fragmented; the header's sum loses what the flag adds.
            datagram[6] |= 0x40;
            let sum = u16::from_be_bytes([datagram[10], datagram[11]]);
            datagram[10..12].copy_from_slice(&sum.wrapping_sub(0x4000).to_be_bytes());
            let mut frame = frame_in(0x0800, &datagram);
            frame[..6].copy_from_slice(&to.0);
            peer.send(&frame);
        };
        (100..120).for_each(|last| send(last, CARD_MAC));
        for last in 100..120 {
            let (_, frame) = peer.receive();
            assert_eq!(frame[12..14], [8, 0], "an ARP request is no error");
            assert_eq!((&frame[..6], frame[33]), (&PEER_MAC.0[..], last));
            assert_eq!((frame[34], frame[35]), (3, 4), "fragmentation needed");
        }
        // Counted after the frame has left.
        base.wait(Counter::IcmpErrors, 20);
        base.wait(Counter::DropTooBig, 20);
        assert_eq!((base.count(Counter::IcmpErrors), base.count(Counter::DropTooBig)), (20, 20));
        // RFC 1122, section 3.2.2: never about what was sent to all.
        send(120, Mac::BROADCAST);
        base.wait(Counter::DropGroupFrame, 1);
        assert_eq!(peer.receive_within(Duration::from_millis(100)), None);
    });
}

#[test]
fn a_datagram_for_a_vm_in_a_frame_to_all_is_not_its() {
    World::run(|world| {
        let (base, peer) = (Base::fresh(), world.peer());
        base.add_port(&["203.0.113.10/32"]);
        base.give_card(world, true);
        let datagram = ip4("203.0.113.2", "203.0.113.10", 253, b"x");
        let mut frame = frame_in(0x0800, &datagram);
        for group in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1])] {
            let before = base.count(Counter::DropGroupFrame);
            frame[..6].copy_from_slice(&group.0);
            peer.send(&frame);
            if group == Mac::BROADCAST {
                base.wait(Counter::DropGroupFrame, before + 1);
            }
        }
        peer.send(&frame_in(0x0800, &datagram));
        base.wait(Counter::ToVm, 1);
        assert_eq!(base.count(Counter::ToVm), 1);
    });
}

#[test]
fn the_drops_of_a_full_ring_are_counted_though_no_frame_follows() {
    World::run(|world| {
        let base = Base::fresh();
        let peer = world.peer();
        base.give_card(world, true);
        let frame = frame_in(0x0800, &ip4("203.0.113.2", "203.0.113.10", 253, b"x"));
        // The counter was looked at in the last moment before the burst.
        std::thread::sleep(Duration::from_millis(150));
        peer.send(&frame);
        base.wait(Counter::Taken, 1);
        // The worker cannot take any meanwhile.
        let burst = move |_: &mut Lan, _, _: &mut _| (0..500).for_each(|_| peer.send(&frame));
        base.worker.with_lan(NETWORK, burst).unwrap();
        let end = Instant::now() + PATIENCE;
        let sum = || base.count(Counter::Taken) + base.count(Counter::DropUplinkRingFull);
        while sum() < 501 {
            assert!(Instant::now() < end, "{} of 501 have a fate", sum());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(base.count(Counter::DropUplinkRingFull) > 0, "the ring did not overflow");
    });
}

//! What becomes of datagrams that a card used by AF_XDP cannot send, or not now.

use std::os::fd::AsRawFd;

use super::*;
use crate::names::PortId;
use crate::offload::{Checksum, Offload};
use crate::uplink::tests::world::{CARD, CARD_MAC, PEER_MAC, World, ip4};
use crate::uplink::{Guard, XdpSetup, sys};
use crate::worker::NetworkSetup;
use crate::worker::network::Network;
use crate::worker::turn::Own;
use crate::worker::world::{Crew, Desk};

const UPLINK: Owner = Owner::Uplink(NetworkId(0));
const A: Owner = Owner::Port(PortId(1));
const B: Owner = Owner::Port(PortId(2));

struct Stage {
    side: XdpSide,
    storage: Storage,
    state: StateMemory,
    batch: Vec<(u16, Mac)>,
}

impl Stage {
    fn set(world: &World) -> Self {
        Self::with_mtu(world, 1500)
    }

    fn with_mtu(world: &World, mtu: u32) -> Self {
        let guard = Guard::open("side").unwrap();
        let card = XdpUplink::open(&XdpSetup {
            name: CARD,
            index: world.card.index,
            mac: CARD_MAC,
            mtu,
            frames: 64,
            maps: guard.descriptors(),
        });
        let side = XdpSide::new(card.unwrap(), Vec::new());
        let state = StateMemory::create().unwrap().0;
        Self { side, storage: Storage::default(), state, batch: Vec::new() }
    }

    /// Sends one datagram with so many octets of content.
    fn send(&mut self, from: Owner, octets: usize, offload: Offload) {
        self.storage.clear();
        let datagram = ip4("203.0.113.10", "203.0.113.2", 17, &vec![0; octets]);
        self.storage.room()[..datagram.len()].copy_from_slice(&datagram);
        let index = self.storage.push(0..datagram.len());
        self.storage.set_offload(index, offload);
        self.batch.push((index, PEER_MAC));
        let Self { side, storage, state, batch } = self;
        side.send(CARD_MAC, UPLINK, batch, storage, state, from);
    }

    fn count(&self, owner: Owner, counter: Counter) -> u64 {
        Counters::of(&self.state, owner).get(counter)
    }
}

#[test]
fn what_goes_with_the_card_is_counted_once_and_never_as_sent_after_it() {
    World::run(|world| {
        let mut stage = Stage::set(world);
        world.netlink.set_link_up(world.card.index, false).unwrap();
        stage.send(A, 64, Offload::default());
        stage.send(A, 64, Offload::default());
        // They leave when the link is up: nobody knows yet that it will never be.
        assert_eq!((stage.count(A, Counter::ToUplink), stage.side.card.unsent()), (2, 2));
        world.netlink.remove_link(world.card.index);
        stage.send(B, 64, Offload::default());
        let counts = |owner| {
            let reasons = [Counter::ToUplink, Counter::DropUplinkDown, Counter::RxCardLost];
            reasons.map(|reason| stage.count(owner, reason))
        };
        assert_eq!((counts(A), counts(B), counts(UPLINK)), ([2, 0, 0], [0, 1, 0], [0, 0, 2]));
        // From now on the packet socket is asked, which says so.
        stage.send(B, 64, Offload::default());
        assert_eq!(stage.batch.len(), 1);
        let later = Instant::now() + 2 * AGAIN;
        stage.side.go_on(later, true, Counters::of(&stage.state, UPLINK));
        assert_eq!(stage.side.unsent_due, None);
        assert_eq!(stage.count(UPLINK, Counter::RxCardLost), 2);
        assert_eq!(stage.count(B, Counter::DropUplinkDown), 1);
    });
}

/// How many descriptors an epoll instance watches.
fn watched(desk: &Desk) -> usize {
    let path = format!("/proc/self/fdinfo/{}", desk.epoll().as_raw_fd());
    let told = std::fs::read_to_string(path).unwrap();
    told.lines().filter(|line| line.starts_with("tfd:")).count()
}

#[test]
fn where_one_of_its_sockets_cannot_be_watched_none_is() {
    World::run(|world| {
        sys::set_queues(CARD, 2, 1).unwrap();
        let Stage { side, state, .. } = Stage::set(world);
        let crew = Crew::new(state.clone(), 1, false, Box::new(|_| {})).unwrap();
        let mut own = Own::new(&state, 0);
        let mut served = crew.write();
        let id = NetworkId(0);
        let outward = crate::worker::tests::silent();
        let setup = NetworkSetup { id, mtu: 1500, on_link: vec![], outward };
        served.networks.put(id.0, Box::new(Network::new(setup, 0)));
        let desk = crew.desk(0);
        let sockets: Vec<_> = side.sockets().map(|s| s.try_clone_to_owned().unwrap()).collect();
        assert_eq!(sockets.len(), 2);
        // The last is there already.
        let last = side.card.socket(1).unwrap();
        desk.watch(last, Token::Card(id, Inlet::PACKET), false).unwrap();
        let before = watched(desk);
        let mut change = Change { world: &mut served, own: &mut own, crew: &crew };
        let error = change.set_xdp(id, side.card).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        // The keeper's duplicates would hold it there.
        assert_eq!(watched(desk), before);
        drop(sockets);
    });
}

#[test]
fn small_frames_of_one_vm_leave_places_to_another() {
    World::run(|world| {
        let mut stage = Stage::set(world);
        let all = stage.side.card.free() as u64;
        // As if the card were the bottleneck.
        world.netlink.set_link_up(world.card.index, false).unwrap();
        for _ in 0..all {
            stage.send(A, 20, Offload::default());
        }
        let sent = stage.count(A, Counter::ToUplink);
        assert_eq!(sent + stage.count(A, Counter::DropUplinkSend), all);
        // What is beyond a half is shared.
        assert!(sent >= all / 4 && sent <= all * 3 / 4, "{sent} of {all}");
        stage.send(B, 20, Offload::default());
        assert_eq!(stage.count(B, Counter::ToUplink), 1);
    });
}

#[test]
fn what_fits_no_frame_is_left_to_the_packet_socket_as_it_is() {
    World::run(|world| {
        let mut stage = Stage::set(world);
        let checksum = Checksum::Partial { start: 20, offset: 6 };
        stage.send(A, 4000, Offload { checksum, segmentation: None });
        assert_eq!(stage.batch, [(0, PEER_MAC)]);
        let untouched = ip4("203.0.113.10", "203.0.113.2", 17, &[0; 4000]);
        assert_eq!(stage.storage.datagram(0), untouched);
        assert_eq!(stage.count(A, Counter::ToUplink), 0);
    });
}

#[test]
fn what_fits_several_frames_goes_by_them_and_counts_as_one() {
    World::run(|world| {
        world.netlink.set_link_mtu(world.card.index, 9000).unwrap();
        let peer = world.peer.index;
        world.outside(|netlink| netlink.set_link_mtu(peer, 9000).unwrap());
        let (mut stage, peer) = (Stage::with_mtu(world, 9000), world.peer());
        let all = stage.side.card.free();
        stage.send(A, 8000, Offload::default());
        assert_eq!(peer.receive().1[14..], ip4("203.0.113.10", "203.0.113.2", 17, &[0; 8000]));
        assert_eq!(stage.count(UPLINK, Counter::DeliveredBytes), 8020);
        // As if the card were the bottleneck: a frame of three pieces has three places.
        world.netlink.set_link_up(world.card.index, false).unwrap();
        stage.send(A, 8960, Offload::default());
        assert!(stage.side.card.free() <= all - 3);
        assert_eq!((stage.side.card.unsent(), stage.side.card.unsent_frames()), (3, 1));
        world.netlink.remove_link(world.card.index);
        stage.send(B, 64, Offload::default());
        let lost = [(B, Counter::DropUplinkDown), (UPLINK, Counter::RxCardLost)];
        assert_eq!(lost.map(|(owner, counter)| stage.count(owner, counter)), [1, 1]);
    });
}

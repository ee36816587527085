//! Changes to what the workers serve: networks, ports, addresses, cards.
//!
//! # Theory of operation
//! Each runs on the first worker's thread while all are between two batches, so a batch sees either all of a change or
//! nothing of it. When an address leaves, it leaves the list first; when a port leaves, its list
//! entries go, then its rings are dropped, and with them the last hold on the guest's memory.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use ipnet::IpNet;

use super::Token;
use super::change::Change;
use super::handle::{Gone, WorkerHandle};
use super::network::{Network, UplinkFacts, UplinkSide};
use super::poison::care_of_card;
use super::xdp::XdpSide;
use crate::answer::LastInch;
use crate::counters::Counters;
use crate::fib::{Taken, Target};
use crate::names::{Inlet, MAX_PAIRS, NetworkId, Owner, PortId, RingId};
use crate::neighbor::{Lan, Outbox};
use crate::port::Port;
use crate::state::lan::LanRecord;
use crate::state::port::PortRecord;
use crate::uplink::{HostPath, PacketUplink, SocketFilter, UplinkError};

/// A network to be served.
pub struct NetworkSetup {
    /// Its record.
    pub id: NetworkId,
    /// Octets of the largest datagram on its VMs' links.
    pub mtu: u32,
    /// Prefixes whose addresses are neighbours of each other; empty where none are on link.
    pub on_link: Vec<IpNet>,
    /// How the base speaks to the outside in ICMP errors.
    pub outward: LastInch,
}

/// A port to be served.
pub struct PortSetup {
    /// Its record.
    pub id: PortId,
    /// Its network, which must be there.
    pub network: NetworkId,
    /// The VM's name.
    pub name: String,
    /// What the base says on its last inch.
    pub inch: LastInch,
    /// Its addresses and routed prefixes.
    pub prefixes: Vec<IpNet>,
}

/// A card to be used.
pub struct UplinkSetup {
    /// The socket on it.
    pub card: PacketUplink,
    /// What is known of it.
    pub facts: UplinkFacts,
    /// The LAN side: prefixes, gateways, addresses claimed.
    pub lan: Lan,
}

impl WorkerHandle {
    /// Serves a network from now on. One with the same record is replaced, its list lost.
    pub fn add_network(&self, setup: NetworkSetup) -> Result<(), Gone> {
        self.call(move |change| change.add_network(setup))
    }

    /// Changes what a network's links carry and how the base speaks for it to the outside.
    pub fn update_network(&self, id: NetworkId, mtu: u32, outward: LastInch) -> Result<(), Gone> {
        self.call(move |change| {
            if let Some(network) = change.world.networks.get_mut(id.0) {
                network.mtu = mtu;
                network.outward = outward;
            }
        })
    }

    /// Ends serving a network; its card and TUN device are closed here.
    pub fn remove_network(&self, id: NetworkId) -> Result<(), Gone> {
        self.call(move |change| {
            change.set_uplink(id, None)?;
            change.set_host(id, None)?;
            change.forget_waiting_on(id);
            change.world.networks.take(id.0);
            Ok::<_, io::Error>(())
        })
        .map(|_| ())
    }

    /// Serves a port from now on; its rings come later. Refused if the list has one of its
    /// prefixes already.
    pub fn add_port(&self, setup: PortSetup) -> Result<Result<(), Taken>, Gone> {
        self.add_ports(vec![setup])
    }

    /// The same for several, up to the first that is refused.
    pub fn add_ports(&self, setups: Vec<PortSetup>) -> Result<Result<(), Taken>, Gone> {
        self.call(move |change| setups.into_iter().try_for_each(|setup| change.add_port(setup)))
    }

    /// Ends serving a port; its rings must have been stopped before.
    pub fn remove_port(&self, id: PortId) -> Result<(), Gone> {
        self.call(move |change| change.remove_port(id))
    }

    /// Carries on with a port that was quarantined; its rings are started after this.
    pub fn release_port(&self, id: PortId) -> Result<(), Gone> {
        self.call(move |change| change.release_port(id))
    }

    /// Changes what is said on a port's last inch. What was learned of the guest's MAC stays. An
    /// address that the list does not give to the port (it was withdrawn while the caller wrote
    /// this) is not told.
    pub fn set_inch(&self, id: PortId, mut inch: LastInch) -> Result<(), Gone> {
        self.call(move |change| {
            if let Some(port) = change.world.ports.get_mut(id.0)
                && let Some(network) = change.world.networks.get_mut(port.network.0)
            {
                let fib = &network.admission.fib;
                let own = |address: IpAddr| fib.lookup(address) == Some(Target::Port(id));
                inch.addresses4.retain(|lease| own(lease.address.into()));
                inch.addresses6.retain(|address| own((*address).into()));
                inch.guest_mac = inch.guest_mac.or(port.own_sending().inch.guest_mac);
                port.own_receiving().for_each(|half| half.mac = inch.guest_mac);
                port.own_sending().inch = inch;
            }
            change.turn().advertise(id);
        })
    }

    /// Gives the network a card, or takes it away. What cannot be watched is refused.
    pub fn set_uplink(
        &self,
        id: NetworkId,
        uplink: Option<UplinkSetup>,
    ) -> Result<io::Result<()>, Gone> {
        self.call(move |change| change.set_uplink(id, uplink))
    }

    /// Tells what has changed about a network's card.
    pub fn set_facts(&self, id: NetworkId, facts: UplinkFacts) -> Result<(), Gone> {
        self.call(move |change| {
            let now = Instant::now();
            if let Some(uplink) = change.world.uplink(id) {
                uplink.lan.set_link(now, facts.up);
                uplink.facts = facts;
                uplink.card.set_carrier(facts.up);
                uplink.xdp.iter_mut().for_each(|xdp| xdp.look_soon(now));
            }
            change.turn().poll_lan(id, now);
        })
    }

    /// The card came back, perhaps under another interface index.
    pub fn rebind(&self, id: NetworkId, index: u32) -> Result<Result<(), UplinkError>, Gone> {
        self.call(move |change| {
            let Some(uplink) = change.world.uplink(id) else {
                return Ok(());
            };
            let now = Instant::now();
            let replaced = uplink.card.index() != index;
            uplink.card.rebind(index)?;
            uplink.lan.link_restored(now);
            if replaced {
                uplink.lan.card_replaced(&mut uplink.outbox);
            }
            change.turn().poll_lan(id, now);
            Ok(())
        })
    }

    /// Puts another filter on the socket of a network's card.
    pub fn set_filter(
        &self,
        id: NetworkId,
        filter: SocketFilter,
    ) -> Result<Result<(), UplinkError>, Gone> {
        self.call(move |change| match change.world.uplink(id) {
            Some(uplink) => uplink.card.set_filter(&filter),
            None => Ok(()),
        })
    }

    /// Runs `change` on a network's LAN side (claims, gateways, the host's addresses).
    pub fn with_lan(
        &self,
        id: NetworkId,
        change: impl FnOnce(&mut Lan, Instant, &mut Outbox) + Send + 'static,
    ) -> Result<(), Gone> {
        self.call(move |at_rest| {
            let now = Instant::now();
            if let Some(uplink) = at_rest.world.uplink(id) {
                change(&mut uplink.lan, now, &mut uplink.outbox);
            }
            at_rest.turn().poll_lan(id, now);
        })
    }

    /// Gives the network a path to the host's stack, or takes it away.
    pub fn set_host(&self, id: NetworkId, path: Option<HostPath>) -> Result<io::Result<()>, Gone> {
        self.call(move |change| change.set_host(id, path))
    }

    /// An address of the host's own comes into the list. Refused if a VM has it.
    pub fn add_host_address(
        &self,
        id: NetworkId,
        address: IpAddr,
    ) -> Result<Result<(), Taken>, Gone> {
        self.call(move |change| match change.world.networks.get_mut(id.0) {
            Some(network) => network.admission.fib.insert(address.into(), Target::Host),
            None => Ok(()),
        })
    }

    /// An address of the host's own leaves the list.
    pub fn remove_host_address(&self, id: NetworkId, address: IpAddr) -> Result<(), Gone> {
        self.call(move |change| {
            if let Some(network) = change.world.networks.get_mut(id.0)
                && network.admission.fib.entry(address.into()) == Some(Target::Host)
            {
                network.admission.fib.remove(address.into());
            }
        })
    }
}

impl Change<'_> {
    fn add_network(&mut self, setup: NetworkSetup) {
        let home = usize::from(setup.id.0).checked_rem(self.crew.len()).unwrap_or(0);
        self.world.networks.put(setup.id.0, Box::new(Network::new(setup, home)));
    }

    pub(super) fn add_port(&mut self, setup: PortSetup) -> Result<(), Taken> {
        let target = Target::Port(setup.id);
        if let Some(network) = self.world.networks.get_mut(setup.network.0) {
            for prefix in &setup.prefixes {
                if let Err(taken) = network.admission.fib.insert(*prefix, target) {
                    network.admission.fib.remove_owner(target);
                    return Err(taken);
                }
            }
        }
        let mut inch = setup.inch;
        let record = PortRecord::of(&self.world.state, setup.id);
        if record.name().as_deref() == Some(&setup.name) {
            // Told to a predecessor by the guest's first frame; there may not be another soon.
            inch.guest_mac = inch.guest_mac.or(record.mac());
            if record.mac_is_damaged() {
                record.note("the MAC address learned from its guest was damaged: learned again");
                record.forget_mac();
            }
        }
        let worker = self.least_laden();
        let mut port = Port::new(setup.id, setup.network, setup.name, worker, inch);
        port.own_sending().visit = self.world.last_visit;
        self.world.generations = self.world.generations.wrapping_add(1);
        port.generation = self.world.generations;
        let quarantined = record.suspicion().quarantine().is_some();
        port.own_receiving().for_each(|half| half.quarantined = quarantined);
        self.world.ports.put(setup.id.0, Box::new(port));
        Ok(())
    }

    pub(super) fn remove_port(&mut self, id: PortId) {
        // The entries first: then nothing leads to the port any more, and it can go. The list's readers
        // are at rest: between two batches they hold nothing that they found there.
        if let Some(network) = self.world.ports.get(id.0).map(|port| port.network)
            && let Some(network) = self.world.networks.get_mut(network.0)
        {
            network.admission.fib.remove_owner(Target::Port(id));
        }
        // Whatever the record says: those that a port can have.
        for ring in RingId::all(MAX_PAIRS) {
            self.stop_ring(id, ring);
        }
        self.forget_waiting(Owner::Port(id));
        self.world.ports.take(id.0);
    }

    fn set_uplink(&mut self, id: NetworkId, uplink: Option<UplinkSetup>) -> io::Result<()> {
        let Some(network) = self.world.networks.get_mut(id.0) else { return Ok(()) };
        let desk = self.crew.desk(network.home);
        if let Some(mut old) = network.outside_mut().uplink.take() {
            desk.unwatch(&old.card);
            old.xdp.iter().flat_map(XdpSide::sockets).for_each(|socket| desk.unwatch(socket));
            old.count_drops(Counters::of(&self.world.state, Owner::Uplink(id)));
        }
        let Some(mut setup) = uplink else { return Ok(()) };
        let known = LanRecord::of(&self.world.state, id).neighbors();
        setup.lan.restore_neighbors(Instant::now(), known);
        setup.lan.set_link(Instant::now(), setup.facts.up);
        desk.watch(setup.card.as_fd(), Token::Card(id, Inlet::PACKET), false)?;
        let mut card = setup.card;
        card.set_carrier(setup.facts.up);
        let care = care_of_card(&self.world.state, id, Inlet::PACKET, card.position());
        network.outside_mut().uplink = Some(UplinkSide {
            card,
            xdp: None,
            facts: setup.facts,
            lan: setup.lan,
            outbox: Outbox::default(),
            // What the kernel has dropped since a predecessor looked is not read yet.
            drops_due: Some(Instant::now()),
            care,
        });
        self.turn().poll_lan(id, Instant::now());
        if self.world.serving {
            // A predecessor's datagrams may wait for the card to be back.
            self.turn().ask_again();
        }
        Ok(())
    }

    pub(super) fn set_host(&mut self, id: NetworkId, path: Option<HostPath>) -> io::Result<()> {
        let Some(network) = self.world.networks.get_mut(id.0) else { return Ok(()) };
        let desk = self.crew.desk(network.home);
        if let Some(old) = network.outside_mut().host.take() {
            desk.unwatch(&old);
        }
        let Some(path) = path else { return Ok(()) };
        desk.watch(path.as_fd(), Token::Host(id), false)?;
        network.outside_mut().host = Some(path);
        self.leave_out_from_host(id);
        if self.world.serving {
            self.turn().serve_host(id, Instant::now());
        }
        Ok(())
    }
}

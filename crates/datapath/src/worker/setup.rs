//! Changes to what a worker serves: networks, ports, addresses, cards, rings.
//!
//! # Theory of operation
//! Each runs on the worker's thread between two batches, so a batch sees either all of a change or
//! nothing of it. When an address leaves, it leaves the list first; when a port leaves, its list
//! entries go, then its rings are dropped, and with them the last hold on the guest's memory.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use virtqueue::RingFault;

use super::handle::{Gone, WorkerHandle};
use super::network::{Network, UplinkFacts, UplinkSide};
use super::xdp::XdpSide;
use super::{Active, Token, Worker};
use crate::admit::Admission;
use crate::answer::{self, LastInch};
use crate::counters::Counters;
use crate::event::Event;
use crate::fib::{Taken, Target};
use crate::limiter::Limiter;
use crate::names::{Inlet, NetworkId, Owner, PortId, Side};
use crate::neighbor::{Lan, Outbox};
use crate::port::Port;
use crate::state::lan::LanRecord;
use crate::state::port::PortRecord;
use crate::state::suspicion::PortSuspicion;
use crate::uplink::{HostPath, PacketUplink, SocketFilter, UplinkError};
use crate::vhost::Ring;

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
        self.call(move |worker| worker.add_network(setup))
    }

    /// Changes what a network's links carry and how the base speaks for it to the outside.
    pub fn update_network(&self, id: NetworkId, mtu: u32, outward: LastInch) -> Result<(), Gone> {
        self.call(move |worker| {
            if let Some(network) = worker.networks.get_mut(id.0) {
                network.mtu = mtu;
                network.outward = outward;
            }
        })
    }

    /// Ends serving a network; its card and TUN device are closed here.
    pub fn remove_network(&self, id: NetworkId) -> Result<(), Gone> {
        self.call(move |worker| {
            worker.set_uplink(id, None)?;
            worker.set_host(id, None)?;
            worker.forget_waiting_on(id);
            worker.networks.take(id.0);
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
        self.call(move |worker| setups.into_iter().try_for_each(|setup| worker.add_port(setup)))
    }

    /// Ends serving a port; its rings must have been stopped before.
    pub fn remove_port(&self, id: PortId) -> Result<(), Gone> {
        self.call(move |worker| worker.remove_port(id))
    }

    /// Carries on with a port that was quarantined; its rings are started after this.
    pub fn release_port(&self, id: PortId) -> Result<(), Gone> {
        self.call(move |worker| worker.release_port(id))
    }

    /// Changes what is said on a port's last inch. What was learned of the guest's MAC stays. An
    /// address that the list does not give to the port (it was withdrawn while the caller wrote
    /// this) is not told.
    pub fn set_inch(&self, id: PortId, mut inch: LastInch) -> Result<(), Gone> {
        self.call(move |worker| {
            if let Some(port) = worker.ports.get_mut(id.0)
                && let Some(network) = worker.networks.get_mut(port.network.0)
            {
                let fib = &network.admission.fib;
                let own = |address: IpAddr| fib.lookup(address) == Some(Target::Port(id));
                inch.addresses4.retain(|lease| own(lease.address.into()));
                inch.addresses6.retain(|address| own((*address).into()));
                inch.guest_mac = inch.guest_mac.or(port.inch.guest_mac);
                port.inch = inch;
            }
            worker.advertise(id);
        })
    }

    /// Gives the network a card, or takes it away. What cannot be watched is refused.
    pub fn set_uplink(
        &self,
        id: NetworkId,
        uplink: Option<UplinkSetup>,
    ) -> Result<io::Result<()>, Gone> {
        self.call(move |worker| worker.set_uplink(id, uplink))
    }

    /// Tells what has changed about a network's card.
    pub fn set_facts(&self, id: NetworkId, facts: UplinkFacts) -> Result<(), Gone> {
        self.call(move |worker| {
            let now = Instant::now();
            if let Some(uplink) = worker.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) {
                uplink.lan.set_link(now, facts.up);
                uplink.facts = facts;
                uplink.card.set_carrier(facts.up);
                uplink.xdp.iter_mut().for_each(|xdp| xdp.look_soon(now));
            }
            worker.poll_lan(id, now);
        })
    }

    /// The card came back, perhaps under another interface index.
    pub fn rebind(&self, id: NetworkId, index: u32) -> Result<Result<(), UplinkError>, Gone> {
        self.call(move |worker| {
            let Some(uplink) = worker.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) else {
                return Ok(());
            };
            let now = Instant::now();
            let replaced = uplink.card.index() != index;
            uplink.card.rebind(index)?;
            uplink.lan.link_restored(now);
            if replaced {
                uplink.lan.card_replaced(&mut uplink.outbox);
            }
            worker.poll_lan(id, now);
            Ok(())
        })
    }

    /// Puts another filter on the socket of a network's card.
    pub fn set_filter(
        &self,
        id: NetworkId,
        filter: SocketFilter,
    ) -> Result<Result<(), UplinkError>, Gone> {
        self.call(move |worker| {
            match worker.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) {
                Some(uplink) => uplink.card.set_filter(&filter),
                None => Ok(()),
            }
        })
    }

    /// Runs `change` on a network's LAN side (claims, gateways, the host's addresses).
    pub fn with_lan(
        &self,
        id: NetworkId,
        change: impl FnOnce(&mut Lan, Instant, &mut Outbox) + Send + 'static,
    ) -> Result<(), Gone> {
        self.call(move |worker| {
            let now = Instant::now();
            if let Some(uplink) = worker.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) {
                change(&mut uplink.lan, now, &mut uplink.outbox);
            }
            worker.poll_lan(id, now);
        })
    }

    /// Gives the network a path to the host's stack, or takes it away.
    pub fn set_host(&self, id: NetworkId, path: Option<HostPath>) -> Result<io::Result<()>, Gone> {
        self.call(move |worker| worker.set_host(id, path))
    }

    /// An address of the host's own comes into the list. Refused if a VM has it.
    pub fn add_host_address(
        &self,
        id: NetworkId,
        address: IpAddr,
    ) -> Result<Result<(), Taken>, Gone> {
        self.call(move |worker| match worker.networks.get_mut(id.0) {
            Some(network) => network.admission.fib.insert(address.into(), Target::Host),
            None => Ok(()),
        })
    }

    /// An address of the host's own leaves the list.
    pub fn remove_host_address(&self, id: NetworkId, address: IpAddr) -> Result<(), Gone> {
        self.call(move |worker| {
            if let Some(network) = worker.networks.get_mut(id.0)
                && network.admission.fib.entry(address.into()) == Some(Target::Host)
            {
                network.admission.fib.remove(address.into());
            }
        })
    }
}

impl Worker {
    fn add_network(&mut self, setup: NetworkSetup) {
        let network = Network {
            id: setup.id,
            mtu: setup.mtu,
            admission: Admission::new(&setup.on_link),
            uplink: None,
            host: None,
            host_suspected: false,
            outward: setup.outward,
            limiter: Limiter::default(),
            to_uplink: Vec::new(),
            to_host: Vec::new(),
        };
        self.networks.put(setup.id.0, Box::new(network));
    }

    fn add_port(&mut self, setup: PortSetup) -> Result<(), Taken> {
        let target = Target::Port(setup.id);
        if let Some(network) = self.networks.get_mut(setup.network.0) {
            for prefix in &setup.prefixes {
                if let Err(taken) = network.admission.fib.insert(*prefix, target) {
                    network.admission.fib.remove_owner(target);
                    return Err(taken);
                }
            }
        }
        let mut inch = setup.inch;
        let record = PortRecord::of(&self.state, setup.id);
        if record.name().as_deref() == Some(&setup.name) {
            // Told to a predecessor by the guest's first frame; there may not be another soon.
            inch.guest_mac = inch.guest_mac.or(record.mac());
            if record.mac_is_damaged() {
                record.note("the MAC address learned from its guest was damaged: learned again");
                record.forget_mac();
            }
        }
        let mut port = Port::new(setup.id, setup.network, setup.name, inch);
        port.quarantined = record.suspicion().quarantine().is_some();
        self.ports.put(setup.id.0, Box::new(port));
        Ok(())
    }

    fn remove_port(&mut self, id: PortId) {
        // The entries first: then nothing leads to the port any more, and it can go. This thread is
        // the list's only reader, and between two batches it holds nothing that it found there.
        if let Some(network) = self.ports.get(id.0).map(|port| port.network)
            && let Some(network) = self.networks.get_mut(network.0)
        {
            network.admission.fib.remove_owner(Target::Port(id));
        }
        self.stop_ring(id, Side::Tx);
        self.stop_ring(id, Side::Rx);
        self.forget_waiting(Owner::Port(id));
        self.ports.take(id.0);
    }

    /// Takes an address out of a network's list: somebody on the LAN has it.
    pub(super) fn withdraw(&mut self, id: NetworkId, address: IpAddr) {
        let Some(network) = self.networks.get_mut(id.0) else { return };
        let Some(owner) = network.admission.fib.withdraw(address) else { return };
        if let Some(port) = self.ports.get_mut(owner.0) {
            port.inch.addresses4.retain(|lease| IpAddr::V4(lease.address) != address);
            port.inch.addresses6.retain(|own| IpAddr::V6(*own) != address);
        }
    }

    fn set_uplink(&mut self, id: NetworkId, uplink: Option<UplinkSetup>) -> io::Result<()> {
        if let Some(mut old) = self.networks.get_mut(id.0).and_then(|n| n.uplink.take()) {
            self.unwatch(&old.card);
            old.xdp.iter().flat_map(XdpSide::sockets).for_each(|socket| self.unwatch(socket));
            old.count_drops(Counters::of(&self.state, Owner::Uplink(id)));
        }
        let Some(mut setup) = uplink else { return Ok(()) };
        let known = LanRecord::of(&self.state, id).neighbors();
        setup.lan.restore_neighbors(Instant::now(), known);
        setup.lan.set_link(Instant::now(), setup.facts.up);
        self.watch(setup.card.as_fd(), Token::Card(id, Inlet::PACKET), false)?;
        let mut card = setup.card;
        card.set_carrier(setup.facts.up);
        let care = self.care_of_card(id, Inlet::PACKET, card.position());
        if let Some(network) = self.networks.get_mut(id.0) {
            network.uplink = Some(UplinkSide {
                card,
                xdp: None,
                facts: setup.facts,
                lan: setup.lan,
                outbox: Outbox::default(),
                // What the kernel has dropped since a predecessor looked is not read yet.
                drops_due: Some(Instant::now()),
                care,
            });
        }
        self.poll_lan(id, Instant::now());
        if self.serving {
            // A predecessor's datagrams may wait for the card to be back.
            self.ask_again();
        }
        Ok(())
    }

    pub(super) fn set_host(&mut self, id: NetworkId, path: Option<HostPath>) -> io::Result<()> {
        if let Some(old) = self.networks.get_mut(id.0).and_then(|n| n.host.take()) {
            self.unwatch(&old);
        }
        let Some(path) = path else { return Ok(()) };
        self.watch(path.as_fd(), Token::Host(id), false)?;
        if let Some(network) = self.networks.get_mut(id.0) {
            network.host = Some(path);
        }
        self.leave_out_from_host(id);
        if self.serving {
            self.serve_host(id, Instant::now());
        }
        Ok(())
    }

    pub(super) fn start_ring(&mut self, id: PortId, side: Side, ring: Ring) {
        let Some(port) = self.ports.get_mut(id.0) else { return };
        let journal = PortRecord::of(&self.state, id).journal(side);
        if let Err(fault) = port.start(side, ring, journal) {
            self.break_port(id, &fault);
            return;
        }
        port.beware(side, &PortSuspicion::of(&self.state, id));
        match side {
            Side::Rx => self.advertise(id),
            Side::Tx => {
                if let Some(kick) = self.ports.get(id.0).and_then(|p| p.kick().cloned()) {
                    // The dispatcher has made sure that it is an eventfd, which can be watched. If
                    // the kernel has no memory for it, the port is polled.
                    if self.watch(kick.as_fd(), Token::Port(id), true).is_err()
                        && let Some(port) = self.ports.get_mut(id.0)
                    {
                        port.forget_kick();
                    }
                }
                if let Some(port) = self.ports.get_mut(id.0)
                    && !port.active
                {
                    port.active = true;
                    self.active.push(Active { port: id, last: Instant::now() });
                }
            }
        }
    }

    pub(super) fn stop_ring(&mut self, id: PortId, side: Side) -> Option<u32> {
        let port = self.ports.get(id.0)?;
        if side == Side::Tx {
            if let Some(kick) = port.kick().cloned() {
                self.unwatch(&kick);
            }
            self.active.retain(|entry| entry.port != id);
        }
        let port = self.ports.get_mut(id.0)?;
        if side == Side::Tx {
            port.active = false;
        }
        port.stop(side)
    }

    pub(super) fn set_call(&mut self, id: PortId, side: Side, call: Option<Arc<OwnedFd>>) {
        if let Some(port) = self.ports.get_mut(id.0) {
            port.set_call(side, call);
        }
    }

    /// Stops a port whose rings are broken, counts the fault by name and tells it.
    pub(super) fn break_port(&mut self, id: PortId, fault: &RingFault) {
        let Some(port) = self.ports.get_mut(id.0) else { return };
        let kick = port.kick().cloned();
        let record = PortRecord::of(&self.state, id);
        for side in Side::BOTH {
            // A broken ring stays stopped, in a successor too, until it is set up anew.
            record.set_fault(side, Some(crate::port::break_counter(fault) as u16));
        }
        port.break_rings(fault, &self.state);
        port.active = false;
        let told = port.breaks.spend(Instant::now());
        if let Some(kick) = kick {
            self.unwatch(&kick);
        }
        if let Some(untold) = told {
            let fault = match untold {
                0 => fault.to_string(),
                more => format!("{fault} (and {more} times before this, not told)"),
            };
            self.emit(Event::RingBroken { port: id, fault });
        }
    }

    /// Tells a guest about its router, unasked.
    pub(super) fn advertise(&mut self, id: PortId) {
        let Some(port) = self.ports.get(id.0) else { return };
        if port.receives() {
            answer::advertise(&port.inch, &mut self.replies);
            self.send_replies(id);
        }
    }
}

//! A change to the world, with everybody at rest: rings that start and stop, and what turns have noted.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use virtqueue::RingFault;

use super::Token;
use super::turn::{Own, Turn};
use super::world::{Crew, Later, World};
use crate::event::Event;
use crate::names::{NetworkId, Pair, PortId, RingId, Side};
use crate::state::port::PortRecord;
use crate::state::suspicion::PortSuspicion;
use crate::vhost::Ring;

/// The world, and a worker that is alone in it.
pub(super) struct Change<'a> {
    pub(super) world: &'a mut World,
    pub(super) own: &'a mut Own,
    pub(super) crew: &'a Crew,
}

impl Change<'_> {
    /// A turn in between: nobody else has one.
    pub(super) fn turn(&mut self) -> Turn<'_> {
        Turn { world: self.world, own: self.own, crew: self.crew }
    }

    /// Does what turns have noted, until nothing is left.
    pub(super) fn do_what_was_noted(&mut self) {
        loop {
            self.own.has_later = false;
            let noted = self.crew.take_later();
            if noted.is_empty() {
                return;
            }
            for later in noted {
                match later {
                    Later::Broken(port, fault) => {
                        // Several of its rings may have been found broken at the same time.
                        if self.world.ports.get_mut(port.0).is_some_and(|port| port.has_fallen()) {
                            self.break_port(port, &fault);
                        }
                    }
                    Later::Conflict(network, address, mac) => {
                        self.withdraw(network, address);
                        self.crew.emit(Event::AddressConflict { network, address, mac });
                    }
                    Later::HostLost(network) => {
                        // Epoll would report that for ever.
                        let _ = self.set_host(network, None);
                        self.crew.emit(Event::HostPathLost { network });
                    }
                }
            }
        }
    }

    pub(super) fn start_ring(&mut self, id: PortId, which: RingId, ring: Ring) {
        if which.side == Side::Tx {
            // Its other rings may run already.
            self.recall(id);
        }
        let Some(port) = self.world.ports.get_mut(id.0) else { return };
        let journal = PortRecord::of(&self.world.state, id).journal(which);
        if let Err(fault) = port.start(which, ring, journal) {
            self.break_port(id, &fault);
            return;
        }
        port.beware(which, &PortSuspicion::of(&self.world.state, id));
        match which.side {
            Side::Tx => self.call_worker(id),
            Side::Rx if which.pair == Pair::FIRST => self.turn().advertise(id),
            Side::Rx => {}
        }
    }

    /// Has the worker of a port watch its kicks from now on, none of which is watched yet, and look at
    /// the port.
    pub(super) fn call_worker(&mut self, id: PortId) {
        let Some(port) = self.world.ports.get_mut(id.0) else { return };
        let desk = self.crew.desk(port.worker);
        // The dispatcher has made sure that they are eventfds, which can be watched. If the kernel has
        // no memory for one, its ring is polled.
        port.own_sending()
            .keep_kicks(|kick| desk.watch(kick.as_fd(), Token::Port(id), true).is_ok());
        desk.send(id);
    }

    /// Has the worker of a port forget it.
    pub(super) fn recall(&mut self, id: PortId) {
        let Some(port) = self.world.ports.get_mut(id.0) else { return };
        let desk = self.crew.desk(port.worker);
        let sending = port.own_sending();
        sending.kicks().for_each(|kick| desk.unwatch(kick));
        sending.active = false;
        // What the worker has in its list is of an earlier visit.
        sending.visit = sending.visit.wrapping_add(1);
        self.world.last_visit = self.world.last_visit.max(sending.visit);
    }

    pub(super) fn stop_ring(&mut self, id: PortId, which: RingId) -> Option<u32> {
        if which.side == Side::Rx {
            return self.world.ports.get_mut(id.0)?.stop(which);
        }
        self.recall(id);
        let port = self.world.ports.get_mut(id.0)?;
        let stopped = port.stop(which);
        if port.own_sending().sends() {
            // Another of its rings runs on.
            self.call_worker(id);
        }
        stopped
    }

    /// Stops a port whose rings are broken, counts the fault by name and tells it.
    pub(super) fn break_port(&mut self, id: PortId, fault: &RingFault) {
        self.recall(id);
        let Some(port) = self.world.ports.get_mut(id.0) else { return };
        let record = PortRecord::of(&self.world.state, id);
        for ring in record.rings() {
            // A broken ring stays stopped, in a successor too, until it is set up anew.
            record.set_fault(ring, Some(crate::port::break_counter(fault) as u16));
        }
        port.break_rings(fault, &self.world.state);
        if let Some(untold) = port.own_sending().breaks.spend(Instant::now()) {
            let fault = match untold {
                0 => fault.to_string(),
                more => format!("{fault} (and {more} times before this, not told)"),
            };
            self.crew.emit(Event::RingBroken { port: id, fault });
        }
    }

    /// Takes an address out of a network's list: somebody on the LAN has it.
    fn withdraw(&mut self, id: NetworkId, address: IpAddr) {
        let Some(network) = self.world.networks.get_mut(id.0) else { return };
        let Some(owner) = network.admission.fib.withdraw(address) else { return };
        if let Some(port) = self.world.ports.get_mut(owner.0) {
            let sending = port.own_sending();
            sending.inch.addresses4.retain(|lease| IpAddr::V4(lease.address) != address);
            sending.inch.addresses6.retain(|own| IpAddr::V6(*own) != address);
        }
    }
}

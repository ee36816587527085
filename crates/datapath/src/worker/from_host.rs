//! Datagrams from the host's own stack, through the network's TUN device, to a VM.
//!
//! The TUN device has no ring: a datagram is gone from the kernel once it is read. So it is read
//! into a slot of the state memory first, and the slot is emptied when it has met its fate.

use std::time::Instant;

use super::from_vm::addresses;
use super::network::Network;
use super::turn::Turn;
use super::world::Later;
use crate::counters::{Counter, Counters};
use crate::datagram;
use crate::faults::{self, Point};
use crate::fit::Fit;
use crate::names::{NetworkId, Owner};
use crate::offload::{Offload, Sender};
use crate::state::suspicion::NetworkSuspicion;
use crate::uplink::{FromHost, Refusal};

/// Datagrams read in one turn.
const TURN: usize = 32;

impl Turn<'_> {
    /// Serves what the host has sent, a bounded number of datagrams.
    pub(super) fn serve_host(&mut self, id: NetworkId, now: Instant) {
        let world = self.world;
        let Some(network) = world.networks.get(id.0) else { return };
        let owner = Owner::Host(id);
        let counters = Counters::of(&world.state, owner);
        let mut outside = network.outside();
        let mut gone = false;
        for nth in 0..TURN {
            if nth > 0 && self.crew.is_awaited() {
                break;
            }
            self.own.storage.clear();
            self.own.marks.host(id);
            let Some(host) = &mut outside.host else { break };
            let datagram = match host.next(self.own.storage.room()) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                Err(refusal) => {
                    gone = refusal == Refusal::Down;
                    break;
                }
            };
            faults::pass(Point::HostRead);
            counters.add(Counter::Taken, 1);
            counters.add(Counter::TakenBytes, datagram.len as u64);
            let (Ok(fate) | Err(fate)) = self.decide_from_host(network, &datagram);
            counters.add(fate, 1);
            self.deliver();
            faults::pass(Point::HostDelivered);
            if let Some(host) = &mut outside.host {
                host.done();
            }
            if std::mem::take(&mut outside.host_suspected) {
                NetworkSuspicion::of(&world.state, id).set_host(false);
            }
        }
        self.own.marks.done();
        self.lan_events(network, &mut outside);
        drop(outside);
        self.lan_rest(now);
        if gone {
            self.later(Later::HostLost(id));
        }
    }

    fn decide_from_host(
        &mut self,
        network: &Network,
        datagram: &FromHost,
    ) -> Result<Counter, Counter> {
        let bytes = self.own.storage.room().get(..datagram.len).ok_or(Counter::DropFrameLength)?;
        #[cfg(feature = "fault-injection")]
        crate::faults::poison("host", bytes);
        let payload = datagram::parse_ip(bytes)?;
        let (source, destination) = addresses(&payload).ok_or(Counter::DropLastInch)?;
        let offload = Offload::check(&datagram.header, 0, &payload, Sender::Kernel)?;
        datagram::last_inch_only(&payload)?;
        let to = network.admission.from_host(source, destination)?;
        // The device has the VMs' MTU, so the host's own stack has told its senders already.
        match Fit::of(&offload, &payload, network.mtu) {
            Fit::Whole => {}
            Fit::InFragments => return Err(Counter::DropTooBig),
            Fit::Refused(reason) => return Err(reason),
        }
        let len = payload.bytes().len();
        let index = self.own.storage.push(0..len);
        #[cfg(feature = "fault-injection")]
        if crate::faults::spoil("host-to-vm", self.own.storage.datagram_mut(index)) {
            return Ok(Counter::ToVm);
        }
        self.own.storage.set_offload(index, offload);
        Ok(self.note_for(to, index))
    }
}

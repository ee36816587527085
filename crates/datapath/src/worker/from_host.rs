//! Datagrams from the host's own stack, through the network's TUN device, to a VM.
//!
//! The TUN device has no ring: a datagram is gone from the kernel once it is read. So it is read
//! into a slot of the state memory first, and the slot is emptied when it has met its fate.

use std::time::Instant;

use super::Worker;
use super::from_vm::addresses;
use super::network::Network;
use crate::counters::{Counter, Counters};
use crate::datagram;
use crate::event::Event;
use crate::faults::{self, Point};
use crate::fit::Fit;
use crate::names::{NetworkId, Owner};
use crate::offload::{Offload, Sender};
use crate::state::suspicion::NetworkSuspicion;
use crate::uplink::{FromHost, Refusal};

/// Datagrams read in one turn.
const TURN: usize = 32;

impl Worker {
    /// Serves what the host has sent, a bounded number of datagrams.
    pub(super) fn serve_host(&mut self, id: NetworkId, now: Instant) {
        let Some(mut network) = self.networks.take(id.0) else { return };
        let owner = Owner::Host(id);
        let mut gone = false;
        for _ in 0..TURN {
            self.storage.clear();
            self.marks.host(id);
            let Some(host) = &mut network.host else { break };
            let datagram = match host.next(self.storage.room()) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                Err(refusal) => {
                    gone = refusal == Refusal::Down;
                    break;
                }
            };
            faults::pass(Point::HostRead);
            let counters = Counters::of(&self.state, owner);
            counters.add(Counter::Taken, 1);
            counters.add(Counter::TakenBytes, datagram.len as u64);
            let (Ok(fate) | Err(fate)) = self.decide_from_host(&network, &datagram);
            Counters::of(&self.state, owner).add(fate, 1);
            self.finish(&mut network, owner);
            faults::pass(Point::HostDelivered);
            if let Some(host) = &mut network.host {
                host.done();
            }
            if std::mem::take(&mut network.host_suspected) {
                NetworkSuspicion::of(&self.state, id).set_host(false);
            }
        }
        self.marks.done();
        self.networks.put(id.0, network);
        if gone {
            // Somebody removed the device: epoll would report that for ever.
            let _ = self.set_host(id, None);
            self.emit(Event::HostPathLost { network: id });
        }
        self.lan_events(id, now);
    }

    fn decide_from_host(
        &mut self,
        network: &Network,
        datagram: &FromHost,
    ) -> Result<Counter, Counter> {
        let bytes = self.storage.room().get(..datagram.len).ok_or(Counter::DropFrameLength)?;
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
        let index = self.storage.push(0..len);
        #[cfg(feature = "fault-injection")]
        if crate::faults::spoil("host-to-vm", self.storage.datagram_mut(index)) {
            return Ok(Counter::ToVm);
        }
        self.storage.set_offload(index, offload);
        Ok(self.note_for(to, index))
    }
}

//! One batch from the card: to the VM that owns the destination, or nowhere.
//!
//! # Theory of operation
//! ```text
//! a ring -> storage -> datagram -> ARP, neighbour discovery -> neighbor (the LAN side)
//!                            '------> last inch? -> admit + fib -> fit -> inbox -> rx ring
//! ```
//! A card has one ring, its packet socket's, and where AF_XDP is in use one more for each receive
//! queue. Frames are copied into storage like a VM's, and judged there. They go back to the kernel
//! after the receivers' used indices were published: a base that dies before finds them again.

use std::time::{Duration, Instant};

use virtqueue::NetHeader;

use super::from_vm::{addresses, write_fragment};
use super::network::{Network, Outside, Taken};
use super::turn::Turn;
use crate::answer;
use crate::counters::{Counter, Counters};
use crate::datagram;
use crate::deliver;
use crate::faults::{self, Point};
use crate::fit::{Fit, mtu16};
use crate::names::{Inlet, Mac, NetworkId, Owner, PortId};
use crate::neighbor::Heard;
use crate::offload::{Offload, Sender};
use crate::port::{ETHERNET, behind_ethernet};
use crate::spread;
use crate::uplink::Outgoing;

/// How often the kernel's overflow counter is read while frames come in.
const DROPS_EVERY: Duration = Duration::from_millis(100);

impl Turn<'_> {
    /// Serves one batch of a ring of a card; how many frames there were.
    pub(super) fn serve_card(&mut self, id: NetworkId, inlet: Inlet, now: Instant) -> u64 {
        let world = self.world;
        let Some(network) = world.networks.get(id.0) else { return 0 };
        if network.ending && inlet == Inlet::PACKET {
            return 0;
        }
        let mut outside = network.outside();
        self.own.storage.clear();
        let taken = self.take_from_card(network, &mut outside, inlet, now);
        if taken > 0 {
            faults::pass(Point::CardCopied);
        }
        self.deliver();
        if taken > 0 {
            faults::pass(Point::CardDelivered);
        }
        if let Some(uplink) = &mut outside.uplink {
            uplink.release(inlet);
            self.released(id, inlet, uplink);
            if taken == 0 && inlet == Inlet::PACKET {
                // Woken without a frame: the socket has an error to report (its link went down).
                let _ = uplink.card.take_error();
            }
            // By a timer, so that the drops of a burst are counted after its last frame too.
            if uplink.drops_due.is_none() {
                uplink.drops_due = now.checked_add(DROPS_EVERY);
            }
        }
        self.own.marks.done();
        // Still with the way out in hand: what has waited for a neighbour goes before what comes now.
        self.lan_events(network, &mut outside);
        drop(outside);
        self.lan_rest(now);
        taken
    }

    fn take_from_card(
        &mut self,
        network: &Network,
        outside: &mut Outside,
        inlet: Inlet,
        now: Instant,
    ) -> u64 {
        let owner = Owner::Uplink(network.id);
        let (mut taken, mut octets) = (0u64, 0u64);
        while self.own.storage.has_room() {
            let Some(uplink) = &mut outside.uplink else { break };
            let care = *uplink.care_mut(inlet);
            if taken >= care.most() {
                break;
            }
            let nth = uplink.taken(inlet, taken).saturating_add(1);
            self.own.marks.frame(network.id, inlet, uplink.position(inlet), nth);
            if care.skip && !uplink.pass_over(inlet) {
                break;
            }
            let found = match care.skip {
                true => Some(Err(Counter::DropPoison)),
                false => uplink.take(inlet, self.own.storage.room()),
            };
            let fate = match found {
                None => break,
                Some(Err(reason)) => {
                    self.own.storage.looked_at(0);
                    Err(reason)
                }
                Some(Ok(Taken { header, len })) => {
                    self.own.storage.looked_at(len);
                    octets = octets.saturating_add(len.saturating_sub(ETHERNET) as u64);
                    self.decide_from_card(network, outside, header.as_ref(), len, now)
                }
            };
            taken = taken.saturating_add(1);
            let (Ok(fate) | Err(fate)) = fate;
            Counters::of(&self.world.state, owner).add(fate, 1);
        }
        if let Some(uplink) = &outside.uplink {
            // The last mark was for one that was not there.
            let taken = uplink.taken(inlet, taken);
            self.own.marks.frame(network.id, inlet, uplink.position(inlet), taken);
        }
        let counters = Counters::of(&self.world.state, owner);
        counters.add(Counter::Taken, taken);
        counters.add(Counter::TakenBytes, octets);
        taken
    }

    /// What becomes of the frame in storage's room. `Err` is a drop.
    fn decide_from_card(
        &mut self,
        network: &Network,
        outside: &mut Outside,
        header: Option<&NetHeader>,
        len: usize,
        now: Instant,
    ) -> Result<Counter, Counter> {
        let frame = self.own.storage.room().get(..len).unwrap_or_default();
        #[cfg(feature = "fault-injection")]
        crate::faults::poison("lan", frame);
        let (ethernet, payload) = datagram::parse(frame)?;
        if let Some(uplink) = &mut outside.uplink {
            match uplink.lan.input(now, &ethernet, &payload, &mut uplink.outbox)? {
                Heard::Elsewhere => {}
                Heard::Silent => return Ok(Counter::Silent),
                Heard::Answered => return Ok(Counter::Answered),
            }
        }
        datagram::last_inch_only(&payload)?;
        let Some((source, destination)) = addresses(&payload) else {
            return Err(Counter::DropLastInch);
        };
        let offload = match header {
            Some(header) => Offload::check(header, ETHERNET, &payload, Sender::Kernel)?,
            None => Offload::found(&payload),
        };
        let to = network.admission.from_uplink(source, destination)?;
        if ethernet.destination.is_multicast() {
            return Err(Counter::DropGroupFrame);
        }
        let fit = Fit::of(&offload, &payload, network.mtu);
        if let Fit::Refused(reason) = fit {
            let mtu = mtu16(network.mtu);
            if !outside.limiter.allow(now) {
                let counters = Counters::of(&self.world.state, Owner::Uplink(network.id));
                counters.add(Counter::IcmpLimited, 1);
            } else if let Some(inch) = network.outward_to(source)
                && !ethernet.source.is_multicast()
                && answer::too_big(&inch, &payload, mtu, &mut self.own.replies)
            {
                self.tell_outside(network.id, outside, ethernet.source);
            }
            return Err(reason);
        }
        let bytes = payload.bytes().len();
        let index = self.own.storage.push(behind_ethernet(bytes));
        #[cfg(feature = "fault-injection")]
        if crate::faults::spoil("lan-to-vm", self.own.storage.datagram_mut(index)) {
            return Ok(Counter::ToVm);
        }
        if matches!(fit, Fit::InFragments) {
            deliver::complete(&offload, self.own.storage.datagram_mut(index));
            return self.fragment_to_port(index, network, to);
        }
        self.own.storage.set_offload(index, offload);
        Ok(self.note_for(to, index))
    }

    /// Notes a datagram for a port; that the port is not there is the receiver's drop.
    pub(super) fn note_for(&mut self, to: PortId, index: u16) -> Counter {
        match self.world.ports.get(to.0) {
            Some(to) => {
                let own = &mut *self.own;
                let to = to.lane(|| spread::flow(own.storage.datagram(index), &mut own.trail));
                own.inboxes.note(to, &mut own.storage, index);
            }
            None => Counters::of(&self.world.state, Owner::Port(to)).add(Counter::RxPortDown, 1),
        }
        Counter::ToVm
    }

    /// Cuts a datagram into fragments, all for one port.
    fn fragment_to_port(
        &mut self,
        index: u16,
        network: &Network,
        to: PortId,
    ) -> Result<Counter, Counter> {
        let mut piece = 0;
        while let Some(len) = write_fragment(&mut self.own.storage, index, network.mtu, piece) {
            let cut = self.own.storage.push(0..len);
            self.note_for(to, cut);
            piece = piece.saturating_add(1);
        }
        let Some(more) = piece.checked_sub(1) else { return Err(Counter::DropTooBig) };
        let counters = Counters::of(&self.world.state, Owner::Uplink(network.id));
        counters.add(Counter::Fragmented, 1);
        counters.add(Counter::Fragments, more as u64);
        counters.add(Counter::ToVm, more as u64);
        Ok(Counter::ToVm)
    }

    /// Sends the ICMP error among the replies to whoever on the LAN sent the frame that it is about:
    /// the datagram's source or its router. Nobody is asked for: the address in the datagram is
    /// whatever its sender wrote there.
    fn tell_outside(&mut self, id: NetworkId, outside: &mut Outside, to: Mac) {
        let Some(uplink) = &mut outside.uplink else { return };
        for frame in self.own.replies.iter() {
            let datagram = frame.get(ETHERNET..).unwrap_or_default();
            let ethernet = crate::port::header(to, uplink.facts.mac, datagram);
            let header = NetHeader::default();
            if uplink.card.send(&[Outgoing { header, ethernet, datagram }]).count > 0 {
                let counters = Counters::of(&self.world.state, Owner::Uplink(id));
                counters.add(Counter::IcmpErrors, 1);
            }
        }
        self.own.replies.clear();
    }
}

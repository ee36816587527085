//! What happens on the LAN side besides datagrams: neighbours found or dead, addresses claimed.
//!
//! The state machine (`neighbor`) only says what happened; this is what the worker does about it.

use std::time::Instant;

use super::Worker;
use super::from_vm::complain;
use crate::answer::{self, Unreachable};
use crate::counters::{Counter, Counters};
use crate::datagram;
use crate::deliver;
use crate::event::Event;
use crate::faults::{self, Point};
use crate::names::{Mac, NetworkId, Owner};
use crate::neighbor::{Asker, Event as LanEvent, Lookup};
use crate::state::lan::LanRecord;

impl Worker {
    /// Lets the timers of the card and the LAN side run.
    pub(super) fn poll_lan(&mut self, id: NetworkId, now: Instant) {
        if let Some(network) = self.networks.get_mut(id.0)
            && let Some(uplink) = &mut network.uplink
        {
            if uplink.drops_due.is_some_and(|at| at <= now) {
                uplink.count_drops(Counters::of(&self.state, Owner::Uplink(id)));
            }
            if let Some(xdp) = &mut uplink.xdp {
                xdp.go_on(now, uplink.facts.up, Counters::of(&self.state, Owner::Uplink(id)));
            }
            uplink.lan.poll(now, &mut uplink.outbox);
        }
        self.lan_events(id, now);
    }

    /// Sends what the LAN side wants sent, and acts on what it has found out.
    pub(super) fn lan_events(&mut self, id: NetworkId, now: Instant) {
        let Some(uplink) = self.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) else {
            return;
        };
        if uplink.outbox.is_empty() {
            return;
        }
        deliver::own_frames(&mut uplink.card, &uplink.outbox);
        let mut outbox = std::mem::take(&mut uplink.outbox);
        if !outbox.learned().is_empty() {
            let record = LanRecord::of(&self.state, id);
            for (hop, mac) in outbox.learned() {
                record.set_neighbor(*hop, *mac);
            }
        }
        for event in outbox.events() {
            self.lan_event(id, *event, now);
        }
        outbox.clear();
        if let Some(uplink) = self.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) {
            uplink.outbox = outbox;
        }
    }

    fn lan_event(&mut self, id: NetworkId, event: LanEvent, now: Instant) {
        match event {
            LanEvent::Resolved { hop, mac } => self.send_waiting(id, hop, mac),
            LanEvent::Unreachable { hop } => self.fail_waiting(id, hop, now),
            LanEvent::Claimed { address, .. } => {
                LanRecord::of(&self.state, id).set_held(address, true);
                self.emit(Event::AddressClaimed { network: id, address });
            }
            LanEvent::Conflict { address, mac, .. } => {
                LanRecord::of(&self.state, id).set_held(address, false);
                self.withdraw(id, address);
                self.emit(Event::AddressConflict { network: id, address, mac });
            }
            LanEvent::Contested { address, mac, .. } => {
                self.emit(Event::AddressDefended { network: id, address, mac });
            }
            LanEvent::JoinGroup { mac, .. } => self.group(id, mac, true),
            LanEvent::LeaveGroup { mac, .. } => self.group(id, mac, false),
        }
    }

    /// Asks anew for every neighbour that something waits for: a predecessor's questions are lost.
    pub(super) fn ask_again(&mut self) {
        let now = Instant::now();
        let hops: Vec<_> = self.pending.hops().collect();
        for (id, hop, owner) in hops {
            let Some(uplink) = self.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) else {
                continue;
            };
            let asker = Asker { owner, address: None };
            match uplink.lan.lookup(now, hop, asker, &mut uplink.outbox) {
                Lookup::Known(mac) => self.send_waiting(id, hop, mac),
                Lookup::Resolving => {}
                Lookup::Unreachable => self.fail_waiting(id, hop, now),
            }
        }
        for id in self.networks.ids() {
            self.lan_events(NetworkId(id), now);
        }
    }

    /// Drops what a port that leaves had waiting.
    pub(super) fn forget_waiting(&mut self, owner: Owner) {
        while let Some(waiting) = self.pending.next_owned(owner) {
            Counters::of(&self.state, owner).add(Counter::DropNeighborUnreachable, 1);
            self.pending.done(waiting);
        }
    }

    /// Drops what waits on a network that goes.
    pub(super) fn forget_waiting_on(&mut self, id: NetworkId) {
        while let Some(waiting) = self.pending.next_on(id) {
            Counters::of(&self.state, waiting.owner()).add(Counter::DropNeighborUnreachable, 1);
            self.pending.done(waiting);
        }
    }

    /// What waited for `hop` goes out.
    fn send_waiting(&mut self, id: NetworkId, hop: std::net::IpAddr, mac: Mac) {
        let Some(mut network) = self.networks.take(id.0) else { return };
        while let Some(waiting) = self.pending.next(id, hop) {
            self.storage.clear();
            self.marks.waiting(waiting.slot());
            let datagram = waiting.bytes();
            let Some(room) = self.storage.room().get_mut(..datagram.len()) else {
                Counters::of(&self.state, waiting.owner()).add(Counter::DropFrameLength, 1);
                self.pending.done(waiting);
                continue;
            };
            room.copy_from_slice(datagram);
            let index = self.storage.push(0..datagram.len());
            self.storage.set_offload(index, waiting.offload());
            network.to_uplink.push((index, mac));
            let owner = waiting.owner();
            self.finish(&mut network, owner);
            faults::pass(Point::WaitedSent);
            self.pending.done(waiting);
        }
        self.marks.done();
        self.networks.put(id.0, network);
    }

    /// What waited for `hop` is dropped, and its senders are told.
    fn fail_waiting(&mut self, id: NetworkId, hop: std::net::IpAddr, now: Instant) {
        while let Some(waiting) = self.pending.next(id, hop) {
            let owner = waiting.owner();
            self.marks.waiting(waiting.slot());
            Counters::of(&self.state, owner).add(Counter::DropNeighborUnreachable, 1);
            if let Owner::Port(port_id) = owner
                && let Some(port) = self.ports.get_mut(port_id.0)
                && let Ok(payload) = datagram::parse_ip(waiting.bytes())
            {
                complain(port, &self.state, now, &mut self.replies, |inch, replies| {
                    answer::unreachable(inch, &payload, Unreachable::Host, replies)
                });
                self.send_replies(port_id);
            }
            self.pending.done(waiting);
        }
        self.marks.done();
    }

    fn group(&mut self, id: NetworkId, group: Mac, join: bool) {
        let Some(uplink) = self.networks.get_mut(id.0).and_then(|n| n.uplink.as_mut()) else {
            return;
        };
        // A card without a filter of its own hears the group anyway; one that refuses is told of
        // nothing worse than a missing solicitation.
        let _ = if join { uplink.card.join(group) } else { uplink.card.leave(group) };
    }
}

//! What happens on the LAN side besides datagrams: neighbours found or dead, addresses claimed.
//!
//! The state machine (`neighbor`) only says what happened; this is what a worker does about it. What
//! waits for a neighbour goes out while the network's way out is still held since the neighbour was
//! found: so nothing that another worker sends there overtakes it. What needs another lock waits until
//! the way out is let go of (`lan_rest`), and what needs a change until the end of the turn. By then another
//! worker may have asked for the same neighbour anew, and let a datagram wait for that: what was told is
//! about those that waited when it was (`Told::until`).

use std::net::IpAddr;
use std::time::Instant;

use super::change::Change;
use super::from_vm::complain;
use super::network::{Network, Outside};
use super::turn::Turn;
use super::world::Later;
use crate::answer::{self, Unreachable};
use crate::counters::{Counter, Counters};
use crate::datagram;
use crate::deliver;
use crate::event::Event;
use crate::faults::{self, Point};
use crate::names::{Mac, NetworkId, Owner};
use crate::neighbor::{Asker, Event as LanEvent, Lookup};
use crate::pending::Until;
use crate::state::lan::LanRecord;
use crate::sync::{lock, own};

/// What the LAN side of a network has told, to be acted on when its way out is let go of.
pub(super) struct Told {
    pub(super) network: NetworkId,
    pub(super) event: LanEvent,
    /// Of the datagrams that wait for a neighbour it is about these.
    pub(super) until: Until,
}

impl Turn<'_> {
    /// Lets the timers of the card and the LAN side run.
    pub(super) fn poll_lan(&mut self, id: NetworkId, now: Instant) {
        let world = self.world;
        let Some(network) = world.networks.get(id.0) else { return };
        let mut outside = network.outside();
        if let Some(uplink) = &mut outside.uplink {
            if uplink.drops_due.is_some_and(|at| at <= now) {
                uplink.count_drops(Counters::of(&world.state, Owner::Uplink(id)));
            }
            if let Some(xdp) = &mut uplink.xdp {
                xdp.go_on(now, uplink.facts.up, Counters::of(&self.world.state, Owner::Uplink(id)));
            }
            uplink.lan.poll(now, &mut uplink.outbox);
        }
        self.lan_events(network, &mut outside);
        drop(outside);
        self.lan_rest(now);
    }

    /// Whether the LAN side wants something sent, or has found something out. If something of it is due
    /// earlier than before, the home worker is woken, which has the timers.
    pub(super) fn has_lan_events(&self, network: &Network, outside: &mut Outside) -> bool {
        if network.home != self.own.index && outside.is_due_earlier() {
            self.crew.desk(network.home).ring();
        }
        outside.uplink.as_ref().is_some_and(|uplink| !uplink.outbox.is_empty())
    }

    /// Sends what the LAN side wants sent, and acts on what it has found out. [`Turn::lan_rest`] is due
    /// when the way out is let go of.
    pub(super) fn lan_events(&mut self, network: &Network, outside: &mut Outside) {
        if !self.has_lan_events(network, outside) {
            return;
        }
        let Some(uplink) = &mut outside.uplink else { return };
        deliver::own_frames(&mut uplink.card, &uplink.outbox);
        let mut outbox = std::mem::take(&mut uplink.outbox);
        if !outbox.learned().is_empty() {
            let record = LanRecord::of(&self.world.state, network.id);
            for (hop, mac) in outbox.learned() {
                record.set_neighbor(*hop, *mac);
            }
        }
        for event in outbox.events() {
            self.lan_event(network, outside, *event);
        }
        outbox.clear();
        if let Some(uplink) = &mut outside.uplink {
            uplink.outbox = outbox;
        }
    }

    fn lan_event(&mut self, network: &Network, outside: &mut Outside, event: LanEvent) {
        match event {
            LanEvent::Resolved { hop, mac } => self.send_waiting(network, outside, hop, mac),
            // A card without a filter of its own hears the group anyway; one that refuses is told of
            // nothing worse than a missing solicitation.
            LanEvent::JoinGroup { mac, .. } => {
                let _ = outside.uplink.as_mut().map(|uplink| uplink.card.join(mac));
            }
            LanEvent::LeaveGroup { mac, .. } => {
                let _ = outside.uplink.as_mut().map(|uplink| uplink.card.leave(mac));
            }
            later => self.hear(network.id, later),
        }
    }

    /// Notes what is to be acted on when the network's way out, which is held, is let go of.
    pub(super) fn hear(&mut self, network: NetworkId, event: LanEvent) {
        let until = lock(&self.world.pending).until_now();
        self.own.heard.push(Told { network, event, until });
    }

    /// Acts on the rest of what the LAN side has found out. Nothing is held.
    pub(super) fn lan_rest(&mut self, now: Instant) {
        if self.own.heard.is_empty() {
            return;
        }
        for Told { network: id, event, until } in std::mem::take(&mut self.own.heard) {
            let record = LanRecord::of(&self.world.state, id);
            match event {
                LanEvent::Unreachable { hop } => self.fail_waiting(id, hop, until, now),
                LanEvent::Claimed { address, .. } => {
                    record.set_held(address, true);
                    self.crew.emit(Event::AddressClaimed { network: id, address });
                }
                LanEvent::Conflict { address, mac, .. } => {
                    record.set_held(address, false);
                    self.later(Later::Conflict(id, address, mac));
                }
                LanEvent::Contested { address, mac, .. } => {
                    self.crew.emit(Event::AddressDefended { network: id, address, mac });
                }
                // These were done at once.
                LanEvent::Resolved { .. }
                | LanEvent::JoinGroup { .. }
                | LanEvent::LeaveGroup { .. } => {}
            }
        }
    }

    /// Asks anew for every neighbour that something waits for: a predecessor's questions are lost.
    pub(super) fn ask_again(&mut self) {
        let world = self.world;
        let now = Instant::now();
        let hops: Vec<_> = lock(&world.pending).hops().collect();
        for (id, hop, owner) in hops {
            let Some(network) = world.networks.get(id.0) else { continue };
            let mut outside = network.outside();
            let Some(uplink) = &mut outside.uplink else { continue };
            let asker = Asker { owner, address: None };
            match uplink.lan.lookup(now, hop, asker, &mut uplink.outbox) {
                Lookup::Known(mac) => self.send_waiting(network, &mut outside, hop, mac),
                Lookup::Resolving => {}
                Lookup::Unreachable => self.hear(id, LanEvent::Unreachable { hop }),
            }
        }
        for network in world.networks.iter() {
            self.lan_events(network, &mut network.outside());
        }
        self.lan_rest(now);
    }

    /// What waited for `hop` goes out.
    fn send_waiting(&mut self, network: &Network, outside: &mut Outside, hop: IpAddr, mac: Mac) {
        let world = self.world;
        loop {
            let Some(waiting) = lock(&world.pending).next(network.id, hop) else { break };
            self.own.storage.clear();
            self.own.marks.waiting(waiting.slot());
            let (owner, datagram) = (waiting.owner(), waiting.bytes());
            if let Some(room) = self.own.storage.room().get_mut(..datagram.len()) {
                room.copy_from_slice(datagram);
                let index = self.own.storage.push(0..datagram.len());
                self.own.storage.set_offload(index, waiting.offload());
                self.own.to_uplink.push((index, mac));
                self.send_out(network, outside, owner);
                faults::pass(Point::WaitedSent);
            } else {
                Counters::of(&world.state, owner).add(Counter::DropFrameLength, 1);
            }
            lock(&world.pending).done(waiting);
        }
        self.own.marks.done();
    }

    /// What waited for `hop` so far is dropped, and its senders are told.
    fn fail_waiting(&mut self, id: NetworkId, hop: IpAddr, until: Until, now: Instant) {
        let world = self.world;
        loop {
            let Some(waiting) = lock(&world.pending).next_of(id, hop, until) else { break };
            let owner = waiting.owner();
            self.own.marks.waiting(waiting.slot());
            Counters::of(&world.state, owner).add(Counter::DropNeighborUnreachable, 1);
            if let Owner::Port(port_id) = owner
                && let Some(port) = world.ports.get(port_id.0)
                && let Ok(payload) = datagram::parse_ip(waiting.bytes())
            {
                // A worker that has much to do for it locks it again and again: it is not waited for.
                if let Some(mut sending) = port.sending_if_free() {
                    let replies = &mut self.own.replies;
                    complain(port_id, &mut sending, &world.state, now, replies, |inch, replies| {
                        answer::unreachable(inch, &payload, Unreachable::Host, replies)
                    });
                    drop(sending);
                    self.send_replies(port_id);
                } else {
                    Counters::of(&world.state, owner).add(Counter::IcmpLimited, 1);
                }
            }
            lock(&world.pending).done(waiting);
        }
        self.own.marks.done();
    }
}

impl Change<'_> {
    /// Drops what a port that leaves had waiting.
    pub(super) fn forget_waiting(&mut self, owner: Owner) {
        let pending = own(&mut self.world.pending);
        while let Some(waiting) = pending.next_owned(owner) {
            Counters::of(&self.world.state, owner).add(Counter::DropNeighborUnreachable, 1);
            pending.done(waiting);
        }
    }

    /// Drops what waits on a network that goes.
    pub(super) fn forget_waiting_on(&mut self, id: NetworkId) {
        let pending = own(&mut self.world.pending);
        while let Some(waiting) = pending.next_on(id) {
            let counters = Counters::of(&self.world.state, waiting.owner());
            counters.add(Counter::DropNeighborUnreachable, 1);
            pending.done(waiting);
        }
    }
}

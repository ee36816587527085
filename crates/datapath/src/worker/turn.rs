//! A worker's turn: what it does beside the others, on its side of the world.

use std::time::Instant;

use rustix::event::epoll;
use virtqueue::RingFault;

use super::Token;
use super::lan::Told;
use super::patience::Patience;
use super::world::{Crew, Later, World};
use crate::answer::{self, ADVERTISE_EVERY, Replies};
use crate::deliver::{Inbox, Inboxes};
use crate::names::{Lane, Mac, Pair, PortId};
use crate::spread::Trail;
use crate::state::StateMemory;
use crate::state::marks::Marks;
use crate::storage::Storage;

/// An active port: since when it has had nothing.
pub(super) struct Active {
    pub(super) port: PortId,
    /// Which of its visits this is (`port::Sending::visit`).
    pub(super) visit: u64,
    last: Instant,
}

/// What a worker has for itself.
pub(super) struct Own {
    pub(super) index: usize,
    pub(super) marks: Marks,
    pub(super) active: Vec<Active>,
    /// Who received last.
    pub(super) receiver: Option<PortId>,
    pub(super) patience: Patience,
    pub(super) storage: Storage,
    pub(super) replies: Replies,
    pub(super) inboxes: Inboxes,
    /// Where fragments go that come from cards and hosts.
    pub(super) trail: Trail,
    /// Of the current batch: receivers whose rings another worker had, to be waited for.
    pub(super) busy: Vec<(Lane, Inbox)>,
    /// Of the current batch: what goes to the card, with its next hop.
    pub(super) to_uplink: Vec<(u16, Mac)>,
    /// Of the current batch: what goes to the host.
    pub(super) to_host: Vec<u16>,
    /// What the LAN side has told, and waits until its network is let go of.
    pub(super) heard: Vec<Told>,
    /// Ports that it was told to look at before anything is served.
    to_look_at: Vec<PortId>,
    /// Something was noted that has to be a change.
    pub(super) has_later: bool,
    advertise_at: Instant,
    /// The port with which to go on, if a turn has ended before all had their advertisement.
    advertise_from: Option<PortId>,
}

impl Own {
    pub(super) fn new(state: &StateMemory, index: usize) -> Self {
        Self {
            index,
            marks: Marks::of_worker(state, index),
            active: Vec::new(),
            receiver: None,
            patience: Patience::default(),
            storage: Storage::default(),
            replies: Replies::default(),
            inboxes: Inboxes::default(),
            trail: Trail::default(),
            busy: Vec::new(),
            to_uplink: Vec::new(),
            to_host: Vec::new(),
            heard: Vec::new(),
            to_look_at: Vec::new(),
            has_later: false,
            advertise_at: Instant::now(),
            advertise_from: None,
        }
    }

    /// These ports are to be looked at when there is a turn.
    pub(super) fn look_at(&mut self, ports: &[PortId]) {
        self.to_look_at.extend_from_slice(ports);
    }
}

/// A worker beside the others.
pub(super) struct Turn<'a> {
    pub(super) world: &'a World,
    pub(super) own: &'a mut Own,
    pub(super) crew: &'a Crew,
}

impl Turn<'_> {
    /// One batch for each active port; those that have been empty for long enough fall asleep. If
    /// somebody waits for the end of the turn, the rest of them come first in the next.
    pub(super) fn serve_active(&mut self, now: Instant) {
        for port in std::mem::take(&mut self.own.to_look_at) {
            self.activate(port, now);
        }
        if self.own.active.is_empty() {
            return;
        }
        let mut active = std::mem::take(&mut self.own.active);
        let linger = self.own.patience.linger();
        let (mut datagrams, mut kept, mut ends) = (0u32, 0usize, false);
        active.retain_mut(|entry| {
            if ends {
                return true;
            }
            let Some(taken) = self.serve_port(entry.port, entry.visit, now) else { return false };
            ends = self.crew.is_awaited();
            if taken > 0 {
                entry.last = now;
                datagrams = datagrams.saturating_add(taken);
            }
            let stays = taken > 0
                || now.saturating_duration_since(entry.last) < linger
                || !self.fall_asleep(entry);
            kept = kept.saturating_add(stays.into());
            stays
        });
        if ends {
            active.rotate_left(kept);
        }
        // Ports that became active meanwhile (none can today) would have been pushed here.
        active.append(&mut self.own.active);
        if datagrams > 0 {
            if self.own.patience.work(now, datagrams)
                && let Some(port) = self.own.receiver
            {
                self.activate(port, now);
                active.append(&mut self.own.active);
            }
        } else if !ends && !self.own.patience.goes_on(now) {
            active.retain(|entry| !self.fall_asleep(entry));
        }
        self.own.active = active;
    }

    /// Asks the guest for a kick; false if the port must stay active.
    fn fall_asleep(&mut self, entry: &Active) -> bool {
        let Some(port) = self.world.ports.get(entry.port.0) else { return true };
        let mut sending = port.sending();
        if sending.visit != entry.visit {
            return true;
        }
        if sending.must_be_polled() {
            return false;
        }
        match sending.arm() {
            Ok(true) => {
                sending.disarm();
                false
            }
            Ok(false) => {
                sending.active = false;
                true
            }
            Err(fault) => {
                sending.fall();
                self.broken(entry.port, fault);
                true
            }
        }
    }

    /// The port has something, or is to be looked at anyway.
    pub(super) fn activate(&mut self, id: PortId, now: Instant) {
        let Some(port) = self.world.ports.get(id.0) else { return };
        if port.worker != self.own.index {
            // It was moved since; its new worker looks at it.
            return;
        }
        let mut sending = port.sending();
        if !sending.active && sending.sends() {
            sending.active = true;
            sending.visit = sending.visit.wrapping_add(1);
            sending.disarm();
            self.own.active.push(Active { port: id, visit: sending.visit, last: now });
        }
    }

    /// Serves what epoll has told, and the timers; how many of the events it has come to, and whether
    /// somebody has called. If somebody waits for the end of the turn, the rest are for the next.
    pub(super) fn serve_events(&mut self, ready: &[epoll::Event], now: Instant) -> (usize, bool) {
        let (mut come_to, mut called) = (0usize, false);
        for event in ready {
            if come_to > 0 && self.crew.is_awaited() {
                return (come_to, called);
            }
            come_to = come_to.saturating_add(1);
            match Token::from_data(event.data) {
                Some(Token::Desk) => {
                    called = true;
                    for port in self.crew.desk(self.own.index).read() {
                        self.activate(port, now);
                    }
                }
                Some(Token::Port(id)) => self.activate(id, now),
                Some(Token::Card(id, inlet)) => {
                    self.serve_card(id, inlet, now);
                }
                Some(Token::Host(id)) => self.serve_host(id, now),
                Some(Token::Resolver) => self.serve_resolver(),
                None => {}
            }
        }
        self.timers(now);
        (come_to, called)
    }

    /// How long the worker may sleep: not at all while a port is active.
    pub(super) fn timeout(&self, now: Instant) -> Option<rustix::fs::Timespec> {
        if !self.own.active.is_empty() || self.own.has_later {
            return Some(rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let index = self.own.index;
        let until = self
            .world
            .networks
            .iter()
            .filter(|network| network.home == index)
            .filter_map(|network| network.outside().tell_deadline())
            .chain([self.own.advertise_at])
            .min()?
            .saturating_duration_since(now);
        rustix::fs::Timespec::try_from(until).ok()
    }

    fn timers(&mut self, now: Instant) {
        let (world, index) = (self.world, self.own.index);
        if now >= self.own.advertise_at {
            let from = self.own.advertise_from.take();
            let rest = world.ports.iter().filter(|port| from.is_none_or(|from| port.id >= from));
            for port in rest.filter(|port| port.worker == index) {
                if self.crew.is_awaited() && from.is_none_or(|from| port.id > from) {
                    // It is still time: the next turn goes on here.
                    self.own.advertise_from = Some(port.id);
                    return;
                }
                self.advertise(port.id);
            }
            self.own.advertise_at = now.checked_add(ADVERTISE_EVERY).unwrap_or(now);
        }
        for network in world.networks.iter().filter(|network| network.home == index) {
            // Another worker that has it for a batch is not waited for: the next look is near, and
            // who is about to sleep asks for the deadline once more.
            let free = network.outside_if_free();
            let due = free.and_then(|o| o.deadline()).is_some_and(|deadline| deadline <= now);
            if due {
                self.poll_lan(network.id, now);
            }
        }
    }

    /// Tells a guest about its router, unasked.
    pub(super) fn advertise(&mut self, id: PortId) {
        let Some(port) = self.world.ports.get(id.0) else { return };
        // The own worker, or a change: nobody has it for long.
        let sending = port.sending();
        if port.receiving(Pair::FIRST).receives() {
            answer::advertise(&sending.inch, &mut self.own.replies);
            self.send_replies(id);
        }
    }

    /// A ring broke, and has fallen: everything else about it is a change.
    pub(super) fn broken(&mut self, port: PortId, fault: RingFault) {
        self.later(Later::Broken(port, fault));
    }

    /// Notes what has to be a change.
    pub(super) fn later(&mut self, later: Later) {
        self.crew.do_later(later);
        self.own.has_later = true;
    }
}

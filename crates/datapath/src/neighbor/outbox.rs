//! What the LAN side wants done: frames to send on the card, and news for the base.
//!
//! The buffers are the caller's and used again and again; nothing is sent or decided here.

use std::net::{IpAddr, Ipv6Addr};

use crate::datagram::ETHERNET_LEN;
use crate::names::{Mac, PortId};

/// News from the LAN side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour was found: what waits for it can go.
    Resolved {
        /// The neighbour.
        hop: IpAddr,
        /// Its MAC address.
        mac: Mac,
    },
    /// A neighbour did not answer: what waits for it is to be dropped and answered.
    Unreachable {
        /// The neighbour.
        hop: IpAddr,
    },
    /// Nobody on the LAN has this address: it is the port's from now on.
    Claimed {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        port: PortId,
    },
    /// Somebody on the LAN has this address already: it is refused until it is claimed anew.
    Conflict {
        /// The address.
        address: IpAddr,
        /// Who was to have it.
        port: PortId,
        /// Who has it, or wants it at the same moment.
        mac: Mac,
    },
    /// Somebody on the LAN has begun to use a claimed address; it was defended. Told at most once
    /// in [`super::claims::DEFEND_INTERVAL`].
    Contested {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        port: PortId,
        /// Who uses it.
        mac: Mac,
    },
    /// The card must receive frames to this group. Told again after a restart: asking twice for the
    /// same group does no harm.
    JoinGroup {
        /// The group as Ethernet has it.
        mac: Mac,
        /// The group.
        group: Ipv6Addr,
    },
    /// The card need not receive frames to this group any longer.
    LeaveGroup {
        /// The group as Ethernet has it.
        mac: Mac,
        /// The group.
        group: Ipv6Addr,
    },
}

/// Frames and events, collected.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Where each frame in `bytes` ends.
    ends: Vec<usize>,
    events: Vec<Event>,
    /// Which neighbour has which MAC address from now on, or none that is known.
    learned: Vec<(IpAddr, Option<Mac>)>,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The frames, oldest first, each as its Ethernet header and what follows it.
    pub fn frames(&self) -> impl Iterator<Item = (&[u8; ETHERNET_LEN], &[u8])> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .filter_map(|(&start, &end)| self.bytes.get(start..end)?.split_first_chunk())
    }

    /// The events, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What was learned about neighbours, oldest first: for a successor to know.
    pub fn learned(&self) -> &[(IpAddr, Option<Mac>)] {
        &self.learned
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.events.is_empty() && self.learned.is_empty()
    }

    /// Forgets all; the buffers stay.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.events.clear();
        self.learned.clear();
    }

    pub(super) fn learn(&mut self, hop: IpAddr, mac: Option<Mac>) {
        self.learned.push((hop, mac));
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Adds a frame made of `parts`.
    pub(super) fn send(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
    }
}

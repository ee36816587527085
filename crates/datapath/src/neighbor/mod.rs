//! The LAN side of a network: whom to send to on the LAN, and answering there for the VMs.
//!
//! # Why it exists
//! On the LAN a VM's address lives at the card's MAC address like any other host's. So the base does
//! there what every host does for its own address, for all VMs' addresses: it finds neighbours,
//! answers those who look for it, and makes sure that nobody else has the address.
//!
//! # Theory of operation
//! ```text
//! datagram to the LAN --next_hop--> hop --lookup--> Known(mac) | Resolving | Unreachable
//! frame from the LAN  --input----> answered, learned, or not ours (Heard::Elsewhere)
//! time passes         --poll-----> requests again, probes, announcements, reports
//!                                     |
//!                                     v
//!                             Outbox: frames, events
//! ```
//! There is no socket, no thread and no clock here: time is handed in, frames and events are handed
//! back. [`Lan::next_deadline`] says when [`Lan::poll`] is next needed.
//!
//! - `cache`: the neighbours and their states.
//! - `claims`: the VMs' addresses and their states.
//! - `groups`: the multicast groups that follow from them.
//! - `hear`: what a frame from the LAN means.
//! - `arp`, `ndp`: the messages.
//!
//! # Invariants
//! - Every frame sent has the card's MAC address as its source.
//! - The base answers for addresses that are held and for nothing else: not for the host's, which
//!   its own stack answers for, nor for addresses that are still probed for, or refused.
//! - Nothing heard on the LAN makes the tables grow.
//! - No address is held that nobody could have objected to: while the link is down the time of claims
//!   stands still, and probing begins anew when it comes back. Questions for neighbours go on, so
//!   that what waits for them is not kept for ever.
//! - A hop that was `Resolving` ends in one event, `Resolved` or `Unreachable`.
//!
//! # Limits
//! Router advertisements and redirects are not listened to: routes are configuration. Whoever forges
//! ARP or neighbour advertisements on the LAN can divert what goes to the LAN, as on any LAN.

mod arp;
mod cache;
mod claims;
mod groups;
mod hear;
mod ndp;
mod outbox;
mod timers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;

pub use cache::{
    ASK_BURST, ASK_PER_SECOND, ASK_WAITS, Asker, FAILED_TIME, Lookup, MAX_ENTRIES, MAX_PROBES,
    MAX_UNRESOLVED, PROBE_WAIT, REACHABLE_TIME,
};
pub use claims::{
    ANNOUNCE_WAIT, ANNOUNCEMENTS, DEFEND_INTERVAL, PROBE_WAIT as CLAIM_PROBE_WAIT, PROBES, Standing,
};
pub use hear::Heard;
pub use outbox::{Event, Outbox};

use arp::Arp;
use cache::{Ask, Cache};
use claims::{Claims, Say};
use groups::Groups;

use crate::counters::Counter;
use crate::names::{Mac, PortId};

/// What the LAN side needs to know of its network and card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The card's MAC address.
    pub mac: Mac,
    /// The network's prefixes. A single address (/32, /128) is routed here, not on link.
    pub prefixes: Vec<IpNet>,
    /// Whether neighbours in the prefixes are reached directly; else all goes to the gateway.
    pub on_link: bool,
    /// The gateway for IPv4; it may lie outside the prefixes.
    pub gateway4: Option<Ipv4Addr>,
    /// The gateway for IPv6; it may be link-local.
    pub gateway6: Option<Ipv6Addr>,
    /// The host's own IPv4 address on the card.
    pub host4: Option<Ipv4Addr>,
    /// The host's own global IPv6 address on the card.
    pub host6: Option<Ipv6Addr>,
    /// The host's link-local address on the card.
    pub link_local: Option<Ipv6Addr>,
}

impl Settings {
    fn is_gateway(&self, hop: IpAddr) -> bool {
        match hop {
            IpAddr::V4(hop) => self.gateway4 == Some(hop),
            IpAddr::V6(hop) => self.gateway6 == Some(hop),
        }
    }

    /// Whether an address is a neighbour's.
    fn is_on_link(&self, address: IpAddr) -> bool {
        self.on_link
            && self
                .prefixes
                .iter()
                .any(|p| p.prefix_len() < p.max_prefix_len() && p.contains(&address))
    }
}

/// The LAN side of one network.
#[derive(Debug)]
pub struct Lan {
    settings: Settings,
    cache: Cache,
    claims: Claims,
    groups: Groups,
    /// Whether the link is there: without it nobody hears a probe, an announcement or a report, and
    /// their time stands still.
    up: bool,
    /// Emptied before each use; kept for their buffers.
    asks: Vec<Ask>,
    says: Vec<(IpAddr, Say)>,
}

impl Lan {
    /// A LAN of which nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            cache: Cache::default(),
            claims: Claims::default(),
            groups: Groups::default(),
            up: true,
            asks: Vec::new(),
            says: Vec::new(),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Puts other settings in force. With another MAC address, all held addresses are announced anew.
    pub fn reconfigure(&mut self, now: Instant, settings: Settings) {
        if self.settings.mac != settings.mac {
            self.claims.renew(now);
            self.groups.renew(now);
        }
        self.settings = settings;
    }

    /// Whether the card has its link now. That it comes back is a [`Lan::link_restored`].
    pub fn set_link(&mut self, now: Instant, up: bool) {
        if up && !self.up {
            self.link_restored(now);
        }
        self.up = up;
    }

    /// The link came back, perhaps to another switch: neighbours are asked anew when they are next
    /// used, addresses announced and groups reported again, probing starts from the beginning.
    pub fn link_restored(&mut self, now: Instant) {
        self.cache.doubt();
        self.claims.renew(now);
        self.groups.renew(now);
    }

    /// Another card has taken the place of the old one, and knows of no group.
    pub fn card_replaced(&mut self, out: &mut Outbox) {
        self.groups.rejoin(out);
    }

    /// Whom on the LAN a datagram to `destination` goes to.
    pub fn next_hop(&self, destination: IpAddr) -> Result<IpAddr, Counter> {
        if self.settings.is_on_link(destination) {
            return Ok(destination);
        }
        match destination {
            IpAddr::V4(_) => self.settings.gateway4.map(IpAddr::V4),
            IpAddr::V6(_) => self.settings.gateway6.map(IpAddr::V6),
        }
        .ok_or(Counter::DropNoGateway)
    }

    /// The MAC address of a hop, which is asked for if it is not known.
    #[inline]
    pub fn lookup(&mut self, now: Instant, hop: IpAddr, asker: Asker, out: &mut Outbox) -> Lookup {
        // Whoever cannot reach the gateway cannot reach anybody: it is asked for free.
        let charged = (!self.settings.is_gateway(hop)).then_some(asker.owner);
        let (lookup, ask) = self.cache.lookup(now, hop, charged, asker.address, out);
        if let Some(ask) = ask {
            self.ask(ask, out);
        }
        lookup
    }

    /// Begins to claim an address for a port: probed for, then held and announced, or refused. The
    /// first probe goes out at the next [`Lan::poll`], which is due at once.
    pub fn claim(&mut self, now: Instant, address: IpAddr, port: PortId, out: &mut Outbox) {
        if self.claims.claim(now, address, port)
            && let Some(group) = group_of(address)
        {
            self.groups.join(now, group, out);
        }
    }

    /// Takes over addresses that a dead predecessor held: not probed for or announced, as nothing
    /// has changed on the LAN.
    pub fn restore_claimed(
        &mut self,
        addresses: impl IntoIterator<Item = (IpAddr, PortId)>,
        out: &mut Outbox,
    ) {
        for (address, port) in addresses {
            let fresh = self.claims.standing(address).is_none();
            self.claims.restore(address, port);
            if fresh && let Some(group) = group_of(address) {
                self.groups.restore(group, out);
            }
        }
    }

    /// Takes over the neighbours that a dead predecessor knew: they are sent to at once, and asked
    /// for again when they are first used.
    pub fn restore_neighbors(
        &mut self,
        now: Instant,
        neighbors: impl IntoIterator<Item = (IpAddr, Mac)>,
    ) {
        for (hop, mac) in neighbors {
            self.cache.restore(now, hop, mac);
        }
    }

    /// Lets an address go, whatever its standing.
    pub fn release(&mut self, now: Instant, address: IpAddr, out: &mut Outbox) {
        if self.claims.release(address)
            && let Some(group) = group_of(address)
        {
            self.groups.leave(now, group, out);
        }
    }

    /// How it stands with an address that was claimed.
    pub fn standing(&self, address: IpAddr) -> Option<Standing> {
        self.claims.standing(address)
    }

    /// Carries on with all that is due.
    pub fn poll(&mut self, now: Instant, out: &mut Outbox) {
        let mut asks = std::mem::take(&mut self.asks);
        self.cache.poll(now, &mut asks, out);
        for ask in asks.drain(..) {
            self.ask(ask, out);
        }
        self.asks = asks;
        if !self.up {
            return;
        }
        let mut says = std::mem::take(&mut self.says);
        self.claims.poll(now, &mut says, out);
        for (address, say) in says.drain(..) {
            self.say(address, say, out);
        }
        self.says = says;
        self.groups.poll(now, self.settings.mac, self.settings.link_local, out);
    }

    /// When [`Lan::poll`] is next needed, if ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        let said = self.up.then(|| [self.claims.next(), self.groups.next()]);
        said.into_iter().flatten().chain([self.cache.next()]).flatten().min()
    }

    fn ask(&self, ask: Ask, out: &mut Outbox) {
        let card = self.settings.mac;
        let name = ask
            .asker
            .filter(|&asker| self.settings.is_on_link(asker) && self.claims.is_held(asker));
        match ask.hop {
            IpAddr::V4(hop) => {
                let host = self.settings.host4.unwrap_or(Ipv4Addr::UNSPECIFIED);
                let sender = match name {
                    Some(IpAddr::V4(name)) => name,
                    _ => host,
                };
                let to = ask.to.unwrap_or(Mac::BROADCAST);
                Arp::request(card, sender, hop).send(to, out);
            }
            IpAddr::V6(hop) => {
                let host = self.settings.host6.or(self.settings.link_local);
                let source = match name {
                    Some(IpAddr::V6(name)) => name,
                    _ => host.unwrap_or_else(|| ndp::link_local(card)),
                };
                ndp::solicit(card, source, hop, ask.to, out);
            }
        }
    }

    fn say(&self, address: IpAddr, say: Say, out: &mut Outbox) {
        let card = self.settings.mac;
        match (address, say) {
            (IpAddr::V4(address), Say::Probe) => {
                Arp::request(card, Ipv4Addr::UNSPECIFIED, address).send(Mac::BROADCAST, out);
            }
            (IpAddr::V4(address), Say::Announce) => {
                Arp::request(card, address, address).send(Mac::BROADCAST, out);
            }
            (IpAddr::V6(address), Say::Probe) => ndp::probe(card, address, out),
            (IpAddr::V6(address), Say::Announce) => ndp::advertise(card, address, None, out),
        }
    }
}

/// The group that neighbours ask for an address.
fn group_of(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(ndp::solicited_node(address)),
    }
}

#[cfg(test)]
mod tests;

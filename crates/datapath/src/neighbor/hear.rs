//! What a frame from the LAN means: learned from, answered, or none of the LAN side's business.
//!
//! # Theory of operation
//! ```text
//! sender's address: wanted by a VM -> a rival: refused or defended against
//!                   other          -> the neighbour's entry, if there is one
//! target's address: held           -> answered
//! ```
//! Frames that come back from a card with our own MAC address say nothing; a MAC address that cannot
//! be a neighbour's (a group's, zero, our own) is not believed.

use std::net::IpAddr;
use std::time::Instant;

use super::arp::{Arp, Operation, Parsed};
use super::cache::News;
use super::claims::{Rival, Say};
use super::ndp::{self, Discovery};
use super::outbox::Outbox;
use super::{Lan, groups};
use crate::counters::Counter;
use crate::datagram::{Ethernet, Ip6, Payload, discovery_type};
use crate::names::Mac;

/// What a frame from the LAN was to the LAN side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: it is to go its way.
    Elsewhere,
    /// It was taken in, and calls for no answer.
    Silent,
    /// It was answered.
    Answered,
}

/// What the LAN side looks at.
enum Kind<'a> {
    Arp(&'a [u8]),
    Discovery(&'a Ip6<'a>),
    Query(&'a Ip6<'a>),
}

impl<'a> Kind<'a> {
    #[inline]
    fn of(payload: &'a Payload<'a>) -> Option<Self> {
        match payload {
            Payload::Arp(message) => Some(Self::Arp(message)),
            Payload::Ip6(ip) if matches!(discovery_type(ip), Some(135 | 136)) => {
                Some(Self::Discovery(ip))
            }
            Payload::Ip6(ip) if groups::is_query(ip) => Some(Self::Query(ip)),
            Payload::Ip4(_) | Payload::Ip6(_) => None,
        }
    }
}

impl Lan {
    /// Takes in a frame from the LAN. ARP, neighbour solicitations and advertisements and listener
    /// queries end here; everything else is [`Heard::Elsewhere`]. A malformed message is refused by
    /// name.
    pub fn input(
        &mut self,
        now: Instant,
        ethernet: &Ethernet,
        payload: &Payload<'_>,
        out: &mut Outbox,
    ) -> Result<Heard, Counter> {
        let Some(kind) = Kind::of(payload) else { return Ok(Heard::Elsewhere) };
        if ethernet.source == self.settings.mac {
            return Ok(Heard::Silent);
        }
        match kind {
            Kind::Arp(message) => match Arp::parse(message) {
                Some(Parsed::Message(message)) => Ok(self.arp(now, &message, out)),
                Some(Parsed::OtherOperation) => Ok(Heard::Silent),
                None => Err(Counter::DropArpMalformed),
            },
            Kind::Discovery(ip) if ip.upper().fragment.is_some() => Err(Counter::DropNdpFragmented),
            Kind::Discovery(ip) => {
                let message = Discovery::parse(ip).ok_or(Counter::DropAnswerMalformed)?;
                Ok(self.discovery(now, ethernet.source, message, out))
            }
            Kind::Query(ip) => {
                let taken = self.groups.query(now, self.settings.mac, ip);
                taken.map(|()| Heard::Silent).ok_or(Counter::DropAnswerMalformed)
            }
        }
    }

    fn arp(&mut self, now: Instant, message: &Arp, out: &mut Outbox) -> Heard {
        let card = self.settings.mac;
        let (sender, target) = (IpAddr::V4(message.sender), IpAddr::V4(message.target));
        let mac = message.sender_mac;
        if !self.is_neighbor(mac) {
            return Heard::Silent;
        }
        let request = message.operation == Operation::Request;
        if message.sender.is_unspecified() {
            if request {
                self.claims.rival(now, target, mac, Rival::Probes, out);
            }
        } else if self.claims.is_wanted(sender) {
            return self.contest(now, sender, mac, out);
        } else {
            let solicited = !request && sender != target;
            let news = News { mac: Some(mac), solicited, overrides: true };
            self.cache.heard(now, sender, news, out);
        }
        if !request || !self.claims.is_held(target) {
            return Heard::Silent;
        }
        message.reply(card).send(mac, out);
        Heard::Answered
    }

    fn discovery(
        &mut self,
        now: Instant,
        from: Mac,
        message: Discovery,
        out: &mut Outbox,
    ) -> Heard {
        let card = self.settings.mac;
        match message {
            Discovery::Solicitation { source, target, link } => {
                let mac = link.unwrap_or(from);
                if !self.is_neighbor(mac) {
                    return Heard::Silent;
                }
                let asks = IpAddr::V6(target);
                let probe = source.is_unspecified();
                if probe {
                    self.claims.rival(now, asks, mac, Rival::Probes, out);
                } else if self.claims.is_wanted(source.into()) {
                    return self.contest(now, source.into(), mac, out);
                } else if link.is_some() {
                    let news = News { mac: link, solicited: false, overrides: true };
                    self.cache.heard(now, source.into(), news, out);
                }
                if !self.claims.is_held(asks) {
                    return Heard::Silent;
                }
                ndp::advertise(card, target, (!probe).then_some((source, mac)), out);
                Heard::Answered
            }
            Discovery::Advertisement { target, link, solicited, overrides } => {
                if !link.is_none_or(|mac| self.is_neighbor(mac)) {
                    return Heard::Silent;
                }
                if self.claims.is_wanted(target.into()) {
                    return self.contest(now, target.into(), link.unwrap_or(from), out);
                }
                let news = News { mac: link, solicited, overrides };
                self.cache.heard(now, target.into(), news, out);
                Heard::Silent
            }
        }
    }

    /// Somebody uses an address that a VM has or wants.
    fn contest(&mut self, now: Instant, address: IpAddr, mac: Mac, out: &mut Outbox) -> Heard {
        if !self.claims.rival(now, address, mac, Rival::Uses, out) {
            return Heard::Silent;
        }
        self.say(address, Say::Announce, out);
        Heard::Answered
    }

    /// Whether this can be the MAC address of somebody else on the LAN.
    fn is_neighbor(&self, mac: Mac) -> bool {
        mac != self.settings.mac && !mac.is_multicast() && mac != Mac::default()
    }
}

//! The VMs' addresses on the LAN: probed for before they are used, announced, answered, defended.
//!
//! # Theory of operation
//! ```text
//!          3 probes, 1.2 s of silence        2 announcements
//!   claim ---------------------------> Held ----------------> (quiet)
//!     |  Probing                         |
//!     |    | somebody has it,            | somebody uses it: event `Contested`, an announcement,
//!     |    | or probes for it too        | at most once in 10 s; the address is kept
//!     |    v                             v
//!     '-> Refused, event `Conflict`     Held
//! ```
//! One machine for both families: ARP probes and announcements (RFC 5227) for IPv4, neighbour
//! solicitations from :: and unsolicited advertisements (RFC 4862, section 5.4; RFC 4861, section
//! 7.2.6) for IPv6.
//!
//! Every address is probed for, routed single ones too: nobody answers a probe for an address that
//! no one else has, whatever the uplink is like, and it costs a second once. A refused address stays
//! refused until it is claimed anew: who is to have it is not decided here.
//!
//! While the card has no link, no time passes here (the caller does not poll): a probe that cannot
//! leave asks nobody.
//!
//! A successor of a dead base gets the addresses that were held with `restore`: nothing is probed
//! or announced, as nothing has changed on the LAN.
//!
//! # Constants
//! RFC 5227 takes 1 to 7 s of probing, sized for the networks of its time. A VM's start is waiting:
//! so three probes 0.4 s apart, without the random delay that keeps hosts apart that were switched on
//! together.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::outbox::{Event, Outbox};
use super::timers::{Timers, after};
use crate::names::{Mac, PortId};

/// Probes before an address is used (RFC 5227: PROBE_NUM 3; RFC 4862: DupAddrDetectTransmits 1).
pub const PROBES: u8 = 3;
/// Time between two probes, and after the last one (RFC 5227: 1 to 2 s; RFC 4862: 1 s).
pub const PROBE_WAIT: Duration = Duration::from_millis(400);
/// Announcements of a new address (RFC 5227: ANNOUNCE_NUM).
pub const ANNOUNCEMENTS: u8 = 2;
/// Time between them (RFC 5227: ANNOUNCE_INTERVAL).
pub const ANNOUNCE_WAIT: Duration = Duration::from_secs(2);
/// Time between two defences of an address (RFC 5227: DEFEND_INTERVAL).
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// How it stands with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is being found out whether somebody has it.
    Probing,
    /// It is ours, and answered for.
    Held,
    /// Somebody else has it.
    Refused {
        /// Who.
        mac: Mac,
    },
}

/// What is to be said about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Does anybody have it?
    Probe,
    /// It is here.
    Announce,
}

/// How somebody else came to name an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    /// He uses it.
    Uses,
    /// He asks whether he may.
    Probes,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Probing { sent: u8 },
    Announcing { left: u8 },
    Held,
    Refused { mac: Mac },
}

#[derive(Debug)]
struct Claim {
    port: PortId,
    state: State,
    timer: Option<Instant>,
    defended: Option<Instant>,
}

/// The addresses that VMs of one network have or want.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: HashMap<IpAddr, Claim>,
    timers: Timers,
}

impl Claims {
    /// Begins to claim an address for a port; what is due is said at the next poll. Returns whether
    /// the address was not known before. A claim that stands is left alone.
    pub fn claim(&mut self, now: Instant, address: IpAddr, port: PortId) -> bool {
        let fresh = match self.claims.get_mut(&address) {
            Some(claim) if !matches!(claim.state, State::Refused { .. }) => {
                claim.port = port;
                return false;
            }
            Some(_) => false,
            None => true,
        };
        let mut claim =
            Claim { port, state: State::Probing { sent: 0 }, timer: None, defended: None };
        self.timers.set(address, &mut claim.timer, Some(now));
        self.claims.insert(address, claim);
        fresh
    }

    /// Takes over an address that a predecessor held.
    pub fn restore(&mut self, address: IpAddr, port: PortId) {
        self.release(address);
        let claim = Claim { port, state: State::Held, timer: None, defended: None };
        self.claims.insert(address, claim);
    }

    /// Lets an address go; whether there was one.
    pub fn release(&mut self, address: IpAddr) -> bool {
        match self.claims.remove(&address) {
            Some(mut claim) => {
                self.timers.set(address, &mut claim.timer, None);
                true
            }
            None => false,
        }
    }

    /// How it stands with an address.
    pub fn standing(&self, address: IpAddr) -> Option<Standing> {
        self.claims.get(&address).map(|claim| match claim.state {
            State::Probing { .. } => Standing::Probing,
            State::Announcing { .. } | State::Held => Standing::Held,
            State::Refused { mac } => Standing::Refused { mac },
        })
    }

    /// Whether the address is ours: to be answered for, and to ask in the name of.
    pub fn is_held(&self, address: IpAddr) -> bool {
        self.standing(address) == Some(Standing::Held)
    }

    /// Whether the address is ours, or will be if nobody objects.
    pub fn is_wanted(&self, address: IpAddr) -> bool {
        matches!(self.standing(address), Some(Standing::Probing | Standing::Held))
    }

    /// Somebody with this MAC address uses or probes for an address. Returns whether it is to be
    /// announced in defence.
    pub fn rival(
        &mut self,
        now: Instant,
        address: IpAddr,
        mac: Mac,
        rival: Rival,
        out: &mut Outbox,
    ) -> bool {
        let Some(claim) = self.claims.get_mut(&address) else { return false };
        let port = claim.port;
        match claim.state {
            State::Probing { .. } => {
                claim.state = State::Refused { mac };
                self.timers.set(address, &mut claim.timer, None);
                out.tell(Event::Conflict { address, port, mac });
                false
            }
            State::Announcing { .. } | State::Held if rival == Rival::Uses => {
                let lately = claim
                    .defended
                    .is_some_and(|then| now.saturating_duration_since(then) < DEFEND_INTERVAL);
                if !lately {
                    claim.defended = Some(now);
                    out.tell(Event::Contested { address, port, mac });
                }
                !lately
            }
            State::Announcing { .. } | State::Held | State::Refused { .. } => false,
        }
    }

    /// Carries on with what is due.
    pub fn poll(&mut self, now: Instant, say: &mut Vec<(IpAddr, Say)>, out: &mut Outbox) {
        while let Some(address) = self.timers.due(now) {
            let Some(claim) = self.claims.get_mut(&address) else { continue };
            claim.timer = None;
            let wait = match claim.state {
                State::Probing { sent } if sent < PROBES => {
                    say.push((address, Say::Probe));
                    claim.state = State::Probing { sent: sent.saturating_add(1) };
                    Some(PROBE_WAIT)
                }
                State::Probing { .. } => {
                    out.tell(Event::Claimed { address, port: claim.port });
                    say.push((address, Say::Announce));
                    claim.state = State::Announcing { left: ANNOUNCEMENTS.saturating_sub(1) };
                    Some(ANNOUNCE_WAIT)
                }
                State::Announcing { left: 0 } => {
                    claim.state = State::Held;
                    None
                }
                State::Announcing { left } => {
                    say.push((address, Say::Announce));
                    claim.state = State::Announcing { left: left.saturating_sub(1) };
                    Some(ANNOUNCE_WAIT)
                }
                State::Held | State::Refused { .. } => None,
            };
            self.timers.set(address, &mut claim.timer, wait.map(|w| after(now, w)));
        }
    }

    /// The link came back, or the card has another MAC address: held addresses are announced anew,
    /// and probing starts from the beginning.
    pub fn renew(&mut self, now: Instant) {
        for (&address, claim) in &mut self.claims {
            claim.state = match claim.state {
                State::Probing { .. } => State::Probing { sent: 0 },
                State::Announcing { .. } | State::Held => State::Announcing { left: ANNOUNCEMENTS },
                State::Refused { .. } => continue,
            };
            self.timers.set(address, &mut claim.timer, Some(now));
        }
    }

    /// When something is due.
    pub fn next(&self) -> Option<Instant> {
        self.timers.next()
    }
}

//! Who on the LAN has which MAC address, and how that is found out and kept true.
//!
//! # Theory of operation
//! One machine of states for both families, after RFC 4861, section 7.3:
//! ```text
//!             lookup                       answer
//!   (nothing) ------> Incomplete ------------------------> Reachable
//!       ^                 |    ^                            |     ^
//!       |   3 requests    |    | 3 unicast requests  30 s,  |     | answer
//!       |   unanswered    v    | unanswered          lookup v     |
//!       '------------- Failed  '------------------------- Probe --'
//!            3 s                                            ^
//!                       heard a new MAC -> Stale --lookup---'
//! ```
//! - `Incomplete`: requests go to everybody; datagrams wait.
//! - `Reachable`, `Stale`, `Probe`: datagrams go to the known MAC address. An old one is asked for
//!   again, by unicast, when it is next used; nothing is asked about neighbours nobody talks to.
//! - `Failed`: datagrams are answered "unreachable" at once, and nobody is asked.
//!
//! What is heard on the LAN changes entries that exist and makes none, so the LAN cannot fill the
//! table. A VM that scans dead addresses can: it gets [`MAX_UNRESOLVED`] entries and
//! [`ASK_PER_SECOND`] new ones a second (after a first [`ASK_BURST`]), beyond that its oldest go or
//! the answer is "unreachable" at once. An entry that two owners ask for is no longer counted to
//! either, so that neither can push it out with its own.
//!
//! # Invariants
//! - Every `Incomplete` entry ends in one event: `Resolved` or `Unreachable`.
//! - Entries that are resolved give way only when there is no unresolved one left.
//!
//! # Constants
//! RFC 4861 (section 10) asks a second between two requests. The first come sooner here: what is
//! lost on a LAN is lost for a moment, and a datagram is waiting.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::outbox::{Event, Outbox};
use super::timers::{Timers, after};
use crate::names::{Mac, Owner};

/// How long to wait for an answer to each request to everybody (RFC 4861: MAX_MULTICAST_SOLICIT is
/// 3, RETRANS_TIMER is 1 s).
pub const ASK_WAITS: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(600), Duration::from_millis(1100)];
/// Requests to a known MAC address before everybody is asked (MAX_UNICAST_SOLICIT).
pub const MAX_PROBES: u8 = 3;
/// Time between two of them (RETRANS_TIMER).
pub const PROBE_WAIT: Duration = Duration::from_secs(1);
/// How long an answer is good for (REACHABLE_TIME).
pub const REACHABLE_TIME: Duration = Duration::from_secs(30);
/// How long a neighbour that did not answer is not asked again.
pub const FAILED_TIME: Duration = Duration::from_secs(3);
/// Entries of one network, at most.
pub const MAX_ENTRIES: usize = 4096;
/// Unresolved entries of one owner, at most.
pub const MAX_UNRESOLVED: usize = 256;
/// New neighbours that an owner may ask for at once.
pub const ASK_BURST: u32 = 256;
/// New neighbours that an owner may ask for in a second, in the long run.
pub const ASK_PER_SECOND: u32 = 64;

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Whose datagram it is: what is asked for is counted to it.
    pub owner: Owner,
    /// The datagram's source: asked in its name where it is on link.
    pub address: Option<IpAddr>,
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Send to this MAC address.
    Known(Mac),
    /// It was asked for: wait for `Resolved` or `Unreachable`.
    Resolving,
    /// It does not answer.
    Unreachable,
}

/// A request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub hop: IpAddr,
    /// To this MAC address; to everybody if there is none.
    pub to: Option<Mac>,
    /// In the name of this address, if it may be.
    pub asker: Option<IpAddr>,
}

/// What was heard from a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub mac: Option<Mac>,
    /// It answers a request of ours: the neighbour hears us.
    pub solicited: bool,
    /// It replaces what is known.
    pub overrides: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete { asked: u8 },
    Reachable { mac: Mac, until: Instant },
    Stale { mac: Mac },
    Probe { mac: Mac, asked: u8 },
    Failed,
}

impl State {
    fn mac(self) -> Option<Mac> {
        match self {
            Self::Reachable { mac, .. } | Self::Stale { mac } | Self::Probe { mac, .. } => {
                Some(mac)
            }
            Self::Incomplete { .. } | Self::Failed => None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Who is charged for it while it is unresolved; nobody once several ask.
    owner: Option<Owner>,
    asker: Option<IpAddr>,
    used: Instant,
    timer: Option<Instant>,
}

/// How much an owner may ask (a bucket of tokens).
#[derive(Debug)]
struct Allowance {
    tokens: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        const PER_TOKEN: Duration = Duration::from_nanos(1_000_000_000 / ASK_PER_SECOND as u64);
        let passed = now.saturating_duration_since(self.since).as_nanos();
        let earned = passed.checked_div(PER_TOKEN.as_nanos()).unwrap_or(0);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(ASK_BURST);
            // What is left of a token's time is kept, but not beyond a full bucket.
            let kept = if self.tokens == ASK_BURST {
                now
            } else {
                after(self.since, PER_TOKEN.saturating_mul(earned))
            };
            self.since = kept;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

/// The neighbours of one network.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<IpAddr, Entry>,
    allowances: HashMap<Owner, Allowance>,
    timers: Timers,
}

impl Cache {
    /// Where to send what goes to `hop`; perhaps with a request to be sent, in the name of `asker`.
    /// If nobody is `charged`, neither allowance nor share is looked at.
    #[inline]
    pub fn lookup(
        &mut self,
        now: Instant,
        hop: IpAddr,
        charged: Option<Owner>,
        asker: Option<IpAddr>,
        out: &mut Outbox,
    ) -> (Lookup, Option<Ask>) {
        let Some(entry) = self.entries.get_mut(&hop) else {
            return self.begin(now, hop, charged, asker, out);
        };
        entry.used = now;
        match entry.state {
            State::Reachable { mac, until } if now < until => (Lookup::Known(mac), None),
            State::Reachable { mac, .. } | State::Stale { mac } => {
                entry.state = State::Probe { mac, asked: 1 };
                entry.asker = asker;
                self.timers.set(hop, &mut entry.timer, Some(after(now, PROBE_WAIT)));
                let ask = Ask { hop, to: Some(mac), asker };
                (Lookup::Known(mac), Some(ask))
            }
            State::Probe { mac, .. } => (Lookup::Known(mac), None),
            State::Incomplete { .. } => {
                if entry.owner != charged {
                    entry.owner = None;
                }
                (Lookup::Resolving, None)
            }
            State::Failed => (Lookup::Unreachable, None),
        }
    }

    /// Asks for a neighbour nobody has asked for yet.
    fn begin(
        &mut self,
        now: Instant,
        hop: IpAddr,
        charged: Option<Owner>,
        asker: Option<IpAddr>,
        out: &mut Outbox,
    ) -> (Lookup, Option<Ask>) {
        if let Some(owner) = charged {
            let full = Allowance { tokens: ASK_BURST, since: now };
            if !self.allowances.entry(owner).or_insert(full).take(now) {
                return (Lookup::Unreachable, None);
            }
            let share = self.entries.values().filter(|e| e.is_unresolved_of(owner)).count();
            if share >= MAX_UNRESOLVED {
                self.evict(|e| e.is_unresolved_of(owner), out);
            }
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.evict(|_| true, out);
        }
        let mut entry = Entry {
            state: State::Incomplete { asked: 1 },
            owner: charged,
            asker,
            used: now,
            timer: None,
        };
        self.timers.set(hop, &mut entry.timer, Some(after(now, wait(1))));
        self.entries.insert(hop, entry);
        (Lookup::Resolving, Some(Ask { hop, to: None, asker }))
    }

    /// Makes room: of those that `may` go, a failed entry if there is one, else one that is being
    /// resolved, else any; of these the one that was not used for longest.
    fn evict(&mut self, may: impl Fn(&Entry) -> bool, out: &mut Outbox) {
        let rank = |e: &Entry| match e.state {
            State::Failed => 0,
            State::Incomplete { .. } => 1,
            _ => 2,
        };
        let candidates = self.entries.iter().filter(|(_, e)| may(e));
        let Some(hop) = candidates.min_by_key(|(_, e)| (rank(e), e.used)).map(|(hop, _)| *hop)
        else {
            return;
        };
        if let Some(mut entry) = self.entries.remove(&hop) {
            self.timers.set(hop, &mut entry.timer, None);
            if matches!(entry.state, State::Incomplete { .. }) {
                out.tell(Event::Unreachable { hop });
            }
            if entry.state.mac().is_some() {
                out.learn(hop, None);
            }
        }
    }

    /// Takes over what a dead predecessor knew: good enough to send to, and asked for when used.
    pub fn restore(&mut self, now: Instant, hop: IpAddr, mac: Mac) {
        if self.entries.len() < MAX_ENTRIES {
            let state = State::Stale { mac };
            let entry = Entry { state, owner: None, asker: None, used: now, timer: None };
            self.entries.entry(hop).or_insert(entry);
        }
    }

    /// Takes in what was heard from `hop`. Makes no entry.
    pub fn heard(&mut self, now: Instant, hop: IpAddr, news: News, out: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(&hop) else { return };
        let known = entry.state.mac();
        let Some(mac) = news.mac.or(known) else { return };
        let differs = known.is_some_and(|k| k != mac);
        if differs && !news.overrides {
            // RFC 4861, section 7.2.5: doubt is all that it may raise.
            if let (State::Reachable { .. }, Some(mac)) = (entry.state, known) {
                entry.state = State::Stale { mac };
            }
            return;
        }
        if !news.solicited && known == Some(mac) {
            return;
        }
        if matches!(entry.state, State::Incomplete { .. }) {
            out.tell(Event::Resolved { hop, mac });
        }
        // What is in use is told each time it answers: its place may be somebody else's by now.
        if news.solicited || known != Some(mac) {
            out.learn(hop, Some(mac));
        }
        entry.state = if news.solicited {
            State::Reachable { mac, until: after(now, REACHABLE_TIME) }
        } else {
            State::Stale { mac }
        };
        self.timers.set(hop, &mut entry.timer, None);
    }

    /// Carries on with what is due.
    pub fn poll(&mut self, now: Instant, asks: &mut Vec<Ask>, out: &mut Outbox) {
        while let Some(hop) = self.timers.due(now) {
            let Some(entry) = self.entries.get_mut(&hop) else { continue };
            entry.timer = None;
            let asker = entry.asker;
            let (state, again) = match entry.state {
                State::Incomplete { asked } if usize::from(asked) < ASK_WAITS.len() => {
                    asks.push(Ask { hop, to: None, asker });
                    let asked = asked.saturating_add(1);
                    (State::Incomplete { asked }, wait(asked))
                }
                State::Incomplete { .. } => {
                    out.tell(Event::Unreachable { hop });
                    (State::Failed, FAILED_TIME)
                }
                State::Probe { mac, asked } if asked < MAX_PROBES => {
                    asks.push(Ask { hop, to: Some(mac), asker });
                    (State::Probe { mac, asked: asked.saturating_add(1) }, PROBE_WAIT)
                }
                State::Probe { .. } => {
                    asks.push(Ask { hop, to: None, asker });
                    out.learn(hop, None);
                    entry.owner = None;
                    (State::Incomplete { asked: 1 }, wait(1))
                }
                State::Failed => {
                    self.entries.remove(&hop);
                    continue;
                }
                State::Reachable { .. } | State::Stale { .. } => continue,
            };
            entry.state = state;
            self.timers.set(hop, &mut entry.timer, Some(after(now, again)));
        }
    }

    /// Doubts all that is known: each neighbour is asked again when it is next used.
    pub fn doubt(&mut self) {
        for entry in self.entries.values_mut() {
            if let State::Reachable { mac, .. } = entry.state {
                entry.state = State::Stale { mac };
            }
        }
    }

    /// When something is due.
    pub fn next(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Entries there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    fn is_unresolved_of(&self, owner: Owner) -> bool {
        self.owner == Some(owner) && matches!(self.state, State::Incomplete { .. } | State::Failed)
    }
}

/// How long to wait for an answer to request number `asked`.
fn wait(asked: u8) -> Duration {
    let index = usize::from(asked).saturating_sub(1);
    ASK_WAITS.get(index).or(ASK_WAITS.last()).copied().unwrap_or_default()
}

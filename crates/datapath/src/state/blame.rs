//! What killed a base: decided once by its successor, before anything else, from the marks.
//!
//! # Why it exists
//! A datagram, a descriptor, a frame or a message that kills the base would kill its successor as
//! well, and the next one, for ever. So each death of the base's own making is held against what it
//! was about, and the second at the same place without progress is the last: a port is quarantined,
//! or a frame left out, and everybody else goes on.
//!
//! # Theory of operation
//! ```text
//!                      first death                      second death there
//! batch of a port      served one by one up to there    the port is quarantined
//! frames of a card     likewise                         the frame is left out
//! host's datagram      -                                it is left out
//! waiting datagram     -                                it is left out
//! buffer to receive in -                                its port is quarantined
//! request              its front end negotiates anew    the port is quarantined, front end out
//! taking over a port   -                                it negotiates anew; at the third: quarantined
//! taking over a card   -                                made anew; at the third: without
//! ```
//! A batch is many datagrams, and which of them kills cannot always be told from where the base
//! died. So after the first death its successor takes that stretch of the ring one datagram at a
//! time (`suspicion::Care`); if it dies again, there was one. When the stretch is behind it, nothing
//! is held against the port any more: two deaths with progress in between are two accidents.
//!
//! # Several workers
//! Each says what it is about, and which of them died is not known: the death is held against what all
//! were about. So after such a death one worker works at a time for a while (`worker::turn`): at the
//! second there is one who was about anything, and those who had only stood beside it have gone on.
//!
//! # Sender or receiver
//! A base that dies while it copies into an input ring may have died of the datagram or of the ring:
//! both come from guests. What happened between two such deaths tells them apart:
//!
//! ```text
//! the ring went on, the sender stood at its datagram     the sender's datagram kills
//! the sender went on, the ring stood                     the ring kills
//! both stood                                             not known: the receiver is quarantined
//! ```
//! A port's first input ring gets a router advertisement when it starts, in a successor too: so each
//! takeover tries it before a VM's datagram comes to it, and the last case is rare. (To the rings of other
//! pairs the base itself says nothing.) It is then remembered
//! for an hour that this sender has cost a receiver. If both stand once more, with another receiver,
//! the sender is blamed: so one sender cannot take out one receiver after the other. The same is
//! remembered of a network's card and host.
//!
//! # Invariants
//! - A SIGKILL or SIGTERM from outside is held against nobody.
//! - What is written here is bounded and makes sense after each store: a successor that dies while
//!   it decides leaves the marks, and the next decides again; at worst a death counts twice.

use super::marks::{Found, Marks, Origin, Stretch, Work};
use super::pending::{Slot, free, look};
use super::port::PortRecord;
use super::suspicion::{NetworkSuspicion, PortSuspicion, Quarantine, set_waiting, waiting};
use super::{MAX_PORTS, PENDING_SLOTS, StateMemory};
use crate::counters::{Counter, Counters};
use crate::names::{NetworkId, Owner, PortId};

/// Deaths in a row after which a port that cannot be taken over is quarantined, and a network goes
/// on without its card. At one less they are made anew.
pub const LAST_ADOPTION: u32 = 3;

/// What a successor has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The port stands still until it is reset.
    Quarantined(PortId, Quarantine),
    /// The frame of this number (modulo 65536) is left out.
    FrameLeftOut(NetworkId, u16),
    /// The datagram from the host is left out.
    HostLeftOut(NetworkId),
    /// A datagram that waited for its neighbour was dropped.
    WaitingDropped(Owner),
    /// The base died once among these: they are served one by one.
    Suspected(Origin),
}

/// Reads the marks, holds the death against what they name if it was of the base's own making, and
/// clears them. `now` is in seconds, of a clock that outlives the base.
pub fn judge(state: &StateMemory, own_making: bool, now: u32) -> Vec<Verdict> {
    let marks = Marks::of(state);
    let mut verdicts = Vec::new();
    if own_making {
        let found = marks.found();
        let busy = found.workers.into_iter();
        verdicts.extend(busy.filter_map(|work| at_work(state, work, now)));
        verdicts.extend(at_a_request(state));
        verdicts.extend(at_a_takeover(state, found));
    }
    marks.clear();
    verdicts
}

/// One worker's marks.
fn at_work(state: &StateMemory, found: Work, now: u32) -> Option<Verdict> {
    let again = found.origin.and_then(|origin| count(state, origin));
    let stuck = found.receiver.filter(|(to, index)| {
        let receiver = PortSuspicion::of(state, to.port);
        let before = receiver.receiving(to.pair);
        receiver.set_receiving(to.pair, Some(*index));
        before == Some(*index)
    });
    if let Some((to, index)) = stuck {
        let own = matches!(found.origin, Some(Origin::Port(from, _)) if from.port == to.port);
        let spared =
            !own && again.is_some() && found.origin.is_some_and(|o| repeats(state, o, now));
        if !spared {
            if !own && let Some(origin) = found.origin {
                remember(state, origin, now);
            }
            return Some(quarantine(state, to.port, Quarantine::Receiving(to.pair, index)));
        }
    }
    match again {
        Some(origin) => blame(state, origin),
        None => found.origin.map(Verdict::Suspected),
    }
}

/// Holds a death against whose datagrams were under way. If it is the second there: what exactly.
fn count(state: &StateMemory, origin: Origin) -> Option<Origin> {
    // The second death is somewhere in the stretch of the first, which is served one by one.
    let again = |before: Option<Stretch>, now: Stretch| {
        before.is_some_and(|before| before.contains(now.at))
    };
    match origin {
        Origin::Port(from, batch) => {
            let sender = PortSuspicion::of(state, from.port);
            let before = sender.sent(from.pair);
            if again(before, batch) {
                return Some(origin);
            }
            sender.set_sent(from.pair, Some(batch));
            None
        }
        Origin::Card(network, inlet, frames) => {
            let card = NetworkSuspicion::of(state, network);
            let before = card.frames(inlet);
            if again(before, frames) {
                return Some(origin);
            }
            card.set_frames(inlet, frames);
            None
        }
        Origin::Host(network) => {
            let host = NetworkSuspicion::of(state, network);
            let before = host.host();
            host.set_host(true);
            before.then_some(origin)
        }
        Origin::Waiting(slot) => {
            let before = waiting(state);
            set_waiting(state, Some(slot));
            (before == Some(slot)).then_some(origin)
        }
    }
}

/// Whether a receiver was quarantined for this sender lately.
fn repeats(state: &StateMemory, origin: Origin, now: u32) -> bool {
    match origin {
        Origin::Port(from, _) => PortSuspicion::of(state, from.port).has_cost_a_receiver(now),
        Origin::Card(network, ..) | Origin::Host(network) => {
            NetworkSuspicion::of(state, network).has_cost_a_receiver(now)
        }
        // It goes to the card or the host, never into an input ring.
        Origin::Waiting(_) => false,
    }
}

/// Remembers that a receiver was quarantined for this sender.
fn remember(state: &StateMemory, origin: Origin, now: u32) {
    match origin {
        Origin::Port(from, _) => PortSuspicion::of(state, from.port).set_cost_a_receiver(now),
        Origin::Card(network, ..) | Origin::Host(network) => {
            NetworkSuspicion::of(state, network).set_cost_a_receiver(now);
        }
        Origin::Waiting(_) => {}
    }
}

/// Sees that what killed twice is not met again.
fn blame(state: &StateMemory, origin: Origin) -> Option<Verdict> {
    match origin {
        Origin::Port(from, batch) => {
            Some(quarantine(state, from.port, Quarantine::Sending(from.pair, batch.at)))
        }
        Origin::Card(network, inlet, frames) => {
            let card = NetworkSuspicion::of(state, network);
            // Nothing is known of those behind it.
            card.set_frames(inlet, Stretch { at: frames.at, len: 1 });
            card.set_skip_frame(frames.at);
            Some(Verdict::FrameLeftOut(network, frames.at))
        }
        Origin::Host(network) => {
            let host = NetworkSuspicion::of(state, network);
            host.set_skip_host(true);
            host.set_host(false);
            Some(Verdict::HostLeftOut(network))
        }
        Origin::Waiting(slot) => {
            set_waiting(state, None);
            let slot = usize::from(slot);
            if slot >= PENDING_SLOTS {
                return None;
            }
            let Slot::Waiting(record) = look(state, slot) else { return None };
            Counters::of(state, record.owner).add(Counter::DropPoison, 1);
            free(state, slot);
            Some(Verdict::WaitingDropped(record.owner))
        }
    }
}

fn quarantine(state: &StateMemory, port: PortId, why: Quarantine) -> Verdict {
    PortSuspicion::of(state, port).set_quarantine(why);
    Verdict::Quarantined(port, why)
}

/// Requests that were being carried out.
fn at_a_request(state: &StateMemory) -> impl Iterator<Item = Verdict> + '_ {
    let ports = (0..u16::try_from(MAX_PORTS).unwrap_or(u16::MAX)).map(PortId);
    ports.filter_map(|port| {
        let record = PortRecord::of(state, port);
        // A mark that is damaged names no request.
        let request = u16::try_from(record.request_open()?).ok()?;
        let again = record.count_interruption(request.into()) > 1;
        again.then(|| quarantine(state, port, Quarantine::Request(request)))
    })
}

/// What was being taken over.
fn at_a_takeover(state: &StateMemory, found: Found) -> Option<Verdict> {
    if let Some(network) = found.network {
        NetworkSuspicion::of(state, network).count_adoption();
    }
    let port = found.door?;
    let times = PortSuspicion::of(state, port).count_adoption();
    (times >= LAST_ADOPTION).then(|| quarantine(state, port, Quarantine::Adoption))
}

#[cfg(test)]
mod tests;

//! Which of a receiver's input rings a datagram goes to.
//!
//! # Why it exists
//! A guest with several queue pairs has one of its CPUs at each. What it gets of one connection should
//! come by one of them: in order, and where that connection's data is.
//!
//! # Theory of operation
//! Each datagram belongs to a *flow*, and a flow has one ring of those that are in use:
//!
//! ```text
//! TCP, UDP          addresses, protocol, ports
//! first fragment    the same: it has the ports; and where it went is kept (Trail)
//! later fragment    where its first fragment went; if that is not known: addresses, protocol
//! everything else   addresses, protocol
//! ```
//! So whole datagrams and fragments of the same flow stay in order. A later fragment whose first did not
//! come before it (it was lost, came late, or many other datagrams were cut up meanwhile) may come by
//! another ring than its flow: the guest puts it together all the same.
//!
//! The hash has no secret: a successor must find the same rings. Who sends on purpose what falls on one
//! ring harms the flow of nobody else more than by sending to that address in the first place.
//!
//! # Invariants
//! - While the rings in use stay the same, so does a flow's. When they change, flows move, and what is
//!   under way then may overtake.
//! - What is read here was checked before; of anything else the answer is some ring.

use crate::datagram::Ip6;
use crate::datagram::protocol::{TCP, UDP};

/// Datagrams in fragments that are followed at the same time.
const FOLLOWED: usize = 16;

/// Where the fragments of datagrams go: as much as one sender needs that sends a few at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trail {
    /// The last datagrams, each by a hash of what tells it from others, and their flows.
    firsts: [(u32, u32); FOLLOWED],
    /// Whose place the next one gets.
    next: usize,
}

impl Trail {
    fn begin(&mut self, datagram: u32, flow: u32) -> u32 {
        // Its number may have been another's before.
        if let Some(known) = self.firsts.iter_mut().find(|first| first.0 == datagram) {
            known.1 = flow;
            return flow;
        }
        self.next = self.next.wrapping_add(1) % FOLLOWED;
        if let Some(place) = self.firsts.get_mut(self.next) {
            *place = (datagram, flow);
        }
        flow
    }

    fn of(&self, datagram: u32) -> Option<u32> {
        self.firsts.iter().find(|first| first.0 == datagram).map(|first| first.1)
    }
}

/// The flow that a datagram belongs to, as a number that is as likely as any other.
pub fn flow(datagram: &[u8], trail: &mut Trail) -> u32 {
    let known = match datagram.first().map(|first| first >> 4) {
        Some(4) => flow4(datagram, trail),
        _ => flow6(datagram, trail),
    };
    known.unwrap_or(0)
}

fn flow4(datagram: &[u8], trail: &mut Trail) -> Option<u32> {
    let header = datagram.first_chunk::<20>()?;
    let [first, _, _, _, id0, id1, cut0, cut1, _, protocol, _, _, addresses @ ..] = header;
    let hosts = fold(u64::from_ne_bytes(*addresses), u64::from(*protocol));
    let whole = || with_ports(hosts, *protocol, datagram.get(usize::from(first & 0x0f) << 2..));
    // More fragments, and where this one lies.
    let cut = u16::from_be_bytes([cut0 & 0x3f, *cut1]);
    if cut == 0 {
        return Some(whole());
    }
    let of = short(fold(hosts, u64::from(u16::from_be_bytes([*id0, *id1]))));
    match cut & 0x1fff {
        0 => Some(trail.begin(of, whole())),
        _ => Some(trail.of(of).unwrap_or_else(|| short(hosts))),
    }
}

fn flow6(datagram: &[u8], trail: &mut Trail) -> Option<u32> {
    let header = datagram.first_chunk::<40>()?;
    let [_, _, _, _, _, _, next, _, addresses @ ..] = header;
    let words = addresses.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    let hosts = words.fold(0, fold);
    if matches!(*next, TCP | UDP) {
        return Some(with_ports(fold(hosts, u64::from(*next)), *next, datagram.get(40..)));
    }
    let upper = Ip6::parse(datagram).ok()?.upper();
    let all = fold(hosts, u64::from(upper.protocol));
    let Some(fragment) = upper.fragment.filter(|_| upper.is_fragmented()) else {
        return Some(with_ports(all, upper.protocol, datagram.get(upper.offset..)));
    };
    let of = short(fold(hosts, fragment.identification.into()));
    if fragment.offset == 0 {
        let flow = with_ports(all, upper.protocol, datagram.get(upper.offset..));
        return Some(trail.begin(of, flow));
    }
    Some(trail.of(of).unwrap_or_else(|| short(all)))
}

/// The flow of hosts and a protocol, and of the ports if that has any.
fn with_ports(hosts: u64, protocol: u8, upper: Option<&[u8]>) -> u32 {
    let ports = upper.and_then(|upper| upper.first_chunk::<4>());
    match ports {
        Some(ports) if matches!(protocol, TCP | UDP) => {
            short(fold(hosts, u32::from_ne_bytes(*ports).into()))
        }
        _ => short(hosts),
    }
}

/// One of `count` for a flow.
#[inline]
pub fn choose(flow: u32, count: usize) -> usize {
    (u64::from(flow).wrapping_mul(count as u64) >> 32) as usize
}

/// Folded multiplication (`fib/hash.rs` says more of it) with two constants in place of secrets: the
/// fractional parts of the golden ratio and of the square root of 3, both odd.
fn fold(before: u64, word: u64) -> u64 {
    let (a, b) = (before ^ 0x9e37_79b9_7f4a_7c15, word ^ 0xbb67_ae85_84ca_a73b);
    let product = u128::from(a).wrapping_mul(u128::from(b));
    (product as u64) ^ (product >> 64) as u64
}

fn short(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}

#[cfg(test)]
mod tests;

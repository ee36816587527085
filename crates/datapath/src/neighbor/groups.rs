//! The solicited-node groups of the VMs' IPv6 addresses, and the reports of them (MLDv2, RFC 3810).
//!
//! # Why it exists
//! Neighbour solicitations go to a group made from the address's last octets. A card filters groups
//! it was not told of, and a switch that snoops carries a group only to where it was reported.
//!
//! # Theory of operation
//! ```text
//! claim   -> first address of a group -> event JoinGroup,  "changed to exclude nothing" twice
//! release -> last address of a group  -> event LeaveGroup, "changed to include nothing" twice
//! query   -> after a part of the time that it allows: "is excluding nothing", all groups asked for
//! ```
//! With the first group the card also joins ff02::1, where queries and advertisements to all go; that
//! one is never reported. Reports go out at the next poll, so that many changes at once make few reports. They come from
//! the card's link-local address, from :: where it has none (RFC 3590).
//!
//! # Limits
//! MLDv1 queries are answered with version 2 reports. The delay before an answer is a fixed part of
//! the time allowed, made from the card's MAC address in place of a random number.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::ndp::{ALL_NODES, Envelope, checksum_right, group_mac};
use super::outbox::{Event, Outbox};
use super::timers::after;
use crate::datagram::{Ip6, protocol};
use crate::names::Mac;

/// Reports of one change (RFC 3810: robustness variable).
const ROBUSTNESS: u8 = 2;
/// Time between them (RFC 3810: unsolicited report interval).
const REPORT_WAIT: Duration = Duration::from_secs(1);
/// Records of one report: as many as fit the smallest MTU.
const MAX_RECORDS: usize = 60;
/// Where reports go: all routers that know MLDv2.
const REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Hop-by-hop header in front of ICMPv6 with a router alert (RFC 2711) and two octets of padding.
const ROUTER_ALERT: [u8; 8] = [protocol::ICMP6, 0, 5, 2, 0, 0, 1, 0];
const QUERY: u8 = 130;
const REPORT: u8 = 143;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;

/// A change that is being reported.
#[derive(Debug)]
struct Change {
    group: Ipv6Addr,
    record: u8,
    left: u8,
}

/// An answer to a query that waits for its time.
#[derive(Debug)]
struct Answer {
    at: Instant,
    /// The group that was asked for; all if there is none.
    group: Option<Ipv6Addr>,
}

/// The groups that are listened to.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// How many addresses each group stands for.
    members: BTreeMap<Ipv6Addr, usize>,
    changes: Vec<Change>,
    change_at: Option<Instant>,
    answer: Option<Answer>,
}

impl Groups {
    /// One more address in `group`.
    pub fn join(&mut self, now: Instant, group: Ipv6Addr, out: &mut Outbox) {
        if self.restore(group, out) {
            self.change(now, group, TO_EXCLUDE);
        }
    }

    /// As [`Groups::join`], for what a predecessor has reported already. Whether it is the group's
    /// first address.
    pub fn restore(&mut self, group: Ipv6Addr, out: &mut Outbox) -> bool {
        if self.members.is_empty() {
            out.tell(Event::JoinGroup { mac: group_mac(ALL_NODES), group: ALL_NODES });
        }
        let count = self.members.entry(group).or_insert(0);
        *count = count.saturating_add(1);
        let first = *count == 1;
        if first {
            out.tell(Event::JoinGroup { mac: group_mac(group), group });
        }
        first
    }

    /// One address less in `group`.
    pub fn leave(&mut self, now: Instant, group: Ipv6Addr, out: &mut Outbox) {
        let Some(count) = self.members.get_mut(&group) else { return };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        self.members.remove(&group);
        self.change(now, group, TO_INCLUDE);
        out.tell(Event::LeaveGroup { mac: group_mac(group), group });
        if self.members.is_empty() {
            out.tell(Event::LeaveGroup { mac: group_mac(ALL_NODES), group: ALL_NODES });
        }
    }

    fn change(&mut self, now: Instant, group: Ipv6Addr, record: u8) {
        self.changes.retain(|c| c.group != group);
        self.changes.push(Change { group, record, left: ROBUSTNESS });
        self.change_at = Some(now);
    }

    /// Reports all groups anew: the link came back.
    pub fn renew(&mut self, now: Instant) {
        let groups: Vec<_> = self.members.keys().copied().collect();
        for group in groups {
            self.change(now, group, TO_EXCLUDE);
        }
    }

    /// Asks for all groups again: another card has taken the place of the one that had joined.
    pub fn rejoin(&self, out: &mut Outbox) {
        let all_nodes = (!self.members.is_empty()).then_some(ALL_NODES);
        for group in all_nodes.into_iter().chain(self.members.keys().copied()) {
            out.tell(Event::JoinGroup { mac: group_mac(group), group });
        }
    }

    /// Whether the message is a query, answered later if it asks for what is listened to; `None` if
    /// it is malformed.
    pub fn query(&mut self, now: Instant, card: Mac, ip: &Ip6<'_>) -> Option<()> {
        let message = ip.upper_bytes();
        let [_, _, _, _, c0, c1, _, _, group @ ..] = *message.first_chunk::<24>()?;
        let group = Ipv6Addr::from(group);
        let from_link = ip.source().is_unicast_link_local() && ip.hop_limit() == 1;
        if !from_link || ip.next_header() != protocol::HOP_BY_HOP || !checksum_right(ip) {
            return None;
        }
        let group = (!group.is_unspecified()).then_some(group);
        if self.members.is_empty() || group.is_some_and(|g| !self.members.contains_key(&g)) {
            return Some(());
        }
        let at = after(now, delay(u16::from_be_bytes([c0, c1]), card));
        self.answer = Some(match self.answer.take() {
            None => Answer { at, group },
            Some(waits) => {
                let group = waits.group.filter(|g| Some(*g) == group);
                Answer { at: at.min(waits.at), group }
            }
        });
        Some(())
    }

    /// Sends the reports that are due.
    pub fn poll(
        &mut self,
        now: Instant,
        card: Mac,
        link_local: Option<Ipv6Addr>,
        out: &mut Outbox,
    ) {
        let source = link_local.unwrap_or(Ipv6Addr::UNSPECIFIED);
        if self.change_at.is_some_and(|at| at <= now) {
            let records: Vec<_> = self.changes.iter().map(|c| (c.record, c.group)).collect();
            report(card, source, &records, out);
            self.changes.retain_mut(|change| {
                change.left = change.left.saturating_sub(1);
                change.left > 0
            });
            self.change_at = (!self.changes.is_empty()).then(|| after(now, REPORT_WAIT));
        }
        if let Some(answer) = self.answer.take_if(|answer| answer.at <= now) {
            let records: Vec<_> = self
                .members
                .keys()
                .filter(|group| answer.group.is_none_or(|g| g == **group))
                .map(|group| (IS_EXCLUDE, *group))
                .collect();
            report(card, source, &records, out);
        }
    }

    /// When something is due.
    pub fn next(&self) -> Option<Instant> {
        let answer = self.answer.as_ref().map(|a| a.at);
        self.change_at.into_iter().chain(answer).min()
    }
}

/// Whether an ICMPv6 message is a query for listeners.
pub(super) fn is_query(ip: &Ip6<'_>) -> bool {
    let upper = ip.upper();
    upper.protocol == protocol::ICMP6
        && upper.fragment.is_none()
        && ip.upper_bytes().first() == Some(&QUERY)
}

/// When to answer a query: within the first half of the time it allows (at most 10 s).
fn delay(code: u16, card: Mac) -> Duration {
    let allowed = match code {
        0x8000.. => {
            let mantissa = u32::from(code & 0x0fff) | 0x1000;
            mantissa << ((code >> 12 & 7).saturating_add(3))
        }
        _ => code.into(),
    };
    let [.., last] = card.0;
    let part = allowed.min(10_000).saturating_mul(u32::from(last).saturating_add(1)) / 512;
    Duration::from_millis(part.into())
}

fn report(card: Mac, source: Ipv6Addr, records: &[(u8, Ipv6Addr)], out: &mut Outbox) {
    for records in records.chunks(MAX_RECORDS) {
        let count = u16::try_from(records.len()).unwrap_or(0).to_be_bytes();
        let mut body = Vec::new();
        for (record, group) in records {
            body.extend_from_slice(&[*record, 0, 0, 0]);
            body.extend_from_slice(&group.octets());
        }
        let to = group_mac(REPORTS);
        let envelope = Envelope { card, to, source, destination: REPORTS };
        envelope.send(1, &ROUTER_ALERT, REPORT, &[&[0; 2], &count, &body], out);
    }
}

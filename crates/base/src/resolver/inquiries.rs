//! Questions that are asked outside: to which server, how often, and when nobody answers.
//!
//! # Theory of operation
//! ```text
//! question -- kept? --> answer
//!     |
//!     '-- asked already? --> waits with the others
//!             '-- inquiry: server 1 -- 400 ms --> server 2 -- 400 ms --> server 1 ...   (UDP)
//!                     answer ------------> kept, told to all who wait
//!                     cut short ---------> the same server by TCP
//!                     knows no EDNS -----> the same server without
//!                     failure -----------> the next server at once; SERVFAIL if it was the last
//!                     1.6 s -------------> SERVFAIL
//! ```
//! Nothing here has a socket or a clock: time is handed in, and what is to be sent comes back as [`Act`]s.
//! Each attempt has a ticket, under which whoever has the sockets hands in what came back. Every attempt
//! leaves from a port of its own, with an identification of its own, and an answer counts only if it comes
//! from the server that was asked and repeats the query: so whoever wants to forge one has to guess both.
//! An attempt stays open until its inquiry ends: a late answer of the first server is one, too.
//!
//! # Limits
//! So many inquiries at once, and so many for each port; so many that wait for one. A question beyond
//! that is answered with SERVFAIL.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use super::cache::Cache;
use super::message::{Answer, Key, Question, Reply};
use super::{Act, Asker, Carrier, Ticket};
use datapath::names::PortId;

/// How long a server has until the next is asked.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long an inquiry may take: a guest's own resolver waits for some seconds.
const LIMIT: Duration = Duration::from_millis(1600);
/// Attempts of one inquiry.
const TRIES: usize = 4;
/// Inquiries at once.
pub const MOST: usize = 256;
/// Of them those that one port has begun.
const MOST_OF_PORT: usize = 64;
/// Questions that wait for one inquiry.
const MOST_WAITING: usize = 64;

/// All inquiries.
#[derive(Debug, Default)]
pub struct Inquiries {
    cache: Cache,
    inquiries: HashMap<Key, Inquiry>,
    tickets: HashMap<Ticket, Key>,
    /// Which server of a network answered last.
    preferred: HashMap<usize, usize>,
    count: u64,
}

#[derive(Debug)]
struct Inquiry {
    begun_by: PortId,
    waiting: Vec<(Asker, Question)>,
    servers: Vec<SocketAddr>,
    /// The place of the server that is asked first.
    first: usize,
    tries: usize,
    edns: bool,
    attempts: Vec<Attempt>,
    next: Instant,
    ends: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    ticket: Ticket,
    id: u16,
    server: usize,
    carrier: Carrier,
}

impl Inquiries {
    /// Answers a question with what the network's servers say.
    pub fn ask(
        &mut self,
        (network, servers): (usize, &[SocketAddr]),
        (asker, question): (Asker, Question),
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        let key = question.key(network);
        if let Some(answer) = self.cache.find(&key, now) {
            acts.push(Act::answer(&asker, &question, &answer));
            return;
        }
        if let Some(inquiry) = self.inquiries.get_mut(&key)
            && inquiry.waiting.len() < MOST_WAITING
        {
            inquiry.waiting.push((asker, question));
            return;
        }
        let begun_by = asker.tag.port;
        let of_port = self.inquiries.values().filter(|i| i.begun_by == begun_by).count();
        let full = self.inquiries.len() >= MOST || of_port >= MOST_OF_PORT;
        if full || servers.is_empty() || self.inquiries.contains_key(&key) {
            acts.push(Act::answer(&asker, &question, &Answer::error(ResponseCode::ServFail)));
            return;
        }
        let preferred = self.preferred.get(&network).copied().unwrap_or(0);
        let inquiry = Inquiry {
            begun_by,
            waiting: vec![(asker, question)],
            servers: servers.to_vec(),
            first: preferred,
            tries: 0,
            edns: true,
            attempts: Vec::new(),
            next: now,
            ends: now.checked_add(LIMIT).unwrap_or(now),
        };
        self.inquiries.insert(key.clone(), inquiry);
        self.try_next(&key, now, acts);
    }

    /// A server has said something.
    pub fn heard(&mut self, ticket: Ticket, bytes: &[u8], now: Instant, acts: &mut Vec<Act>) {
        let Some(key) = self.tickets.get(&ticket).cloned() else { return };
        let Some(inquiry) = self.inquiries.get_mut(&key) else { return };
        let Some(attempt) = inquiry.attempts.iter().find(|a| a.ticket == ticket).copied() else {
            return;
        };
        match (key.reply(bytes, attempt.id), attempt.carrier) {
            (Reply::Foreign, Carrier::Udp) => {}
            (Reply::Answer(answer, lifetime), _) => {
                self.preferred.insert(key.network, attempt.server);
                self.cache.keep(&key, bytes, lifetime, now);
                self.end(&key, &answer, acts);
            }
            (Reply::Truncated, Carrier::Udp) => {
                self.close(&key, ticket, acts);
                self.attempt(&key, attempt.server, Carrier::Tcp, acts);
            }
            (Reply::NoEdns, carrier) if inquiry.edns => {
                inquiry.edns = false;
                self.close(&key, ticket, acts);
                self.attempt(&key, attempt.server, carrier, acts);
            }
            _ => self.failed(ticket, now, acts),
        }
    }

    /// An attempt came to nothing.
    pub fn failed(&mut self, ticket: Ticket, now: Instant, acts: &mut Vec<Act>) {
        let Some(key) = self.tickets.get(&ticket).cloned() else { return };
        self.close(&key, ticket, acts);
        let Some(inquiry) = self.inquiries.get(&key) else { return };
        if inquiry.tries < inquiry.servers.len().min(TRIES) {
            self.try_next(&key, now, acts);
        } else if inquiry.attempts.is_empty() {
            self.end(&key, &Answer::error(ResponseCode::ServFail), acts);
        }
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let due = |inquiry: &Inquiry| inquiry.due() <= now;
        let keys: Vec<_> =
            self.inquiries.iter().filter(|(_, i)| due(i)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if self.inquiries.get(&key).is_some_and(|inquiry| inquiry.ends <= now) {
                self.end(&key, &Answer::error(ResponseCode::ServFail), acts);
            } else {
                self.try_next(&key, now, acts);
            }
        }
    }

    /// When there is something to do although nobody says anything.
    pub fn deadline(&self) -> Option<Instant> {
        self.inquiries.values().map(Inquiry::due).min()
    }

    /// Forgets all that servers have said or are asked: they are others now.
    pub fn start_anew(&mut self, acts: &mut Vec<Act>) {
        let keys: Vec<_> = self.inquiries.keys().cloned().collect();
        for key in keys {
            self.end(&key, &Answer::error(ResponseCode::ServFail), acts);
        }
        *self = Self { count: self.count, ..Self::default() };
    }

    /// Asks the next server.
    fn try_next(&mut self, key: &Key, now: Instant, acts: &mut Vec<Act>) {
        let Some(inquiry) = self.inquiries.get_mut(key) else { return };
        let place = inquiry.first.saturating_add(inquiry.tries);
        let server = place.checked_rem(inquiry.servers.len()).unwrap_or(0);
        inquiry.tries = inquiry.tries.saturating_add(1);
        inquiry.next = now.checked_add(PATIENCE).unwrap_or(now);
        self.attempt(key, server, Carrier::Udp, acts);
    }

    fn attempt(&mut self, key: &Key, server: usize, carrier: Carrier, acts: &mut Vec<Act>) {
        let Some(inquiry) = self.inquiries.get_mut(key) else { return };
        let Some(&to) = inquiry.servers.get(server) else { return };
        self.count = self.count.saturating_add(1);
        let (ticket, id) = (Ticket(self.count), random());
        inquiry.attempts.push(Attempt { ticket, id, server, carrier });
        self.tickets.insert(ticket, key.clone());
        let message = key.ask(id, inquiry.edns);
        acts.push(Act::Ask { ticket, server: to, carrier, message });
    }

    fn close(&mut self, key: &Key, ticket: Ticket, acts: &mut Vec<Act>) {
        self.tickets.remove(&ticket);
        if let Some(inquiry) = self.inquiries.get_mut(key) {
            inquiry.attempts.retain(|attempt| attempt.ticket != ticket);
        }
        acts.push(Act::Close(ticket));
    }

    /// Tells all who wait.
    fn end(&mut self, key: &Key, answer: &Answer, acts: &mut Vec<Act>) {
        let Some(inquiry) = self.inquiries.remove(key) else { return };
        for attempt in inquiry.attempts {
            self.tickets.remove(&attempt.ticket);
            acts.push(Act::Close(attempt.ticket));
        }
        for (asker, question) in &inquiry.waiting {
            acts.push(Act::answer(asker, question, answer));
        }
    }

    /// Octets of what is kept.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.cache.octets()
    }
}

impl Inquiry {
    fn due(&self) -> Instant {
        if self.tries < TRIES { self.next.min(self.ends) } else { self.ends }
    }
}

/// An identification that nobody can guess.
fn random() -> u16 {
    let mut octets = [0; 2];
    // The kernel's source is ready since long before; without an answer of it there is none of ours.
    let _ = rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(octets)
}

//! What a guest's question is answered with: from the VMs' names, or from outside.
//!
//! ```text
//! a VM's name, short or long ----> its addresses        (any other type: there is none)
//! a VM's address, in reverse ----> its long name
//! a short name else -------------> there is no such name
//! the rest, private network -----> there is no such name
//! the rest ----------------------> asked outside        (`inquiries`)
//! ```
//! A question is answered for the network of the port that it came from, so that networks may use the same
//! names and addresses. A name below the network's that is no VM's is asked for outside: whoever names the
//! LAN's machines may have a domain of the same name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{RData, RecordType};

use super::inquiries::Inquiries;
use super::message::{self, Answer, Heard, Question};
use super::names::Names;
use super::settings::Settings;
use super::{Act, Asker, Ticket};
use crate::config::is_single;

/// Seconds for which a VM's name may be kept: it may be another's after a reload.
const SECONDS: u32 = 10;

/// Answers questions, without sockets or a clock.
#[derive(Debug, Default)]
pub struct Answering {
    settings: Settings,
    names: Vec<Names>,
    ports: HashMap<u16, usize>,
    inquiries: Inquiries,
}

impl Answering {
    /// Goes on with other settings.
    pub fn set(&mut self, settings: Settings, acts: &mut Vec<Act>) {
        let networks = &settings.networks;
        self.names = networks.iter().map(|n| Names::new(&n.name, &n.names)).collect();
        let ports = networks.iter().enumerate();
        self.ports =
            ports.flat_map(|(n, of)| of.ports.iter().map(move |port| (*port, n))).collect();
        let outside = |settings: &Settings| -> Vec<_> {
            settings.networks.iter().map(|n| (n.forwards, n.servers.clone())).collect()
        };
        if outside(&settings) != outside(&self.settings) {
            self.inquiries.start_anew(acts);
        }
        self.settings = settings;
    }

    /// Octets of the largest datagram on a port's link; none if nothing is answered there.
    pub fn mtu(&self, port: u16) -> Option<u16> {
        self.settings.networks.get(*self.ports.get(&port)?).map(|network| network.mtu)
    }

    /// Answers a message, now or later.
    pub fn ask(&mut self, asker: Asker, bytes: &[u8], now: Instant, acts: &mut Vec<Act>) {
        let question = match message::read(bytes) {
            Heard::Question(question) => question,
            Heard::Refused(message) => return acts.push(Act::Answer { asker, message }),
            Heard::Nothing => return,
        };
        let Some(&number) = self.ports.get(&asker.tag.port.0) else { return };
        let (network, names) = (self.settings.networks.get(number), self.names.get(number));
        let (Some(network), Some(names)) = (network, names) else { return };
        if let Some(answer) = own(names, network.forwards, &question) {
            return acts.push(Act::answer(&asker, &question, &answer));
        }
        let servers: &[SocketAddr] = &network.servers;
        self.inquiries.ask((number, servers), (asker, question), now, acts);
    }

    /// A server has said something.
    pub fn heard(&mut self, ticket: Ticket, bytes: &[u8], now: Instant, acts: &mut Vec<Act>) {
        self.inquiries.heard(ticket, bytes, now, acts);
    }

    /// An attempt to ask a server came to nothing.
    pub fn failed(&mut self, ticket: Ticket, now: Instant, acts: &mut Vec<Act>) {
        self.inquiries.failed(ticket, now, acts);
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.inquiries.poll(now, acts);
    }

    /// When there is something to do although nobody says anything.
    pub fn deadline(&self) -> Option<Instant> {
        self.inquiries.deadline()
    }

    /// Octets of what is kept of others' answers.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.inquiries.kept()
    }
}

/// What we know ourselves.
fn own(names: &Names, forwards: bool, question: &Question) -> Option<Answer> {
    let (name, query) = (question.name(), &question.query);
    let wanted = query.query_type;
    if let Some(addresses) = names.addresses(&name) {
        let of = |kind| wanted == kind || wanted == RecordType::ANY;
        let data = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(v4) => of(RecordType::A).then_some(RData::A(A(*v4))),
            IpAddr::V6(v6) => of(RecordType::AAAA).then_some(RData::AAAA(AAAA(*v6))),
        });
        return Some(Answer::own(query, SECONDS, data));
    }
    let address = query.name.parse_arpa_name().ok();
    let address = address.filter(is_single).map(|n| n.addr());
    if let Some(name) = address.and_then(|address| names.name(address)) {
        let right = matches!(wanted, RecordType::PTR | RecordType::ANY);
        let data = right.then(|| RData::PTR(PTR(message::name(name))));
        return Some(Answer::own(query, SECONDS, data.into_iter()));
    }
    let short = !name.contains('.') && matches!(wanted, RecordType::A | RecordType::AAAA);
    (short || !forwards).then(Answer::no_such_name)
}

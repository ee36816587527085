//! DNS messages, as questions and answers: the one place that touches hickory's formats.
//!
//! # Theory of operation
//! A question is read whole, and what it is besides its one query (EDNS, flags) is kept as values. An
//! answer is always written afresh: with the asker's identification and query, letter by letter, and with
//! an OPT record of our own if the question had one. So nothing that a server outside says about itself
//! (its EDNS options, its flags) reaches a guest.
//!
//! # Invariants
//! What is written to an asker is never longer than it may be: first the additional records go, then all,
//! and the flag for truncation is set (RFC 2181, section 9).

use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Octets that we take by UDP, and send at most: what fits every link of IPv6 unfragmented.
pub const UDP_PAYLOAD: u16 = 1232;
/// Octets that everybody takes by UDP.
pub const PLAIN_PAYLOAD: u16 = 512;
/// Longest time for which anything is kept.
const LONGEST: u32 = 24 * 3600;
/// Longest time for which it is kept that something is not there.
const LONGEST_NEGATIVE: u32 = 3600;
/// Octets of a message's header.
const HEADER: usize = 12;
/// Octets of the longest message of a guest's that is read: a question with options is shorter.
const LONGEST_QUESTION: usize = 1232;

/// A guest's question.
#[derive(Clone, Debug)]
pub struct Question {
    id: u16,
    /// What it asks for.
    pub query: Query,
    recursion_desired: bool,
    checking_disabled: bool,
    dnssec_ok: bool,
    /// Octets that the asker takes by UDP, as far as it has said.
    edns: Option<u16>,
}

/// What becomes of a message from a guest.
#[derive(Debug)]
pub enum Heard {
    /// It is to be answered.
    Question(Question),
    /// It is answered with this: an error.
    Refused(Vec<u8>),
    /// It calls for no answer.
    Nothing,
}

/// What is asked outside, and under which an answer is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which network's servers are asked.
    pub network: usize,
    query: Query,
    dnssec_ok: bool,
    checking_disabled: bool,
}

/// What a question is answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

/// What a server outside has said.
#[derive(Debug)]
pub enum Reply {
    /// An answer, and for how long it may be kept.
    Answer(Answer, Duration),
    /// There is more than it could send: to be asked for by TCP.
    Truncated,
    /// It does not understand EDNS.
    NoEdns,
    /// It cannot answer.
    Failed,
    /// Not to what was asked.
    Foreign,
}

/// Reads a guest's message.
pub fn read(bytes: &[u8]) -> Heard {
    let Some(&[i0, i1, flags, _, counts @ ..]) = bytes.first_chunk::<HEADER>() else {
        return Heard::Nothing;
    };
    let id = u16::from_be_bytes([i0, i1]);
    if flags & 0x80 != 0 {
        // A response: answering those is how two servers talk for ever.
        return Heard::Nothing;
    }
    if bytes.len() > LONGEST_QUESTION {
        return Heard::Nothing;
    }
    let op_code = OpCode::from_u8(flags >> 3 & 0xf);
    if op_code != OpCode::Query {
        return Heard::refused(id, op_code, ResponseCode::NotImp);
    }
    // What is not one question is not read at length: that takes as long as the sender likes.
    let [q0, q1, a0, a1, n0, n1, m0, m1] = counts;
    let simple = [q0, q1, a0, a1, n0, n1, m0] == [0, 1, 0, 0, 0, 0, 0] && m1 <= 2;
    let message = if simple { Message::from_vec(bytes).ok() } else { None };
    let Some(message) = message else {
        return Heard::refused(id, OpCode::Query, ResponseCode::FormErr);
    };
    let head = &message.metadata;
    let [query] = message.queries.as_slice() else {
        return Heard::refused(id, OpCode::Query, ResponseCode::FormErr);
    };
    let edns = message.edns.as_ref();
    let question = Question {
        id,
        query: query.clone(),
        recursion_desired: head.recursion_desired,
        checking_disabled: head.checking_disabled,
        dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
        edns: edns.map(Edns::max_payload),
    };
    let error = |code| Heard::Refused(question.write(&Answer::error(code), PLAIN_PAYLOAD.into()));
    if message.version() > 0 {
        return error(ResponseCode::BADVERS);
    }
    let wanted = query.query_class == DNSClass::IN
        && !matches!(
            query.query_type,
            RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG
        );
    if wanted { Heard::Question(question) } else { error(ResponseCode::Refused) }
}

impl Heard {
    fn refused(id: u16, op_code: OpCode, code: ResponseCode) -> Self {
        let mut message = Message::error_msg(id, op_code, code);
        message.metadata.recursion_available = true;
        message.to_vec().map_or(Self::Nothing, Self::Refused)
    }
}

impl Question {
    /// The name, in small letters and without the dot at its end.
    pub fn name(&self) -> String {
        let mut name = self.query.name.to_lowercase().to_ascii();
        if name.ends_with('.') {
            name.pop();
        }
        name
    }

    /// Octets that an answer by UDP may have.
    pub fn payload(&self) -> u16 {
        self.edns.unwrap_or(PLAIN_PAYLOAD).clamp(PLAIN_PAYLOAD, UDP_PAYLOAD)
    }

    /// Under what an answer from outside is kept.
    pub fn key(&self, network: usize) -> Key {
        let mut query = self.query.clone();
        query.name = query.name.to_lowercase();
        let Self { dnssec_ok, checking_disabled, .. } = *self;
        Key { network, query, dnssec_ok, checking_disabled }
    }

    /// The message with an answer, of so many octets at most.
    pub fn write(&self, answer: &Answer, most: usize) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        let head = &mut message.metadata;
        head.recursion_desired = self.recursion_desired;
        head.checking_disabled = self.checking_disabled;
        head.recursion_available = true;
        head.authoritative = answer.authoritative;
        head.response_code = answer.code;
        message.add_query(self.query.clone());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(self.dnssec_ok);
            message.set_edns(edns);
        } else if answer.code.high() > 0 {
            message.metadata.response_code = ResponseCode::ServFail;
        }
        message.answers.clone_from(&answer.answers);
        message.authorities.clone_from(&answer.authorities);
        message.additionals.clone_from(&answer.additionals);
        let fits = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= most);
        if let Some(bytes) = fits(&message) {
            return bytes;
        }
        message.additionals.clear();
        fits(&message).or_else(|| fits(&message.truncate())).unwrap_or_default()
    }
}

impl Key {
    /// The message by which a server is asked.
    pub fn ask(&self, id: u16, edns: bool) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(self.dnssec_ok);
            message.set_edns(edns);
        }
        // A name that was read can be written.
        message.to_vec().unwrap_or_default()
    }

    /// What a server's message means, if it was asked under this identification.
    pub fn reply(&self, bytes: &[u8], id: u16) -> Reply {
        let Some(&[i0, i1, flags, ..]) = bytes.first_chunk::<HEADER>() else {
            return Reply::Foreign;
        };
        if u16::from_be_bytes([i0, i1]) != id || flags & 0x80 == 0 {
            return Reply::Foreign;
        }
        let Ok(message) = Message::from_vec(bytes) else {
            // It may be cut, which some do in the middle of a record.
            return if flags & 0x02 != 0 { Reply::Truncated } else { Reply::Failed };
        };
        let head = &message.metadata;
        let bare = message.edns.is_none()
            && matches!(head.response_code, ResponseCode::FormErr | ResponseCode::NotImp);
        if bare && message.queries.is_empty() {
            return Reply::NoEdns;
        }
        // Names are compared without regard to large and small letters.
        if head.op_code != OpCode::Query || message.queries != [self.query.clone()] {
            return Reply::Foreign;
        }
        if head.truncation {
            return Reply::Truncated;
        }
        match head.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            ResponseCode::FormErr | ResponseCode::NotImp if bare => return Reply::NoEdns,
            _ => return Reply::Failed,
        }
        let answer = Answer {
            code: head.response_code,
            authoritative: false,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        };
        let keep = answer.lifetime();
        Reply::Answer(answer, keep)
    }
}

impl Answer {
    /// One that says only how it is.
    pub fn error(code: ResponseCode) -> Self {
        let (answers, authorities, additionals) = Default::default();
        Self { code, authoritative: false, answers, authorities, additionals }
    }

    /// One of our own knowledge, with these data for the query's name.
    pub fn own(query: &Query, seconds: u32, data: impl Iterator<Item = RData>) -> Self {
        let record = |data| Record::from_rdata(query.name.clone(), seconds, data);
        let answers = data.map(record).collect();
        Self { authoritative: true, answers, ..Self::error(ResponseCode::NoError) }
    }

    /// There is no such name, and we know it.
    pub fn no_such_name() -> Self {
        Self { authoritative: true, ..Self::error(ResponseCode::NXDomain) }
    }

    /// For how long it may be kept: as long as each record that it tells, and that something is not there
    /// as long as its zone says (RFC 2308), if it says anything.
    fn lifetime(&self) -> Duration {
        let shortest = self.answers.iter().map(|record| record.ttl).min();
        let there = self.code == ResponseCode::NoError && shortest.is_some();
        let seconds = if there {
            shortest.unwrap_or(0).min(LONGEST)
        } else {
            let zone = self.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            let least = shortest.unwrap_or(u32::MAX);
            zone.unwrap_or(0).min(least).min(LONGEST_NEGATIVE)
        };
        Duration::from_secs(seconds.into())
    }

    /// The same, told some time later.
    pub fn aged(mut self, by: Duration) -> Self {
        let seconds = u32::try_from(by.as_secs()).unwrap_or(u32::MAX);
        let all = [&mut self.answers, &mut self.authorities, &mut self.additionals];
        for record in all.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(seconds);
        }
        self
    }
}

/// A name as a record's data tell it; the root if it cannot be one.
pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_default();
    name.set_fqdn(true);
    name
}

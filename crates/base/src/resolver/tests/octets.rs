//! DNS messages by hand (RFC 1035, section 4; RFC 6891).

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const OPT: u16 = 41;
pub const ANY: u16 = 255;

pub const NO_ERROR: u8 = 0;
pub const FORMAT: u8 = 1;
pub const FAILURE: u8 = 2;
pub const NO_NAME: u8 = 3;
pub const NOT_IMPLEMENTED: u8 = 4;
pub const REFUSED: u8 = 5;

/// A record: type, seconds, data. Its name is the question's.
pub type Record = (u16, u32, Vec<u8>);

/// A name, not compressed.
pub fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let labels = labels.flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// A question. `edns`: octets that the asker takes.
pub fn question(id: u16, of: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut message =
        [id, 0x0100, 1, 0, 0, u16::from(edns.is_some())].map(u16::to_be_bytes).concat();
    message.extend(name(of));
    message.extend([kind, 1].map(u16::to_be_bytes).concat());
    if let Some(payload) = edns {
        message.push(0);
        message.extend([OPT, payload, 0, 0, 0].map(u16::to_be_bytes).concat());
    }
    message
}

/// A server's answer to a message that asked it.
pub fn answer(to: &[u8], code: u8, answers: &[Record], authorities: &[Record]) -> Vec<u8> {
    let asked = Message::read(to);
    let counts = [1, answers.len() as u16, authorities.len() as u16, 0];
    let mut message = [asked.id, 0x8180 | u16::from(code)].map(u16::to_be_bytes).concat();
    message.extend(counts.map(u16::to_be_bytes).concat());
    message.extend(&to[12..asked.question_end]);
    for (kind, seconds, data) in answers.iter().chain(authorities) {
        message.extend([0xc0, 12]);
        message.extend([*kind, 1].map(u16::to_be_bytes).concat());
        message.extend(seconds.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    message
}

/// The data of a zone's record with this least time.
pub fn zone(seconds: u32) -> Vec<u8> {
    [name("ns"), name("host"), [1, 2, 3, 4, seconds].map(u32::to_be_bytes).concat()].concat()
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u16,
    pub is_response: bool,
    pub authoritative: bool,
    pub truncated: bool,
    pub available: bool,
    pub code: u8,
    /// As written, letter by letter.
    pub name: String,
    pub kind: u16,
    pub question_end: usize,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    /// Octets that it says to take, if it has EDNS.
    pub edns: Option<u16>,
    pub len: usize,
}

impl Message {
    /// Reads one that must be right.
    pub fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut message = Self {
            id: word(0),
            is_response: bytes[2] & 0x80 != 0,
            authoritative: bytes[2] & 0x04 != 0,
            truncated: bytes[2] & 0x02 != 0,
            available: bytes[3] & 0x80 != 0,
            code: bytes[3] & 15,
            name: String::new(),
            kind: 0,
            question_end: 12,
            answers: vec![],
            authorities: vec![],
            edns: None,
            len: bytes.len(),
        };
        let mut at = 12;
        if word(4) == 1 {
            (message.name, at) = read_name(bytes, at);
            message.kind = word(at);
            assert_eq!(word(at + 2), 1, "class");
            at += 4;
            message.question_end = at;
        }
        for section in 0..3 {
            for _ in 0..word(6 + 2 * section) {
                let (_, after) = read_name(bytes, at);
                let (kind, len) = (word(after), usize::from(word(after + 8)));
                let seconds = u32::from_be_bytes(bytes[after + 4..after + 8].try_into().unwrap());
                let data = bytes[after + 10..after + 10 + len].to_vec();
                at = after + 10 + len;
                match section {
                    0 => message.answers.push((kind, seconds, data)),
                    1 => message.authorities.push((kind, seconds, data)),
                    _ if kind == OPT => message.edns = Some(word(after + 2)),
                    _ => {}
                }
            }
        }
        assert_eq!(at, bytes.len(), "nothing behind the message");
        message
    }

    /// The data of the answers.
    pub fn data(&self) -> Vec<Vec<u8>> {
        self.answers.iter().map(|(_, _, data)| data.clone()).collect()
    }
}

/// A name as text, and where it ends.
fn read_name(bytes: &[u8], mut at: usize) -> (String, usize) {
    let (mut text, mut end) = (String::new(), None);
    loop {
        let len = usize::from(bytes[at]);
        if len & 0xc0 == 0xc0 {
            end = end.or(Some(at + 2));
            at = (len & 0x3f) << 8 | usize::from(bytes[at + 1]);
            continue;
        }
        at += 1;
        if len == 0 {
            return (text, end.unwrap_or(at));
        }
        text += &String::from_utf8_lossy(&bytes[at..at + len]);
        text.push('.');
        at += len;
    }
}

//! What holder and base say to each other, as bytes.
//!
//! # Theory of operation
//! One SOCK_SEQPACKET socket, one message per packet: a kind in the first octet, then fixed fields,
//! little endian, then text if there is any. Descriptors ride beside the message (SCM_RIGHTS).
//!
//! ```text
//! base -> holder    1 keep KEY (+1 fd)   2 forget KEY   3 forget all PREFIX
//!                   4 ready              5 beat         6 stop me        7 settled PID
//! holder -> base   64 hello              65 piece (+fds, a key for each, at most 253)
//!                  66 reaped PID STATUS  67 complete    68 stop          69 stop now
//!                  70 not kept KEY
//! ```
//! A starting base is told hello, the pieces, the statuses of VM processes that its predecessor did
//! not settle, complete: in this order, before anything else.
//!
//! # Invariants
//! - `decode` takes any bytes and never panics; what it accepts, `encode` writes back the same.
//! - No message is longer than [`MAX_MESSAGE`].

use datapath::keeper::MAX_KEY;

/// Descriptors in one message: the kernel's SCM_MAX_FD.
pub const MAX_DESCRIPTORS: usize = 253;
/// Octets of the longest message: a piece with the longest keys.
pub const MAX_MESSAGE: usize = 2 + MAX_DESCRIPTORS * (1 + MAX_KEY);

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The message ends within a field, or goes on after its last.
    #[error("message of kind {kind} with {len} octets")]
    Length {
        /// Its first octet.
        kind: u8,
        /// Its length.
        len: usize,
    },
    /// An empty message, or a kind nobody knows.
    #[error("message of unknown kind {0}")]
    Kind(u8),
    /// A key that is empty, too long or not text.
    #[error("key of {0} octets: need 1 to {MAX_KEY} octets of text")]
    Key(usize),
    /// A value that its field does not allow.
    #[error("field value {0} out of range")]
    Value(u32),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with status {code}"),
            Self::Signaled(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// Why the base before this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It ended.
    Ended(Ended),
    /// It fell silent, so the holder killed it.
    Silent,
}

impl Death {
    /// Whether the base brought it on itself: a fatal signal it raised, a status, silence. A
    /// SIGKILL or SIGTERM from outside is not its making.
    pub fn own_making(self) -> bool {
        use rustix::process::Signal;
        let outside = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
        match self {
            Self::Silent | Self::Ended(Ended::Exited(_)) => true,
            Self::Ended(Ended::Signaled(s)) => !outside.iter().any(|o| o.as_raw() == s),
        }
    }
}

/// From the base to the holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHolder {
    /// Keep the descriptor beside this message under this key.
    Keep(String),
    /// Let go of this key.
    Forget(String),
    /// Let go of all keys that start so.
    ForgetAll(String),
    /// The base serves: what it takes from here on is a running instance.
    Ready,
    /// The base is alive.
    Beat,
    /// Treat me as if you had been told to end.
    Stop,
    /// What follows from the end of this process is done: no successor needs to hear of it.
    Settled(u32),
}

/// First words to a starting base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Bases before this one.
    pub generation: u32,
    /// What happened to the last of them.
    pub predecessor: Option<Death>,
    /// Descriptors that follow.
    pub descriptors: u32,
    /// Process of the holder.
    pub holder: u32,
    /// Seconds since the first base was started.
    pub seconds: u64,
}

/// From the holder to the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToBase {
    /// First message.
    Hello(Hello),
    /// Keys of the descriptors beside this message, in their order.
    Piece(Vec<String>),
    /// A process that the holder inherited ended.
    Reaped {
        /// Which.
        pid: u32,
        /// How.
        ended: Ended,
    },
    /// All is handed over.
    Complete,
    /// End in order.
    Stop,
    /// End in order, but kill the VMs at once.
    StopNow,
    /// The descriptor for this key did not arrive (the holder has too many open).
    NotKept(String),
}

impl ToHolder {
    /// The message as bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        Ok(match self {
            Self::Keep(key) => with_text(1, check_key(key)?),
            Self::Forget(key) => with_text(2, check_key(key)?),
            Self::ForgetAll(prefix) => with_text(3, check_prefix(prefix)?),
            Self::Ready => vec![4],
            Self::Beat => vec![5],
            Self::Stop => vec![6],
            Self::Settled(pid) => with_bytes(7, &[&pid.to_le_bytes()]),
        })
    }

    /// The message in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::of(bytes)?;
        let message = match fields.kind {
            1 => Self::Keep(fields.key()?),
            2 => Self::Forget(fields.key()?),
            3 => Self::ForgetAll(fields.prefix()?),
            4 => Self::Ready,
            5 => Self::Beat,
            6 => Self::Stop,
            7 => Self::Settled(fields.u32()?),
            kind => return Err(ProtocolError::Kind(kind)),
        };
        fields.end(message)
    }
}

impl ToBase {
    /// The message as bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        Ok(match self {
            Self::Hello(hello) => with_bytes(
                64,
                &[
                    &hello.generation.to_le_bytes(),
                    &encode_death(hello.predecessor),
                    &hello.descriptors.to_le_bytes(),
                    &hello.holder.to_le_bytes(),
                    &hello.seconds.to_le_bytes(),
                ],
            ),
            Self::Piece(keys) => {
                let count = u8::try_from(keys.len()).ok();
                let count = count.filter(|&c| usize::from(c) <= MAX_DESCRIPTORS);
                let mut bytes = vec![65, count.ok_or(ProtocolError::Value(keys.len() as u32))?];
                for key in keys {
                    bytes.push(check_key(key)?.len() as u8);
                    bytes.extend_from_slice(key.as_bytes());
                }
                bytes
            }
            Self::Reaped { pid, ended } => {
                with_bytes(66, &[&pid.to_le_bytes(), &encode_death(Some(Death::Ended(*ended)))])
            }
            Self::Complete => vec![67],
            Self::Stop => vec![68],
            Self::StopNow => vec![69],
            Self::NotKept(key) => with_text(70, check_key(key)?),
        })
    }

    /// The message in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::of(bytes)?;
        let message = match fields.kind {
            64 => Self::Hello(Hello {
                generation: fields.u32()?,
                predecessor: fields.death()?,
                descriptors: fields.u32()?,
                holder: fields.u32()?,
                seconds: u64::from_le_bytes(*fields.take()?),
            }),
            65 => {
                let [count] = *fields.take()?;
                if usize::from(count) > MAX_DESCRIPTORS {
                    return Err(ProtocolError::Value(count.into()));
                }
                Self::Piece((0..count).map(|_| fields.counted_key()).collect::<Result<_, _>>()?)
            }
            66 => Self::Reaped {
                pid: fields.u32()?,
                ended: match fields.death()? {
                    Some(Death::Ended(ended)) => ended,
                    _ => return Err(ProtocolError::Value(0)),
                },
            },
            67 => Self::Complete,
            68 => Self::Stop,
            69 => Self::StopNow,
            70 => Self::NotKept(fields.key()?),
            kind => return Err(ProtocolError::Kind(kind)),
        };
        fields.end(message)
    }
}

fn with_text(kind: u8, text: &str) -> Vec<u8> {
    with_bytes(kind, &[text.as_bytes()])
}

fn with_bytes(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind];
    fields.iter().for_each(|f| bytes.extend_from_slice(f));
    bytes
}

fn check_key(key: &str) -> Result<&str, ProtocolError> {
    if key.is_empty() { Err(ProtocolError::Key(0)) } else { check_prefix(key) }
}

fn check_prefix(prefix: &str) -> Result<&str, ProtocolError> {
    if prefix.len() <= MAX_KEY { Ok(prefix) } else { Err(ProtocolError::Key(prefix.len())) }
}

fn encode_death(death: Option<Death>) -> [u8; 5] {
    let (kind, value) = match death {
        None => (0, 0),
        Some(Death::Ended(Ended::Exited(code))) => (1, code),
        Some(Death::Ended(Ended::Signaled(signal))) => (2, signal),
        Some(Death::Silent) => (3, 0),
    };
    let [a, b, c, d] = value.to_le_bytes();
    [kind, a, b, c, d]
}

/// What is left of a message that is being read.
struct Fields<'a> {
    kind: u8,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let (&kind, rest) = bytes.split_first().ok_or(ProtocolError::Kind(0))?;
        Ok(Self { kind, len: bytes.len(), rest })
    }

    fn length_error(&self) -> ProtocolError {
        ProtocolError::Length { kind: self.kind, len: self.len }
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], ProtocolError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or_else(|| self.length_error())?;
        self.rest = rest;
        Ok(field)
    }

    fn u32(&mut self) -> Result<u32, ProtocolError> {
        Ok(u32::from_le_bytes(*self.take()?))
    }

    fn death(&mut self) -> Result<Option<Death>, ProtocolError> {
        let [kind, value @ ..] = *self.take::<5>()?;
        match (kind, i32::from_le_bytes(value)) {
            (0, 0) => Ok(None),
            (1, code) => Ok(Some(Death::Ended(Ended::Exited(code)))),
            (2, signal) => Ok(Some(Death::Ended(Ended::Signaled(signal)))),
            (3, 0) => Ok(Some(Death::Silent)),
            _ => Err(ProtocolError::Value(kind.into())),
        }
    }

    fn prefix(&mut self) -> Result<String, ProtocolError> {
        let text = std::mem::take(&mut self.rest);
        let text = str::from_utf8(text).map_err(|_| ProtocolError::Key(text.len()))?;
        check_prefix(text).map(str::to_owned)
    }

    fn key(&mut self) -> Result<String, ProtocolError> {
        let key = self.prefix()?;
        check_key(&key)?;
        Ok(key)
    }

    fn counted_key(&mut self) -> Result<String, ProtocolError> {
        let [len] = *self.take()?;
        let (key, rest) =
            self.rest.split_at_checked(len.into()).ok_or_else(|| self.length_error())?;
        self.rest = key;
        let key = self.key()?;
        self.rest = rest;
        Ok(key)
    }

    fn end<T>(self, message: T) -> Result<T, ProtocolError> {
        if self.rest.is_empty() { Ok(message) } else { Err(self.length_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = String> {
        "[a-z0-9/._-]{1,120}"
    }

    fn ended() -> impl Strategy<Value = Ended> {
        prop_oneof![any::<i32>().prop_map(Ended::Exited), any::<i32>().prop_map(Ended::Signaled)]
    }

    fn to_holder() -> impl Strategy<Value = ToHolder> {
        prop_oneof![
            key().prop_map(ToHolder::Keep),
            key().prop_map(ToHolder::Forget),
            "[a-z/]{0,120}".prop_map(ToHolder::ForgetAll),
            Just(ToHolder::Ready),
            Just(ToHolder::Beat),
            Just(ToHolder::Stop),
            any::<u32>().prop_map(ToHolder::Settled),
        ]
    }

    fn to_base() -> impl Strategy<Value = ToBase> {
        let death = prop_oneof![
            Just(None),
            ended().prop_map(|e| Some(Death::Ended(e))),
            Just(Some(Death::Silent)),
        ];
        let hello = (any::<u32>(), death, any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
            |(generation, predecessor, descriptors, holder, seconds)| {
                ToBase::Hello(Hello { generation, predecessor, descriptors, holder, seconds })
            },
        );
        prop_oneof![
            hello,
            prop::collection::vec(key(), 0..=MAX_DESCRIPTORS).prop_map(ToBase::Piece),
            (any::<u32>(), ended()).prop_map(|(pid, ended)| ToBase::Reaped { pid, ended }),
            Just(ToBase::Complete),
            Just(ToBase::Stop),
            Just(ToBase::StopNow),
            key().prop_map(ToBase::NotKept),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_message_comes_back_the_same(a in to_holder(), b in to_base()) {
            let bytes = b.encode().unwrap();
            prop_assert!(bytes.len() <= MAX_MESSAGE);
            prop_assert_eq!(ToBase::decode(&bytes), Ok(b));
            prop_assert_eq!(ToHolder::decode(&a.encode().unwrap()), Ok(a));
        }

        #[test]
        fn a_mutated_message_is_refused_or_means_what_its_bytes_say(
            message in to_base(),
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = message.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(other) = ToBase::decode(&bytes) {
                prop_assert_eq!(other.encode().unwrap(), bytes.clone());
            }
            if let Ok(other) = ToHolder::decode(&bytes) {
                prop_assert_eq!(other.encode().unwrap(), bytes.clone());
            }
            bytes.truncate(cut.index(bytes.len()));
            let _ = ToBase::decode(&bytes);
            let _ = ToHolder::decode(&bytes);
        }
    }

    #[test]
    fn the_longest_piece_fits_and_a_longer_one_is_refused() {
        let keys = vec!["k".repeat(MAX_KEY); MAX_DESCRIPTORS];
        assert_eq!(ToBase::Piece(keys).encode().unwrap().len(), MAX_MESSAGE);
        let keys = vec!["k".to_owned(); MAX_DESCRIPTORS + 1];
        assert_eq!(ToBase::Piece(keys).encode(), Err(ProtocolError::Value(254)));
        let long = ToHolder::Keep("k".repeat(MAX_KEY + 1));
        assert_eq!(long.encode(), Err(ProtocolError::Key(MAX_KEY + 1)));
    }

    #[test]
    fn a_kill_from_outside_is_not_the_bases_own_making() {
        let signaled = |s| Death::Ended(Ended::Signaled(s));
        assert!(!signaled(9).own_making());
        assert!(!signaled(15).own_making());
        assert!(signaled(11).own_making());
        assert!(signaled(6).own_making());
        assert!(Death::Silent.own_making());
    }
}

//! What holder and base say to each other, as bytes.
//!
//! # Theory of operation
//! One SOCK_SEQPACKET socket, one message per packet: a kind in the first octet, then fixed fields,
//! little endian, then text if there is any. Descriptors ride beside the message (SCM_RIGHTS).
//!
//! ```text
//! base -> holder    1 keep KEY (+1 fd)   2 forget KEY   3 forget all PREFIX
//!                   4 ready              5 beat         6 stop me        7 settled PID
//!                   8 switch LAYOUT WORDS (+1 fd)       9 prepared LAYOUTS
//!                  10 cannot TEXT       11 yielded TIME                 12 inherit WORDS (+1 fd)
//! holder -> base   64 hello              65 piece (+fds, a key for each, at most 253)
//!                  66 reaped PID STATUS  67 complete    68 stop          69 stop now
//!                  70 not kept KEY       71 prepare     72 yield         73 not switched TEXT
//!                  74 heir PID
//! ```
//! A starting base is told hello, the pieces, the statuses of VM processes that its predecessor did
//! not settle, complete: in this order, before anything else. One that is to take over from a base
//! that still serves is told prepare, pieces and complete before all that: what is kept at that
//! moment, to look at.
//!
//! Holder and base may be of different versions: a kind, once given, keeps its meaning and its
//! fields, and what nobody understands is passed over.
//!
//! # Invariants
//! - `decode` takes any bytes and never panics; what it accepts, `encode` writes back the same.
//! - No message is longer than [`MAX_MESSAGE`].

use std::ffi::OsString;

use datapath::keeper::MAX_KEY;

use super::fields::{
    Fields, check_key, check_prefix, clipped, encode_death, encode_words, with_bytes, with_text,
};

/// Descriptors in one message: the kernel's SCM_MAX_FD.
pub const MAX_DESCRIPTORS: usize = 253;
/// Octets of the longest message: a piece with the longest keys.
pub const MAX_MESSAGE: usize = 2 + MAX_DESCRIPTORS * (1 + MAX_KEY);
/// Words of a release, at most.
pub const MAX_WORDS: usize = 16;
/// Octets of all of them together: two paths fit.
pub const MAX_WORDS_LEN: usize = 16 << 10;
/// Octets of a text for people; a longer one is cut.
pub const MAX_TEXT: usize = 8 << 10;

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
    /// A text that is too long, or no text.
    #[error("text of {0} octets: need at most {MAX_TEXT} octets of text")]
    Text(usize),
    /// Words that are too many or too long.
    #[error("the words of a release: at most {MAX_WORDS} of {MAX_WORDS_LEN} octets together")]
    Words,
    /// A value that its field does not allow.
    #[error("field value {0} out of range")]
    Value(u32),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal; 0 if nobody saw how.
    Signaled(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with status {code}"),
            Self::Signaled(0) => write!(f, "ended, and nobody saw how"),
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
            Self::Ended(Ended::Signaled(s)) => s != 0 && !outside.iter().any(|o| o.as_raw() == s),
        }
    }
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent => write!(f, "had fallen silent and was killed"),
            Self::Ended(ended) => ended.fmt(f),
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
    /// Start the next base of these words beside me, of the program beside this message if there is
    /// one, else of the program that I am; when it is prepared, tell me to yield.
    Switch {
        /// The layout of the state memory that it has to read.
        layout: u32,
        /// What it is told on its command line.
        words: Vec<OsString>,
    },
    /// Everything that can be done beside a base that serves is done.
    Prepared {
        /// The oldest layout of the state memory that this base reads.
        oldest: u32,
        /// The newest.
        newest: u32,
    },
    /// This base cannot take over, for this reason.
    Cannot(String),
    /// This base rests: it touches nothing any more, and ends.
    Yielded {
        /// Since when nobody serves: nanoseconds of the monotonic clock.
        at: u64,
    },
    /// To a holder that takes the place of one that died: what it must know of the base that
    /// speaks, whose program is beside this message.
    Inherit {
        /// Bases so far, this one counted.
        generation: u32,
        /// Seconds since the first was started.
        seconds: u64,
        /// What it was told on its command line.
        words: Vec<OsString>,
    },
}

/// How it came to a base that takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    /// It is the instance's first.
    #[default]
    First,
    /// Its predecessor died.
    Death,
    /// Its predecessor yielded to it.
    Switch,
    /// Its predecessor was of a newer release that did not work: this is the last good one.
    Back,
}

/// First words to a starting base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// How it came to this base.
    pub arrival: Arrival,
    /// Since when nobody serves, if the predecessor yielded: nanoseconds of the monotonic clock.
    pub rest_at: u64,
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
    /// First message to a base that is to take over from one that still serves: prepare, say so,
    /// and wait for the rest.
    Prepare,
    /// The next base is prepared: come to rest, and say so.
    Yield,
    /// Go on: the next base does not take over, for this reason.
    NotSwitched(String),
    /// I, this process, have the lock: give me everything, as the holder before me had it.
    Heir(u32),
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
            Self::Switch { layout, words } => {
                with_bytes(8, &[&layout.to_le_bytes(), &encode_words(words)?])
            }
            Self::Prepared { oldest, newest } => {
                with_bytes(9, &[&oldest.to_le_bytes(), &newest.to_le_bytes()])
            }
            Self::Cannot(text) => with_text(10, clipped(text)),
            Self::Yielded { at } => with_bytes(11, &[&at.to_le_bytes()]),
            Self::Inherit { generation, seconds, words } => with_bytes(
                12,
                &[&generation.to_le_bytes(), &seconds.to_le_bytes(), &encode_words(words)?],
            ),
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
            8 => Self::Switch { layout: fields.u32()?, words: fields.words()? },
            9 => Self::Prepared { oldest: fields.u32()?, newest: fields.u32()? },
            10 => Self::Cannot(fields.text()?),
            11 => Self::Yielded { at: fields.u64()? },
            12 => Self::Inherit {
                generation: fields.u32()?,
                seconds: fields.u64()?,
                words: fields.words()?,
            },
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
                    &[hello.arrival as u8],
                    &hello.rest_at.to_le_bytes(),
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
            Self::Prepare => vec![71],
            Self::Yield => vec![72],
            Self::NotSwitched(text) => with_text(73, clipped(text)),
            Self::Heir(pid) => with_bytes(74, &[&pid.to_le_bytes()]),
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
                seconds: fields.u64()?,
                arrival: fields.arrival()?,
                rest_at: fields.u64()?,
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
            71 => Self::Prepare,
            72 => Self::Yield,
            73 => Self::NotSwitched(fields.text()?),
            74 => Self::Heir(fields.u32()?),
            kind => return Err(ProtocolError::Kind(kind)),
        };
        fields.end(message)
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
            (any::<u32>(), words()).prop_map(|(layout, words)| ToHolder::Switch { layout, words }),
            (any::<u32>(), any::<u32>())
                .prop_map(|(oldest, newest)| ToHolder::Prepared { oldest, newest }),
            ".{0,200}".prop_map(ToHolder::Cannot),
            any::<u64>().prop_map(|at| ToHolder::Yielded { at }),
            (any::<u32>(), any::<u64>(), words()).prop_map(|(generation, seconds, words)| {
                ToHolder::Inherit { generation, seconds, words }
            }),
        ]
    }

    fn words() -> impl Strategy<Value = Vec<OsString>> {
        prop::collection::vec(".{0,200}".prop_map(OsString::from), 0..=MAX_WORDS)
    }

    fn to_base() -> impl Strategy<Value = ToBase> {
        let death = prop_oneof![
            Just(None),
            ended().prop_map(|e| Some(Death::Ended(e))),
            Just(Some(Death::Silent)),
        ];
        let arrival = prop_oneof![
            Just(Arrival::First),
            Just(Arrival::Death),
            Just(Arrival::Switch),
            Just(Arrival::Back),
        ];
        let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>());
        let hello = (numbers, death, arrival).prop_map(|(numbers, predecessor, arrival)| {
            let (generation, descriptors, holder, seconds, rest_at) = numbers;
            ToBase::Hello(Hello {
                generation,
                predecessor,
                descriptors,
                holder,
                seconds,
                arrival,
                rest_at,
            })
        });
        prop_oneof![
            hello,
            prop::collection::vec(key(), 0..=MAX_DESCRIPTORS).prop_map(ToBase::Piece),
            (any::<u32>(), ended()).prop_map(|(pid, ended)| ToBase::Reaped { pid, ended }),
            Just(ToBase::Complete),
            Just(ToBase::Stop),
            Just(ToBase::StopNow),
            key().prop_map(ToBase::NotKept),
            Just(ToBase::Prepare),
            Just(ToBase::Yield),
            ".{0,200}".prop_map(ToBase::NotSwitched),
            any::<u32>().prop_map(ToBase::Heir),
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
    fn words_that_are_too_many_or_too_long_are_refused_and_a_long_text_is_cut() {
        let switch = |words| ToHolder::Switch { layout: 1, words }.encode();
        assert_eq!(switch(vec!["x".into(); MAX_WORDS + 1]), Err(ProtocolError::Words));
        assert_eq!(switch(vec!["x".repeat(MAX_WORDS_LEN).into()]), Err(ProtocolError::Words));
        let text = format!("x{}", "ü".repeat(MAX_TEXT));
        let bytes = ToHolder::Cannot(text).encode().unwrap();
        assert!(bytes.len() <= MAX_MESSAGE);
        match ToHolder::decode(&bytes).unwrap() {
            ToHolder::Cannot(text) => assert_eq!(text.len(), MAX_TEXT - 1),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_kill_from_outside_is_not_the_bases_own_making() {
        let signaled = |s| Death::Ended(Ended::Signaled(s));
        assert!(!signaled(9).own_making());
        assert!(!signaled(15).own_making());
        assert!(signaled(11).own_making());
        assert!(signaled(6).own_making());
        assert!(!signaled(0).own_making(), "nobody saw how");
        assert!(Death::Silent.own_making());
    }
}

//! Why a request is refused, a connection ended, or a predecessor's connection not taken over.

use std::fmt;

use rustix::io::Errno;
use vhost::vhost_user::message::FrontendReq;
use virtqueue::{MappingError, MemoryError};

/// The number of a request, shown by its name in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCode(pub u32);

impl RequestCode {
    /// Stands in the request mark while a front end is being attached: not a request's number.
    pub const ATTACH: Self = Self(0);
}

impl From<FrontendReq> for RequestCode {
    fn from(request: FrontendReq) -> Self {
        Self(request.into())
    }
}

impl fmt::Display for RequestCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, FrontendReq::try_from(self.0)) {
            (&Self::ATTACH, _) => f.write_str("attachment"),
            (_, Ok(request)) => write!(f, "{request:?}"),
            (_, Err(_)) => write!(f, "request {}", self.0),
        }
    }
}

/// Why a request was not carried out. It changed nothing, but for [`Refusal::RingOutside`].
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not a request that the base knows, or one of a feature it does not offer.
    #[error("not served")]
    NotServed,
    /// The body is shorter than this request's.
    #[error("body of {have} octets, need {need}")]
    Truncated {
        /// Octets there are.
        have: usize,
        /// Octets there should be.
        need: usize,
    },
    /// Descriptors are missing, or there are some that nobody asked for.
    #[error("{have} descriptors, need {need}")]
    Descriptors {
        /// Descriptors that came.
        have: usize,
        /// Descriptors that should have come.
        need: usize,
    },
    /// There is no such ring.
    #[error("no ring {queue}: this port has {pairs} queue pairs, of two rings each")]
    RingIndex {
        /// The number asked for.
        queue: u32,
        /// Queue pairs there are: at least one.
        pairs: usize,
    },
    /// A ring cannot have that many descriptors.
    #[error(
        "ring of {size} descriptors: need a power of two (of a packed ring, any) from 1 to 32768"
    )]
    RingSize {
        /// The size asked for.
        size: u32,
    },
    /// A ring cannot start there.
    #[error("ring part at {address:#x} is not aligned to {alignment}")]
    RingAlignment {
        /// The address asked for.
        address: u64,
        /// What it has to be a multiple of.
        alignment: u64,
    },
    /// Used entries were to be logged, which is not offered.
    #[error("ring with a log of used entries, which is not offered")]
    RingLog,
    /// What makes a ring complete came, and yet the ring cannot start.
    #[error("the ring cannot start: {part} at {address:#x} is outside the shared memory")]
    RingOutside {
        /// Which part.
        part: &'static str,
        /// Its address, as the front end sees it.
        address: u64,
    },
    /// Features that were not offered.
    #[error("features {asked:#x}: {extra:#x} of them were not offered")]
    Features {
        /// All features acknowledged.
        asked: u64,
        /// Those that were not offered.
        extra: u64,
    },
    /// The descriptor is no eventfd, so writing it could block the base.
    #[error("the descriptor is not an eventfd")]
    NotEventFd,
    /// A descriptor could not be examined.
    #[error("the descriptor cannot be examined")]
    Descriptor(#[source] Errno),
    /// More memory regions than there are slots.
    #[error("{asked} memory regions, at most {limit} are served")]
    TooManyRegions {
        /// Regions there would be.
        asked: usize,
        /// Regions there can be.
        limit: usize,
    },
    /// A memory region cannot be used.
    #[error("memory region at guest address {guest:#x}")]
    Region {
        /// Where the guest sees it.
        guest: u64,
        /// What is wrong with it.
        #[source]
        why: RegionError,
    },
    /// The memory regions contradict each other.
    #[error("memory regions")]
    Memory(#[from] MemoryError),
    /// There is no such memory region to take away.
    #[error("no memory region at guest address {guest:#x} of {len:#x} octets")]
    NoSuchRegion {
        /// Guest address asked for.
        guest: u64,
        /// Octets asked for.
        len: u64,
    },
}

impl Refusal {
    /// Whether a front end that is not told of the refusal would build on something that is not
    /// there. A request that was never served, or concerns a ring that does not exist, is missed
    /// by nobody.
    pub fn misleads(&self) -> bool {
        !matches!(
            self,
            Self::NotServed
                | Self::RingIndex { .. }
                | Self::NoSuchRegion { .. }
                | Self::RingOutside { .. }
        )
    }
}

/// What is wrong with one memory region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Not an ordinary file of a memory or disk file system of this machine: touching such a
    /// mapping could block the base for as long as its owner likes.
    #[error("its file is of a kind that can block whoever touches it ({kind})")]
    Kind {
        /// What it is.
        kind: &'static str,
    },
    /// The kernel would not say what the file is.
    #[error("its file cannot be examined")]
    Examine(#[source] Errno),
    /// It could not be mapped.
    #[error(transparent)]
    Map(#[from] MappingError),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Farewell {
    /// The front end hung up.
    #[error("the front end hung up")]
    HungUp,
    /// The base shut it because it was asked to.
    #[error("asked for by the operator")]
    Asked,
    /// The message is not of the protocol's version 1.
    #[error("message with flags {flags:#x}: not a request of protocol version 1")]
    Flags {
        /// The header's flags.
        flags: u32,
    },
    /// The message is longer than any that the base takes.
    #[error("message with a body of {size} octets, at most {limit} are taken")]
    Oversize {
        /// Octets announced.
        size: u32,
        /// Octets taken.
        limit: usize,
    },
    /// The message's first octets came in pieces with descriptors between them.
    #[error("a message's header came in pieces")]
    HeaderTorn,
    /// More descriptors came than any request has, or the process may not have more.
    #[error("a message's descriptors were cut short: too many, or the limit of open files reached")]
    DescriptorsCut,
    /// The front end asks and does not read the answers.
    #[error("the front end does not read its replies")]
    Deaf,
    /// A request was refused, and the front end did not ask to be told.
    #[error("{request} refused without a way to say so")]
    Refused {
        /// Which request.
        request: RequestCode,
        /// Why.
        #[source]
        why: Refusal,
    },
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] Errno),
}

fn in_a_row(times: u64) -> String {
    if times == 0 { String::new() } else { format!(", of its own making ({times} in a row)") }
}

/// Why a predecessor's connection was shut and not taken over.
#[derive(Debug, thiserror::Error)]
pub enum Renegotiate {
    /// The predecessor died in the middle of a request.
    #[error("the base died while it carried out {request}{}", in_a_row(*.times))]
    RequestOpen {
        /// Which request.
        request: RequestCode,
        /// How often in a row of its own making; nought if it was killed from outside.
        times: u64,
    },
    /// Predecessors died of taking it over.
    #[error("the base died {times} times in a row while it took it over")]
    Deadly {
        /// How often.
        times: u32,
    },
    /// A descriptor that the record implies was not kept.
    #[error("{key} was not kept")]
    NotKept {
        /// Its key.
        key: String,
    },
    /// The record, or a part of it that would be needed, was damaged.
    #[error("{0} in the state memory was damaged")]
    Damaged(&'static str),
    /// There is a connection and nothing that says what was negotiated.
    #[error("its record in the state memory is lost")]
    NoRecord,
    /// What the record says cannot be.
    #[error("the record contradicts itself: {0}")]
    Record(&'static str),
    /// What was kept does not pass the checks that a request has to pass.
    #[error("what was kept is not what was checked")]
    Refused(#[from] Refusal),
    /// The connection could not be watched.
    #[error("the connection failed")]
    Socket(#[source] Errno),
}

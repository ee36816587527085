//! The resolver: a process without privileges that answers the guests' DNS.
//!
//! # Why it exists
//! The base answers DNS at its last-inch addresses. But DNS is names within names, written at length by
//! guests and by servers outside, and TCP has state for each connection: none of that belongs in the
//! process that has all memories and cards. So the base starts this one, hands it the datagrams, looks at
//! each that comes back, and starts another if it ends or says nothing.
//!
//! # Theory of operation
//! ```text
//!  base: worker n ══ datagrams, each behind its port's tag ══╗
//!  base: main     ── settings (a memfd), beats ────────── serve ── sockets to servers outside
//!                                                            ║
//!            carry (UDP), stacks (TCP) ── question ──> answering ── names
//!                                                            └──── inquiries ── cache
//! ```
//! `confine` takes everything away that is not needed, once the sockets are there and before a word of
//! anybody else's is read. From then on there is one loop (`serve`), which waits for nobody. What decides
//! has neither sockets nor a clock, and says what is to be done as [`Act`]s.
//!
//! It ends when the base closes its socket, or dies. It keeps nothing: another begins with an empty cache.
//!
//! # Invariants
//! - The base never waits for it, and believes nothing that it says.
//! - What it keeps is bounded: answers by octets, inquiries and connections by number.

pub mod answering;
mod cache;
mod carry;
mod confine;
mod control;
mod inquiries;
mod message;
mod names;
mod outside;
mod serve;
mod settings;
mod stacks;
#[cfg(test)]
mod tests;
mod wire;

use std::net::{IpAddr, SocketAddr};

use datapath::resolver::Tag;

pub use control::{Told, Word, tell};
pub use serve::run;
pub use settings::{Network, Settings};

use message::{Answer, Question};
use stacks::Connection;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// From which port.
    pub tag: Tag,
    /// How the answer goes back.
    pub back: Back,
}

/// How an answer goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// In one datagram.
    Udp {
        /// To whom.
        to: SocketAddr,
        /// The base's address that was asked.
        from: IpAddr,
        /// Octets that fit one.
        most: usize,
    },
    /// By a connection.
    Tcp(Connection),
}

/// An attempt to ask a server outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In one datagram each way.
    Udp,
    /// By a connection.
    Tcp,
}

/// Something to be done.
#[derive(Debug)]
pub enum Act {
    /// Tell an asker.
    Answer {
        /// Whom.
        asker: Asker,
        /// What.
        message: Vec<u8>,
    },
    /// Ask a server.
    Ask {
        /// Under which its answer is handed in.
        ticket: Ticket,
        /// Whom.
        server: SocketAddr,
        /// How.
        carrier: Carrier,
        /// What.
        message: Vec<u8>,
    },
    /// An attempt is over.
    Close(Ticket),
}

impl Act {
    fn answer(asker: &Asker, question: &Question, answer: &Answer) -> Self {
        let most = match asker.back {
            Back::Udp { most, .. } => most.min(question.payload().into()),
            Back::Tcp(_) => u16::MAX.into(),
        };
        Self::Answer { asker: asker.clone(), message: question.write(answer, most) }
    }
}

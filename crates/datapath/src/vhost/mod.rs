//! How front ends bring their rings: the back end's side of vhost-user, for all ports.
//!
//! # Theory of operation
//! A *front end* (QEMU, Cloud Hypervisor, DPDK's virtio-user, our own engine) has a guest or
//! program with a virtio network card. Over a Unix socket it negotiates features, shares the
//! guest's memory, and says where the rings lie and by which descriptors to wake each other. From
//! then on the worker moves datagrams through the rings, and the socket is silent.
//!
//! ```text
//! front end --socket--> door ---> entry ---> connection ---> wire      octets -> message
//!                     listen or   one per    one message --> message   message -> request
//!                     connect     port       at a time   --> negotiation
//!                                                             |  record in the state memory
//!                                                             |  descriptors -> keeper
//!                                                             '- complete rings -> RingOwner
//! dispatcher: the thread and its epoll instance, for all ports
//! adopt:      record + kept descriptors -> the negotiation that a predecessor had
//! ```
//!
//! # Invariants
//! - No front end can hold up another: nothing is read before it is there whole, nothing is sent
//!   that does not fit, each has its turn.
//! - No front end can have all workers rest for it more often than so much (`pace`).
//! - No front end can make the base say more than so much (see [`crate::budget`]); what is, rather than what
//!   happened, stands in the record.
//! - Nothing a front end sends makes the base panic, map more than was shared, or believe an index.
//! - The process holds no state of a negotiation that a successor could not rebuild.
//!
//! # Limits
//! One queue pair, split rings, no live migration (no logging of written memory).

mod adopt;
mod bell;
mod connection;
mod dispatcher;
mod door;
mod entry;
mod event;
pub mod features;
mod keys;
mod memory_table;
mod message;
mod negotiation;
mod owner;
mod pace;
mod place;
mod refusal;
mod strange;
mod surroundings;
#[cfg(test)]
mod tests;
mod token;
mod wire;

pub use crate::names::Side;
pub use adopt::{Kept, dismiss};
pub use dispatcher::{Dispatcher, DispatcherHandle};
pub use door::{DoorError, PortDoor, Socket};
pub use event::{EventSink, PortEvent};
pub use owner::{Ring, RingOwner};
pub use refusal::{Farewell, Refusal, RegionError, Renegotiate, RequestCode};

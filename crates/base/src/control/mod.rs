//! How people and programs talk to a running instance.
//!
//! # Theory of operation
//! A Unix stream socket, `control.sock` in the state directory. One JSON object per line, a request
//! from the client, a reply from the base. Only `events` with `follow` has more than one reply
//! line: one per event, until either side closes.
//!
//! ```text
//! ipvisor ps -> client -> control.sock -> server -> Call (channel) -> the base's main loop
//!                                            ^                              |
//!                                            '---------- Reply <------------'
//! ```
//! The server knows no VM: it turns each request into a [`Call`] with a typed place for the answer.
//! Events are the exception: they lie in an [`EventLog`] that the server reads by itself, so that a
//! long watch costs the main loop nothing.
//!
//! # Invariants
//! - A line longer than [`MAX_LINE`] ends the connection, not the base.
//! - Every refusal says what was wrong and, where there is one, what to do instead.
//! - The socket's file is made with mode 0600 before anybody can connect.

mod change;
mod client;
mod events;
mod server;
mod types;
mod wire;

pub use change::{Change, ChangeKind, InTheWay, KeyChange};
pub use client::{Client, ClientError, EventStream};
pub use events::{EventLog, KEPT_EVENTS};
pub use server::{Answer, Call, listen, serve};
pub use types::*;
pub use wire::{MAX_LINE, WireError};

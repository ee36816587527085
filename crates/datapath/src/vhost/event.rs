//! What the dispatcher tells the base about its ports.

use std::io;

use super::refusal::{Farewell, Refusal, Renegotiate, RequestCode};
use crate::names::{PortId, RingId};

/// Something that happened at a port's door. News only: a front end that raises events without end
/// is not told in full, and how things stand is to be read from the port's record.
#[derive(Debug)]
#[non_exhaustive]
pub enum PortEvent {
    /// A front end came.
    Attached,
    /// It went, or was shut out. Its rings are stopped.
    Detached {
        /// Why.
        why: Farewell,
    },
    /// A second front end came while the first was alive, and was turned away. Said once while
    /// the first stays.
    NewcomerRefused,
    /// The front end acknowledged virtio features.
    Negotiated {
        /// Their bits.
        features: u64,
    },
    /// The worker has a ring.
    Started {
        /// Which.
        ring: RingId,
        /// Its descriptors.
        size: u16,
        /// Whether it has to be polled.
        polled: bool,
    },
    /// The worker gave a ring back.
    Stopped {
        /// Which.
        ring: RingId,
    },
    /// A request was refused.
    Refused {
        /// Which request.
        request: RequestCode,
        /// Why.
        why: Refusal,
    },
    /// A predecessor's front end was taken over; it noticed nothing.
    Adopted,
    /// A predecessor's front end was shut out and has to negotiate anew.
    Renegotiate {
        /// Why.
        why: Renegotiate,
    },
    /// The keeper would not keep or forget a descriptor: a successor may not be able to take this
    /// front end over.
    NotKept {
        /// Its key.
        key: String,
        /// The keeper's answer.
        source: io::Error,
    },
    /// More happened at this port than is told one by one.
    Untold {
        /// Events that were not told.
        events: u64,
    },
    /// No front end can be accepted for now; the base tries again.
    AcceptFailed {
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where events go. Called in the dispatcher's thread: it must neither block nor wait for the
/// dispatcher.
pub type EventSink = Box<dyn Fn(PortId, PortEvent) + Send>;

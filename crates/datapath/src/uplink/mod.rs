//! The ways out of the machine: the network adapter card, and the host's own stack.
//!
//! # Theory of operation
//! ```text
//!            LAN                                      host's stack
//!             |                                         |      |
//!        adapter card                                 routes   |
//!             |                                         |      |
//!     +-------+--------- tc ingress: Guard --------------------+     a VM's datagram stops here,
//!     | socket filter: Guard                            |            the host's own goes on
//!     v                                                 v
//!  PacketUplink (ring, sendmmsg)                     HostPath (TUN)
//!     |                                                 |
//!     +--------------------- worker --------------------+
//! ```
//! A packet socket sees every frame of the card before the host's stack does. So the [`Guard`] has
//! two halves: a socket filter keeps the host's own datagrams out of the ring of [`PacketUplink`],
//! and a program at the card's tc ingress keeps the VMs' datagrams out of the host's stack.
//! [`HostPath`] is the one door between host and VMs. [`Offloads`] turns off what would make the
//! card or the kernel hand over something other than what was on the wire.
//!
//! # Invariants
//! - Descriptors (packet socket, TUN, maps) are made once and kept by the holder; everything here
//!   can be taken over from them and the network's record in the state memory.
//! - Foreign filters, queueing disciplines and settings are put back or left as they were.

mod error;
mod guard;
mod offloads;
mod packet;
mod tun;

pub use error::UplinkError;
pub use guard::{Guard, GuardDescriptors, SocketFilter};
pub use offloads::Offloads;
pub use packet::{Outgoing, PacketUplink, Received, Sent, Slot};
pub use tun::{FromHost, HostPath};

use crate::counters::Counter;

/// Why the kernel did not take a frame or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its buffers are full now (EAGAIN, ENOBUFS, ENOMEM): later it may take it.
    Busy,
    /// The link is down or the device is gone (ENETDOWN, ENXIO, ENODEV, EIO, EBADFD).
    Down,
    /// Larger than the device's MTU (EMSGSIZE).
    TooLong,
    /// Anything else, by the kernel's error number.
    Other(i32),
}

impl Refusal {
    /// The drop reason of a frame to the card that met this.
    pub fn uplink_counter(self) -> Counter {
        match self {
            Self::Down => Counter::DropUplinkDown,
            Self::Busy | Self::TooLong | Self::Other(_) => Counter::DropUplinkSend,
        }
    }
}

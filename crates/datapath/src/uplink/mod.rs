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
//! [`XdpUplink`] may stand before all of this: what its program takes out of the card's receive path for
//! the VMs, nobody else sees.
//! [`HostPath`] is the one door between host and VMs. [`turn_off`] turns off what would make the
//! card or the kernel hand over something other than what was on the wire.
//!
//! # Invariants
//! - Descriptors (packet socket, AF_XDP sockets, TUN, maps) are made once and kept by the holder; everything here
//!   can be taken over from them and the network's record in the state memory.
//! - Foreign filters, queueing disciplines and settings are put back or left as they were.

mod bpf;
mod error;
mod guard;
mod knock;
mod look;
mod offloads;
mod packet;
mod shares;
pub(crate) mod sys;
#[cfg(test)]
pub(crate) mod tests;
mod tun;
mod xdp;

use std::io;

pub use error::UplinkError;
pub use guard::{Guard, GuardMaps, SocketFilter};
pub use knock::knock;
pub use look::{CardLook, Meddling, look, programs_load};
pub use offloads::{keep_tags_in_frames, turn_off, turn_on_again};
pub use packet::{Outgoing, PacketUplink, Received, Sent, Slot};
pub use tun::{FromHost, HostPath};
pub use xdp::{
    LARGEST_MTU as LARGEST_XDP_MTU, WHOLE_MTU as WHOLE_XDP_MTU, Woken, XdpControl, XdpProgram,
    XdpSetup, XdpUplink,
};

use rustix::io::Errno;

use crate::counters::Counter;

/// Why the kernel did not take a frame or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its buffers are full now: later it may take it.
    Busy,
    /// The link is down or the device is gone.
    Down,
    /// Larger than the device's MTU allows.
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

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR => Self::Busy,
            Errno::NETDOWN | Errno::NXIO | Errno::NODEV | Errno::IO | Errno::BADFD => Self::Down,
            Errno::MSGSIZE => Self::TooLong,
            other => Self::Other(other.raw_os_error()),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or(Self::Other(0), Self::from)
    }
}

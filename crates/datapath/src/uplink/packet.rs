//! The adapter card: a packet socket with a mapped receive ring and virtio-net headers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use virtqueue::NetHeader;

use super::{Refusal, SocketFilter, UplinkError};
use crate::counters::Counter;
use crate::names::{Mac, NetworkId};
use crate::state::StateMemory;

/// A slot of the receive ring that was taken and not yet released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

/// What lay in the next slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole frame, from its Ethernet header on.
    Frame {
        /// Where it lies until [`PacketUplink::release`]; see [`PacketUplink::frame`].
        slot: Slot,
        /// What the kernel left to do.
        header: NetHeader,
        /// The frame.
        bytes: &'a [u8],
    },
    /// A frame that is no use: clipped or tagged.
    Dropped(Counter),
}

/// One frame to send: header, Ethernet header, IP datagram (or ARP message).
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What is left to the kernel or the card.
    pub header: NetHeader,
    /// The Ethernet header.
    pub ethernet: [u8; 14],
    /// What follows it.
    pub datagram: &'a [u8],
}

/// What became of a call of [`PacketUplink::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// So many frames, from the first on, were taken by the kernel.
    pub count: usize,
    /// Why the next one was not: it was not sent, those after it were not tried.
    pub refused: Option<Refusal>,
}

/// The base's socket on one card.
#[derive(Debug)]
pub struct PacketUplink {
    socket: OwnedFd,
}

impl PacketUplink {
    /// Frames in the receive ring unless asked otherwise.
    pub const FRAMES: u32 = 256;

    /// Makes a socket on the card with the interface index `index`. From the first moment it sees
    /// only what `filter` lets through.
    pub fn open(
        index: u32,
        frames: u32,
        filter: &SocketFilter,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// Takes over a predecessor's socket, and goes on in the ring where it stopped.
    pub fn adopt(
        socket: OwnedFd,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// Moves to another interface: the card was taken out and came back under a new index.
    pub fn rebind(&mut self, index: u32) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Takes the next frame out of the ring, `None` if there is none.
    pub fn next(&mut self) -> Option<Received<'_>> {
        unimplemented!()
    }

    /// A frame that was taken before and not yet released.
    pub fn frame(&self, slot: Slot) -> Option<&[u8]> {
        unimplemented!()
    }

    /// Gives all taken slots back to the kernel, in order.
    pub fn release(&mut self) {
        unimplemented!()
    }

    /// How many frames have been released since the ring was made: names the frame a worker is at.
    pub fn position(&self) -> u64 {
        unimplemented!()
    }

    /// Sends frames in order until one is refused. No system call for an empty slice.
    pub fn send(&mut self, frames: &[Outgoing<'_>]) -> Sent {
        unimplemented!()
    }

    /// Frames the kernel has dropped since the last call because the ring was full.
    pub fn kernel_drops(&mut self) -> u32 {
        unimplemented!()
    }

    /// Takes the socket's pending error off it, as after EPOLLERR (the link went down): until then
    /// epoll reports it again and again.
    pub fn take_error(&mut self) -> Option<io::Error> {
        unimplemented!()
    }

    /// Lets frames to a multicast group through the card.
    pub fn join(&mut self, group: Mac) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Undoes [`PacketUplink::join`].
    pub fn leave(&mut self, group: Mac) -> Result<(), UplinkError> {
        unimplemented!()
    }
}

impl AsFd for PacketUplink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

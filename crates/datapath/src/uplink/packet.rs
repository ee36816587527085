//! The adapter card: a packet socket with a mapped receive ring and virtio-net headers.
//!
//! # Theory of operation
//! *In.* The kernel writes each frame of the card into a slot of a ring that the base has mapped
//! (`sys::ring`): ten octets of virtio-net header, then the frame. A slot has room for the largest
//! datagram, so TCP segments that the kernel merged stay one. [`PacketUplink::next`] takes a slot,
//! [`PacketUplink::release`] gives all taken ones back once their frames have met their fate.
//!
//! *Out.* One `sendmmsg` for up to [`BATCH`] frames, each with its virtio-net header: the kernel or
//! the card fills in checksums and cuts large sends into segments. They leave by a socket of their
//! own, the *outlet*, which receives nothing: at one that epoll watches, the kernel wakes it for
//! each frame that has left.
//!
//! *A death in between.* Socket and ring are the kernel's and kept by the holder; how many frames
//! were released is in the network's record. The successor maps the ring again and goes on there:
//! frames that were taken and not released come again. One slot may be between being given back and
//! being counted: its number was noted before, so a slot so noted that is the kernel's was given
//! back. If the numbers were damaged, the place is found in the ring. If the ring's layout was, the
//! ring cannot be read: that is refused, and a new socket has to be made.
//!
//! # Invariants
//! - No frame is seen that the filter would have rejected: it is attached before the socket has a
//!   protocol, and without one nothing is received.
//! - What this machine sends is not seen.
//! - A frame that is not whole, or carries a tag, is reported as a drop by its name.
//!
//! # Limits
//! All VMs of a network share the socket's send buffer and the card's queueing discipline. The buffer
//! is shared out (`shares`); a discipline that is shorter than it, and not fair to flows as fq_codel
//! and fq are, refuses a modest VM's datagrams as often as those of one that floods.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use virtqueue::NetHeader;

use super::shares::Shares;
use super::sys::{self, Geometry, Ring};
use super::{Refusal, SocketFilter, UplinkError};
use crate::counters::Counter;
use crate::faults::{self, Point};
use crate::names::{Mac, NetworkId, Owner};
use crate::state::StateMemory;
use crate::state::network::{NetworkRecord, Position, RingRecord};

/// Frames in one system call.
const BATCH: usize = 64;
/// Octets of a block of the ring: a power of two, so that the kernel's allocator wastes nothing.
const BLOCK_SIZE: u32 = 1 << 20;
/// Slots in a block: each has room for 65,575 octets of datagram (an IPv6 header and the largest
/// payload), the Ethernet header, and what the kernel writes before it (102 octets at most).
const SLOTS_PER_BLOCK: u32 = 15;
/// Octets of a slot, in units of 16 as the kernel wants it.
const SLOT_SIZE: u32 = BLOCK_SIZE / SLOTS_PER_BLOCK / 16 * 16;
/// Octets of frames on their way to the card, as the kernel accounts them.
const SEND_BUFFER: i32 = 16 << 20;

/// A slot of the receive ring that was taken and not yet released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    count: u64,
    at: u16,
    len: u32,
}

/// What lay in the next slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole frame, from its Ethernet header on.
    Frame {
        /// Where it lies until [`PacketUplink::release`]; see [`PacketUplink::frame`].
        slot: Slot,
        /// What the kernel left to do; offsets count from the Ethernet header.
        header: NetHeader,
        /// The frame.
        bytes: &'a [u8],
    },
    /// A frame that is no use: cut short or tagged.
    Dropped(Counter),
}

/// One frame to send: header, Ethernet header, IP datagram (or ARP message).
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What is left to the kernel or the card; offsets count from the Ethernet header.
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
    outlet: OwnedFd,
    ring: Ring,
    record: NetworkRecord,
    index: u32,
    carrier: bool,
    /// How often a group may have been joined on this socket: once a life.
    joins: u32,
    shares: Shares,
}

/// An error about the packet socket, which needs CAP_NET_RAW.
fn refused(action: impl Into<String>, source: impl Into<io::Error>) -> UplinkError {
    UplinkError::refused(action, "CAP_NET_RAW", source.into())
}

impl PacketUplink {
    /// Frames in the receive ring unless asked otherwise.
    pub const FRAMES: u32 = 256;

    /// Makes a socket on the card with the interface index `index`, with room for at least `frames`
    /// frames. From the first moment it gets only what `filter` lets through.
    pub fn open(
        index: u32,
        frames: u32,
        filter: &SocketFilter,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        let socket = sys::packet_socket().map_err(|e| refused("make a packet socket", e))?;
        let fd = socket.as_fd();
        let option = |name: &str, option, value| {
            sys::set_int(fd, libc::SOL_PACKET, option, value)
                .map_err(|e| refused(format!("set {name} of a packet socket"), e))
        };
        sys::attach_filter(fd, filter.as_fd())
            .map_err(|e| refused("attach the filter to a packet socket", e))?;
        option("PACKET_IGNORE_OUTGOING", libc::PACKET_IGNORE_OUTGOING, 1)?;
        option("PACKET_VERSION", libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as i32)?;
        option("PACKET_VNET_HDR", libc::PACKET_VNET_HDR, 1)?;
        let geometry = Geometry {
            block_size: BLOCK_SIZE,
            blocks: frames.max(2).div_ceil(SLOTS_PER_BLOCK),
            frame_size: SLOT_SIZE,
        };
        let action = || format!("make a receive ring of {} frames", geometry.frames());
        sys::make_ring(fd, &geometry).map_err(|e| refused(action(), e))?;
        let ring = Ring::map(fd, geometry, 0).map_err(|e| refused(action(), e))?;
        let record = NetworkRecord::of(state, network);
        record.start_ring(RingRecord {
            block_size: geometry.block_size,
            frame_size: geometry.frame_size,
            blocks: geometry.blocks,
        });
        let outlet = outlet(index)?;
        let shares = shares_of(&outlet);
        bind(&socket, index, libc::ETH_P_ALL as u16)?;
        Ok(Self { socket, outlet, ring, record, index, carrier: true, joins: 1, shares })
    }

    /// Gets ready to take over the socket of a base that still works with it; `view` is its state
    /// memory.
    pub fn map_ahead(socket: BorrowedFd<'_>, view: &StateMemory, network: NetworkId) {
        let Some(RingRecord { block_size, frame_size, blocks }) =
            NetworkRecord::of(view, network).ring()
        else {
            return;
        };
        Ring::map_ahead(socket, Geometry { block_size, blocks, frame_size });
    }

    /// Undoes [`PacketUplink::map_ahead`] for all sockets that were not taken over.
    pub fn forget_ahead() {
        Ring::forget_ahead();
    }

    /// Takes over a predecessor's socket on the card that now has the interface index `index`, and
    /// goes on in the ring where it stopped. If the card was taken out and came back meanwhile, the
    /// groups have to be joined again.
    pub fn adopt(
        socket: OwnedFd,
        index: u32,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        let record = NetworkRecord::of(state, network);
        let refused = |why| UplinkError::Adopt { object: "card's receive ring", why };
        let Some(RingRecord { block_size, frame_size, blocks }) = record.ring() else {
            return Err(refused("the record of its layout is damaged".to_owned()));
        };
        let geometry = Geometry { block_size, blocks, frame_size };
        let mut ring = Ring::map(socket.as_fd(), geometry, 0).map_err(|e| {
            refused(format!("{} slots of {frame_size} octets: {e}", geometry.frames()))
        })?;
        let released = match record.position() {
            Position::At(released) => released,
            Position::Between(released) if ring.is_leaving(released) => released,
            Position::Between(released) => released.wrapping_add(1),
            Position::Lost => {
                record.note("the cursor in its card's receive ring was damaged: found again there");
                ring.search().ok_or_else(|| refused("the cursor is lost".to_owned()))?
            }
        };
        ring.go_on_at(released);
        record.set_position(released);
        let joins = record.count_adoption().saturating_add(1);
        let outlet = outlet(index)?;
        let shares = shares_of(&outlet);
        let mut uplink = Self { socket, outlet, ring, record, index, carrier: true, joins, shares };
        // Binding anew would lose what arrives meanwhile, so only if the card is another.
        if sys::bound_to(uplink.socket.as_fd()).is_ok_and(|bound| bound != index) {
            uplink.rebind(index)?;
        }
        Ok(uplink)
    }

    /// Binds to another interface: the card was taken out and came back under a new index. Groups
    /// have to be joined again.
    pub fn rebind(&mut self, index: u32) -> Result<(), UplinkError> {
        bind(&self.socket, index, libc::ETH_P_ALL as u16)?;
        bind(&self.outlet, index, 0)?;
        self.index = index;
        Ok(())
    }

    /// The index of the card that a predecessor's socket is on; `None` if that card is gone.
    pub fn card_of(socket: BorrowedFd<'_>) -> Option<u32> {
        sys::bound_to(socket).ok().filter(|&index| index != 0)
    }

    /// The interface that the socket was bound to last.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Tells whether the cable is in: the kernel throws away without a word what is sent while it
    /// is not, so it is refused here.
    pub fn set_carrier(&mut self, carrier: bool) {
        self.carrier = carrier;
    }

    /// Replaces the filter, without a moment in which there is none.
    pub fn set_filter(&mut self, filter: &SocketFilter) -> Result<(), UplinkError> {
        sys::attach_filter(self.socket.as_fd(), filter.as_fd())
            .map_err(|e| refused("attach the filter to a packet socket", e))
    }

    /// Takes the next frame out of the ring, `None` if there is none.
    #[expect(clippy::should_implement_trait, reason = "it lends, and goes on after the end")]
    pub fn next(&mut self) -> Option<Received<'_>> {
        let (count, slot) = self.ring.take()?;
        if slot.status & libc::TP_STATUS_VLAN_VALID != 0 {
            return Some(Received::Dropped(Counter::DropVlan));
        }
        if slot.captured < slot.len || slot.status & libc::TP_STATUS_COPY != 0 {
            return Some(Received::Dropped(Counter::DropUplinkClipped));
        }
        let found = Slot { count, at: slot.frame_at, len: slot.captured };
        // The header lies right before the frame, wherever that starts.
        let header_at = usize::from(slot.frame_at).checked_sub(NetHeader::SHORT_LEN);
        let header = header_at.and_then(|at| self.ring.bytes(count, at, NetHeader::SHORT_LEN));
        let (Some(header), Some(bytes)) = (header, self.frame(found)) else {
            return Some(Received::Dropped(Counter::DropUplinkClipped));
        };
        let mut long = [0; NetHeader::LEN];
        for (to, from) in long.iter_mut().zip(header) {
            *to = *from;
        }
        Some(Received::Frame { slot: found, header: NetHeader::from_bytes(long), bytes })
    }

    /// A frame that was taken before and not yet released: so that a batch can be taken first and
    /// looked at afterwards.
    pub fn frame(&self, slot: Slot) -> Option<&[u8]> {
        self.ring.bytes(slot.count, slot.at.into(), slot.len as usize)
    }

    /// Gives all taken slots back to the kernel, in order.
    pub fn release(&mut self) {
        while self.ring.released() < self.ring.taken() {
            self.announce_release();
            faults::pass(Point::CardReleasing);
            self.ring.release_one();
            faults::pass(Point::CardReleased);
            self.record.released(self.ring.released());
        }
    }

    /// Says for a successor which slot is about to be given back.
    pub(super) fn announce_release(&mut self) {
        self.ring.mark_leaving();
        self.record.releasing(self.ring.released());
    }

    /// How many frames were released since the ring was made: names the first frame of a batch.
    pub fn position(&self) -> u64 {
        self.ring.released()
    }

    /// Whether `owner` may put so many frames, of so many octets in all, into the send buffer: not
    /// if it has used up its share of a buffer that is more than half full.
    #[inline]
    pub fn may_put(&mut self, owner: Owner, frames: usize, octets: usize) -> bool {
        let socket = &self.outlet;
        self.shares.may_put(owner, frames, octets, || {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut asked = [PollFd::new(socket, PollFlags::OUT)];
            // What cannot be asked is tried: the kernel says so itself.
            poll(&mut asked, Some(&now)).is_err() || asked.iter().any(|fd| !fd.revents().is_empty())
        })
    }

    /// Sends frames in order until one is refused. No system call for an empty slice.
    pub fn send(&mut self, frames: &[Outgoing<'_>]) -> Sent {
        if !self.carrier && !frames.is_empty() {
            return Sent { count: 0, refused: Some(Refusal::Down) };
        }
        let mut count = 0usize;
        while let Some(rest) = frames.get(count..)
            && !rest.is_empty()
        {
            let refusal = match self.send_batch(rest) {
                Ok(0) => Refusal::Busy,
                Ok(taken) => {
                    count = count.saturating_add(taken);
                    continue;
                }
                Err(e) => Refusal::from(e),
            };
            return Sent { count, refused: Some(refusal) };
        }
        Sent { count, refused: None }
    }

    /// One system call: how many of the first [`BATCH`] frames were taken.
    fn send_batch(&self, frames: &[Outgoing<'_>]) -> rustix::io::Result<usize> {
        let mut headers = [[0u8; NetHeader::SHORT_LEN]; BATCH];
        for (to, frame) in headers.iter_mut().zip(frames) {
            for (to, from) in to.iter_mut().zip(frame.header.to_bytes()) {
                *to = from;
            }
        }
        let mut parts = [[IoSlice::new(&[]); 3]; BATCH];
        for ((to, frame), header) in parts.iter_mut().zip(frames).zip(&headers) {
            *to =
                [IoSlice::new(header), IoSlice::new(&frame.ethernet), IoSlice::new(frame.datagram)];
        }
        let mut control: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut parts = parts.iter();
        let mut messages = control
            .each_mut()
            .map(|control| MMsgHdr::new(parts.next().map_or(&[], |p| p.as_slice()), control));
        let messages = messages.get_mut(..frames.len().min(BATCH)).unwrap_or_default();
        sendmmsg(&self.outlet, messages, SendFlags::DONTWAIT)
    }

    /// Frames the kernel has dropped since the last call because the ring was full.
    pub fn kernel_drops(&mut self) -> u32 {
        sys::statistics(self.socket.as_fd()).unwrap_or(0)
    }

    /// Takes the socket's pending error off it, as after EPOLLERR (the link went down): until then
    /// epoll reports it again and again.
    pub fn take_error(&mut self) -> Option<io::Error> {
        match rustix::net::sockopt::socket_error(&self.socket) {
            Ok(Ok(())) | Err(_) => None,
            Ok(Err(e)) => Some(e.into()),
        }
    }

    /// Lets frames to a multicast group through the card.
    pub fn join(&mut self, group: Mac) -> Result<(), UplinkError> {
        sys::join(self.socket.as_fd(), self.index, group, true)
            .map_err(|e| refused(format!("join the group {group}"), e))
    }

    /// Undoes [`PacketUplink::join`].
    pub fn leave(&mut self, group: Mac) -> Result<(), UplinkError> {
        // The kernel counts how often a group was joined, and each predecessor may have done it.
        // Leaving more often than that is no error.
        for _ in 0..self.joins {
            sys::join(self.socket.as_fd(), self.index, group, false)
                .map_err(|e| refused(format!("leave the group {group}"), e))?;
        }
        Ok(())
    }
}

/// A socket by which frames leave, and by which nothing comes in.
fn outlet(index: u32) -> Result<OwnedFd, UplinkError> {
    let socket = sys::packet_socket().map_err(|e| refused("make a packet socket", e))?;
    let fd = socket.as_fd();
    sys::set_int(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
        .map_err(|e| refused("set PACKET_VNET_HDR of a packet socket", e))?;
    // Only a privileged process may go beyond the system's limit.
    if sys::set_int(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER).is_err() {
        sys::set_int(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER)
            .map_err(|e| refused("set the send buffer of a packet socket", e))?;
    }
    bind(&socket, index, 0)?;
    Ok(socket)
}

/// Binds a socket to a link and to a protocol; 0: it receives nothing.
fn bind(socket: &OwnedFd, index: u32, protocol: u16) -> Result<(), UplinkError> {
    sys::bind(socket.as_fd(), index, protocol)
        .map_err(|e| refused(format!("bind a packet socket to link number {index}"), e))
}

/// The shares of a socket's send buffer.
fn shares_of(socket: &OwnedFd) -> Shares {
    let buffer = rustix::net::sockopt::socket_send_buffer_size(socket);
    Shares::new(buffer.unwrap_or(SEND_BUFFER as usize))
}

impl AsFd for PacketUplink {
    /// Readable while a frame waits or a taken one is not released.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

//! The adapter card by AF_XDP: the VMs' datagrams come and go past the kernel's stack.
//!
//! # Theory of operation
//! ```text
//!   card --> XDP program --> AF_XDP socket of the queue --> base     IP to a VM, from the first octet on
//!                  '-------> host's stack, packet socket             everything else, as without
//!   base --> AF_XDP socket, outlet -----> card                       the VMs' datagrams
//!   base --> packet socket ------------->                            ARP, neighbour discovery, ICMP errors
//! ```
//! The program (`bpf::redirect`) looks at the destination alone, so all of a flow takes one way: in
//! by one socket, out by one socket. It reads the same maps of the VMs' addresses as the guard's.
//!
//! Frames lie in a memory file (`umem`); four rings per socket hand them to and fro (`ring`). They
//! are made so that the counts in them, which the kernel keeps, tell a successor whose each frame is
//! (`inward`, `outward`): nothing about them is written anywhere else. A received frame is released
//! after its datagram was delivered: a death repeats, and never loses.
//!
//! Program, sockets, map and memory are kept by the holder: while no base lives, frames wait in the
//! receive rings. The program's link goes with its last descriptor, and with it the program: then
//! everything takes the other way again.
//!
//! # Beginning and end
//! ```text
//! open      sockets, an empty map, the program at the card     everything is passed on
//!           all descriptors are kept
//! begin     the sockets are put into the map                   frames come
//! detach    the program is taken off the card, whoever         everything is passed on
//!           keeps its link (by [`XdpControl`])
//! ```
//! A base that dies before everything is kept leaves a program that passes everything on, or none.
//!
//! # What AF_XDP does not do
//! No header comes with a frame. What a sender on this very machine left to offload (the other end of
//! a veth does) arrives undone: its open checksum is found again by the sum that stands in the field
//! (`Offload::found`). On the way out there are no offloads: checksums are filled in and large sends
//! cut here, straight into the frames.
//!
//! # Waking
//! Nobody polls: the worker sleeps on the sockets in epoll. The kernel is called only when a ring
//! says that it sleeps (XDP_USE_NEED_WAKEUP).
//!
//! # Large frames
//! Where the card's MTU is more than a frame here holds, its frames come and go in several pieces
//! (XDP_USE_SG, and a program that is loaded as one that knows of fragments; since Linux 6.6). It is
//! asked for only there: some drivers then copy what they would else read and write themselves. A datagram
//! is copied out of its pieces as one, and into as many. See `inward` and `outward` for what a death
//! leaves.
//!
//! # Limits
//! - A card with a larger MTU than [`LARGEST_MTU`] is left to the packet socket, and so is one with a
//!   larger than [`WHOLE_MTU`] where kernel or driver have no frames in pieces.
//! - A tag that a card or a veth keeps beside the frame is not seen by an XDP program. Cards are told
//!   not to; a veth whose other end has VLAN devices with `tx-vlan-offload` cannot be.
//! - What is sent does not go through the card's queueing discipline.
//! - The kernel merges nothing on this way in: TCP comes segment by segment.
//! - An open checksum behind an IPv6 routing header is not found; the receiver drops that datagram.

mod inward;
#[cfg(test)]
mod model;
mod outlet;
mod outward;
mod ring;
mod socket;
mod umem;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use self::outlet::Outlet;
pub use self::outward::Woken;
use self::socket::Socket;
use self::umem::{FRAME, Layout, Umem};
use super::bpf::{self, Link, ProgramKind, SocketMap};
use super::guard::GuardMaps;
use super::shares::{OVERHEAD, Shares};
use super::{UplinkError, sys};
use crate::counters::Counter;
use crate::names::{Mac, Owner};
use crate::port::ETHERNET;

/// Receive queues that are served; frames of others go to the packet socket.
const MOST_QUEUES: u32 = 64;
/// Frames of a socket's way in, at least.
const LEAST_INWARD: u32 = 256;
/// Frames of the way out.
const OUTWARD: u32 = 2048;
/// How many of these small frames stand for one of the packet socket's ring, which has room for any.
const INWARD_PER_FRAME: u32 = 8;
/// Octets that the kernel wants before a frame.
const HEADROOM: u64 = 256;
/// Octets of a VLAN tag.
const TAG: u64 = 4;

/// Octets of the largest datagram that comes in one piece.
pub const WHOLE_MTU: u32 = (FRAME - HEADROOM - ETHERNET as u64 - TAG) as u32;
/// Pieces of the largest frame.
const MOST_PIECES: u32 = 3;
/// Octets of the largest datagram that comes in pieces: the headroom is in each.
pub const LARGEST_MTU: u32 =
    (MOST_PIECES as u64 * (FRAME - HEADROOM) - ETHERNET as u64 - TAG) as u32;

/// How many pieces a frame of so many octets is sent in.
#[inline]
const fn pieces(octets: usize) -> usize {
    octets.div_ceil(FRAME as usize)
}

/// An error about AF_XDP.
fn refused(action: impl Into<String>, source: impl Into<RefusalSource>) -> UplinkError {
    UplinkError::refused(action, "CAP_NET_RAW and CAP_NET_ADMIN", source.into().0)
}

/// What the kernel said, however it came.
struct RefusalSource(io::Error);

impl From<io::Error> for RefusalSource {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<rustix::io::Errno> for RefusalSource {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.into())
    }
}

impl From<virtqueue::MappingError> for RefusalSource {
    fn from(error: virtqueue::MappingError) -> Self {
        Self(match error {
            virtqueue::MappingError::Kernel { source, .. } => source,
            other => io::Error::other(other),
        })
    }
}

/// What has to be known of a card to use it by AF_XDP.
#[derive(Clone, Copy, Debug)]
pub struct XdpSetup<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its interface index.
    pub index: u32,
    /// Its own MAC address.
    pub mac: Mac,
    /// Octets of the largest datagram it carries.
    pub mtu: u32,
    /// Frames that a packet socket's receive ring would have.
    pub frames: u32,
    /// The guard's maps, of which those of the VMs' addresses are read.
    pub maps: GuardMaps<BorrowedFd<'a>>,
}

/// A card's AF_XDP sockets, and the program that brings them frames.
#[derive(Debug)]
pub struct XdpUplink {
    sockets: Vec<Socket>,
    outlet: Outlet,
    umem: Umem,
    map: SocketMap,
    link: Link,
    shares: Shares,
}

impl XdpUplink {
    /// Makes sockets for all receive queues of a card, and attaches the program. No frames come before
    /// [`XdpUplink::begin`].
    pub fn open(setup: &XdpSetup<'_>) -> Result<Self, UplinkError> {
        if setup.mtu > LARGEST_MTU {
            return Err(UplinkError::Card {
                link: setup.name.to_owned(),
                why: "has an MTU of more than AF_XDP's frames hold",
            });
        }
        let queues = sys::receive_queues(setup.name).unwrap_or(1).clamp(1, MOST_QUEUES);
        let all = setup.frames.saturating_mul(INWARD_PER_FRAME);
        let inward = all.checked_div(queues).unwrap_or(0).max(LEAST_INWARD).next_power_of_two();
        let in_pieces = setup.mtu > WHOLE_MTU;
        let layout = Layout { index: setup.index, queues, inward, outward: OUTWARD, in_pieces };
        let umem = Umem::create(layout)?;
        let sockets: Vec<_> =
            (0..queues).map(|queue| Socket::open(&umem, queue)).collect::<Result<_, _>>()?;
        let outlet = Outlet::open(&umem, first(&sockets)?)?;
        let map = SocketMap::create(queues)?;
        let program = XdpProgram::load(setup, map.as_fd(), in_pieces)?;
        let link = Link::create(&program.0, setup.index)?;
        Ok(Self { sockets, outlet, umem, map, link, shares: shares() })
    }

    /// Lets frames come: only when all that [`XdpUplink::descriptors`] names is kept, because what has
    /// come is lost with these.
    pub fn begin(&self) -> Result<(), UplinkError> {
        for (queue, socket) in (0..).zip(&self.sockets) {
            self.map.set(queue, socket.as_fd())?;
        }
        Ok(())
    }

    /// Takes over a predecessor's by the names of [`XdpUplink::descriptors`]. They must be of the card
    /// with this index.
    pub fn adopt(mut kept: BTreeMap<String, OwnedFd>, index: u32) -> Result<Self, UplinkError> {
        let mut take = |part: &str| {
            kept.remove(part).ok_or_else(|| UplinkError::Adopt {
                object: "AF_XDP sockets",
                why: format!("`{part}` was not kept"),
            })
        };
        let umem = Umem::adopt(take("umem")?)?;
        if umem.layout.index != index {
            return Err(UplinkError::Adopt {
                object: "AF_XDP sockets",
                why: format!("they are on link number {}", umem.layout.index),
            });
        }
        let (link, map) = (Link::adopt(take("link")?), SocketMap::adopt(take("map")?));
        let sockets: Vec<_> = (0..umem.layout.queues)
            .map(|queue| Socket::adopt(take(&queue.to_string())?, &umem, queue))
            .collect::<Result<_, _>>()?;
        let outlet = Outlet::adopt(take("out")?, &umem, first(&sockets)?)?;
        let adopted = Self { sockets, outlet, umem, map, link, shares: shares() };
        // It may have died before it did this.
        adopted.begin()?;
        Ok(adopted)
    }

    /// All that a successor needs, each with a name that ends its key at the keeper. The link comes
    /// last: what was not all kept is not taken over.
    pub fn descriptors(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let sockets = self.sockets.iter().enumerate().map(|(n, s)| (n.to_string(), s.as_fd()));
        let rest = [
            ("out", self.outlet.as_fd()),
            ("umem", self.umem.as_fd()),
            ("map", self.map.as_fd()),
            ("link", self.link.as_fd()),
        ];
        sockets.chain(rest.map(|(name, fd)| (name.to_owned(), fd))).collect()
    }

    /// What changes the program, for another thread than the one that serves the sockets.
    pub fn control(&self) -> Result<XdpControl, UplinkError> {
        let duplicate = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|e| refused("duplicate a descriptor", e))
        };
        let (map, link) = (duplicate(self.map.as_fd())?, duplicate(self.link.as_fd())?);
        let in_pieces = self.umem.layout.in_pieces;
        Ok(XdpControl { map, link: Link::adopt(link), in_pieces })
    }

    /// Octets of the largest datagram that comes and goes by it.
    pub fn largest_mtu(&self) -> u32 {
        if self.umem.layout.in_pieces { LARGEST_MTU } else { WHOLE_MTU }
    }

    /// How many frames of the transmit ring one takes that carries a datagram of so many octets.
    pub fn places(&self, octets: usize) -> usize {
        pieces(octets.saturating_add(ETHERNET))
    }

    /// Frames of each queue's way in: no more can wait there.
    pub fn inward(&self) -> u32 {
        self.umem.layout.inward
    }

    /// The interface that the sockets are on.
    pub fn index(&self) -> u32 {
        self.umem.layout.index
    }

    /// Whether the card's hardware reads and writes the frames itself.
    pub fn is_zero_copy(&self) -> bool {
        self.sockets.iter().all(Socket::is_zero_copy)
    }

    /// How many receive queues are served.
    pub fn queues(&self) -> usize {
        self.sockets.len()
    }

    /// The socket of a queue: readable while a frame waits or a taken one is not released.
    pub fn socket(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(queue).map(AsFd::as_fd)
    }

    /// Copies a queue's next frame into `room` and tells its octets, or why it is dropped; `None` if
    /// there is none.
    #[inline]
    pub fn next(&mut self, queue: usize, room: &mut [u8]) -> Option<Result<usize, Counter>> {
        self.sockets.get_mut(queue)?.next(room)
    }

    /// Passes over a queue's next frame without looking at it; false if there is none.
    pub fn pass_over(&mut self, queue: usize) -> bool {
        self.sockets.get_mut(queue).is_some_and(Socket::pass_over)
    }

    /// Gives all frames of a queue that were taken back to the kernel.
    pub fn release(&mut self, queue: usize) {
        if let Some(socket) = self.sockets.get_mut(queue) {
            socket.release();
        }
    }

    /// How many frames of a queue were released, modulo 2^32: names the first frame of a batch.
    pub fn position(&self, queue: usize) -> u32 {
        self.sockets.get(queue).map_or(0, Socket::position)
    }

    /// How many of a queue's frames were taken and not released: a datagram in pieces has several.
    pub fn taken(&self, queue: usize) -> u32 {
        self.sockets.get(queue).map_or(0, Socket::taken)
    }

    /// Frames the kernel has dropped since this was last asked, by a predecessor too, because it had
    /// no room for them.
    pub fn kernel_drops(&self) -> u64 {
        (0..).zip(&self.sockets).fold(0u64, |sum, (queue, socket)| {
            sum.saturating_add(self.umem.count_drops(queue, socket.drops()))
        })
    }

    /// Whether `owner` may put so many frames into the transmit ring: not if it has used up its share
    /// of a ring that is more than half full. A frame takes one place there, whatever its length.
    pub fn may_put(&mut self, owner: Owner, frames: usize) -> bool {
        let (free, all) = self.outlet.free();
        let octets = frames.saturating_mul((FRAME as usize).saturating_sub(OVERHEAD));
        self.shares.may_put(owner, frames, octets, || free > all / 2)
    }

    /// How many frames can be put now.
    pub fn free(&self) -> usize {
        self.outlet.free().0 as usize
    }

    /// Puts a frame among those that [`XdpUplink::send`] sends; `None` if there is no room, or it is
    /// too long.
    #[inline]
    pub fn put(&mut self, ethernet: &[u8; ETHERNET], datagram: &[u8]) -> Option<()> {
        self.outlet.put(ethernet, datagram)
    }

    /// Forgets what was put and not sent.
    pub fn abandon(&mut self) {
        self.outlet.abandon();
    }

    /// Sends what was put, in order, and what was left lying before.
    pub fn send(&mut self) -> Woken {
        self.outlet.send()
    }

    /// Those that the kernel has not begun to send, datagrams in pieces counted once.
    pub fn unsent_frames(&self) -> u32 {
        self.outlet.unsent_frames()
    }

    /// Frames that the kernel has not begun to send; of a datagram in pieces, each piece.
    pub fn unsent(&self) -> u32 {
        self.outlet.unsent()
    }

    /// Whether nobody needs what was put any more: the kernel has a copy, or the card is done with it.
    pub fn all_gone(&self) -> bool {
        let (free, all) = self.outlet.free();
        self.unsent() == 0 && (free == all || !self.is_zero_copy())
    }
}

/// The socket of queue 0, which the outlet stands beside.
fn first(sockets: &[Socket]) -> Result<&Socket, UplinkError> {
    sockets
        .first()
        .ok_or(UplinkError::Adopt { object: "AF_XDP sockets", why: "there is none".to_owned() })
}

/// The shares of the transmit ring, in octets of full frames.
fn shares() -> Shares {
    Shares::new((OUTWARD as usize).saturating_mul(FRAME as usize))
}

/// The program at a card that is used by AF_XDP, in the hands of somebody who may wait: the kernel
/// takes its lock of all network devices for every change of it, which others hold for long.
#[derive(Debug)]
pub struct XdpControl {
    map: OwnedFd,
    link: Link,
    in_pieces: bool,
}

impl XdpControl {
    /// A program for the card as it is, and for these sockets.
    pub fn load(&self, setup: &XdpSetup<'_>) -> Result<XdpProgram, UplinkError> {
        XdpProgram::load(setup, self.map.as_fd(), self.in_pieces)
    }

    /// Attaches another program in place of the one that is there. Refused if there is none any more.
    pub fn renew(&self, program: &XdpProgram) -> Result<(), UplinkError> {
        self.link.update(&program.0)
    }

    /// Takes the program off the card: no more frames come, whoever keeps its link. It fails if the
    /// card is gone, and the program with it.
    pub fn detach(&self) -> Result<(), UplinkError> {
        self.link.detach()
    }
}

/// The program that decides what the sockets get.
#[derive(Debug)]
pub struct XdpProgram(bpf::Program);

impl XdpProgram {
    /// Made for a card as it is, and these sockets.
    fn load(
        setup: &XdpSetup<'_>,
        sockets: BorrowedFd<'_>,
        in_pieces: bool,
    ) -> Result<Self, UplinkError> {
        let GuardMaps { vm4, vm6, .. } = setup.maps;
        let program = bpf::redirect(vm4, vm6, sockets, setup.mac)?;
        let kind = if in_pieces { ProgramKind::XdpInPieces } else { ProgramKind::Xdp };
        bpf::load(kind, &program).map(Self)
    }
}

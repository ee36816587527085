//! The AF_XDP socket by which frames leave. It shares memory and completion ring with the first
//! socket of the way in, and is a socket of its own because that one is watched by epoll: the kernel
//! would wake it for each frame that has left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{set_xdp_tx_ring_size, xdp_mmap_offsets};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING,
};
use rustix::net::{SendFlags, bind, send};
use virtqueue::Mapping;

use super::super::{UplinkError, sys};
use super::outward::{Outward, Woken};
use super::ring::{ADDRESS, DESCRIPTOR, Places};
use super::socket::{Socket, made, ring};
use super::umem::{FRAME, Umem};
use super::{pieces, refused};
use crate::port::ETHERNET;

/// Octets of frames on their way to the card, as the kernel accounts them.
const SEND_BUFFER: i32 = 16 << 20;

/// The socket, its transmit ring and the frames of the way out.
#[derive(Debug)]
pub(super) struct Outlet {
    fd: OwnedFd,
    memory: Mapping,
    outward: Outward,
    /// How many pieces a frame may have.
    most_pieces: u32,
}

impl Outlet {
    /// Makes it beside the first socket of the way in.
    pub fn open(umem: &Umem, first: &Socket) -> Result<Self, UplinkError> {
        let fail = |what: &'static str| move |e: Errno| refused(what, e);
        let (fd, layout) = (made()?, umem.layout);
        set_xdp_tx_ring_size(&fd, layout.outward)
            .map_err(fail("make the transmit ring of an AF_XDP socket"))?;
        // Only a privileged process may go beyond the system's limit: without, bursts are short.
        let force = libc::SO_SNDBUFFORCE;
        let _ = sys::set_int(fd.as_fd(), libc::SOL_SOCKET, force, SEND_BUFFER);
        let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
        let addr = SocketAddrXdp::new(flags, layout.index, 0);
        let address = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: first.as_fd() };
        bind(&fd, &address).map_err(fail("bind the AF_XDP socket of the way out to the card"))?;
        Self::adopt(fd, umem, first)
    }

    /// Takes over a predecessor's. What was published and not sent goes with the next
    /// [`Outlet::send`].
    pub fn adopt(fd: OwnedFd, umem: &Umem, first: &Socket) -> Result<Self, UplinkError> {
        let places = xdp_mmap_offsets(&fd)
            .map_err(|e| refused("ask where an AF_XDP socket has its rings", e))?;
        let (frames, start) = (umem.layout.outward, umem.layout.outward_at());
        let at = Places::of(&places.tx);
        let transmit = ring(fd.as_fd(), XDP_PGOFF_TX_RING, at, frames, DESCRIPTOR)?;
        let (at, entries) = (Places::of(&places.cr), completions(frames));
        let completion = ring(first.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, at, entries, ADDRESS)?;
        let outward = Outward::adopt(transmit, completion, start, frames)
            .map_err(|why| UplinkError::Adopt { object: "AF_XDP socket of the way out", why })?;
        let most_pieces = umem.layout.most_pieces();
        Ok(Self { fd, memory: umem.stretch(0)?, outward, most_pieces })
    }

    /// Frames that can be sent now, and how many there are.
    pub fn free(&self) -> (u32, u32) {
        (self.outward.free(), self.outward.frames())
    }

    /// Puts a frame into as many of the next free ones as it needs; `None` if there are not as many, or
    /// it is too long.
    pub fn put(&mut self, ethernet: &[u8; ETHERNET], datagram: &[u8]) -> Option<()> {
        let len = ETHERNET.checked_add(datagram.len())?;
        let pieces = u32::try_from(pieces(len)).ok().filter(|n| *n <= self.most_pieces)?;
        let memory = &self.memory;
        self.outward.put(pieces, |nth, address| {
            let at = usize::try_from(address).ok()?;
            // Which octets of it these are; the first piece has the header, and less of the datagram.
            let from = (nth as usize).checked_mul(FRAME as usize)?;
            let to = from.checked_add(FRAME as usize)?.min(len);
            let mut behind = at;
            if nth == 0 {
                memory.write(at, ethernet)?;
                behind = at.checked_add(ETHERNET)?;
            }
            let part = from.saturating_sub(ETHERNET)..to.checked_sub(ETHERNET)?;
            memory.write(behind, datagram.get(part)?)?;
            u32::try_from(to.checked_sub(from)?).ok()
        })
    }

    /// Forgets what was put since the last [`Outlet::send`].
    pub fn abandon(&mut self) {
        self.outward.abandon();
    }

    /// Gives what was put to the kernel, and wakes it as long as it asks for it and has something to
    /// send.
    pub fn send(&mut self) -> Woken {
        self.outward.publish();
        self.outward.wake(|| send(&self.fd, &[], SendFlags::DONTWAIT).map(|_| ()))
    }

    /// Those that the kernel has not begun to send, with those in several pieces counted once.
    pub fn unsent_frames(&self) -> u32 {
        self.outward.unsent_frames()
    }

    /// Frames that the kernel has not begun to send; each piece is one.
    pub fn unsent(&self) -> u32 {
        self.outward.unsent()
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Entries of the completion ring for so many frames of the way out.
pub(super) fn completions(outward: u32) -> u32 {
    outward.saturating_mul(2)
}

//! One AF_XDP socket for the way in: bound to one receive queue of a card, with its rings and its
//! frames.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_umem_completion_ring_size, set_xdp_umem_fill_ring_size,
    set_xdp_umem_reg, xdp_mmap_offsets, xdp_options, xdp_statistics,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_UMEM_PGOFF_FILL_RING,
    XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use virtqueue::Mapping;

use super::super::UplinkError;
use super::inward::{Frame, Inward};
use super::outlet::completions;
use super::refused;
use super::ring::{ADDRESS, DESCRIPTOR, Places, Ring};
use super::umem::{FRAME, Umem};
use crate::counters::Counter;

/// Entries of a completion ring that nothing ever comes into: the kernel wants one.
const LEAST_RING: u32 = 64;
/// How often a queue that is busy is tried, and the time in between.
const TRIES: u32 = 30;
const WAIT: Duration = Duration::from_millis(5);

/// One socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    memory: Mapping,
    inward: Inward,
    /// How many pieces a frame may have.
    most_pieces: u32,
}

impl Socket {
    /// Makes a socket for a receive queue of the umem's card. Frames come when it is in the map.
    pub fn open(umem: &Umem, queue: u32) -> Result<Self, UplinkError> {
        let action = |what: &str| format!("{what} of the AF_XDP socket for queue {queue}");
        let fail = |what: &'static str| move |e: Errno| refused(action(what), e);
        let fd = made()?;
        let memory = umem.stretch(queue)?;
        let Some(start) = memory.u8_at(0) else {
            return Err(refused("map an AF_XDP socket's frames", Errno::FAULT));
        };
        let layout = umem.layout;
        let registration = XdpUmemReg {
            addr: start.as_ptr().expose_provenance() as u64,
            len: memory.len() as u64,
            chunk_size: FRAME as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        set_xdp_umem_reg(&fd, registration).map_err(fail("register the memory"))?;
        // The outlet shares this ring of the first socket's.
        let completions = if queue == 0 { completions(layout.outward) } else { LEAST_RING };
        set_xdp_umem_fill_ring_size(&fd, layout.inward).map_err(fail("make the fill ring"))?;
        set_xdp_umem_completion_ring_size(&fd, completions)
            .map_err(fail("make the completion ring"))?;
        set_xdp_rx_ring_size(&fd, layout.inward).map_err(fail("make the receive ring"))?;
        let (receive, fill) = inward_rings(&fd, umem)?;
        let inward = Inward::start(receive, fill, 0, layout.inward);
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        if layout.in_pieces {
            // Since Linux 6.6.
            flags |= SocketAddrXdpFlags::XDP_USE_SG;
        }
        let address = SocketAddrXdp::new(flags, layout.index, queue);
        let mut tries = TRIES;
        while let Err(e) = bind(&fd, &address) {
            tries = tries.saturating_sub(1);
            match e {
                // The kernel lets go of a queue some time after its last socket was closed.
                Errno::BUSY if tries > 0 => std::thread::sleep(WAIT),
                Errno::BUSY => {
                    return Err(UplinkError::Card {
                        link: format!("number {}", layout.index),
                        why: "has an AF_XDP socket of somebody else's",
                    });
                }
                Errno::INVAL if layout.in_pieces => {
                    return Err(UplinkError::Card {
                        link: format!("number {}", layout.index),
                        why: "has an MTU with which frames are in pieces, and the kernel has none \
                              for AF_XDP (Linux has since 6.6)",
                    });
                }
                e => return Err(fail("bind to the card")(e)),
            }
        }
        // Before Linux 6.4 nobody could map the rings of a bound socket, a successor neither.
        inward_rings(&fd, umem)?;
        Ok(Self { fd, memory, inward, most_pieces: layout.most_pieces() })
    }

    /// Takes over a predecessor's.
    pub fn adopt(fd: OwnedFd, umem: &Umem, queue: u32) -> Result<Self, UplinkError> {
        let memory = umem.stretch(queue)?;
        let (receive, fill) = inward_rings(&fd, umem)?;
        let inward = Inward::adopt(receive, fill, 0, umem.layout.inward)
            .map_err(|why| cannot_adopt(queue, why))?;
        let socket = Self { fd, memory, inward, most_pieces: umem.layout.most_pieces() };
        socket.wake_fill();
        Ok(socket)
    }

    /// Whether the card's hardware writes into the frames itself.
    pub fn is_zero_copy(&self) -> bool {
        xdp_options(&self.fd).is_ok_and(|o| o.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// Copies the next frame into `room` and tells its octets, or why it is dropped; `None` if there
    /// is none.
    pub fn next(&mut self, room: &mut [u8]) -> Option<Result<usize, Counter>> {
        let frame = self.inward.next()?;
        Some(self.copy(frame, room))
    }

    #[inline]
    fn copy(&self, frame: Frame, room: &mut [u8]) -> Result<usize, Counter> {
        // In more pieces than were asked for.
        if frame.count() > self.most_pieces {
            return Err(Counter::DropUplinkClipped);
        }
        let mut len = 0usize;
        for piece in self.inward.pieces(frame) {
            let piece = piece.ok_or(Counter::DropUplinkClipped)?;
            let end = len.saturating_add(piece.len as usize);
            let copied = room
                .get_mut(len..end)
                .and_then(|room| self.memory.read(usize::try_from(piece.address).ok()?, room));
            copied.ok_or(Counter::DropFrameLength)?;
            len = end;
        }
        Ok(len)
    }

    /// Entries of the receive ring that were taken and not released.
    pub fn taken(&self) -> u32 {
        self.inward.taken()
    }

    /// Passes over the next frame without looking at it; false if there is none.
    pub fn pass_over(&mut self) -> bool {
        self.inward.next().is_some()
    }

    /// Gives all frames that were taken back to the kernel.
    pub fn release(&mut self) {
        self.inward.release();
        self.wake_fill();
    }

    fn wake_fill(&self) {
        if self.inward.wants_wakeup() {
            // It reads nothing: the call is the message.
            let _ = recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        }
    }

    /// How many frames were released since the socket was made, modulo 2^32.
    pub fn position(&self) -> u32 {
        self.inward.position()
    }

    /// Frames that the kernel had no room for since the socket was made.
    pub fn drops(&self) -> u64 {
        xdp_statistics(&self.fd)
            .map_or(0, |told| told.rx_dropped.saturating_add(told.rx_ring_full.unwrap_or(0)))
    }
}

impl AsFd for Socket {
    /// Readable while a frame waits or a taken one is not released.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A new socket.
pub(super) fn made() -> Result<OwnedFd, UplinkError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)
        .map_err(|e| refused("make an AF_XDP socket", e))
}

fn cannot_adopt(queue: u32, why: String) -> UplinkError {
    UplinkError::Adopt { object: "AF_XDP socket", why: format!("queue {queue}: {why}") }
}

/// Maps one of a socket's rings.
pub(super) fn ring(
    fd: BorrowedFd<'_>,
    at: u64,
    places: Option<Places>,
    size: u32,
    entry: usize,
) -> Result<Ring, UplinkError> {
    let fail = |e: io::Error| refused("map a ring of an AF_XDP socket", e);
    let places = places.ok_or_else(|| fail(io::ErrorKind::Unsupported.into()))?;
    let len = places.len(size, entry) as u64;
    let memory = Mapping::shared(fd, at, len).map_err(|e| fail(io::Error::other(e)))?;
    Ok(Ring::new(memory, places, size))
}

fn inward_rings(fd: &OwnedFd, umem: &Umem) -> Result<(Ring, Ring), UplinkError> {
    let places =
        xdp_mmap_offsets(fd).map_err(|e| refused("ask where an AF_XDP socket has its rings", e))?;
    let size = umem.layout.inward;
    Ok((
        ring(fd.as_fd(), XDP_PGOFF_RX_RING, Places::of(&places.rx), size, DESCRIPTOR)?,
        ring(fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, Places::of(&places.fr), size, ADDRESS)?,
    ))
}

//! Packet sockets (packet(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::{Geometry, check};
use crate::names::Mac;

/// Sets a socket option.
///
/// # Safety
/// `T` must be the type that the kernel expects for this option, without padding.
unsafe fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast::<c_void>(),
            size_of::<T>() as socklen_t,
        )
    })
    .map(|_| ())
}

/// A raw packet socket that receives nothing yet: it has no protocol until it is bound.
pub(in super::super) fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?)
}

/// Sets an option that is one number.
pub(in super::super) fn set_int(
    socket: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads an int, or, for an option of another size, refuses by length.
    unsafe { set_option(socket, level, option, &value) }
}

/// Makes a loaded program the filter of a socket, in place of the one it had.
pub(in super::super) fn attach_filter(
    socket: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd())
}

/// Makes the receive ring of a socket.
pub(in super::super) fn make_ring(socket: BorrowedFd<'_>, ring: &Geometry) -> io::Result<()> {
    let request = libc::tpacket_req {
        tp_block_size: ring.block_size,
        tp_block_nr: ring.blocks,
        tp_frame_size: ring.frame_size,
        tp_frame_nr: ring.frames(),
    };
    // SAFETY: PACKET_RX_RING takes a `tpacket_req`: four 32-bit words.
    unsafe { set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request) }
}

/// Binds a socket to one interface and to a protocol (`ETH_P_ALL`: all): from now on it receives that;
/// nothing if it is 0.
pub(in super::super) fn bind(socket: BorrowedFd<'_>, index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.try_into().map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as socklen_t,
        )
    })
    .map(|_| ())
}

/// The interface a socket is bound to; 0 if that is gone.
pub(in super::super) fn bound_to(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: `sockaddr_ll` is plain data; all zeroes is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as socklen_t;
    // SAFETY: the kernel writes at most `len` octets, the size of `address`.
    check(unsafe {
        libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len)
    })?;
    Ok(u32::try_from(address.sll_ifindex).unwrap_or(0))
}

/// Lets frames to a multicast group through the card, or undoes one such call.
pub(in super::super) fn join(
    socket: BorrowedFd<'_>,
    index: u32,
    group: Mac,
    on: bool,
) -> io::Result<()> {
    let [a, b, c, d, e, f] = group.0;
    let request = libc::packet_mreq {
        mr_ifindex: index.try_into().map_err(|_| io::ErrorKind::InvalidInput)?,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: [a, b, c, d, e, f, 0, 0],
    };
    let option = if on { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
    // SAFETY: both options take a `packet_mreq`, which has no padding.
    unsafe { set_option(socket, libc::SOL_PACKET, option, &request) }
}

/// Frames dropped since the last call.
pub(in super::super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as socklen_t;
    // SAFETY: the kernel writes at most `len` octets, the size of `statistics`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut len,
        )
    })?;
    Ok(statistics.tp_drops)
}

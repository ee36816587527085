//! Kernel calls of the lab for which there is no safe wrapper: packet sockets, TAP devices, signals.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};

/// Time stamp of the last frame received (`SIOCGSTAMPNS` with 64-bit times).
const SIOCGSTAMPNS: libc::Ioctl = 0x8907;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a raw packet socket in the calling thread's network namespace. It receives nothing yet.
pub fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed.
    let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a packet socket to a card, for frames of all protocols.
pub fn bind_packet(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    bind_packet_for(socket, index, libc::ETH_P_ALL as u16)
}

/// Binds a packet socket to a card, for frames of one protocol; of protocol 0 there are none.
pub fn bind_packet_for(socket: BorrowedFd<'_>, index: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: all-zero octets are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole `sockaddr_ll` of the length that is passed.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
        .map(drop)
}

/// Sets an option whose value is an `int`.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let from = (&raw const value).cast();
    // SAFETY: the option's value is read from `value`, of the length that is passed.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, from, length) }).map(drop)
}

/// Frames that the kernel dropped since the last call because the socket's buffer was full.
pub fn packet_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    let into = (&raw mut stats).cast();
    // SAFETY: the kernel writes at most `length` octets, the size of `stats`.
    checked(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, into, &raw mut length) })?;
    Ok(stats.tp_drops)
}

/// Takes one frame: its octets (at most as many as `into` has; the true length is given) and its
/// kind (`PACKET_OUTGOING` and the like).
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<(usize, u8)> {
    // SAFETY: all-zero octets are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `into.len()` octets to `into` and `length` to `address`.
    let got = unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            into.as_mut_ptr().cast(),
            into.len(),
            libc::MSG_TRUNC,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    usize::try_from(got).map(|n| (n, address.sll_pkttype)).map_err(|_| io::Error::last_os_error())
}

/// Makes a TAP device in the calling thread's network namespace, gone with its descriptor: before
/// each frame a virtio-net header of `header` octets, and with `offloads` checksums and TCP's
/// segmentation left to whoever reads.
pub fn tap_device(name: &str, header: libc::c_int, offloads: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: all-zero octets are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    let fd = device.as_raw_fd();
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const header) })?;
    let kinds = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let kinds = if offloads { kinds } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(kinds)) })?;
    Ok(device)
}

/// When the last frame was received: since 1970.
pub fn received_at(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: this request writes one `timespec`.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut time) })?;
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// The signals that ask a program to end.
fn end_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` makes the set valid; the others change a valid set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks the signals that ask a program to end, in this thread and those it starts. Programs that
/// are started get them as ever.
pub fn block_end_signals() -> io::Result<()> {
    let set = end_signals();
    // SAFETY: `set` is valid, and the old mask is not asked for.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Waits until one of the blocked signals comes.
pub fn wait_for_end_signal() {
    let set = end_signals();
    let mut signal = 0;
    // SAFETY: both point to valid values of ours.
    while unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {}
}

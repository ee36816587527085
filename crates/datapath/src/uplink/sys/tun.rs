//! TUN devices (Documentation/networking/tuntap.rst).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_char, c_int, c_void, ifreq};
use rustix::fs::{Mode, OFlags, open};
use virtqueue::Mapping;

use super::check;

/// An interface request for a name of at most 15 octets.
pub(super) fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: `ifreq` is plain data; all zeroes is a valid one.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len().saturating_sub(1);
    if name.is_empty() || name.len() > room || name.contains(['\0', '/']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

/// Makes a TUN device without packet information and with a virtio-net header of ten octets before
/// each datagram. Refused if the name is taken.
pub(in super::super) fn make_device(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = request(name)?;
    let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let header: c_int = virtqueue::NetHeader::SHORT_LEN as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })?;
    Ok(device)
}

/// Says which offloads the reader of the device takes on (TUN_F_ bits).
pub(in super::super) fn set_device_offloads(
    device: BorrowedFd<'_>,
    offloads: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe {
        libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads))
    })
    .map(|_| ())
}

/// The name of the interface behind a TUN descriptor.
pub(in super::super) fn device_name(device: BorrowedFd<'_>) -> io::Result<String> {
    // SAFETY: `ifreq` is plain data; all zeroes is a valid one.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let name = request.ifr_name.map(|c| c as u8);
    Ok(CStr::from_bytes_until_nul(&name)
        .map_err(|_| io::ErrorKind::InvalidData)?
        .to_string_lossy()
        .into_owned())
}

/// Reads from a descriptor straight into shared memory: the first `first.1` octets to `first.0`,
/// the rest, at most `second.1`, to `second.0`.
pub(in super::super) fn read_into(
    device: BorrowedFd<'_>,
    memory: &Mapping,
    first: (usize, usize),
    second: (usize, usize),
) -> io::Result<usize> {
    let part = |(offset, len): (usize, usize)| {
        let start = memory.u8_at(offset)?.as_ptr();
        memory.u8_at(offset.checked_add(len)?.checked_sub(1)?)?;
        Some(libc::iovec { iov_base: start.cast::<c_void>(), iov_len: len })
    };
    let parts = [
        part(first).ok_or(io::ErrorKind::InvalidInput)?,
        part(second).ok_or(io::ErrorKind::InvalidInput)?,
    ];
    // SAFETY: both ranges lie inside the mapping, whose first and last octets were found above, and
    // which outlives the call. Nobody holds references into it: it is memory that others write at
    // any time, reached by atomics and raw copies only, and here the kernel is the other.
    let answer = unsafe { libc::readv(device.as_raw_fd(), parts.as_ptr(), parts.len() as c_int) };
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

//! System calls that have no safe wrapper elsewhere: packet sockets, TUN devices, ethtool.
//!
//! Together with `bpf::kernel` the only `unsafe` code of the uplink. Each function is one kernel
//! call with checked arguments; what to call when is decided by its callers.

mod ethtool;
mod packet;
mod ring;
mod tun;

#[cfg(test)]
pub(crate) use ethtool::set_queues;
pub(super) use ethtool::{Features, driver, features, receive_queues, set_features};
pub(super) use packet::{
    attach_filter, bind, bound_to, join, make_ring, packet_socket, set_int, statistics,
};
pub(super) use ring::{Geometry, Ring};
pub(super) use tun::{device_name, make_device, read_into, set_device_offloads};

use std::io;

/// The kernel's answer as a result: negative is the calling thread's error number.
fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Moves the calling thread into a network namespace of its own.
#[cfg(test)]
pub(crate) fn unshare_network() -> io::Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: only the network namespace changes; no descriptor table or memory is unshared that
    // other threads could rely on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

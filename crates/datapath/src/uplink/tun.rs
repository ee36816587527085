//! The host's own stack: one TUN device per network.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use virtqueue::NetHeader;

use super::{Refusal, UplinkError};
use crate::names::NetworkId;
use crate::state::StateMemory;

/// A datagram read from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromHost {
    /// What the host's stack left to offload; offsets count from the IP header.
    pub header: NetHeader,
    /// Octets of the datagram. More than fit the caller's buffer: nothing was copied.
    pub len: usize,
}

/// The TUN device of one network.
#[derive(Debug)]
pub struct HostPath {
    device: OwnedFd,
}

impl HostPath {
    /// Makes the device `name`, without addresses, and sets it up with `mtu`.
    pub fn open(
        name: &str,
        mtu: u32,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// Takes over a predecessor's device; a datagram it had read and not finished comes first.
    pub fn adopt(
        device: OwnedFd,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        unimplemented!()
    }

    /// The device's interface index, for routes.
    pub fn index(&self) -> u32 {
        unimplemented!()
    }

    /// The next datagram from the host, copied into `into`; `None` if there is none. It stays in
    /// the state memory, and comes again after a death, until [`HostPath::done`].
    pub fn next(&mut self, into: &mut [u8]) -> Result<Option<FromHost>, Refusal> {
        unimplemented!()
    }

    /// The datagram that [`HostPath::next`] gave has met its fate.
    pub fn done(&mut self) {
        unimplemented!()
    }

    /// Gives a datagram to the host's stack.
    pub fn send(&mut self, header: NetHeader, datagram: &[u8]) -> Result<(), Refusal> {
        unimplemented!()
    }
}

impl AsFd for HostPath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

//! The host's own stack: one TUN device per network.
//!
//! # Theory of operation
//! The host's kernel routes each VM's address through this device, so what the host sends to a VM
//! is read here, and what a VM sends to the host is written here. Datagrams only, no Ethernet;
//! each with a virtio-net header, so that large sends and checksums stay as they are both ways.
//!
//! A read takes the datagram away from the kernel for good. So it goes straight into the network's
//! slot in the state memory ([`HostSlot`]), and stays there until its fate is met: a successor finds
//! it there.
//!
//! # Invariants
//! - The device has no addresses and gets none by itself.
//! - It lives as long as its descriptor, which the holder keeps; its routes go with it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use virtqueue::NetHeader;

use super::{Refusal, UplinkError, sys};
use crate::counters::{Counter, Counters};
use crate::names::{NetworkId, Owner};
use crate::netlink::Netlink;
use crate::state::network::{HostSlot, Left};
use crate::state::{Place, StateMemory};

/// A datagram read from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromHost {
    /// What the host's stack left to offload; offsets count from the IP header.
    pub header: NetHeader,
    /// Octets of the datagram. More than the caller's buffer has: nothing was copied.
    pub len: usize,
}

/// The TUN device of one network.
#[derive(Debug)]
pub struct HostPath {
    device: OwnedFd,
    name: String,
    index: u32,
    slot: HostSlot,
}

fn refused(action: String, source: impl Into<io::Error>) -> UplinkError {
    UplinkError::refused(action, "CAP_NET_ADMIN", source.into())
}

impl HostPath {
    /// Makes the device `name`, which must not exist, and sets it up with `mtu`.
    pub fn open(
        netlink: &mut Netlink,
        name: &str,
        mtu: u32,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        // The kernel puts the first free number where %d is.
        let shown = name.replace("%d", "N");
        let device = sys::make_device(name).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => UplinkError::Card {
                link: name.to_owned(),
                why: "exists already: another network or program uses this name",
            },
            Some(libc::ENOENT | libc::ENODEV) => UplinkError::Kernel {
                action: format!("make the TUN device {shown} (is /dev/net/tun there?)"),
                source: e,
            },
            _ => refused(format!("make the TUN device {shown}"), e),
        })?;
        let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        sys::set_device_offloads(device.as_fd(), offloads)
            .map_err(|e| refused(format!("set the offloads of {name}"), e))?;
        let path = Self::from_device(netlink, device, state, network)?;
        path.slot.clear();
        netlink.set_link_without_addresses(path.index)?;
        netlink.set_link_mtu(path.index, mtu)?;
        netlink.set_link_up(path.index, true)?;
        Ok(path)
    }

    /// Takes over a predecessor's device; a datagram it had read and not finished comes first. One
    /// that was damaged meanwhile is dropped by name. To be called before the worker has the path.
    pub fn adopt(
        netlink: &mut Netlink,
        device: OwnedFd,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        let path = Self::from_device(netlink, device, state, network)?;
        if path.slot.recover() == Left::Damaged {
            let counters = Counters::of(state, Owner::Host(network));
            counters.add(Counter::Taken, 1);
            counters.add(Counter::DropStateDamaged, 1);
            let what = "the datagram just read from the host was damaged and is dropped";
            state.note(Place::Network(network), what.to_owned());
        }
        Ok(path)
    }

    fn from_device(
        netlink: &mut Netlink,
        device: OwnedFd,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        let unusable =
            |why: String| UplinkError::Adopt { object: "TUN device of the host's path", why };
        let name = sys::device_name(device.as_fd()).map_err(|e| unusable(e.to_string()))?;
        let link = netlink.link(&name)?.ok_or_else(|| unusable(format!("{name} is gone")))?;
        Ok(Self { device, name, index: link.index, slot: HostSlot::of(state, network) })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's interface index, for routes.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The next datagram from the host, copied into `into`; `None` if there is none. It is the same
    /// again, after a death too, until [`HostPath::done`].
    pub fn next(&mut self, into: &mut [u8]) -> Result<Option<FromHost>, Refusal> {
        let (mut len, mut fresh) = (self.slot.len(), false);
        if len == 0 {
            let (header, datagram) = self.slot.places();
            let read = sys::read_into(self.device.as_fd(), self.slot.memory(), header, datagram);
            match read {
                Ok(octets) => len = octets.saturating_sub(NetHeader::SHORT_LEN),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e.into()),
            }
            fresh = true;
        }
        if len == 0 {
            return Ok(None);
        }
        let copy = into.get_mut(..len).unwrap_or_default();
        self.slot.read(copy);
        if fresh {
            self.slot.publish(len, copy);
        }
        Ok(Some(FromHost { header: self.slot.header(), len }))
    }

    /// The datagram that [`HostPath::next`] gave has met its fate.
    pub fn done(&mut self) {
        self.slot.clear();
    }

    /// Throws away unseen what a predecessor had read and not finished; whether there was anything.
    pub fn leave_out(&mut self) -> bool {
        let there = self.slot.len() > 0;
        self.slot.clear();
        there
    }

    /// Gives a datagram to the host's stack.
    pub fn send(&mut self, header: NetHeader, datagram: &[u8]) -> Result<(), Refusal> {
        let header = header.to_bytes();
        let short = header.get(..NetHeader::SHORT_LEN).unwrap_or_default();
        let parts = [IoSlice::new(short), IoSlice::new(datagram)];
        rustix::io::writev(&self.device, &parts).map(|_| ()).map_err(Refusal::from)
    }
}

impl AsFd for HostPath {
    /// Readable while the host has a datagram for a VM. One that waits in the slot does not show:
    /// call [`HostPath::next`] once after a takeover.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

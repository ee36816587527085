//! A TAP device: a card of the kernel's whose cable ends in this process, as tools that run VMs
//! without vhost-user make one for each.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Attempt, Result};
use crate::netns::Netns;
use crate::sys;

/// A device, gone when dropped.
#[derive(Debug)]
pub struct TapDevice {
    name: String,
    device: OwnedFd,
}

impl TapDevice {
    /// Octets of virtio-net header before each frame.
    pub const HEADER: usize = 12;

    /// Makes a device in a namespace and sets it up. With `offloads` frames may come and go with
    /// checksums and TCP's segmentation left to do.
    pub fn new(space: &Netns, name: &str, offloads: bool) -> Result<Self> {
        let made = space.enter(|| sys::tap_device(name, Self::HEADER as i32, offloads))?;
        let device = made.attempt(|| format!("make TAP device {name}"))?;
        space.run(&format!("ip link set {name} up"))?;
        Ok(Self { name: name.to_owned(), device })
    }

    /// Gives the kernel a header and a frame; false if it does not take it now.
    pub fn send(&self, octets: &[u8]) -> Result<bool> {
        match rustix::io::write(&self.device, octets) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
            Err(e) => Err(e).attempt(|| format!("send into TAP device {}", self.name)),
        }
    }

    /// Takes the next header and frame; how many octets, `None` if there is none.
    pub fn receive(&self, into: &mut [u8]) -> Result<Option<usize>> {
        match rustix::io::read(&self.device, into) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN) => Ok(None),
            Err(e) => {
                Err(io::Error::from(e)).attempt(|| format!("receive from TAP device {}", self.name))
            }
        }
    }
}

impl AsFd for TapDevice {
    /// Readable while a frame waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

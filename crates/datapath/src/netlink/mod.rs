//! What the base asks of the kernel about links, addresses, routes and filters: a small synchronous
//! wrapper.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;

use crate::names::Mac;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// MTU.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// The cable is in.
    pub carrier: bool,
}

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface it is on.
    pub index: u32,
    /// Address and prefix length.
    pub net: IpNet,
    /// Scope global (not link-local or host).
    pub global: bool,
    /// IPv6: still tentative, or found to be a duplicate: not usable.
    pub tentative: bool,
}

/// A default gateway of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// The interface it is reached through.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Lower is preferred.
    pub metric: u32,
}

/// What changed, as the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link came or changed.
    LinkChanged(Link),
    /// A link is gone.
    LinkGone {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// An address came or changed.
    AddressAdded(Address),
    /// An address is gone.
    AddressRemoved(Address),
    /// A route of the main table came or went.
    RouteChanged,
    /// More happened than the socket could hold: read everything afresh.
    Overrun,
}

/// A netlink call that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetlinkError {
    /// What was asked.
    pub action: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// A socket for questions and orders. Belongs to the network namespace it was made in.
#[derive(Debug)]
pub struct Netlink {}

impl Netlink {
    /// Opens one.
    pub fn open() -> Result<Self, NetlinkError> {
        unimplemented!()
    }
    /// The link with this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        unimplemented!()
    }
    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        unimplemented!()
    }
    /// All addresses of the host.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        unimplemented!()
    }
    /// The default gateways of the main table.
    pub fn gateways(&mut self) -> Result<Vec<Gateway>, NetlinkError> {
        unimplemented!()
    }
    /// Routes `prefix` through the device `index`; packets of the host carry `source` if given.
    pub fn replace_route(
        &mut self,
        prefix: IpNet,
        index: u32,
        source: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        unimplemented!()
    }
    /// Removes such a route; none there is no error.
    pub fn remove_route(&mut self, prefix: IpNet, index: u32) -> Result<(), NetlinkError> {
        unimplemented!()
    }
}

/// A socket that hears of changes.
#[derive(Debug)]
pub struct Monitor {}

impl Monitor {
    /// Opens one; what happens from now on is heard.
    pub fn open() -> Result<Self, NetlinkError> {
        unimplemented!()
    }
    /// The next event; `None` if there is none now.
    pub fn next(&mut self) -> Result<Option<Event>, NetlinkError> {
        unimplemented!()
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}

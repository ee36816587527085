//! The host as a neighbour: one TUN device per network, and a kernel route per VM address.
//!
//! # Theory of operation
//! What the host's stack sends to a VM's address, the kernel routes into the TUN device; what a VM
//! sends to one of the host's addresses, the worker writes into it. The routes prefer the host's
//! address on the network's card as source, so that a VM sees the neighbour it knows.
//!
//! Two networks may use the same addresses, but the host's kernel has one routing table: the second
//! network then has no host path, and says so.
//!
//! The kernel tells everybody of each route that is written, this base's own main loop too, which
//! then looks at the host again. So a route that is right already is left alone: else a base with
//! many VMs would wake itself for ever.
//!
//! # Invariants
//! - Routes exist only for addresses that are in the list, and through our own device only.
//! - Closing the last descriptor of the device removes it, and its routes with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use datapath::keeper::Keeper;
use datapath::names::NetworkId;
use datapath::netlink::{Link, Netlink, NetlinkError, Route};
use datapath::state::StateMemory;
use datapath::uplink::{HostPath, UplinkError};
use datapath::worker::{Gone, WorkerHandle};
use ipnet::IpNet;

use super::last_inch::Facts;

/// Why a network has no host path, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// The device could not be made.
    #[error(transparent)]
    Device(#[from] UplinkError),
    /// The holder does not keep it.
    #[error("cannot keep the host path's device")]
    Keep(#[source] std::io::Error),
    /// The worker cannot watch it.
    #[error("cannot watch the host path's device")]
    Watch(#[source] std::io::Error),
    /// The datapath has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// One network's path to the host.
#[derive(Debug)]
pub struct HostSide {
    network: NetworkId,
    /// The device's name.
    pub device: String,
    index: u32,
    /// Routes that the kernel refused: tried again whenever the host changes, and told once.
    refused: BTreeSet<IpNet>,
    listed: BTreeSet<IpAddr>,
}

impl HostSide {
    /// Makes the device, or takes over a predecessor's, and hands it to the worker.
    #[allow(clippy::too_many_arguments, reason = "what a device needs, each once")]
    pub fn open(
        network: NetworkId,
        name: &str,
        mtu: u32,
        kept: Option<OwnedFd>,
        state: &StateMemory,
        keeper: &dyn Keeper,
        worker: &WorkerHandle,
        netlink: &mut Netlink,
        links: &[Link],
    ) -> Result<Self, HostPathError> {
        let path = match kept {
            Some(fd) => {
                let path = HostPath::adopt(netlink, fd, state, network)?;
                // It may have changed since the predecessor looked; see `set_mtu`.
                let is_so = |l: &&Link| l.index == path.index() && l.mtu == mtu;
                if !links.iter().any(|link| is_so(&link)) {
                    let _ = netlink.set_link_mtu(path.index(), mtu);
                }
                path
            }
            None => {
                let path = HostPath::open(netlink, "ipv%d", mtu, state, network)?;
                let key = format!("network/{name}/host");
                keeper.keep(&key, path.as_fd()).map_err(HostPathError::Keep)?;
                path
            }
        };
        let (device, index) = (path.name().to_owned(), path.index());
        worker.set_host(network, Some(path))?.map_err(HostPathError::Watch)?;
        Ok(Self { network, device, index, refused: BTreeSet::new(), listed: BTreeSet::new() })
    }

    /// Brings the host's addresses in the list to what they should be.
    pub fn list(&mut self, host: &BTreeSet<IpAddr>, worker: &WorkerHandle) -> Result<(), Gone> {
        for gone in self.listed.difference(host) {
            worker.remove_host_address(self.network, *gone)?;
        }
        let mut listed = BTreeSet::new();
        for address in host {
            // A VM may have been given an address that the host has too: the configuration's
            // check refuses that at `up`; what the host gets later loses.
            if worker.add_host_address(self.network, *address)?.is_ok() {
                listed.insert(*address);
            }
        }
        self.listed = listed;
        Ok(())
    }

    /// Brings the kernel's routes to what they should be, whoever made those there are: they go
    /// through our own device. Says what the kernel refused and had not refused before; the rest is
    /// done all the same.
    pub fn route(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
        facts: &Facts,
        netlink: &mut Netlink,
    ) -> Vec<NetlinkError> {
        let mut errors = Vec::new();
        // What cannot be listed is written anew: that is right too, only louder.
        let there = BTreeSet::from_iter(netlink.routes_through(self.index).unwrap_or_default());
        let wanted: BTreeSet<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        let mut refused = BTreeSet::new();
        for prefix in &wanted {
            let source = match prefix {
                IpNet::V4(_) => facts.host4.map(IpAddr::V4),
                IpNet::V6(_) => facts.host6.map(IpAddr::V6),
            };
            if there.contains(&Route { prefix: *prefix, source }) {
                continue;
            }
            if let Err(error) = netlink.replace_route(*prefix, self.index, source) {
                if !self.refused.contains(prefix) {
                    errors.push(error);
                }
                refused.insert(*prefix);
            }
        }
        // After the new ones: what takes the place of a larger one is there before it goes.
        for route in there.iter().filter(|route| !wanted.contains(&route.prefix)) {
            errors.extend(netlink.remove_route(route.prefix, self.index).err());
        }
        self.refused = refused;
        errors
    }

    /// The VMs' links carry other sizes now. That the kernel refuses costs nothing but a datagram
    /// that does not fit, which is counted.
    pub fn set_mtu(&self, mtu: u32, netlink: &mut Netlink) {
        let _ = netlink.set_link_mtu(self.index, mtu);
    }

    /// Takes the path away; the routes go with the device.
    pub fn close(self, worker: &WorkerHandle) {
        let _ = worker.set_host(self.network, None);
    }
}

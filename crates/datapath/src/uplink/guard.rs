//! Keeps the host's datagrams from the base and the VMs' datagrams from the host.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use ipnet::IpNet;

use super::UplinkError;
use crate::names::NetworkId;
use crate::state::StateMemory;

/// The guard's maps, as the holder keeps them.
#[derive(Debug)]
pub struct GuardDescriptors<T> {
    /// The VMs' IPv4 addresses.
    pub vm4: T,
    /// The VMs' IPv6 addresses.
    pub vm6: T,
    /// The host's IPv4 addresses.
    pub host4: T,
    /// The host's IPv6 addresses.
    pub host6: T,
}

/// The program that decides what a packet socket sees.
#[derive(Debug)]
pub struct SocketFilter(OwnedFd);

/// The two filters of one network's card, and the addresses they look at.
#[derive(Debug)]
pub struct Guard {
    maps: GuardDescriptors<OwnedFd>,
}

impl Guard {
    /// Makes empty maps. Nothing is attached yet.
    /// `label` names this instance and network among all that use the card.
    pub fn open(label: &str, state: &StateMemory, network: NetworkId) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// Takes over a predecessor's maps; what it attached stays attached.
    pub fn adopt(
        maps: GuardDescriptors<OwnedFd>,
        label: &str,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// The maps, to be kept by the holder.
    pub fn descriptors(&self) -> GuardDescriptors<BorrowedFd<'_>> {
        unimplemented!()
    }

    /// The filter for a packet socket: all but the host's own datagrams.
    pub fn socket_filter(&self) -> Result<SocketFilter, UplinkError> {
        unimplemented!()
    }

    /// Attaches the ingress program to a card, in place of what an earlier guard with this label
    /// left there.
    pub fn attach(&mut self, index: u32) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Removes the ingress program, and the queueing discipline if we made it and nobody uses it.
    pub fn detach(&mut self) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Datagrams to this address or prefix are for a VM: the host's stack no longer sees them.
    pub fn add_vm(&self, prefix: IpNet) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Undoes [`Guard::add_vm`].
    pub fn remove_vm(&self, prefix: IpNet) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Datagrams to this address are the host's own: the base no longer sees them.
    pub fn add_host(&self, address: IpAddr) -> Result<(), UplinkError> {
        unimplemented!()
    }

    /// Undoes [`Guard::add_host`].
    pub fn remove_host(&self, address: IpAddr) -> Result<(), UplinkError> {
        unimplemented!()
    }
}

//! A network's adapter card: what is attached to it, and what follows when it changes.
//!
//! # Theory of operation
//! Four things belong to a card in use: the packet socket that carries the VMs' datagrams, the
//! guard that shares the card with the host, the settings that were turned off, and the LAN side
//! that speaks for the VMs' addresses. A successor takes over the first two by their descriptors
//! and the rest from the state memory; `down` undoes them in the reverse order. A socket whose ring
//! cannot be taken over is replaced by a new one. AF_XDP comes on top of it (`driver`).
//!
//! A card may go and come back (a module reloaded, a veth made anew): the base waits for its name,
//! moves the socket to the new index and attaches the guard there.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use datapath::keeper::Keeper;
use datapath::names::{Mac, NetworkId};
use datapath::netlink::{Link, Netlink};
use datapath::state::{Place, StateMemory};
use datapath::uplink::{self, Guard, GuardMaps, PacketUplink, UplinkError, XdpUplink};
use datapath::worker::UplinkFacts;
use ipnet::IpNet;

use super::driver;
use super::network::Around;
use crate::keeper::Inheritance;

/// Why a card cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// There is no such interface.
    #[error("network `{network}`: there is no adapter `{name}` here; there are: {known}")]
    Missing {
        /// The network.
        network: String,
        /// The configured name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// It carries no Ethernet.
    #[error(
        "network `{network}`: `{name}` has no MAC address: the uplink must be an Ethernet card"
    )]
    NotEthernet {
        /// The network.
        network: String,
        /// The configured name.
        name: String,
    },
    /// The kernel refused something.
    #[error("network `{network}`: cannot use the card `{name}`")]
    Uplink {
        /// The network.
        network: String,
        /// The configured name.
        name: String,
        /// What, and why.
        source: UplinkError,
    },
    /// The holder does not keep it.
    #[error("network `{network}`: cannot keep the descriptors of the card")]
    Keep {
        /// The network.
        network: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// A card in use.
#[derive(Debug)]
pub struct Card {
    /// Its name, which it keeps when it comes back.
    pub name: String,
    /// Its index now.
    pub index: u32,
    /// Whether everything on the card is as this base wants it: what was taken over may be as
    /// another wanted it, who had another configuration or was of another version.
    pub settled: bool,
    /// Whether the VMs' datagrams go by AF_XDP.
    pub by_xdp: bool,
    pub(super) guard: Guard,
    label: String,
    coalesce: bool,
}

/// A card in use, and the sockets on it for the worker.
pub type Opened = (Card, PacketUplink, Option<XdpUplink>);

/// What a network must know to open its card.
pub struct CardSetup<'a> {
    /// The network.
    pub network: &'a str,
    /// Its record.
    pub id: NetworkId,
    /// The card.
    pub link: &'a Link,
    /// Whether software GRO may stay on.
    pub coalesce: bool,
    /// Frames of a receive ring that is made; one that is taken over stays as it is.
    pub frames: u32,
    /// Names this network's guard among all that use the card.
    pub label: &'a str,
    /// The host's own addresses.
    pub host: &'a [IpAddr],
    /// The VMs' addresses and prefixes.
    pub vms: &'a [IpNet],
}

impl Card {
    /// Attaches everything to the card; what a predecessor left is taken over. What cannot be
    /// attached whole is undone, unless a successor will try again.
    pub fn open(
        setup: &CardSetup<'_>,
        inheritance: &mut Inheritance,
        state: &StateMemory,
        keeper: &dyn Keeper,
        netlink: &mut Netlink,
    ) -> Result<Opened, CardError> {
        let takeover = state.takeovers() > 0;
        let opened = Self::attach(setup, inheritance, state, keeper, netlink);
        if opened.is_err() {
            // Its program would go on taking frames that nobody serves.
            let _ = keeper.forget_all(&driver::prefix(setup.network));
        }
        if opened.is_err() && !takeover {
            // The error that is told is the one that led here.
            let _ = Guard::detach(netlink, setup.link.index, setup.label);
            let _ = uplink::turn_on_again(&setup.link.name, state, setup.id);
        }
        opened
    }

    fn attach(
        setup: &CardSetup<'_>,
        inheritance: &mut Inheritance,
        state: &StateMemory,
        keeper: &dyn Keeper,
        netlink: &mut Netlink,
    ) -> Result<Opened, CardError> {
        let failed = |source| CardError::Uplink {
            network: setup.network.to_owned(),
            name: setup.link.name.clone(),
            source,
        };
        let kept = |source| CardError::Keep { network: setup.network.to_owned(), source };
        let key = |part: &str| format!("network/{}/{part}", setup.network);
        let (label, id) = (setup.label.to_owned(), setup.id);
        let (index, name, coalesce) = (setup.link.index, setup.link.name.clone(), setup.coalesce);
        let xdp = driver::adopt(setup, inheritance, keeper, state).map_err(kept)?;
        let by_xdp = xdp.is_some();
        let guard = match GuardMaps::find(|part| inheritance.take(&key(part))) {
            None => Guard::open(&label).map_err(failed)?,
            Some(maps) => {
                let guard = Guard::adopt(maps, &label);
                let left = inheritance.take(&key("uplink"));
                match left.map(|socket| PacketUplink::adopt(socket, index, state, id)) {
                    // All that is attached to the card works on as it is, until there is time.
                    Some(Ok(card)) => {
                        let settled = false;
                        let own = Self { name, index, settled, by_xdp, guard, label, coalesce };
                        return Ok((own, card, xdp));
                    }
                    Some(Err(why @ UplinkError::Adopt { .. })) => {
                        let what = format!(
                            "{why}: a new socket is made on the card, what lay in the old one's \
                             ring is lost"
                        );
                        // Before there is a record of the new one, which does not fit the old.
                        keeper.forget(&key("uplink")).map_err(kept)?;
                        state.note(Place::Network(id), what);
                    }
                    Some(Err(error)) => return Err(failed(error)),
                    None => {}
                }
                guard
            }
        };
        for (part, fd) in guard.descriptors().named() {
            keeper.keep(&key(part), fd).map_err(kept)?;
        }
        share(&guard, setup.host, setup.vms).map_err(failed)?;
        uplink::turn_off(&name, coalesce, state, id).map_err(failed)?;
        let filter = guard.socket_filter().map_err(failed)?;
        let card = PacketUplink::open(index, setup.frames, &filter, state, id).map_err(failed)?;
        keeper.keep(&key("uplink"), card.as_fd()).map_err(kept)?;
        guard.attach(netlink, index).map_err(failed)?;
        // AF_XDP may have to be ended, which is for a worker that serves.
        let settled = !by_xdp;
        Ok((Self { name, index, settled, by_xdp, guard, label, coalesce }, card, xdp))
    }

    /// Brings what was taken over to how this base wants it. The VMs' traffic goes on meanwhile.
    pub fn settle(
        &mut self,
        id: NetworkId,
        host: &[IpAddr],
        vms: &[IpNet],
        around: &Around<'_>,
        netlink: &mut Netlink,
    ) -> Result<(), UplinkError> {
        self.settled = true;
        share(&self.guard, host, vms)?;
        uplink::turn_off(&self.name, self.coalesce, around.state, id)?;
        let filter = self.guard.socket_filter()?;
        // The worker may have ended: then there is nobody to filter for.
        around.worker.set_filter(id, filter).unwrap_or(Ok(()))?;
        self.guard.attach(netlink, self.index)
    }

    /// Undoes what a network that is gone, or uses another card now, had attached to this one.
    /// `socket` is its packet socket, if there still is one.
    pub fn leave(
        name: &str,
        label: &str,
        socket: Option<OwnedFd>,
        state: &StateMemory,
        id: NetworkId,
        links: &[Link],
        netlink: &mut Netlink,
    ) -> Result<(), UplinkError> {
        let bound = socket.as_ref().and_then(|socket| PacketUplink::card_of(socket.as_fd()));
        let link = links.iter().find(|link| bound.map_or(link.name == name, |i| link.index == i));
        let Some(link) = link else { return Ok(()) };
        let detached = Guard::detach(netlink, link.index, label);
        uplink::turn_on_again(&link.name, state, id)?;
        detached
    }

    /// What the worker must know of the card.
    pub fn facts(link: &Link) -> Option<UplinkFacts> {
        let mac: Mac = link.mac?;
        Some(UplinkFacts { mac, mtu: link.mtu, up: link.up && link.carrier })
    }

    /// The card came back, perhaps under another index: everything is attached there.
    pub fn moved(
        &mut self,
        link: &Link,
        state: &StateMemory,
        id: NetworkId,
        netlink: &mut Netlink,
    ) -> Result<(), UplinkError> {
        self.index = link.index;
        uplink::turn_off(&link.name, self.coalesce, state, id)?;
        self.guard.attach(netlink, link.index)
    }

    /// The host got or lost an address of its own.
    pub fn host_address(&self, address: IpAddr, has: bool) -> Result<(), UplinkError> {
        if has { self.guard.add_host(address) } else { self.guard.remove_host(address) }
    }

    /// The list has become this: the host's stack sees again what has left it.
    pub fn guard_vms(&self, vms: &[IpNet]) -> Result<(), UplinkError> {
        share_vms(&self.guard, vms)
    }

    /// Undoes everything but the socket, which the worker closes.
    pub fn close(
        self,
        state: &StateMemory,
        id: NetworkId,
        netlink: &mut Netlink,
    ) -> Result<(), UplinkError> {
        let detached = Guard::detach(netlink, self.index, &self.label);
        uplink::turn_on_again(&self.name, state, id)?;
        detached
    }
}

/// Brings the guard's maps to these addresses: a predecessor's may say what has changed since.
fn share(guard: &Guard, host: &[IpAddr], vms: &[IpNet]) -> Result<(), UplinkError> {
    for address in host {
        guard.add_host(*address)?;
    }
    for gone in guard.hosts()?.iter().filter(|a| !host.contains(a)) {
        guard.remove_host(*gone)?;
    }
    share_vms(guard, vms)
}

/// New ones first: what takes the place of a larger one is there before it goes.
fn share_vms(guard: &Guard, vms: &[IpNet]) -> Result<(), UplinkError> {
    for prefix in vms {
        guard.add_vm(*prefix)?;
    }
    for gone in guard.vms()?.iter().filter(|p| !vms.contains(p)) {
        guard.remove_vm(*gone)?;
    }
    Ok(())
}

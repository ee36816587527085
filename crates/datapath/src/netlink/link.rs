//! Network interfaces.

use std::io;

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};
use crate::names::Mac;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; `None` if the interface is not Ethernet.
    pub mac: Option<Mac>,
    /// Octets of the largest IP datagram.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// The cable is in.
    pub carrier: bool,
}

impl Link {
    /// Reads a message. `None` if it is about something else: what a bridge says of its ports has
    /// the same type, and a wireless card's events lack most of what a link has.
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
                LinkAttribute::Address(bytes)
                    if message.header.link_layer_type == LinkLayerType::Ether =>
                {
                    link.mac = bytes.as_slice().try_into().ok().map(Mac);
                }
                _ => {}
            }
        }
        (!link.name.is_empty() && link.mtu > 0).then_some(link)
    }
}

fn about(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

impl Netlink {
    /// The link with this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find_link(message).map_err(|e| NetlinkError::new(format!("look up link {name}"), e))
    }

    /// The link with this index.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.find_link(about(index))
            .map_err(|e| NetlinkError::new(format!("look up link number {index}"), e))
    }

    fn find_link(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.ask(RouteNetlinkMessage::GetLink(message)) {
            Ok(answer) => Ok(answer.iter().find_map(|raw| match raw.parse() {
                Some(RouteNetlinkMessage::NewLink(m)) => Link::from_message(&m),
                _ => None,
            })),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answer = self
            .list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(|e| NetlinkError::new("list the links", e))?;
        Ok(answer
            .iter()
            .filter_map(|raw| match raw.parse() {
                Some(RouteNetlinkMessage::NewLink(m)) => Link::from_message(&m),
                _ => None,
            })
            .collect())
    }

    /// Sets a link up or down.
    pub fn set_link_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mut message = about(index);
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.set_link(message, "set the state")
    }

    /// Sets a link's MTU.
    pub fn set_link_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = about(index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(message, "set the MTU")
    }

    /// Keeps the kernel from giving a link an IPv6 address of its own when it goes up.
    pub fn set_link_without_addresses(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = about(index);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
        ])]));
        self.set_link(message, "turn off IPv6 autoconfiguration")
    }

    fn set_link(&mut self, message: LinkMessage, what: &str) -> Result<(), NetlinkError> {
        let index = message.header.index;
        self.order(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|e| NetlinkError::new(format!("{what} of link number {index}"), e))
    }
}

/// What only tests do: they make their own links.
#[cfg(test)]
mod making {
    use std::os::fd::{AsRawFd, BorrowedFd};

    use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
    use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkInfo};

    use super::*;

    impl Netlink {
        /// Makes two links joined by a cable; the second lies in another namespace.
        pub(crate) fn add_veth(&mut self, name: &str, peer: &str, namespace: BorrowedFd<'_>) {
            let mut far = LinkMessage::default();
            far.attributes.push(LinkAttribute::IfName(peer.to_owned()));
            far.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
            let mut near = LinkMessage::default();
            near.attributes.push(LinkAttribute::IfName(name.to_owned()));
            near.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
            ]));
            self.order(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL).unwrap();
        }

        pub(crate) fn remove_link(&mut self, index: u32) {
            self.order(RouteNetlinkMessage::DelLink(about(index)), 0).unwrap();
        }

        pub(crate) fn set_link_mac(&mut self, index: u32, mac: Mac) {
            let mut message = about(index);
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
            self.set_link(message, "set the MAC").unwrap();
        }
    }
}

//! The host's own addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::{Netlink, NetlinkError};

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface it is on.
    pub index: u32,
    /// Address and prefix length.
    pub net: IpNet,
    /// Of global scope: neither link-local nor for the host alone.
    pub global: bool,
    /// IPv6: not usable, because it is still being probed for or was found to be taken.
    pub tentative: bool,
}

impl Address {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link ADDRESS is the other end's, and LOCAL is ours.
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::Flags(f) => flags = *f,
                _ => {}
            }
        }
        let own: IpAddr = local.or(address)?;
        let probing =
            flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
        Some(Self {
            index: message.header.index,
            net: IpNet::new(own, message.header.prefix_len).ok()?,
            global: message.header.scope == AddressScope::Universe,
            tentative: probing || flags.contains(AddressFlags::Dadfailed),
        })
    }
}

impl Netlink {
    /// All addresses of the host.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let answer = self
            .list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(|e| NetlinkError::new("list the host's addresses", e))?;
        Ok(answer
            .iter()
            .filter_map(|raw| match raw.parse() {
                Some(RouteNetlinkMessage::NewAddress(m)) => Address::from_message(&m),
                _ => None,
            })
            .collect())
    }
}

/// What only tests do: they give their own links addresses.
#[cfg(test)]
mod making {
    use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
    use netlink_packet_route::AddressFamily;

    use super::*;

    fn message(index: u32, net: IpNet) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = net.prefix_len();
        message.header.family = match net {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(AddressAttribute::Local(net.addr()));
        message.attributes.push(AddressAttribute::Address(net.addr()));
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        message
    }

    impl Netlink {
        pub(crate) fn add_address(&mut self, index: u32, net: &str) {
            let message = message(index, net.parse().unwrap());
            self.order(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
                .unwrap();
        }

        pub(crate) fn remove_address(&mut self, index: u32, net: &str) {
            let message = message(index, net.parse().unwrap());
            self.order(RouteNetlinkMessage::DelAddress(message), 0).unwrap();
        }
    }
}

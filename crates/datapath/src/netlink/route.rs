//! Routes: those to the VMs through the host's TUN device, and the host's own gateways.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// A default gateway of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// The interface it is reached through.
    pub index: u32,
    /// Its address; an IPv4 route may have a gateway with an IPv6 address.
    pub address: IpAddr,
    /// The family of the destinations it serves: IPv4 if true.
    pub for_ip4: bool,
    /// Lower is preferred.
    pub metric: u32,
}

fn in_main_table(message: &RouteMessage) -> bool {
    let table = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(message.header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// Whether a message speaks of a default route that the host uses.
pub(super) fn is_default(message: &RouteMessage) -> bool {
    message.header.destination_prefix_length == 0
        && message.header.kind == RouteType::Unicast
        && !message.header.flags.contains(RouteFlags::Cloned)
        && in_main_table(message)
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(a)) | RouteAttribute::Via(RouteVia::Inet(a)) => {
            Some(IpAddr::V4(*a))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(a))
        | RouteAttribute::Via(RouteVia::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })
}

fn device_of(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The gateways of one default route, several if it has several next hops.
fn gateways_of(message: &RouteMessage) -> Vec<Gateway> {
    let metric = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        })
        .unwrap_or(0);
    let for_ip4 = message.header.address_family == AddressFamily::Inet;
    let mut gateways = Vec::new();
    if let (Some(address), Some(index)) =
        (gateway_of(&message.attributes), device_of(&message.attributes))
    {
        gateways.push(Gateway { index, address, for_ip4, metric });
    }
    for attribute in &message.attributes {
        let RouteAttribute::MultiPath(hops) = attribute else { continue };
        for hop in hops {
            if let Some(address) = gateway_of(&hop.attributes) {
                gateways.push(Gateway { index: hop.interface_index, address, for_ip4, metric });
            }
        }
    }
    gateways
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn source_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(a) => address_of(a),
        _ => None,
    })
}

/// What a route leads to, but for a default route.
fn destination_of(message: &RouteMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(a) => address_of(a),
        _ => None,
    })?;
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

fn family(prefix: IpNet) -> AddressFamily {
    match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn through(prefix: IpNet, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix);
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.attributes.push(RouteAttribute::Destination(prefix.network().into()));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

impl Netlink {
    /// The default gateways of the main table, the preferred first.
    pub fn gateways(&mut self) -> Result<Vec<Gateway>, NetlinkError> {
        let mut gateways = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let answer = match self.list(&RouteNetlinkMessage::GetRoute(message)) {
                // A namespace in which no route was ever made has no such table.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                answer => answer.map_err(|e| NetlinkError::new("list the routes", e))?,
            };
            for raw in answer {
                if let Some(RouteNetlinkMessage::NewRoute(m)) = raw.parse()
                    && is_default(&m)
                {
                    gateways.extend(gateways_of(&m));
                }
            }
        }
        gateways.sort_by_key(|g| g.metric);
        Ok(gateways)
    }

    /// Routes `prefix` through the device `index`; what the host sends there carries `source`, if
    /// given. Refused (EEXIST) if there is a route for exactly this prefix through another device:
    /// that one is somebody else's.
    pub fn replace_route(
        &mut self,
        prefix: IpNet,
        index: u32,
        source: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let mut message = through(prefix, index);
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match prefix {
            IpNet::V4(_) => RouteScope::Link,
            IpNet::V6(_) => RouteScope::Universe,
        };
        if let Some(source) = source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        let request = || RouteNetlinkMessage::NewRoute(message.clone());
        let first = self.order(request(), NLM_F_CREATE | NLM_F_EXCL);
        match first {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => match self.has_route(prefix, index)
            {
                Ok(true) => self.order(request(), NLM_F_CREATE | NLM_F_REPLACE),
                Ok(false) => Err(e),
                Err(other) => Err(other),
            },
            other => other,
        }
        .map_err(|e| NetlinkError::new(format!("route {prefix} through link number {index}"), e))
    }

    /// The routes of the main table through the device `index`, each with the source address that
    /// it prefers.
    pub fn routes_through(
        &mut self,
        index: u32,
    ) -> Result<BTreeMap<IpNet, Option<IpAddr>>, NetlinkError> {
        let failed = |e| NetlinkError::new(format!("list the routes through link {index}"), e);
        let mut routes = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes.push(RouteAttribute::Oif(index));
            let answer = match self.list(&RouteNetlinkMessage::GetRoute(message)) {
                // A namespace in which no route was ever made has no such table.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                answer => answer.map_err(failed)?,
            };
            for raw in answer {
                let Some(RouteNetlinkMessage::NewRoute(m)) = raw.parse() else { continue };
                if in_main_table(&m)
                    && m.header.kind == RouteType::Unicast
                    && device_of(&m.attributes) == Some(index)
                    && let Some(prefix) = destination_of(&m)
                {
                    routes.insert(prefix, source_of(&m.attributes));
                }
            }
        }
        Ok(routes)
    }

    /// Whether the main table routes exactly this prefix through the device `index`.
    fn has_route(&mut self, prefix: IpNet, index: u32) -> io::Result<bool> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(prefix);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.attributes.push(RouteAttribute::Oif(index));
        let answer = self.list(&RouteNetlinkMessage::GetRoute(message))?;
        Ok(answer.iter().any(|raw| {
            let Some(RouteNetlinkMessage::NewRoute(m)) = raw.parse() else { return false };
            m.header.destination_prefix_length == prefix.prefix_len()
                && in_main_table(&m)
                && device_of(&m.attributes) == Some(index)
                && m.attributes.contains(&RouteAttribute::Destination(prefix.network().into()))
        }))
    }

    /// Removes such a route; that there is none is no error.
    pub fn remove_route(&mut self, prefix: IpNet, index: u32) -> Result<(), NetlinkError> {
        let mut message = through(prefix, index);
        message.header.scope = RouteScope::NoWhere;
        match self.order(RouteNetlinkMessage::DelRoute(message), 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            other => other,
        }
        .map_err(|e| {
            NetlinkError::new(format!("remove the route {prefix} through link number {index}"), e)
        })
    }
}

/// What only tests do: they give their host gateways.
#[cfg(test)]
impl Netlink {
    pub(crate) fn add_gateway(&mut self, address: IpAddr, index: u32, metric: u32) {
        let mut message = through(
            match address {
                IpAddr::V4(_) => "0.0.0.0/0".parse().unwrap(),
                IpAddr::V6(_) => "::/0".parse().unwrap(),
            },
            index,
        );
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.attributes.retain(|a| !matches!(a, RouteAttribute::Destination(_)));
        message.attributes.push(RouteAttribute::Gateway(address.into()));
        message.attributes.push(RouteAttribute::Priority(metric));
        self.order(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL).unwrap();
    }
}

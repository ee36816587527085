//! What the host's kernel tells about itself: its own addresses, its cards, its gateways.
//!
//! Read afresh as a whole whenever something changed: changes are rare, and a list that was read is
//! right where a list that was kept up to date may have missed something.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use datapath::netlink::{Address, Gateway, Link, Netlink, NetlinkError};
use ipnet::IpNet;

/// How often a patient reader tries, and how long it waits in between.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The host at one moment.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// All interfaces.
    pub links: Vec<Link>,
    addresses: Vec<Address>,
    gateways: Vec<Gateway>,
}

impl HostFacts {
    /// Reads everything.
    pub fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        Ok(Self {
            links: netlink.links()?,
            addresses: netlink.addresses()?,
            gateways: netlink.gateways()?,
        })
    }

    /// The same for a base that can do nothing without: where too much changes at once, it looks
    /// again for a moment.
    pub fn read_patiently(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        for _ in 0..TRIES {
            if let Ok(facts) = Self::read(netlink) {
                return Ok(facts);
            }
            std::thread::sleep(PAUSE);
        }
        Self::read(netlink)
    }

    /// The interface called `name`.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }

    /// All usable global addresses of the host, on whichever interface.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.usable().map(|a| a.net.addr()).collect()
    }

    /// The host's usable global addresses on an interface, with their prefixes' lengths.
    pub fn nets(&self, index: u32) -> impl Iterator<Item = IpNet> + '_ {
        self.usable().filter(move |a| a.index == index).map(|a| a.net)
    }

    /// The host's first usable address of IPv4 on an interface.
    pub fn first4(&self, index: u32) -> Option<Ipv4Addr> {
        self.usable().filter(|a| a.index == index).find_map(|a| match a.net.addr() {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        })
    }

    /// The host's first usable address of IPv6 on an interface.
    pub fn first6(&self, index: u32) -> Option<Ipv6Addr> {
        self.usable().filter(|a| a.index == index).find_map(|a| match a.net.addr() {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        })
    }

    /// The host's usable link-local address of IPv6 on an interface.
    pub fn link_local(&self, index: u32) -> Option<Ipv6Addr> {
        let here = self.addresses.iter().filter(|a| a.index == index && !a.tentative);
        here.filter_map(|a| match a.net.addr() {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        })
        .find(Ipv6Addr::is_unicast_link_local)
    }

    /// The host's IPv4 gateway through an interface, if it has an IPv4 address.
    pub fn gateway4(&self, index: u32) -> Option<Ipv4Addr> {
        self.gateways_of(index, true).find_map(|gateway| match gateway {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        })
    }

    /// The host's IPv6 gateway through an interface.
    pub fn gateway6(&self, index: u32) -> Option<Ipv6Addr> {
        self.gateways_of(index, false).find_map(|gateway| match gateway {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        })
    }

    /// The gateways of one family's destinations, the preferred first.
    fn gateways_of(&self, index: u32, for_ip4: bool) -> impl Iterator<Item = IpAddr> {
        let serves = move |g: &&Gateway| g.index == index && g.for_ip4 == for_ip4;
        self.gateways.iter().filter(serves).map(|g| g.address)
    }

    fn usable(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|a| a.global && !a.tentative && !a.net.addr().is_loopback())
    }
}

/// What only tests do: a host as they want it.
#[cfg(test)]
impl HostFacts {
    /// Gives the host a link.
    pub fn with_link(mut self, link: Link) -> Self {
        self.links.push(link);
        self
    }

    /// Gives the host an address.
    pub fn with_address(mut self, index: u32, net: &str) -> Self {
        let net = net.parse().unwrap();
        self.addresses.push(Address { index, net, global: true, tentative: false });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ip6_next_hop_of_the_ip4_default_route_is_no_gateway_for_ip6() {
        let gateway = |address: &str, for_ip4, metric| Gateway {
            index: 2,
            address: address.parse().unwrap(),
            for_ip4,
            metric,
        };
        // As providers do it: `default via inet6 fe80::1` (RFC 5549).
        let mut host =
            HostFacts { gateways: vec![gateway("fe80::1", true, 0)], ..HostFacts::default() };
        assert_eq!((host.gateway4(2), host.gateway6(2)), (None, None));
        host.gateways.push(gateway("fe80::2", false, 1024));
        assert_eq!(host.gateway6(2), Some("fe80::2".parse().unwrap()));
        assert_eq!(host.gateway6(3), None, "through another card");
    }
}

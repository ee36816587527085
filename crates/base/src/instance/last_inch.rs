//! What each VM is told on its last inch, out of the configuration: addresses, router, MTU, names.
//!
//! # Theory of operation
//! Two shapes of network, told apart per IPv4 address:
//! - *On link*: the address lies in a prefix whose hosts are neighbours. The VM gets the prefix's
//!   mask; the base answers ARP for every address of it, so VM and LAN host talk with nothing in
//!   between that either could see. The router is the LAN's gateway if it lies in the prefix.
//! - *Routed*: a single address, or a router elsewhere. The VM gets a /32 and the base as router.
//!
//! IPv6 is always routed: addresses of /128, the base's advertisements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::answer::{BASE4, BASE6, DUMMY4, LastInch, Lease4};
use datapath::names::Mac;
use datapath::worker::{Gone, WorkerHandle};
use ipnet::IpNet;

use super::ids::Ids;
use super::network::NetworkSide;
use crate::config::{Config, Network, Vm, is_single};

/// What a network knows besides its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The IPv4 gateway in use.
    pub gateway4: Option<Ipv4Addr>,
    /// The IPv6 gateway in use.
    pub gateway6: Option<Ipv6Addr>,
    /// The host's first IPv4 address on the card.
    pub host4: Option<Ipv4Addr>,
    /// The host's first global IPv6 address on the card.
    pub host6: Option<Ipv6Addr>,
    /// The host's link-local address on the card.
    pub link_local: Option<Ipv6Addr>,
    /// Octets of the largest datagram on the VMs' links.
    pub mtu: u32,
}

/// The prefixes of `network` whose hosts are neighbours of each other.
pub fn on_link(network: &Network) -> Vec<IpNet> {
    network.prefixes.iter().filter(|p| network.on_link && !is_single(p)).copied().collect()
}

/// What the base says to `vm`, but for addresses that were refused.
pub fn of(vm: &Vm, network: &Network, facts: &Facts, refused: &[IpAddr]) -> LastInch {
    let usable = |address: IpAddr| !refused.contains(&address);
    let resolves = network.resolver;
    LastInch {
        guest_mac: vm.mac,
        addresses4: vm
            .addresses4()
            .filter(|a| usable(IpAddr::V4(*a)))
            .map(|address| lease(address, network, facts.gateway4))
            .collect(),
        addresses6: vm.addresses6().filter(|a| usable(IpAddr::V6(*a))).collect(),
        dns: if resolves { vec![BASE4.into(), BASE6.into()] } else { network.dns.clone() },
        search: if resolves { vm.network.clone() } else { String::new() },
        resolves,
        mtu: mtu(vm.mtu.map_or(facts.mtu, u32::from).min(facts.mtu)),
        hostname: vm.hostname.clone(),
        icmp_source4: icmp4(network, facts),
        icmp_source6: icmp6(network, facts),
    }
}

/// Tells the worker what the VMs of a network are to be told from now on.
pub fn tell(
    config: &Config,
    ids: &Ids,
    side: &NetworkSide,
    worker: &WorkerHandle,
) -> Result<(), Gone> {
    for (name, vm) in config.vms.iter().filter(|(_, vm)| vm.network == side.name) {
        worker.set_inch(ids.port(name), of(vm, &side.config, &side.facts, &side.refused))?;
    }
    Ok(())
}

/// How the base speaks in ICMP errors to the outside.
pub fn outward(network: &Network, facts: &Facts) -> LastInch {
    LastInch {
        guest_mac: Some(Mac::default()),
        icmp_source4: icmp4(network, facts),
        icmp_source6: icmp6(network, facts),
        ..LastInch::silent(mtu(facts.mtu))
    }
}

fn icmp4(network: &Network, facts: &Facts) -> Ipv4Addr {
    network.icmp_source4.or(facts.host4).unwrap_or(DUMMY4)
}

fn icmp6(network: &Network, facts: &Facts) -> Ipv6Addr {
    network.icmp_source6.or(facts.host6).unwrap_or(BASE6)
}

fn mtu(octets: u32) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

fn lease(address: Ipv4Addr, network: &Network, gateway: Option<Ipv4Addr>) -> Lease4 {
    let prefix = on_link(network).into_iter().find(|p| p.contains(&IpAddr::V4(address)));
    let router_in = |p: IpNet| gateway.filter(|g| p.contains(&IpAddr::V4(*g)));
    match (prefix, gateway) {
        (Some(p), None) => Lease4 { address, prefix_len: p.prefix_len(), router: BASE4 },
        (Some(p), Some(_)) if let Some(router) = router_in(p) => {
            Lease4 { address, prefix_len: p.prefix_len(), router }
        }
        _ => Lease4 { address, prefix_len: 32, router: BASE4 },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn lease_of(network: &str, facts: Facts) -> Lease4 {
        let text = format!(
            "[network.lan]\n{network}\n[vm.web]\nengine = \"external\"\nsocket = \"web.sock\"\n\
             addresses = [\"203.0.113.10\"]\n"
        );
        let config = config::check_accepted(&text, Path::new("/tmp/lan.toml")).unwrap();
        of(&config.vms["web"], &config.networks["lan"], &facts, &[]).addresses4[0]
    }

    fn gateway(text: &str) -> Facts {
        Facts { gateway4: Some(text.parse().unwrap()), mtu: 1500, ..Facts::default() }
    }

    #[test]
    fn an_address_on_link_gets_the_prefix_mask_and_the_lans_router() {
        let lease = lease_of("prefixes = [\"203.0.113.0/24\"]", gateway("203.0.113.1"));
        assert_eq!((lease.prefix_len, lease.router), (24, "203.0.113.1".parse().unwrap()));
    }

    #[test]
    fn a_router_outside_the_prefix_makes_the_base_the_router_of_a_single_address() {
        let lease = lease_of("prefixes = [\"203.0.113.0/24\"]", gateway("198.51.100.1"));
        assert_eq!((lease.prefix_len, lease.router), (32, BASE4));
        let lease = lease_of("prefixes = [\"203.0.113.10/32\"]", gateway("198.51.100.1"));
        assert_eq!((lease.prefix_len, lease.router), (32, BASE4));
        let lease =
            lease_of("prefixes = [\"203.0.113.0/24\"]\non_link = false", gateway("203.0.113.1"));
        assert_eq!((lease.prefix_len, lease.router), (32, BASE4));
    }

    #[test]
    fn guests_are_told_of_the_base_as_name_server_or_of_those_that_are_configured() {
        let told = |keys: &str| {
            let text = format!(
                "[network.lan]\nprefixes = [\"203.0.113.0/24\"]\n{keys}\n[vm.web]\nengine = \"external\"\n\
                 socket = \"web.sock\"\naddresses = [\"203.0.113.10\"]\n"
            );
            let config = config::check_accepted(&text, Path::new("/tmp/lan.toml")).unwrap();
            let facts = Facts::default();
            let inch = of(&config.vms["web"], &config.networks["lan"], &facts, &[]);
            (inch.dns, inch.search, inch.resolves)
        };
        let base = (vec![BASE4.into(), BASE6.into()], "lan".to_owned(), true);
        assert_eq!(told(""), base);
        assert_eq!(told("dns = [\"203.0.113.53\"]"), base);
        let server: IpAddr = "203.0.113.53".parse().unwrap();
        let others = told("dns = [\"203.0.113.53\"]\nresolver = false");
        assert_eq!(others, (vec![server], String::new(), false));
        assert_eq!(told("resolver = false"), (vec![], String::new(), false));
    }

    #[test]
    fn without_a_router_neighbours_are_still_on_link() {
        let lease = lease_of("prefixes = [\"203.0.113.0/24\"]", Facts::default());
        assert_eq!((lease.prefix_len, lease.router), (24, BASE4));
    }
}

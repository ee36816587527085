//! Checks of a network's surroundings: its gateway, who is a neighbour, whose addresses they are.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Case, Finding};
use crate::config::{Gateway, Network, is_single};

fn about(network: &str) -> String {
    format!("network {network}")
}

fn protocol(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour discovery" }
}

pub(super) fn gateways(case: &Case<'_>) -> Vec<Finding> {
    let facts = case.facts;
    let mut findings = Vec::new();
    for (name, network, card) in case.carded() {
        let Some(link) = facts.host.link(card) else { continue };
        let gateways = facts.gateways(network);
        if gateways.is_empty() && network.gateway == Gateway::Auto {
            let what = format!(
                "the host has no default route through {card}, whose router could be the gateway: \
                 VMs reach their neighbours only"
            );
            let cure =
                format!("write `gateway` under [network.{name}]: an address, or [] for none");
            findings.push(Finding::warning(about(name), what, cure));
        }
        let Some(answers) = facts.answers.get(name) else { continue };
        for gateway in gateways {
            findings.push(match answers {
                Err(why) => Finding::warning(
                    about(name),
                    format!("nobody knows whether the gateway {gateway} answers: {why}"),
                    "sudo ipvisor doctor",
                ),
                Ok(answers) => match answers.get(&gateway) {
                    Some(mac) => {
                        Finding::ok(about(name), format!("the gateway {gateway} answers ({mac})"))
                    }
                    None => silent(name, card, gateway, asked_by(case, gateway, link.index)),
                },
            });
        }
    }
    findings
}

/// Whether the host has an address to ask with.
fn asked_by(case: &Case<'_>, gateway: IpAddr, index: u32) -> bool {
    let host = &case.facts.host;
    gateway.is_ipv6() || host.first4(index).is_some()
}

fn silent(network: &str, card: &str, gateway: IpAddr, with_address: bool) -> Finding {
    let protocol = protocol(gateway);
    let what = format!("the gateway {gateway} does not answer {protocol} on {card}");
    if with_address {
        let cure = format!("look at its address, and at cable, switch port and VLAN of {card}");
        Finding::error(about(network), what, cure)
    } else {
        // Some routers answer nobody without an address.
        let what = format!("{what} (asked in nobody's name: the host has no address there)");
        let cure = format!("sudo ip addr add ADDRESS/LENGTH dev {card}, and ask again");
        Finding::warning(about(network), what, cure)
    }
}

/// Prefixes of which other addresses are reached through the gateway, but are said to be on link; and
/// those that are larger than what is on link.
pub(super) fn neighbours(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, network, card) in case.carded().filter(|(_, network, _)| network.on_link) {
        let Some(link) = case.facts.host.link(card) else { continue };
        let own: Vec<IpNet> = case.facts.host.nets(link.index).collect();
        for prefix in network.prefixes.iter().filter(|p| !is_single(p)) {
            findings.extend(neighbourhood(case, name, network, *prefix, &own));
        }
    }
    findings
}

fn neighbourhood(
    case: &Case<'_>,
    name: &str,
    network: &Network,
    prefix: IpNet,
    own: &[IpNet],
) -> Option<Finding> {
    let same = |address: &IpAddr| address.is_ipv4() == prefix.addr().is_ipv4();
    let gateways = case.facts.gateways(network);
    let mut hosts = own.iter().filter(|net| same(&net.addr())).peekable();
    // Without an address of the host's nobody knows what is on link there.
    hosts.peek()?;
    if let Some(net) = hosts.clone().find(|net| prefix.contains(&net.addr())) {
        let narrower = net.prefix_len() > prefix.prefix_len();
        // Providers give the host an address of its own, and a router outside of it.
        let single = is_single(net);
        return (narrower && !single).then(|| {
            let on_link = net.trunc();
            Finding::warning(
                about(name),
                format!("{prefix} is on link here, says the file; on the host only {on_link} is"),
                format!("write \"{on_link}\" as its prefix under [network.{name}]"),
            )
        });
    }
    let routers: Vec<_> = gateways.iter().filter(|gateway| same(gateway)).collect();
    let outside = !routers.is_empty() && !routers.iter().any(|router| prefix.contains(*router));
    // Whole to one VM: there are no others in it.
    let mut vms = case.config.into_iter().flat_map(|config| config.vms.values());
    let whole = vms.any(|vm| vm.network == name && vm.addresses.contains(&prefix));
    (outside && !whole && prefix.addr().is_ipv4()).then(|| {
        Finding::warning(
            about(name),
            format!(
                "{prefix} looks routed to this machine: neither the host nor the gateway has an \
                 address in it; VMs would look for its other addresses on the LAN"
            ),
            format!("write `on_link = false` under [network.{name}]"),
        )
    })
}

/// The LAN of a network on another card than its uplink.
pub(super) fn other_cards(case: &Case<'_>) -> Vec<Finding> {
    let host = &case.facts.host;
    let mut findings = Vec::new();
    for (name, network, card) in case.carded() {
        for other in host.links.iter().filter(|link| link.name != card && link.mac.is_some()) {
            let there = |net: &IpNet| {
                !is_single(net)
                    && network.prefixes.iter().any(|prefix| prefix.contains(&net.addr()))
            };
            findings.extend(host.nets(other.index).find(there).map(|net| {
                Finding::warning(
                    about(name),
                    format!("its uplink is {card}, but the host's {net} is on {}", other.name),
                    format!(
                        "write `uplink = \"{}\"` under [network.{name}], if that is the LAN",
                        other.name
                    ),
                )
            }));
        }
    }
    findings
}

/// Addresses of VMs that are the host's.
pub(super) fn hosts_own(case: &Case<'_>) -> Vec<Finding> {
    let host = &case.facts.host;
    let mut findings = Vec::new();
    let vms = case.config.into_iter().flat_map(|config| &config.vms);
    for (vm, address) in vms.flat_map(|(name, vm)| vm.addresses.iter().map(move |a| (name, a))) {
        for link in &host.links {
            for net in host.nets(link.index).filter(|net| address.contains(&net.addr())) {
                let (own, card) = (net.addr(), &link.name);
                findings.push(if is_single(address) {
                    Finding::error(
                        format!("vm {vm}"),
                        format!("its address {own} is the host's own, on {card}"),
                        format!("sudo ip addr del {net} dev {card}, or another address for {vm}"),
                    )
                } else {
                    Finding::warning(
                        format!("vm {vm}"),
                        format!("the host's own {own} lies in its {address}: it gets all but that"),
                        format!("sudo ip addr del {net} dev {card}, if {vm} is to have it too"),
                    )
                });
            }
        }
    }
    findings
}

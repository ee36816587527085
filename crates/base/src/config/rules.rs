//! What must hold between the tables: nothing is given twice, and everything has its network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use ipnet::IpNet;

use super::addresses::{is_single, not_a_host, shown};
use super::keys;
use super::network::{self, LEAST_MTU_IPV6};
use super::reader::At;
use super::report::Mistake;
use super::types::Engine;
use super::vm;
use crate::ledger::DiskId;

/// Checks everything that concerns more than one table.
pub(super) fn check(networks: &[network::Draft], vms: &mut [vm::Draft], out: &mut Vec<Mistake>) {
    for network in networks {
        prefixes_overlap(network, out);
        gateway_is_nobodys_prefix(network, out);
    }
    cards(networks, out);
    for vm in vms.iter_mut() {
        find_network(networks, vm, out);
    }
    for network in networks {
        let here: Vec<&vm::Draft> = on(network, vms).collect();
        addresses_lie_inside(network, &here, out);
        addresses_differ(&here, out);
        names_differ(&here, out);
        macs_differ(&here, out);
        mtus_carry_ipv6(&here, out);
    }
    sockets_differ(vms, out);
    disks_are_not_shared(vms, out);
    super::order::check(vms, out);
}

/// The VMs of a network.
fn on<'v>(
    network: &'v network::Draft,
    vms: &'v [vm::Draft],
) -> impl Iterator<Item = &'v vm::Draft> {
    vms.iter().filter(|v| v.network.as_ref().is_some_and(|n| n.value == network.name.value))
}

fn prefixes_overlap(network: &network::Draft, out: &mut Vec<Mistake>) {
    for (i, later) in network.prefixes.iter().enumerate() {
        let overlaps =
            |e: &&At<IpNet>| e.value.contains(&later.value) || later.value.contains(&e.value);
        if let Some(earlier) = network.prefixes.iter().take(i).find(overlaps) {
            let message = format!("the prefixes {} and {} overlap", earlier.value, later.value);
            out.push(
                Mistake::at(&later.at, message)
                    .other(&earlier.at, "this one")
                    .help("keep the larger; the addresses of the smaller are in it"),
            );
        }
    }
}

/// A gateway that is the end of a prefix is a slip of the pen.
fn gateway_is_nobodys_prefix(network: &network::Draft, out: &mut Vec<Mistake>) {
    for gateway in &network.gateways {
        let v4_end = |p: &At<IpNet>| match gateway.value {
            IpAddr::V4(_) if p.value.contains(&gateway.value) => {
                not_a_host(gateway.value, &p.value)
            }
            _ => None,
        };
        if let Some(why) = network.prefixes.iter().find_map(v4_end) {
            let message = format!("{} is no router: {why}", gateway.value);
            out.push(Mistake::at(&gateway.at, message).help("write the LAN's router"));
        }
    }
}

fn cards(networks: &[network::Draft], out: &mut Vec<Mistake>) {
    let mut seen: BTreeMap<&str, &Range<usize>> = BTreeMap::new();
    for network in networks {
        let (Some(card), Some(at)) = (&network.network.uplink, &network.uplink_at) else {
            continue;
        };
        if let Some(first) = seen.insert(card, at) {
            out.push(
                Mistake::at(at, format!("`{card}` is the uplink of two networks"))
                    .other(first, "here first")
                    .help("one network can have both prefixes, or the second has another card"),
            );
        }
    }
}

/// Finds the network that a VM is on, and says so where the file does not.
fn find_network(networks: &[network::Draft], vm: &mut vm::Draft, out: &mut Vec<Mistake>) {
    let names = || networks.iter().map(|n| n.name.value.as_str());
    match &vm.network {
        Some(said) if names().any(|n| n == said.value) => {}
        Some(said) => {
            let near = keys::closest(&said.value, names().map(|n| (n, n)));
            let message = format!("there is no network `{}`", said.value);
            let help = match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add a table [network.{}]", said.value),
            };
            out.push(Mistake::at(&said.at, message).help(help));
        }
        None => match networks {
            [only] => vm.network = Some(At::new(only.name.value.clone(), &vm.name.at)),
            [] => out.push(
                Mistake::at(&vm.name.at, format!("VM `{}` has no network", vm.name.value))
                    .help("add a table [network.NAME] with `prefixes`, and `uplink` for a way out"),
            ),
            several => {
                let names: Vec<&str> =
                    several.iter().take(10).map(|n| n.name.value.as_str()).collect();
                let message = format!("VM `{}` does not say its network", vm.name.value);
                let help = format!("add `network = \"...\"`, one of: {}", names.join(", "));
                out.push(Mistake::at(&vm.name.at, message).help(help));
            }
        },
    }
}

fn addresses_lie_inside(network: &network::Draft, vms: &[&vm::Draft], out: &mut Vec<Mistake>) {
    if !network.whole {
        return;
    }
    let name = &network.name.value;
    for own in vms.iter().flat_map(|v| &v.addresses) {
        let Some(prefix) = network.prefixes.iter().find(|p| p.value.contains(&own.value)) else {
            let short = own.value.to_string();
            let mistake = Mistake::at(
                &own.at,
                format!("{} lies in no prefix of network `{name}`", shown(&own.value)),
            );
            out.push(match network.prefixes.first() {
                Some(first) => mistake.other(&first.at, "its prefixes").help(format!(
                    "if it is routed to this machine, add \"{short}\" to the prefixes"
                )),
                None => mistake.help("add its prefix to the network's `prefixes`"),
            });
            continue;
        };
        let single = is_single(&own.value);
        if single && let Some(why) = not_a_host(own.value.addr(), &prefix.value) {
            let message = format!("no VM can have {}: {why}", shown(&own.value));
            out.push(Mistake::at(&own.at, message).help("give the VM another of the prefix"));
        }
        if let Some(gateway) = network.gateways.iter().find(|g| own.value.contains(&g.value)) {
            let message = if single {
                format!("{} is the gateway of network `{name}`", shown(&own.value))
            } else {
                format!("the gateway {} of network `{name}` lies in {}", gateway.value, own.value)
            };
            out.push(
                Mistake::at(&own.at, message)
                    .other(&gateway.at, "the gateway")
                    .help("give the VM an address that nobody else has"),
            );
        }
    }
}

/// Two VMs never own the same address. A VM may have a prefix, and single addresses from it.
fn addresses_differ(vms: &[&vm::Draft], out: &mut Vec<Mistake>) {
    let mut all: Vec<(&At<IpNet>, &vm::Draft)> =
        vms.iter().flat_map(|v| v.addresses.iter().map(|a| (a, *v))).collect();
    // Networks sort by address, then the larger first: whatever a prefix contains follows it.
    all.sort_by_key(|(a, _)| (a.value, a.at.start));
    let mut around: Vec<(&At<IpNet>, &vm::Draft)> = Vec::new();
    for (own, vm) in all {
        while around.last().is_some_and(|(outer, _)| !outer.value.contains(&own.value)) {
            around.pop();
        }
        if let Some((outer, other)) = around.last() {
            let same = outer.value == own.value;
            let message = if vm.name.value != other.name.value {
                let what = if same { "has" } else { "has a prefix around" };
                Some(format!("VM `{}` {what} {} too", other.name.value, shown(&own.value)))
            } else {
                same.then(|| format!("{} is there twice", shown(&own.value)))
            };
            let help = if vm.name.value == other.name.value {
                "once is enough"
            } else {
                "an address belongs to one VM: remove it from one of them"
            };
            if let Some(message) = message {
                out.push(Mistake::at(&own.at, message).other(&outer.at, "here").help(help));
            }
        }
        around.push((own, vm));
    }
}

/// DNS knows no capitals.
fn names_differ(vms: &[&vm::Draft], out: &mut Vec<Mistake>) {
    let mut seen: BTreeMap<String, &vm::Draft> = BTreeMap::new();
    for vm in vms {
        if let Some(first) = seen.insert(vm.name.value.to_lowercase(), vm) {
            let (one, other) = (&first.name.value, &vm.name.value);
            let message = format!("VMs `{one}` and `{other}` have the same name in DNS");
            let help = "names that differ in capitals only are one: call one of them otherwise";
            out.push(Mistake::at(&vm.name.at, message).other(&first.name.at, "here").help(help));
        }
    }
}

fn macs_differ(vms: &[&vm::Draft], out: &mut Vec<Mistake>) {
    let mut seen = BTreeMap::new();
    for mac in vms.iter().filter_map(|v| v.mac.as_ref()) {
        if let Some(first) = seen.insert(mac.value, &mac.at) {
            out.push(
                Mistake::at(&mac.at, format!("{} is another VM's too", mac.value))
                    .other(first, "here")
                    .help("change one of them, or leave it out: the base then chooses"),
            );
        }
    }
}

fn mtus_carry_ipv6(vms: &[&vm::Draft], out: &mut Vec<Mistake>) {
    for vm in vms {
        let ipv6 = vm.addresses.iter().any(|a| matches!(a.value, IpNet::V6(_)));
        if let (Some(mtu), Some(at)) = (vm.mtu, &vm.mtu_at)
            && ipv6
            && u32::from(mtu) < LEAST_MTU_IPV6
        {
            let message = format!("an MTU of {mtu} is too little for IPv6");
            out.push(Mistake::at(at, message).help(format!("at least {LEAST_MTU_IPV6}")));
        }
    }
}

fn sockets_differ(vms: &[vm::Draft], out: &mut Vec<Mistake>) {
    let mut seen = BTreeMap::new();
    for vm in vms {
        if let (Engine::External(socket), Some(at)) = (&vm.engine, &vm.socket_at)
            && let Some(first) = seen.insert(socket.path(), at)
        {
            out.push(
                Mistake::at(at, "this socket is another VM's too")
                    .other(first, "here")
                    .help("one socket carries one VM: write another path"),
            );
        }
    }
}

/// What tells disks apart: what they are, or where they are if nobody has looked.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Which<'v> {
    Disk(DiskId),
    Path(&'v Path),
}

fn disks_are_not_shared(vms: &[vm::Draft], out: &mut Vec<Mistake>) {
    let mut seen = BTreeMap::new();
    for vm in vms {
        let Engine::Qemu(machine) = &vm.engine else { continue };
        for (disk, known) in machine.disks.iter().zip(&vm.disks) {
            let which = known.value.map_or(Which::Path(&disk.path), Which::Disk);
            let (owner, first_at, first) = *seen.entry(which).or_insert((vm, &known.at, disk));
            let same = first.path == disk.path;
            let called =
                if same { String::new() } else { format!(", as {}", first.path.display()) };
            let mistake = if owner.name.value == vm.name.value {
                // Under the same name: found where its disks were read.
                if same {
                    continue;
                }
                Mistake::at(&known.at, format!("the same disk a second time{called}"))
                    .help("name each disk once")
            } else if first.only_read() && disk.only_read() {
                continue;
            } else {
                let message = format!("this disk is VM `{}`'s too{called}", owner.name.value);
                Mistake::at(&known.at, message).help(
                    "two VMs that write one disk destroy it: copy it, or make it `readonly` in both",
                )
            };
            out.push(mistake.other(first_at, "here"));
        }
    }
}

//! What a configuration asks of this machine, held against what the machine has.
//!
//! # Theory of operation
//! Nothing here is about the text alone: the same file is right on one machine and wrong on another.
//! So it is asked last, of a file in which nothing else is wrong, and only where somebody looked at a
//! machine ([`Present`]). A successor does not ask: what was given out stays given.
//!
//! ```text
//! uplink      is there, and is an Ethernet card
//! gateway     is not this host itself
//! addresses   are not this host's own
//! workers     keep to cores that ipvisor may use
//! cpus        no VM needs more than there are, nor do those that `up` starts together,
//! memory      unless `overcommit` says so
//! ```
//!
//! # Limits
//! What other programs use, and what VMs that run have taken, is not known here: the ledger knows
//! when a VM is started.

use std::net::IpAddr;

use super::addresses::whole;
use super::present::Present;
use super::report::Mistake;
use super::types::Engine;
use super::{Drafts, keys, network, vm, workers};

/// Names that are listed, at most.
const LISTED: usize = 6;

/// Notes what the machine does not have.
pub(super) fn check(drafts: &Drafts, present: &Present, out: &mut Vec<Mistake>) {
    for network in &drafts.networks {
        card(network, present, out);
        gateways(network, present, out);
    }
    for vm in &drafts.vms {
        let network = vm.network.as_ref().map(|n| n.value.as_str());
        let of = |n: &&network::Draft| network == Some(n.name.value.as_str());
        addresses(vm, drafts.networks.iter().find(of), present, out);
    }
    cores(&drafts.workers, present, out);
    if !drafts.host.overcommit {
        share(&CPUS, &drafts.vms, present.capacity.cpus.into(), out);
        share(&MEMORY, &drafts.vms, present.capacity.memory, out);
    }
}

fn card(network: &network::Draft, present: &Present, out: &mut Vec<Mistake>) {
    let (Some(card), Some(at)) = (&network.network.uplink, &network.uplink_at) else { return };
    let ethernet = || present.cards.iter().filter(|(name, is)| **is && *name != "lo");
    let names = || ethernet().map(|(name, _)| name.as_str());
    let help = match names().next() {
        None => {
            "this machine has no Ethernet card; leave `uplink` out for a private network".to_owned()
        }
        Some(_) => {
            let near = keys::closest(card, names().map(|n| (n, n)));
            let near = near.map_or(String::new(), |n| format!("did you mean \"{n}\"? "));
            format!("{near}this machine has {}", listed(names()))
        }
    };
    match present.cards.get(card) {
        None => {
            out.push(Mistake::at(at, format!("there is no adapter `{card}` here")).help(help));
        }
        Some(false) => {
            let message = format!("`{card}` has no MAC address: it is no Ethernet card");
            out.push(Mistake::at(at, message).help(help));
        }
        Some(true) => {}
    }
}

fn gateways(network: &network::Draft, present: &Present, out: &mut Vec<Mistake>) {
    for gateway in &network.gateways {
        if let Some(on) = present.addresses.get(&gateway.value) {
            let message =
                format!("{} is this host's own address (on {on}), no gateway", gateway.value);
            let help = "write the LAN's router, or \"auto\" for the host's own default routes";
            out.push(Mistake::at(&gateway.at, message).help(help));
        }
    }
}

/// A VM has none of the host's addresses; nor one around an address that the host has on the card of
/// the VM's network.
fn addresses(
    vm: &vm::Draft,
    network: Option<&network::Draft>,
    present: &Present,
    out: &mut Vec<Mistake>,
) {
    let card = network.and_then(|n| n.network.uplink.as_ref());
    for own in &vm.addresses {
        let clash = |(address, on): &(&IpAddr, &String)| {
            own.value == whole(**address)
                || (own.value.contains(*address) && card.is_some_and(|card| card == *on))
        };
        if let Some((address, on)) = present.addresses.iter().find(clash) {
            let message = if own.value == whole(*address) {
                format!("{address} is this host's own address (on {on})")
            } else {
                format!("this host's own address {address} (on {on}) lies in {}", own.value)
            };
            let help = "give the VM an address that nobody else has";
            out.push(Mistake::at(&own.at, message).help(help));
        }
    }
}

fn cores(workers: &workers::Draft, present: &Present, out: &mut Vec<Mistake>) {
    let Some(there) = &present.cores else { return };
    for (core, at) in workers.workers.0.iter().zip(&workers.cores_at) {
        if let Some(core) = core
            && !there.contains(core)
        {
            let message = format!("ipvisor cannot use a core {core} of this machine");
            let help = format!("those it can use: {}", ranges(there.iter().copied()));
            out.push(Mistake::at(at, message).help(help));
        }
    }
}

/// Something that VMs take of the machine.
struct Share {
    /// How much a VM takes of it, and where the file says so.
    of: fn(&vm::Draft) -> (u64, Option<&std::ops::Range<usize>>),
    /// An amount as a number.
    amount: fn(u64) -> String,
    /// What it is an amount of.
    noun: fn(u64) -> &'static str,
}

const CPUS: Share = Share {
    of: |vm| match &vm.engine {
        Engine::Qemu(machine) => (machine.cpus.into(), vm.cpus_at.as_ref()),
        Engine::External(_) => (0, None),
    },
    amount: |n| n.to_string(),
    noun: |n| if n == 1 { "CPU" } else { "CPUs" },
};

const MEMORY: Share = Share {
    of: |vm| match &vm.engine {
        Engine::Qemu(machine) => (machine.memory, vm.memory_at.as_ref()),
        Engine::External(_) => (0, None),
    },
    amount: |octets| format!("{}M", octets >> 20),
    noun: |_| "of memory",
};

/// Gives it out in the order of the VMs' names; the first for which too little is left is told.
fn share(share: &Share, vms: &[vm::Draft], has: u64, out: &mut Vec<Mistake>) {
    let Share { of, amount, noun } = share;
    let mut given: Vec<(&str, u64)> = Vec::new();
    let mut told = false;
    for vm in vms {
        let (wanted, at) = of(vm);
        let (name, at) = (vm.name.value.as_str(), at.unwrap_or(&vm.name.at));
        let starts = matches!(&vm.engine, Engine::Qemu(machine) if machine.autostart);
        let taken = given.iter().fold(0, |sum: u64, (_, much)| sum.saturating_add(*much));
        let free = has.saturating_sub(taken);
        let needs = || format!("VM `{name}` needs {} {}", amount(wanted), noun(wanted));
        if wanted > has {
            let message = format!("{}; this machine has {}", needs(), amount(has));
            let help = "give it less, or write `overcommit = true` under [host]";
            out.push(Mistake::at(at, message).help(help));
        } else if starts && wanted > free {
            if !std::mem::replace(&mut told, true) {
                let holders = given.iter().map(|(vm, n)| format!("`{vm}` has {}", amount(*n)));
                let message = format!(
                    "{}; of the machine's {}, {} are free: {}",
                    needs(),
                    amount(has),
                    amount(free),
                    listed(holders)
                );
                let help = "give one of them less, do not start one by itself (`autostart = \
                            false`), or write `overcommit = true` under [host]";
                out.push(Mistake::at(at, message).help(help));
            }
        } else if starts && wanted > 0 {
            given.push((name, wanted));
        }
    }
}

/// The first few, and how many more there are.
fn listed<T: AsRef<str>>(names: impl Iterator<Item = T>) -> String {
    let all: Vec<T> = names.collect();
    let first: Vec<&str> = all.iter().take(LISTED).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Numbers in rising order, as in `0-3, 8`.
fn ranges(numbers: impl Iterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.saturating_add(1) == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(shown).collect::<Vec<_>>().join(", ")
}

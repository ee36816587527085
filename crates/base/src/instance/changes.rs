//! What another configuration would change about an instance that runs.
//!
//! # Theory of operation
//! ```text
//! what runs, what is to run, what each VM is doing --> difference --> a list of changes
//!                                                                     some of them in the way
//! ```
//! A VM that runs was formed with its processors, its memory, its disks; a front end that is
//! attached was met at its socket; a card's receive ring has the size it was made with. Such keys are
//! *fixed*: as long as one of them differs, and what has it is there, nothing is changed at all.
//! Everything else a base decides by itself: addresses, MTU, what guests are told, restart policies,
//! networks.
//!
//! # Invariants
//! - The difference depends on nothing but what it is given: it is shown before anything is done,
//!   and what is done is what was shown.

use crate::config::{Config, Engine, Network, Shown, Vm, shown};
use crate::control::{Change, ChangeKind, InTheWay, KeyChange};

/// Keys of a VM that cannot change while it is there.
const FIXED: [&str; 12] = [
    "network",
    "mac",
    "queues",
    "engine",
    "socket",
    "kernel",
    "initramfs",
    "cmdline",
    "firmware",
    "disk",
    "cpus",
    "memory",
];
/// The one of a network that cannot change while its card is in use.
const RING: &str = "receive_ring";

/// What a VM is doing that its configuration has to allow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It has neither vessel nor front end, and never had: what starts VMs starts it.
    Fresh,
    /// It has neither vessel nor front end: everything about it may change.
    No,
    /// It runs.
    Runs,
    /// Somebody else's front end is attached.
    Attached,
}

/// What an instance that begins with this configuration does.
pub fn beginning(config: &Config) -> Vec<Change> {
    difference(&Config::default(), config, |_| Busy::Fresh)
}

/// What is to change if `new` takes the place of `old`: first the instance as a whole, then networks,
/// then VMs.
pub fn difference(old: &Config, new: &Config, busy: impl Fn(&str) -> Busy) -> Vec<Change> {
    let mut changes = Vec::new();
    if !old.networks.is_empty() || !old.vms.is_empty() {
        let keys = differing(shown::instance(old), shown::instance(new), &[]);
        changes.extend(change("instance".to_owned(), ChangeKind::Change, keys));
    }
    for (name, was) in &old.networks {
        let subject = format!("network/{name}");
        changes.extend(match new.networks.get(name) {
            None => Some(bare(subject, ChangeKind::Remove)),
            Some(will) => network(subject, was, will),
        });
    }
    let came = new.networks.keys().filter(|name| !old.networks.contains_key(*name));
    changes.extend(came.map(|name| bare(format!("network/{name}"), ChangeKind::Add)));
    for (name, was) in &old.vms {
        changes.extend(match new.vms.get(name) {
            None => Some(gone(name, was, busy(name))),
            Some(will) => vm(name, was, will, busy(name)),
        });
    }
    let came = new.vms.iter().filter(|(name, _)| !old.vms.contains_key(*name));
    changes.extend(came.map(|(name, vm)| bare(format!("vm/{name}"), arrival(vm))));
    changes
}

/// How a VM comes that was not there.
fn arrival(vm: &Vm) -> ChangeKind {
    match &vm.engine {
        Engine::External(_) => ChangeKind::Open,
        Engine::Qemu(machine) if machine.autostart => ChangeKind::Start,
        Engine::Qemu(_) => ChangeKind::Add,
    }
}

fn bare(subject: String, what: ChangeKind) -> Change {
    Change { subject, what, keys: Vec::new(), in_the_way: None }
}

fn change(subject: String, what: ChangeKind, keys: Vec<KeyChange>) -> Option<Change> {
    (!keys.is_empty()).then_some(Change { subject, what, keys, in_the_way: None })
}

fn network(subject: String, was: &Network, will: &Network) -> Option<Change> {
    let same_card = was.uplink.is_some() && was.uplink == will.uplink;
    let fixed: &[&str] = if same_card { &[RING] } else { &[] };
    let keys = differing(shown::network(was), shown::network(will), fixed);
    let mut change = change(subject, ChangeKind::Change, keys)?;
    if change.keys.iter().any(|k| k.fixed) {
        change.what = ChangeKind::Restart;
        change.in_the_way = Some(InTheWay {
            why: "uses its card".to_owned(),
            remedy: format!("leave it at {}, or `ipvisor down` and `ipvisor up`", was.receive_ring),
        });
    }
    Some(change)
}

fn vm(name: &str, was: &Vm, will: &Vm, busy: Busy) -> Option<Change> {
    let there = obstacle(name, was, busy);
    let (mut from, mut to) = (shown::vm(was), shown::vm(will));
    let engine = std::mem::discriminant(&was.engine) != std::mem::discriminant(&will.engine);
    if engine {
        // What only one of the engines has is no news.
        let common = |other: &[Shown]| other.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        let (of_from, of_to) = (common(&from), common(&to));
        from.retain(|(key, _)| of_to.contains(key));
        to.retain(|(key, _)| of_from.contains(key));
    }
    let fixed: &[&str] = if there.is_some() { &FIXED } else { &[] };
    let keys = differing(from, to, fixed);
    let subject = format!("vm/{name}");
    // One that was never started is started like one that came.
    let came = busy == Busy::Fresh || (engine && there.is_none());
    let starts = came && arrival(will) == ChangeKind::Start;
    let what = if starts { ChangeKind::Start } else { ChangeKind::Change };
    let mut change = match change(subject.clone(), what, keys) {
        None if starts => bare(subject, what),
        other => other?,
    };
    if change.keys.iter().any(|k| k.fixed) {
        change.what = ChangeKind::Restart;
        change.in_the_way = there;
    }
    Some(change)
}

fn gone(name: &str, was: &Vm, busy: Busy) -> Change {
    let subject = format!("vm/{name}");
    match &was.engine {
        // Its front end is somebody else's to end.
        Engine::External(_) => bare(subject, ChangeKind::Shut),
        Engine::Qemu(_) => {
            Change { in_the_way: obstacle(name, was, busy), ..bare(subject, ChangeKind::Remove) }
        }
    }
}

/// What is in the way of a change to what a VM was formed with.
fn obstacle(name: &str, was: &Vm, busy: Busy) -> Option<InTheWay> {
    let (why, remedy) = match (busy, &was.engine) {
        (Busy::No | Busy::Fresh, _) => return None,
        (_, Engine::Qemu(_)) => ("runs", format!("`ipvisor stop {name}` first")),
        (_, Engine::External(_)) => {
            ("has a front end attached", "end that front end first".to_owned())
        }
    };
    Some(InTheWay { why: why.to_owned(), remedy })
}

/// The keys whose values differ, in the order of the first list, then of the second.
fn differing(from: Vec<Shown>, to: Vec<Shown>, fixed: &[&str]) -> Vec<KeyChange> {
    let of = |list: &[Shown], key: &str| {
        list.iter().find(|(k, _)| *k == key).and_then(|(_, value)| value.clone())
    };
    let mut keys: Vec<&str> = from.iter().map(|(key, _)| *key).collect();
    keys.extend(to.iter().map(|(key, _)| *key).filter(|key| from.iter().all(|(k, _)| k != key)));
    let changed = keys.into_iter().filter_map(|key| {
        let (was, will) = (of(&from, key), of(&to, key));
        let fixed = fixed.contains(&key);
        (was != will).then(|| KeyChange { key: key.to_owned(), from: was, to: will, fixed })
    });
    changed.collect()
}

#[cfg(test)]
mod tests;

//! `after`: the order in which VMs are started, and in reverse stopped.
//!
//! # Theory of operation
//! Whoever starts after nobody that is left is taken out, again and again. What remains then goes in
//! a circle, or starts after one that does: from any of them, going to somebody that it starts after
//! comes back to where it has been, and that is the circle which is told. Its members are taken out
//! and the search goes on, so each circle is told once.

use std::collections::{BTreeMap, BTreeSet};

use super::keys;
use super::reader::At;
use super::report::Mistake;
use super::vm;

/// Checks that whom a VM starts after is there, and that nobody starts after itself.
pub(super) fn check(vms: &[vm::Draft], out: &mut Vec<Mistake>) {
    let names: BTreeSet<&str> = vms.iter().map(|v| v.name.value.as_str()).collect();
    for vm in vms {
        for said in vm.after.iter().filter(|said| !names.contains(said.value.as_str())) {
            let message = format!("there is no VM `{}` to start after", said.value);
            let near = keys::closest(&said.value, names.iter().map(|n| (*n, *n)));
            let help = match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add a table [vm.{}], or leave the name out", said.value),
            };
            out.push(Mistake::at(&said.at, message).help(help));
        }
    }
    let mut left: BTreeMap<&str, &[At<String>]> =
        vms.iter().map(|v| (v.name.value.as_str(), v.after.as_slice())).collect();
    loop {
        take_out_the_free(&mut left);
        let Some(circle) = circle(&left) else { return };
        out.push(told(&circle));
        for (name, _) in circle {
            left.remove(name);
        }
    }
}

/// Takes out whoever starts after nobody that is left, until there is no such VM.
fn take_out_the_free(left: &mut BTreeMap<&str, &[At<String>]>) {
    loop {
        let is_free = |after: &[At<String>]| !after.iter().any(|n| left.contains_key(&*n.value));
        let free: Vec<&str> =
            left.iter().filter(|(_, after)| is_free(after)).map(|(name, _)| *name).collect();
        if free.is_empty() {
            return;
        }
        for name in free {
            left.remove(name);
        }
    }
}

/// A circle among those that are left, all of which start after one that is left: each member with
/// the place where it names the next.
fn circle<'v>(
    left: &BTreeMap<&'v str, &'v [At<String>]>,
) -> Option<Vec<(&'v str, &'v At<String>)>> {
    let mut way: Vec<(&str, &At<String>)> = Vec::new();
    let mut here = *left.keys().next()?;
    loop {
        if let Some(begin) = way.iter().position(|(name, _)| *name == here) {
            return Some(way.split_off(begin));
        }
        let next = left.get(here)?.iter().find(|n| left.contains_key(n.value.as_str()))?;
        way.push((here, next));
        here = next.value.as_str();
    }
}

fn told(circle: &[(&str, &At<String>)]) -> Mistake {
    let members: Vec<&str> = circle.iter().map(|(name, _)| *name).collect();
    let (first, place) = match circle {
        [(first, place), ..] => (*first, &place.at),
        [] => return Mistake::whole("VMs start after each other"),
    };
    let message = match members.as_slice() {
        [_] => format!("VM `{first}` cannot start after itself"),
        many => format!("nobody could start: {} after {first}", many.join(" after ")),
    };
    Mistake::at(place, message).help("take this name out of `after`, or another of the circle")
}

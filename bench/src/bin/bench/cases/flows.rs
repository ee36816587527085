//! Many flows, among addresses that lie far apart in a long list.
//!
//! # Theory of operation
//! ```text
//!  sender  32 addresses ══╗
//!  receiver  32           ╠═ the switch, with a list of 100,000 addresses
//!  others  99,936, of VMs ╝  that nobody attaches to
//! ```
//! Each address of the sender sends to each of the receiver, one datagram after another: 1,024 flows.
//! With fewer flows it is the first so many of them. ipvisor has the list as single addresses, spread
//! over as many VMs as it takes; OVS-DPDK has a flow for each (`contender/ovs.rs`).
//!
//! In the same rounds the instance with two addresses carries one flow: what the list and the flows
//! cost ipvisor.

use std::time::Instant;

use bench::frames::{Ends, Kind};
use lab::Result;

use super::mpps;
use crate::contender::{MANY, Ours, Route, Switch, Vm, ends, numbered};
use crate::generator::{Generator, Template};
use crate::race::{Lane, race};
use crate::results::Measured;
use crate::stage::{SHORT, Stage, attach, detach};

/// Addresses in the list.
const LIST: u32 = 100_000;
/// Addresses of each of the two that talk.
const TALKING: u32 = 32;
/// From one address of theirs to the next, in the list.
const APART: u32 = LIST / (2 * TALKING);
/// Addresses that one VM can have.
const MOST: usize = 256;
/// Any odd number: so that flows that follow each other have neither end in common.
const STEP: u32 = 389;

/// How many flows, and the name of the case. The last is the one that promises speak of.
pub const FLOWS: [(u32, &str); 3] =
    [(1, "64 B, 1 flow"), (32, "64 B, 32 flows"), (TALKING * TALKING, "64 B, 1,024 flows")];
/// The one with two addresses and one flow.
pub const ONE_FLOW: &str = "ipvisor, one flow";

/// The place in the list of an address of the sender (0) or the receiver (1).
fn place(side: u32, n: u32) -> u32 {
    (2 * n + side) * APART
}

/// The `n`th flow.
fn flow(n: u32) -> Ends {
    let pair = n * STEP % (TALKING * TALKING);
    let addresses = [place(0, pair / TALKING), place(1, pair % TALKING)].map(numbered);
    Ends { addresses, ..ends() }
}

/// The VMs that have the list.
fn vms() -> Vec<Vm> {
    let mut vms = Vm::pair().to_vec();
    for (side, vm) in (0..).zip(&mut vms) {
        vm.addresses = (0..TALKING).map(|n| numbered(place(side, n))).collect();
    }
    let others: Vec<_> = (0..LIST).filter(|n| n % APART != 0 || n / APART >= 2 * TALKING).collect();
    for (number, addresses) in others.chunks(MOST).enumerate() {
        let addresses = addresses.iter().map(|n| numbered(*n)).collect();
        vms.push(Vm { name: format!("v{number}"), mac: None, addresses });
    }
    vms
}

/// The same for the other switch. Ports from the third on do not exist.
fn routes(vms: &[Vm]) -> Vec<Route> {
    let of = |(port, vm): (u32, &Vm)| {
        let mac = vm.mac.unwrap_or([2, 0, 0, 0, 1, 0]);
        let addresses = vm.addresses.clone().into_iter();
        addresses.map(move |address| Route { address, mac, port }).collect::<Vec<_>>()
    };
    (1..).zip(vms).flat_map(of).collect()
}

/// Races both, by number of flows.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { ours: short, ovs, effort, progress, .. } = stage;
    let vms = vms();
    let begun = Instant::now();
    let mut ours = Ours::start(&[MANY], &vms)?;
    progress.note(format!("{LIST} addresses: ipvisor runs after {:.1?}", begun.elapsed()));
    ours.pause()?;
    let begun = Instant::now();
    ovs.resume()?;
    let routed = ovs.route(&routes(&vms));
    ovs.pause()?;
    routed?;
    progress.note(format!("{LIST} addresses: OVS-DPDK has them after {:.1?}", begun.elapsed()));
    let mut measured = Vec::new();
    for (count, case) in FLOWS {
        let flows: Vec<Ends> = (0..count).map(flow).collect();
        let template = Template::flows(Kind::Udp, &flows, SHORT.frame);
        let single = Template::new(Kind::Udp, ends(), SHORT.frame);
        let guests = [attach(&mut ours, &SHORT)?, attach(ovs, &SHORT)?, attach(short, &SHORT)?];
        let switches: [&dyn Switch; 3] = [&ours, &*ovs, &*short];
        let [a, b, c] = &guests;
        let mut lanes = vec![
            Lane::between(switches[0], Generator::new(&a[0], &a[1], &template)),
            Lane::between(switches[1], Generator::new(&b[0], &b[1], &template)),
            Lane::named(ONE_FLOW, switches[2], Generator::new(&c[0], &c[1], &single)),
        ];
        measured.extend(race(case, &mut lanes, *effort, "Mpps", mpps, progress)?);
        drop(lanes);
        detach(&switches, guests)?;
    }
    ovs.resume()?;
    let routed = ovs.route(&Route::pair());
    ovs.pause()?;
    routed.map(|()| measured)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::contender::MACS;

    #[test]
    fn every_address_of_the_list_belongs_to_one_vm() {
        let vms = vms();
        let all: Vec<_> = vms.iter().flat_map(|vm| vm.addresses.clone()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), LIST as usize);
        assert_eq!(all.len(), LIST as usize);
        assert!(vms.iter().all(|vm| vm.addresses.len() <= MOST));
        assert_eq!(routes(&vms).len(), LIST as usize);
        assert_eq!(MACS.map(Some), [vms[0].mac, vms[1].mac]);
    }

    #[test]
    fn flows_are_all_pairs_and_followers_have_no_end_in_common() {
        let vms = vms();
        let flows: Vec<_> = (0..TALKING * TALKING).map(|n| flow(n).addresses).collect();
        assert_eq!(flows.iter().collect::<BTreeSet<_>>().len(), 1024);
        for pair in flows.windows(2) {
            assert!(pair[0][0] != pair[1][0] && pair[0][1] != pair[1][1], "{pair:?}");
        }
        for [from, to] in flows {
            assert!(vms[0].addresses.contains(&from) && vms[1].addresses.contains(&to));
        }
    }
}

//! Out of a guest through the card, which is one end of a cable whose other end counts.
//!
//! # Theory of operation
//! ```text
//!  guest ══ ipvisor ══ card ──── cable (veth) ──── card of the LAN's router: counted there
//!  guest ══ a bare forwarder ══ another card and cable of the same kind
//! ```
//! The datagrams are for somebody behind the router, which does not route and drops them: on both
//! sides the kernel does the same at the far end, and in the same thread, that of the one who sends.
//! The forwarder's guest writes the LAN's MAC addresses by itself, because nobody else does.
//!
//! Large sends cross the cable as they are, so the far end counts frames of 64 KiB: one by one, if
//! they were not cut.
//!
//! Each way out of the machine is a lane of [`run`]: a driver of another kind (AF_XDP) has its place
//! beside the packet socket there.

use std::net::{IpAddr, Ipv4Addr};

use bench::frames::{Ends, Kind};
use lab::Result;
use lab::netns::mac;
use lab::scene::{CARD, LAN_CARD, Scene, vm};

use super::sizes::LARGE_SENDS;
use super::{gigabits, mpps};
use crate::contender::{Forwarder, Ours, Switch, Vm, ends};
use crate::generator::{FarEnd, Guest, Outward, Plan, Sender, Template};
use crate::race::{Lane, race};
use crate::results::Measured;
use crate::slice::Slice;
use crate::stage::{SETTLE, SHORT, Stage, detach};

/// Somebody behind the LAN's router.
const BEHIND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A kind of datagram.
struct Size {
    name: &'static str,
    /// The name of the average length at the far end.
    whole: &'static str,
    kind: Kind,
    plan: Plan,
    unit: &'static str,
    value: fn(&Slice) -> f64,
}

const SIZES: [Size; 2] = [
    Size {
        name: "64 B to the card",
        whole: "64 B at the far end",
        kind: Kind::Udp,
        plan: SHORT,
        unit: "Mpps",
        value: mpps,
    },
    Size {
        name: "64 KiB to the card",
        whole: "64 KiB at the far end",
        kind: Kind::LargeTcp,
        plan: LARGE_SENDS,
        unit: "Gb/s",
        value: gigabits,
    },
];

/// Races both, by size.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let scenes = [Scene::set()?, Scene::set()?];
    let ours = Ours::start_in(&scenes[0].host, &scenes[0].network(), &Vm::pair())?;
    let mut measured = Vec::new();
    for size in &SIZES {
        measured.extend(one(size, &ours, &scenes, stage)?);
    }
    Ok(measured)
}

fn one(size: &Size, ours: &Ours, scenes: &[Scene; 2], stage: &Stage<'_>) -> Result<Vec<Measured>> {
    let [here, there] = scenes;
    let mut guests = [Guest::new(&size.plan)?, Guest::new(&size.plan)?];
    ours.resume()?;
    guests[0].attach(&ours.instance.socket("a"), &size.plan)?;
    std::thread::sleep(SETTLE);
    ours.pause()?;
    let forwarder = Forwarder::start(&guests[1], &size.plan, &there.host, CARD)?;
    forwarder.pause()?;
    let to_base = Ends { addresses: [vm(0)[0], BEHIND], ..ends() };
    let macs = [there.card_mac()?, mac(&there.outside, LAN_CARD)?];
    let templates = [to_base, Ends { macs, ..to_base }]
        .map(|ends| Template::new(size.kind, ends, size.plan.frame));
    let switches: [&dyn Switch; 2] = [ours, &forwarder];
    let mut lanes = Vec::new();
    for (((switch, guest), template), scene) in
        switches.into_iter().zip(&guests).zip(&templates).zip([here, there])
    {
        let end = FarEnd::open(&scene.outside, LAN_CARD)?;
        lanes.push(Lane::Out(switch, Box::new(Outward::new(Sender::new(guest, template), end)?)));
    }
    let Stage { effort, progress, .. } = stage;
    let mut measured = race(size.name, &mut lanes, *effort, size.unit, size.value, progress)?;
    for lane in &lanes {
        if let Lane::Out(switch, outward) = lane {
            let octets = vec![outward.octets_each()];
            measured.push(Measured::new(size.whole, switch.name(), "octets a frame", octets));
        }
    }
    drop(lanes);
    drop(forwarder);
    detach(&[ours], guests)?;
    Ok(measured)
}

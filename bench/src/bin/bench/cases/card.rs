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
//! The kernel counts, and looks at nothing; so a batch of each size and side is caught at the far end
//! and compared with what was written.
//!
//! By AF_XDP the same, but for large sends, which it cuts; the card of both has a program then, which
//! is one more thing that the kernel does for both alike.

use std::net::{IpAddr, Ipv4Addr};

use bench::frames::{Ends, Kind};
use lab::Result;
use lab::netns::mac;
use lab::scene::{CARD, LAN_CARD, Scene, vm};

use super::sizes::LARGE_SENDS;
use super::{gigabits, mpps};
use crate::contender::{Forwarder, Ours, Switch, Vm, XdpForwarder, ends};
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

/// A bare forwarder between a guest and a scene's card.
type Bare = fn(&Guest, &Plan, &Scene) -> Result<Box<dyn Switch>>;

/// A way to the card.
struct Way {
    /// The driver as it is configured, and what its event begins with.
    driver: &'static str,
    told: Option<&'static str>,
    bare: Bare,
    sizes: &'static [Size],
}

const WAYS: [Way; 2] = [
    Way {
        driver: "packet",
        told: None,
        bare: |guest, plan, scene| Ok(Box::new(Forwarder::start(guest, plan, &scene.host, CARD)?)),
        sizes: &[
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
        ],
    },
    Way {
        driver: "xdp",
        told: Some("AF_XDP carries"),
        bare: |guest, plan, scene| {
            Ok(Box::new(XdpForwarder::start(guest, plan, &scene.host, CARD)?))
        },
        sizes: &[Size {
            name: "64 B to the card by AF_XDP",
            whole: "64 B by AF_XDP at the far end",
            kind: Kind::Udp,
            plan: SHORT,
            unit: "Mpps",
            value: mpps,
        }],
    },
];

/// Races both, by way and size.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for way in &WAYS {
        let scenes = [Scene::set()?, Scene::set()?];
        let network = scenes[0].network_by(Some(way.driver));
        let ours = Ours::start_in(&scenes[0].host, &network, &Vm::pair())?;
        if let Some(told) = way.told {
            ours.instance.wait_event("driver", "network/lan", told)?;
        }
        for size in way.sizes {
            measured.extend(one(way, size, &ours, &scenes, stage)?);
        }
    }
    Ok(measured)
}

fn one(
    way: &Way,
    size: &Size,
    ours: &Ours,
    scenes: &[Scene; 2],
    stage: &Stage<'_>,
) -> Result<Vec<Measured>> {
    let [here, there] = scenes;
    let mut guests = [Guest::new(&size.plan)?, Guest::new(&size.plan)?];
    ours.resume()?;
    guests[0].attach(&ours.instance.socket("a"), &size.plan)?;
    std::thread::sleep(SETTLE);
    ours.pause()?;
    let forwarder = (way.bare)(&guests[1], &size.plan, there)?;
    forwarder.pause()?;
    let to_base = Ends { addresses: [vm(0)[0], BEHIND], ..ends() };
    let macs = [there.card_mac()?, mac(&there.outside, LAN_CARD)?];
    let templates = [to_base, Ends { macs, ..to_base }]
        .map(|ends| Template::new(size.kind, ends, size.plan.frame));
    let switches: [&dyn Switch; 2] = [ours, &*forwarder];
    let mut lanes = Vec::new();
    for (((switch, guest), template), scene) in
        switches.into_iter().zip(&guests).zip(&templates).zip([here, there])
    {
        let end = FarEnd::open(&scene.outside, LAN_CARD)?;
        lanes.push(Lane::Out(switch, Box::new(Outward::new(Sender::new(guest, template), end)?)));
    }
    let Stage { effort, progress, .. } = stage;
    let mut measured = race(size.name, &mut lanes, *effort, size.unit, size.value, progress)?;
    for (lane, scene) in lanes.iter_mut().zip(scenes) {
        if let Lane::Out(switch, outward) = lane {
            switch.resume()?;
            outward.look(&scene.outside)?;
            switch.pause()?;
            let octets = vec![outward.octets_each()];
            measured.push(Measured::new(size.whole, switch.name(), "octets a frame", octets));
        }
    }
    drop(lanes);
    drop(forwarder);
    detach(&[ours], guests)?;
    Ok(measured)
}

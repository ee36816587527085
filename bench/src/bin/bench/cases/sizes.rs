//! As fast as it goes between two guests, by size of datagram.

use bench::frames::{Kind, LARGE as LARGE_FRAME};
use lab::Result;

use super::{gigabits, mpps};
use crate::contender::{Between, Kernel, Switch, Way, ends};
use crate::generator::{Generator, Plan, Shape, Template};
use crate::race::{Lane, race};
use crate::results::Measured;
use crate::slice::Slice;
use crate::stage::{SHORT, Stage, attach, detach};

/// The name of another build of ipvisor.
const BESIDE: &str = "ipvisor, another build";

/// Who takes part beside ipvisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    /// testpmd and Open vSwitch.
    Switches,
    /// testpmd alone.
    Io,
    /// Two copies: the switches have no large receives.
    Copies,
}

/// One size.
pub struct Size {
    name: &'static str,
    kind: Kind,
    plan: Plan,
    unit: &'static str,
    value: fn(&Slice) -> f64,
    peers: Peers,
    kernel: &'static [Way],
}

/// The shortest frames.
pub const SMALL: Size = Size {
    name: "64 B",
    kind: Kind::Udp,
    plan: SHORT,
    unit: "Mpps",
    value: mpps,
    peers: Peers::Switches,
    kernel: &[Way::Bridged, Way::Routed, Way::Masqueraded],
};
/// The longest that an Ethernet carries.
pub const ORDINARY: Size =
    Size { name: "1500 B", plan: Plan { frame: 1514, ..SHORT }, kernel: &[], ..SMALL };
/// The shortest frames, over packed rings: the switches do as the guests ask.
pub const PACKED: Size = Size {
    name: "64 B, packed rings",
    plan: Plan { packed: true, ..SHORT },
    peers: Peers::Io,
    kernel: &[],
    ..SMALL
};
/// Guests that send as much as goes in one piece.
pub const LARGE_SENDS: Plan = Plan {
    rx: Shape { entries: 1024, buffer: 4096 },
    tx: Shape { entries: 64, buffer: 1 << 16 },
    frame: LARGE_FRAME,
    offloads: true,
    packed: false,
};
/// Large sends.
pub const LARGE: Size = Size {
    name: "64 KiB",
    kind: Kind::LargeTcp,
    plan: LARGE_SENDS,
    unit: "Gb/s",
    value: gigabits,
    peers: Peers::Copies,
    kernel: &[Way::Routed],
};

/// Races ipvisor, its peers and the kernel.
pub fn run(size: &Size, stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { ours, beside, io, ovs, copies, effort, progress } = stage;
    let mut switches: Vec<&mut dyn Between> = match size.peers {
        Peers::Switches => vec![ours, io, ovs],
        Peers::Io => vec![ours, io],
        Peers::Copies => vec![ours, copies],
    };
    let own = switches.len();
    switches.extend(beside.as_mut().map(|beside| beside as &mut dyn Between));
    let attached = switches.iter_mut().map(|switch| attach(&mut **switch, &size.plan));
    let guests: Vec<_> = attached.collect::<Result<_>>()?;
    let template = Template::new(size.kind, ends(), size.plan.frame);
    let mut lanes = Vec::new();
    for (n, (switch, [from, to])) in switches.iter().zip(&guests).enumerate() {
        let name = if n < own { switch.name() } else { BESIDE };
        lanes.push(Lane::named(name, &**switch, Generator::new(from, to, &template)));
    }
    for way in size.kernel {
        lanes.push(Lane::Kernel(Box::new(Kernel::new(*way, size.kind, size.plan.frame)?)));
    }
    let measured = race(size.name, &mut lanes, *effort, size.unit, size.value, progress)?;
    drop(lanes);
    let switches: Vec<&dyn Switch> = switches.iter().map(|s| &**s as &dyn Switch).collect();
    detach(&switches, guests)?;
    Ok(measured)
}

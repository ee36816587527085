//! The paths that the demo measures, and which way their datagrams must have gone.

use std::fmt;

use lab::guest::Guest;
use lab::instance::Counters;
use lab::measure::{Rate, Stream, echo, stream};
use lab::scene::{HOST, OUTSIDE, Pair, Place, Scene, vm};

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathName {
    /// From one VM to the other.
    VmToVm,
    /// From a VM to the LAN.
    VmToOutside,
    /// From the LAN to a VM.
    OutsideToVm,
    /// From the host's own stack to a VM.
    HostToVm,
    /// From a VM to the host's own stack.
    VmToHost,
}

impl PathName {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::VmToVm, Self::VmToOutside, Self::OutsideToVm, Self::HostToVm, Self::VmToHost];

    /// Counters that must grow when datagrams go this way and back, and counters that must not.
    fn ways(self) -> (&'static [Way], &'static [Way]) {
        const BETWEEN_VMS: &[Way] = &[("vm/web", "to_vm"), ("vm/db", "to_vm")];
        const LAN: &[Way] = &[("vm/web", "to_uplink"), ("uplink/lan", "to_vm")];
        const HOST: &[Way] = &[("vm/web", "to_host"), ("host/lan", "to_vm")];
        const NOT_BETWEEN_VMS: &[Way] = &[
            ("vm/web", "to_uplink"),
            ("vm/db", "to_uplink"),
            ("vm/web", "to_host"),
            ("vm/db", "to_host"),
        ];
        match self {
            Self::VmToVm => (BETWEEN_VMS, NOT_BETWEEN_VMS),
            Self::VmToOutside | Self::OutsideToVm => {
                (LAN, &[("vm/web", "to_vm"), ("vm/web", "to_host"), ("vm/db", "to_uplink")])
            }
            Self::HostToVm | Self::VmToHost => {
                (HOST, &[("vm/web", "to_vm"), ("vm/web", "to_uplink"), ("vm/db", "to_host")])
            }
        }
    }
}

impl fmt::Display for PathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::VmToVm => "VM to VM",
            Self::VmToOutside => "VM to outside",
            Self::OutsideToVm => "outside to VM",
            Self::HostToVm => "host to VM",
            Self::VmToHost => "VM to host",
        })
    }
}

/// Owner and name of a counter.
type Way = (&'static str, &'static str);

/// IPv4 or IPv6: also the index in a pair of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Echo requests.
    Ping,
    /// A second of iperf3.
    Stream(Stream),
}

/// All of it, in the table's order.
pub const KINDS: [Kind; 4] = [
    Kind::Ping,
    Kind::Stream(Stream::Tcp),
    Kind::Stream(Stream::TcpBack),
    Kind::Stream(Stream::Udp),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ping => "ping",
            Self::Stream(Stream::Tcp) => "TCP there",
            Self::Stream(Stream::TcpBack) => "TCP back",
            Self::Stream(Stream::Udp) => "UDP",
        })
    }
}

/// One measurement: what it showed, or why it failed.
#[derive(Clone, Debug)]
pub struct Measured {
    /// From where to where.
    pub path: PathName,
    /// Over which IP.
    pub family: Family,
    /// By what.
    pub kind: Kind,
    /// For the table.
    pub shown: std::result::Result<String, String>,
}

/// What a path added to the base's counters.
#[derive(Clone, Debug)]
pub struct Grown {
    /// From where to where.
    pub path: PathName,
    /// What was added, by owner and name.
    pub counters: Counters,
}

/// Datagrams of a UDP run that may be lost, of a hundred: software emulation stalls now and then.
const MOST_LOST: f64 = 25.0;
/// Echo requests per measurement.
const ECHOES: u32 = 3;

/// Everybody who takes part.
pub struct Stage<'a> {
    /// The VM that asks, and is asked from elsewhere.
    pub web: &'a Guest,
    /// The VM that the other one asks.
    pub db: &'a Guest,
    /// Host and outside.
    pub scene: &'a Scene,
}

impl Stage<'_> {
    /// Who asks, who is asked, and the addresses of the latter.
    fn ends(&self, path: PathName) -> (Place<'_>, Place<'_>, Pair) {
        let (web, db) = (Place::Guest(self.web), Place::Guest(self.db));
        let (host, outside) = (Place::Space(&self.scene.host), Place::Space(&self.scene.outside));
        match path {
            PathName::VmToVm => (web, db, vm(1)),
            PathName::VmToOutside => (web, outside, OUTSIDE),
            PathName::OutsideToVm => (outside, web, vm(0)),
            PathName::HostToVm => (host, web, vm(0)),
            PathName::VmToHost => (web, host, HOST),
        }
    }

    /// Measures once. On a path where not even echo came back (`silent`) nothing else is tried.
    pub fn measure(&self, path: PathName, family: Family, kind: Kind, silent: bool) -> Measured {
        let (from, at, to) = self.ends(path);
        let to = to[family as usize];
        let shown = match kind {
            Kind::Ping => echo(from, to, ECHOES).map_err(|e| e.to_string()).and_then(|seen| {
                match seen.sent == ECHOES && seen.received == ECHOES {
                    true => Ok(format!("{:.2} ms", seen.milliseconds)),
                    false => Err(format!("{} of {} replies", seen.received, seen.sent)),
                }
            }),
            Kind::Stream(_) if silent => Err("not tried, as there was no echo".to_owned()),
            Kind::Stream(which) => {
                stream(from, at, to, which).map_err(|e| e.to_string()).and_then(|rate| {
                    match rate.bytes >= Rate::ENOUGH && rate.lost_percent <= MOST_LOST {
                        true => Ok(show_rate(&rate, which)),
                        false => Err(format!(
                            "{} octets arrived, {:.0} % lost",
                            rate.bytes, rate.lost_percent
                        )),
                    }
                })
            }
        };
        Measured { path, family, kind, shown }
    }
}

fn show_rate(rate: &Rate, which: Stream) -> String {
    let megabits = rate.bits_per_second / 1e6;
    match which {
        Stream::Udp => format!("{megabits:.1} Mb/s, {:.0} % lost", rate.lost_percent),
        _ if megabits >= 1000.0 => format!("{:.2} Gb/s", megabits / 1000.0),
        _ => format!("{megabits:.0} Mb/s"),
    }
}

/// Whether there was no echo on this path.
pub fn is_silent(measured: &[Measured], path: PathName, family: Family) -> bool {
    measured
        .iter()
        .any(|m| m.path == path && m.family == family && m.kind == Kind::Ping && m.shown.is_err())
}

/// The measurements that failed, in words.
pub fn failures(measured: &[Measured]) -> Vec<String> {
    let failed = measured.iter().filter_map(|m| Some((m, m.shown.as_ref().err()?)));
    failed.map(|(m, why)| format!("{}, {}, {}: {why}", m.path, m.family, m.kind)).collect()
}

/// Paths whose datagrams did not go the way they should have, by the base's counters.
pub fn wrong_ways(grown: &[Grown]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Grown { path, counters } in grown {
        let (wanted, unwanted) = path.ways();
        for (owner, name) in wanted.iter().filter(|(o, n)| counters.get(o, n) == 0) {
            wrong.push(format!("{path}: {owner} {name} did not grow"));
        }
        for (owner, name) in unwanted.iter().filter(|(o, n)| counters.get(o, n) > 0) {
            let more = counters.get(owner, name);
            wrong.push(format!("{path}: {owner} {name} grew by {more}"));
        }
    }
    wrong
}

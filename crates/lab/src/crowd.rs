//! A crowd of ports: hundreds of front ends of our own on one instance, each with little memory.
//!
//! # Theory of operation
//! All are on one network with a card and a path to the host, so that a successor has everything to
//! take over that a real one has, only a thousand times. Each VM has one IPv6 address, because no
//! IPv4 documentation prefix is large enough.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::driver::{DriverPort, Settings, features};
use crate::error::{LabError, Result};
use crate::frames::{self, Mac};
use crate::hostile::BASE_MAC;
use crate::instance::Instance;
use crate::numbered::{Flow, Stream};
use crate::scene::Scene;

/// How long one datagram may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Datagrams on their way from the first to the last: fewer than a ring holds.
const WINDOW: u64 = 40;
/// Descriptors of this process for one port, and for all else.
const DESCRIPTORS: (u64, u64) = (8, 512);

/// The crowd.
pub struct Crowd {
    /// The base.
    pub instance: Instance,
    /// The drivers, by number.
    pub ports: Vec<DriverPort>,
    _scene: Scene,
}

/// The address of VM number `number`.
fn address(number: usize) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 1, number as u16))
}

/// The MAC address of VM number `number`.
fn mac(number: usize) -> Mac {
    let [high, low] = (number as u16).to_be_bytes();
    [2, 0, 0, 1, high, low]
}

/// The name of VM number `number`.
pub fn name(number: usize) -> String {
    format!("v{number}")
}

/// Small rings and buffers, nothing left to offload.
pub fn settings() -> Settings {
    let known = features::ALL & !features::OFFLOADS & !features::MRG_RXBUF;
    let most = Settings::default();
    Settings { features: known, ring: 64, buffer: 1600, room: 1600, memory: 1 << 18, ..most }
}

/// Lets this process have as many descriptors as so many ports take.
pub fn raise_limit(count: usize) -> Result<()> {
    let needed = count as u64 * DESCRIPTORS.0 + DESCRIPTORS.1;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).map_err(|error| {
        LabError::Unexpected(format!("{count} ports take {needed} descriptors: {error}"))
    })
}

impl Crowd {
    /// Starts `program` with so many ports, and attaches a driver to each.
    pub fn up(program: &Path, count: usize) -> Result<Self> {
        raise_limit(count)?;
        let scene = Scene::set()?;
        let mut config = scene.network();
        for number in 0..count {
            let (name, address) = (name(number), address(number));
            let mac = mac(number).map(|octet| format!("{octet:02x}")).join(":");
            config.push_str(&format!(
                "\n[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\nmac = \"{mac}\"\n\
                 addresses = [\"{address}\"]\n"
            ));
        }
        let instance = Instance::up_by(program, &scene.host, &config, Vec::new())?;
        let attach = |n| DriverPort::connect(&instance.socket(&name(n)), &settings());
        let ports = (0..count).map(attach).collect::<Result<_>>()?;
        Ok(Self { instance, ports, _scene: scene })
    }

    /// What one sends to another.
    fn flow(from: usize, to: usize) -> Flow {
        Flow::new(address(from), address(to), (1000, 2000), 64)
    }

    fn send(&mut self, from: usize, flow: &Flow, number: u64) -> Result<()> {
        let frame = frames::carry(BASE_MAC, mac(from), &flow.datagram(number));
        self.ports[from].send_plain(&frame)
    }

    /// Everyone sends the next one a datagram, and everyone receives one.
    pub fn everyone_talks(&mut self) -> Result<()> {
        let count = self.ports.len();
        for from in 0..count {
            self.send(from, &Self::flow(from, (from + 1) % count), 0)?;
        }
        for from in 0..count {
            let (to, flow) = ((from + 1) % count, Self::flow(from, (from + 1) % count));
            let came = self.ports[to]
                .receive_matching(LIMIT, |_, f| flow.number(frames::datagram_of(f)) == Some(0))?;
            if came.is_none() {
                let what = format!("a datagram from VM {from} to VM {to}");
                return Err(LabError::Timeout { what, limit: LIMIT });
            }
        }
        Ok(())
    }

    /// One datagram of a stream from the first to the last, if it has room, and whatever comes within
    /// a millisecond.
    fn step(&mut self, stream: &mut Stream, send: bool) -> Result<()> {
        let to = self.ports.len() - 1;
        if send && let Some(datagram) = stream.next_frame() {
            self.ports[0].send_plain(&frames::carry(BASE_MAC, mac(0), &datagram))?;
        }
        if let Some((_, frame)) = self.ports[to].receive(Duration::from_millis(1))? {
            stream.take(frames::datagram_of(&frame));
        }
        Ok(())
    }

    /// Kills the base while the first sends to the last: for how long nothing came. Everything that
    /// was sent must come in the end.
    pub fn gap(&mut self) -> Result<Duration> {
        let mut stream = Stream::new(Self::flow(0, self.ports.len() - 1), WINDOW);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(100) {
            self.step(&mut stream, true)?;
        }
        stream.tally.begin();
        self.instance.kill_base()?;
        // More than were on their way.
        let goal = stream.sent + 2 * WINDOW;
        let end = Instant::now() + LIMIT;
        while Instant::now() < end && stream.tally.distinct() < goal {
            self.step(&mut stream, true)?;
        }
        let silence = stream.tally.take_silence();
        while Instant::now() < end && stream.on_the_way() > 0 {
            self.step(&mut stream, false)?;
        }
        match stream.on_the_way() {
            0 => Ok(silence),
            n => Err(LabError::Unexpected(format!("{n} of {} datagrams lost", stream.sent))),
        }
    }
}

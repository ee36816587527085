//! Who takes part: a running instance, two VMs and their load, a third that comes and goes, the LAN,
//! the host.
//!
//! ```text
//!  a  a.sock, the base listens  ═╗        ╔═ eth1 ── a station on the LAN
//!  b  b.sock, the base connects ═╬═ base ═╣
//!  c  comes and goes (churn)    ═╝        ╚═ TUN ── the host's own stack
//! ```

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::Asked;
use lab::driver::{DriverPort, Rings, Settings};
use lab::error::{Attempt, LabError};
use lab::exchange::{DriverEnd, End, SocketEnd};
use lab::instance::Instance;
use lab::numbered::Flow;
use lab::scene::{HOST, OUTSIDE, Scene, vm};
use lab::station::Station;
use lab::wired::{MACS, ask_for_mac};
use lab::{Result, command, frames};

use crate::lanes::{Both, Numbered, Strangers};
use crate::load::{Lane, Sender};

/// Entries of each ring of the two VMs: more than all lanes that begin or end there may have on their
/// way.
const RING: u16 = 4096;
/// Datagrams on their way on a lane of [`RATE`]: as many as are due in four times the gap allowed, so
/// that a base that is back by then makes nobody stop.
const MOST: u64 = 2000;
/// The same on the lanes to and from the host.
const HOST_MOST: u64 = 100;
/// The same on the way to new neighbours.
const STRANGERS_MOST: u64 = 50;
/// Frames of the card's receive ring: [`MOST`], and what the LAN says of itself.
const CARD_RING: u64 = 2304;
/// Datagrams a second on each lane between VMs and to and from the LAN.
const RATE: u64 = 10_000;
/// The same to and from the host, whose TUN device has a short queue.
const HOST_RATE: u64 = 500;
/// New neighbours on the LAN in a second: fewer than a VM may ask for.
const STRANGERS_RATE: u64 = 8;
/// How long everything that is set up may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The MAC address of the VM that comes and goes.
pub const CHURN_MAC: frames::Mac = [2, 0, 0, 0, 0, 0xc];

/// The lanes, by number.
pub mod lane {
    #![allow(missing_docs)]
    pub const A_TO_B: usize = 0;
    pub const B_TO_A: usize = 1;
    pub const A_TO_LAN: usize = 2;
    pub const LAN_TO_A: usize = 3;
    pub const B_TO_HOST: usize = 4;
    pub const HOST_TO_B: usize = 5;
    /// Those whose silences are measured: all that always have something under way.
    pub const STEADY: [usize; 6] = [A_TO_B, B_TO_A, A_TO_LAN, LAN_TO_A, B_TO_HOST, HOST_TO_B];
    /// How many there are.
    pub const COUNT: usize = 8;
}

/// Everything but the load itself.
pub struct Stage {
    /// The base.
    pub instance: Instance,
    /// Host and LAN.
    _scene: Scene,
    /// Who is on the LAN.
    pub station: Station,
    /// The base's MAC address on the last inch.
    pub base_mac: frames::Mac,
}

/// A VM's settings: no offloads, so that every octet is as it was sent.
fn settings(rings: Rings) -> Settings {
    Settings { ring: RING, buffer: 2048, room: 2048, rings, ..Settings::plain() }
}

impl Stage {
    /// Starts `program` on a scene of its own, with these variables, workers, this driver of the card,
    /// and VMs with such rings; gives the ends of the load too: a, b, the LAN, the host.
    pub fn set(
        program: &std::path::Path,
        environment: Vec<(&'static str, PathBuf)>,
        asked: &Asked,
    ) -> Result<(Self, Vec<Box<dyn End + Send>>)> {
        let (driver, rings) = (asked.driver.as_deref(), asked.rings);
        let scene = Scene::set()?;
        let (workers, network) = (asked.workers, scene.network_by(driver));
        let mut config = format!("workers = {workers}\n{network}receive_ring = {CARD_RING}\n");
        let sockets = ["\"a.sock\"", "{ connect = \"b.sock\" }", "\"c.sock\""];
        for (number, socket) in (0u8..).zip(sockets) {
            let (name, [v4, v6]) = (["a", "b", "c"][usize::from(number)], vm(number));
            let mac = [MACS[0], MACS[1], CHURN_MAC][usize::from(number)];
            let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
            config.push_str(&format!(
                "\n[vm.{name}]\nengine = \"external\"\nsocket = {socket}\nmac = \"{mac}\"\n\
                 addresses = [\"{v4}\", \"{v6}\"]\n"
            ));
        }
        let instance = Instance::up_by(program, &scene.host, &config, environment)?;
        if driver == Some("xdp") {
            instance.wait_event("driver", "network/lan", "AF_XDP carries")?;
        }
        let mut a = DriverPort::connect(&instance.socket("a"), &settings(rings))?;
        let b = accept(&instance, "b", rings)?;
        let base_mac = ask_for_mac(&mut a)?;
        let mut ends: Vec<Box<dyn End + Send>> = Vec::new();
        for (port, own) in [(a, MACS[0]), (b, MACS[1])] {
            ends.push(Box::new(DriverEnd { port, own, base: base_mac }));
        }
        let station = Station::replace(&scene)?;
        ends.push(Box::new(station.clone()));
        let [host, other] = [HOST[0], vm(1)[0]].map(|ip| SocketAddr::new(ip, 1000));
        ends.push(Box::new(SocketEnd::new(&scene.host, host, other, &from_host())?));
        introduce(&mut ends)?;
        Ok((Self { instance, _scene: scene, station, base_mac }, ends))
    }
}

/// Waits at a port's socket for the base, which connects.
fn accept(instance: &Instance, name: &str, rings: Rings) -> Result<DriverPort> {
    let path = instance.socket(name);
    let what = || format!("listen at {}", path.display());
    let listener = UnixListener::bind(&path).attempt(what)?;
    listener.set_nonblocking(true).attempt(what)?;
    let (stream, _) = command::wait_until(
        LIMIT,
        || format!("the base's connection to {}", path.display()),
        || Ok(listener.accept().ok()),
    )?;
    stream.set_nonblocking(false).attempt(what)?;
    DriverPort::accepted(stream, &settings(rings))
}

fn from_host() -> Flow {
    Flow::new(HOST[0], vm(1)[0], (1000, 1000), 64).by_data()
}

/// One datagram each way between a and the LAN, and b and the host, before there are many: what waits
/// for a neighbour is few by rule.
fn introduce(ends: &mut [Box<dyn End + Send>]) -> Result<()> {
    let mut first = Vec::new();
    for family in [0, 1] {
        let (own, other) = (vm(0)[family], OUTSIDE[family]);
        first.push((0, 2, Flow::new(own, other, (1, 1), 64)));
        first.push((2, 0, Flow::new(other, own, (1, 1), 64)));
    }
    for (from, to, flow) in first {
        ends[from].put(&flow.datagram(0))?;
        let end = Instant::now() + LIMIT;
        let mut came = false;
        while !came {
            // Everybody listens: somebody may have to answer first.
            for (number, listener) in ends.iter_mut().enumerate() {
                while let Some(datagram) = listener.get()? {
                    came |= number == to && flow.number(&datagram).is_some();
                }
            }
            if Instant::now() > end {
                let what = "the first datagram between a VM and the LAN".to_owned();
                return Err(LabError::Timeout { what, limit: LIMIT });
            }
        }
    }
    Ok(())
}

/// The lanes; `churned` is how many datagrams the VM that comes and goes has sent.
pub fn lanes(churned: Arc<AtomicU64>) -> Vec<Lane> {
    let own = |name, end, to, rate, kind: Box<dyn Numbered>, most| Lane {
        name,
        sender: Sender::End { end, rate },
        to,
        kind,
        most,
    };
    let pair = |from, to| Box::new(Both::new(from, to, (1000, 2000)));
    let to_host = Flow::new(vm(1)[0], HOST[0], (1000, 1000), 64).by_data();
    vec![
        own("a to b", 0, 1, RATE, pair(vm(0), vm(1)), MOST),
        own("b to a", 1, 0, RATE, pair(vm(1), vm(0)), MOST),
        own("a to LAN", 0, 2, RATE, pair(vm(0), OUTSIDE), MOST),
        own("LAN to a", 2, 0, RATE, pair(OUTSIDE, vm(0)), MOST),
        own("b to host", 1, 3, HOST_RATE, Box::new(to_host), HOST_MOST),
        own("host to b", 3, 1, HOST_RATE, Box::new(from_host()), HOST_MOST),
        own(
            "a to new neighbours",
            0,
            2,
            STRANGERS_RATE,
            Box::new(Strangers(vm(0)[1])),
            STRANGERS_MOST,
        ),
        Lane {
            name: "c, which comes and goes, to b",
            sender: Sender::Other(churned),
            to: 1,
            kind: Box::new(churned_flow()),
            most: 0,
        },
    ]
}

/// What the VM that comes and goes sends.
pub fn churned_flow() -> Flow {
    Flow::new(vm(2)[0], vm(1)[0], (4000, 4000), 200)
}

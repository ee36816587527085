//! Two drivers of our own on two ports of a running base, and a tap on the LAN: the scene of tests
//! that compare octets.
//!
//! ```text
//!  driver a ══ port ═╗                        ╔═ namespace "outside"
//!                    ╠═ base ═ eth1 ── lan0 ══╣  its kernel answers ARP and ND;
//!  driver b ══ port ═╝                        ╚═ the tap sees and sends everything
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use virtqueue::NetHeader;

use crate::capture::{Frame, Tap};
use crate::command::wait_until;
use crate::driver::{DriverPort, Settings};
use crate::error::{LabError, Result};
use crate::frames::{self, Mac};
use crate::instance::Instance;
use crate::scene::{CARD, LAN_CARD, Pair, Scene, by_xdp, vm};

/// How long something that must happen may take.
pub const LIMIT: Duration = Duration::from_secs(5);
/// MAC addresses of the two drivers.
pub const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]];
/// Names of the two VMs.
pub const NAMES: [&str; 2] = ["a", "b"];

/// Everything, wired.
pub struct Wired {
    /// The first driver.
    pub a: DriverPort,
    /// The second driver.
    pub b: DriverPort,
    /// On the LAN's end of the cable.
    pub tap: Tap,
    /// The base.
    pub instance: Instance,
    /// Host and outside.
    pub scene: Scene,
    /// The base's MAC address on the last inch.
    pub base_mac: Mac,
    /// The card's MAC address.
    pub card_mac: Mac,
    /// The MAC address of the LAN's end of the cable.
    pub lan_mac: Mac,
}

/// What differs from one test to the other.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Octets of the largest datagram on the cable.
    pub mtu: u16,
    /// The two drivers.
    pub drivers: [Settings; 2],
    /// The network's table in place of the scene's, if there is one.
    pub table: Option<String>,
    /// More lines for the network's table.
    pub network: String,
    /// More lines for each VM's table.
    pub vms: [String; 2],
}

impl Default for Wiring {
    fn default() -> Self {
        Self {
            mtu: 1500,
            drivers: [Settings::default(); 2],
            table: None,
            network: String::new(),
            vms: [String::new(), String::new()],
        }
    }
}

impl Wired {
    /// Sets the scene, starts the base, attaches the drivers.
    pub fn up(wiring: &Wiring) -> Result<Self> {
        Self::on(Scene::set()?, wiring)
    }

    /// The same on a scene that was set, and perhaps changed, before.
    pub fn on(scene: Scene, wiring: &Wiring) -> Result<Self> {
        for (space, card) in [(&scene.host, CARD), (&scene.outside, LAN_CARD)] {
            space.run(&format!("ip link set {card} mtu {}", wiring.mtu))?;
        }
        let tap = Tap::open(&scene.outside, LAN_CARD)?;
        let table = wiring.table.clone().unwrap_or_else(|| scene.network());
        let mut config = format!("{table}{}\n", wiring.network);
        for (number, name) in (0u8..).zip(NAMES) {
            let [v4, v6] = vm(number);
            let index = usize::from(number);
            config.push_str(&format!(
                "\n[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\n\
                 mac = \"{}\"\naddresses = [\"{v4}\", \"{v6}\"]\n{}\n",
                MACS[index].map(|o| format!("{o:02x}")).join(":"),
                wiring.vms[index],
            ));
        }
        let instance = Instance::up(&scene.host, &config)?;
        if wiring.table.is_none() && by_xdp(wiring.mtu) {
            let what = || "the XDP program at the card".to_owned();
            wait_until(LIMIT, what, || Ok(scene.has_program()?.then_some(())))?;
        }
        let connect =
            |n: usize| DriverPort::connect(&instance.socket(NAMES[n]), &wiring.drivers[n]);
        let (mut a, b) = (connect(0)?, connect(1)?);
        let base_mac = ask_for_mac(&mut a)?;
        let card_mac = scene.card_mac()?;
        let lan_mac = crate::netns::mac(&scene.outside, LAN_CARD)?;
        Ok(Self { a, b, tap, instance, scene, base_mac, card_mac, lan_mac })
    }

    /// A datagram of the first VM as the frame that its driver sends.
    pub fn from_a(&self, datagram: &[u8]) -> Vec<u8> {
        frames::carry(self.base_mac, MACS[0], datagram)
    }

    /// A datagram from the LAN as the frame that the card receives.
    pub fn from_lan(&self, datagram: &[u8]) -> Vec<u8> {
        frames::carry(self.card_mac, self.lan_mac, datagram)
    }

    /// Waits until the machine outside says nothing by itself any more (a card that comes up makes
    /// its kernel report and ask for some seconds): for tests whose counts are exact.
    pub fn wait_quiet(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while self.tap.receive(Duration::from_secs(3))?.is_some() {
            if Instant::now() > end {
                let what = "silence on the LAN".to_owned();
                return Err(LabError::Timeout { what, limit: Duration::from_secs(30) });
            }
        }
        Ok(())
    }

    /// The first frame that the card sends and `wanted` likes, within [`LIMIT`].
    pub fn seen_outside(&self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        let end = Instant::now() + LIMIT;
        let mut others = 0;
        while let Some(frame) = self.tap.receive(end.saturating_duration_since(Instant::now()))? {
            if !frame.outgoing && wanted(&frame) {
                return Ok(frame);
            }
            others += 1;
        }
        let what = format!("{what} on the LAN, among {others} frames");
        Err(LabError::Timeout { what, limit: LIMIT })
    }
}

/// The first frame that carries exactly this datagram, within [`LIMIT`].
pub fn delivered(port: &mut DriverPort, datagram: &[u8]) -> Result<(NetHeader, Vec<u8>)> {
    let found = port.receive_matching(LIMIT, |_, f| frames::datagram_of(f) == datagram)?;
    found.ok_or_else(|| LabError::Timeout {
        what: format!("delivery of a datagram of {} octets", datagram.len()),
        limit: LIMIT,
    })
}

/// Asks for a LAN address by ARP, as the first VM, and gives the MAC address that answers.
pub fn ask_for_mac(port: &mut DriverPort) -> Result<Mac> {
    let [own, asked]: [Pair; 2] = [vm(0), crate::scene::GATEWAY];
    let (IpAddr::V4(own), IpAddr::V4(asked)) = (own[0], asked[0]) else {
        return Err(LabError::Unexpected("no IPv4 addresses in the scene".to_owned()));
    };
    let request = frames::arp(1, (MACS[0], own), ([0; 6], asked));
    port.send_plain(&frames::ethernet([0xff; 6], MACS[0], frames::ARP, &request))?;
    let answer = port.receive_matching(LIMIT, |_, f| {
        f.get(12..14) == Some(&frames::ARP.to_be_bytes()) && f.get(21) == Some(&2)
    })?;
    answer
        .and_then(|(_, frame)| frame.get(6..)?.first_chunk::<6>().copied())
        .ok_or_else(|| LabError::Timeout { what: "an answer to ARP".to_owned(), limit: LIMIT })
}

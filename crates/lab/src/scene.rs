//! The scene that most whole-system tests play in: a host with a card, and machines outside.
//!
//! ```text
//!  namespace "host"                     namespace "outside"
//!  ipvisor, its VMs, the host's stack   somebody on the LAN, and the LAN's router
//!  eth1  203.0.113.2  ───── veth ─────  lan0  203.0.113.50, 203.0.113.1
//!        2001:db8:1::2                        2001:db8:1::50, 2001:db8:1::1
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use datapath::uplink::LARGEST_XDP_MTU;

use crate::command::{finish, wait_until};
use crate::error::{LabError, Result};
use crate::guest::{Guest, Output};
use crate::netns::{Netns, cable, mac};

/// The host's card.
pub const CARD: &str = "eth1";
/// Which driver reaches the card where a test does not say: `packet` or `xdp`.
pub const DRIVER: &str = "IPVISOR_TEST_DRIVER";
/// The other end of its cable.
pub const LAN_CARD: &str = "lan0";

const fn lan4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
}

const fn lan6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last))
}

/// Addresses of one machine in the scene: IPv4, IPv6.
pub type Pair = [IpAddr; 2];
/// The host.
pub const HOST: Pair = [lan4(2), lan6(2)];
/// The machine outside.
pub const OUTSIDE: Pair = [lan4(50), lan6(0x50)];
/// The LAN's router (the same machine).
pub const GATEWAY: Pair = [lan4(1), lan6(1)];

/// The addresses of the `n`th VM.
pub fn vm(n: u8) -> Pair {
    let number = 10 + n;
    // So that both end in the same digits.
    let shown = u16::from(number / 10 * 16 + number % 10);
    [lan4(number), lan6(shown)]
}

/// What [`DRIVER`] says, which is read nowhere else.
///
/// # Panics
/// If it asks for something else.
pub fn driver() -> Option<String> {
    let name = std::env::var(DRIVER).ok().filter(|name| !name.is_empty())?;
    assert!(["packet", "xdp"].contains(&name.as_str()), "{DRIVER}={name}: packet or xdp");
    Some(name)
}

/// The line that says so in the table of a network that is not the scene's own.
pub fn driver_line(driver: Option<&str>) -> String {
    driver.map(|name| format!("driver = \"{name}\"\n")).unwrap_or_default()
}

/// Whether a card with this MTU is reached by AF_XDP where a test does not say.
pub fn by_xdp(mtu: u16) -> bool {
    driver().as_deref() == Some("xdp") && u32::from(mtu) <= LARGEST_XDP_MTU
}

/// Host and outside, wired, with their addresses.
#[derive(Debug)]
pub struct Scene {
    /// Where ipvisor runs.
    pub host: Netns,
    /// The LAN's other end.
    pub outside: Netns,
}

impl Scene {
    /// Sets the scene.
    pub fn set() -> Result<Self> {
        let scene = Self { host: Netns::new()?, outside: Netns::new()? };
        scene.rewire()?;
        Ok(scene)
    }

    /// Lays the cable, anew if it was taken away, and gives both ends their addresses.
    pub fn rewire(&self) -> Result<()> {
        cable((&self.host, CARD), (&self.outside, LAN_CARD))?;
        // Deprecated: the machine outside does not speak from the router's address by itself.
        for (space, card, [v4, v6], more) in [
            (&self.host, CARD, HOST, ""),
            (&self.outside, LAN_CARD, OUTSIDE, ""),
            (&self.outside, LAN_CARD, GATEWAY, "preferred_lft 0"),
        ] {
            space.run(&format!("ip addr add {v4}/24 dev {card} {more}"))?;
            space.run(&format!("ip addr add {v6}/64 dev {card} nodad {more}"))?;
        }
        Ok(())
    }

    /// Waits until both cards' link-local addresses are past duplicate detection: for tests that
    /// compare what the host looks like before and after.
    pub fn wait_settled(&self) -> Result<()> {
        wait_until(
            Duration::from_secs(10),
            || "the end of duplicate address detection".to_owned(),
            || {
                let busy = |space: &Netns| -> Result<bool> {
                    let tentative = space.run("ip -6 -o addr show tentative")?;
                    let usable = space.run("ip -6 -o addr show scope link")?;
                    Ok(!tentative.trim().is_empty() || usable.trim().is_empty())
                };
                Ok((!busy(&self.host)? && !busy(&self.outside)?).then_some(()))
            },
        )
    }

    /// The configuration's network: this card, these prefixes, this gateway. The card is reached as
    /// [`DRIVER`] says, so that any test can be run with any driver.
    pub fn network(&self) -> String {
        self.network_by(driver().as_deref())
    }

    /// The same, with the card reached by this driver.
    pub fn network_by(&self, driver: Option<&str>) -> String {
        let [v4, v6] = GATEWAY;
        let driver = driver_line(driver);
        format!(
            "[network.lan]\nuplink = \"{CARD}\"\n\
             prefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]\n\
             gateway = [\"{v4}\", \"{v6}\"]\n{driver}"
        )
    }

    /// Whether an XDP program is at the card.
    pub fn has_program(&self) -> Result<bool> {
        Ok(self.host.run(&format!("ip link show dev {CARD}"))?.contains("xdp"))
    }

    /// The card's MAC address.
    pub fn card_mac(&self) -> Result<[u8; 6]> {
        mac(&self.host, CARD)
    }
}

/// Somewhere a command can be run: a guest or a namespace.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Inside a guest.
    Guest(&'a Guest),
    /// Inside a namespace.
    Space(&'a Netns),
}

impl Place<'_> {
    /// Runs a shell command line within `limit`.
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output> {
        match self {
            Self::Guest(guest) => guest.run_within(command, limit),
            Self::Space(space) => {
                let seconds = limit.as_secs().max(1).to_string();
                let mut shell = space.command("timeout");
                let end = finish(shell.args([&seconds, "sh", "-c", command]))?;
                let status = end.status.code().unwrap_or(-1);
                Ok(Output { status, text: end.stdout + &end.stderr })
            }
        }
    }

    /// Runs a shell command line that must succeed.
    pub fn ok(&self, command: &str) -> Result<String> {
        self.run(command, Duration::from_secs(30))?
            .ok()
            .map_err(|e| LabError::Unexpected(format!("`{command}`: {e}")))
    }
}

//! One network as the worker sees it: its list, its card, its path to the host.

use std::net::IpAddr;
use std::time::Instant;

use crate::admit::Admission;
use crate::answer::{BASE4, LastInch, Lease4};
use crate::counters::{Counter, Counters};
use crate::limiter::Limiter;
use crate::names::{Mac, NetworkId};
use crate::neighbor::{Lan, Outbox};
use crate::reserved::Class;
use crate::state::suspicion::Care;
use crate::uplink::{HostPath, PacketUplink};

/// What is known of a card; it changes while the card is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkFacts {
    /// The card's own MAC address: source of every frame that leaves.
    pub mac: Mac,
    /// Octets of the largest datagram it takes.
    pub mtu: u32,
    /// Link up, with carrier.
    pub up: bool,
}

/// The card, and what is known of the LAN behind it.
pub struct UplinkSide {
    pub card: PacketUplink,
    pub facts: UplinkFacts,
    pub lan: Lan,
    pub outbox: Outbox,
    /// When the kernel's overflow counter is to be read next, if frames have come in since it was.
    pub drops_due: Option<Instant>,
    /// How its ring is served after a death.
    pub care: Care,
}

impl UplinkSide {
    /// Counts what the kernel has dropped because the ring was full.
    pub fn count_drops(&mut self, counters: Counters<'_>) {
        self.drops_due = None;
        counters.add(Counter::DropUplinkRingFull, self.card.kernel_drops().into());
    }

    /// When something is due: on the LAN side, or at the overflow counter.
    fn deadline(&self) -> Option<Instant> {
        self.lan.next_deadline().into_iter().chain(self.drops_due).min()
    }
}

/// One network.
pub struct Network {
    pub id: NetworkId,
    /// Octets of the largest datagram on the VMs' links.
    pub mtu: u32,
    pub admission: Admission,
    pub uplink: Option<UplinkSide>,
    pub host: Option<HostPath>,
    /// A base has died of a datagram from the host, and none was carried since.
    pub host_suspected: bool,
    /// Speaks to the LAN in ICMP errors, as an inch speaks to its guest.
    pub outward: LastInch,
    /// How many ICMP errors may go to the LAN.
    pub limiter: Limiter,
    /// Of the current batch: what goes to the card, with its next hop.
    pub to_uplink: Vec<(u16, Mac)>,
    /// Of the current batch: what goes to the host.
    pub to_host: Vec<u16>,
}

impl Network {
    /// The inch through which a host on the LAN is told of an error about its own datagram. `None`
    /// if the base has no address to say it from: its own of the last inch means something else
    /// outside, the gateway perhaps.
    pub fn outward_to(&self, host: IpAddr) -> Option<LastInch> {
        let speaker = match host {
            IpAddr::V4(_) => IpAddr::V4(self.outward.icmp_source4),
            IpAddr::V6(_) => IpAddr::V6(self.outward.icmp_source6),
        };
        if Class::of(speaker) != Class::Unicast {
            return None;
        }
        let mut inch = self.outward.clone();
        match host {
            IpAddr::V4(address) => {
                inch.addresses4.push(Lease4 { address, prefix_len: 32, router: BASE4 });
            }
            IpAddr::V6(address) => inch.addresses6.push(address),
        }
        Some(inch)
    }

    /// When something is due at the card.
    pub fn deadline(&self) -> Option<Instant> {
        self.uplink.as_ref().and_then(UplinkSide::deadline)
    }
}

//! One network as the workers see it: its list, its card, its path to the host.
//!
//! # Theory of operation
//! The list is read by all workers, and changes while they rest. The way out (card, neighbours, the
//! host's device) is behind one lock: a worker takes it for a batch that has something for it. What
//! comes in there, and its timers, are the business of one worker, the network's *home*.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use virtqueue::NetHeader;

use crate::admit::Admission;
use crate::answer::{BASE4, LastInch, Lease4};
use crate::counters::{Counter, Counters};
use crate::limiter::Limiter;
use crate::names::{Inlet, Mac, NetworkId};
use crate::neighbor::{Lan, Outbox};
use crate::reserved::Class;
use crate::state::suspicion::Care;
use crate::sync::{lock, own};
use crate::uplink::{HostPath, PacketUplink, Received};

use super::setup::NetworkSetup;
use super::xdp::XdpSide;

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

/// A frame that was copied into storage.
pub struct Taken {
    /// What the kernel says of it; by AF_XDP it says nothing.
    pub header: Option<NetHeader>,
    /// Its octets.
    pub len: usize,
}

/// The card, and what is known of the LAN behind it.
pub struct UplinkSide {
    pub card: PacketUplink,
    /// Carries the VMs' datagrams where it is in use; everything else takes the packet socket.
    pub xdp: Option<XdpSide>,
    pub facts: UplinkFacts,
    pub lan: Lan,
    pub outbox: Outbox,
    /// When the kernel's overflow counter is to be read next, if frames have come in since it was.
    pub drops_due: Option<Instant>,
    /// How the packet socket's ring is served after a death.
    pub care: Care,
}

impl UplinkSide {
    /// Counts what the kernel has dropped because the ring was full.
    pub fn count_drops(&mut self, counters: Counters<'_>) {
        self.drops_due = None;
        let by_xdp = self.xdp.as_ref().map_or(0, |xdp| xdp.card.kernel_drops());
        let drops = by_xdp.saturating_add(self.card.kernel_drops().into());
        counters.add(Counter::DropUplinkRingFull, drops);
    }

    /// When something is due: on the LAN side, at the overflow counter, or at frames that the kernel
    /// was asked to send.
    fn deadline(&self) -> Option<Instant> {
        let unsent = self.xdp.as_ref().and_then(|xdp| xdp.unsent_due);
        self.lan.next_deadline().into_iter().chain(self.drops_due).chain(unsent).min()
    }

    /// How many frames of a ring were released: names the first frame of a batch.
    #[inline]
    pub fn position(&self, inlet: Inlet) -> u64 {
        match (inlet.as_queue(), &self.xdp) {
            (Some(queue), Some(xdp)) => xdp.card.position(queue).into(),
            _ => self.card.position(),
        }
    }

    /// How many places of a ring the frames take that were taken and not released, `frames` of them.
    #[inline]
    pub fn taken(&self, inlet: Inlet, frames: u64) -> u16 {
        let places = match (inlet.as_queue(), &self.xdp) {
            (Some(queue), Some(xdp)) => xdp.card.taken(queue).into(),
            _ => frames,
        };
        u16::try_from(places).unwrap_or(u16::MAX)
    }

    /// How a ring is served after a death.
    #[inline]
    pub fn care_mut(&mut self, inlet: Inlet) -> &mut Care {
        match (inlet.as_queue(), &mut self.xdp) {
            (Some(queue), Some(xdp)) => xdp.care_mut(queue),
            _ => &mut self.care,
        }
    }

    /// Gives the frames taken from a ring back to the kernel.
    #[inline]
    pub fn release(&mut self, inlet: Inlet) {
        match (inlet.as_queue(), &mut self.xdp) {
            (Some(queue), Some(xdp)) => xdp.card.release(queue),
            _ => self.card.release(),
        }
    }

    /// Copies the next frame of a ring into `room`, or tells why it is dropped; `None` if there is
    /// none.
    #[inline]
    pub fn take(&mut self, inlet: Inlet, room: &mut [u8]) -> Option<Result<Taken, Counter>> {
        if let Some(queue) = inlet.as_queue() {
            let taken = self.xdp.as_mut()?.card.next(queue, room)?;
            return Some(taken.map(|len| Taken { header: None, len }));
        }
        Some(match self.card.next()? {
            Received::Dropped(reason) => Err(reason),
            Received::Frame { header, bytes, .. } => match room.get_mut(..bytes.len()) {
                Some(room) => {
                    room.copy_from_slice(bytes);
                    Ok(Taken { header: Some(header), len: bytes.len() })
                }
                None => Err(Counter::DropFrameLength),
            },
        })
    }

    /// Passes over the next frame of a ring without looking at it; false if there is none.
    pub fn pass_over(&mut self, inlet: Inlet) -> bool {
        match inlet.as_queue() {
            Some(queue) => self.xdp.as_mut().is_some_and(|xdp| xdp.card.pass_over(queue)),
            None => self.card.next().is_some(),
        }
    }
}

/// The way out of a network, and in.
#[derive(Default)]
pub struct Outside {
    pub uplink: Option<UplinkSide>,
    pub host: Option<HostPath>,
    /// A base has died of a datagram from the host, and none was carried since.
    pub host_suspected: bool,
    /// How many ICMP errors may go to the LAN.
    pub limiter: Limiter,
    /// When the home worker believes that something is due.
    told: Option<Instant>,
}

impl Outside {
    /// When something is due at the card, for the home worker to know.
    pub fn tell_deadline(&mut self) -> Option<Instant> {
        self.told = self.deadline();
        self.told
    }

    /// Whether something is due earlier than the home worker believes; says so only once.
    pub fn is_due_earlier(&mut self) -> bool {
        let told = self.told;
        self.tell_deadline().is_some_and(|due| told.is_none_or(|told| due < told))
    }

    /// When something is due at the card.
    pub fn deadline(&self) -> Option<Instant> {
        self.uplink.as_ref().and_then(UplinkSide::deadline)
    }
}

/// One network.
pub struct Network {
    pub id: NetworkId,
    /// The worker that serves its card and its path to the host.
    pub home: usize,
    /// Octets of the largest datagram on the VMs' links.
    pub mtu: u32,
    pub admission: Admission,
    /// Speaks to the LAN in ICMP errors, as an inch speaks to its guest.
    pub outward: LastInch,
    /// Its card is about to be used by AF_XDP no more: until nothing is left in those rings, nothing else
    /// of it goes out or comes in.
    pub ending: bool,
    outside: Mutex<Outside>,
}

impl Network {
    /// Without a card or a path to the host.
    pub fn new(setup: NetworkSetup, home: usize) -> Self {
        let NetworkSetup { id, mtu, on_link, outward } = setup;
        let admission = Admission::new(&on_link);
        let (ending, outside) = (false, Mutex::default());
        Self { id, home, mtu, admission, outward, ending, outside }
    }

    /// The way out. Nothing may be locked while it is held but what waits for a neighbour, and what
    /// receives.
    pub fn outside(&self) -> MutexGuard<'_, Outside> {
        lock(&self.outside)
    }

    /// The same, if nobody else has it just now.
    pub fn outside_if_free(&self) -> Option<MutexGuard<'_, Outside>> {
        self.outside.try_lock().ok()
    }

    /// The way out, while everything is at rest.
    pub fn outside_mut(&mut self) -> &mut Outside {
        own(&mut self.outside)
    }

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
}

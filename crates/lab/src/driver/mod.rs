//! A virtio-net driver in this process: exact frames into a port, exact frames out of it.
//!
//! # Theory of operation
//! ```text
//!  test ── send(header, frame) ──> DriverTx ══ rings in a memory file ══ the port
//!       <── receive() ─────────── DriverRx ══         kick, call        ══
//! ```
//! [`DriverPort::connect`] does what a guest's driver and its front end do together: negotiates
//! features, shares memory (two regions, so that a datagram's pieces can lie in both), sets up one
//! ring each way, posts receive buffers. From then on a frame goes out exactly as given, header
//! included, and comes in exactly as it was delivered.
//!
//! All parts are open to the test ([`DriverPort::tx`], [`DriverPort::memory`] ...): a hostile driver
//! is a good one whose octets are changed afterwards.

mod front_end;
mod pairs;
mod ring;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use virtqueue::driver::{AnyQueue, DriverMemory, DriverRing, DriverRx, DriverTx, Shape};
use virtqueue::{GuestAddress, NetHeader, QueueFeatures};

pub use front_end::{FrontEnd, MEM_SLOTS, MQ, REPLY_ACK, Region, request};
pub use pairs::MorePair;
pub use ring::{RINGS, Rings};

use crate::command::wait_until;
use crate::error::{Attempt, LabError, Result};

/// Virtio feature bits of a network device, as masks.
pub mod features {
    #![allow(missing_docs)]
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// Several queue pairs: wanted where the driver is to have them ([`super::Settings::pairs`]).
    pub const MQ: u64 = 1 << 22;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Vhost-user's own: protocol features can be negotiated.
    pub const PROTOCOL: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const IN_ORDER: u64 = 1 << 35;

    /// Everything that leaves work to the device.
    pub const OFFLOADS: u64 = CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6;
    /// What the driver here knows, whatever a device offers; packed rings it wants where it is to have
    /// them ([`super::Rings`]).
    pub const ALL: u64 = OFFLOADS
        | GUEST_ECN
        | HOST_ECN
        | MRG_RXBUF
        | INDIRECT_DESC
        | EVENT_IDX
        | PROTOCOL
        | VERSION_1
        | IN_ORDER;
}

/// Numbers of the rings.
const RX: u32 = 0;
const TX: u32 = 1;
/// Longest frame (40 octets more than 64 KiB in IPv6) with its headers, in a buffer of its own.
const LARGE: usize = 65_536 + 128;
/// Receive buffer without large receives: header, Ethernet, 9216 octets.
const JUMBO: usize = 9_300;

/// What a driver is like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Virtio features that are wanted; what the device does not offer is left out.
    pub features: u64,
    /// The rings' layout. A legacy driver (without VERSION_1) has split ones in any case.
    pub rings: Rings,
    /// Queue pairs, each with rings of its own. More than one must be offered.
    pub pairs: u32,
    /// Entries of each ring.
    pub ring: u16,
    /// Octets of each receive buffer; zero for what the features call for.
    pub buffer: usize,
    /// Octets of each output buffer, header and frame.
    pub room: usize,
    /// Octets of each of the two memory regions, for one queue pair.
    pub memory: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            features: features::ALL,
            rings: Rings::chosen(),
            pairs: 1,
            ring: 256,
            buffer: 0,
            room: LARGE,
            memory: 64 << 20,
        }
    }
}

impl Settings {
    /// A driver that leaves no work to the device and takes none from it.
    pub fn plain() -> Self {
        Self { features: features::ALL & !features::OFFLOADS, ..Self::default() }
    }

    /// The features that ask for the rings' layout and number.
    fn layout(&self) -> u64 {
        let modern = self.features & features::VERSION_1 != 0;
        let packed = modern && self.rings == Rings::Packed;
        let several = self.pairs > 1;
        (if packed { features::RING_PACKED } else { 0 }) | if several { features::MQ } else { 0 }
    }

    fn buffer(&self, negotiated: u64) -> usize {
        let large = negotiated & (features::GUEST_TSO4 | features::GUEST_TSO6) != 0;
        match self.buffer {
            0 if negotiated & features::MRG_RXBUF != 0 => 4096,
            0 if large => LARGE,
            0 => JUMBO,
            n => n,
        }
    }
}

/// A driver with its front end, attached to a port.
pub struct DriverPort {
    /// The connection.
    pub front_end: FrontEnd,
    /// The pretended guest's memory.
    pub memory: Arc<DriverMemory>,
    /// The output ring.
    pub tx: DriverTx<AnyQueue>,
    /// The input ring.
    pub rx: DriverRx<AnyQueue>,
    /// Other pairs than that.
    pub more: Vec<MorePair>,
    /// Frames that came by the first.
    pub came: u64,
    /// Wakes the device: input ring, output ring.
    pub kick: [OwnedFd; 2],
    /// Woken by the device: input ring, output ring.
    pub call: [OwnedFd; 2],
    /// What was negotiated.
    pub features: u64,
    /// Octets of each receive buffer.
    buffer: usize,
    /// Where input and output ring stand, as the front end was told last: when it is cut off, it knows
    /// no better.
    told: [u16; 2],
}

impl DriverPort {
    /// Connects to a port that listens at `socket` (within 5 s) and starts both rings.
    pub fn connect(socket: &Path, settings: &Settings) -> Result<Self> {
        Self::over(FrontEnd::connect(socket, Duration::from_secs(5))?, settings)
    }

    /// The same over a connection that a port made to us.
    pub fn accepted(stream: UnixStream, settings: &Settings) -> Result<Self> {
        Self::over(FrontEnd::over(stream)?, settings)
    }

    fn over(mut front_end: FrontEnd, settings: &Settings) -> Result<Self> {
        let octets = settings.memory * u64::from(settings.pairs);
        let memory = DriverMemory::new(&[(0, octets), (1 << 32, octets)])
            .attempt(|| "make a memory file".to_owned())?;
        let layout = settings.layout();
        let features = negotiate(&mut front_end, settings.features | layout, &memory)?;
        if features & layout != layout {
            let missing = layout & !features;
            return Err(LabError::Unexpected(format!("features {missing:#x} are not offered")));
        }
        let buffer = settings.buffer(features);
        let of_ring = QueueFeatures::from_bits(features);
        let ring = || AnyQueue::set_up(Arc::clone(&memory), settings.ring, of_ring);
        let (mut rx, tx) = (DriverRx::over(ring(), buffer), DriverTx::over(ring(), settings.room));
        rx.fill(buffer);
        rx.queue.expose();

        let pair = || -> Result<[OwnedFd; 2]> { Ok([event()?, event()?]) };
        let (kick, call) = (pair()?, pair()?);
        let told = [rx.queue.base(), tx.queue.base()];
        let pair = |number| MorePair::set_up(&memory, settings, features, number);
        let more = (1..settings.pairs).map(pair).collect::<Result<_>>()?;
        let mut port =
            Self { front_end, memory, tx, rx, more, came: 0, kick, call, features, buffer, told };
        port.start_rings()?;
        Ok(port)
    }

    /// Hangs up, and negotiates anew over another connection, with the rings as they are: what lies
    /// in them stays there. The features must be the same as before.
    pub fn come_back(&mut self, mut front_end: FrontEnd) -> Result<()> {
        let features = negotiate(&mut front_end, self.features, &self.memory)?;
        if features != self.features {
            let (before, now) = (self.features, features);
            return Err(LabError::Unexpected(format!("features {before:#x} became {now:#x}")));
        }
        self.front_end = front_end;
        self.start_rings()?;
        // Whatever was notified before was notified to nobody.
        self.kick.iter().try_for_each(signal)?;
        self.more.iter().try_for_each(MorePair::wake)
    }

    fn start_rings(&mut self) -> Result<()> {
        let Self { front_end, memory, .. } = self;
        for (ring, queue) in [(RX, &self.rx.queue), (TX, &self.tx.queue)] {
            let at = ring as usize;
            let bells = (self.kick[at].as_fd(), self.call[at].as_fd());
            start_ring(front_end, memory, ring, queue, self.told[at], bells)?;
        }
        if self.features & features::PROTOCOL != 0 {
            front_end.enable_ring(RX, true)?;
            front_end.enable_ring(TX, true)?;
        }
        self.more.iter().try_for_each(|pair| pair.start(front_end, memory))
    }

    /// Sends a frame; waits while the ring is full.
    pub fn send(&mut self, header: &NetHeader, frame: &[u8]) -> Result<()> {
        self.send_shaped(header, frame, Shape::default())
    }

    /// Sends a frame cut into the given pieces; waits while the ring is full.
    pub fn send_shaped(
        &mut self,
        header: &NetHeader,
        frame: &[u8],
        shape: Shape<'_>,
    ) -> Result<()> {
        let which = pairs::pair_of(frame, 1 + self.more.len());
        let mut other = which.checked_sub(1).and_then(|other| self.more.get_mut(other));
        let tx = other.as_mut().map_or(&mut self.tx, |pair| &mut pair.tx);
        wait_until(
            Duration::from_secs(5),
            || "room in the output ring".to_owned(),
            || {
                tx.reclaim();
                Ok(tx.send(header, frame, shape))
            },
        )?;
        if let Some(pair) = other {
            return pair.expose();
        }
        if self.tx.queue.expose() {
            signal(&self.kick[TX as usize])?;
        }
        Ok(())
    }

    /// Sends a frame that leaves nothing to offload.
    pub fn send_plain(&mut self, frame: &[u8]) -> Result<()> {
        self.send(&NetHeader::default(), frame)
    }

    /// The next frame that was delivered, if one is within `limit`.
    pub fn receive(&mut self, limit: Duration) -> Result<Option<(NetHeader, Vec<u8>)>> {
        let end = Instant::now() + limit;
        let mut frame = Vec::new();
        loop {
            if let Some(header) = self.rx.receive(&mut frame) {
                self.came += 1;
                self.rx.fill(self.buffer);
                if self.rx.queue.expose() {
                    signal(&self.kick[RX as usize])?;
                }
                return Ok(Some((header, frame)));
            }
            for pair in &mut self.more {
                if let Some(header) = pair.receive(&mut frame)? {
                    return Ok(Some((header, frame)));
                }
            }
            if self.more.iter_mut().fold(self.rx.queue.arm(), |some, p| p.rx.queue.arm() || some) {
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let others = self.more.iter().map(MorePair::bell);
            await_signal([&self.call[RX as usize]].into_iter().chain(others), left)?;
        }
    }

    /// The first frame within `limit` that `wanted` likes; others are dropped.
    pub fn receive_matching(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&NetHeader, &[u8]) -> bool,
    ) -> Result<Option<(NetHeader, Vec<u8>)>> {
        let end = Instant::now() + limit;
        while let Some((header, frame)) =
            self.receive(end.saturating_duration_since(Instant::now()))?
        {
            if wanted(&header, &frame) {
                return Ok(Some((header, frame)));
            }
        }
        Ok(None)
    }

    /// Waits until the device has given back all output buffers.
    pub fn wait_sent(&mut self, limit: Duration) -> Result<()> {
        let mut all: Vec<_> = self.more.iter_mut().map(|pair| &mut pair.tx).collect();
        all.push(&mut self.tx);
        wait_until(
            limit,
            || "the end of the output ring".to_owned(),
            || {
                for tx in &mut all {
                    tx.reclaim();
                }
                Ok(all.iter().all(|tx| tx.queue.outstanding() == 0).then_some(()))
            },
        )
    }

    /// Stops all rings and gives the indices at which the device stopped in the first pair: input,
    /// output.
    pub fn stop(&mut self) -> Result<(u16, u16)> {
        self.told[RX as usize] = self.front_end.stop_ring(RX)?;
        self.told[TX as usize] = self.front_end.stop_ring(TX)?;
        self.more.iter_mut().try_for_each(|pair| pair.stop(&mut self.front_end))?;
        Ok(self.told.into())
    }
}

/// What comes before the rings: owner, features, memory. Gives the features of both sides.
fn negotiate(front_end: &mut FrontEnd, wanted: u64, memory: &DriverMemory) -> Result<u64> {
    front_end.set_owner()?;
    let features = front_end.features()? & wanted;
    if features & features::PROTOCOL != 0 {
        front_end.negotiate_protocol(REPLY_ACK | MQ)?;
    }
    front_end.set_features(features)?;
    let shared: Vec<_> = memory.regions().iter().map(|r| (announced(r), r.file())).collect();
    front_end.set_memory(&shared)?;
    Ok(features)
}

/// Says all that the device needs of a ring, but that it is in use.
fn start_ring(
    front_end: &mut FrontEnd,
    memory: &DriverMemory,
    ring: u32,
    queue: &AnyQueue,
    told: u16,
    (kick, call): (BorrowedFd<'_>, BorrowedFd<'_>),
) -> Result<()> {
    let layout = queue.layout();
    let [desc, used, avail] =
        [layout.desc, layout.used, layout.avail].map(|a| user_address(memory, a));
    front_end.set_ring_size(ring, layout.size)?;
    front_end.set_ring_base(ring, told)?;
    front_end.set_ring_addresses(ring, desc, used, avail)?;
    front_end.set_ring_call(ring, Some(call))?;
    front_end.set_ring_kick(ring, Some(kick))
}

fn announced(region: &virtqueue::driver::DriverRegion) -> Region {
    Region { guest: region.guest.0, len: region.len, user: region.user(), offset: 0 }
}

fn user_address(memory: &DriverMemory, at: GuestAddress) -> u64 {
    let inside = memory.regions().iter().find_map(|r| {
        at.0.checked_sub(r.guest.0).filter(|&o| o < r.len).map(|offset| r.user() + offset)
    });
    inside.unwrap_or(at.0)
}

fn event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .attempt(|| "make an event descriptor".to_owned())
}

fn signal(event: &OwnedFd) -> Result<()> {
    match rustix::io::write(event, &1u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(e) => Err(e).attempt(|| "signal the device".to_owned()),
    }
}

/// Waits until one of them is signalled.
fn await_signal<'a>(events: impl Iterator<Item = &'a OwnedFd>, limit: Duration) -> Result<()> {
    let mut set: Vec<_> = events.map(|event| PollFd::new(event, PollFlags::IN)).collect();
    match poll(&mut set, Timespec::try_from(limit).ok().as_ref()) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => set.iter().try_for_each(|event| {
            let mut count = [0; 8];
            match rustix::io::read(event, &mut count) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
                Err(e) => Err(LabError::Io {
                    what: "read an event descriptor".to_owned(),
                    source: e.into(),
                }),
            }
        }),
        Err(e) => Err(e).attempt(|| "wait for the device".to_owned()),
    }
}

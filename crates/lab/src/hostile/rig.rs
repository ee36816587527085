//! A driver with its memory and rings, before anybody is told of them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use virtqueue::driver::{
    AnyQueue, DriverMemory, DriverQueue, DriverRing, DriverRx, DriverTx, PackedQueue, Shape,
};
use virtqueue::{GuestAddress, NetHeader, QueueFeatures, QueueLayout};

use super::stage::PATIENCE;
use crate::driver::{Rings, features};
use crate::error::{Attempt, LabError, Result};

/// The memory's regions: two that touch, and one far away.
pub const REGIONS: [(u64, u64); 3] =
    [(0x1000, 4 << 20), (0x1000 + (4 << 20), 4 << 20), (1 << 32, 4 << 20)];

/// What a rig is like.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Virtio features that it has negotiated; packed rings are added where drivers are to have them.
    pub features: u64,
    /// Entries of each ring.
    pub ring: u16,
    /// Octets that fit into one output buffer.
    pub tx_room: usize,
    /// Octets of each receive buffer.
    pub rx_buffer: usize,
    /// The index that both rings begin with; of packed ones their place, with the wrap counter in bit
    /// 15, modulo their size.
    pub start: u16,
}

impl Build {
    /// A driver that has many frames to send, and leaves all work to the device.
    pub const SPEAKER: Self = Self {
        features: features::ALL,
        ring: 128,
        tx_room: 20_000,
        rx_buffer: 2048,
        start: 0xffe0,
    };
    /// A receiver that takes all work from the device.
    pub const RICH: Self =
        Self { features: features::ALL, ring: 1024, tx_room: 64, rx_buffer: 2048, start: 0xff80 };
    /// A receiver that takes none.
    pub const PLAIN: Self = Self {
        features: features::VERSION_1 | features::PROTOCOL,
        ring: 1024,
        tx_room: 64,
        rx_buffer: 2048,
        start: 0,
    };
    /// A receiver into whose buffers nothing fits.
    pub const TINY: Self = Self { rx_buffer: 32, ..Self::PLAIN };
}

/// Memory, two rings, and the descriptors to wake each other by.
pub struct Rig {
    /// How it was built.
    pub build: Build,
    /// The pretended guest's memory.
    pub memory: Arc<DriverMemory>,
    /// The output ring.
    pub tx: DriverTx<AnyQueue>,
    /// The input ring.
    pub rx: DriverRx<AnyQueue>,
    /// Wakes the device: input ring, output ring.
    pub kicks: [Arc<OwnedFd>; 2],
    /// Woken by the device: input ring, output ring.
    pub calls: [Arc<OwnedFd>; 2],
}

impl Rig {
    /// Makes one. No receive buffer is posted yet.
    pub fn new(mut build: Build) -> Result<Self> {
        if Rings::chosen() == Rings::Packed {
            build.features |= features::RING_PACKED;
        }
        let memory = DriverMemory::new(&REGIONS).attempt(|| "make a memory file".to_owned())?;
        let of_ring = QueueFeatures::from_bits(build.features);
        let ring = || {
            let memory = Arc::clone(&memory);
            let Build { ring, start, .. } = build;
            match of_ring.packed {
                true => AnyQueue::Packed(PackedQueue::new(memory, ring, of_ring, start)),
                false => AnyQueue::Split(DriverQueue::new(memory, ring, of_ring, start)),
            }
        };
        let (rx, tx) = (ring(), ring());
        let rx = DriverRx::over(rx, build.rx_buffer);
        let tx = DriverTx::over(tx, build.tx_room);
        let event = || -> Result<Arc<OwnedFd>> {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            Ok(Arc::new(fd.attempt(|| "make an event descriptor".to_owned())?))
        };
        let (kicks, calls) = ([event()?, event()?], [event()?, event()?]);
        Ok(Self { build, memory, tx, rx, kicks, calls })
    }

    /// One with all its receive buffers posted.
    pub fn filled(build: Build) -> Result<Self> {
        let mut rig = Self::new(build)?;
        rig.refill();
        Ok(rig)
    }

    /// Where the rings lie: input, output.
    pub fn rings(&self) -> [QueueLayout; 2] {
        [self.rx.queue.layout(), self.tx.queue.layout()]
    }

    /// Where the rings are to go on, as SET_VRING_BASE says it: input, output.
    pub fn bases(&self) -> [u16; 2] {
        [self.rx.queue.base(), self.tx.queue.base()]
    }

    /// Posts all receive buffers that are free.
    pub fn refill(&mut self) {
        if self.rx.fill(self.build.rx_buffer) > 0 && self.rx.queue.expose() {
            self.kick(0);
        }
    }

    /// Wakes the device: ring 0 (input) or 1 (output).
    pub fn kick(&self, ring: usize) {
        // A counter at its limit wakes all the same.
        let _ = rustix::io::write(self.kicks[ring].as_fd(), &1u64.to_ne_bytes());
    }

    /// Adds a frame to the output ring; the device sees it after [`Rig::expose`]. False if the ring
    /// is full.
    pub fn add(&mut self, header: &NetHeader, frame: &[u8], shape: Shape<'_>) -> bool {
        self.tx.send(header, frame, shape).is_some()
    }

    /// Shows the device what was added.
    pub fn expose(&mut self) {
        if self.tx.queue.expose() {
            self.kick(1);
        }
    }

    /// Waits until the device has given all output buffers back.
    pub fn wait_taken(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.tx.reclaim();
            let left = self.tx.queue.outstanding();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                let what = format!("{left} output buffers given back");
                return Err(LabError::Timeout { what, limit: PATIENCE });
            }
            std::thread::yield_now();
        }
    }

    /// All frames that have arrived; their buffers are posted again.
    pub fn arrived(&mut self) -> Vec<(NetHeader, Vec<u8>)> {
        let mut all = Vec::new();
        let mut frame = Vec::new();
        while let Some(header) = self.rx.receive(&mut frame) {
            all.push((header, frame.clone()));
        }
        self.refill();
        all
    }

    /// Where the front end sees a guest address; an address of nowhere is given as it is.
    pub fn user(&self, at: GuestAddress) -> u64 {
        let inside = self.memory.regions().iter().find_map(|r| {
            at.0.checked_sub(r.guest.0).filter(|&o| o < r.len).map(|offset| r.user() + offset)
        });
        inside.unwrap_or(at.0)
    }
}

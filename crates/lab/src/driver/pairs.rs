//! More queue pairs than the first, for a driver that has several.
//!
//! What is sent goes out by the pair that its flow has: addresses and ports, added up. What comes is
//! taken from all of them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use virtqueue::driver::{AnyQueue, DriverMemory, DriverRing, DriverRx, DriverTx};
use virtqueue::{NetHeader, QueueFeatures};

use super::{FrontEnd, Settings, event, signal, start_ring};
use crate::error::Result;

/// Another queue pair of a port.
pub struct MorePair {
    /// The output ring.
    pub tx: DriverTx<AnyQueue>,
    /// The input ring.
    pub rx: DriverRx<AnyQueue>,
    /// Frames that came by it.
    pub came: u64,
    /// Which pair it is.
    number: u32,
    /// Wakes the device, and is woken by it: input ring, output ring.
    kick: [OwnedFd; 2],
    call: [OwnedFd; 2],
    told: [u16; 2],
    buffer: usize,
}

impl MorePair {
    /// Sets pair `number` up, with buffers posted.
    pub(super) fn set_up(
        memory: &Arc<DriverMemory>,
        settings: &Settings,
        features: u64,
        number: u32,
    ) -> Result<Self> {
        let (buffer, of_ring) = (settings.buffer(features), QueueFeatures::from_bits(features));
        let ring = || AnyQueue::set_up(Arc::clone(memory), settings.ring, of_ring);
        let (mut rx, tx) = (DriverRx::over(ring(), buffer), DriverTx::over(ring(), settings.room));
        rx.fill(buffer);
        rx.queue.expose();
        let told = [rx.queue.base(), tx.queue.base()];
        let (kick, call) = ([event()?, event()?], [event()?, event()?]);
        Ok(Self { tx, rx, came: 0, number, kick, call, told, buffer })
    }

    /// Has the device serve both rings.
    pub(super) fn start(&self, front_end: &mut FrontEnd, memory: &DriverMemory) -> Result<()> {
        for (side, queue) in [(0, &self.rx.queue), (1, &self.tx.queue)] {
            let at = side as usize;
            let ring = 2 * self.number + side;
            let bells = (self.kick[at].as_fd(), self.call[at].as_fd());
            start_ring(front_end, memory, ring, queue, self.told[at], bells)?;
        }
        self.enable(front_end, true)
    }

    /// Takes both rings into use, or out of it.
    pub fn enable(&self, front_end: &mut FrontEnd, on: bool) -> Result<()> {
        front_end.enable_ring(2 * self.number, on)?;
        front_end.enable_ring(2 * self.number + 1, on)
    }

    /// Stops both rings.
    pub(super) fn stop(&mut self, front_end: &mut FrontEnd) -> Result<()> {
        for (side, told) in (0..).zip(&mut self.told) {
            *told = front_end.stop_ring(2 * self.number + side)?;
        }
        Ok(())
    }

    /// Whatever was notified before was notified to nobody.
    pub(super) fn wake(&self) -> Result<()> {
        self.kick.iter().try_for_each(signal)
    }

    /// Shows the device what was put into the output ring.
    pub(super) fn expose(&mut self) -> Result<()> {
        if self.tx.queue.expose() { signal(&self.kick[1]) } else { Ok(()) }
    }

    /// The next frame that was delivered, and room for another.
    pub(super) fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<NetHeader>> {
        let Some(header) = self.rx.receive(frame) else { return Ok(None) };
        self.came += 1;
        self.rx.fill(self.buffer);
        if self.rx.queue.expose() {
            signal(&self.kick[0])?;
        }
        Ok(Some(header))
    }

    /// By what the device tells that something came.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.call[0]
    }
}

/// The pair, of `count`, by which a frame goes out.
pub(super) fn pair_of(frame: &[u8], count: usize) -> usize {
    let flow = match frame.get(12..14) {
        Some([0x86, 0xdd]) => frame.get(22..58),
        _ => frame.get(26..38),
    };
    let sum: usize = flow.unwrap_or_default().iter().map(|octet| usize::from(*octet)).sum();
    sum % count
}

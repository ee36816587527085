//! Two well-behaved neighbours that exchange numbered datagrams all the time, and lose none.
//!
//! Each sends a few, waits for what the other sent, and goes on: buffers are always there, so
//! whatever is missing was lost by the base.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use virtqueue::NetHeader;
use virtqueue::driver::Shape;

use super::cast::{BASE_MAC, Who};
use super::rig::{Build, Rig};
use super::stage::{PATIENCE, Stage};
use crate::error::{Attempt, LabError, Result};
use crate::frames::{self, protocol};

/// Datagrams of one side under way at once.
const BURST: usize = 16;
/// A pause between two exchanges: the neighbours are no load.
const PAUSE: Duration = Duration::from_micros(300);

/// How the neighbours fared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fared {
    /// Datagrams that each has received.
    pub datagrams: u64,
    /// The longest that an exchange took.
    pub longest: Duration,
}

/// The neighbours, on a thread of their own.
pub struct Pair {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Fared>>>,
}

struct Neighbor {
    who: Who,
    rig: Rig,
    sent: u64,
    received: u64,
}

impl Neighbor {
    fn other(&self) -> Who {
        if self.who == Who::GoodA { Who::GoodB } else { Who::GoodA }
    }

    fn datagram(from: Who, to: Who, number: u64) -> Vec<u8> {
        let v4 = number.is_multiple_of(2);
        let mut data = number.to_be_bytes().to_vec();
        data.extend((0..number * 31 % 1200).map(|n| (n % 253) as u8));
        let message = frames::udp(from.ip(v4), to.ip(v4), (7000, 7001), &data);
        frames::datagram(from.ip(v4), to.ip(v4), protocol::UDP, message)
    }

    fn speak(&mut self) -> Result<()> {
        for _ in 0..BURST {
            let datagram = Self::datagram(self.who, self.other(), self.sent);
            let frame = frames::carry(BASE_MAC, self.who.mac(), &datagram);
            if !self.rig.add(&NetHeader::default(), &frame, Shape::default()) {
                return Err(LabError::Unexpected("a neighbour's ring is full".to_owned()));
            }
            self.sent += 1;
        }
        self.rig.expose();
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        for (header, frame) in self.rig.arrived() {
            if frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&protocol::ICMP6) {
                continue;
            }
            let expected = Self::datagram(self.other(), self.who, self.received);
            let plain = NetHeader { num_buffers: 1, ..NetHeader::default() };
            if frames::datagram_of(&frame) != expected || header != plain {
                let (me, n) = (self.who.name(), self.received);
                let what =
                    format!("{me} expected datagram {n} and got {frame:02x?} after {header:?}");
                return Err(LabError::Unexpected(what));
            }
            self.received += 1;
        }
        Ok(())
    }
}

impl Pair {
    /// Attaches both and begins.
    pub fn start(stage: &mut dyn Stage) -> Result<Self> {
        let mut neighbors = Vec::new();
        for who in [Who::GoodA, Who::GoodB] {
            let rig = Rig::filled(Build { tx_room: 2048, ring: 256, ..Build::RICH })?;
            stage.attach(who, &rig, rig.rings())?;
            neighbors.push(Neighbor { who, rig, sent: 0, received: 0 });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("neighbours".to_owned())
            .spawn(move || exchange(&mut neighbors, &stopped))
            .attempt(|| "start a thread".to_owned())?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Fails if they have.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            return self.finish().map(|_| ());
        }
        Ok(())
    }

    /// Ends the exchange: all that was sent has arrived.
    pub fn finish(&mut self) -> Result<Fared> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(fared)) => fared,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(LabError::Unexpected("the neighbours have ended".to_owned())),
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn exchange(neighbors: &mut [Neighbor], stop: &AtomicBool) -> Result<Fared> {
    let mut fared = Fared::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for one in neighbors.iter_mut() {
            one.speak()?;
        }
        let sent: u64 = neighbors.iter().map(|n| n.sent).sum();
        while neighbors.iter().map(|n| n.received).sum::<u64>() < sent {
            for one in neighbors.iter_mut() {
                one.listen()?;
            }
            if begun.elapsed() > PATIENCE {
                let text = neighbors
                    .iter()
                    .map(|n| format!("{} sent {} received {}", n.who.name(), n.sent, n.received))
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(LabError::Unexpected(format!("neighbours lost datagrams: {text}")));
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        for one in neighbors.iter_mut() {
            one.rig.wait_taken()?;
        }
        fared.longest = fared.longest.max(begun.elapsed());
        fared.datagrams += (BURST * neighbors.len()) as u64;
        std::thread::sleep(PAUSE);
    }
    Ok(fared)
}

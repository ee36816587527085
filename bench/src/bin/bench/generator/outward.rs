//! A sender whose datagrams leave by a card: what arrives is counted at the other end of its cable,
//! by the kernel.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use lab::capture::Tap;
use lab::error::Attempt;
use lab::netns::Netns;
use lab::{LabError, Result};
use virtqueue::NetHeader;

use super::{Sender, TURNS};
use crate::slice::Slice;

/// The counters of the kernel's devices in one namespace.
const COUNTERS: &str = "/proc/thread-self/net/dev";
/// Octets of the counters' text: some lines.
const LONGEST: usize = 4096;

/// Octets of an Ethernet header that change from link to link.
const MACS: usize = 12;
/// Where an IPv4 datagram's destination is, behind those.
const DESTINATION: Range<usize> = 18..22;
/// How long a datagram may be on its way.
const PATIENCE: Duration = Duration::from_secs(1);
/// A ring from which nothing is taken for so long is empty.
const SILENCE: Duration = Duration::from_millis(50);

/// A card's receive counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Frames; a large send that arrives whole is one.
    pub frames: u64,
    /// Their octets.
    pub octets: u64,
}

/// The far end of a cable.
pub struct FarEnd {
    file: File,
    card: String,
}

impl FarEnd {
    /// A card of a namespace.
    pub fn open(space: &Netns, card: &str) -> Result<Self> {
        // The file goes on showing the namespace in which it was opened.
        let file = space.enter(|| File::open(COUNTERS))?;
        let file = file.attempt(|| format!("open {COUNTERS} in {}", space.name()))?;
        Ok(Self { file, card: card.to_owned() })
    }

    /// What it has received so far.
    pub fn received(&self) -> Result<Received> {
        let mut octets = [0; LONGEST];
        let len = self.file.read_at(&mut octets, 0).attempt(|| format!("read {COUNTERS}"))?;
        let text = String::from_utf8_lossy(&octets[..len]);
        received(&text, &self.card)
            .ok_or_else(|| LabError::Unexpected(format!("no {} in {text}", self.card)))
    }
}

fn received(text: &str, card: &str) -> Option<Received> {
    let line = text.lines().find_map(|l| l.trim().strip_prefix(card)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace().map(str::parse);
    let (octets, frames) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(Received { frames, octets })
}

/// A sender and the far end.
pub struct Outward<'m> {
    sender: Sender<'m>,
    end: FarEnd,
    /// What had arrived when it was looked last, and all that came in slices.
    last: Received,
    total: Received,
}

impl<'m> Outward<'m> {
    /// A sender whose datagrams come out there.
    pub fn new(sender: Sender<'m>, end: FarEnd) -> Result<Self> {
        let last = end.received()?;
        Ok(Self { sender, end, last, total: Received::default() })
    }

    /// Sends as much as goes for `time`.
    pub fn flood(&mut self, time: Duration) -> Result<Slice> {
        let mut seen = Slice::default();
        let start = Instant::now();
        self.last = self.end.received()?;
        while seen.time < time {
            for _ in 0..TURNS {
                self.sender.try_batch(&mut seen);
            }
            seen.time = start.elapsed();
        }
        let now = self.end.received()?;
        seen.received = now.frames - self.last.frames;
        self.total.frames += seen.received;
        self.total.octets += now.octets - self.last.octets;
        self.last = now;
        Ok(seen)
    }

    /// Waits until the ring has been empty for `time`.
    pub fn drain(&mut self, time: Duration) {
        let mut last = Instant::now();
        let mut room = self.sender.room();
        while last.elapsed() < time {
            if self.sender.room() != room {
                (room, last) = (self.sender.room(), Instant::now());
            }
            std::hint::spin_loop();
        }
    }

    /// Sends a batch, and sees that all of it comes out at the far end, in this namespace, in order and as
    /// it was written, behind whatever MAC addresses.
    pub fn look(&mut self, space: &Netns) -> Result<()> {
        self.drain(SILENCE);
        let tap = Tap::open(space, &self.end.card)?;
        for number in self.sender.send_batch() {
            let written = self.sender.written(number).split_off(NetHeader::LEN + MACS);
            loop {
                let Some(frame) = tap.receive(PATIENCE)? else {
                    return Err(LabError::Unexpected(format!(
                        "datagram {number} did not come out at {}",
                        self.end.card
                    )));
                };
                // What others say on the LAN is not for whom this is.
                let came = frame.bytes.get(MACS..).unwrap_or_default();
                if frame.outgoing || came.get(DESTINATION) != written.get(DESTINATION) {
                    continue;
                }
                if came != written {
                    return Err(LabError::Unexpected(format!(
                        "datagram {number} was {written:02x?}, and came out as {came:02x?}"
                    )));
                }
                break;
            }
        }
        Ok(())
    }

    /// Octets of a frame that arrived, on average.
    pub fn octets_each(&self) -> f64 {
        self.total.octets as f64 / self.total.frames as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_ends_counters_are_read_from_its_line() {
        let text = "Inter-|   Receive        |  Transmit\n face |bytes    packets errs\n    lo: 1 1 0\n  lan0: 6522600     100    0    0 0 0 0 0 7 7\n lan01: 9 9 0\n";
        assert_eq!(received(text, "lan0"), Some(Received { frames: 100, octets: 6_522_600 }));
        assert_eq!(received(text, "eth1"), None);
    }
}

//! Receivers and cards that take less than they are given: a driver speaks, and only some of it can
//! arrive. What does must be in order and as it was sent; the rest must be counted, by its name.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use virtqueue::driver::{DriverRing, Shape};

use super::{Campaign, FLIGHT, TINY, receivers};
use crate::error::{LabError, Result};
use crate::frames;
use crate::hostile::cast::Who;
use crate::hostile::expect::Tally;
use crate::hostile::lan::Lan;
use crate::hostile::rig::{Build, Rig};
use crate::hostile::speech::{Fate, Left, numbered};
use crate::hostile::stage::PATIENCE;
use crate::scene::OUTSIDE;

/// So often each reason must be counted.
const OFTEN_ENOUGH: u64 = 100;
/// Datagrams of one flight to a receiver whose buffers are pieces.
const TO_PIECES: u64 = 60;
/// Octets of such a buffer: most of it lies behind this many descriptors of nothing.
const NOTHINGS: usize = 199;
const PIECES_HOLD: usize = 2048;

/// Datagrams that were sent, and how many of them came.
#[derive(Default)]
struct Sent {
    all: u64,
    came: u64,
    waiting: VecDeque<Vec<u8>>,
}

impl Sent {
    fn add(&mut self, frame: &[u8]) {
        self.all += 1;
        self.waiting.push_back(frames::datagram_of(frame).to_vec());
    }

    /// What came must be the next that was sent, or one behind it.
    fn came(&mut self, datagram: &[u8]) -> Result<()> {
        while let Some(next) = self.waiting.pop_front() {
            if next == datagram {
                self.came += 1;
                return Ok(());
            }
        }
        Err(LabError::Unexpected(format!("twice, late or changed: {datagram:02x?}")))
    }
}

/// Posts as many buffers of pieces as the ring holds.
fn post_pieces(rig: &mut Rig) {
    let mut cuts = [0; NOTHINGS + 1];
    cuts[NOTHINGS] = PIECES_HOLD;
    let shape = Shape { cuts: &cuts, table: Some(0) };
    while rig.rx.post(PIECES_HOLD, shape).is_some() {}
    if rig.rx.queue.expose() {
        rig.kick(0);
    }
}

impl Campaign<'_> {
    /// A receiver whose buffers cost more descriptors than a batch may: it gets some of each, and
    /// the rest is dropped.
    pub fn effort(&mut self) -> Result<()> {
        let mut speaker = Rig::filled(Build::SPEAKER)?;
        self.stage.attach(Who::Hostile, &speaker, speaker.rings())?;
        let mut receiver = Rig::new(Build { ring: 256, ..Build::RICH })?;
        post_pieces(&mut receiver);
        self.stage.attach(Who::Tiny, &receiver, receiver.rings())?;
        let before = self.stage.counters()?;
        let (begun, mut sent, mut frame) = (Instant::now(), Sent::default(), Vec::new());
        let (spoken, grown) = loop {
            for _ in 0..TO_PIECES {
                let to = Who::Tiny.ip(self.dice.once_in(2));
                let shot = numbered(sent.all, to, Fate::Arrive(Who::Tiny, Left::Nothing));
                speaker.add(&shot.header, &shot.frame, Shape::default());
                sent.add(&shot.frame);
            }
            speaker.expose();
            speaker.wait_taken()?;
            while receiver.rx.receive(&mut frame).is_some() {
                // The base greets every driver by an advertisement.
                if frame.get(20) != Some(&frames::protocol::ICMP6) {
                    sent.came(frames::datagram_of(&frame))?;
                }
            }
            post_pieces(&mut receiver);
            let now = self.stage.counters()?;
            let of = |who| now[&who].since(&before[&who]).fates();
            let (spoken, grown) = (of(Who::Hostile), of(Who::Tiny));
            if grown.get("drop.rx_effort") >= OFTEN_ENOUGH {
                break (spoken, grown);
            }
            if begun.elapsed() > PATIENCE {
                let text = format!("of {} datagrams only {:?}", sent.all, grown.0);
                return Err(LabError::Unexpected(text));
            }
        };
        // The greeting may have been dropped too.
        let met = grown.get("delivered") + grown.get("drop.rx_effort");
        let all = (sent.all..=sent.all + 1).contains(&met) && spoken.get("to_vm") == sent.all;
        let named = grown.0.keys().all(|k| matches!(&**k, "delivered" | "drop.rx_effort"));
        if !all || !named || sent.came == 0 || sent.came != grown.get("delivered") {
            let text = format!("{} sent, {} came: {:?}", sent.all, sent.came, grown.0);
            return Err(LabError::Unexpected(text));
        }
        self.report.rounds += sent.all;
        self.report.seen.add_all(&spoken);
        self.report.seen.add_all(&Tally(grown.0.into_iter().filter(receivers).collect()));
        let tiny = &self.idle[TINY];
        self.stage.attach(Who::Tiny, tiny, tiny.rings())?;
        self.before = self.stage.counters()?;
        Ok(())
    }

    /// More to the LAN than a slow card takes: the kernel refuses some, which are counted, and all
    /// others leave. By AF_XDP nothing goes through the card's queueing discipline, which makes it slow:
    /// there is nothing to show.
    pub fn outrun(&mut self, lan: &Lan) -> Result<()> {
        let mut speaker = Rig::filled(Build::SPEAKER)?;
        self.stage.attach(Who::Hostile, &speaker, speaker.rings())?;
        let to = OUTSIDE[0];
        let mut say = |sent: &mut Sent, count| -> Result<()> {
            for _ in 0..count {
                let shot = numbered(sent.all, to, Fate::Out);
                speaker.add(&shot.header, &shot.frame, Shape::default());
                sent.add(&shot.frame);
            }
            speaker.expose();
            speaker.wait_taken()?;
            speaker.arrived();
            Ok(())
        };
        // Nothing waits for its neighbour any more.
        lan.forget()?;
        let mut sent = Sent::default();
        say(&mut sent, 1)?;
        hear(lan, &mut sent, 1)?;

        let before = self.stage.counters()?;
        let (begun, mut sent) = (Instant::now(), Sent::default());
        self.stage.slow_card(true)?;
        let grown = loop {
            say(&mut sent, FLIGHT)?;
            let now = self.stage.counters()?;
            let grown = now[&Who::Hostile].since(&before[&Who::Hostile]).fates();
            if grown.get("drop.uplink_send") >= OFTEN_ENOUGH {
                break grown;
            }
            if begun.elapsed() > PATIENCE {
                let text = format!("of {} datagrams only {:?}", sent.all, grown.0);
                return Err(LabError::Unexpected(text));
            }
        };
        let (left, refused) = (grown.get("to_uplink"), grown.get("drop.uplink_send"));
        if left + refused != sent.all || grown.get("taken") != sent.all || left == 0 {
            return Err(LabError::Unexpected(format!("{} sent: {:?}", sent.all, grown.0)));
        }
        hear(lan, &mut sent, left)?;
        self.stage.slow_card(false)?;
        self.report.rounds += sent.all;
        self.report.seen.add_all(&grown);
        self.before = self.stage.counters()?;
        Ok(())
    }
}

/// Waits until exactly so many have come to the LAN, and no more.
fn hear(lan: &Lan, sent: &mut Sent, count: u64) -> Result<()> {
    let begun = Instant::now();
    let ours = |datagram: &Vec<u8>| {
        let from = Who::Hostile.ip4().octets();
        datagram.get(12..16) == Some(&from) && datagram.get(9) == Some(&17)
    };
    while sent.came < count {
        for datagram in lan.heard()?.iter().filter(|d| ours(d)) {
            sent.came(datagram)?;
        }
        if begun.elapsed() > PATIENCE {
            let text = format!("{count} left, {} came to the LAN", sent.came);
            return Err(LabError::Unexpected(text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    match sent.came == count {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("{count} left, and {} came", sent.came))),
    }
}

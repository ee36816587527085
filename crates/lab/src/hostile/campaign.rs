//! Rounds, until there are enough of each kind; after every few, what was counted and what arrived
//! is compared with what must have been.

mod limits;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use virtqueue::driver::Shape;

use super::cast::Who;
use super::dice::Dice;
use super::expect::{RECEIVERS, Tally};
use super::judge::{Judge, consistent};
use super::lan::{self, Lan};
use super::rig::{Build, Rig};
use super::speech::{ADDRESSES, ALONE, Fate, Left, SAYINGS, Shot, WIRED, to_nobody};
use super::stage::{PATIENCE, Stage};
use super::{race, rings};
use crate::error::{LabError, Result};
use crate::frames;
use crate::scene::by_xdp;

/// Most frames of one flight.
const FLIGHT: u64 = 32;
/// The place of [`Who::Tiny`] among the drivers that only have to be there.
const TINY: usize = 1;
/// How much more often than other things addresses are tried: they have many names.
const OFTEN: usize = 6;
/// Datagrams to neighbours that are not there.
const SCANNED: u64 = 900;
/// Large sends in one burst from the LAN: many more than the card's ring holds.
const BURST: u64 = 2000;
/// How often the base asks the kernel what it had to drop.
const KERNEL_ASKED: Duration = Duration::from_millis(150);

/// What a campaign has done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Rounds played.
    pub rounds: u64,
    /// All that was counted for the hostile VM, and what its receivers dropped.
    pub seen: Tally,
    /// All that was counted for the card.
    pub lan: Tally,
    /// Frames that arrived and were looked at.
    pub judged: u64,
}

/// A campaign on a stage.
pub struct Campaign<'s> {
    stage: &'s mut dyn Stage,
    dice: Dice,
    receivers: [(Rig, Judge); 2],
    /// Drivers that only have to be there.
    idle: Vec<Rig>,
    before: BTreeMap<Who, Tally>,
    report: Report,
}

impl<'s> Campaign<'s> {
    /// Attaches the receivers.
    pub fn new(stage: &'s mut dyn Stage, seed: u64) -> Result<Self> {
        let mut idle = Vec::new();
        for (who, rig) in [
            (Who::Mute, Rig::new(Build::PLAIN)?),
            (Who::Tiny, Rig::filled(Build::TINY)?),
            (Who::Unknown, Rig::filled(Build::PLAIN)?),
        ] {
            stage.attach(who, &rig, rig.rings())?;
            idle.push(rig);
        }
        let broken = Rig::filled(Build::PLAIN)?;
        stage.attach(Who::Broken, &broken, broken.rings())?;
        rings::spoil(&broken);
        broken.kick(1);
        idle.push(broken);
        let receiver = |stage: &mut dyn Stage, who, build| -> Result<(Rig, Judge)> {
            let rig = Rig::filled(build)?;
            stage.attach(who, &rig, rig.rings())?;
            Ok((rig, Judge::new(who)))
        };
        let receivers =
            [receiver(stage, Who::Rich, Build::RICH)?, receiver(stage, Who::Plain, Build::PLAIN)?];
        super::stage::wait_for_break(stage, Who::Broken, 0)?;
        let before = stage.counters()?;
        let (dice, report) = (Dice::new(seed), Report::default());
        Ok(Self { stage, dice, receivers, idle, before, report })
    }

    /// So far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Rounds of frames and headers with one thing wrong each.
    pub fn speech(&mut self, rounds: u64) -> Result<()> {
        let more = if self.stage.is_wired() { WIRED } else { ALONE };
        let sayings = [[SAYINGS, more].concat(), ADDRESSES.repeat(OFTEN)].concat();
        let mut speaker = Rig::filled(Build::SPEAKER)?;
        self.stage.attach(Who::Hostile, &speaker, speaker.rings())?;
        let end = self.report.rounds + rounds;
        while self.report.rounds < end {
            let flight = self.dice.range(1, FLIGHT + 1).min(end - self.report.rounds);
            let mut expected: BTreeMap<Who, Tally> = BTreeMap::new();
            let mut said = Vec::new();
            for _ in 0..flight {
                let (name, saying) = self.dice.pick(&sayings);
                let shot = saying(&mut self.dice);
                said.push(name);
                self.foretell(&shot, &mut expected);
                let cuts = self.cuts();
                let shape = Shape { cuts: &cuts, table: None };
                if !speaker.add(&shot.header, &shot.frame, shape) {
                    return Err(LabError::Unexpected("the speaker's ring is full".to_owned()));
                }
            }
            speaker.expose();
            let told = |e: LabError| LabError::Unexpected(format!("{e}\nafter {said:?}"));
            speaker.wait_taken().map_err(told)?;
            speaker.arrived();
            self.look().map_err(told)?;
            self.compare(&expected, false).map_err(told)?;
            self.report.rounds += flight;
        }
        Ok(())
    }

    /// How the next frame is cut into descriptors.
    fn cuts(&mut self) -> Vec<usize> {
        let d = &mut self.dice;
        match d.range(0, 4) {
            0 => vec![12],
            1 => vec![d.range(1, 12) as usize, d.range(1, 60) as usize],
            _ => Vec::new(),
        }
    }

    fn foretell(&mut self, shot: &Shot, expected: &mut BTreeMap<Who, Tally>) {
        let mut count = |who, name: &str| expected.entry(who).or_default().add(name, 1);
        count(Who::Hostile, "taken");
        match shot.fate {
            Fate::Drop(name) => count(Who::Hostile, name),
            Fate::Answered => count(Who::Hostile, "answered"),
            Fate::Silent => count(Who::Hostile, "silent"),
            Fate::Out => count(Who::Hostile, "to_uplink"),
            Fate::DropAt(who, name) => {
                count(Who::Hostile, "to_vm");
                count(who, name);
            }
            Fate::Arrive(who, left) => {
                count(Who::Hostile, "to_vm");
                count(who, "delivered");
                let datagram = whole(frames::datagram_of(&shot.frame));
                self.expect(who, datagram, left);
            }
        }
    }

    /// Looks at all that has arrived, and that is all there was to come.
    fn look(&mut self) -> Result<()> {
        self.judge()?;
        self.settled()
    }

    /// Looks at all that has arrived: whatever is wrong with it is wrong for good.
    fn judge(&mut self) -> Result<()> {
        for (rig, judge) in &mut self.receivers {
            for (header, frame) in rig.arrived() {
                judge.look(&header, &frame)?;
                self.report.judged += 1;
            }
        }
        Ok(())
    }

    /// Fails if something is still to come.
    fn settled(&self) -> Result<()> {
        self.receivers.iter().try_for_each(|(_, judge)| judge.settled())
    }

    /// Compares what was counted since the last time with what must have been.
    fn compare(&mut self, expected: &BTreeMap<Who, Tally>, torn: bool) -> Result<()> {
        let now = self.stage.counters()?;
        let wired = self.stage.is_wired();
        let nothing = Tally::default();
        for who in Who::ALL {
            if matches!(who, Who::GoodA | Who::GoodB) {
                continue;
            }
            let (now, before) = (&now[&who], &self.before[&who]);
            let mut grown = now.since(before).fates();
            self.report.seen.add_all(&match who {
                Who::Hostile => grown.clone(),
                _ => Tally(grown.0.clone().into_iter().filter(receivers).collect()),
            });
            let expected = expected.get(&who).unwrap_or(&nothing);
            if wired && who == Who::Hostile {
                // The peer's kernel refuses what it is sent.
                grown.0.remove("delivered");
            }
            if torn && who == Who::Hostile {
                grown =
                    Tally(grown.0.into_iter().filter(|(k, _)| k.starts_with("break.")).collect());
            }
            // What greets every driver, and what is said to it now and then, is dropped there too.
            if matches!(who, Who::Mute | Who::Tiny) {
                grown.0.retain(|name, n| *n > expected.get(name) + 1 || expected.get(name) > *n);
                if grown.0.is_empty() {
                    continue;
                }
            }
            if grown != *expected {
                let name = who.name();
                let text = format!("{name}: counted {:?}, not {:?}", grown.0, expected.0);
                return Err(LabError::Unexpected(text));
            }
        }
        self.before = now;
        Ok(())
    }

    /// Rounds of rings with one thing wrong each.
    pub fn rings(&mut self, rounds: u64) -> Result<()> {
        for _ in 0..rounds {
            let blow = rings::strike(self.stage, &mut self.dice)?;
            for datagram in &blow.arrived {
                self.receivers[0].1.expect(datagram, Left::Nothing);
            }
            let told = |e: LabError| LabError::Unexpected(format!("{e}\nafter {:?}", blow.name));
            let mut expected = BTreeMap::from([(Who::Hostile, blow.counted.clone())]);
            if !blow.arrived.is_empty() {
                expected.entry(Who::Rich).or_default().add("delivered", blow.arrived.len() as u64);
            }
            self.look().map_err(told)?;
            self.compare(&expected, blow.torn).map_err(told)?;
            self.report.rounds += 1;
        }
        Ok(())
    }

    /// Rounds in which a thread rewrites buffers, and rings if `rings`.
    pub fn race(&mut self, rounds: u64, rings: bool) -> Result<()> {
        let before = self.before[&Who::Hostile].clone();
        let receivers = &mut self.receivers;
        let judged = &mut self.report.judged;
        race::rounds(self.stage, &mut self.dice, rounds, rings, || {
            for (rig, judge) in receivers.iter_mut() {
                for (header, frame) in rig.arrived() {
                    consistent(judge.who(), &header, &frame)?;
                    *judged += 1;
                }
            }
            Ok(())
        })?;
        self.stage.detach(Who::Hostile)?;
        // What was rewritten to somebody on the LAN who is not there waits for him for a while.
        let begun = Instant::now();
        let grown = loop {
            let now = self.stage.counters()?;
            let grown = now[&Who::Hostile].since(&before);
            if grown.balances() {
                break grown;
            }
            if begun.elapsed() > PATIENCE {
                let text = format!("fates that do not add up: {:?}", grown.0);
                return Err(LabError::Unexpected(text));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.report.rounds += grown.get("taken") + grown.breaks();
        self.report.seen.add_all(&grown.fates());
        // What came after the last look.
        for (rig, judge) in &mut self.receivers {
            for (header, frame) in rig.arrived() {
                consistent(judge.who(), &header, &frame)?;
            }
        }
        self.before = self.stage.counters()?;
        Ok(())
    }

    /// Rounds of frames from the LAN with one thing wrong each.
    pub fn lan(&mut self, lan: &Lan, rounds: u64) -> Result<()> {
        let mut sayings = [lan::SAYINGS.to_vec(), lan::ADDRESSES.repeat(OFTEN)].concat();
        // AF_XDP has no headers beside its frames; the kernel cuts large sends before.
        sayings.retain(|(name, _)| !by_xdp(1500) || !lan::BY_HEADER.contains(name));
        let mut left = rounds;
        while left > 0 {
            let flight = self.dice.range(1, FLIGHT + 1).min(left);
            let before = self.stage.uplink()?;
            let mut expected = Tally::default();
            let mut said = Vec::new();
            for _ in 0..flight {
                let (name, saying) = self.dice.pick(&sayings);
                let shot = saying(&mut self.dice);
                if !lan.say(&shot)? {
                    continue;
                }
                said.push(name);
                match shot.fate {
                    Fate::Drop(name) => expected.add(name, 1),
                    Fate::Answered => expected.add("answered", 1),
                    Fate::Silent => expected.add("silent", 1),
                    Fate::DropAt(..) | Fate::Out => {}
                    Fate::Arrive(who, left) => {
                        expected.add("to_vm", 1);
                        let datagram = whole(frames::datagram_of(&shot.frame));
                        self.expect(who, datagram, left);
                    }
                }
            }
            let told = |e: LabError| LabError::Unexpected(format!("{e}\nafter {said:?}"));
            self.heard(&before, &expected).map_err(told)?;
            left = left.saturating_sub(said.len().max(1) as u64);
            self.report.rounds += said.len() as u64;
        }
        lan.forget()?;
        self.before = self.stage.counters()?;
        Ok(())
    }

    /// Datagrams to neighbours that are not there: all wait, and are dropped by one of two names.
    pub fn scan(&mut self) -> Result<()> {
        let mut speaker = Rig::filled(Build::SPEAKER)?;
        self.stage.attach(Who::Hostile, &speaker, speaker.rings())?;
        let before = self.stage.counters()?.remove(&Who::Hostile).unwrap_or_default();
        let mut fly = |dice: &mut Dice, rounds: u64, last: fn(&mut Dice) -> u8| -> Result<()> {
            for _ in 0..rounds {
                let last = last(dice);
                let shot = to_nobody(dice, last);
                let added = speaker.add(&shot.header, &shot.frame, Shape::default());
                if !added || dice.once_in(32) {
                    speaker.expose();
                    speaker.wait_taken()?;
                    speaker.arrived();
                }
                if !added && !speaker.add(&shot.header, &shot.frame, Shape::default()) {
                    return Err(LabError::Unexpected("an empty ring takes nothing".to_owned()));
                }
            }
            speaker.expose();
            speaker.wait_taken()
        };
        // To one, to some, and to those again when it is known that they are not there.
        fly(&mut self.dice, SCANNED / 3, |_| 0)?;
        fly(&mut self.dice, SCANNED / 3, |d| d.octet() % 40)?;
        std::thread::sleep(Duration::from_millis(2300));
        fly(&mut self.dice, SCANNED / 3, |_| 0)?;
        let begun = Instant::now();
        let grown = loop {
            let now = self.stage.counters()?.remove(&Who::Hostile).unwrap_or_default();
            let grown = now.since(&before);
            if grown.balances() && grown.get("taken") >= SCANNED {
                break grown;
            }
            if begun.elapsed() > PATIENCE {
                let text = format!("datagrams that still wait: {:?}", grown.0);
                return Err(LabError::Unexpected(text));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let names = ["drop.neighbor_unreachable", "drop.neighbor_queue_full"];
        let dropped: u64 = names.iter().map(|name| grown.get(name)).sum();
        if dropped != SCANNED || grown.get("taken") != SCANNED {
            return Err(LabError::Unexpected(format!("not {SCANNED} dropped: {:?}", grown.0)));
        }
        self.report.rounds += SCANNED;
        self.report.seen.add_all(&grown.fates());
        self.before = self.stage.counters()?;
        Ok(())
    }

    /// Large sends that have no room in a slot of the card's ring.
    pub fn giants(&mut self, lan: &Lan, rounds: u64) -> Result<()> {
        for _ in 0..rounds {
            let before = self.stage.uplink()?;
            let shot = lan::giant(&mut self.dice);
            if !lan.say(&shot)? {
                let text = "the kernel does not send more than 64 KiB at once";
                return Err(LabError::Unexpected(text.to_owned()));
            }
            let mut expected = Tally::default();
            expected.add("drop.uplink_clipped", 1);
            self.heard(&before, &expected)?;
            self.report.rounds += 1;
        }
        Ok(())
    }

    /// More from the LAN at once than the card's ring holds: each frame is taken, or counted by the
    /// kernel.
    pub fn flood(&mut self, lan: &Lan) -> Result<()> {
        let begun = Instant::now();
        let before = self.stage.uplink()?;
        let (mut said, mut dropped) = (0, 0);
        while dropped < 100 {
            let shot = lan::costly(&mut self.dice);
            for _ in 0..BURST {
                said += u64::from(lan.say(&shot)?);
            }
            std::thread::sleep(KERNEL_ASKED);
            said += u64::from(lan.say(&shot)?);
            dropped = self.stage.uplink()?.since(&before).get("drop.uplink_ring_full");
            if begun.elapsed() > PATIENCE {
                return Err(LabError::Unexpected(format!("of {said} frames {dropped} lost")));
            }
        }
        loop {
            let grown = self.stage.uplink()?.since(&before);
            let met = grown.get("taken") + grown.get("drop.uplink_ring_full");
            if met >= said {
                self.report.lan.add_all(&grown.fates());
                break;
            }
            if begun.elapsed() > PATIENCE {
                return Err(LabError::Unexpected(format!("of {said} frames only {:?}", grown.0)));
            }
            std::thread::sleep(Duration::from_millis(20));
            lan.say(&lan::costly(&mut self.dice)).map(|one| said += u64::from(one))?;
        }
        self.report.rounds += said;
        // Most of it was too much for the receiver as well.
        for (rig, _) in &mut self.receivers {
            rig.arrived();
        }
        lan.forget()?;
        self.before = self.stage.counters()?;
        Ok(())
    }

    /// Waits until all of that was counted for the card, and arrived. The peer's kernel says a few
    /// things of its own, which are counted too.
    fn heard(&mut self, before: &Tally, expected: &Tally) -> Result<()> {
        let begun = Instant::now();
        loop {
            let grown = self.stage.uplink()?.since(before);
            let missing = expected.since(&grown);
            self.judge()?;
            let settled = self.settled();
            if missing.0.is_empty() && settled.is_ok() {
                self.report.lan.add_all(&grown.fates());
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                settled?;
                let grown = grown.since(expected);
                let text = format!("not counted: {:?}; instead: {:?}", missing.0, grown.0);
                return Err(LabError::Unexpected(text));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn expect(&mut self, who: Who, datagram: &[u8], left: Left) {
        if let Some((_, judge)) = self.receivers.iter_mut().find(|(_, j)| j.who() == who) {
            judge.expect(datagram, left);
        }
    }

    /// Fails if the stage is not what it was.
    pub fn check(&mut self) -> Result<()> {
        assert_eq!(self.idle.len(), 4);
        self.stage.check()
    }
}

fn receivers((name, _): &(String, u64)) -> bool {
    RECEIVERS.contains(&name.as_str())
}

/// The datagram without what lies behind it in its frame.
fn whole(datagram: &[u8]) -> &[u8] {
    let len = match datagram {
        [first, _, high, low, ..] if first >> 4 == 4 => u16::from_be_bytes([*high, *low]) as usize,
        [_, _, _, _, high, low, ..] => 40 + u16::from_be_bytes([*high, *low]) as usize,
        _ => 0,
    };
    datagram.get(..len).unwrap_or(datagram)
}

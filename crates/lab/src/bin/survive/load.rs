//! The load: lanes of numbered datagrams, sent by the clock, each octet looked at where it arrives.
//!
//! # Theory of operation
//! A [`Lane`] leads from one end to another. Its datagrams are due by the clock, whether the base is
//! alive or not; a turn that comes late sends all that has become due meanwhile. One thread plays
//! all ends, so a turn sends what is due on every lane, then empties every end.
//!
//! A lane stops while as many datagrams are on their way as the rings between its ends are sure to
//! hold (`most`): then whatever is missing in the end was lost by who is in between. The turns in which
//! one stood still are counted, and what it is behind goes out afterwards. What is due for longer than
//! [`BEHIND`] is never sent, and counted: so a base that does not keep up shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use lab::Result;
use lab::error::{Attempt, LabError};
use lab::exchange::End;
use lab::numbered::Tally;

use crate::lanes::Numbered;
use crate::watch::Watch;

/// Between two turns.
const REST: Duration = Duration::from_micros(150);
/// Datagrams sent on one lane in one turn: what a late turn is behind goes out over several.
const TURN: u64 = 64;
/// For how long datagrams may be due on a lane that stands still; older ones are never sent.
pub const BEHIND: Duration = Duration::from_secs(1);
/// How long what was sent may take to arrive after the last death.
const SETTLE: Duration = Duration::from_secs(10);

/// Who sends on a lane.
pub enum Sender {
    /// The load itself, at one of its ends, so many a second.
    End { end: usize, rate: u64 },
    /// Somebody else, who counts what was sent.
    Other(Arc<AtomicU64>),
}

/// One direction.
pub struct Lane {
    /// What people call it.
    pub name: &'static str,
    /// Who sends.
    pub sender: Sender,
    /// The end it leads to.
    pub to: usize,
    /// What is sent.
    pub kind: Box<dyn Numbered>,
    /// Datagrams that may be on their way.
    pub most: u64,
}

/// How a lane stands.
struct Running {
    lane: Lane,
    tally: Tally,
    sent: u64,
    /// Due and never sent, because the lane stood still for too long.
    skipped: u64,
    last: Instant,
}

impl Running {
    fn on_the_way(&self) -> u64 {
        self.sent.saturating_sub(self.tally.distinct())
    }
}

/// What came of a lane.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Datagrams due in a second, if the load itself is who sends.
    pub rate: Option<u64>,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that were due and never sent, because the lane stood still for too long.
    pub skipped: u64,
    /// Of those sent, the numbers that never came.
    pub missing: Vec<u64>,
    /// Datagrams that came a second time.
    pub twice: u64,
}

/// What came of all.
#[derive(Clone, Debug)]
pub struct Total {
    /// By lane.
    pub lanes: Vec<Outcome>,
    /// How long datagrams were sent.
    pub time: Duration,
    /// For how long some lane stood still because too much was on its way.
    pub stood: Duration,
}

/// The load's thread.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Total>>>,
}

impl Load {
    /// Begins to send. [`BEHIND`] may be `slack` times as long.
    pub fn start(
        ends: Vec<Box<dyn End + Send>>,
        lanes: Vec<Lane>,
        watch: Arc<Watch>,
        slack: u32,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, now) = (Arc::clone(&stop), Instant::now());
        let running =
            |lane| Running { lane, tally: Tally::default(), sent: 0, skipped: 0, last: now };
        let mut work = Work {
            ends,
            lanes: lanes.into_iter().map(running).collect(),
            watch,
            begun: now,
            turn: now,
            stood: Duration::ZERO,
            behind: BEHIND.saturating_mul(slack),
        };
        let thread = std::thread::Builder::new().name("load".to_owned());
        let thread =
            thread.spawn(move || work.run(&told)).attempt(|| "start a thread".to_owned())?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Whether the load has failed, and so nobody sends any more.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends sending, waits for what is on its way, and tells what came of it.
    pub fn end(mut self) -> Result<Total> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        joined.unwrap_or_else(|| Ok(Err(ended()))).unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ended() -> LabError {
    LabError::Unexpected("the load's thread has ended".to_owned())
}

struct Work {
    ends: Vec<Box<dyn End + Send>>,
    lanes: Vec<Running>,
    watch: Arc<Watch>,
    begun: Instant,
    /// When this turn began.
    turn: Instant,
    stood: Duration,
    /// For how long something may be due.
    behind: Duration,
}

impl Work {
    fn run(&mut self, stop: &AtomicBool) -> Result<Total> {
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let passed = now - self.turn;
            self.turn = now;
            if self.send()? {
                self.stood += passed;
            }
            self.receive()?;
            sleep(REST);
        }
        let time = self.begun.elapsed();
        self.settle()?;
        let outcome = |r: &Running| Outcome {
            name: r.lane.name,
            rate: match r.lane.sender {
                Sender::End { rate, .. } => Some(rate),
                Sender::Other(_) => None,
            },
            sent: r.sent,
            skipped: r.skipped,
            missing: r.tally.missing(r.sent),
            twice: r.tally.duplicates(),
        };
        Ok(Total { lanes: self.lanes.iter().map(outcome).collect(), time, stood: self.stood })
    }

    /// Sends what is due; whether some lane stands still.
    fn send(&mut self) -> Result<bool> {
        let passed = self.turn - self.begun;
        let mut stands = false;
        for (number, running) in self.lanes.iter_mut().enumerate() {
            match &running.lane.sender {
                Sender::Other(sent) => running.sent = sent.load(Ordering::Acquire),
                &Sender::End { end, rate } => {
                    let due = (passed.as_micros() as u64).saturating_mul(rate) / 1_000_000;
                    let mut due = due.saturating_sub(running.sent + running.skipped);
                    let room = running.lane.most.saturating_sub(running.on_the_way());
                    if room < due {
                        stands = true;
                        let over = due.saturating_sub(rate.saturating_mul(self.behind.as_secs()));
                        running.skipped += over;
                        due -= over;
                    }
                    for _ in 0..due.min(room).min(TURN) {
                        let datagram = running.lane.kind.datagram(running.sent);
                        self.ends[end].put(&datagram)?;
                        running.sent += 1;
                    }
                }
            }
            self.watch.has_sent(number, running.sent);
        }
        Ok(stands)
    }

    fn receive(&mut self) -> Result<()> {
        for (number, end) in self.ends.iter_mut().enumerate() {
            while let Some(datagram) = end.get()? {
                for (index, running) in self.lanes.iter_mut().enumerate() {
                    if running.lane.to != number {
                        continue;
                    }
                    let Some(known) = running.lane.kind.number(&datagram) else { continue };
                    let (now, before) = (Instant::now(), running.tally.duplicates());
                    running.tally.note(known);
                    self.watch.came(index, known, running.last, now);
                    running.last = now;
                    if running.tally.duplicates() > before {
                        self.watch.came_twice(index, now);
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for what is on its way, and a little longer for what comes twice.
    fn settle(&mut self) -> Result<()> {
        let mut end = Instant::now() + SETTLE;
        let mut arrived = false;
        while Instant::now() < end {
            for running in &mut self.lanes {
                if let Sender::Other(sent) = &running.lane.sender {
                    running.sent = sent.load(Ordering::Acquire);
                }
            }
            self.receive()?;
            if !arrived && self.lanes.iter().all(|r| r.on_the_way() == 0) {
                arrived = true;
                end = Instant::now() + Duration::from_millis(200);
            }
            sleep(REST);
        }
        Ok(())
    }
}

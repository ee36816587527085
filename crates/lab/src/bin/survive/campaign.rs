//! The campaign: kills, one after the other, half at moments nobody chose and half at the points in
//! turn.
//!
//! # Theory of operation
//! ```text
//!  pause     some time in which all goes on
//!  kill      by number of process, or by an order to die at a point (`points`)
//!  notice    the process has died: its handle says so; the holder notes another
//!  resume    on every steady lane something has come since
//!  rest      what comes twice has come
//! ```
//! A kill may take more than one base: some are killed again while they take over, and the points of
//! taking over are passed by successors only. All deaths until the lanes have resumed are one
//! [`Kill`] with one gap.
//!
//! Some bases are killed while the configuration is being changed, and the points of that are passed
//! when it is changed.
//!
//! A point that nobody passes in time costs nobody's life: the order is taken back. One counts only if
//! the base that died says that it did what was ordered there. When the time is over, points that were
//! not passed yet have some more.
//!
//! # Who died
//! Every base that is to die is known by its process ([`Ordered`]); one that is gone between two
//! kills, or in one without having been told to, ends the campaign. While the configuration is being
//! changed a base may be replaced in order: whether it died, the log tells.
//!
//! # The one exception
//! A datagram that the base has read from the TUN device and not noted yet is lost with it. So each
//! death has a window of numbers on the lane from the host, one of which it explains, if the worker
//! that reads there can have been there: from what had come before the base died to what had been sent when it was
//! dead.
//!
//! # Whose fault
//! Deaths of a base's own making count against what it was about: two at one place, or some under one
//! sender's batches, are taken for that one's fault. So these are few here, and at different points;
//! all others are as by `kill -9`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::command::{self, Background};
use lab::driver::Rings;
use lab::error::LabError;
use lab::instance::Instance;
use lab::{Result, interrupt};
use rustix::process::Pid;

use crate::base::{Base, BaseFile};
use crate::points::{How, Points};
use crate::stage::lane;
use crate::told::Ordered;
use crate::watch::{Span, Watch};

/// How long to wait for a base to pass a point.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The same where the next base must come up first.
const TIME_TO_CHANGE: Duration = Duration::from_secs(6);
/// How long a base may take to die when it was told to, or to be replaced when it hangs.
const LIMIT: Duration = Duration::from_secs(40);
/// How much longer a campaign may take until every point was passed.
const MORE: Duration = Duration::from_secs(30);
/// Between two looks at how far the lane from the host is, before a death.
const LOOK: Duration = Duration::from_millis(4);
/// After all lanes have resumed: what comes twice comes within it.
const REST: Duration = Duration::from_millis(40);
/// Points that only a successor passes begin so.
const BY_SUCCESSORS: &str = "takeover.";
/// Points that are passed some times in a second only begin so.
const SELDOM: &str = "neighbor.";
/// Points passed only when the configuration changes begin so.
const BY_RELOADS: &str = "reload.";
/// Points passed over packed rings only begin so.
const OF_PACKED_RINGS: &str = "packed.";
/// Points passed by others than the worker that reads from the TUN device begin so: it may be reading
/// then. At all others it is elsewhere, or at rest.
const BESIDE_THE_READER: [&str; 3] = ["vhost.", "holder.", "reload.accepted"];
/// The same of several workers: any of them passes these.
const OF_ANY_WORKER: [&str; 4] = ["worker.", "packed.", "neighbor.waiting", "card.sent"];
/// Points at which a base dies by its own making, and how: one each, far from each other.
const OWN_MAKING: [(&str, How); 2] =
    [("card.delivered", How::Abort), ("host.delivered", How::Panic)];
/// The point at which a base hangs, in campaigns that have the time.
const HANGS: &str = "worker.copied";
/// A campaign that lasts longer has it.
const TIME_TO_HANG: Duration = Duration::from_secs(300);

/// What was done at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// At a moment nobody chose.
    Random,
    /// At this point.
    Point(usize, How),
    /// Not at all: it was replaced in order.
    Upgrade,
}

/// One kill, and what came of it.
#[derive(Clone, Debug)]
pub struct Kill {
    /// How.
    pub way: Way,
    /// Bases that died.
    pub deaths: u64,
    /// Numbers on the lane from the host, by death: one of each may be lost, see above.
    pub windows: Vec<Range<u64>>,
    /// The longest silence around it on any steady lane.
    pub silence: Duration,
    /// For how long the successor's threads had run by then, and had waited for a core.
    pub used: Option<(Duration, Duration)>,
    /// Datagrams that came a second time, by lane.
    pub twice: Vec<u64>,
    /// What each lane had sent before and after.
    pub sent: [Vec<u64>; 2],
}

/// Kills bases.
pub struct Campaign<'a> {
    pub instance: &'a Instance,
    pub file: BaseFile,
    pub watch: &'a Watch,
    pub points: &'a Points,
    pub names: Vec<String>,
    pub chance: Chance,
    /// Says whether the load still runs.
    pub alive: &'a dyn Fn() -> bool,
    /// Points that are passed over such rings.
    pub possible: Vec<usize>,
    /// Begins to change the configuration, so that the points of that are passed.
    pub reload: &'a dyn Fn() -> Result<Background>,
    pub kills: Vec<Kill>,
    /// Points that were ordered and not passed in time.
    pub missed: Vec<usize>,
    /// Who was to die.
    pub ordered: Ordered,
    /// The base that runs while nobody dies.
    serving: Option<Pid>,
    turn: usize,
}

/// What was done to a base, and how things stood before.
struct Blow {
    way: Way,
    sent: Vec<u64>,
    base: Base,
    before: Instant,
    windows: Vec<Range<u64>>,
    /// How long its successor lives.
    again: Option<Duration>,
    /// The configuration is being changed.
    changing: bool,
}

/// A process as the log tells it.
fn number(process: Pid) -> i32 {
    process.as_raw_pid()
}

/// Waits for a change of the configuration to come to its end. It fails, or succeeds later, when the
/// base dies in it; both are right.
fn finish(change: Option<Background>) -> Result<()> {
    change.map_or(Ok(()), |mut change| change.wait(LIMIT).map(drop))
}

impl<'a> Campaign<'a> {
    /// A campaign that has not begun.
    pub fn new(
        instance: &'a Instance,
        watch: &'a Watch,
        points: &'a Points,
        rings: Rings,
        chance: Chance,
        alive: &'a dyn Fn() -> bool,
        reload: &'a dyn Fn() -> Result<Background>,
    ) -> Result<Self> {
        let names = points.names()?;
        let of_rings = |name: &str| rings == Rings::Packed || !name.starts_with(OF_PACKED_RINGS);
        let possible = (0..names.len()).filter(|point| of_rings(&names[*point])).collect();
        Ok(Self {
            instance,
            file: BaseFile::of(instance),
            watch,
            points,
            names,
            possible,
            chance,
            alive,
            reload,
            kills: Vec::new(),
            missed: Vec::new(),
            ordered: Ordered::default(),
            serving: None,
            turn: 0,
        })
    }

    /// Kills for that long; `each` is called after every kill.
    pub fn run(&mut self, time: Duration, each: &mut dyn FnMut(&Kill) -> Result<()>) -> Result<()> {
        let until = Instant::now() + time;
        let hang = time > TIME_TO_HANG;
        self.serving = Some(self.file.process()?);
        let mut random = true;
        loop {
            let over = Instant::now() > until;
            if over && (self.left().is_empty() || Instant::now() > until + MORE) {
                return Ok(());
            }
            let pause = self.chance.time(Duration::from_millis(100), Duration::from_millis(350));
            std::thread::sleep(pause);
            let kill = match random && !over {
                true => Some(self.at_random()?),
                false => self.at_a_point(hang, over)?,
            };
            self.serving = Some(self.file.process()?);
            if let Some(kill) = kill {
                random = !random;
                each(&kill)?;
                self.kills.push(kill);
            }
            self.watch.forget(Instant::now() - Duration::from_secs(60));
        }
    }

    /// Points at which nobody was killed yet.
    fn left(&self) -> Vec<usize> {
        let hit =
            |point| self.kills.iter().any(|k| matches!(k.way, Way::Point(p, _) if p == point));
        self.possible.iter().copied().filter(|point| !hit(*point)).collect()
    }

    fn check(&self) -> Result<()> {
        interrupt::check()?;
        if (self.alive)() {
            return Ok(());
        }
        Err(LabError::Unexpected("the load has ended before its time".to_owned()))
    }

    /// The base that runs now.
    fn base(&self) -> Result<Base> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(base) = Base::now(&self.file)? {
                return Ok(base);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(LabError::Timeout { what: "a base that lives".to_owned(), limit: LIMIT })
    }

    /// The same, before anything is done to it: the one that has run since the last kill.
    fn undisturbed(&self) -> Result<Base> {
        let base = self.base()?;
        match self.serving {
            Some(serving) if serving != base.pid => Err(self.unordered(serving)),
            _ => Ok(base),
        }
    }

    fn unordered(&self, process: Pid) -> LabError {
        let (number, tail) = (number(process), self.last_messages());
        LabError::Unexpected(format!(
            "the base (process {number}) died, and nobody had told it to; the last messages:\n{tail}"
        ))
    }

    /// How far the lane from the host has come.
    fn progress(&self) -> u64 {
        self.watch.next(lane::HOST_TO_B)
    }

    /// The window of a base that is dead: `before` is how far the lane had come while it lived.
    fn window(&self, before: u64) -> Range<u64> {
        before..self.watch.sent()[lane::HOST_TO_B]
    }

    /// Kills a base that may be anywhere; its window.
    fn kill(&self, base: &Base) -> Result<Range<u64>> {
        let before = self.progress();
        base.kill()?;
        base.wait_death(LIMIT)?.ok_or_else(|| self.stuck("the base's death"))?;
        Ok(self.window(before))
    }

    fn at_random(&mut self) -> Result<Kill> {
        let sent = self.watch.sent();
        let mut base = self.undisturbed()?;
        // Some die while the configuration is being changed.
        let mut change = None;
        if self.chance.below(8) == 0 {
            change = Some((self.reload)()?);
            std::thread::sleep(self.chance.time(Duration::ZERO, Duration::from_millis(60)));
            base = self.base()?;
        }
        let before = Instant::now();
        let windows = vec![self.kill(&base)?];
        // Some die again while they take over.
        let again = (self.chance.below(10) == 0)
            .then(|| self.chance.time(Duration::ZERO, Duration::from_millis(25)));
        let (way, changing) = (Way::Random, change.is_some());
        let kill = self.follow(Blow { way, sent, base, before, windows, again, changing })?;
        finish(change)?;
        Ok(kill)
    }

    /// The point whose turn it is: of those that are left only, if there is no more time than for
    /// them.
    fn next_point(&mut self, over: bool) -> Option<usize> {
        let among = if over { self.left() } else { self.possible.clone() };
        self.turn += 1;
        among.get((self.turn - 1) % among.len().max(1)).copied()
    }

    /// Kills at the point whose turn it is; `None` if nobody passed it.
    fn at_a_point(&mut self, hang: bool, over: bool) -> Result<Option<Kill>> {
        let round = self.turn / self.possible.len().max(1);
        let Some(point) = self.next_point(over) else { return Ok(None) };
        let Some(name) = self.names.get(point).cloned() else { return Ok(None) };
        let changing = name.starts_with(BY_RELOADS);
        let own = OWN_MAKING.iter().find(|(own, _)| round == 0 && name == *own);
        let how = match own {
            Some((_, how)) => *how,
            None if hang && round == 1 && name == HANGS => How::Hang,
            None => How::Kill,
        };
        let by_successors = name.starts_with(BY_SUCCESSORS);
        let most = match name.as_str() {
            name if by_successors || changing || name.starts_with(SELDOM) => 1,
            _ => 20,
        };
        let times = 1 + self.chance.below(most) as u32;
        let (sent, base) = (self.watch.sent(), self.undisturbed()?);
        let ordered = Instant::now();
        self.points.order(point, times, how)?;
        let mut windows = Vec::new();
        if by_successors {
            windows.push(self.kill(&base)?);
        }
        let change = if changing { Some((self.reload)()?) } else { None };
        let patience = match how {
            How::Hang => LIMIT,
            _ if changing => TIME_TO_CHANGE,
            _ => PATIENCE,
        };
        let mut death = self.await_death(&base, patience)?;
        if death.is_none() {
            self.points.withdraw(point)?;
            // It may have been passed in the last moment.
            death = self.await_death(&base, Duration::from_millis(20))?;
        }
        let hit = self.points.who(point)? == Some(base.pid);
        let (death, way) = match death {
            Some((death, before)) if hit => {
                let others = if self.ordered.workers > 1 { &OF_ANY_WORKER[..] } else { &[] };
                if BESIDE_THE_READER.iter().chain(others).any(|beside| name.starts_with(beside)) {
                    windows.push(self.window(before));
                }
                (death, Way::Point(point, how))
            }
            // Whether a successor passes it shows later.
            Some((death, _)) if by_successors => (death, Way::Point(point, how)),
            // It was replaced without passing it.
            Some(_) if !changing => return Err(self.unordered(base.pid)),
            _ => {
                self.points.withdraw(point)?;
                self.missed.push(point);
                finish(change)?;
                return Ok(None);
            }
        };
        self.ordered.panics += usize::from(how == How::Panic);
        self.ordered.own_making += usize::from(how != How::Kill);
        // A thread that hangs was silent long before it was killed.
        let before = if how == How::Hang { ordered } else { death };
        let again = None;
        let mut kill = self.follow(Blow { way, sent, base, before, windows, again, changing })?;
        if by_successors && self.points.who(point)?.is_none() {
            self.points.withdraw(point)?;
            self.missed.push(point);
            kill.way = Way::Random;
        }
        finish(change)?;
        Ok(Some(kill))
    }

    /// Waits until a base that was told to die is dead; when that was, and how far the lane from the
    /// host had come while it lived for sure.
    fn await_death(&self, base: &Base, limit: Duration) -> Result<Option<(Instant, u64)>> {
        let (end, mut alive) = (Instant::now() + limit, self.progress());
        while Instant::now() < end {
            // Read before it was seen to live: only then this is from before its death.
            let now = self.progress();
            if let Some(death) = base.wait_death(LOOK)? {
                return Ok(Some((death, alive)));
            }
            alive = now;
        }
        Ok(None)
    }

    /// Replaces the base in order by another of the same program; gives what it says of its gap too.
    pub fn upgrade(&mut self) -> Result<(Kill, Duration)> {
        std::thread::sleep(
            self.chance.time(Duration::from_millis(100), Duration::from_millis(300)),
        );
        self.check()?;
        self.undisturbed()?;
        let (sent, before) = (self.watch.sent(), Instant::now());
        let text = command::output(self.instance.command("upgrade").arg("--json"))?;
        let told: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let told = told.as_ref().and_then(|told| told.get("gap_microseconds")?.as_u64());
        let told = told.ok_or_else(|| LabError::Unexpected(format!("no gap in {text}")))?;
        let base = self.base()?;
        let used = base.used();
        self.serving = Some(base.pid);
        std::thread::sleep(REST);
        let span = (before, Instant::now());
        let silence = self.watch.silences(&lane::STEADY, span).into_iter().max();
        let kill = Kill {
            way: Way::Upgrade,
            deaths: 0,
            windows: Vec::new(),
            silence: silence.unwrap_or_default(),
            used,
            twice: self.watch.twice(span),
            sent: [sent, self.watch.sent()],
        };
        Ok((kill, Duration::from_micros(told)))
    }

    /// Waits until all lanes have resumed, whoever dies meanwhile.
    fn follow(&mut self, blow: Blow) -> Result<Kill> {
        let Blow { way, sent, base, before, mut windows, mut again, changing } = blow;
        let (mut died, mut gone) = (BTreeSet::from([number(base.pid)]), Vec::new());
        let (mut last, end) = (base.pid, Instant::now() + LIMIT);
        let used = loop {
            self.check()?;
            if Instant::now() > end {
                return Err(self.stuck("a successor"));
            }
            std::thread::sleep(Duration::from_millis(1));
            let pid = self.file.process()?;
            if pid == last {
                continue;
            }
            last = pid;
            if let Some(successor) = Base::now(&self.file)? {
                last = successor.pid;
                if let Some(pause) = again.take() {
                    std::thread::sleep(pause);
                    windows.push(self.kill(&successor)?);
                    died.insert(number(successor.pid));
                }
                if self.resumed(&successor, end)? {
                    break successor.used();
                }
            }
            gone.push(last);
        };
        std::thread::sleep(REST);
        if let Way::Point(point, _) = way {
            died.extend(self.points.who(point)?.map(number));
        }
        // Others may have been replaced in order while the configuration changed.
        if let Some(other) = gone.into_iter().find(|pid| !changing && !died.contains(&number(*pid)))
        {
            return Err(self.unordered(other));
        }
        self.ordered.processes.extend(&died);
        if changing {
            self.ordered.replaced.extend(&died);
        }
        // A moment before: the load may have been asleep when the base died.
        let span: Span = (before - Duration::from_millis(1), Instant::now());
        let silence = self.watch.silences(&lane::STEADY, span).into_iter().max();
        Ok(Kill {
            way,
            deaths: died.len() as u64,
            windows,
            silence: silence.unwrap_or_default(),
            used,
            twice: self.watch.twice(span),
            sent: [sent, self.watch.sent()],
        })
    }

    /// Whether everything went on with this successor; `false` if it died.
    fn resumed(&self, successor: &Base, end: Instant) -> Result<bool> {
        // Twice, one after the other: what came first may have been in the rings already.
        for _ in 0..2 {
            let since = Instant::now();
            while !self.watch.all_since(&lane::STEADY, since) {
                self.check()?;
                if successor.wait_death(Duration::from_millis(1))?.is_some() {
                    return Ok(false);
                }
                if Instant::now() > end {
                    return Err(self.stuck("traffic on all lanes"));
                }
            }
        }
        Ok(true)
    }

    fn last_messages(&self) -> String {
        let messages = self.instance.messages();
        let tail: Vec<_> = messages.lines().rev().take(20).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn stuck(&self, what: &str) -> LabError {
        let what = format!("{what}; the last messages:\n{}", self.last_messages());
        LabError::Timeout { what, limit: LIMIT }
    }
}

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
//! A point that nobody passes in time costs nobody's life: the order is taken back.
//!
//! # Whose fault
//! Deaths of a base's own making count against what it was about: two at one place, or some under one
//! sender's batches, are taken for that one's fault. So these are few here, and at different points;
//! all others are as by `kill -9`.

use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::command::{self, Background};
use lab::error::LabError;
use lab::instance::Instance;
use lab::{Result, interrupt};

use crate::base::{Base, BaseFile};
use crate::points::{How, Points};
use crate::stage::lane;
use crate::watch::{Span, Watch};

/// How long to wait for a base to pass a point.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The same where the next base must come up first.
const TIME_TO_CHANGE: Duration = Duration::from_secs(6);
/// How long a base may take to die when it was told to, or to be replaced when it hangs.
const LIMIT: Duration = Duration::from_secs(40);
/// After all lanes have resumed: what comes twice comes within it.
const REST: Duration = Duration::from_millis(40);
/// Points that only a successor passes begin so.
const BY_SUCCESSORS: &str = "takeover.";
/// Points that are passed some times in a second only begin so.
const SELDOM: &str = "neighbor.";
/// Points passed only when the configuration changes begin so.
const BY_RELOADS: &str = "reload.";
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
    /// Begins to change the configuration, so that the points of that are passed.
    pub reload: &'a dyn Fn() -> Result<Background>,
    pub kills: Vec<Kill>,
    /// Points that were ordered and not passed in time.
    pub missed: Vec<usize>,
    turn: usize,
    until: Instant,
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
        chance: Chance,
        alive: &'a dyn Fn() -> bool,
        reload: &'a dyn Fn() -> Result<Background>,
    ) -> Result<Self> {
        Ok(Self {
            instance,
            file: BaseFile::of(instance),
            watch,
            points,
            names: points.names()?,
            chance,
            alive,
            reload,
            kills: Vec::new(),
            missed: Vec::new(),
            turn: 0,
            until: Instant::now(),
        })
    }

    /// Kills until that time; `each` is called after every kill.
    pub fn run(&mut self, time: Duration, each: &mut dyn FnMut(&Kill) -> Result<()>) -> Result<()> {
        self.until = Instant::now() + time;
        let hang = time > TIME_TO_HANG;
        let mut random = true;
        while Instant::now() < self.until {
            let pause = self.chance.time(Duration::from_millis(100), Duration::from_millis(350));
            std::thread::sleep(pause);
            let kill = if random { Some(self.at_random()?) } else { self.at_a_point(hang)? };
            if let Some(kill) = kill {
                random = !random;
                each(&kill)?;
                self.kills.push(kill);
            }
            self.watch.forget(Instant::now() - Duration::from_secs(60));
        }
        Ok(())
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

    fn at_random(&mut self) -> Result<Kill> {
        let sent = self.watch.sent();
        // Some die while the configuration is being changed.
        let mut change = None;
        if self.chance.below(8) == 0 {
            change = Some((self.reload)()?);
            std::thread::sleep(self.chance.time(Duration::ZERO, Duration::from_millis(60)));
        }
        let base = self.base()?;
        let before = Instant::now();
        base.kill()?;
        // Some die again while they take over.
        let again = (self.chance.below(10) == 0)
            .then(|| self.chance.time(Duration::ZERO, Duration::from_millis(25)));
        let kill = self.follow(Way::Random, sent, base, before, again)?;
        finish(change)?;
        Ok(kill)
    }

    /// Kills at the point whose turn it is; `None` if nobody passed it.
    fn at_a_point(&mut self, hang: bool) -> Result<Option<Kill>> {
        let point = self.turn % self.names.len().max(1);
        let round = self.turn / self.names.len().max(1);
        self.turn += 1;
        let Some(name) = self.names.get(point).cloned() else { return Ok(None) };
        let reload = name.starts_with(BY_RELOADS);
        let own = OWN_MAKING.iter().find(|(own, _)| round == 0 && name == *own);
        let how = match own {
            Some((_, how)) => *how,
            None if hang && round == 1 && name == HANGS => How::Hang,
            None => How::Kill,
        };
        let by_successors = name.starts_with(BY_SUCCESSORS);
        let most = match name.as_str() {
            name if by_successors || reload || name.starts_with(SELDOM) => 1,
            _ => 20,
        };
        let times = 1 + self.chance.below(most) as u32;
        let (sent, base) = (self.watch.sent(), self.base()?);
        let ordered = Instant::now();
        self.points.order(point, times, how)?;
        if by_successors {
            base.kill()?;
        }
        let change = if reload { Some((self.reload)()?) } else { None };
        let patience = match how {
            How::Hang => LIMIT,
            _ if reload => TIME_TO_CHANGE,
            _ => PATIENCE,
        };
        let Some(death) = base.wait_death(patience)? else {
            self.points.withdraw(point)?;
            self.missed.push(point);
            // It may have been passed in the last moment.
            let Some(death) = base.wait_death(Duration::from_millis(20))? else {
                return Ok(None);
            };
            return self.follow(Way::Point(point, how), sent, base, death, None).map(Some);
        };
        // A thread that hangs was silent long before it was killed.
        let before = if how == How::Hang { ordered } else { death };
        let kill = self.follow(Way::Point(point, how), sent, base, before, None)?;
        finish(change)?;
        Ok(Some(kill))
    }

    /// Replaces the base in order by another of the same program; gives what it says of its gap too.
    pub fn upgrade(&mut self) -> Result<(Kill, Duration)> {
        std::thread::sleep(
            self.chance.time(Duration::from_millis(100), Duration::from_millis(300)),
        );
        self.check()?;
        let (sent, before) = (self.watch.sent(), Instant::now());
        let text = command::output(self.instance.command("upgrade").arg("--json"))?;
        let told: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let told = told.as_ref().and_then(|told| told.get("gap_microseconds")?.as_u64());
        let told = told.ok_or_else(|| LabError::Unexpected(format!("no gap in {text}")))?;
        let used = self.base()?.used();
        std::thread::sleep(REST);
        let span = (before, Instant::now());
        let silence = self.watch.silences(&lane::STEADY, span).into_iter().max();
        let kill = Kill {
            way: Way::Upgrade,
            deaths: 0,
            silence: silence.unwrap_or_default(),
            used,
            twice: self.watch.twice(span),
            sent: [sent, self.watch.sent()],
        };
        Ok((kill, Duration::from_micros(told)))
    }

    /// Waits until all lanes have resumed, whoever dies meanwhile.
    fn follow(
        &mut self,
        way: Way,
        sent: Vec<u64>,
        base: Base,
        before: Instant,
        mut again: Option<Duration>,
    ) -> Result<Kill> {
        base.wait_death(LIMIT)?.ok_or_else(|| self.stuck("the base's death"))?;
        let (mut deaths, mut last) = (1, base.pid);
        let end = Instant::now() + LIMIT;
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
                    successor.kill()?;
                }
                if self.resumed(&successor, end)? {
                    break successor.used();
                }
            }
            deaths += 1;
        };
        std::thread::sleep(REST);
        // A moment before: the load may have been asleep when the base died.
        let span: Span = (before - Duration::from_millis(1), Instant::now());
        let silence = self.watch.silences(&lane::STEADY, span).into_iter().max();
        Ok(Kill {
            way,
            deaths,
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

    fn stuck(&self, what: &str) -> LabError {
        let messages = self.instance.messages();
        let tail: Vec<_> = messages.lines().rev().take(20).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        let what = format!("{what}; the last messages:\n{}", tail.join("\n"));
        LabError::Timeout { what, limit: LIMIT }
    }
}

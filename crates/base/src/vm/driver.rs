//! Drives one VM: asks its [`Lifecycle`] what is to be done, and does it.
//!
//! # Theory of operation
//! One task per VM, which owns everything of it. It waits for whatever comes first: somebody's wish,
//! the vessel's end, the monitor's word, a deadline. After each it writes the record and tells
//! whoever watches, in this order: what a successor would need is safe before anybody acts on it.
//!
//! The task ends when nobody can wish anything any more, that is, when the base ends. The vessel
//! stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::budget::Budget;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::form::{self, Paths, Plan};
use super::lifecycle::{Action, Ending, Input, Lifecycle, State};
use super::link::{Link, News};
use super::qmp::Message;
use super::record::{self, Record};
use super::vessel::Vessel;
use super::{Event, Happening, Shared, Status, VmError};
use crate::engine::spawn::{Lock, Process, Vacancy};

/// How long the rest of what a dead vessel's monitor said may take to read.
const REST: Duration = Duration::from_millis(200);
/// A kernel that reboots resets its machine again and again until the machine obeys: resets that
/// follow each other sooner than this are one reboot.
const ONE_REBOOT: Duration = Duration::from_secs(1);
/// How often it is looked whether the VM's logs have grown too long.
const TIDY: Duration = Duration::from_secs(10);
/// Characters of a refusal of the monitor that are passed on.
const LONGEST_REFUSAL: usize = 300;

/// What a driver is told.
#[derive(Debug)]
pub(super) enum Request {
    /// Somebody's wish, and where to answer.
    Wish(Input, oneshot::Sender<Result<(), VmError>>),
    /// How a process ended, as its parent says.
    Exited(u32, Ending),
    /// Write down what it is doing, though nothing has changed: a successor is to know of it.
    Note,
}

/// One VM and all that belongs to it.
pub(super) struct Driver {
    plan: Plan,
    paths: Paths,
    shared: Arc<Shared>,
    requests: mpsc::UnboundedReceiver<Request>,
    status: watch::Sender<Status>,
    life: Lifecycle,
    vessel: Vessel,
    link: Link,
    /// Whether the power button is to be pressed as soon as the monitor answers.
    press_due: bool,
    /// Why the last attempt to form it failed.
    failure: Option<VmError>,
    /// What the holder said before the end was noticed here.
    hearsay: Option<(u32, Ending)>,
    /// A process whose end is to be settled with the holder.
    settle: Option<u32>,
    /// The record is to be written whether anything has changed or not.
    unwritten: bool,
    panicked: bool,
    /// When the guest last reset its machine.
    reset_at: Option<Instant>,
    note: Option<String>,
    starts: u64,
    started_at: Option<u64>,
    log_from: u64,
    /// How much the vessel can make the base say: its guest may have taken it over.
    budget: Budget,
}

impl Driver {
    /// A VM as its predecessor left it, or a new one. Says whether there was a predecessor.
    pub(super) fn new(
        plan: Plan,
        paths: Paths,
        shared: Arc<Shared>,
        kept: Option<Process>,
        requests: mpsc::UnboundedReceiver<Request>,
    ) -> (Self, bool) {
        let machine = &plan.machine;
        let life = Lifecycle::new(machine.restart, machine.stop_timeout);
        let status = watch::Sender::new(Status::default());
        let mut driver = Self {
            plan,
            paths,
            shared,
            requests,
            status,
            life,
            vessel: Vessel::None,
            link: Link::Down,
            press_due: false,
            failure: None,
            hearsay: None,
            settle: None,
            unwritten: false,
            panicked: false,
            reset_at: None,
            note: None,
            starts: 0,
            started_at: None,
            log_from: 0,
            budget: Budget::default(),
        };
        let known = driver.adopt(kept);
        driver.publish();
        (driver, known)
    }

    /// Where to see what the VM is doing.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Takes over what a predecessor left: its record, its vessel.
    fn adopt(&mut self, kept: Option<Process>) -> bool {
        let record = Record::read(&self.paths.record).unwrap_or_else(|error| {
            self.trouble(format!("what the base before wrote is lost: {error}"));
            None
        });
        let living = match Lock::take(&self.paths.lock) {
            Ok(Vacancy::Taken(process)) => {
                if kept.is_none()
                    && let Err(error) = form::keep_found(&self.plan, &process, &self.shared)
                {
                    self.trouble(format!("the holder does not keep its process: {error}"));
                }
                Some(process)
            }
            // Its lock file may have been removed by a person; what the holder kept is still there.
            Ok(Vacancy::Free(_)) => kept,
            Err(error) => {
                self.trouble(format!("cannot look for its vessel: {error}"));
                kept
            }
        };
        if record.is_none() && living.is_none() {
            return false;
        }
        let was = record.as_ref().map_or(State::Starting, |r| r.state);
        if let Some(record) = &record {
            self.starts = record.starts;
            self.started_at = record.started_at;
            self.note.clone_from(&record.note);
        }
        let age = record.as_ref().map(Record::age).unwrap_or_default();
        let (again, failures) = record.as_ref().map_or((false, 0), |r| (r.again, r.failures));
        let pid = record.and_then(|r| r.pid);
        let has_vessel = match living {
            Some(process) => self.board(process),
            None if was.has_vessel() => {
                self.vessel = pid.map_or(Vessel::None, Vessel::gone);
                pid.is_some()
            }
            None => false,
        };
        if has_vessel {
            let claim = self.plan.claim().unwrap_or_else(|error| {
                self.trouble(format!("its disks cannot be found any more: {error}"));
                crate::ledger::Claim {
                    cpus: self.plan.machine.cpus,
                    memory: self.plan.machine.memory,
                    ..Default::default()
                }
            });
            self.shared.ledger().note(&self.plan.name, claim);
        } else {
            form::dissolve(&self.plan, &self.shared);
        }
        let fresh = Lifecycle::new(self.plan.machine.restart, self.plan.machine.stop_timeout);
        let up_for = has_vessel.then_some(age);
        let (life, actions) = fresh.resume(Instant::now(), was, again, failures, up_for);
        self.life = life;
        self.press_due = actions.contains(&Action::PressPower);
        if actions.contains(&Action::Spawn) {
            self.spawn();
        }
        true
    }

    /// Goes on with a process that lives. One that cannot be watched is ended.
    fn board(&mut self, process: Process) -> bool {
        let pid = process.pid;
        match Vessel::new(process) {
            Ok(vessel) => {
                self.vessel = vessel;
                self.link = Link::connect(self.paths.monitor.clone());
                true
            }
            Err(error) => {
                self.trouble(format!("its vessel is ended, as it cannot be watched: {error}"));
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                false
            }
        }
    }

    /// Runs until the base ends.
    pub(super) async fn run(mut self) {
        let mut tidy = tokio::time::interval(TIDY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.life.deadline().map(tokio::time::Instant::from_std);
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Wish(input, answer)) => {
                        let result = self.wish(input).await;
                        self.publish();
                        // Whoever asked may be gone.
                        let _ = answer.send(result);
                    }
                    Some(Request::Exited(pid, ending)) => self.exited(pid, ending).await,
                    Some(Request::Note) => self.unwritten = true,
                    None => return,
                },
                ending = self.vessel.ended() => match (ending, self.hearsay.take()) {
                    (Some(ending), _) => self.ended(ending).await,
                    (None, Some((pid, ending))) if Some(pid) == self.vessel.pid() => {
                        self.settle = Some(pid);
                        self.ended(ending).await;
                    }
                    (None, _) => {}
                },
                news = self.link.next() => self.heard(news).await,
                () = sleep_until(deadline) => {
                    let actions = self.life.tick(Instant::now());
                    self.act(actions).await;
                }
                _ = tidy.tick() => {
                    if self.life.state().has_vessel() {
                        self.paths.tidy();
                    }
                }
            }
            self.publish();
        }
    }

    async fn wish(&mut self, input: Input) -> Result<(), VmError> {
        self.failure = None;
        let actions = self.life.handle(Instant::now(), input)?;
        if actions.contains(&Action::Spawn) {
            self.note = None;
        }
        self.act(actions).await;
        self.failure.take().map_or(Ok(()), Err)
    }

    async fn exited(&mut self, pid: u32, ending: Ending) {
        match &self.vessel {
            Vessel::Gone { pid: gone, .. } if *gone == pid => {
                self.settle = Some(pid);
                self.ended(ending).await;
            }
            Vessel::Lives { pid: lives, .. } if *lives == pid => self.hearsay = Some((pid, ending)),
            _ => self.settle = Some(pid),
        }
    }

    async fn ended(&mut self, ending: Ending) {
        self.hear_the_rest().await;
        let stopping = self.life.state() == State::Stopping;
        self.note = if stopping { None } else { Some(self.obituary(ending)) };
        self.vessel = Vessel::None;
        self.link = Link::Down;
        self.press_due = false;
        self.panicked = false;
        form::dissolve(&self.plan, &self.shared);
        self.feed(Input::Ended(ending)).await;
    }

    /// What the monitor had still said before the vessel ended: it may explain the end.
    async fn hear_the_rest(&mut self) {
        while matches!(self.link, Link::Up(_)) {
            // All of it is in the socket already, the end included; the limit is for a process
            // that somehow shares the socket.
            match tokio::time::timeout(REST, self.link.next()).await {
                Ok(News::Said(message)) => self.said(&message),
                Ok(News::Up | News::Lost) | Err(_) => self.link = Link::Down,
            }
        }
    }

    /// Why it ended, in words.
    fn obituary(&self, ending: Ending) -> String {
        match (ending, self.panicked) {
            (Ending::Code(0), _) => ending.to_string(),
            (_, true) => "the guest's kernel panicked".to_owned(),
            _ => match self.paths.last_words(self.log_from) {
                Some(words) => format!("{ending}: {words}"),
                None => ending.to_string(),
            },
        }
    }

    async fn heard(&mut self, news: News) {
        match news {
            News::Up => {
                self.note = None;
                self.feed(Input::Up).await;
                if std::mem::take(&mut self.press_due) {
                    self.press().await;
                }
            }
            News::Said(message) => self.said(&message),
            // Either the vessel ends, which is noticed elsewhere, or it is asked again.
            News::Lost => self.link = Link::connect(self.paths.monitor.clone()),
        }
    }

    fn said(&mut self, message: &Message) {
        match message {
            Message::Event { name, .. } if name == "GUEST_PANICKED" => {
                self.panicked = true;
                self.tell_of_vessel(Happening::Panicked);
            }
            Message::Event { name, data } if name == "RESET" => {
                if data.get("guest").and_then(serde_json::Value::as_bool) == Some(true) {
                    let last = self.reset_at.replace(Instant::now());
                    if last.is_none_or(|last| last.elapsed() > ONE_REBOOT) {
                        self.tell(Happening::Rebooted);
                    }
                }
            }
            Message::Refused(why) => {
                let why: String = why.chars().take(LONGEST_REFUSAL).collect();
                self.tell_of_vessel(Happening::Trouble(format!("QEMU refused: {why}")));
            }
            Message::Event { .. } | Message::Greeting | Message::Done => {}
        }
    }

    /// Tells the lifecycle what happened; only somebody's wish can be refused.
    async fn feed(&mut self, input: Input) {
        if let Ok(actions) = self.life.handle(Instant::now(), input) {
            self.act(actions).await;
        }
    }

    async fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn => self.spawn(),
                Action::PressPower => self.press().await,
                Action::Terminate => self.vessel.signal(Signal::TERM),
                Action::Kill => self.vessel.signal(Signal::KILL),
            }
        }
    }

    async fn press(&mut self) {
        self.press_due = !self.link.command("system_powerdown").await;
    }

    fn spawn(&mut self) {
        let formed = form::form(&self.plan, &self.paths, &self.shared);
        let failed = match formed {
            Ok(formed) => {
                formed.troubles.into_iter().for_each(|t| self.trouble(t));
                self.starts = self.starts.saturating_add(1);
                self.started_at = Some(record::now());
                self.log_from = formed.log_from;
                let process = formed.process;
                if self.board(process) {
                    return;
                }
                form::dissolve(&self.plan, &self.shared);
                VmError::Unwatched { vm: self.plan.name.clone() }
            }
            Err(error) => error.into(),
        };
        self.note = Some(failed.to_string());
        self.failure = Some(failed);
        // A failed start is never followed by another action at once, only by a wait.
        let _ = self.life.handle(Instant::now(), Input::SpawnFailed);
    }

    /// Writes the record, then tells whoever watches.
    fn publish(&mut self) {
        let before = self.status.borrow().clone();
        let status = Status {
            state: self.life.state(),
            note: self.note.clone(),
            pid: self.vessel.pid(),
            starts: self.starts,
            started_at: self.started_at.filter(|_| self.life.state().has_vessel()),
            failures: self.life.failures(),
        };
        let unwritten = std::mem::take(&mut self.unwritten);
        if status != before || self.settle.is_some() || unwritten {
            let (starts, pid, at) = (self.starts, status.pid, self.started_at);
            let record = Record::of(&self.life, starts, pid, at, self.note.clone());
            if let Err(error) = record.write(&self.paths.record) {
                self.trouble(format!("a successor of this base will not know of it: {error}"));
            }
        }
        if let Some(pid) = self.settle.take() {
            (self.shared.settle)(pid);
        }
        if status != before {
            if status.state != before.state {
                let (state, note) = (status.state, status.note.clone());
                self.tell(Happening::State { state, note, again_in: self.again_in(state) });
            }
            self.status.send_replace(status);
        }
    }

    /// After which time it is started again, in whole seconds.
    fn again_in(&self, state: State) -> Option<Duration> {
        let deadline = self.life.deadline().filter(|_| state == State::BackingOff)?;
        let left = deadline.saturating_duration_since(Instant::now());
        Some(Duration::from_secs(left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)))
    }

    fn trouble(&self, text: String) {
        self.tell(Happening::Trouble(text));
    }

    /// Tells what the vessel can bring about as often as it likes.
    fn tell_of_vessel(&mut self, what: Happening) {
        let Some(untold) = self.budget.spend(Instant::now()) else { return };
        if untold > 0 {
            self.trouble(format!("{untold} more messages of its vessel were too many to be told"));
        }
        self.tell(what);
    }

    fn tell(&self, what: Happening) {
        (self.shared.events)(Event { vm: self.plan.name.clone(), what });
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

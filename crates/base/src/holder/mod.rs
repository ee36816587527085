//! The holder: the tiny process that outlives the base.
//!
//! # Why it exists
//! Connections of front ends, guest memory, the card's rings and the state memory live for as long
//! as somebody has them open. The base may die; so its parent keeps a duplicate of each, and a
//! successor goes on where the predecessor stopped. The holder parses nothing but its own fixed
//! messages and carries no traffic, so there is little it could die of.
//!
//! # Theory of operation
//! ```text
//!             +--------------------------- holder ---------------------------+
//!             |  registry: key -> descriptor          unsettled: pid, status |
//!             +------^-------------------|------------------------^----------+
//!        keep, forget| ready, beat       | hello, pieces, reaped  | SIGCHLD
//!             +------|-------------------v------+        VM processes whose base died
//!             |               base              |--starts-->  VM processes
//!             +---------------------------------+
//!
//!   starting --ready--> serving --told to end--> stopping --status 0--> end, nothing left
//!      |                   |                         |
//!      | dies              | dies, falls silent      | dies: a successor that is told to stop
//!      v                   v                         v       at once, twice at most
//!   end with its status    successor, at once or after a wait (`backoff`)
//! ```
//! One thread, one `poll` over the base's socket and two sockets that signals write to; its timeout
//! is the tick. All waiting is counted in ticks that the holder itself has lived through: a machine
//! that was suspended, or a holder that was stopped together with its base, counts none, so nothing
//! is killed when they go on.
//!
//! When a base dies, the holder first reads what that base had still sent, then starts the next.
//! The handover goes out in pieces as the socket takes them; the holder never waits in a send.
//!
//! Files: `release` says what a base is started of, and when to go back to what worked; `switch`
//! starts a base beside one that serves; `heir` is how a holder begins that takes the place of one
//! that died.
//!
//! # Invariants
//! - The holder never blocks but in `poll`, once it has started: not for what it says either
//!   ([`crate::words`]). (Starting a base waits until its program is executed, and a log of some
//!   megabytes is copied now and then; both end by themselves.)
//! - A base that never served is not started again: its status is the holder's.
//! - At the end no child is left that was not there at the beginning.

mod backoff;
pub mod channel;
mod child;
mod fields;
mod heir;
pub mod process;
pub mod protocol;
mod registry;
mod release;
mod signals;
mod switch;

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, pidfd_send_signal};

use crate::entry::{causes, exit};
use crate::state_dir::{Lock, StateDir};
use crate::words;
use backoff::Backoff;
use child::{BaseChild, Flush};
use process::Program;
use protocol::{Arrival, Death, Ended, Hello, ToBase, ToHolder};
use registry::Registry;
use release::{Next, Release, Releases};
use signals::Signals;
use switch::{Candidate, Leaving};

pub use heir::inherit;

/// Ends of processes remembered for successors. Beyond that the oldest are forgotten.
const UNSETTLED: usize = 4096;
/// Successors that are started only to stop in order.
const STOP_ATTEMPTS: u32 = 2;
/// Messages of the base that are read before signals are looked at again.
const MESSAGES: usize = 256;
/// How the keys of the VMs' processes begin and end.
const VESSELS: (&str, &str) = ("vm/", "/pidfd");
/// Octets of messages of a detached instance before they are put aside.
const LOG_LIMIT: u64 = 8 << 20;

/// What a holder needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to start a base.
    pub base: Program,
    /// What the first base is told besides: what the words of a later release stand in place of.
    pub words: Vec<OsString>,
    /// What all else is counted in.
    pub tick: Duration,
    /// Ticks without a beat before the base is killed.
    pub silent_ticks: u32,
    /// Ticks before the first beat of the first base.
    pub start_ticks: u32,
    /// Ticks that a base may take to prepare beside one that serves.
    pub prepare_ticks: u32,
    /// Ticks between the second demand to end and force.
    pub force_ticks: u32,
    /// Whether messages go to the state directory's log, and nobody watches.
    pub detached: bool,
    /// Called once, when the first base serves.
    pub on_ready: fn(),
}

impl Options {
    /// The usual: ticks of a second.
    pub fn new(base: Program) -> Self {
        Self {
            base,
            words: Vec::new(),
            tick: Duration::from_secs(1),
            silent_ticks: 10,
            start_ticks: 60,
            prepare_ticks: 20,
            force_ticks: 10,
            detached: false,
            on_ready: || {},
        }
    }
}

/// Is the holder of the instance with the state directory `dir` until that ends. Returns the exit
/// status, one of [`exit`].
pub fn run(dir: &StateDir, lock: Lock, options: Options) -> u8 {
    let patience = options.tick.saturating_mul(60);
    if let Some(pid) = process::end_leftover_base(&dir.base_file(), patience) {
        say(&format!("ended the base (process {pid}) that an earlier holder had left behind"));
    }
    let mut ever_ready = false;
    let status = match Holder::prepare(dir, &lock, options) {
        Ok(mut holder) => {
            let status = holder.run();
            ever_ready = holder.ever_ready;
            status
        }
        Err(error) => {
            say(&error);
            exit::FAILED
        }
    };
    dir.remove(lock, ever_ready && status != exit::CLEAN);
    status
}

/// A message for people. That nobody may be there to read it is no reason to fail.
fn say(message: &str) {
    words::say(&format!("ipvisor: {message}\n"));
}

/// What to do about the instance's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// In order.
    Yes,
    /// VMs are killed at once; after so many ticks more, everything is.
    Now(u32),
}

struct Holder<'a> {
    dir: &'a StateDir,
    options: Options,
    signals: Signals,
    /// Children from before this program was executed: not ours to end.
    spared: HashSet<i32>,
    registry: Registry,
    unsettled: VecDeque<(u32, Ended)>,
    base: Option<BaseChild>,
    /// The base that is to take the place of `base`.
    candidate: Option<Candidate>,
    /// Bases that have yielded, or are not needed, and have not ended yet.
    leaving: Vec<Leaving>,
    releases: Releases,
    /// How it comes to the base that is started next.
    arrival: Arrival,
    /// Ticks until the next base is started, when none runs.
    wait: u32,
    backoff: Backoff,
    generation: u32,
    predecessor: Option<Death>,
    started: Instant,
    ever_ready: bool,
    stopping: Stopping,
    stop_attempts: u32,
    ticks: u64,
    finished: Option<u8>,
}

impl<'a> Holder<'a> {
    fn prepare(dir: &'a StateDir, lock: &Lock, options: Options) -> Result<Self, String> {
        lock.claim().map_err(|e| format!("cannot write the lock: {e}"))?;
        dir.renew(lock).map_err(|e| causes(&e))?;
        Self::new(dir, options)
    }

    fn new(dir: &'a StateDir, options: Options) -> Result<Self, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
        let signals = Signals::catch(options.detached).map_err(|e| failed("catch signals", &e))?;
        process::raise_open_files();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| failed("become the reaper of the VM processes", &e))?;
        let first = Release { binary: None, words: options.words.clone() };
        Ok(Self {
            dir,
            options,
            signals,
            spared: process::children(),
            registry: Registry::default(),
            unsettled: VecDeque::new(),
            base: None,
            candidate: None,
            leaving: Vec::new(),
            releases: Releases::new(first),
            arrival: Arrival::First,
            wait: 0,
            backoff: Backoff::default(),
            generation: 0,
            predecessor: None,
            started: Instant::now(),
            ever_ready: false,
            stopping: Stopping::No,
            stop_attempts: 0,
            ticks: 0,
            finished: None,
        })
    }

    fn run(&mut self) -> u8 {
        let mut next_tick = Instant::now();
        loop {
            if self.finished.is_none() && self.base.is_none() && self.wait == 0 {
                self.start_base();
            }
            if let Some(status) = self.finished {
                if let Some(mut base) = self.base.take() {
                    base.kill();
                }
                process::kill_children(&self.spared);
                return status;
            }
            self.poll(next_tick.saturating_duration_since(Instant::now()));
            for _ in 0..self.signals.take_end() {
                self.told_to_end();
            }
            self.read_base(MESSAGES);
            self.read_candidate();
            self.signals.take_child();
            while let Some((pid, ended)) = process::reap() {
                self.reaped(pid, ended);
            }
            self.look_for_strangers();
            let now = Instant::now();
            if now >= next_tick {
                // From now, not from when it was due: time that was slept through is no tick.
                next_tick = now.checked_add(self.options.tick).unwrap_or(now);
                self.tick();
            }
        }
    }

    fn poll(&mut self, mut timeout: Duration) {
        let mut events = [PollFlags::IN; 2];
        let candidate = self.candidate.as_mut().map(|c| &mut c.child);
        for (events, base) in events.iter_mut().zip([self.base.as_mut(), candidate]) {
            match base.map(|base| base.flush(&self.registry)) {
                None | Some(Flush::Done) => {}
                Some(Flush::Full) => *events |= PollFlags::OUT,
                Some(Flush::Later) => timeout = timeout.min(Duration::from_millis(5)),
            }
        }
        let timeout = Timespec::try_from(timeout).ok();
        let [end, child] = self.signals.sources();
        let mut sources = vec![
            PollFd::from_borrowed_fd(end, PollFlags::IN),
            PollFd::from_borrowed_fd(child, PollFlags::IN),
        ];
        let candidate = self.candidate.as_ref().map(|c| &c.child);
        for (events, base) in events.into_iter().zip([self.base.as_ref(), candidate]) {
            let socket = base.and_then(BaseChild::open_socket);
            sources.extend(socket.map(|fd| PollFd::from_borrowed_fd(fd, events)));
        }
        let leaving = self.leaving.iter().map(|l| &l.child);
        let strangers = self.base.iter().chain(leaving).filter_map(BaseChild::stranger);
        sources.extend(strangers.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // An error (a signal, no memory) is as good as nothing: everything is looked at anyway.
        let _ = poll(&mut sources, timeout.as_ref());
    }

    fn start_base(&mut self) {
        match BaseChild::start(&self.releases.running().program(&self.options.base)) {
            Ok(base) => self.hand_over(base, 0),
            Err(error) => {
                say(&format!("cannot start the base: {error}"));
                if !self.ever_ready {
                    self.finished = Some(exit::FAILED);
                }
                self.wait = self.backoff.after(false, true, 0).max(1);
            }
        }
    }

    /// Makes this base the one that runs. Nobody has served since `rest_at`.
    fn hand_over(&mut self, mut base: BaseChild, rest_at: u64) {
        let hello = Hello {
            generation: self.generation,
            predecessor: self.predecessor,
            descriptors: u32::try_from(self.registry.count()).unwrap_or(u32::MAX),
            holder: std::process::id(),
            seconds: self.started.elapsed().as_secs(),
            arrival: self.arrival,
            rest_at,
        };
        base.hand_over(hello, self.unsettled.iter().copied());
        match self.stopping {
            Stopping::No => {}
            Stopping::Yes => base.say(&ToBase::Stop),
            Stopping::Now(_) => base.say(&ToBase::StopNow),
        }
        if let Err(error) = process::note_base(&self.dir.base_file(), base.pid) {
            say(&format!("cannot note the base's process: {error}"));
        }
        self.generation = self.generation.saturating_add(1);
        self.base = Some(base);
    }

    fn read_base(&mut self, most: usize) {
        for _ in 0..most {
            let Some(base) = &mut self.base else { return };
            let Some((message, descriptor)) = base.receive() else { return };
            match message {
                ToHolder::Keep(key) => match descriptor {
                    Some(fd) => self.registry.keep(key, fd),
                    None => {
                        // Better nothing under it than what was there before.
                        self.registry.forget(&key);
                        say(&format!("no room for another descriptor: {key} is not kept"));
                        base.say(&ToBase::NotKept(key));
                    }
                },
                ToHolder::Forget(key) => self.registry.forget(&key),
                ToHolder::ForgetAll(prefix) => self.registry.forget_all(&prefix),
                ToHolder::Beat => base.beat(),
                ToHolder::Ready => {
                    base.ready();
                    self.releases.serves(0);
                    self.arrival = Arrival::Death;
                    if !self.ever_ready {
                        self.ever_ready = true;
                        (self.options.on_ready)();
                        if !self.options.detached {
                            let dir = self.dir.path().display();
                            say(&format!("runs (state in {dir}); Ctrl-C ends it"));
                        }
                    }
                }
                ToHolder::Stop => {
                    if self.stopping == Stopping::No {
                        self.told_to_end();
                    }
                }
                ToHolder::Settled(pid) => self.unsettled.retain(|&(other, _)| other != pid),
                ToHolder::Switch { layout, words } => self.switch(layout, words, descriptor),
                ToHolder::Yielded { at } => self.yielded(at),
                ToHolder::Inherit { generation, seconds, words } => {
                    self.inherited(generation, seconds, words, descriptor);
                }
                // Said by candidates only.
                ToHolder::Prepared { .. } | ToHolder::Cannot(_) => {}
            }
        }
    }

    fn told_to_end(&mut self) {
        let message = match self.stopping {
            Stopping::No => {
                self.stopping = Stopping::Yes;
                ToBase::Stop
            }
            Stopping::Yes => {
                say("told to end a second time: killing the VMs");
                self.stopping = Stopping::Now(self.options.force_ticks);
                ToBase::StopNow
            }
            Stopping::Now(_) => {
                self.force();
                return;
            }
        };
        self.call_off("the instance is ending");
        match &mut self.base {
            Some(base) => base.say(&message),
            // One is started only to leave nothing behind.
            None => self.wait = 0,
        }
    }

    fn force(&mut self) {
        say("the base did not end: everything is killed; routes and filters may be left over");
        // VMs from before this holder's time are not its children.
        self.registry.matching(VESSELS.0, VESSELS.1).for_each(|vessel| {
            let _ = pidfd_send_signal(vessel, Signal::KILL);
        });
        self.finished = Some(exit::FAILED);
    }

    fn reaped(&mut self, pid: Pid, ended: Ended) {
        if self.base.as_ref().is_some_and(|base| base.pid == pid) {
            // What it had still sent counts as if it were alive: that it yielded, perhaps.
            self.read_base(usize::MAX);
            if let Some(base) = self.base.take_if(|base| base.pid == pid) {
                self.base_died(&base, ended);
                return;
            }
        }
        if self.candidate.as_ref().is_some_and(|c| c.child.pid == pid) {
            self.read_candidate();
            self.candidate_died(ended);
            return;
        }
        if let Some(place) = self.leaving.iter().position(|l| l.child.pid == pid) {
            self.leaving.swap_remove(place);
            return;
        }
        let number = pid.as_raw_pid();
        if self.spared.remove(&number) {
            return;
        }
        let pid = number.unsigned_abs();
        if self.unsettled.len() >= UNSETTLED {
            self.unsettled.pop_front();
        }
        self.unsettled.push_back((pid, ended));
        if let Some(base) = &mut self.base {
            base.say(&ToBase::Reaped { pid, ended });
        }
    }

    fn base_died(&mut self, base: &BaseChild, ended: Ended) {
        let (pid, ready) = (base.pid, base.served.is_some());
        let death = if base.killed { Death::Silent } else { Death::Ended(ended) };
        if self.replaced_by_candidate(death) {
            return;
        }
        if ended == Ended::Exited(exit::CLEAN.into()) {
            self.finished = Some(exit::CLEAN);
            return;
        }
        if !self.ever_ready {
            self.finished = Some(match ended {
                Ended::Exited(code) => u8::try_from(code).unwrap_or(exit::FAILED),
                Ended::Signaled(_) => {
                    say(&format!("the base (process {pid}) {ended} while it was starting"));
                    exit::FAILED
                }
            });
            return;
        }
        self.predecessor = Some(death);
        if self.stopping != Stopping::No {
            self.stop_attempts = self.stop_attempts.saturating_add(1);
            if self.stop_attempts > STOP_ATTEMPTS {
                self.force();
                return;
            }
        }
        self.wait = self.backoff.after(ready, death.own_making(), base.ticks);
        let back = self.releases.died(death.own_making(), base.served) == Next::Back;
        if back {
            self.arrival = Arrival::Back;
            self.wait = 0;
        }
        let when = match self.wait {
            0 => "at once".to_owned(),
            n => format!("in {n} s"),
        };
        let what = if back { "the last good release" } else { "the next" };
        say(&format!("the base (process {pid}) {death}: {what} is started {when}"));
    }

    fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        self.wait = self.wait.saturating_sub(1);
        if let Some(base) = &mut self.base {
            // Only the first base has anything to wait for before it serves.
            let first = self.arrival == Arrival::First;
            let silent = self.options.silent_ticks;
            base.tick(silent, if first { self.options.start_ticks } else { silent });
            if let Some(ticks) = base.served {
                self.releases.serves(ticks);
            }
        }
        if let Some(base) = self.base.take_if(|base| base.lingers()) {
            self.base_died(&base, Ended::Signaled(Signal::KILL.as_raw()));
            self.leaving.push(Leaving::of(base));
        }
        self.tick_switch();
        if let Stopping::Now(left) = &mut self.stopping {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.force(),
            }
        }
        if self.options.detached && self.ticks.is_multiple_of(60) {
            put_log_aside(self.dir);
        }
    }
}

/// Keeps the log from filling the disk: writers append, so it can be emptied under them.
fn put_log_aside(dir: &StateDir) {
    let log = dir.log_file();
    if std::fs::metadata(&log).is_ok_and(|m| m.len() > LOG_LIMIT)
        && std::fs::copy(&log, dir.old_log_file()).is_ok()
        && let Ok(file) = std::fs::OpenOptions::new().write(true).open(&log)
    {
        let _ = file.set_len(0);
    }
}

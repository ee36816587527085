//! The life of one VM, as a machine of states: no clock, no process, no socket.
//!
//! # Theory of operation
//! ```text
//!            start             monitor answers
//!  Stopped ---------> Starting ----------------> Running ----.
//!   ^  ^ ^              |  ^                     |    |      | ends, and the policy
//!   |  | |     ends too |  | the wait is over    |    | stop | says to start it again
//!   |  | |     early    |  |                     |    v      v
//!   |  | '--------------+--|---- powers itself --'  Stopping BackingOff <--- Starting ends
//!   |  |                |  '------------------------- | ------'     |
//!   |  '----------------|------------- ends ----------'             |
//!   |                   v  ends, and the policy says no             |
//!   |                 Failed                                        |
//!   '------------------------------ stop ---------------------------'
//! ```
//! [`Lifecycle::handle`] takes what happened and the time, and hands back what is to be done;
//! [`Lifecycle::deadline`] says when [`Lifecycle::tick`] must be called if nothing happens before.
//!
//! *Stop* presses the guest's power button. A guest that does not end within its `stop_timeout` is
//! ended by force in two steps: the vessel is asked (it writes its disks out), then killed.
//! *Back-off*: the first start after a failure waits 1 s, each further one twice as long, 60 s at
//! most; a VM that ran for 60 s begins anew.
//!
//! # Invariants
//! - A vessel lives in Starting, Running and Stopping, and in no other state.
//! - Every state with a vessel that may hang has a deadline.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::Restart;

/// How long a vessel may take until its monitor answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a vessel may take to end when asked, and again when killed.
const FORCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before the first start after a failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait before a start.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A VM that ran that long has not failed at once.
const STEADY: Duration = Duration::from_secs(60);

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has no vessel, and nobody wants one.
    Stopped,
    /// Its vessel was started and does not answer yet.
    Starting,
    /// Its vessel answers.
    Running,
    /// Its power button was pressed, or it is being ended by force.
    Stopping,
    /// It ended, and will be started again after a wait.
    BackingOff,
    /// It ended with a failure, and will not be started again by itself.
    Failed,
}

impl State {
    /// Whether a vessel lives in this state.
    pub fn has_vessel(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::BackingOff => "backing off",
            Self::Failed => "failed",
        })
    }
}

/// How a vessel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// With this exit code; 0 means that the guest powered itself off.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw how.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(0) => write!(f, "the guest powered itself off"),
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Unknown => write!(f, "ended while nobody looked"),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Somebody wants it to run.
    Start,
    /// Somebody wants it to stop; with force, at once.
    Stop {
        /// Whether the guest is not even asked.
        force: bool,
    },
    /// Somebody wants it to stop and start again; with force, at once.
    Restart {
        /// Whether the guest is not even asked.
        force: bool,
    },
    /// The vessel could not be started.
    SpawnFailed,
    /// The vessel's monitor answers.
    Up,
    /// The vessel has ended.
    Ended(Ending),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a vessel; answer with `Up` and `Ended`, or `SpawnFailed`.
    Spawn,
    /// Press the guest's power button.
    PressPower,
    /// Ask the vessel to end.
    Terminate,
    /// Kill the vessel.
    Kill,
}

/// Why somebody's wish was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It runs, or is about to.
    #[error("it is {0} already")]
    Already(State),
    /// It is being stopped: a start must wait.
    #[error("it is stopping: start it when it has stopped, or use restart")]
    IsStopping,
}

/// How far a stop has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    Button,
    Asked,
    Killed,
}

/// The life of one VM.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    policy: Restart,
    stop_timeout: Duration,
    state: State,
    deadline: Option<Instant>,
    force: Force,
    /// Whether it is to be started again when it has stopped.
    again: bool,
    up_since: Option<Instant>,
    /// Failures since it last ran steadily.
    failures: u32,
}

impl Lifecycle {
    /// A VM that is stopped.
    pub fn new(policy: Restart, stop_timeout: Duration) -> Self {
        Self {
            policy,
            stop_timeout,
            state: State::Stopped,
            deadline: None,
            force: Force::Button,
            again: false,
            up_since: None,
            failures: 0,
        }
    }

    /// Goes on where another base left off. `up_for`: how long its vessel has been running;
    /// `None`: there is no vessel.
    pub fn resume(
        mut self,
        now: Instant,
        was: State,
        again: bool,
        failures: u32,
        up_for: Option<Duration>,
    ) -> (Self, Vec<Action>) {
        let mut actions = Vec::new();
        self.failures = failures;
        self.again = again && was == State::Stopping;
        match (up_for, was) {
            (Some(up_for), State::Stopping) => {
                self.up_since = now.checked_sub(up_for);
                self.press(now, &mut actions);
            }
            (Some(up_for), State::Running) => {
                self.up_since = now.checked_sub(up_for);
                self.state = State::Running;
            }
            (Some(up_for), _) => {
                self.up_since = now.checked_sub(up_for);
                self.state = State::Starting;
                self.deadline = now.checked_add(START_TIMEOUT);
            }
            (None, State::Starting | State::Running) => {
                self.state = State::Running;
                self.ended(now, Ending::Unknown, &mut actions);
            }
            (None, State::Stopping) => {
                self.state = State::Stopping;
                self.ended(now, Ending::Unknown, &mut actions);
            }
            (None, State::BackingOff) => self.back_off(now),
            (None, was @ (State::Stopped | State::Failed)) => self.state = was,
        }
        (self, actions)
    }

    /// What the VM is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// Failures since it last ran steadily.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is to be started again when it has stopped.
    pub fn again(&self) -> bool {
        self.again
    }

    /// When [`Lifecycle::tick`] must be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes what happened; hands back what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input) -> Result<Vec<Action>, Refused> {
        let mut actions = Vec::new();
        match (input, self.state) {
            (Input::Start, State::Stopped | State::Failed | State::BackingOff) => {
                self.failures = 0;
                self.spawn(now, &mut actions);
            }
            (Input::Start, State::Stopping) => return Err(Refused::IsStopping),
            (Input::Start, state) => return Err(Refused::Already(state)),
            (Input::Restart { force }, state) if state.has_vessel() => {
                self.again = true;
                self.failures = 0;
                self.stop(now, force, &mut actions);
            }
            (Input::Restart { .. }, _) => {
                self.failures = 0;
                self.spawn(now, &mut actions);
            }
            (Input::Stop { force }, state) if state.has_vessel() => {
                self.again = false;
                self.stop(now, force, &mut actions);
            }
            (Input::Stop { .. }, State::BackingOff) => self.rest(State::Stopped),
            (Input::Stop { .. }, state) => return Err(Refused::Already(state)),
            (Input::Up, State::Starting) => {
                self.state = State::Running;
                self.deadline = None;
                self.up_since.get_or_insert(now);
            }
            (Input::Ended(ending), state) if state.has_vessel() => {
                self.ended(now, ending, &mut actions);
            }
            (Input::SpawnFailed, State::Starting) => {
                self.ended(now, Ending::Code(1), &mut actions);
            }
            (Input::Up | Input::Ended(_) | Input::SpawnFailed, _) => {}
        }
        Ok(actions)
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return actions;
        }
        match (self.state, self.force) {
            (State::BackingOff, _) => self.spawn(now, &mut actions),
            (State::Starting, _) => {
                self.deadline = now.checked_add(FORCE_TIMEOUT);
                actions.push(Action::Kill);
            }
            (State::Stopping, Force::Button) => self.ask(now, &mut actions),
            (State::Stopping, Force::Asked | Force::Killed) => {
                self.force = Force::Killed;
                self.deadline = now.checked_add(FORCE_TIMEOUT);
                actions.push(Action::Kill);
            }
            (State::Stopped | State::Running | State::Failed, _) => self.deadline = None,
        }
        actions
    }

    fn spawn(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.state = State::Starting;
        self.deadline = now.checked_add(START_TIMEOUT);
        self.again = false;
        self.up_since = None;
        actions.push(Action::Spawn);
    }

    /// Begins to stop a VM with a vessel, or goes on with more force.
    fn stop(&mut self, now: Instant, force: bool, actions: &mut Vec<Action>) {
        let at_once = force || self.state == State::Starting || self.stop_timeout.is_zero();
        match (self.state == State::Stopping, self.force) {
            (false, _) if at_once => self.ask(now, actions),
            (false, _) => self.press(now, actions),
            (true, Force::Button) if force => self.ask(now, actions),
            (true, _) => {}
        }
    }

    fn press(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.state = State::Stopping;
        self.force = Force::Button;
        self.deadline = now.checked_add(self.stop_timeout);
        actions.push(Action::PressPower);
    }

    fn ask(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.state = State::Stopping;
        self.force = Force::Asked;
        self.deadline = now.checked_add(FORCE_TIMEOUT);
        actions.push(Action::Terminate);
    }

    fn ended(&mut self, now: Instant, ending: Ending, actions: &mut Vec<Action>) {
        let since = self.up_since.take();
        if since.is_some_and(|s| now.saturating_duration_since(s) >= STEADY) {
            self.failures = 0;
        }
        let off = ending == Ending::Code(0);
        if self.state == State::Stopping {
            return if self.again { self.spawn(now, actions) } else { self.rest(State::Stopped) };
        }
        match self.policy {
            Restart::Always => self.back_off(now),
            Restart::OnFailure if !off => self.back_off(now),
            Restart::Never if !off => self.rest(State::Failed),
            Restart::Never | Restart::OnFailure => self.rest(State::Stopped),
        }
    }

    fn back_off(&mut self, now: Instant) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        self.state = State::BackingOff;
        self.deadline = now.checked_add(wait);
    }

    fn rest(&mut self, state: State) {
        self.state = state;
        self.deadline = None;
        self.again = false;
    }
}

#[cfg(test)]
mod tests;

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

impl Ending {
    /// From what `wait` says about a process.
    pub fn from_wait_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Code(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Unknown
        }
    }
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
    /// Somebody wants it to stop and start again.
    Restart,
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
    /// `None`: there is no vessel. `ending`: how it ended, if it ended while nobody looked.
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
            (Input::Restart, State::Starting | State::Running | State::Stopping) => {
                if self.state != State::Stopping {
                    self.stop(now, false, &mut actions);
                }
                self.again = true;
                self.failures = 0;
            }
            (Input::Restart, _) => {
                self.failures = 0;
                self.spawn(now, &mut actions);
            }
            (Input::Stop { force }, State::Starting | State::Running) => {
                self.again = false;
                self.stop(now, force, &mut actions);
            }
            (Input::Stop { force }, State::Stopping) => {
                self.again = false;
                if force && self.force == Force::Button {
                    self.ask(now, &mut actions);
                }
            }
            (Input::Stop { .. }, State::BackingOff) => self.rest(State::Stopped),
            (Input::Stop { .. }, State::Stopped | State::Failed) => {
                return Err(Refused::Already(self.state));
            }
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

    fn stop(&mut self, now: Instant, force: bool, actions: &mut Vec<Action>) {
        if force || self.state == State::Starting || self.stop_timeout.is_zero() {
            self.ask(now, actions);
        } else {
            self.press(now, actions);
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STOP: Input = Input::Stop { force: false };
    const CRASH: Input = Input::Ended(Ending::Signal(11));

    /// A VM with a clock that a test moves by hand.
    struct Scene {
        life: Lifecycle,
        now: Instant,
        actions: Vec<Action>,
    }

    impl Scene {
        fn new(policy: Restart) -> Self {
            let life = Lifecycle::new(policy, Duration::from_secs(30));
            Self { life, now: Instant::now(), actions: Vec::new() }
        }

        fn running(policy: Restart) -> Self {
            Self::new(policy).then(Input::Start).then(Input::Up)
        }

        fn then(mut self, input: Input) -> Self {
            self.actions = self.life.handle(self.now, input).unwrap();
            self
        }

        fn after(mut self, seconds: u64) -> Self {
            self.now += Duration::from_secs(seconds);
            self.actions = self.life.tick(self.now);
            self
        }

        fn is(self, state: State, actions: &[Action]) -> Self {
            assert_eq!((self.life.state(), self.actions.as_slice()), (state, actions));
            self
        }

        fn wait(&self) -> u64 {
            (self.life.deadline().unwrap() - self.now).as_secs()
        }
    }

    #[test]
    fn a_guest_that_heeds_its_power_button_is_not_forced() {
        Scene::new(Restart::Always)
            .then(Input::Start)
            .is(State::Starting, &[Action::Spawn])
            .then(Input::Up)
            .is(State::Running, &[])
            .then(STOP)
            .is(State::Stopping, &[Action::PressPower])
            .after(29)
            .is(State::Stopping, &[])
            .then(Input::Ended(Ending::Code(0)))
            .is(State::Stopped, &[]);
    }

    #[test]
    fn a_guest_that_does_not_is_asked_to_end_and_then_killed() {
        Scene::running(Restart::Never)
            .then(STOP)
            .after(30)
            .is(State::Stopping, &[Action::Terminate])
            .after(5)
            .is(State::Stopping, &[Action::Kill])
            .after(5)
            .is(State::Stopping, &[Action::Kill])
            .then(Input::Ended(Ending::Signal(9)))
            .is(State::Stopped, &[]);
    }

    #[test]
    fn a_second_stop_with_force_does_not_wait() {
        Scene::running(Restart::Never)
            .then(STOP)
            .then(STOP)
            .is(State::Stopping, &[])
            .then(Input::Stop { force: true })
            .is(State::Stopping, &[Action::Terminate]);
    }

    #[test]
    fn what_follows_an_ending_depends_on_the_policy() {
        let off = Input::Ended(Ending::Code(0));
        for (policy, after_off, after_crash) in [
            (Restart::Never, State::Stopped, State::Failed),
            (Restart::OnFailure, State::Stopped, State::BackingOff),
            (Restart::Always, State::BackingOff, State::BackingOff),
        ] {
            Scene::running(policy).then(off).is(after_off, &[]);
            Scene::running(policy).then(CRASH).is(after_crash, &[]);
            Scene::running(policy).then(Input::Ended(Ending::Unknown)).is(after_crash, &[]);
            Scene::new(policy).then(Input::Start).then(Input::SpawnFailed).is(after_crash, &[]);
        }
    }

    #[test]
    fn waits_double_up_to_a_minute_and_begin_anew_after_a_steady_run() {
        let mut scene = Scene::running(Restart::OnFailure);
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            scene = scene.then(CRASH);
            assert_eq!(scene.wait(), wait);
            scene = scene.after(wait).is(State::Starting, &[Action::Spawn]).then(Input::Up);
        }
        scene = scene.after(60).then(CRASH);
        assert_eq!(scene.wait(), 1);
    }

    #[test]
    fn a_person_need_not_wait_for_the_back_off() {
        let waiting = || Scene::running(Restart::Always).then(CRASH);
        waiting().then(Input::Start).is(State::Starting, &[Action::Spawn]);
        waiting().then(Input::Restart).is(State::Starting, &[Action::Spawn]);
        waiting().then(STOP).is(State::Stopped, &[]).after(100).is(State::Stopped, &[]);
    }

    #[test]
    fn a_restart_starts_again_whatever_the_policy_unless_a_stop_follows() {
        let stopping = || {
            Scene::running(Restart::Never)
                .then(Input::Restart)
                .is(State::Stopping, &[Action::PressPower])
        };
        stopping().then(CRASH).is(State::Starting, &[Action::Spawn]);
        stopping().then(STOP).then(CRASH).is(State::Stopped, &[]);
        Scene::new(Restart::Never).then(Input::Restart).is(State::Starting, &[Action::Spawn]);
    }

    #[test]
    fn wishes_that_make_no_sense_are_refused() {
        let refused = |mut scene: Scene, input| scene.life.handle(scene.now, input).unwrap_err();
        let running = || Scene::running(Restart::Never);
        assert_eq!(refused(running(), Input::Start), Refused::Already(State::Running));
        assert_eq!(refused(running().then(STOP), Input::Start), Refused::IsStopping);
        let stopped = Scene::new(Restart::Never);
        assert_eq!(refused(stopped, STOP), Refused::Already(State::Stopped));
    }

    #[test]
    fn a_vessel_that_never_answers_is_killed() {
        Scene::new(Restart::Never)
            .then(Input::Start)
            .after(60)
            .is(State::Starting, &[Action::Kill])
            .then(CRASH)
            .is(State::Failed, &[]);
    }

    #[test]
    fn a_successor_goes_on_where_the_base_died() {
        let resume = |was, again, up_for| {
            let life = Lifecycle::new(Restart::OnFailure, Duration::from_secs(30));
            let up_for: Option<u64> = up_for;
            let (life, actions) =
                life.resume(Instant::now(), was, again, 3, up_for.map(Duration::from_secs));
            (life.state(), actions)
        };
        assert_eq!(resume(State::Running, false, Some(9)), (State::Starting, vec![]));
        assert_eq!(resume(State::Starting, false, Some(0)), (State::Starting, vec![]));
        assert_eq!(resume(State::Running, false, None), (State::BackingOff, vec![]));
        assert_eq!(
            resume(State::Stopping, false, Some(9)),
            (State::Stopping, vec![Action::PressPower])
        );
        assert_eq!(resume(State::Stopping, false, None), (State::Stopped, vec![]));
        assert_eq!(resume(State::Stopping, true, None), (State::Starting, vec![Action::Spawn]));
        assert_eq!(resume(State::BackingOff, false, None), (State::BackingOff, vec![]));
        assert_eq!(resume(State::Failed, false, None), (State::Failed, vec![]));
        // A vessel that lives although nothing says that it was started: it is taken as it is.
        assert_eq!(resume(State::Stopped, false, Some(1)), (State::Starting, vec![]));
    }

    #[test]
    fn wait_statuses_are_told_apart() {
        assert_eq!(Ending::from_wait_status(0), Ending::Code(0));
        assert_eq!(Ending::from_wait_status(0x0100), Ending::Code(1));
        assert_eq!(Ending::from_wait_status(11), Ending::Signal(11));
        assert_eq!(Ending::from_wait_status(0x137f), Ending::Unknown);
    }

    fn inputs() -> impl Strategy<Value = (Input, u64)> {
        let input = prop_oneof![
            Just(Input::Start),
            any::<bool>().prop_map(|force| Input::Stop { force }),
            Just(Input::Restart),
            Just(Input::SpawnFailed),
            Just(Input::Up),
            Just(Input::Ended(Ending::Code(0))),
            Just(CRASH),
        ];
        (input, 0u64..100)
    }

    proptest! {
        #[test]
        fn a_vessel_is_started_only_when_none_lives_and_none_hangs_for_ever(
            steps in proptest::collection::vec(inputs(), 0..60)
        ) {
            let mut scene = Scene::new(Restart::Always);
            let mut lives = false;
            for (input, seconds) in steps {
                // The driver says that a vessel ended only when one lived.
                if matches!(input, Input::Up | Input::Ended(_) | Input::SpawnFailed) && !lives {
                    continue;
                }
                if matches!(input, Input::Ended(_))
                    || (input == Input::SpawnFailed && scene.life.state() == State::Starting)
                {
                    lives = false;
                }
                let mut actions = scene.life.handle(scene.now, input).unwrap_or_default();
                scene.now += Duration::from_secs(seconds);
                actions.extend(scene.life.tick(scene.now));
                for action in actions {
                    if action == Action::Spawn {
                        prop_assert!(!lives, "a second vessel");
                        lives = true;
                    } else {
                        prop_assert!(lives, "{action:?} to no vessel");
                    }
                }
                let state = scene.life.state();
                prop_assert_eq!(state.has_vessel(), lives);
                let waits = matches!(state, State::Starting | State::Stopping | State::BackingOff);
                prop_assert_eq!(scene.life.deadline().is_some(), waits);
            }
        }
    }
}

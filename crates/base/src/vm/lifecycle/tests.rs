//! Lives of VMs, with a clock that the tests move.

use super::*;
use proptest::prelude::*;

const STOP: Input = Input::Stop { force: false };
const RESTART: Input = Input::Restart { force: false };
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
    waiting().then(RESTART).is(State::Starting, &[Action::Spawn]);
    waiting().then(STOP).is(State::Stopped, &[]).after(100).is(State::Stopped, &[]);
}

#[test]
fn a_restart_starts_again_whatever_the_policy_unless_a_stop_follows() {
    let stopping =
        || Scene::running(Restart::Never).then(RESTART).is(State::Stopping, &[Action::PressPower]);
    stopping().then(CRASH).is(State::Starting, &[Action::Spawn]);
    stopping().then(STOP).then(CRASH).is(State::Stopped, &[]);
    Scene::new(Restart::Never).then(RESTART).is(State::Starting, &[Action::Spawn]);
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
    assert_eq!(resume(State::Running, false, Some(9)), (State::Running, vec![]));
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

fn inputs() -> impl Strategy<Value = (Input, u64)> {
    let input = prop_oneof![
        Just(Input::Start),
        any::<bool>().prop_map(|force| Input::Stop { force }),
        any::<bool>().prop_map(|force| Input::Restart { force }),
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

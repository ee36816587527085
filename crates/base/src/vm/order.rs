//! Who is started when, at `up`: a machine of states without clock or VM.
//!
//! # Theory of operation
//! ```text
//! waiting ---- all that it is after run, or are not coming ----> asked ----> (forgotten)
//!    '-------- a minute has passed since the last of these was asked ---'
//! ```
//! [`StartOrder::next`] is told how the others stand and gives those whose turn it is; it is called
//! whenever something happened, and now and then. Whoever is being asked has a vessel a moment later,
//! not at once: until that is seen ([`StartOrder::heard`]) it counts as coming.
//!
//! This is an order, not a dependency: one that cannot run, or does not, holds up nobody for long.
//!
//! # Invariants
//! - A VM is given at most once.
//! - Without cycles, every VM is given after a finite time whatever the others do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a VM waits at most, once all that it is after have been asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a VM stands that others may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its process answers, and its guest's driver has started its card.
    Runs,
    /// It is on its way there.
    Coming,
    /// It is not: it has stopped, failed, or was never started.
    Rests,
}

/// A VM whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Go {
    /// Its name.
    pub vm: String,
    /// Those that it is after and that do not run yet, and were waited for too long.
    pub without: Vec<String>,
}

#[derive(Clone, Debug)]
struct Waiting {
    after: Vec<String>,
    /// Since when all that it is after have been asked.
    since: Option<Instant>,
}

/// The VMs that are still to be started.
#[derive(Clone, Debug, Default)]
pub struct StartOrder {
    waiting: BTreeMap<String, Waiting>,
    /// Asked to start, and not seen to do anything yet.
    asked: BTreeSet<String>,
}

impl StartOrder {
    /// These VMs, each with those that run before it.
    pub fn new(vms: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let waiting = vms.into_iter().map(|(vm, after)| (vm, Waiting { after, since: None }));
        Self { waiting: waiting.collect(), asked: BTreeSet::new() }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those whose turn it is now. `standing` says how each VM stands.
    pub fn next(&mut self, now: Instant, standing: impl Fn(&str) -> Standing) -> Vec<Go> {
        let mut go = Vec::new();
        let names: Vec<String> = self.waiting.keys().cloned().collect();
        for vm in names {
            let Some(Waiting { after, .. }) = self.waiting.get(&vm) else { continue };
            let all_asked = !after.iter().any(|other| self.waiting.contains_key(other));
            let without = self.waits(after, &standing);
            let Some(its) = self.waiting.get_mut(&vm) else { continue };
            if !all_asked {
                continue;
            }
            let since = *its.since.get_or_insert(now);
            if without.is_empty() || now.saturating_duration_since(since) >= PATIENCE {
                self.waiting.remove(&vm);
                self.asked.insert(vm.clone());
                go.push(Go { vm, without });
            }
        }
        go
    }

    /// Of these, those that are waited for.
    fn waits(&self, after: &[String], standing: impl Fn(&str) -> Standing) -> Vec<String> {
        let coming = |other: &&String| {
            let soon = self.waiting.contains_key(*other) || self.asked.contains(*other);
            match standing(other) {
                Standing::Runs => false,
                Standing::Coming => true,
                Standing::Rests => soon,
            }
        };
        after.iter().filter(coming).cloned().collect()
    }

    /// Whom a VM waits for; `None` if it does not wait to be started.
    pub fn waits_for(&self, vm: &str, standing: impl Fn(&str) -> Standing) -> Option<Vec<String>> {
        self.waiting.get(vm).map(|its| self.waits(&its.after, standing))
    }

    /// Something has happened to a VM: how it stands says the truth again.
    pub fn heard(&mut self, vm: &str) {
        self.asked.remove(vm);
    }

    /// Somebody has decided about a VM: it is not to be started any more. Says whether it was.
    pub fn forget(&mut self, vm: &str) -> bool {
        self.waiting.remove(vm).is_some()
    }

    /// Nobody is to be started any more; gives those that were.
    pub fn forget_all(&mut self) -> Vec<String> {
        std::mem::take(self).waiting.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Coming, Rests, Runs};

    /// An order, a clock, and how the VMs stand.
    struct Scene {
        order: StartOrder,
        now: Instant,
        standings: BTreeMap<String, Standing>,
    }

    impl Scene {
        fn new(vms: &[(&str, &[&str])]) -> Self {
            let owned = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect();
            let vms = vms.iter().map(|(vm, after)| ((*vm).to_owned(), owned(after)));
            let order = StartOrder::new(vms);
            Self { order, now: Instant::now(), standings: BTreeMap::new() }
        }

        fn stands(&mut self, vm: &str, standing: Standing) -> &mut Self {
            self.standings.insert(vm.to_owned(), standing);
            self.order.heard(vm);
            self
        }

        fn after(&mut self, seconds: u64) -> &mut Self {
            self.now += Duration::from_secs(seconds);
            self
        }

        /// Each that goes, with `!` and whom it goes without.
        fn next(&mut self) -> Vec<String> {
            let standing = |vm: &str| self.standings.get(vm).copied().unwrap_or(Rests);
            let go = self.order.next(self.now, standing);
            go.into_iter().map(|go| [vec![go.vm], go.without].concat().join("!")).collect()
        }
    }

    #[test]
    fn without_an_order_all_go_at_once_and_only_once() {
        let mut scene = Scene::new(&[("a", &[]), ("b", &[])]);
        assert_eq!(scene.next(), ["a", "b"]);
        assert!(scene.order.is_empty());
        assert_eq!(scene.next(), [""; 0]);
    }

    #[test]
    fn each_waits_until_those_before_it_run() {
        let chain: &[(&str, &[&str])] = &[("db", &[]), ("app", &["db"]), ("web", &["app", "db"])];
        let mut scene = Scene::new(chain);
        assert_eq!(scene.next(), ["db"]);
        // Asked, and its driver has not heard it yet: it counts as coming.
        assert_eq!(scene.next(), [""; 0]);
        assert_eq!(scene.stands("db", Coming).next(), [""; 0]);
        assert_eq!(scene.stands("db", Runs).next(), ["app"]);
        assert_eq!(scene.next(), [""; 0]);
        assert_eq!(scene.stands("app", Runs).next(), ["web"]);
    }

    #[test]
    fn whoever_is_not_coming_is_not_waited_for() {
        for (name, how, expected) in [
            ("cannot be started", Rests, vec!["app"]),
            ("is still on its way", Coming, vec![]),
            ("runs", Runs, vec!["app"]),
        ] {
            let mut scene = Scene::new(&[("db", &[]), ("app", &["db"])]);
            assert_eq!(scene.next(), ["db"]);
            assert_eq!(scene.stands("db", how).next(), expected, "{name}");
        }
        // One that `up` does not start, or that there is not.
        assert_eq!(Scene::new(&[("app", &["db"])]).next(), ["app"]);
        // Somebody else's, whose front end is not there yet.
        assert_eq!(Scene::new(&[("app", &["db"])]).stands("db", Coming).next(), [""; 0]);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_a_minute_after_it_was_asked() {
        let mut scene = Scene::new(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
        assert_eq!(scene.next(), ["a"]);
        assert_eq!(scene.stands("a", Coming).after(59).next(), [""; 0]);
        assert_eq!(scene.after(1).next(), ["b!a"]);
        // The clock of the third starts only now.
        assert_eq!(scene.stands("b", Coming).next(), [""; 0]);
        assert_eq!(scene.after(59).next(), [""; 0]);
        assert_eq!(scene.after(1).next(), ["c!b"]);
    }

    #[test]
    fn who_waits_for_whom_can_be_seen_and_a_person_can_decide_otherwise() {
        let mut scene = Scene::new(&[("db", &[]), ("app", &["db", "cache"]), ("web", &["app"])]);
        let rests = |_: &str| Rests;
        assert_eq!(scene.next(), ["db"]);
        assert_eq!(scene.order.waits_for("app", rests).unwrap(), ["db"]);
        assert_eq!(scene.order.waits_for("web", rests).unwrap(), ["app"]);
        assert_eq!(scene.order.waits_for("db", rests), None);
        assert!(scene.order.forget("app") && !scene.order.forget("app"));
        // It was not to be started: nobody waits for it.
        assert_eq!(scene.next(), ["web"]);
    }

    #[test]
    fn when_all_ends_nobody_is_started_any_more() {
        let mut scene = Scene::new(&[("db", &[]), ("app", &["db"]), ("web", &["app"])]);
        assert_eq!(scene.next(), ["db"]);
        assert_eq!(scene.order.forget_all(), ["app", "web"]);
        assert_eq!(scene.stands("db", Runs).next(), [""; 0]);
    }
}

//! Releases: what the holder can start a base of, and which of them has shown that it works.
//!
//! # Theory of operation
//! A release is a program and the words that it is told on its command line; which configuration
//! they name is no business of the holder's. The program is held open, so that whoever replaces its
//! file changes nothing here.
//!
//! ```text
//!            switch                 serves for 10 ticks
//!  good ---------------> on trial ------------------------> good
//!    ^                      |
//!    '----------------------' dies before it ever served, or twice of its own making
//! ```
//! A death from outside says nothing about a release.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::process::Program;

/// Ticks a base must serve for its release to count as one that works.
const WORKS: u32 = 10;
/// Deaths of its own making within that time that end a trial.
const DEATHS: u32 = 2;

/// Something to start a base of.
#[derive(Clone)]
pub struct Release {
    /// The program; `None`: the one that the holder was told of when it was started.
    pub binary: Option<Arc<OwnedFd>>,
    /// What it is told besides what every base is told.
    pub words: Vec<OsString>,
}

impl Release {
    /// How to start it, where `base` is how every base is started. Good for as long as this
    /// release lives.
    pub fn program(&self, base: &Program) -> Program {
        let mut program = base.clone();
        if let Some(binary) = &self.binary {
            // The number is the same in the child, until it has become this program.
            program.path = PathBuf::from(format!("/proc/self/fd/{}", binary.as_raw_fd()));
        }
        program.arguments.extend(self.words.iter().cloned());
        program
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Release").field("words", &self.words).finish_non_exhaustive()
    }
}

/// What to start after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same release.
    Same,
    /// The last good one: this one does not work.
    Back,
}

/// The release that runs, and the last good one.
#[derive(Debug)]
pub struct Releases {
    running: Release,
    good: Release,
    trial: Option<Trial>,
}

/// How the release that runs fares until it is good.
#[derive(Clone, Copy, Debug, Default)]
struct Trial {
    served: bool,
    deaths: u32,
}

impl Releases {
    /// The first, which counts as good: there is no other.
    pub fn new(first: Release) -> Self {
        Self { running: first.clone(), good: first, trial: None }
    }

    /// What a base is to be started of.
    pub fn running(&self) -> &Release {
        &self.running
    }

    /// A base of another release takes over.
    pub fn switch_to(&mut self, release: Release) {
        self.running = release;
        self.trial = Some(Trial::default());
    }

    /// The base serves, and has for so many ticks.
    pub fn serves(&mut self, ticks: u32) {
        if let Some(trial) = &mut self.trial {
            trial.served = true;
            if ticks >= WORKS {
                self.trial = None;
                self.good = self.running.clone();
            }
        }
    }

    /// A base of the release that runs died, perhaps of its own making; it had served for so many
    /// ticks, or never.
    pub fn died(&mut self, own_making: bool, served: Option<u32>) -> Next {
        let Some(trial) = &mut self.trial else { return Next::Same };
        if own_making && served.is_none_or(|ticks| ticks < WORKS) {
            trial.deaths = trial.deaths.saturating_add(1);
        }
        if trial.served && trial.deaths < DEATHS {
            return Next::Same;
        }
        self.running = self.good.clone();
        self.trial = None;
        Next::Back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(word: &str) -> Release {
        Release { binary: None, words: vec![word.into()] }
    }

    fn running(releases: &Releases) -> &str {
        releases.running().words[0].to_str().unwrap()
    }

    #[test]
    fn a_release_that_never_served_is_left_at_once_whatever_killed_it() {
        let mut releases = Releases::new(release("a"));
        releases.switch_to(release("b"));
        assert_eq!(running(&releases), "b");
        assert_eq!(releases.died(false, None), Next::Back);
        assert_eq!(running(&releases), "a");
        assert_eq!(releases.died(true, None), Next::Same, "there is nothing to go back to");
    }

    #[test]
    fn two_deaths_of_its_own_making_end_a_trial_and_kills_from_outside_do_not() {
        let mut releases = Releases::new(release("a"));
        releases.switch_to(release("b"));
        releases.serves(0);
        for _ in 0..100 {
            assert_eq!(releases.died(false, Some(0)), Next::Same);
        }
        assert_eq!(releases.died(true, Some(WORKS - 1)), Next::Same);
        assert_eq!(releases.died(true, None), Next::Back, "dying while adopting counts likewise");
        assert_eq!(running(&releases), "a");
    }

    #[test]
    fn a_release_that_has_served_for_a_while_is_good_and_the_one_to_go_back_to() {
        let mut releases = Releases::new(release("a"));
        releases.switch_to(release("b"));
        releases.serves(0);
        assert_eq!(releases.died(true, Some(1)), Next::Same);
        releases.serves(WORKS);
        for _ in 0..3 {
            assert_eq!(releases.died(true, Some(0)), Next::Same);
        }
        releases.switch_to(release("c"));
        assert_eq!(releases.died(true, None), Next::Back);
        assert_eq!(running(&releases), "b");
    }

    #[test]
    fn a_release_on_trial_that_is_replaced_is_not_gone_back_to() {
        let mut releases = Releases::new(release("a"));
        releases.switch_to(release("b"));
        releases.serves(WORKS - 1);
        releases.switch_to(release("c"));
        assert_eq!(releases.died(false, None), Next::Back);
        assert_eq!(running(&releases), "a");
    }
}

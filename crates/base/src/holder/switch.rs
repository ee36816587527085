//! The planned switch: the next base is started beside the one that serves, and takes its place.
//!
//! # Theory of operation
//! ```text
//!   running base          holder                    candidate
//!        |  switch WORDS     |                           |
//!        |------------------>| starts it --- prepare --->|
//!        |  (serves on)      |                           | reads its configuration, looks around
//!        |                   |<-------- prepared --------| and at what is kept: duplicates
//!        |<----- yield ------|                           |
//!        | comes to rest     |                           |
//!        |----- yielded ---->|                           |
//!      ends                  |-- hello, pieces, complete>|  nobody serves
//!                            |<---------- ready ---------|  it serves
//! ```
//! Until the running base is told to yield, whatever goes wrong with the candidate costs nothing:
//! the base is told why, and goes on. After that there is no way back to the same process: a base of
//! the last good release takes over from where it rested.
//!
//! A base that dies after it was told to yield has as good as yielded: the candidate takes over from
//! a dead predecessor, as every successor can.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::child::BaseChild;
use super::protocol::{Arrival, Death, Ended, ToBase, ToHolder};
use super::release::Release;
use super::{Holder, Stopping, say};

/// A base that is to take over from one that serves.
pub struct Candidate {
    /// Its process.
    pub child: BaseChild,
    release: Release,
    layout: u32,
    ticks: u32,
    /// It is prepared, and the running base was told to yield.
    chosen: bool,
    /// Why it cannot take over, as it says itself.
    why: Option<String>,
}

/// A base that has nothing to do any more but to end.
pub struct Leaving {
    /// Its process.
    pub child: BaseChild,
    ticks: u32,
}

impl Leaving {
    /// This one, from now on.
    pub fn of(child: BaseChild) -> Self {
        Self { child, ticks: 0 }
    }
}

impl Holder<'_> {
    /// The running base wants another in its place.
    pub(super) fn switch(&mut self, layout: u32, words: Vec<OsString>, binary: Option<OwnedFd>) {
        let refused = if self.stopping != Stopping::No {
            Some("the instance is ending")
        } else if self.candidate.is_some() {
            Some("another switch is under way")
        } else {
            None
        };
        if let Some(why) = refused {
            self.not_switched(why);
            return;
        }
        let binary = binary.map(Arc::new).or_else(|| self.releases.running().binary.clone());
        let release = Release { binary, words };
        match BaseChild::start(&release.program(&self.options.base)) {
            Ok(mut child) => {
                child.prepare();
                let (ticks, chosen, why) = (0, false, None);
                self.candidate = Some(Candidate { child, release, layout, ticks, chosen, why });
            }
            Err(error) => self.not_switched(&format!("it cannot be started: {error}")),
        }
    }

    fn not_switched(&mut self, why: &str) {
        if let Some(base) = &mut self.base {
            base.say(&ToBase::NotSwitched(why.to_owned()));
        }
    }

    /// Hears what the candidate has to say.
    pub(super) fn read_candidate(&mut self) {
        while let Some(candidate) = &mut self.candidate {
            let Some((message, _)) = candidate.child.receive() else { return };
            match message {
                ToHolder::Prepared { oldest, newest } => {
                    let layout = candidate.layout;
                    if (oldest..=newest).contains(&layout) {
                        if !std::mem::replace(&mut candidate.chosen, true)
                            && let Some(base) = &mut self.base
                        {
                            base.say(&ToBase::Yield);
                        }
                    } else {
                        self.call_off(&format!(
                            "it reads the layouts {oldest} to {newest} of the state memory, and \
                             this instance's has layout {layout}"
                        ));
                    }
                }
                ToHolder::Cannot(why) => candidate.why = Some(why),
                // It has no other business yet.
                _ => {}
            }
        }
    }

    /// The candidate is not wanted, unless the running base is on its way out already.
    pub(super) fn call_off(&mut self, why: &str) {
        if let Some(mut candidate) = self.candidate.take_if(|c| !c.chosen) {
            candidate.child.kill();
            self.leaving.push(Leaving::of(candidate.child));
            self.not_switched(why);
        }
    }

    /// The candidate has ended.
    pub(super) fn candidate_died(&mut self, ended: Ended) {
        let Some(candidate) = self.candidate.take() else { return };
        let why = candidate.why.unwrap_or_else(|| match candidate.child.killed {
            true => "it did not get ready, and was killed".to_owned(),
            false => format!("it {ended} before it was ready to take over"),
        });
        say(&format!("the next base (process {}) cannot take over: {why}", candidate.child.pid));
        if !candidate.chosen {
            self.not_switched(&why);
        }
        // Otherwise the running base has been told to yield: when it has, `yielded` finds nobody.
    }

    /// The running base rests since `at`: whoever is there to take over does.
    pub(super) fn yielded(&mut self, at: u64) {
        let Some(base) = self.base.take() else { return };
        self.leaving.push(Leaving::of(base));
        self.predecessor = None;
        match self.candidate.take() {
            Some(candidate) => self.take_over(candidate, at),
            None => {
                say("the next base is gone: one of the release before takes over");
                (self.arrival, self.wait) = (Arrival::Back, 0);
            }
        }
    }

    fn take_over(&mut self, candidate: Candidate, at: u64) {
        self.releases.switch_to(candidate.release);
        self.arrival = Arrival::Switch;
        self.hand_over(candidate.child, at);
    }

    /// The running base died. Whether the candidate takes over.
    pub(super) fn replaced_by_candidate(&mut self, death: Death) -> bool {
        if self.stopping == Stopping::No
            && let Some(candidate) = self.candidate.take_if(|c| c.chosen)
        {
            self.predecessor = Some(death);
            self.take_over(candidate, 0);
            return true;
        }
        // One that is not prepared would keep the VMs waiting.
        if let Some(mut candidate) = self.candidate.take() {
            candidate.child.kill();
            self.leaving.push(Leaving::of(candidate.child));
        }
        false
    }

    /// Looks after bases that are not this process's children.
    pub(super) fn look_for_strangers(&mut self) {
        self.leaving.retain(|leaving| !leaving.child.ended_elsewhere());
        if self.base.as_ref().is_some_and(BaseChild::ended_elsewhere) {
            self.read_base(usize::MAX);
            if let Some(base) = self.base.take_if(|base| base.ended_elsewhere()) {
                self.base_died(&base, Ended::Signaled(0));
            }
        }
    }

    pub(super) fn tick_switch(&mut self) {
        if let Some(candidate) = &mut self.candidate {
            candidate.ticks = candidate.ticks.saturating_add(1);
            if candidate.ticks > self.options.prepare_ticks && !candidate.chosen {
                candidate.child.killed = candidate.child.kill();
            }
        }
        for leaving in &mut self.leaving {
            leaving.ticks = leaving.ticks.saturating_add(1);
            if leaving.ticks > self.options.force_ticks {
                leaving.child.kill();
            }
        }
    }
}

//! Contenders by turns: who is fast, on a machine that is not always equally fast.
//!
//! # Theory of operation
//! ```text
//! round 1   A A A A  B B B B  C C C C   A A A A  B B B B  ...    each letter a slice of 50 ms,
//! round 2   B B B B  C C C C  A A A A   B B B B  C C C C  ...    the others stopped
//! ```
//! A round's value of a contender is the median of its slices that count; what is compared later are
//! values of the same round. The machine's speed moves by half within minutes, and two cores may be
//! far from each other in one second and near in the next (on a virtual machine they move): so the
//! contenders have several turns a round, a fraction of a second each, and figures of different rounds
//! say nothing about each other.

use std::time::Duration;

use lab::{Result, interrupt};

use crate::contender::{Kernel, Switch};
use crate::generator::{Generator, Outward};
use crate::progress::Progress;
use crate::results::{Measured, median};
use crate::slice::{Slice, computed};

/// One slice.
const SLICE: Duration = Duration::from_millis(50);
/// Slices after a contender woke that are not looked at.
const WARM: usize = 1;
/// Slices in one turn, those aside.
const TURN: usize = 4;
/// What is still under way at the end of a turn comes within this.
const DRAIN: Duration = Duration::from_millis(5);

/// How long a measurement takes.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds.
    pub rounds: usize,
    /// Slices of each contender in a round, in turns of some.
    pub slices: usize,
    /// In each round, datagrams that are sent after a long silence.
    pub silences: usize,
}

/// A contender, ready to be raced.
pub enum Lane<'a> {
    /// A switch between two guests.
    Between {
        /// The name in tables.
        name: &'static str,
        /// The switch.
        switch: &'a dyn Switch,
        /// Between its guests.
        generator: Box<Generator<'a>>,
    },
    /// A switch from a guest to a card.
    Out(&'a dyn Switch, Box<Outward<'a>>),
    /// Two of the kernel's devices.
    Kernel(Box<Kernel>),
}

impl<'a> Lane<'a> {
    /// A switch between two guests.
    pub fn between(switch: &'a dyn Switch, generator: Generator<'a>) -> Self {
        Self::named(switch.name(), switch, generator)
    }

    /// The same under a name of its own: where one takes part in two ways.
    pub fn named(name: &'static str, switch: &'a dyn Switch, generator: Generator<'a>) -> Self {
        Self::Between { name, switch, generator: Box::new(generator) }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Between { name, .. } => name,
            Self::Out(switch, _) => switch.name(),
            Self::Kernel(kernel) => kernel.name(),
        }
    }

    /// What is stopped between two turns.
    fn switch(&self) -> Option<&'a dyn Switch> {
        match self {
            Self::Between { switch, .. } | Self::Out(switch, _) => Some(*switch),
            Self::Kernel(_) => None,
        }
    }

    fn flood(&mut self) -> Result<Slice> {
        match self {
            Self::Between { generator, .. } => Ok(generator.flood(SLICE)),
            Self::Out(_, outward) => outward.flood(SLICE),
            Self::Kernel(kernel) => kernel.flood(SLICE),
        }
    }

    /// Until nothing comes any more.
    fn drain(&mut self) {
        match self {
            Self::Between { generator, .. } => {
                generator.drain(DRAIN);
            }
            Self::Out(_, outward) => outward.drain(DRAIN),
            Self::Kernel(_) => {}
        }
    }

    /// One turn: some of a round's slices.
    fn turn(&mut self, slices: usize) -> Result<Vec<Slice>> {
        if let Some(switch) = self.switch() {
            switch.resume()?;
        }
        let seen = (0..WARM + slices).map(|_| {
            interrupt::check()?;
            let before = computed();
            let mut seen = self.flood()?;
            seen.away = seen.time.saturating_sub(computed().saturating_sub(before));
            Ok(seen)
        });
        let seen: Vec<Slice> = seen.collect::<Result<_>>()?;
        self.drain();
        if let Some(switch) = self.switch() {
            switch.pause()?;
        }
        Ok(seen[WARM..].to_vec())
    }
}

/// Races the lanes. `value` is what a slice is worth, in `unit`.
pub fn race(
    case: &str,
    lanes: &mut [Lane<'_>],
    effort: Effort,
    unit: &str,
    value: impl Fn(&Slice) -> f64,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    let mut rounds = vec![Vec::new(); lanes.len()];
    let mut discarded = vec![[0, 0]; lanes.len()];
    for round in 0..effort.rounds {
        let mut seen = vec![Vec::new(); lanes.len()];
        let turns = lanes.len() * effort.slices.div_ceil(TURN);
        for turn in 0..turns {
            let which = (round + turn) % lanes.len();
            let name = lanes[which].name();
            progress.say(format!("{case}: round {} of {}, {name}", round + 1, effort.rounds));
            seen[which].extend(lanes[which].turn(TURN)?);
        }
        for ((which, lane), seen) in lanes.iter().enumerate().zip(seen) {
            let values: Vec<f64> = seen.iter().filter(|s| s.counts()).map(&value).collect();
            discarded[which][0] += seen.len() - values.len();
            discarded[which][1] += seen.len();
            rounds[which].push(median(&values));
            if values.is_empty() {
                let (name, last) = (lane.name(), seen.last().copied().unwrap_or_default());
                progress.note(format!("{case}: no slice of {name} counts; the last was {last:?}"));
            }
        }
    }
    let sums = lanes.iter().zip(rounds).zip(discarded).map(|((lane, rounds), discarded)| {
        Measured { discarded, ..Measured::new(case, lane.name(), unit, rounds) }
    });
    Ok(sums.collect())
}

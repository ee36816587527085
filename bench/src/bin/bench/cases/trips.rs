//! How long a datagram takes there and back while all are awake: this thread looks all the time, and
//! the switches poll.
//!
//! In close succession, and a millisecond after the last; of each round the median, and what 99 of
//! 100 do not exceed.

use std::time::{Duration, Instant};

use bench::frames::{Ends, Kind};
use lab::{LabError, Result, interrupt};

use crate::contender::{Between, MACS, Switch, ends};
use crate::generator::{Generator, Template};
use crate::progress::Progress;
use crate::race::Effort;
use crate::results::{Measured, median, percentile};
use crate::stage::{SHORT, Stage, attach, detach};

/// Round trips in a round.
const TRIPS: usize = 300;
/// Between two round trips, long enough for whoever sleeps to fall asleep.
const REST: Duration = Duration::from_millis(1);

/// A switch, and a generator there and one back.
type Pair<'a> = (&'a dyn Switch, [Generator<'a>; 2]);

/// The same datagram, there and back.
pub fn templates() -> [Template; 2] {
    let there = ends();
    let [from, to] = there.addresses;
    let back = Ends { macs: [MACS[1], there.macs[1]], addresses: [to, from] };
    [there, back].map(|ends| Template::new(Kind::Udp, ends, SHORT.frame))
}

/// Round trips through ipvisor and the switches.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { ours, io, ovs, effort, progress, .. } = stage;
    let mut switches: [&mut dyn Between; 3] = [ours, io, ovs];
    let attached = switches.iter_mut().map(|switch| attach(&mut **switch, &SHORT));
    let guests: Vec<_> = attached.collect::<Result<_>>()?;
    let [there, back] = &templates();
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (switch, [a, b]) in switches.iter().zip(&guests) {
        pairs.push((&**switch, [Generator::new(a, b, there), Generator::new(b, a, back)]));
    }
    let mut measured = rounds("round trip after a rest", REST, &mut pairs, *effort, progress)?;
    measured.extend(rounds("round trip", Duration::ZERO, &mut pairs, *effort, progress)?);
    drop(pairs);
    let switches: Vec<&dyn Switch> = switches.iter().map(|s| &**s as &dyn Switch).collect();
    detach(&switches, guests)?;
    Ok(measured)
}

/// Round trips in microseconds: medians of all, then what 99 of 100 do not exceed.
fn rounds(
    case: &str,
    rest: Duration,
    pairs: &mut [Pair<'_>],
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    let (mut typical, mut slow) = (vec![Vec::new(); pairs.len()], vec![Vec::new(); pairs.len()]);
    for round in 0..effort.rounds {
        for turn in 0..pairs.len() {
            interrupt::check()?;
            let which = (round + turn) % pairs.len();
            let (switch, [there, back]) = &mut pairs[which];
            let name = switch.name();
            progress.say(format!("{case}: round {} of {}, {name}", round + 1, effort.rounds));
            switch.resume()?;
            let mut times = Vec::with_capacity(TRIPS);
            for _ in 0..TRIPS {
                let until = Instant::now() + rest;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                let lost = || LabError::Unexpected(format!("{case}: {name} loses datagrams"));
                times.push(there.trip(back).ok_or_else(lost)?.as_secs_f64() * 1e6);
            }
            switch.pause()?;
            typical[which].push(median(&times));
            slow[which].push(percentile(&times, 99));
        }
    }
    let row = |case: &str| {
        let case = case.to_owned();
        move |((switch, _), rounds): (&Pair<'_>, Vec<f64>)| {
            Measured::new(&case, switch.name(), "µs", rounds)
        }
    };
    let medians = pairs.iter().zip(typical).map(row(case));
    let medians: Vec<_> = medians.collect();
    let others = pairs.iter().zip(slow).map(row(&format!("{case}, p99")));
    Ok(medians.into_iter().chain(others).collect())
}

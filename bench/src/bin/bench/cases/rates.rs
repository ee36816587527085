//! Processor time at low rates.
//!
//! Base and holder together. The receiver wants to be interrupted, but nobody sleeps there: the kernel
//! has no thread to wake.

use std::time::Duration;

use bench::frames::Kind;
use lab::instance::processor_time;
use lab::{Result, interrupt};

use crate::contender::{Switch, ends};
use crate::generator::{Generator, Template};
use crate::results::Measured;
use crate::stage::{SHORT, Stage, attach, detach};

/// Datagrams in a second, and the name of the case.
pub const RATES: [(u32, &str); 4] =
    [(100, "100/s"), (1000, "1,000/s"), (10_000, "10,000/s"), (100_000, "100,000/s")];
/// How long each rate is kept up.
const PACED: Duration = Duration::from_secs(1);

/// Of a core, in hundredths, what the base and its holder use at each rate.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { ours, effort, progress, .. } = stage;
    let guests = attach(ours, &SHORT)?;
    guests[1].want_interrupts();
    let template = Template::new(Kind::Udp, ends(), SHORT.frame);
    let mut generator = Generator::new(&guests[0], &guests[1], &template);
    ours.resume()?;
    let processes = [ours.instance.base_process()?, ours.instance.holder_process()?];
    let used = || -> Result<Duration> { processes.iter().map(|p| processor_time(*p)).sum() };
    let mut rounds = vec![Vec::new(); RATES.len()];
    for round in 0..effort.rounds {
        for ((rate, case), rounds) in RATES.iter().zip(&mut rounds) {
            interrupt::check()?;
            progress.say(format!("{case}: round {} of {}", round + 1, effort.rounds));
            let before = used()?;
            let seen = generator.pace(*rate, PACED);
            let used = used()?.saturating_sub(before);
            // At a tenth less the machine was busy with something else.
            let sent = f64::from(*rate) * seen.time.as_secs_f64();
            if seen.wrong > 0 || (seen.received as f64) < sent * 0.9 {
                progress.note(format!("{case}: {seen:?} does not count"));
                rounds.push(f64::NAN);
            } else {
                rounds.push(100.0 * used.as_secs_f64() / seen.time.as_secs_f64());
            }
        }
    }
    ours.pause()?;
    detach(&[&*ours], guests)?;
    let sums = RATES.iter().zip(rounds);
    Ok(sums.map(|((_, case), r)| Measured::new(case, ours.name(), "% of a core", r)).collect())
}

//! What counts when there is little to do: processor time at low rates, and how long a datagram
//! takes there and back.

use std::time::{Duration, Instant};

use lab::instance::processor_time;
use lab::{LabError, Result, interrupt};

use crate::contender::{Ours, Switch};
use crate::generator::Generator;
use crate::progress::Progress;
use crate::race::Effort;
use crate::results::{Measured, median};

/// Datagrams in a second, and the name of the case.
pub const RATES: [(u32, &str); 4] =
    [(100, "100/s"), (1000, "1,000/s"), (10_000, "10,000/s"), (100_000, "100,000/s")];
/// How long each rate is kept up.
const PACED: Duration = Duration::from_secs(1);
/// Round trips in a round.
const TRIPS: usize = 300;
/// Between two round trips, long enough for whoever sleeps to fall asleep.
const REST: Duration = Duration::from_millis(1);

/// Of a core, in hundredths, what the base and its holder use at each rate.
pub fn shares(
    ours: &Ours,
    generator: &mut Generator<'_>,
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Measured>> {
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
    let sums = RATES.iter().zip(rounds);
    Ok(sums.map(|((_, case), r)| Measured::new(case, ours.name(), "% of a core", r)).collect())
}

/// Round trips through several switches, in microseconds: when nothing else goes on, and in close
/// succession. Each has a generator there and one back.
pub fn trips(
    lanes: &mut [(&dyn Switch, [Generator<'_>; 2])],
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for (case, rest) in [("round trip after a rest", REST), ("round trip", Duration::ZERO)] {
        let mut rounds = vec![Vec::new(); lanes.len()];
        for round in 0..effort.rounds {
            for ((switch, [there, back]), rounds) in lanes.iter_mut().zip(&mut rounds) {
                interrupt::check()?;
                let name = switch.name();
                progress.say(format!("{case}: round {} of {}, {name}", round + 1, effort.rounds));
                switch.resume()?;
                let mut times = Vec::with_capacity(TRIPS);
                for _ in 0..TRIPS {
                    let until = Instant::now() + rest;
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                    let time = there.trip(back).ok_or_else(|| {
                        LabError::Unexpected(format!("{case}: {name} loses datagrams"))
                    })?;
                    times.push(time.as_secs_f64() * 1e6);
                }
                switch.pause()?;
                rounds.push(median(&times));
            }
        }
        for ((switch, _), rounds) in lanes.iter().zip(rounds) {
            measured.push(Measured::new(case, switch.name(), "µs", rounds));
        }
    }
    Ok(measured)
}

/// What a process has for itself, in MiB: its share of all its pages.
pub fn memory(process: i32) -> Result<f64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| LabError::Io { what: format!("read {path}"), source })?;
    pss(&text).ok_or_else(|| LabError::Unexpected(format!("no Pss in {path}: {text}")))
}

fn pss(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_sum() {
        let text = "55d0 rollup\nRss:  9000 kB\nPss:    2048 kB\nPss_Anon: 1024 kB\n";
        assert_eq!(pss(text), Some(2.0));
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }
}

//! What a campaign is judged by.
//!
//! # Theory of operation
//! ```text
//!  lost        none; but from the host one in each death's window (`campaign`)
//!  duplicated  a batch in each death
//!  gaps        p99 around kills less p99 without them; median of upgrades likewise
//!  load        what was due was sent, so that the bar is the one that was named
//!  kills       enough, and at every point
//!  told        nobody died, was suspected or damaged that was not to be (`told`)
//!  holdings    of base and holder do not grow
//!  counters    of drops are zero
//! ```
//! A lane may skip what a silence was too long for: that silence is judged as a gap. So a base that
//! does not keep up, and is never silent for long, is found by what was skipped.

use std::ops::Range;
use std::time::Duration;

use crate::base::Holdings;
use crate::load::{BEHIND, Outcome};
use crate::report::{Found, History, in_order, quantile};
use crate::stage::lane;

/// The longest p99 of the gaps.
const GAP: Duration = Duration::from_millis(50);
/// The longest median of the gaps of upgrades.
const UPGRADE_GAP: Duration = Duration::from_millis(10);
/// A machine whose p99 without kills is longer is noisy. More is not taken off the silences around
/// kills.
pub const NOISE: Duration = Duration::from_millis(10);
/// Spans without kills: so many that their p99 is not their longest.
pub const SPANS: usize = 200;
/// Datagrams that the base handles at once.
const BATCH: u64 = 64;
/// Of what was due, how much must have been sent.
const RATE: f64 = 0.95;
/// Kills that a campaign has, at least, if it is as long as [`KILLS_FROM`].
const KILLS: u64 = 100;
/// See [`KILLS`].
pub const KILLS_FROM: Duration = Duration::from_secs(60);
/// From this length on a campaign has killed at every point.
pub const WHOLE: Duration = Duration::from_secs(90);
/// Points at which a shorter one has.
const POINTS: usize = 12;
/// Octets of memory that measuring itself may move: an allocator's whim.
const MEMORY: u64 = 512 << 10;
/// Kills after which holdings are told apart.
const FEW: usize = 4;

impl Found {
    /// A quantile of the silences around kills, less the same of those without.
    pub fn gap(&self, share: f64, slack: u32) -> Duration {
        let around = self.kills.iter().map(|kill| kill.silence);
        gap(around, &self.quiet, share, slack)
    }

    /// The same for upgrades.
    pub fn upgrade_gap(&self, share: f64, slack: u32) -> Duration {
        let around = self.upgrades.iter().map(|(upgrade, _)| upgrade.silence);
        gap(around, &self.long_quiet, share, slack)
    }

    /// The windows of all deaths in which something from the host may have been lost.
    pub fn windows(&self) -> impl Iterator<Item = &Range<u64>> {
        self.kills.iter().flat_map(|kill| &kill.windows)
    }

    /// What was lost from the host between the TUN device's read and its mark: the named exception.
    pub fn explained(&self) -> Vec<u64> {
        let missing = self.total.lanes.get(lane::HOST_TO_B).map(|l| l.missing.as_slice());
        explained(missing.unwrap_or_default(), self.windows().cloned().collect())
    }

    /// Datagrams lost, without the named exception.
    pub fn lost(&self) -> usize {
        let all: usize = self.total.lanes.iter().map(|lane| lane.missing.len()).sum();
        all - self.explained().len()
    }

    /// Everything that is not as it must be. Times may be `slack` times as long as they should be.
    pub fn judge(&self, slack: u32) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        let long = self.kills.iter().map(|kill| kill.silence).filter(|silence| *silence > BEHIND);
        let silent: Duration = long.sum();
        for (number, lane) in self.total.lanes.iter().enumerate() {
            wrong.extend(self.losses(number, lane));
            wrong.extend(shortfall(lane, self.total.time, silent));
        }
        for kill in self.kills.iter().chain(self.upgrades.iter().map(|(upgrade, _)| upgrade)) {
            if let Some(most) = kill.twice.iter().max().filter(|&&n| n > BATCH * kill.deaths) {
                let way = self.way(&kill.way);
                wrong.push(format!("{way}: {most} came twice on one lane"));
            }
        }
        let most = GAP.saturating_mul(slack);
        if self.gap(0.99, slack) > most {
            wrong.push(format!("the p99 of the gaps is longer than {} ms", most.as_millis()));
        }
        let most = UPGRADE_GAP.saturating_mul(slack);
        if self.upgrade_gap(0.5, slack) > most {
            let most = most.as_millis();
            wrong.push(format!("the median gap of an upgrade is longer than {most} ms"));
        }
        if self.time >= KILLS_FROM && self.deaths() < KILLS {
            wrong.push(format!("{} kills, {KILLS} are needed", self.deaths()));
        }
        wrong.extend(self.points_left());
        for (name, history) in &self.histories {
            wrong.extend(not_flat(name, history));
        }
        wrong.extend(self.counters.iter().cloned());
        if self.station_drops > 0 {
            wrong.push(format!("the LAN's station could not take {} frames", self.station_drops));
        }
        wrong
    }

    fn losses(&self, number: usize, lane: &Outcome) -> Option<String> {
        let explained = if number == lane::HOST_TO_B { self.explained() } else { Vec::new() };
        let lost = || lane.missing.iter().filter(|number| !explained.contains(number));
        let shown: Vec<_> = lost().take(8).collect();
        let (name, count, sent) = (lane.name, lost().count(), lane.sent);
        (count > 0).then(|| format!("{name}: {count} of {sent} lost: {shown:?}"))
    }

    fn points_left(&self) -> Option<String> {
        let hit = |point: &usize| self.at(*point).next().is_some();
        let left: Vec<_> = self.possible.iter().copied().filter(|point| !hit(point)).collect();
        let killed = self.possible.len() - left.len();
        if self.time < WHOLE {
            let few = killed < POINTS;
            return few.then(|| format!("kills at {killed} points only, {POINTS} are needed"));
        }
        let names: Vec<_> = left.iter().map(|point| self.points[*point].0.as_str()).collect();
        let none = self.points.is_empty();
        (none || !names.is_empty()).then(|| format!("nobody was killed at {}", names.join(", ")))
    }
}

/// What a lane has not sent in this time though it was due, but for what it skipped in silences.
fn shortfall(lane: &Outcome, time: Duration, silent: Duration) -> Option<String> {
    let name = lane.name;
    let Some(rate) = lane.rate else {
        return (lane.sent == 0).then(|| format!("{name}: nothing was sent"));
    };
    let excused = lane.skipped.min((silent.as_secs_f64() * rate as f64) as u64);
    if lane.skipped > excused {
        let over = lane.skipped - excused;
        return Some(format!("{name}: {over} were not sent, because the base did not keep up"));
    }
    let due = rate as f64 * time.as_secs_f64() - excused as f64;
    let short = (lane.sent as f64) < due * RATE;
    short.then(|| format!("{name}: {} sent, {due:.0} were due", lane.sent))
}

/// A quantile of silences, less the same of those without kills, as far as that is no noise.
fn gap(
    around: impl Iterator<Item = Duration>,
    without: &[Duration],
    share: f64,
    slack: u32,
) -> Duration {
    let without = quantile(&in_order(without.iter().copied()), share);
    let without = without.min(NOISE.saturating_mul(slack));
    quantile(&in_order(around), share).saturating_sub(without)
}

/// Which of these numbers are explained by deaths: each explains one in its window.
fn explained(missing: &[u64], mut windows: Vec<Range<u64>>) -> Vec<u64> {
    // The window that ends first is of use to the fewest numbers that follow.
    windows.sort_unstable_by_key(|window| window.end);
    let mut explains = |number: &u64| {
        let window = windows.iter().position(|window| window.contains(number));
        window.map(|at| windows.remove(at)).is_some()
    };
    missing.iter().copied().filter(|number| explains(number)).collect()
}

/// What grew between the first half of a history and its second. Each value's median in a half counts:
/// what is held, or let go of, for a moment only is no growth.
fn not_flat(name: &str, history: &History) -> Vec<String> {
    if history.len() < FEW {
        return vec![format!("{name}: looked at {} times only", history.len())];
    }
    let (early, late) = history.split_at(history.len() / 2);
    let mut grew = Vec::new();
    let mut compare = |what: &str, slack: u64, value: &dyn Fn(&Holdings) -> u64| {
        let median = |part: &[Holdings]| {
            let mut values: Vec<_> = part.iter().map(value).collect();
            values.sort_unstable();
            values.get((values.len().max(1) - 1) / 2).copied().unwrap_or_default()
        };
        let (before, after) = (median(early), median(late));
        if after > before + slack {
            grew.push(format!("{name} grew from {before} to {after} {what}"));
        }
    };
    compare("descriptors", 0, &|h| h.descriptors as u64);
    compare("threads", 0, &|h| h.threads as u64);
    compare("octets of memory", MEMORY, &|h| h.memory);
    grew
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_explains_one_number_of_its_window_and_no_other() {
        assert_eq!(explained(&[5, 6, 20], vec![4..7, 10..20]), [5]);
        assert_eq!(explained(&[5, 6], vec![4..7, 6..9]), [5, 6]);
        assert_eq!(explained(&[5, 6], vec![4..9, 4..6]), [5, 6]);
        assert_eq!(explained(&[5], Vec::new()), [0; 0]);
    }

    #[test]
    fn a_load_that_was_not_reached_is_wrong_and_what_a_long_silence_cost_is_not() {
        let judge = |sent, skipped, silent| {
            let (rate, missing) = (Some(10_000), Vec::new());
            let lane = Outcome { name: "a to b", rate, sent, skipped, missing, twice: 0 };
            shortfall(&lane, Duration::from_secs(90), Duration::from_secs(silent)).is_some()
        };
        assert!(!judge(900_000, 0, 0));
        assert!(!judge(860_000, 0, 0));
        assert!(judge(850_000, 0, 0));
        assert!(judge(899_999, 1, 0));
        assert!(!judge(800_000, 100_000, 11));
        assert!(judge(800_000, 100_000, 9));
    }

    #[test]
    fn no_more_than_noise_is_taken_off_a_gap() {
        let ms = Duration::from_millis;
        let around = || [ms(40), ms(50)].into_iter();
        assert_eq!(gap(around(), &[ms(3), ms(4)], 1.0, 1), ms(46));
        assert_eq!(gap(around(), &[ms(3), ms(30)], 1.0, 1), ms(40));
        assert_eq!(gap(around(), &[ms(3), ms(30)], 1.0, 2), ms(30));
        assert_eq!(gap(around(), &[ms(3), ms(30)], 0.5, 1), ms(37));
    }

    #[test]
    fn growth_is_told_and_a_moment_is_not() {
        let at = |descriptors, memory| Holdings { descriptors, threads: 3, memory };
        let flat =
            vec![at(20, 1 << 20), at(25, 1 << 20), at(20, 1 << 20), at(22, 1 << 20), at(20, 1)];
        assert!(not_flat("base", &flat).is_empty());
        let grown = vec![at(20, 1), at(21, 1), at(22, 1), at(23, 1)];
        assert_eq!(not_flat("base", &grown), ["base grew from 20 to 22 descriptors"]);
    }
}

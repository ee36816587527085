//! What a campaign is judged by, and how it is shown.

use std::fmt::Write;
use std::time::Duration;

use crate::base::Holdings;
use crate::campaign::{Kill, Way};
use crate::load::Total;
use crate::points::How;
use crate::stage::lane;

/// The longest p99 of the gaps.
pub const GAP: Duration = Duration::from_millis(50);
/// The longest median of the gaps of upgrades.
pub const UPGRADE_GAP: Duration = Duration::from_millis(10);
/// Datagrams that the base handles at once.
const BATCH: u64 = 64;
/// Points at which kills must have happened, at least.
const POINTS: usize = 12;
/// Octets of memory that measuring itself may move: an allocator's whim.
const MEMORY: u64 = 512 << 10;
/// Kills that are told one by one.
const WORST: usize = 5;
/// Kills after which holdings are told apart.
const FEW: usize = 4;

/// One process's holdings at several moments of the campaign, oldest first.
pub type History = Vec<Holdings>;

/// All that a campaign has found.
pub struct Found {
    /// Kills, in their order.
    pub kills: Vec<Kill>,
    /// Upgrades, and what the bases say of the time in which nobody served.
    pub upgrades: Vec<(Kill, Duration)>,
    /// All points by name, and how often each was passed.
    pub points: Vec<(String, u64)>,
    /// What came of the load.
    pub total: Total,
    /// Longest silences in spans without kills.
    pub quiet: Vec<Duration>,
    /// The same in spans as long as an upgrade takes.
    pub long_quiet: Vec<Duration>,
    /// What base and holder had.
    pub histories: [(&'static str, History); 2],
    /// Counters that should be zero and are not.
    pub counters: Vec<String>,
    /// Frames that the kernel could not keep for the station.
    pub station_drops: u32,
    /// Anything else that is wrong.
    pub wrong: Vec<String>,
}

/// The value below which a share of the sorted values lies.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
}

/// Sorted.
fn in_order(values: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

impl Found {
    /// A quantile of the silences around kills, less the same of those without.
    fn gap(&self, share: f64) -> Duration {
        let around = in_order(self.kills.iter().map(|kill| kill.silence));
        let without = in_order(self.quiet.iter().copied());
        quantile(&around, share).saturating_sub(quantile(&without, share))
    }

    /// The same for upgrades.
    fn upgrade_gap(&self, share: f64) -> Duration {
        let around = in_order(self.upgrades.iter().map(|(upgrade, _)| upgrade.silence));
        let without = in_order(self.long_quiet.iter().copied());
        quantile(&around, share).saturating_sub(quantile(&without, share))
    }

    /// Datagrams lost on each lane. On the way from the host, one that was read from the TUN device
    /// and not yet noted when the base died is the named exception: given second.
    fn lost(&self) -> (u64, u64) {
        let count = |lane: usize| self.total.lanes.get(lane).map_or(0, |l| l.missing.len() as u64);
        let all: u64 = (0..lane::COUNT).map(count).sum();
        let excused = count(lane::HOST_TO_B).min(self.deaths());
        (all - excused, excused)
    }

    fn deaths(&self) -> u64 {
        self.kills.iter().map(|kill| kill.deaths).sum()
    }

    fn duplicates(&self) -> u64 {
        self.total.lanes.iter().map(|lane| lane.twice).sum()
    }

    /// Datagrams of a kill's time that never came.
    fn lost_at(&self, kill: &Kill) -> usize {
        let of_lane = |(number, lane): (usize, &crate::load::Outcome)| {
            let [before, after] = [0, 1].map(|i| kill.sent[i].get(number).copied().unwrap_or(0));
            // What was on its way when the base died had been sent before.
            let before = before.saturating_sub(2048);
            lane.missing.iter().filter(|&&n| n >= before && n < after).count()
        };
        self.total.lanes.iter().enumerate().map(of_lane).sum()
    }

    /// Everything that is not as it must be. Times may be `slack` times as long as they should be.
    pub fn judge(&self, slack: u32) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        for (number, lane) in self.total.lanes.iter().enumerate() {
            // The named exception is told, not held against anybody.
            let excused = if number == lane::HOST_TO_B { self.deaths() as usize } else { 0 };
            if lane.missing.len() > excused {
                let shown = &lane.missing[..lane.missing.len().min(8)];
                let (name, lost, sent) = (lane.name, lane.missing.len(), lane.sent);
                wrong.push(format!("{name}: {lost} of {sent} lost: {shown:?}"));
            }
            if lane.sent == 0 {
                wrong.push(format!("{}: nothing was sent", lane.name));
            }
        }
        for kill in self.kills.iter().chain(self.upgrades.iter().map(|(upgrade, _)| upgrade)) {
            if let Some(most) = kill.twice.iter().max().filter(|&&n| n > BATCH * kill.deaths) {
                let way = self.way(&kill.way);
                wrong.push(format!("{way}: {most} came twice on one lane"));
            }
        }
        let most = GAP.saturating_mul(slack);
        if self.gap(0.99) > most {
            wrong.push(format!("the p99 of the gaps is longer than {} ms", most.as_millis()));
        }
        let most = UPGRADE_GAP.saturating_mul(slack);
        if self.upgrade_gap(0.5) > most {
            let most = most.as_millis();
            wrong.push(format!("the median gap of an upgrade is longer than {most} ms"));
        }
        let killed = self.points.iter().enumerate().filter(|(n, _)| self.at(*n).next().is_some());
        let killed = killed.count();
        if killed < POINTS {
            wrong.push(format!("kills at {killed} points only, {POINTS} are needed"));
        }
        for (name, history) in &self.histories {
            wrong.extend(not_flat(name, history));
        }
        wrong.extend(self.counters.iter().cloned());
        if self.station_drops > 0 {
            wrong.push(format!("the LAN's station could not take {} frames", self.station_drops));
        }
        wrong
    }

    fn way(&self, way: &Way) -> String {
        match way {
            Way::Random => "a random moment".to_owned(),
            Way::Upgrade => "an upgrade".to_owned(),
            Way::Point(point, how) => {
                let name = self.points.get(*point).map_or("?", |(name, _)| name);
                let how = match how {
                    How::Kill => "",
                    How::Abort => " (abort)",
                    How::Panic => " (panic)",
                    How::Hang => " (hang)",
                };
                format!("{name}{how}")
            }
        }
    }

    /// Kills at a point.
    fn at(&self, point: usize) -> impl Iterator<Item = &Kill> {
        self.kills.iter().filter(move |kill| matches!(kill.way, Way::Point(p, _) if p == point))
    }

    /// The table by point.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<18} {:>5} {:>6} {:>10} {:>5} {:>6} {:>10} {:>8}",
            "where", "kills", "deaths", "passes", "lost", "twice", "median ms", "max ms"
        );
        let random: Vec<_> = self.kills.iter().filter(|k| k.way == Way::Random).collect();
        row(&mut text, self, "random moments", None, &random);
        for (number, (name, passes)) in self.points.iter().enumerate() {
            let kills: Vec<_> = self.at(number).collect();
            row(&mut text, self, name, Some(*passes), &kills);
        }
        let mut worst: Vec<_> = self.kills.iter().collect();
        worst.sort_by_key(|kill| std::cmp::Reverse(kill.silence));
        for kill in worst.iter().take(WORST) {
            let used = kill.used.map_or_else(String::new, |(ran, waited)| {
                format!(", of which its threads ran for {} and waited for {}", ms(ran), ms(waited))
            });
            let (way, silence, deaths) = (self.way(&kill.way), ms(kill.silence), kill.deaths);
            let _ = writeln!(text, "among the longest: {way}, {deaths} deaths: {silence} ms{used}");
        }
        let seconds = self.total.time.as_secs_f64();
        for lane in &self.total.lanes {
            let _ = writeln!(
                text,
                "{:<30} {:>9} sent, {:>6.0} a second, {} lost, {} came twice",
                lane.name,
                lane.sent,
                lane.sent as f64 / seconds,
                lane.missing.len(),
                lane.twice
            );
        }
        let used = self.kills.iter().filter_map(|kill| kill.used);
        let (ran, waited): (Vec<_>, Vec<_>) = used.unzip();
        let [ran, waited] =
            [ran, waited].map(|times| ms(quantile(&in_order(times.into_iter()), 0.5)));
        let _ = writeln!(
            text,
            "a successor's threads have run for {ran} ms and waited for a core for {waited} ms when all \
             goes on (medians)"
        );
        let without = in_order(self.quiet.iter().copied());
        let [half, most] = [0.5, 0.99].map(|share| ms(quantile(&without, share)));
        let _ = writeln!(text, "longest silences without kills: median {half} ms, p99 {most} ms");
        let stood = ms(self.total.stood);
        let _ = writeln!(text, "some lane stood still for {stood} ms, because its rings were full");
        if let (_, excused @ 1..) = self.lost() {
            let _ = writeln!(
                text,
                "{excused} from the host lost between the TUN device's read and its mark: the named \
                 exception"
            );
        }
        let twice: u64 = self.upgrades.iter().flat_map(|(upgrade, _)| &upgrade.twice).sum();
        let lost: usize = self.upgrades.iter().map(|(upgrade, _)| self.lost_at(upgrade)).sum();
        let told = in_order(self.upgrades.iter().map(|(_, told)| *told));
        let [gap, most_gap] = [0.5, 1.0].map(|share| ms(self.upgrade_gap(share)));
        let [told, most_told] = [0.5, 1.0].map(|share| ms(quantile(&told, share)));
        let count = self.upgrades.len();
        let _ = writeln!(
            text,
            "{count} upgrades: {lost} lost, {twice} duplicated, median gap {gap} ms, max {most_gap} ms; \
             by the bases' word {told} and {most_told} ms"
        );
        for (name, history) in &self.histories {
            if let (Some(first), Some(last)) = (history.first(), history.last()) {
                let _ = writeln!(
                    text,
                    "{name}: {} to {} descriptors, {} to {} threads, {} to {} KiB of its own",
                    first.descriptors,
                    last.descriptors,
                    first.threads,
                    last.threads,
                    first.memory >> 10,
                    last.memory >> 10
                );
            }
        }
        text
    }

    /// The last line.
    pub fn line(&self) -> String {
        let (lost, _) = self.lost();
        let (deaths, twice) = (self.deaths(), self.duplicates());
        let [p99, most] = [0.99, 1.0].map(|share| ms(self.gap(share)));
        format!(
            "survive: {deaths} kills, {lost} lost, {twice} duplicated, p99 gap {p99} ms, max {most} ms"
        )
    }
}

fn row(text: &mut String, found: &Found, name: &str, passes: Option<u64>, kills: &[&Kill]) {
    let silences = in_order(kills.iter().map(|kill| kill.silence));
    let lost: usize = kills.iter().map(|kill| found.lost_at(kill)).sum();
    let twice: u64 = kills.iter().flat_map(|kill| &kill.twice).sum();
    let deaths: u64 = kills.iter().map(|kill| kill.deaths).sum();
    let passes = passes.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let [half, most] = [0.5, 1.0].map(|share| ms(quantile(&silences, share)));
    let kills = kills.len();
    let _ = writeln!(
        text,
        "{name:<18} {kills:>5} {deaths:>6} {passes:>10} {lost:>5} {twice:>6} {half:>10} {most:>8}"
    );
}

/// Milliseconds, to a tenth.
pub fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// What grew between the first half of a history and its second. Each value's least in a half counts:
/// what is held for a moment only is no growth.
fn not_flat(name: &str, history: &History) -> Vec<String> {
    if history.len() < FEW {
        return vec![format!("{name}: looked at {} times only", history.len())];
    }
    let (early, late) = history.split_at(history.len() / 2);
    let mut grew = Vec::new();
    let mut compare = |what: &str, slack: u64, value: &dyn Fn(&Holdings) -> u64| {
        let least = |part: &[Holdings]| part.iter().map(value).min().unwrap_or_default();
        let (before, after) = (least(early), least(late));
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
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&values, 1.0), Duration::from_millis(100));
        assert_eq!(quantile(&values[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
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

//! What a campaign has found, and how it is shown.

use std::fmt::Write;
use std::time::Duration;

use crate::base::Holdings;
use crate::campaign::{Kill, Way};
use crate::judge::{self, NOISE, WHOLE};
use crate::load::Total;
use crate::points::How;

/// Kills that are told one by one.
const WORST: usize = 5;

/// One process's holdings at several moments of the campaign, oldest first.
pub type History = Vec<Holdings>;

/// All that a campaign has found.
pub struct Found {
    /// For how long bases were to be killed.
    pub time: Duration,
    /// Kills, in their order.
    pub kills: Vec<Kill>,
    /// Upgrades, and what the bases say of the time in which nobody served.
    pub upgrades: Vec<(Kill, Duration)>,
    /// All points by name, and how often each was passed.
    pub points: Vec<(String, u64)>,
    /// Those of them that are passed over such rings.
    pub possible: Vec<usize>,
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
pub fn in_order(values: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

impl Found {
    /// Bases that died.
    pub fn deaths(&self) -> u64 {
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

    /// A kill's way, as people call it.
    pub fn way(&self, way: &Way) -> String {
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
    pub fn at(&self, point: usize) -> impl Iterator<Item = &Kill> {
        self.kills.iter().filter(move |kill| matches!(kill.way, Way::Point(p, _) if p == point))
    }

    /// The table by point, and all else that is worth knowing; times are judged with this slack.
    pub fn table(&self, slack: u32) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<18} {:>5} {:>6} {:>10} {:>5} {:>6} {:>10} {:>8}",
            "where", "kills", "deaths", "passes", "lost", "twice", "median ms", "max ms"
        );
        let random: Vec<_> = self.kills.iter().filter(|k| k.way == Way::Random).collect();
        row(&mut text, self, "random moments", None, &random);
        let possible = |(number, _): &(usize, _)| self.possible.contains(number);
        for (number, (name, passes)) in self.points.iter().enumerate().filter(possible) {
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
                "{:<30} {:>9} sent, {:>6.0} a second, {} lost, {} came twice, {} skipped",
                lane.name,
                lane.sent,
                lane.sent as f64 / seconds,
                lane.missing.len(),
                lane.twice,
                lane.skipped
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
        let [half, p99, most] = [0.5, 0.99, 1.0].map(|share| quantile(&without, share));
        let _ = writeln!(
            text,
            "longest silences without kills, of {} spans: median {} ms, p99 {} ms, max {} ms",
            without.len(),
            ms(half),
            ms(p99),
            ms(most)
        );
        if p99 > NOISE {
            let most = ms(NOISE.saturating_mul(slack));
            let _ = writeln!(
                text,
                "this machine is noisy: without kills, too, nothing comes for that long; no more than \
                 {most} ms of it are taken off"
            );
        }
        let stood = ms(self.total.stood);
        let _ = writeln!(text, "some lane stood still for {stood} ms, because its rings were full");
        let explained = self.explained();
        if !explained.is_empty() {
            let (count, windows) = (explained.len(), self.windows().count());
            let _ = writeln!(
                text,
                "{count} from the host lost between the TUN device's read and its mark, in {windows} \
                 deaths that can have been there: the named exception; numbers {explained:?}"
            );
        }
        let twice: u64 = self.upgrades.iter().flat_map(|(upgrade, _)| &upgrade.twice).sum();
        let lost: usize = self.upgrades.iter().map(|(upgrade, _)| self.lost_at(upgrade)).sum();
        let told = in_order(self.upgrades.iter().map(|(_, told)| *told));
        let [gap, most_gap] = [0.5, 1.0].map(|share| ms(self.upgrade_gap(share, slack)));
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
        if self.time < WHOLE {
            let least = judge::KILLS_FROM.as_secs();
            let _ = writeln!(
                text,
                "a short run: points are judged by their number from {} s on, kills from {least} s on",
                WHOLE.as_secs()
            );
        }
        text
    }

    /// The last line.
    pub fn line(&self, slack: u32) -> String {
        let lost = self.lost();
        let (deaths, twice) = (self.deaths(), self.duplicates());
        let [p99, most] = [0.99, 1.0].map(|share| ms(self.gap(share, slack)));
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
}

//! Whether to poll or to sleep when there is nothing to do.
//!
//! # Why it exists
//! To sleep and be woken takes some microseconds of processor time, and as long until what woke is
//! served. To poll takes as long as it lasts. Where the next datagram comes sooner than that, it is
//! cheaper and faster to poll; where it does not, sleeping at once is cheaper, and takes no longer.
//!
//! # Theory of operation
//! An *idle period* begins when no port has anything and ends with the next datagram. How long the last
//! ones were, divided by the datagrams before them (a large send counts as several), says what to do in
//! the next: poll, for [`LINGER`] at most, or sleep at once. Only periods that were polled say how
//! long they would have been, because one that was slept through contains the waking. So when
//! sleeping, every [`PROBE`]th period is polled nevertheless.
//!
//! After a *silence* the first datagram is mostly a question, and whoever is asked has to be woken first.
//! Polling until it answers spares one more waking, of the worker, and costs little, because silences
//! are long.
//!
//! ```text
//! flood              periods of less than 1 µs           polled
//! bursts             20 µs, after 30 datagrams           polled
//! question, answer   2 µs, the other side's thinking     polled, once a few probes have seen it
//! 100,000 a second   8 µs, after one datagram            slept through
//! silence            LINGER, once or twice               slept through
//! after a silence    100 µs, until the answer            polled, once
//! ```

use std::time::{Duration, Instant};

/// How long is polled in vain, at most.
const LINGER: Duration = Duration::from_micros(30);
/// The same for the first period after a silence: about what it takes to wake a guest.
const ANSWER: Duration = Duration::from_micros(150);
/// What is a silence: so long that [`ANSWER`] beside it is nothing.
const SILENCE: Duration = Duration::from_millis(100);
/// What it takes to sleep and be woken, more or less.
const WORTH: Duration = Duration::from_micros(5);
/// Among so many periods that are slept through one is polled.
const PROBE: u32 = 16;

/// What the worker has learned about its idle periods.
pub(super) struct Patience {
    /// When the period at hand began.
    since: Option<Instant>,
    /// Whether it is polled.
    polls: bool,
    /// How long it may be polled.
    linger: Duration,
    /// The one before it was a silence.
    broken: bool,
    /// How long a period is, on average, for each datagram before it.
    expected: Duration,
    /// Datagrams since the last period, and before the one at hand.
    done: u32,
    before: u32,
    /// Periods that were slept through, one after the other.
    slept: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            since: None,
            polls: false,
            linger: LINGER,
            broken: false,
            expected: LINGER,
            done: 0,
            before: 1,
            slept: 0,
        }
    }
}

impl Patience {
    /// There were so many datagrams. Whether they broke a silence: an answer will come.
    pub(super) fn work(&mut self, now: Instant, datagrams: u32) -> bool {
        self.done = self.done.saturating_add(datagrams);
        let Some(since) = self.since.take() else { return false };
        let period = now.saturating_duration_since(since);
        if self.polls {
            self.learn(period);
        }
        self.broken = period >= SILENCE;
        // From now on: the datagrams at hand may have taken longer than LINGER, after a silence.
        self.linger = if self.broken { ANSWER } else { LINGER };
        self.broken
    }

    /// How long there has been nothing.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long a port that has nothing is polled, at most.
    pub(super) fn linger(&self) -> Duration {
        self.linger
    }

    /// There was nothing to do: whether to look again soon. False: to sleep.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let since = match self.since {
            Some(since) => since,
            None => self.begin(now),
        };
        if self.polls && now.saturating_duration_since(since) >= self.linger {
            self.learn(self.linger);
            self.polls = false;
        }
        self.polls
    }

    fn begin(&mut self, now: Instant) -> Instant {
        self.since = Some(now);
        self.before = std::mem::take(&mut self.done).max(1);
        let probes = self.slept.saturating_add(1) >= PROBE;
        self.polls = self.expected <= WORTH || probes || self.broken;
        self.slept = if self.polls { 0 } else { self.slept.saturating_add(1) };
        now
    }

    fn learn(&mut self, period: Duration) {
        // What follows a silence says nothing about any other period.
        if self.linger != LINGER {
            return;
        }
        // A port may have fallen asleep by itself a moment before this would have said so.
        let each = period.min(LINGER).checked_div(self.before).unwrap_or_default();
        self.expected = self.expected.saturating_add(each).checked_div(2).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_nanos(500);

    /// A worker in a world of its own.
    struct Simulated {
        patience: Patience,
        now: Instant,
    }

    impl Simulated {
        fn new() -> Self {
            Self { patience: Patience::default(), now: Instant::now() }
        }

        /// One idle period of this length, and a datagram; how long of it was polled.
        fn period(&mut self, len: Duration) -> Duration {
            self.burst(len, 1)
        }

        /// The same, and so many datagrams.
        fn burst(&mut self, len: Duration, datagrams: u32) -> Duration {
            let start = self.now;
            let (mut polled, mut awake) = (Duration::ZERO, true);
            while self.now < start + len {
                awake = awake && self.patience.goes_on(self.now);
                self.now += STEP;
                polled += if awake { STEP } else { Duration::ZERO };
            }
            self.patience.work(self.now, datagrams);
            polled
        }
    }

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn what_follows_closely_is_polled_for_after_a_few_probes() {
        let mut worker = Simulated::new();
        let polled: Vec<_> = (0..200).map(|_| worker.period(micros(2))).collect();
        let first = polled.iter().position(|p| *p > Duration::ZERO).unwrap();
        assert!(first < PROBE as usize, "{first}");
        assert!(polled[5 * PROBE as usize..].iter().all(|p| *p == micros(2)), "{polled:?}");
    }

    #[test]
    fn bursts_are_polled_for_however_far_apart_within_reason() {
        let mut worker = Simulated::new();
        let polled: Vec<_> = (0..200).map(|_| worker.burst(micros(20), 30)).collect();
        assert!(polled[5 * PROBE as usize..].iter().all(|p| *p == micros(20)), "{polled:?}");
        let polled: Vec<_> = (0..200).map(|_| worker.burst(micros(40), 30)).collect();
        assert!(polled.iter().all(|p| *p <= LINGER), "{polled:?}");
    }

    #[test]
    fn what_comes_at_some_distance_is_slept_for_but_for_the_probes() {
        let mut worker = Simulated::new();
        let polled: Duration = (0..1600).map(|_| worker.period(micros(9))).sum();
        assert_eq!(polled, micros(9) * 1600 / PROBE);
    }

    #[test]
    fn a_long_sleep_that_began_while_it_polled_is_no_reason_to_sleep_for_long() {
        let mut worker = Simulated::new();
        for _ in 0..200 {
            worker.period(micros(1));
        }
        // The last port left by itself: nobody asks any more.
        assert!(worker.patience.goes_on(worker.now));
        worker.now += micros(1_000_000);
        worker.patience.work(worker.now, 1);
        let polled: Vec<_> = (0..100).map(|_| worker.period(micros(2))).collect();
        assert!(polled[4 * PROBE as usize..].iter().all(|p| *p == micros(2)), "{polled:?}");
    }

    #[test]
    fn where_datagrams_are_far_apart_nothing_is_polled_for_longer_than_a_moment() {
        let mut worker = Simulated::new();
        for _ in 0..200 {
            worker.period(micros(1));
        }
        assert_eq!(worker.period(micros(1)), micros(1));
        for _ in 0..4 {
            assert!(worker.period(micros(10_000)) <= LINGER);
        }
        assert_eq!(worker.period(micros(10_000)), Duration::ZERO);
    }

    #[test]
    fn the_answer_to_the_first_question_after_a_silence_is_waited_for() {
        let mut worker = Simulated::new();
        for _ in 0..3 {
            worker.period(micros(1_000_000));
            assert_eq!(worker.period(micros(100)), micros(100), "the answer");
            assert_eq!(worker.period(micros(100)), Duration::ZERO, "the next question");
        }
        worker.period(micros(1_000_000));
        assert_eq!(worker.period(micros(1_000_000)), ANSWER, "no answer at all");
    }
}

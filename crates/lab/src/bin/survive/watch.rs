//! What the load has seen, for whoever kills the base meanwhile: silences, duplicates, how far each
//! lane is.
//!
//! # Theory of operation
//! The load's thread notes every silence of a lane that is longer than [`WORTH`], when it ends, and
//! every datagram that came a second time. So what a kill has done is read off afterwards: the
//! longest silence that overlaps its time, and the duplicates within it. How far a lane is, and when
//! something last came, stands in words that are read without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shorter silences are not noted.
const WORTH: Duration = Duration::from_micros(700);

/// From and until.
pub type Span = (Instant, Instant);

/// One lane, as it stands.
#[derive(Debug, Default)]
struct Standing {
    /// Datagrams sent.
    sent: AtomicU64,
    /// Microseconds from the beginning to when the last one came.
    last: AtomicU64,
    /// One more than the highest number that came.
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Notes {
    silences: Vec<(usize, Span)>,
    twice: Vec<(usize, Instant)>,
}

/// All that the load has seen.
#[derive(Debug)]
pub struct Watch {
    begun: Instant,
    lanes: Vec<Standing>,
    notes: Mutex<Notes>,
}

impl Watch {
    /// For so many lanes.
    pub fn new(lanes: usize) -> Self {
        let lanes = (0..lanes).map(|_| Standing::default()).collect();
        Self { begun: Instant::now(), lanes, notes: Mutex::default() }
    }

    /// A lane has sent so many by now.
    pub fn has_sent(&self, lane: usize, sent: u64) {
        self.lanes[lane].sent.store(sent, Ordering::Relaxed);
    }

    /// Datagram number `number` came on a lane now, and something before at `last`.
    pub fn came(&self, lane: usize, number: u64, last: Instant, now: Instant) {
        self.lanes[lane].next.fetch_max(number + 1, Ordering::Relaxed);
        self.lanes[lane].last.store(self.micros(now), Ordering::Release);
        if now - last > WORTH {
            self.notes().silences.push((lane, (last, now)));
        }
    }

    /// A datagram came a second time.
    pub fn came_twice(&self, lane: usize, now: Instant) {
        self.notes().twice.push((lane, now));
    }

    /// How many each lane has sent.
    pub fn sent(&self) -> Vec<u64> {
        self.lanes.iter().map(|l| l.sent.load(Ordering::Relaxed)).collect()
    }

    /// How far a lane has come: one more than the highest number.
    pub fn next(&self, lane: usize) -> u64 {
        self.lanes[lane].next.load(Ordering::Relaxed)
    }

    /// Whether something has come on each of these lanes after that.
    pub fn all_since(&self, lanes: &[usize], since: Instant) -> bool {
        let since = self.micros(since);
        lanes.iter().all(|&lane| self.lanes[lane].last.load(Ordering::Acquire) > since)
    }

    /// The longest silence on each of these lanes that overlaps a span.
    pub fn silences(&self, lanes: &[usize], (from, until): Span) -> Vec<Duration> {
        let notes = self.notes();
        let longest = |lane: usize| {
            let here = notes.silences.iter().filter(|(l, _)| *l == lane);
            let overlap = here.filter(|(_, (begin, end))| *begin < until && *end > from);
            overlap.map(|(_, (begin, end))| *end - *begin).max().unwrap_or_default()
        };
        lanes.iter().map(|&lane| longest(lane)).collect()
    }

    /// The datagrams that came a second time within a span, by lane.
    pub fn twice(&self, (from, until): Span) -> Vec<u64> {
        let mut counts = vec![0; self.lanes.len()];
        for (lane, at) in &self.notes().twice {
            if *at > from && *at <= until {
                counts[*lane] += 1;
            }
        }
        counts
    }

    /// Forgets notes older than that, so that a long campaign does not fill the memory.
    pub fn forget(&self, before: Instant) {
        let mut notes = self.notes();
        notes.silences.retain(|(_, (_, end))| *end >= before);
        notes.twice.retain(|(_, at)| *at >= before);
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_micros() as u64
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_the_longest_silence_that_overlaps_it_and_its_duplicates() {
        let watch = Watch::new(2);
        let at = |ms| watch.begun + Duration::from_millis(ms);
        watch.came(0, 7, at(10), at(30));
        watch.came(0, 6, at(30), at(35));
        watch.came(1, 0, at(20), at(24));
        watch.came_twice(1, at(24));
        let ms = |n| Duration::from_millis(n);
        assert_eq!(watch.silences(&[0, 1], (at(29), at(40))), [ms(20), ms(0)]);
        assert_eq!(watch.silences(&[0, 1], (at(31), at(40))), [ms(5), ms(0)]);
        assert_eq!(watch.silences(&[1], (at(0), at(21))), [ms(4)]);
        assert_eq!(watch.twice((at(23), at(24))), [0, 1]);
        assert_eq!(watch.twice((at(24), at(50))), [0, 0]);
        assert_eq!([watch.next(0), watch.next(1)], [8, 1]);
        assert!(watch.all_since(&[0, 1], at(23)));
        assert!(!watch.all_since(&[0, 1], at(24)));
        watch.forget(at(25));
        assert_eq!(watch.silences(&[0, 1], (at(0), at(50))), [ms(20), ms(0)]);
    }
}

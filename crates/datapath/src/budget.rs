//! How much somebody outside can make the base say.
//!
//! A front end can come and go, be refused and break its rings as fast as it likes, and a vessel can
//! send what it likes. Each has a budget of events: so many at once, and then so many a second. What
//! exceeds it is counted and told as a number with the next event that is told.

use std::time::{Duration, Instant};

/// Events at once.
const BURST: u32 = 64;
/// After them, one in this time.
const PERIOD: Duration = Duration::from_millis(100);

/// The budget of one who causes events.
#[derive(Debug, Default)]
pub struct Budget {
    /// How far into the future the events so far have been paid for.
    paid_until: Option<Instant>,
    untold: u64,
}

impl Budget {
    /// Whether one more event can be told: then the number that was not told since the last one.
    pub fn spend(&mut self, now: Instant) -> Option<u64> {
        let from = self.paid_until.map_or(now, |until| until.max(now));
        let until = from.checked_add(PERIOD)?;
        if until.saturating_duration_since(now) > PERIOD.saturating_mul(BURST) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.paid_until = Some(until);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_and_then_a_trickle_with_the_number_that_was_not() {
        let mut budget = Budget::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(budget.spend(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(budget.spend(start), None);
        }
        let later = start + PERIOD;
        assert_eq!(budget.spend(later), Some(1000));
        assert_eq!(budget.spend(later), None);
        let much_later = start + PERIOD * 1000;
        assert_eq!(budget.spend(much_later), Some(1));
        for _ in 1..BURST {
            assert_eq!(budget.spend(much_later), Some(0));
        }
        assert_eq!(budget.spend(much_later), None);
    }
}

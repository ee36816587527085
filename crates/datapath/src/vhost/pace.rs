//! How fast one port's front ends may have rings started and stopped.
//!
//! # Why it exists
//! While a ring is given to the workers or taken back, all of them rest for a moment, those of other VMs
//! too. A front end can ask for that with nearly every request, as fast as it can write.
//!
//! # Theory of operation
//! Each start or stop is paid for with some time: so many at once, and then so many a second. Whoever has
//! spent more is not refused anything: its requests stay in its socket until the time has passed, and
//! nobody else's do. To boot a guest takes a few dozen, so that nobody notices who does nothing else.

use std::time::{Duration, Instant};

/// Starts and stops at once.
const BURST: u32 = 512;
/// After them, one in this time.
const PERIOD: Duration = Duration::from_millis(4);

/// What a port's front ends have spent.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How far into the future the starts and stops so far have been paid for.
    paid_until: Option<Instant>,
}

impl Pace {
    /// There were so many.
    pub(super) fn spend(&mut self, changes: u32, now: Instant) {
        let from = self.paid_until.map_or(now, |until| until.max(now));
        self.paid_until = from.checked_add(PERIOD.saturating_mul(changes));
    }

    /// When the next request may be carried out; `None`: now.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        self.paid_until?.checked_sub(PERIOD.saturating_mul(BURST)).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_carried_out_at_once_and_then_one_in_each_period() {
        let mut pace = Pace::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(pace.next_at(start), None);
            pace.spend(1, start);
        }
        assert_eq!(pace.next_at(start), None);
        pace.spend(4, start);
        let next = start + PERIOD * 4;
        assert_eq!(pace.next_at(start), Some(next));
        assert_eq!(pace.next_at(next), None);
        pace.spend(1, next);
        assert_eq!(pace.next_at(next), Some(next + PERIOD));
        // Time that nobody has used is worth no more than the burst.
        let later = start + PERIOD * BURST * 100;
        pace.spend(BURST + 1, later);
        assert_eq!(pace.next_at(later), Some(later + PERIOD));
    }
}

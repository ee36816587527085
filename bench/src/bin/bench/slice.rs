//! One short stretch of a measurement, and whether it counts.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The part of a stretch in which the generator may have been away: one in so many.
const MOST_AWAY: u32 = 33;

/// What was seen in one stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slice {
    /// How long it took.
    pub time: Duration,
    /// Processor time of the thread that generates, where that thread also switches.
    pub own_time: Option<Duration>,
    /// How much of it the generating thread did not compute: somebody else had its core.
    pub away: Duration,
    /// Datagrams that arrived.
    pub received: u64,
    /// Datagrams whose numbers were passed over: lost on the way.
    pub lost: u64,
    /// Datagrams that were not what was sent, or came out of order.
    pub wrong: u64,
    /// Times that a batch was to be sent.
    pub attempts: u64,
    /// Times that there was no room for it.
    pub full: u64,
    /// Times that the receiver was found without a buffer.
    pub dry: u64,
}

impl Slice {
    /// Whether it was the switch that was measured: it had always something to do, and somewhere to
    /// put it.
    pub fn counts(&self) -> bool {
        let present = self.away * MOST_AWAY <= self.time;
        present && self.received > 0 && self.wrong == 0 && self.dry == 0 && self.is_flood()
    }

    /// Whether the switch had always something to do.
    pub fn is_flood(&self) -> bool {
        self.attempts > 0 && self.full * 10 >= self.attempts * 9
    }

    /// Datagrams in a second of the switching core.
    pub fn rate(&self) -> f64 {
        self.received as f64 / self.own_time.unwrap_or(self.time).as_secs_f64()
    }
}

/// Processor time of this thread so far.
pub fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Slice = Slice {
        time: Duration::from_millis(50),
        own_time: None,
        away: Duration::from_millis(1),
        received: 500,
        lost: 0,
        wrong: 0,
        attempts: 100,
        full: 90,
        dry: 0,
    };

    #[test]
    fn a_slice_in_which_something_else_than_the_switch_was_slow_does_not_count() {
        assert!(GOOD.counts());
        for bad in [
            Slice { full: 89, ..GOOD },
            Slice { dry: 1, ..GOOD },
            Slice { wrong: 1, ..GOOD },
            Slice { received: 0, ..GOOD },
            Slice { away: Duration::from_millis(2), ..GOOD },
        ] {
            assert!(!bad.counts(), "{bad:?}");
        }
    }

    #[test]
    fn the_rate_is_that_of_the_core_that_switches() {
        assert_eq!(GOOD.rate(), 10_000.0);
        let own_time = Some(Duration::from_millis(25));
        assert_eq!(Slice { own_time, ..GOOD }.rate(), 20_000.0);
    }
}

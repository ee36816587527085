//! How many ICMP errors one VM may cause: a token bucket (RFC 1812, section 4.3.2.8; RFC 4443,
//! section 2.4 f).
//!
//! A VM that scans an empty prefix, or keeps sending what does not fit, must not make the base
//! write an error for each datagram. Time is handed in.

use std::time::{Duration, Instant};

/// Errors a silent VM may cause at once.
const BURST: u32 = 50;
/// One more error becomes allowed each such interval: 100 a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// A token bucket.
#[derive(Debug)]
pub struct Limiter {
    tokens: u32,
    filled: Option<Instant>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { tokens: BURST, filled: None }
    }
}

impl Limiter {
    /// Whether one more is allowed at `now`; if so, it is spent.
    pub fn allow(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let passed = now.saturating_duration_since(filled);
        let gained = passed.as_nanos().checked_div(INTERVAL.as_nanos()).unwrap_or(0);
        if let Ok(gained @ 1..) = u32::try_from(gained) {
            self.tokens = self.tokens.saturating_add(gained).min(BURST);
            self.filled = filled.checked_add(INTERVAL.saturating_mul(gained));
        } else if gained > 0 {
            self.tokens = BURST;
            self.filled = Some(now);
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_per_interval() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        assert_eq!((0..1000).filter(|_| limiter.allow(start)).count(), BURST as usize);
        let later = start + INTERVAL * 3;
        assert_eq!((0..1000).filter(|_| limiter.allow(later)).count(), 3);
        let much_later = later + Duration::from_secs(1_000_000);
        assert_eq!((0..1000).filter(|_| limiter.allow(much_later)).count(), BURST as usize);
    }
}

//! How much of something one VM may cause: a token bucket.
//!
//! A VM that scans an empty prefix, or keeps sending what does not fit, must not make the base
//! write an ICMP error for each datagram (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 f); and one
//! that asks for names without end must leave the resolver to others, too. Time is handed in.

use std::time::{Duration, Instant};

/// How much is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// What a silent VM may cause at once.
    burst: u32,
    /// One more becomes allowed each such interval.
    interval: Duration,
}

impl Rate {
    /// ICMP errors: 50 at once, 100 a second.
    pub const ERRORS: Self = Self { burst: 50, interval: Duration::from_millis(10) };
    /// Datagrams to the resolver: 500 at once, 1000 a second.
    pub const QUESTIONS: Self = Self { burst: 500, interval: Duration::from_millis(1) };
}

/// A token bucket.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    tokens: u32,
    filled: Option<Instant>,
}

/// That of ICMP errors.
impl Default for Limiter {
    fn default() -> Self {
        Self::new(Rate::ERRORS)
    }
}

impl Limiter {
    /// A full one.
    pub fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, filled: None }
    }

    /// Whether one more is allowed at `now`; if so, it is spent.
    pub fn allow(&mut self, now: Instant) -> bool {
        let Rate { burst, interval } = self.rate;
        let filled = *self.filled.get_or_insert(now);
        let passed = now.saturating_duration_since(filled);
        let gained = passed.as_nanos().checked_div(interval.as_nanos()).unwrap_or(0);
        if let Ok(gained @ 1..) = u32::try_from(gained) {
            self.tokens = self.tokens.saturating_add(gained).min(burst);
            self.filled = filled.checked_add(interval.saturating_mul(gained));
        } else if gained > 0 {
            self.tokens = burst;
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
        for rate in [Rate::ERRORS, Rate::QUESTIONS] {
            let Rate { burst, interval } = rate;
            let start = Instant::now();
            let mut limiter = Limiter::new(rate);
            assert_eq!((0..1000).filter(|_| limiter.allow(start)).count(), burst as usize);
            let later = start + interval * 3;
            assert_eq!((0..1000).filter(|_| limiter.allow(later)).count(), 3);
            let much_later = later + Duration::from_secs(1_000_000);
            assert_eq!((0..1000).filter(|_| limiter.allow(much_later)).count(), burst as usize);
        }
    }
}

//! Which address is due when: at most one time for each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The times at which addresses are due, soonest first.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, IpAddr)>);

impl Timers {
    /// Makes `address` due at `time` instead of at `slot`, which keeps what was set.
    pub fn set(&mut self, address: IpAddr, slot: &mut Option<Instant>, time: Option<Instant>) {
        if let Some(old) = slot.take() {
            self.0.remove(&(old, address));
        }
        if let Some(new) = time {
            self.0.insert((new, address));
        }
        *slot = time;
    }

    /// Takes the address that has been due for longest, if any is.
    pub fn due(&mut self, now: Instant) -> Option<IpAddr> {
        let first = *self.0.first()?;
        (first.0 <= now).then(|| {
            self.0.remove(&first);
            first.1
        })
    }

    /// When the next address is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(time, _)| *time)
    }
}

/// `wait` after `now`.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

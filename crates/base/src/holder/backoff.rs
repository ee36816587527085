//! How long to wait before a base is started again.

/// Ticks a base must live to count as one that works.
const WORKS: u32 = 10;
/// Deaths in quick succession that are answered at once.
const FREE: u32 = 4;
/// Longest wait, in ticks.
const LONGEST: u32 = 30;

/// Remembers how the last bases fared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Ticks to wait after a base died that lived for `ticks` and was `ready` or never so. Four
    /// deaths in quick succession are answered at once: what kills twice is quarantined, and what
    /// kills while it is taken over, at the third time. Then each makes the next wait longer. A base
    /// that got ready and was killed from outside did nothing wrong.
    pub fn after(&mut self, ready: bool, own_making: bool, ticks: u32) -> u32 {
        if ready && (ticks >= WORKS || !own_making) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        match self.failures.checked_sub(FREE) {
            None | Some(0) => 0,
            Some(n) => 1u32.checked_shl(n.saturating_sub(1)).unwrap_or(LONGEST).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_works_is_replaced_at_once_however_often_it_dies() {
        let mut backoff = Backoff::default();
        assert!((0..50).all(|_| backoff.after(true, true, WORKS) == 0));
        assert!((0..50).all(|_| backoff.after(true, false, 0) == 0));
    }

    #[test]
    fn bases_that_never_get_ready_wait_longer_and_longer_after_four() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.after(false, true, 0)).collect();
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff.after(true, true, WORKS), 0);
    }

    #[test]
    fn a_kill_from_outside_while_it_takes_over_makes_nobody_wait() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(true, false, 0), 0);
        assert!((0..3).all(|_| backoff.after(false, false, 0) == 0));
        // What kills without end, a machine without memory, is not fought without rest.
        assert_eq!(backoff.after(false, false, 0), 1);
    }

    #[test]
    fn a_base_that_dies_right_after_ready_gets_four_free_starts() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..6).map(|_| backoff.after(true, true, 1)).collect();
        assert_eq!(waits, [0, 0, 0, 0, 1, 2]);
    }
}

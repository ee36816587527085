//! Memory that its owner takes away: SIGBUS, turned into zeroes and a mark.

use std::sync::atomic::{AtomicU32, Ordering};

static TEARS: AtomicU32 = AtomicU32::new(0);

/// How often any mapping of this process was torn.
#[inline]
pub(crate) fn tears() -> u32 {
    TEARS.load(Ordering::Relaxed)
}

//! Ending a program of the lab in good order when somebody presses Ctrl-C: what it made goes first.
//!
//! [`watch`] must be called before other threads are started. From then on a signal sets a mark;
//! the program looks at it between its steps ([`check`]) and returns as after any error, so that
//! everything is dropped. A second signal ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Attempt, LabError, Result};
use crate::sys;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Starts watching.
pub fn watch() -> Result<()> {
    sys::block_end_signals().attempt(|| "block signals".to_owned())?;
    let watch = || {
        sys::wait_for_end_signal();
        INTERRUPTED.store(true, Ordering::Relaxed);
        sys::wait_for_end_signal();
        std::process::exit(130);
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
    thread.map(drop).attempt(|| "start a thread".to_owned())
}

/// Whether the program was asked to end.
pub fn is_set() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// An error if the program was asked to end.
pub fn check() -> Result<()> {
    if is_set() { Err(LabError::Unexpected("interrupted".to_owned())) } else { Ok(()) }
}

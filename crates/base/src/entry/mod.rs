//! Where the program's `main` comes in: as the one who types `up`, as the holder, as the base.
//!
//! ```text
//! ipvisor up            takes the lock, becomes the holder          --> __base
//! ipvisor up --detach   takes the lock, starts __holder, waits until it is ready or failed
//! ipvisor __holder      the holder of a detached instance           --> __base
//! ipvisor __base        the base: standard input is the holder's socket
//! ```

mod base;

pub use base::{BaseArguments, Failure, Start, base, causes};

/// How a base or a holder ends: what the command's exit status is too.
pub mod exit {
    /// Ended in order.
    pub const CLEAN: u8 = 0;
    /// Something failed.
    pub const FAILED: u8 = 1;
    /// The configuration or the command line is wrong: nothing was started.
    pub const CONFIGURATION: u8 = 2;
}

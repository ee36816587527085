//! Where the program's `main` comes in: as the one who types `up`, as the holder, as the base.
//!
//! ```text
//! ipvisor up            takes the lock, becomes the holder          --> __base
//! ipvisor up --detach   takes the lock, starts __holder, waits until it is ready or failed
//! ipvisor __holder      the holder of a detached instance           --> __base
//! ipvisor __heir        a holder in the place of one that died, started by its base
//! ipvisor __base        the base: standard input is the holder's socket
//! ipvisor __resolver    answers the guests' DNS: standard input is the base's socket
//! ```

mod base;
mod heir;
mod up;

pub use base::{BaseArguments, ReleaseArguments, Start, base};
pub use heir::{be_heir, heir, start_heir};
pub use up::{
    Detached, HolderArguments, UpArguments, be_detached_holder, detached_holder, start_detached,
    up, up_detached,
};

use std::error::Error;

/// How a base or a holder ends: what the command's exit status is too.
pub mod exit {
    /// Ended in order.
    pub const CLEAN: u8 = 0;
    /// Something failed.
    pub const FAILED: u8 = 1;
    /// The configuration or the command line is wrong: nothing was started.
    pub const CONFIGURATION: u8 = 2;
}

/// Why a process of the instance ends: what it says last, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of [`exit`].
    pub status: u8,
    /// For people, possibly of several lines.
    pub message: String,
}

impl Failure {
    /// The configuration is wrong, as `message` shows.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { status: exit::CONFIGURATION, message: message.into() }
    }

    /// Something failed, as `message` says.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { status: exit::FAILED, message: message.into() }
    }

    /// Whether the message says by itself what is the error in it: a report on a configuration, or
    /// all that a process of the instance has said.
    pub fn is_report(&self) -> bool {
        self.message.lines().any(|line| line.starts_with("error"))
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::failed(causes(&error))
    }
}

/// An error and all that caused it, in one line.
pub fn causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}

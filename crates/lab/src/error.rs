//! What can go wrong in the lab itself: always with the command, file or peer it happened at.
//!
//! A test unwraps these; so `Debug` prints what a person needs, the whole chain of causes included.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why a part of the lab did not do what it was asked.
#[derive(thiserror::Error)]
pub enum LabError {
    /// The kernel refused.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program that had to succeed did not.
    #[error("`{command}` ended with {status}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// Something that had to happen did not happen in time.
    #[error("not within {limit:?}: {what}")]
    Timeout {
        /// What was waited for, and what was seen instead.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Unexpected(String),
}

impl fmt::Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Short for results of the lab.
pub type Result<T> = std::result::Result<T, LabError>;

/// Names what was attempted when a call to the kernel failed.
pub trait Attempt<T> {
    /// Turns the kernel's error into one that says what was attempted.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| LabError::Io { what: what(), source: e.into() })
    }
}

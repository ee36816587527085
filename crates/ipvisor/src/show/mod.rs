//! Answers on standard output: tables for people, JSON for programs.

mod changes;
mod check;
mod counters;
mod events;
mod findings;
mod ps;
mod table;
mod units;

use std::io::{self, Write};

use serde::Serialize;

pub use changes::changes;
pub use check::CheckReport;
pub use counters::counters;
pub use events::event;
pub use findings::{Findings, findings};
pub use ps::ps;
pub use units::{number, per_second, percent, rounded, span};

/// The value as JSON, on one line.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    text(&line)
}

/// A text as it is.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One line that says what was done.
pub fn done(message: &str) -> io::Result<()> {
    writeln!(anstream::stdout(), "ipvisor: {message}")
}

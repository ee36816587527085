//! What is told while it goes on: at a terminal one line that changes, else nothing but notes.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The line.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// An empty line.
    pub fn new() -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// What goes on now.
    pub fn say(&self, what: String) {
        self.bar.set_message(what);
    }

    /// What is to stay.
    pub fn note(&self, what: String) {
        self.bar.suspend(|| println!("{what}"));
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

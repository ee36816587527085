//! `doctor`: one line for each thing that was looked at, and the sum.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use base::doctor::{Finding, Level};
use serde::Serialize;

use super::units::number;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// Whether there is no error.
    pub healthy: bool,
    findings: Vec<Finding>,
}

impl Findings {
    /// What was found.
    pub fn of(findings: Vec<Finding>) -> Self {
        let healthy = findings.iter().all(|finding| finding.level != Level::Error);
        Self { healthy, findings }
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// Shows them to people.
pub fn findings(all: &Findings) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    for finding in &all.findings {
        let style: Style = match finding.level {
            Level::Ok => AnsiColor::Green.on_default(),
            Level::Warning => AnsiColor::Yellow.on_default(),
            Level::Error => AnsiColor::Red.on_default().bold(),
        };
        writeln!(out, "{style}{:<7}{style:#}  {finding}", finding.level)?;
    }
    let (errors, warnings) = (all.count(Level::Error), all.count(Level::Warning));
    let sum = [(errors, "error"), (warnings, "warning")].map(|(n, what)| number(n, what));
    writeln!(out, "ipvisor: {}", sum.join(", "))?;
    out.flush()
}

//! What went wrong, for people, with what to do about it.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use base::control::{ClientError, RefusalKind};
use base::entry::{causes, exit};

/// A command that was not carried out.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: u8,
    message: String,
    hint: Option<String>,
    /// The message says by itself that it is an error.
    finished: bool,
}

impl Failure {
    /// It failed.
    pub fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: exit::FAILED, message, hint: None, finished: false }
    }

    /// The same with what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The configuration is wrong: `report` shows where and what to write instead.
    pub fn configuration(report: impl Into<String>) -> Self {
        let message = report.into();
        Self { status: exit::CONFIGURATION, message, hint: None, finished: true }
    }

    /// Writes it to standard error.
    pub fn show(&self) {
        let mut out = anstream::stderr();
        let red: Style = AnsiColor::Red.on_default().bold();
        let cyan: Style = AnsiColor::Cyan.on_default().bold();
        // Whoever closed our standard error does not want to know.
        let _ = if self.finished {
            writeln!(out, "{}", self.message.trim_end())
        } else {
            writeln!(out, "{red}error{red:#}: {}", self.message.trim_end())
        };
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{cyan}help{cyan:#}: {hint}");
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::NotRunning { .. } => {
                Some("start one by `ipvisor up FILE`, or name its directory by --state-dir".into())
            }
            ClientError::NotAllowed { .. } => Some("only the user who started it may".into()),
            ClientError::Wire(_) => {
                Some("this command and the running instance may be of different versions".into())
            }
            ClientError::Refused(refusal) => refusal.hint.clone(),
            ClientError::Connection { .. } | ClientError::Ended => None,
        };
        if let ClientError::Refused(refusal) = &error
            && refusal.kind == RefusalKind::Configuration
        {
            return Self::configuration(refusal.message.clone());
        }
        let status = match &error {
            ClientError::Refused(r) if r.kind == RefusalKind::BadRequest => exit::CONFIGURATION,
            _ => exit::FAILED,
        };
        Self { status, hint, ..Self::new(causes(&error)) }
    }
}

impl From<base::state_dir::StateDirError> for Failure {
    fn from(error: base::state_dir::StateDirError) -> Self {
        Self::new(causes(&error))
    }
}

impl From<base::entry::Failure> for Failure {
    fn from(failure: base::entry::Failure) -> Self {
        let finished = failure.is_report();
        Self { status: failure.status, finished, ..Self::new(failure.message) }
    }
}

/// Writing the answer failed. A reader that has had enough, as in `ipvisor ps | head -1`, is no
/// failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            io::ErrorKind::BrokenPipe => exit::CLEAN,
            _ => exit::FAILED,
        };
        let message = if status == exit::CLEAN { String::new() } else { error.to_string() };
        Self { status, finished: message.is_empty(), ..Self::new(message) }
    }
}

/// A word while somebody waits. Only for people: nothing is written where nobody watches.
pub fn tell(message: &str) {
    if io::stderr().is_terminal() {
        let _ = writeln!(io::stderr(), "{message}");
    }
}

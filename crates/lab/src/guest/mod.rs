//! A running guest, as a test sees it: a name, and a shell that answers.
//!
//! # Theory of operation
//! The base forms the guests of a whole-system test; [`Guest::attach`] drives one by the socket of
//! its console. [`Qemu`] boots one without a base, to try the image itself or to measure beside
//! the base.
//!
//! A `Guest` can be shared among threads; its commands run one after the other. What must run
//! beside them is started in the guest's background.

mod console;
mod qemu;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use console::{Console, Output};
pub use qemu::{Options, Qemu};

use crate::command::wait_until;
use crate::error::{LabError, Result};

/// How long a command in a guest may take if nothing else is said.
const LIMIT: Duration = Duration::from_secs(30);

/// One guest.
#[derive(Debug)]
pub struct Guest {
    name: String,
    console: Mutex<Console>,
}

impl Guest {
    /// Attaches to the console at `socket` and waits at most `limit` for the guest's shell. What
    /// passes the console is kept in `log`.
    pub fn attach(name: &str, socket: &Path, log: &Path, limit: Duration) -> Result<Self> {
        let mut console = Console::connect(socket, log, limit)?;
        console.wait_ready(limit)?;
        Ok(Self { name: name.to_owned(), console: Mutex::new(console) })
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The console, for what is not a command.
    pub fn console(&self) -> MutexGuard<'_, Console> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a shell command line.
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_within(command, LIMIT)
    }

    /// Runs a shell command line that may take `limit`.
    pub fn run_within(&self, command: &str, limit: Duration) -> Result<Output> {
        self.console().run(command, limit)
    }

    /// Runs a shell command line that must succeed, and gives what it said.
    pub fn ok(&self, command: &str) -> Result<String> {
        self.run(command)?
            .ok()
            .map_err(|e| LabError::Unexpected(format!("guest {}: `{command}`: {e}", self.name)))
    }

    /// The usable addresses of the guest's card: global ones, past duplicate address detection.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        // `2: eth0    inet6 2001:db8:1::10/128 scope global ...`
        let text = self.ok("ip -o addr show dev eth0 scope global")?;
        let usable = text.lines().filter(|l| !l.contains("tentative") && !l.contains("dadfailed"));
        Ok(usable
            .filter_map(|line| line.split_whitespace().nth(3))
            .filter_map(|address| address.split('/').next()?.parse().ok())
            .collect())
    }

    /// Waits until the guest's card has all these addresses.
    pub fn wait_for_addresses(&self, wanted: &[IpAddr], limit: Duration) -> Result<()> {
        let mut have = Vec::new();
        wait_until(limit, String::new, || {
            have = self.addresses()?;
            Ok(wanted.iter().all(|a| have.contains(a)).then_some(()))
        })
        .map_err(|error| match error {
            LabError::Timeout { .. } => LabError::Timeout {
                what: format!("guest {} has {have:?}, not all of {wanted:?}", self.name),
                limit,
            },
            other => other,
        })
    }
}

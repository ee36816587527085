//! What is written down about a VM, so that a successor knows what its predecessor was about.
//!
//! # Theory of operation
//! `vm/NAME.json` in the state directory, written anew whenever the VM's state changes, whole or not
//! at all (a new file is renamed over the old one). Whether a vessel lives is *not* taken from here
//! but from its lock: the record says only what was wanted of it.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::lifecycle::{Lifecycle, State};

/// The layout of the file.
const VERSION: u32 = 1;

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// What it was doing.
    pub(super) state: State,
    /// Whether it is to be started again when it has stopped.
    #[serde(default)]
    pub(super) again: bool,
    /// Failures since it last ran steadily.
    #[serde(default)]
    pub(super) failures: u32,
    /// How often a vessel was started for it.
    #[serde(default)]
    pub(super) starts: u64,
    /// The last vessel's process.
    #[serde(default)]
    pub(super) pid: Option<u32>,
    /// When that was started: milliseconds since 1970 (UTC).
    #[serde(default)]
    pub(super) started_at: Option<u64>,
    /// Why it is in that state, if it did not come there by wish.
    #[serde(default)]
    pub(super) note: Option<String>,
}

impl Record {
    /// What there is to say about a VM now.
    pub(super) fn of(
        life: &Lifecycle,
        starts: u64,
        pid: Option<u32>,
        started_at: Option<u64>,
        note: Option<String>,
    ) -> Self {
        let (state, again, failures) = (life.state(), life.again(), life.failures());
        Self { version: VERSION, state, again, failures, starts, pid, started_at, note }
    }

    /// Reads what a predecessor wrote. `None`: it wrote nothing.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let octets = match std::fs::read(path) {
            Ok(octets) => octets,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(named(path, &e)),
        };
        let record: Self = serde_json::from_slice(&octets).map_err(|e| named(path, &e))?;
        if record.version != VERSION {
            return Err(named(path, &format!("version {}, not {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    /// Writes it in the place of the one before.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| named(path, &e))?;
        text.push(b'\n');
        let new = path.with_extension("json.new");
        std::fs::write(&new, text).map_err(|e| named(&new, &e))?;
        std::fs::rename(&new, path).map_err(|e| named(path, &e))
    }

    /// How long the vessel has been there.
    pub(super) fn age(&self) -> Duration {
        let started = Duration::from_millis(self.started_at.unwrap_or_else(now));
        Duration::from_millis(now()).saturating_sub(started)
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Milliseconds since 1970 (UTC).
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Restart;

    #[test]
    fn what_was_written_is_read_and_what_nobody_wrote_is_an_error_with_the_files_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.json");
        assert_eq!(Record::read(&path).unwrap(), None);
        let life = Lifecycle::new(Restart::Never, Duration::ZERO);
        let note = Some("because".to_owned());
        let record = Record::of(&life, 3, Some(7), Some(now()), note);
        record.write(&path).unwrap();
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record));
        for wrong in ["", "{}", "{\"version\":9,\"state\":\"running\"}"] {
            std::fs::write(&path, wrong).unwrap();
            let error = Record::read(&path).unwrap_err().to_string();
            assert!(error.contains("web.json"), "{error}");
        }
    }
}

//! The base as a process: which one it is, when it dies, what it and the holder have open.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::Result;
use lab::error::{Attempt, LabError};
use lab::instance::Instance;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Finds the base by the file in which the holder notes it: without asking anybody, so that it costs
/// nothing and works while the base is dead.
#[derive(Clone, Debug)]
pub struct BaseFile(PathBuf);

impl BaseFile {
    /// Of this instance.
    pub fn of(instance: &Instance) -> Self {
        Self(instance.state_dir().join("base"))
    }

    /// The base's process that was started last.
    pub fn process(&self) -> Result<Pid> {
        let path = &self.0;
        // The holder renames a new one over it, so it is whole.
        let text = fs::read_to_string(path).attempt(|| format!("read {}", path.display()))?;
        let number = text.split(' ').next().and_then(|number| number.parse().ok());
        number.and_then(Pid::from_raw).ok_or_else(|| {
            LabError::Unexpected(format!("no process in {}: {text:?}", path.display()))
        })
    }
}

/// One base, held by its process.
#[derive(Debug)]
pub struct Base {
    /// Its process.
    pub pid: Pid,
    handle: rustix::fd::OwnedFd,
}

impl Base {
    /// The base that runs now; `None` if it has just died.
    pub fn now(file: &BaseFile) -> Result<Option<Self>> {
        let pid = file.process()?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(Some(Self { pid, handle })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e).attempt(|| format!("watch process {}", pid.as_raw_pid())),
        }
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            // It was quicker.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e).attempt(|| format!("kill process {}", self.pid.as_raw_pid())),
        }
    }

    /// For how long its threads have run so far, and for how long they have waited for a core.
    pub fn used(&self) -> Option<(Duration, Duration)> {
        let mut sums = (0, 0);
        for task in fs::read_dir(format!("/proc/{}/task", self.pid.as_raw_pid())).ok()? {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            let mut words = text.split_whitespace().map_while(|word| word.parse::<u64>().ok());
            sums = (sums.0 + words.next()?, sums.1 + words.next()?);
        }
        Some((Duration::from_nanos(sums.0), Duration::from_nanos(sums.1)))
    }

    /// Waits until it is dead; `None` if it is not within `limit`.
    pub fn wait_death(&self, limit: Duration) -> Result<Option<Instant>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut set = [PollFd::new(&self.handle, PollFlags::IN)];
            match poll(&mut set, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(Instant::now())),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).attempt(|| "wait for a process".to_owned()),
            }
        }
    }
}

/// What a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Octets of memory that are its own: anonymous, and private copies of files' pages.
    pub memory: u64,
}

impl Holdings {
    /// Of a process.
    pub fn of(pid: Pid) -> Result<Self> {
        let dir = Path::new("/proc").join(pid.as_raw_pid().to_string());
        let count = |name: &str| -> Result<usize> {
            let path = dir.join(name);
            Ok(fs::read_dir(&path).attempt(|| format!("read {}", path.display()))?.count())
        };
        let path = dir.join("smaps_rollup");
        let text = fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))?;
        let value = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name));
            let word = line.and_then(|line| line.split_whitespace().nth(1));
            word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Ok(Self { descriptors: count("fd")?, threads: count("task")?, memory: value("Anonymous:") })
    }
}

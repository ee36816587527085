//! A vessel as its driver sees it: alive, or gone while nobody has said how.

use std::future::pending;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::time::Instant;

use super::lifecycle::Ending;
use crate::engine::spawn::Process;
use crate::readable::Readable;

/// How long the holder may take to say how a vessel ended that is not this base's child.
const HEARSAY: Duration = Duration::from_secs(2);

/// The process of a VM.
#[derive(Debug)]
pub(super) enum Vessel {
    /// There is none.
    None,
    /// It lives, as far as is known.
    Lives {
        /// Its number.
        pid: u32,
        /// Readable when it has ended.
        pidfd: Readable,
    },
    /// It has ended; its parent, the holder, is about to say how.
    Gone {
        /// Its number.
        pid: u32,
        /// When nobody will say it any more.
        until: Instant,
    },
}

impl Vessel {
    /// A process that lives or has just ended. Needs a tokio runtime.
    pub(super) fn new(process: Process) -> io::Result<Self> {
        Ok(Self::Lives { pid: process.pid, pidfd: Readable::new(process.pidfd)? })
    }

    /// A process that ended while nobody looked.
    pub(super) fn gone(pid: u32) -> Self {
        let now = Instant::now();
        Self::Gone { pid, until: now.checked_add(HEARSAY).unwrap_or(now) }
    }

    /// Its number.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Lives { pid, .. } | Self::Gone { pid, .. } => Some(*pid),
        }
    }

    /// Waits for its end. Cancel safe. `None`: it has ended, but another process is its parent; it
    /// is [`Vessel::Gone`] now.
    pub(super) async fn ended(&mut self) -> Option<Ending> {
        match self {
            Self::None => pending().await,
            Self::Lives { pid, pidfd } => {
                let ending = match pidfd.wait().await {
                    Ok(()) => how(pidfd),
                    Err(_) => None,
                };
                if ending.is_none() {
                    *self = Self::gone(*pid);
                }
                ending
            }
            Self::Gone { until, .. } => {
                tokio::time::sleep_until(*until).await;
                Some(Ending::Unknown)
            }
        }
    }

    /// Sends a signal. To one that has ended is no error: its end is about to be noticed.
    pub(super) fn signal(&self, signal: Signal) {
        if let Self::Lives { pidfd, .. } = self {
            let _ = pidfd_send_signal(pidfd.as_fd(), signal);
        }
    }
}

/// How a child ended, and the last of it. `None`: it is somebody else's child.
fn how(pidfd: &Readable) -> Option<Ending> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).ok().flatten()?;
    let code = status.exit_status().map(Ending::Code);
    code.or(status.terminating_signal().map(Ending::Signal))
}

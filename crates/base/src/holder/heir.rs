//! A holder in the place of one that died.
//!
//! # Theory of operation
//! A base whose holder is gone starts another: this. It takes the lock of the state directory, says
//! so, and is given everything that the base had registered with the holder before; from then on it
//! is the holder as any other, of a base that happens not to be its child. That base then asks for
//! a planned switch to one that is.
//!
//! The lock decides who is the holder. If somebody else has it, this process ends, and the base waits
//! for that somebody to tell it to end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, pidfd_open};

use super::child::BaseChild;
use super::process;
use super::protocol::ToBase;
use super::release::{Release, Releases};
use super::{Holder, Options, say};
use crate::entry::exit;
use crate::state_dir::{Lock, StateDir};

/// Is the holder of the instance whose base is at the other end of `socket`, until that ends.
/// Returns the exit status, one of [`exit`].
pub fn inherit(dir: &StateDir, lock: Lock, socket: OwnedFd, options: Options) -> u8 {
    let begun = begin(dir, &lock, socket, options);
    let status = match begun {
        Ok(mut holder) => holder.run(),
        Err(error) => {
            // The base goes on; nothing of its is touched.
            say(&format!("cannot be the holder of the base that runs: {error}"));
            return exit::FAILED;
        }
    };
    dir.remove(lock, status != exit::CLEAN);
    status
}

fn begin<'a>(
    dir: &'a StateDir,
    lock: &Lock,
    socket: OwnedFd,
    options: Options,
) -> Result<Holder<'a>, String> {
    let told = |e: io::Error| e.to_string();
    let pid = rustix::net::sockopt::socket_peercred(&socket).map_err(|e| told(e.into()))?.pid;
    let base = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| told(e.into()))?;
    lock.claim().map_err(told)?;
    let mut holder = Holder::new(dir, options)?;
    let mut base = BaseChild::found(pid, base, socket);
    base.say(&ToBase::Heir(std::process::id()));
    if let Err(error) = process::note_base(&dir.base_file(), pid) {
        say(&format!("cannot note the base's process: {error}"));
    }
    holder.base = Some(base);
    Ok(holder)
}

impl Holder<'_> {
    /// The base that runs says what it is.
    pub(super) fn inherited(
        &mut self,
        generation: u32,
        seconds: u64,
        words: Vec<OsString>,
        binary: Option<OwnedFd>,
    ) {
        self.generation = generation;
        let age = Duration::from_secs(seconds);
        self.started = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        self.releases = Releases::new(Release { binary: binary.map(Arc::new), words });
        let pid = self.base.as_ref().map(|base| base.pid);
        if let Some(pid) = pid {
            say(&format!("is the holder of the base (process {pid}) now"));
        }
    }
}

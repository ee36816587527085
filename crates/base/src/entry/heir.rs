//! How a holder that died gets an heir: its base starts one, and keeps the other end of its socket.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};

use super::Failure;
use super::up::base_program;
use crate::holder::channel;
use crate::holder::process::Program;
use crate::holder::{self, Options};
use crate::state_dir::StateDir;

/// Starts a holder for this base, of the same program. The socket to it, on which it says that it
/// has the lock; or ends, if it cannot have that.
pub fn start_heir(state_dir: &Path) -> io::Result<(Child, OwnedFd)> {
    let words: [OsString; 3] = ["__heir".into(), "--state-dir".into(), state_dir.into()];
    start(&Program::this(words))
}

fn start(program: &Program) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = channel::pair()?;
    let child = program.command().stdin(Stdio::from(theirs)).spawn()?;
    Ok((child, ours))
}

/// Is the holder that `start_heir` has started. Returns the exit status when the instance has ended.
pub fn heir(state_dir: &Path) -> Result<u8, Failure> {
    be_heir(state_dir, Options::new(base_program(state_dir)))
}

/// The same with other options.
pub fn be_heir(state_dir: &Path, options: Options) -> Result<u8, Failure> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    let (dir, lock) = StateDir::lock(state_dir)?;
    Ok(holder::inherit(&dir, lock, socket, Options { detached: true, ..options }))
}

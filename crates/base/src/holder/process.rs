//! Processes: starting a base, reaping what ended, ending what is left over.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, kill_process, pidfd_open,
    pidfd_send_signal, wait,
};

use super::protocol::Ended;

/// A program and its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file to execute.
    pub path: PathBuf,
    /// Its arguments, the name not among them.
    pub arguments: Vec<OsString>,
    /// Environment variables besides the holder's own.
    pub environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// This very program with `arguments`: the file that runs, even if it was replaced on disk.
    pub fn this<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            path: PathBuf::from("/proc/self/exe"),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
        }
    }

    /// The command to start it, under the name `ipvisor`.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0("ipvisor").args(&self.arguments);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }
}

/// Starts a base with its end of the socket as standard input, and its messages where the holder's
/// go. It gets a process group of its own, so that a terminal's Ctrl-C reaches the holder only.
pub fn start_base(program: &Program, socket: OwnedFd) -> io::Result<Pid> {
    let child = program
        .command()
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?))
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_child(&child))
}

/// The next child that has ended, if any has.
pub fn reap() -> Option<(Pid, Ended)> {
    let (pid, status) = wait(WaitOptions::NOHANG).ok()??;
    let ended = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signaled(signal.unwrap_or_default()),
    };
    Some((pid, ended))
}

/// This process's children, whichever thread started them.
pub fn children() -> HashSet<i32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut children = HashSet::new();
    for text in texts {
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    children
}

/// Kills and reaps all children but `spared`, and theirs as they become ours.
pub fn kill_children(spared: &HashSet<i32>) {
    // Each round reaps a generation at least; a child that cannot die (uninterruptible) ends it.
    for _ in 0..200 {
        while reap().is_some() {}
        let doomed = children();
        let mut doomed = doomed.difference(spared).filter_map(|&pid| Pid::from_raw(pid)).peekable();
        if doomed.peek().is_none() {
            return;
        }
        for pid in doomed {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Raises the limit of open files as far as this process may, and returns it.
pub fn raise_open_files() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most: u64 = fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1 << 20);
    let both = Rlimit { current: Some(most), maximum: Some(most) };
    let soft = Rlimit { current: limit.maximum.or(Some(most)), maximum: limit.maximum };
    if rustix::process::setrlimit(Resource::Nofile, both).is_err() {
        let _ = rustix::process::setrlimit(Resource::Nofile, soft);
    }
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// When process `pid` started, in the kernel's ticks since boot: tells it from a later process with
/// the same number.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; field 22 is the 20th after it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Writes which process the base is, for a later holder.
pub fn note_base(file: &Path, pid: Pid) -> io::Result<()> {
    let pid = pid.as_raw_pid();
    // Renamed over the old one: whoever reads meanwhile reads one of the two.
    let new = file.with_extension("new");
    fs::write(&new, format!("{pid} {}\n", started(pid).unwrap_or(0)))?;
    fs::rename(new, file)
}

/// Ends the base that a holder which is gone left running: in order first, by force after `patience`.
pub fn end_leftover_base(file: &Path, patience: Duration) -> Option<i32> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let (pid, start): (i32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Compared after the pidfd was opened: from here on it is that process or none.
    if started(pid) != Some(start) {
        return None;
    }
    pidfd_send_signal(&pidfd, Signal::TERM).ok()?;
    if !wait_for_end(&pidfd, patience) {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        wait_for_end(&pidfd, Duration::from_secs(10));
    }
    Some(pid)
}

/// Waits until the process behind `pidfd` ends; false if it has not after `patience`.
pub fn wait_for_end(pidfd: &OwnedFd, patience: Duration) -> bool {
    let deadline = std::time::Instant::now().checked_add(patience);
    loop {
        let left =
            deadline.map_or(patience, |d| d.saturating_duration_since(std::time::Instant::now()));
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref()) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_base_is_ended_and_a_stranger_with_its_number_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("base");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);

        fs::write(&file, format!("{} 1\n", pid.as_raw_pid())).unwrap();
        assert_eq!(end_leftover_base(&file, Duration::from_secs(5)), None);
        assert!(child.try_wait().unwrap().is_none(), "a stranger was killed");

        note_base(&file, pid).unwrap();
        let ended = end_leftover_base(&file, Duration::from_secs(5));
        assert_eq!(ended, Some(pid.as_raw_pid()));
        child.wait().unwrap();
    }
}

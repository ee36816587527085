//! Starts a vessel, and finds one again that another base started.
//!
//! # Theory of operation
//! Every VM has a lock file. The vessel inherits it open and locked, so the lock is held exactly as
//! long as the vessel lives, whatever becomes of the base; between fork and exec the vessel itself
//! writes its process number there. So at no moment is there a vessel that a successor cannot find:
//!
//! ```text
//! lock free                 no vessel lives
//! lock held, number there   that process is the vessel: it is opened, and the lock looked at again,
//!                           so that a number which was used anew meanwhile is not believed
//! lock held, no number      it was forked a moment ago: look again
//! ```
//! A vessel has its own session (a signal to the base's terminal is not meant for it), no
//! parent-death signal, and of the base's descriptors only those it is given.
//!
//! # Unsafe
//! What a process does between fork and exec cannot be said in safe Rust. This file is the only one
//! of the crate with such code; it makes system calls only, as is allowed there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Everything that starting takes.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program's file.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// The descriptors that it inherits, under their numbers.
    pub inherit: &'a [BorrowedFd<'a>],
    /// Where its output and its complaints go.
    pub log: &'a File,
    /// Where it runs.
    pub directory: &'a Path,
}

/// A vessel that lives, or has just ended.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// A VM's lock file, held by this process: no vessel lives, and none can be started but by
/// [`Lock::launch`].
#[derive(Debug)]
pub struct Lock(File);

/// What is found in a lock file's place.
#[derive(Debug)]
pub enum Vacancy {
    /// No vessel lives.
    Free(Lock),
    /// This one does.
    Taken(Process),
}

/// Times to look again at a vessel that was forked a moment ago.
const PATIENCE: u32 = 200;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

impl Lock {
    /// Takes the lock, or finds the vessel that has it.
    pub fn take(path: &Path) -> io::Result<Vacancy> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(named)?;
        for _ in 0..PATIENCE {
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Vacancy::Free(Self(file)));
            }
            if let Some(process) = holder(&mut file)?
                && flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
            {
                return Ok(Vacancy::Taken(process));
            }
            std::thread::sleep(PAUSE);
        }
        Err(named(io::Error::other("locked by a process that does not say its number")))
    }

    /// Starts the vessel, which takes the lock over.
    pub fn launch(self, launch: &Launch<'_>) -> io::Result<Process> {
        let Self(lock) = self;
        rustix::fs::ftruncate(&lock, 0)?;
        let mut inherit: Vec<RawFd> = launch.inherit.iter().map(|fd| fd.as_raw_fd()).collect();
        inherit.push(lock.as_raw_fd());
        let number_to = lock.as_raw_fd();
        let mut command = Command::new(launch.program);
        command
            .args(launch.arguments)
            .env_clear()
            .current_dir(launch.directory)
            .stdin(Stdio::null())
            .stdout(launch.log.try_clone()?)
            .stderr(launch.log.try_clone()?);
        // SAFETY: the closure runs in the child between fork and exec, where other threads' locks
        // may be held for ever: it makes system calls on numbers and on its own stack, allocates
        // nothing and takes no lock. The descriptors are open: `lock` and what `launch` borrows
        // outlive `spawn`.
        unsafe { command.pre_exec(move || become_vessel(&inherit, number_to)) };
        let child = command.spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("cannot start {}: {e}", launch.program.display()))
        })?;
        // The child is neither waited for nor killed by its handle: it is known by its pidfd.
        let pid = child.id();
        let pidfd = open(pid)?;
        Ok(Process { pid, pidfd })
    }
}

/// What a child does to become a vessel. Runs between fork and exec: no allocation, no lock.
fn become_vessel(inherit: &[RawFd], number_to: RawFd) -> io::Result<()> {
    let done = |result: libc::c_int| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: none of these calls has a pointer.
    unsafe {
        done(libc::setsid())?;
        libc::umask(0o077);
        let all = (3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        done(libc::close_range(all.0, all.1, all.2 as libc::c_int))?;
        for fd in inherit {
            done(libc::fcntl(*fd, libc::F_SETFD, 0))?;
        }
    }
    let mut text = [b'\n'; 11];
    // SAFETY: no argument, and it cannot fail.
    let mut number = unsafe { libc::getpid() }.unsigned_abs();
    let mut start = text.len().saturating_sub(1);
    while let Some(slot) = start.checked_sub(1).and_then(|i| text.get_mut(i)) {
        *slot = b'0'.wrapping_add((number % 10) as u8);
        start = start.saturating_sub(1);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let digits = text.get(start..).unwrap_or_default();
    // SAFETY: pointer and length are those of a slice on this stack.
    let written = unsafe { libc::pwrite(number_to, digits.as_ptr().cast(), digits.len(), 0) };
    done(libc::c_int::try_from(written).unwrap_or(-1))
}

/// The process whose number is in the lock file, if it is there and alive.
fn holder(file: &mut File) -> io::Result<Option<Process>> {
    let mut text = String::new();
    file.rewind()?;
    file.by_ref().take(32).read_to_string(&mut text)?;
    let Some(pid) = text.strip_suffix('\n').and_then(|n| n.parse().ok()) else { return Ok(None) };
    match open(pid) {
        Ok(pidfd) => Ok(Some(Process { pid, pidfd })),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a process by its number.
fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The program's file: what a shell would start.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    let fallback = || OsString::from("/usr/local/bin:/usr/bin:/bin");
    let path = std::env::var_os("PATH").unwrap_or_else(fallback);
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(executable)
}

impl Process {
    /// The process behind a pidfd that somebody else opened. `None`: it has ended.
    pub fn from_pidfd(pidfd: OwnedFd) -> Option<Self> {
        let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let info = std::fs::read_to_string(path).ok()?;
        let line = info.lines().find_map(|l| l.strip_prefix("Pid:"))?;
        let pid = line.trim().parse().ok()?;
        Some(Self { pid, pidfd })
    }

    /// The process as a descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

    fn shell(lock: Lock, script: &str, dir: &Path, inherit: &[BorrowedFd<'_>]) -> Process {
        let log = File::create(dir.join("log")).unwrap();
        let arguments = ["-c".into(), script.into()];
        let program = find_program("sh").unwrap();
        let launch =
            Launch { program: &program, arguments: &arguments, inherit, log: &log, directory: dir };
        lock.launch(&launch).unwrap()
    }

    fn free(path: &Path) -> Lock {
        match Lock::take(path).unwrap() {
            Vacancy::Free(lock) => lock,
            Vacancy::Taken(process) => panic!("{process:?} lives"),
        }
    }

    fn wait(process: &Process) -> Option<i32> {
        let ended = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED).unwrap();
        ended.unwrap().exit_status()
    }

    #[test]
    fn a_vessel_inherits_what_it_is_given_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let given = File::open("/dev/null").unwrap();
        // One that would leak if only the usual flag kept it from the vessel.
        let other = File::open("/dev/zero").unwrap();
        rustix::io::fcntl_setfd(&other, rustix::io::FdFlags::empty()).unwrap();
        let lock = free(&dir.path().join("pid"));
        let process = shell(
            lock,
            "ls -l /proc/$$/fd; cut -d' ' -f6 /proc/$$/stat",
            dir.path(),
            &[given.as_fd()],
        );
        assert_eq!(wait(&process), Some(0));
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let expected = format!(" {} -> /dev/null", given.as_raw_fd());
        assert!(log.contains(&expected) && log.contains("/pid"), "{log}");
        assert!(!log.contains("/dev/zero"), "{log}");
        assert_eq!(log.lines().last().unwrap().trim(), process.pid.to_string(), "own session");
    }

    #[test]
    fn a_successor_finds_the_vessel_by_its_lock_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let process = shell(free(&path), "exec sleep 600", dir.path(), &[]);
        let Vacancy::Taken(found) = Lock::take(&path).unwrap() else { panic!("not found") };
        assert_eq!(found.pid, process.pid);
        let kept = process.pidfd.try_clone().unwrap();
        assert_eq!(Process::from_pidfd(kept).unwrap().pid, process.pid);
        pidfd_send_signal(&found.pidfd, Signal::KILL).unwrap();
        assert_eq!(wait(&process), None);
        assert!(Process::from_pidfd(process.pidfd).is_none());
        free(&path);
    }

    #[test]
    fn an_old_number_in_a_free_lock_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        let process = shell(free(&path), "true", dir.path(), &[]);
        assert_eq!(wait(&process), Some(0));
        let number = std::fs::read_to_string(&path).unwrap();
        assert_eq!(number.trim(), process.pid.to_string());
    }

    #[test]
    fn a_program_that_is_not_there_is_named_and_the_lock_comes_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let log = File::create(dir.path().join("log")).unwrap();
        let launch = Launch {
            program: Path::new("/nonexistent/qemu"),
            arguments: &[],
            inherit: &[],
            log: &log,
            directory: dir.path(),
        };
        let error = free(&path).launch(&launch).unwrap_err().to_string();
        assert!(error.starts_with("cannot start /nonexistent/qemu: "), "{error}");
        free(&path);
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}

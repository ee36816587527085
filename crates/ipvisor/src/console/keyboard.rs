//! Who types at a VM's console: one at a time, told by a lock.
//!
//! # Why it exists
//! Two who type into one serial line make nonsense of it, and QEMU's socket takes one client at a
//! time: a second one would be connected and heard by nobody. So whoever wants to type has this lock
//! first. It is a file and its lock, between the commands alone: the base has no part in it, so it may
//! die meanwhile.
//!
//! # Theory of operation
//! ```text
//! lock free              taken; the file then says which process has it
//! lock held              this process does: whoever comes later watches
//! lock held, --take      a line is added to the file, which the one who has it sees within a moment:
//!                        it hangs up and goes on watching. One that does not see it, because its
//!                        terminal hangs, is ended (SIGTERM).
//! ```
//! A command that ends, in whatever way, lets go of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long the one who has it may take to let go, and again when it was told to end.
const LET_GO: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// The lock, held.
#[derive(Debug)]
pub struct Keyboard {
    file: File,
    /// Octets of the file as long as nobody else wants it.
    length: u64,
}

/// What came of wanting it.
#[derive(Debug)]
pub enum Outcome {
    /// It is ours.
    Ours(Keyboard),
    /// Somebody has it: this process, if it has said so.
    Theirs(Option<u32>),
}

impl Keyboard {
    /// Takes it if it is free, and with `take` from whoever has it.
    pub fn want(path: &Path, take: bool) -> io::Result<Outcome> {
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(path)?;
        let mut file = match Self::try_lock(file)? {
            Ok(ours) => return Ok(Outcome::Ours(ours)),
            Err(file) => file,
        };
        if !take {
            return Ok(Outcome::Theirs(owner(&mut file)?));
        }
        writeln!(file, "{} wants it", std::process::id())?;
        let mut file = match Self::wait(file)? {
            Ok(ours) => return Ok(Outcome::Ours(ours)),
            Err(file) => file,
        };
        end_owner(&mut file)?;
        match Self::wait(file)? {
            Ok(ours) => Ok(Outcome::Ours(ours)),
            Err(mut file) => Ok(Outcome::Theirs(owner(&mut file)?)),
        }
    }

    fn try_lock(mut file: File) -> io::Result<Result<Self, File>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                let length = file.metadata()?.len();
                Ok(Ok(Self { file, length }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Err(file)),
            Err(error) => Err(error.into()),
        }
    }

    fn wait(mut file: File) -> io::Result<Result<Self, File>> {
        let begin = Instant::now();
        while begin.elapsed() < LET_GO {
            match Self::try_lock(file)? {
                Ok(ours) => return Ok(Ok(ours)),
                Err(again) => file = again,
            }
            sleep(PAUSE);
        }
        Ok(Err(file))
    }

    /// Whether somebody else wants it.
    pub fn is_wanted(&self) -> bool {
        // A file that cannot be looked at is wanted by nobody.
        self.file.metadata().is_ok_and(|file| file.len() != self.length)
    }
}

/// The process that has it: the file's first line.
fn owner(file: &mut File) -> io::Result<Option<u32>> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(64).read_to_string(&mut text)?;
    Ok(text.split_once('\n').and_then(|(line, _)| line.parse().ok()))
}

/// Tells the process that has it to end.
fn end_owner(file: &mut File) -> io::Result<()> {
    let Some(number) = owner(file)? else { return Ok(()) };
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return Ok(());
    };
    // Only one who holds the lock has its number there, and it cannot be used anew while the pidfd is
    // open: if it still stands there, it is the owner's.
    if owner(file)? == Some(number) && flock(&*file, FlockOperation::NonBlockingLockShared).is_err()
    {
        // One that has ended meanwhile is as good.
        let _ = pidfd_send_signal(&process, Signal::TERM);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn ours(path: &Path, take: bool) -> Keyboard {
        match Keyboard::want(path, take).unwrap() {
            Outcome::Ours(keyboard) => keyboard,
            Outcome::Theirs(pid) => panic!("{pid:?} has it"),
        }
    }

    #[test]
    fn the_first_has_it_until_it_ends_and_a_second_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.keyboard");
        let first = ours(&path, false);
        match Keyboard::want(&path, false).unwrap() {
            Outcome::Theirs(pid) => assert_eq!(pid, Some(std::process::id())),
            Outcome::Ours(_) => panic!("two have it"),
        }
        assert!(!first.is_wanted());
        drop(first);
        ours(&path, false);
    }

    #[test]
    fn one_that_lets_go_when_it_is_wanted_is_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.keyboard");
        let first = ours(&path, false);
        let second = std::thread::spawn(move || ours(&path, true));
        let begin = Instant::now();
        while !first.is_wanted() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            sleep(PAUSE);
        }
        drop(first);
        assert!(!second.join().unwrap().is_wanted());
    }

    #[test]
    fn one_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.keyboard");
        // It has the lock, has said its number, and never looks.
        let script = r#"exec 9>>"$0"; flock 9; echo $$ >"$0"; exec sleep 600"#;
        let mut hangs = Command::new("sh").args(["-c", script]).arg(&path).spawn().unwrap();
        let begin = Instant::now();
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')) {
            assert!(begin.elapsed() < Duration::from_secs(60));
            sleep(PAUSE);
        }
        ours(&path, true);
        assert!(!hangs.wait().unwrap().success());
    }
}

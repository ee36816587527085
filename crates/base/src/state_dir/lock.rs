//! The lock of a state directory: who has it is the instance.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::StateDir;

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another instance has it.
    #[error("{}", held(.path, *.process))]
    Held {
        /// The state directory.
        path: PathBuf,
        /// Its holder, if it says.
        process: Option<u32>,
    },
    /// The file could not be made, locked or written.
    #[error("cannot lock {}", .path.display())]
    File {
        /// The lock's file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What a lock's file says in its second line.
const MADE: &str = "made the directory\n";

fn held(path: &Path, process: Option<u32>) -> String {
    let who = process.map_or(String::new(), |p| format!(" (process {p})"));
    let dir = path.display();
    format!(
        "an instance already runs with the state directory {dir}{who}: \
         end it by `ipvisor down --state-dir {dir}`, or choose another --state-dir for a second one"
    )
}

/// The lock, held for as long as this value or a duplicate of its descriptor lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    made_directory: bool,
}

impl Lock {
    pub(super) fn take(dir: &StateDir, made_directory: bool) -> Result<Self, LockError> {
        let path = dir.lock_file();
        let failed = |source| LockError::File { path: path.clone(), source };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(&path)
                .map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let (process, _) = read(&mut file);
                    return Err(LockError::Held { path: dir.path().to_owned(), process });
                }
                Err(e) => return Err(failed(e.into())),
            }
            // An instance that ended in between may have removed the file we have just locked.
            let ours = file.metadata().map_err(failed)?.ino();
            if std::fs::metadata(&path).is_ok_and(|m| m.ino() == ours) {
                // An instance that died may have made the directory.
                let (_, made_before) = read(&mut file);
                return Ok(Self { file, made_directory: made_directory || made_before });
            }
        }
    }

    /// A lock that was taken by the process that started this one.
    pub fn from_parent(fd: OwnedFd, made_directory: bool) -> Self {
        Self { file: fd.into(), made_directory }
    }

    /// Writes this process into the file, for those who find it locked.
    pub fn claim(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        let made = if self.made_directory { MADE } else { "" };
        write!(file, "{}\n{made}", std::process::id())
    }

    /// Whether the directory was made together with this lock.
    pub fn made_directory(&self) -> bool {
        self.made_directory
    }

    /// The descriptor, for a child process that is to have the lock.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

/// The process that claimed the lock last, and whether the directory was made with it.
fn read(file: &mut File) -> (Option<u32>, bool) {
    let mut text = String::new();
    let _ = file.take(64).read_to_string(&mut text);
    let process = text.lines().next().and_then(|line| line.trim().parse().ok());
    (process.filter(|&p| p > 1), text.lines().any(|line| line.trim() == MADE.trim()))
}

/// The holder of the instance with this state directory, if one runs: asked of the kernel, so that
/// what an instance that died left in the file misleads nobody.
pub fn holder_process(dir: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(dir.join("lock")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(read(&mut file).0),
        Err(e) => Err(e.into()),
    }
}

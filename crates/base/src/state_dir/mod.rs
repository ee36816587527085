//! The directory where a running instance has its sockets, its lock and its accepted configuration.
//!
//! # Theory of operation
//! ```text
//! /run/ipvisor/            0755, or $XDG_RUNTIME_DIR/ipvisor, or what --state-dir says
//!   lock                   held by the holder for as long as it lives; says which process that is,
//!                          and whether `up` made the directory
//!   base                   process of the base and when it started
//!   control.sock           see `control`
//!   accepted.N.toml        configurations that were accepted: the one that runs, which a successor
//!                          reads, and for a while the one before it
//!   refused.json           the VMs' addresses that somebody on the LAN has, by network
//!   ports/NAME.sock        vhost-user sockets of ports that listen
//!   vm/                    0700: consoles and other sockets of the VMs
//!   log                    messages of a detached instance, with log.1 before it
//! ```
//! Two instances live beside each other when their directories differ. The directory belongs to
//! one instance at a time, so what an instance that died left in it is removed before the next. Only
//! the VMs' own files stay as long as a VM lives: the next instance finds it by them.
//!
//! # Invariants
//! - Nothing in the directory is changed without the lock.
//! - The path of every socket fits `sockaddr_un`: that is checked before anything is started.
//! - A directory that somebody else could tamper with is refused.

mod lock;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, access, flock};

pub use lock::{Lock, LockError, holder_process};

/// Where refused addresses are noted.
const REFUSED: &str = "refused.json";
const REFUSED_NEW: &str = "refused.json.new";
/// A copy that is being written.
const ACCEPTED_NEW: &str = "accepted.new";

/// Octets of the longest path of a Unix socket.
pub const MAX_SOCKET_PATH: usize = 107;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// There is no place for it by default.
    #[error(
        "no state directory: not root, and XDG_RUNTIME_DIR is not set; name one by --state-dir"
    )]
    NoDefault,
    /// A socket's path is too long for the kernel.
    #[error(
        "the socket path {} has {} octets, the kernel allows {MAX_SOCKET_PATH}: choose a shorter --state-dir",
        .0.display(), .0.as_os_str().len()
    )]
    PathTooLong(PathBuf),
    /// It is not a directory.
    #[error("{} is not a directory: choose another --state-dir", .0.display())]
    NotADirectory(PathBuf),
    /// Somebody else owns it or may write to it.
    #[error(
        "{} belongs to user {owner} and has mode {mode:03o}: others could replace its sockets; choose another --state-dir",
        .path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// A file operation failed.
    #[error("cannot {what} {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another instance uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// An instance's state directory: the names in it. Holding one proves nothing; see [`Lock`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir(PathBuf);

/// Where an instance's state is when nobody says otherwise.
pub fn default_path() -> Result<PathBuf, StateDirError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/run/ipvisor"));
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => Ok(PathBuf::from(dir).join("ipvisor")),
        _ => Err(StateDirError::NoDefault),
    }
}

/// The control socket below the state directory `dir`.
pub fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// Whether an instance could keep its state at `path`, and the process of the holder if one does so
/// now. Nothing is made.
pub fn look(path: &Path) -> Result<Option<u32>, StateDirError> {
    let failed = |what, source| StateDirError::File { what, path: path.to_owned(), source };
    let writable =
        |dir: &Path| access(dir, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from);
    if !path.exists() {
        let absolute = std::path::absolute(path).map_err(|e| failed("find", e))?;
        let parent = absolute.parent().unwrap_or(Path::new("/"));
        writable(parent).map_err(|e| failed("make the directory", e))?;
        return fits(control_socket(&absolute)).map(|_| None);
    }
    let dir = StateDir(fs::canonicalize(path).map_err(|e| failed("find", e))?);
    dir.check()?;
    writable(dir.path()).map_err(|e| failed("write to", e))?;
    holder_process(path).map_err(|e| failed("read the lock of", e))
}

impl StateDir {
    /// The directory at `path`, without looking at it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory, or checks the one that is there, and takes its lock.
    pub fn lock(path: &Path) -> Result<(Self, Lock), StateDirError> {
        let failed = |what, source| StateDirError::File { what, path: path.to_owned(), source };
        let made = match fs::DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            Err(e) => return Err(failed("make the directory", e)),
        };
        let path = fs::canonicalize(path).map_err(|e| failed("find", e))?;
        let dir = Self(path);
        let prepared = dir.check().and_then(|()| Ok(Lock::take(&dir, made)?));
        match prepared {
            Ok(lock) => Ok((dir, lock)),
            Err(error) => {
                if made {
                    let _ = fs::remove_dir(&dir.0);
                }
                Err(error)
            }
        }
    }

    fn check(&self) -> Result<(), StateDirError> {
        let path = || self.0.clone();
        let meta = fs::metadata(&self.0).map_err(|source| StateDirError::File {
            what: "look at",
            path: path(),
            source,
        })?;
        if !meta.is_dir() {
            return Err(StateDirError::NotADirectory(path()));
        }
        let mode = meta.mode() & 0o777;
        if meta.uid() != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
            return Err(StateDirError::NotOurs { path: path(), owner: meta.uid(), mode });
        }
        fits(self.control_socket()).map(drop)
    }

    /// Removes what an instance that is gone left behind, and makes the subdirectories.
    pub fn renew(&self, _lock: &Lock) -> Result<(), StateDirError> {
        self.clear();
        for (name, mode) in [("ports", 0o755), ("vm", 0o700)] {
            let path = self.0.join(name);
            match fs::DirBuilder::new().mode(mode).create(&path) {
                Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                    return Err(StateDirError::File { what: "make the directory", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what the base made: everything but the lock and the messages, and what belongs to
    /// VMs as long as one lives.
    fn clear(&self) {
        let _ = fs::remove_dir_all(self.0.join("ports"));
        if !self.vessels_live() {
            let _ = fs::remove_dir_all(self.0.join("vm"));
        }
        for file in ["control.sock", REFUSED, REFUSED_NEW, "base", "base.new"] {
            let _ = fs::remove_file(self.0.join(file));
        }
        self.forget_accepted(|_| true);
    }

    /// Whether the lock of any VM is held.
    fn vessels_live(&self) -> bool {
        let files = fs::read_dir(self.vm_directory()).into_iter().flatten().flatten();
        let mut locks =
            files.map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "pid"));
        locks.any(|path| {
            let file = fs::File::open(path);
            file.is_ok_and(|f| flock(&f, FlockOperation::NonBlockingLockShared).is_err())
        })
    }

    /// Removes everything, the lock last, and the directory itself if this instance made it. The
    /// messages stay if somebody should read them.
    pub fn remove(&self, lock: Lock, keep_messages: bool) {
        self.clear();
        if !keep_messages {
            for file in [self.log_file(), self.old_log_file()] {
                let _ = fs::remove_file(file);
            }
        }
        let made = lock.made_directory();
        let _ = fs::remove_file(self.lock_file());
        if made {
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.0)
    }

    /// The name of the copy of an instance's first configuration.
    pub const FIRST_ACCEPTED: &str = "accepted.1.toml";

    /// The copy of that name of a configuration that was accepted.
    pub fn accepted_config(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A name for the next copy.
    pub fn next_accepted(&self) -> String {
        let last = self.accepted().into_iter().map(|(number, _)| number).max().unwrap_or(0);
        format!("accepted.{}.toml", last.saturating_add(1))
    }

    /// Writes a copy of a configuration that was accepted: whole or not at all.
    pub fn accept_config(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.0.join(ACCEPTED_NEW);
        // Made anew: an older one could have another mode. Variables may be secrets.
        let _ = fs::remove_file(&new);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, self.accepted_config(name))
    }

    /// Removes copies older than `name`: nobody goes back to them any more.
    pub fn forget_accepted_before(&self, name: &str) {
        if let Some(own) = number_of(name) {
            self.forget_accepted(|number| number < own);
        }
    }

    /// Removes the copy of that name.
    pub fn forget_accepted_copy(&self, name: &str) {
        if let Some(own) = number_of(name) {
            self.forget_accepted(|number| number == own);
        }
    }

    fn forget_accepted(&self, which: impl Fn(u64) -> bool) {
        let _ = fs::remove_file(self.0.join(ACCEPTED_NEW));
        for (_, path) in self.accepted().into_iter().filter(|(number, _)| which(*number)) {
            let _ = fs::remove_file(path);
        }
    }

    /// All copies by number.
    fn accepted(&self) -> Vec<(u64, PathBuf)> {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let numbered =
            |file: fs::DirEntry| Some((number_of(file.file_name().to_str()?)?, file.path()));
        files.filter_map(numbered).collect()
    }

    /// Addresses that somebody else on a LAN has, by network. A successor must not take them up
    /// again, and does not ask: what was answered was answered.
    pub fn refused(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let text = fs::read(self.0.join(REFUSED)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Notes them: whole or not at all.
    pub fn note_refused(&self, refused: &BTreeMap<String, Vec<IpAddr>>) -> io::Result<()> {
        let new = self.0.join(REFUSED_NEW);
        fs::write(&new, serde_json::to_vec(refused)?)?;
        fs::rename(&new, self.0.join(REFUSED))
    }

    /// Where port `name` listens for its front end.
    pub fn port_socket(&self, name: &str) -> Result<PathBuf, StateDirError> {
        fits(self.0.join("ports").join(format!("{name}.sock")))
    }

    /// A socket of VM `name` that only this user may open: `console`, `monitor` and so on.
    pub fn vm_socket(&self, name: &str, what: &str) -> Result<PathBuf, StateDirError> {
        fits(self.0.join("vm").join(format!("{name}.{what}")))
    }

    /// Directory of the VMs' own files.
    pub fn vm_directory(&self) -> PathBuf {
        self.0.join("vm")
    }

    /// What the console of VM `name` has shown, behind what is in its [`older_log`].
    pub fn vm_console_log(&self, name: &str) -> PathBuf {
        self.vm_directory().join(format!("{name}.console.log"))
    }

    /// Messages of a detached instance.
    pub fn log_file(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Messages before those in [`Self::log_file`].
    pub fn old_log_file(&self) -> PathBuf {
        older_log(&self.log_file())
    }

    /// Says which process the base is.
    pub(crate) fn base_file(&self) -> PathBuf {
        self.0.join("base")
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }
}

/// Where the log is put that is begun anew, or the end of one that is cut.
pub fn older_log(log: &Path) -> PathBuf {
    let mut older = log.as_os_str().to_owned();
    older.push(".1");
    older.into()
}

/// The number in the name of a copy.
fn number_of(accepted: &str) -> Option<u64> {
    accepted.strip_prefix("accepted.")?.strip_suffix(".toml")?.parse().ok()
}

fn fits(path: PathBuf) -> Result<PathBuf, StateDirError> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        Ok(path)
    } else {
        Err(StateDirError::PathTooLong(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_instance_is_told_who_holds_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let (dir, lock) = StateDir::lock(&path).unwrap();
        lock.claim().unwrap();
        match StateDir::lock(&path) {
            Err(StateDirError::Lock(LockError::Held { process: Some(process), .. })) => {
                assert_eq!(process, std::process::id());
            }
            other => panic!("{other:?}"),
        }
        dir.remove(lock, false);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_instance_left_is_gone_after_renew_and_foreign_files_stay() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("mine.txt"), "x").unwrap();
        let (dir, lock) = StateDir::lock(temp.path()).unwrap();
        dir.renew(&lock).unwrap();
        fs::write(dir.port_socket("old").unwrap(), "").unwrap();
        let copy = dir.next_accepted();
        assert_eq!(copy, StateDir::FIRST_ACCEPTED);
        dir.accept_config(&copy, "[network.lan]").unwrap();
        dir.renew(&lock).unwrap();
        assert!(!dir.port_socket("old").unwrap().exists());
        assert!(!dir.accepted_config(&copy).exists());
        assert_eq!(fs::metadata(dir.vm_directory()).unwrap().mode() & 0o777, 0o700);
        dir.remove(lock, false);
        let left: Vec<_> = fs::read_dir(temp.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn accepted_copies_are_numbered_and_older_ones_go() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::at(temp.path());
        let names = [1, 2, 3].map(|n| {
            let name = dir.next_accepted();
            dir.accept_config(&name, &n.to_string()).unwrap();
            name
        });
        dir.forget_accepted_before(&names[1]);
        let exist = names.each_ref().map(|name| dir.accepted_config(name).exists());
        assert_eq!(exist, [false, true, true]);
        dir.forget_accepted_copy(&names[2]);
        assert_eq!(dir.next_accepted(), names[2]);
        assert_eq!(fs::read_to_string(dir.accepted_config(&names[1])).unwrap(), "2");
    }

    #[test]
    fn the_files_of_vms_stay_as_long_as_one_lives() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, lock) = StateDir::lock(temp.path()).unwrap();
        dir.renew(&lock).unwrap();
        let path = dir.vm_directory().join("web.pid");
        let vessel = fs::File::create(&path).unwrap();
        flock(&vessel, FlockOperation::LockExclusive).unwrap();
        dir.renew(&lock).unwrap();
        assert!(path.exists());
        drop(vessel);
        dir.renew(&lock).unwrap();
        assert!(!path.exists() && dir.vm_directory().exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("d".repeat(100));
        let error = StateDir::lock(&path).unwrap_err();
        assert!(matches!(error, StateDirError::PathTooLong(_)), "{error}");
        assert!(error.to_string().contains("107"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn looking_makes_nothing_and_finds_who_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        assert_eq!(look(&path).unwrap(), None);
        assert!(!path.exists());
        let (_, lock) = StateDir::lock(&path).unwrap();
        lock.claim().unwrap();
        assert_eq!(look(&path).unwrap(), Some(std::process::id()));
        drop(lock);
        assert_eq!(look(&path).unwrap(), None);
        let below = temp.path().join("none/state");
        assert!(matches!(
            look(&below),
            Err(StateDirError::File { what: "make the directory", .. })
        ));
        let long = temp.path().join("d".repeat(100));
        assert!(matches!(look(&long), Err(StateDirError::PathTooLong(_))));
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = StateDir::lock(temp.path()).unwrap_err();
        assert!(matches!(error, StateDirError::NotOurs { mode: 0o777, .. }), "{error}");
    }
}

//! Where the lab finds and keeps things.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Attempt, LabError, Result};

/// The workspace's root.
pub fn workspace() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent);
    crates.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// What is built once and kept: packages, kernels, initramfs.
pub fn cache() -> PathBuf {
    workspace().join("target/lab")
}

/// The directory of the programs built beside the one that runs (`target/debug` or the like).
pub fn programs() -> Result<PathBuf> {
    let exe = std::env::current_exe().attempt(|| "find the running program".to_owned())?;
    let mut dir = exe.parent().map(Path::to_path_buf).unwrap_or_default();
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir.pop();
    }
    Ok(dir)
}

/// Names the `ipvisor` program that is to be used instead of the one that belongs to this build.
pub const INSTEAD: &str = "LAB_IPVISOR";

/// The `ipvisor` program that belongs to this build, or the one that [`INSTEAD`] names.
pub fn ipvisor() -> Result<PathBuf> {
    if let Some(instead) = std::env::var_os(INSTEAD) {
        return Ok(instead.into());
    }
    let path = programs()?.join("ipvisor");
    if path.exists() {
        return Ok(path);
    }
    Err(LabError::Unexpected(format!(
        "{} does not exist: run `cargo build -p ipvisor` (same profile) first",
        path.display()
    )))
}

/// The optimised `ipvisor` program, which does wrong where it is told to (feature `fault-injection`), and
/// told nothing is the one that is shipped: for what measures time, or carries millions.
pub fn ipvisor_with_faults() -> Result<PathBuf> {
    let path = programs()?.with_file_name("faults").join("ipvisor");
    if path.exists() {
        return Ok(path);
    }
    Err(LabError::Unexpected(format!(
        "{} does not exist: run `scripts/faults` first",
        path.display()
    )))
}

/// The `ipvisor` program as it is shipped, beside this build whatever its profile: for what is compared
/// with others.
pub fn ipvisor_release() -> Result<PathBuf> {
    let path = programs()?.with_file_name("release").join("ipvisor");
    if path.exists() {
        return Ok(path);
    }
    Err(LabError::Unexpected(format!(
        "{} does not exist: run `cargo build --release -p ipvisor` first",
        path.display()
    )))
}

/// A lock among processes, by file; released when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Waits until no other test needs the machine's cores for itself, and keeps it so.
pub fn alone() -> Result<Lock> {
    Lock::take("alone")
}

impl Lock {
    /// Waits for the lock `name` in the cache directory.
    pub fn take(name: &str) -> Result<Self> {
        let dir = cache();
        fs::create_dir_all(&dir).attempt(|| format!("create {}", dir.display()))?;
        let path = dir.join(format!("{name}.lock"));
        let file = File::create(&path).attempt(|| format!("create {}", path.display()))?;
        flock(&file, FlockOperation::LockExclusive)
            .attempt(|| format!("lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

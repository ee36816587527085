//! The directory for what must outlast an instance, and the machine's own restart.
//!
//! # Theory of operation
//! ```text
//! /var/lib/ipvisor/        0700, or below $XDG_DATA_HOME, or what `data_dir` under [host] says
//!   vm/NAME/               what VM NAME has of its own:
//!     IMAGE.qcow2          its clone of an image, and IMAGE.json: which image that was
//!     uefi-vars.fd         the variables of its UEFI firmware
//! ```
//! Nothing here is ever removed by the base: a VM that is in no configuration any more may be in
//! the next one. Whoever wants to be rid of a VM's disks removes its directory.
//!
//! # Invariants
//! - A VM's directory is made when something is to be put there, not before.
//! - A directory that somebody else could tamper with is refused.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Where it is when the configuration does not say. `None`: not root, and no home directory.
pub fn default_path() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/ipvisor"));
    }
    let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let share = named("XDG_DATA_HOME").or_else(|| Some(named("HOME")?.join(".local/share")));
    share.map(|share| share.join("ipvisor"))
}

/// A VM's own directory below `data_dir`: there already, or made.
pub fn of_vm(data_dir: &Path, vm: &str) -> io::Result<PathBuf> {
    let path = data_dir.join("vm").join(vm);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(named)?;
    let found = fs::metadata(&path).map_err(named)?;
    let (owner, mode) = (found.uid(), found.mode() & 0o777);
    if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        let text = format!("belongs to user {owner} and has mode {mode:03o}: others could write");
        return Err(named(io::Error::other(text)));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_vms_directory_is_made_for_its_owner_only_and_refused_where_others_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let made = of_vm(&dir.path().join("deep/data"), "web").unwrap();
        assert_eq!(made, dir.path().join("deep/data/vm/web"));
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        assert_eq!(of_vm(&dir.path().join("deep/data"), "web").unwrap(), made);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o770)).unwrap();
        let error = of_vm(&dir.path().join("deep/data"), "web").unwrap_err().to_string();
        assert!(error.contains("vm/web: ") && error.contains("mode 770"), "{error}");
    }
}

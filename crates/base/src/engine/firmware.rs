//! UEFI firmware: OVMF's code, shared and only read, and variables of the VM's own.
//!
//! # Theory of operation
//! The package has the code, and variables as they are in a new machine. The first start copies
//! those into the VM's directory; from then on what the guest writes there (which of its loaders to
//! start, and in which order) is found again at the next start. SeaBIOS needs none of this: QEMU
//! finds it by itself.

use std::fs;
use std::io;
use std::path::Path;

use super::disk::OpenDisk;
use crate::config::{Disk, DiskFormat};

/// Where Debian's package `ovmf` has the code without secure boot, and its variables.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// What the copy is called.
const COPY: &str = "uefi-vars.fd";

/// The two flash memories of a machine with UEFI.
#[derive(Debug)]
pub struct Uefi {
    /// The program.
    pub code: OpenDisk,
    /// What it remembers.
    pub variables: OpenDisk,
}

/// Whether the firmware is installed.
pub fn is_installed() -> bool {
    Path::new(CODE).exists() && Path::new(VARIABLES).exists()
}

/// Opens both for the VM whose directory that is.
pub fn open(directory: &Path) -> io::Result<Uefi> {
    open_from(Path::new(CODE), Path::new(VARIABLES), directory)
}

fn open_from(code: &Path, variables: &Path, directory: &Path) -> io::Result<Uefi> {
    let own = directory.join(COPY);
    if !own.try_exists()? {
        let new = directory.join(format!("{COPY}.new"));
        // Not `copy`: the package's file may be read-only, and its mode would go along.
        fs::write(&new, fs::read(variables)?)?;
        fs::rename(&new, &own)?;
    }
    let flash = |path: &Path, readonly| {
        let path = path.to_owned();
        OpenDisk::open(&Disk { path, format: DiskFormat::Raw, readonly, clone: None })
    };
    Ok(Uefi { code: flash(code, true)?, variables: flash(&own, false)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_copied_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (code, variables) = (dir.path().join("code"), dir.path().join("vars"));
        fs::write(&code, "code").unwrap();
        fs::write(&variables, "new").unwrap();
        let own = dir.path().join("own");
        fs::create_dir(&own).unwrap();
        let uefi = open_from(&code, &variables, &own).unwrap();
        assert!(uefi.code.readonly && !uefi.variables.readonly);
        assert_eq!(fs::read(own.join(COPY)).unwrap(), b"new");
        fs::write(own.join(COPY), "remembered").unwrap();
        open_from(&code, &variables, &own).unwrap();
        assert_eq!(fs::read(own.join(COPY)).unwrap(), b"remembered");
        assert_eq!(fs::read(&variables).unwrap(), b"new");
    }
}

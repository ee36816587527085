//! What a configuration says about files, compared with the files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::ledger::DiskId;

/// The first octets of a qcow2 image.
pub(super) const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file, and its first octets.
    File([u8; 4]),
    /// A block device, and its first octets.
    BlockDevice([u8; 4]),
    /// A directory.
    Directory,
    /// A socket, a pipe, a terminal.
    Other,
    /// Not looked at: what it was when the configuration was accepted.
    Unseen,
}

/// Where the reader looks files up: the file system, or a test's idea of one.
pub trait Files {
    /// What is at `path`, symbolic links followed.
    fn look(&self, path: &Path) -> io::Result<Found>;

    /// The octets of a file that the configuration includes; more than `most` are not needed.
    fn read(&self, _path: &Path, _most: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// The names of the files in a directory.
    fn list(&self, _directory: &Path) -> io::Result<Vec<String>> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// Which disk is at `path`, whatever it is called there. `None`: nobody knows.
    fn disk(&self, _path: &Path) -> Option<DiskId> {
        None
    }
}

/// The machine's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Ok(Found::Directory);
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Ok(Found::Other);
        }
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let mut file = File::options().read(true).custom_flags(flags).open(path)?;
        let head = first_octets(&mut file)?;
        Ok(if kind.is_file() { Found::File(head) } else { Found::BlockDevice(head) })
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        File::open(path)?.take((most as u64).saturating_add(1)).read_to_end(&mut octets)?;
        Ok(octets)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(directory)?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn disk(&self, path: &Path) -> Option<DiskId> {
        DiskId::of(path).ok()
    }
}

/// Files that were looked at when the configuration was accepted, and are not looked at again; or
/// those of another machine. What the configuration itself consists of is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsAccepted;

impl Files for AsAccepted {
    fn look(&self, _: &Path) -> io::Result<Found> {
        Ok(Found::Unseen)
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        RealFiles.read(path, most)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(directory)
    }
}

/// The first four octets; zeroes for what a shorter file lacks.
fn first_octets(file: &mut File) -> io::Result<[u8; 4]> {
    let mut read = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut read)?;
    let mut head = [0; 4];
    head.iter_mut().zip(read).for_each(|(to, from)| *to = from);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_directories_and_devices_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        std::fs::write(&image, b"QFI\xfbmore").unwrap();
        std::fs::write(dir.path().join("short"), b"x").unwrap();
        assert_eq!(RealFiles.look(&image).unwrap(), Found::File(QCOW2_MAGIC));
        assert_eq!(RealFiles.look(&dir.path().join("short")).unwrap(), Found::File(*b"x\0\0\0"));
        assert_eq!(RealFiles.look(dir.path()).unwrap(), Found::Directory);
        assert_eq!(RealFiles.look(Path::new("/dev/null")).unwrap(), Found::Other);
        let missing = RealFiles.look(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}

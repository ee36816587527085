//! A VM's disks, opened by the base.
//!
//! # Theory of operation
//! The vessel gets a disk as an open descriptor. One kind cannot be given that way: a qcow2 image
//! with a backing file, which QEMU looks for beside the image; there it gets the path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::qcow2::Header;
use crate::config::{Disk, DiskFormat};

/// A disk, open.
#[derive(Debug)]
pub struct OpenDisk {
    /// How the vessel reaches it.
    pub access: Access,
    /// How its octets are arranged.
    pub format: DiskFormat,
    /// Whether it is a block device rather than a file.
    pub device: bool,
    /// Whether the guest can only read it.
    pub readonly: bool,
    /// What everything is read from that was not written to it, if it is a clone.
    pub over: Option<Box<OpenDisk>>,
}

/// How a vessel reaches a disk.
#[derive(Debug)]
pub enum Access {
    /// By this descriptor.
    Descriptor(OwnedFd),
    /// By name.
    Path(PathBuf),
}

impl OpenDisk {
    /// Opens a disk as the configuration describes it; of a clone, the image.
    pub fn open(disk: &Disk) -> io::Result<Self> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("disk {}: {e}", disk.path.display()));
        let file = File::options()
            .read(true)
            .write(!disk.readonly)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&disk.path)
            .map_err(named)?;
        let kind = file.metadata().map_err(named)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(named(io::Error::other("neither a file nor a block device")));
        }
        let backed = disk.format == DiskFormat::Qcow2 && Header::read(&file).map_err(named)?.backed;
        let access = if backed {
            Access::Path(disk.path.clone())
        } else {
            // O_NONBLOCK has served: the vessel inherits the flags of what it is given.
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty())?;
            Access::Descriptor(file.into())
        };
        let (format, readonly) = (disk.format, disk.readonly);
        Ok(Self { access, format, device: kind.is_block_device(), readonly, over: None })
    }
}

impl OpenDisk {
    /// The descriptors that a vessel must inherit for it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let own = match &self.access {
            Access::Descriptor(fd) => Some(fd.as_fd()),
            Access::Path(_) => None,
        };
        let below = self.over.as_ref().map(|over| over.descriptors()).unwrap_or_default();
        own.into_iter().chain(below).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(backing: u64) -> Vec<u8> {
        let mut image = b"QFI\xfb\0\0\0\x03".to_vec();
        image.extend(backing.to_be_bytes());
        image.resize(512, 0);
        image
    }

    #[test]
    fn a_disk_is_given_by_descriptor_unless_its_backing_file_must_be_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        for (contents, format, by_descriptor) in [
            (vec![0; 512], DiskFormat::Raw, true),
            (qcow2(0), DiskFormat::Qcow2, true),
            (qcow2(104), DiskFormat::Qcow2, false),
            (qcow2(104), DiskFormat::Raw, true),
        ] {
            std::fs::write(&path, contents).unwrap();
            let disk = Disk { path: path.clone(), format, readonly: false, clone: None };
            let open = OpenDisk::open(&disk).unwrap();
            assert_eq!(matches!(open.access, Access::Descriptor(_)), by_descriptor);
        }
    }

    #[test]
    fn an_image_that_names_a_file_for_its_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let disk =
            Disk { path: path.clone(), format: DiskFormat::Qcow2, readonly: true, clone: None };
        for (features, taken) in [(0u64, true), (1, true), (16, true), (4, false), (1 << 40, false)]
        {
            let mut image = qcow2(0);
            image[72..80].copy_from_slice(&features.to_be_bytes());
            std::fs::write(&path, image).unwrap();
            assert_eq!(OpenDisk::open(&disk).is_ok(), taken, "{features:#x}");
        }
    }

    #[test]
    fn what_is_no_disk_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::write(&path, [0; 512]).unwrap();
        for (path, format) in [
            (path, DiskFormat::Qcow2),
            (dir.path().join("none"), DiskFormat::Raw),
            (PathBuf::from("/dev/null"), DiskFormat::Raw),
        ] {
            let disk = Disk { path: path.clone(), format, readonly: true, clone: None };
            let error = OpenDisk::open(&disk).unwrap_err().to_string();
            assert!(error.starts_with(&format!("disk {}: ", path.display())), "{error}");
        }
    }
}

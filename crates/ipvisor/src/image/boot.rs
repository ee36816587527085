//! GRUB for both firmwares, without a disk to install it on.
//!
//! # Theory of operation
//! `grub-install` wants block devices. What it does there is little:
//! ```text
//! sector 0      boot.img, 440 octets: reads one sector, whose number stands in it
//! that sector   the first of core.img: reads the rest, whose place and length stand at its end
//! core.img      the modules it was made with, and a script: find the root partition, read its
//!               grub.cfg
//! UEFI          one file, BOOTX64.EFI, with the same modules and script: needs no numbers
//! ```
//! Both are made by the image's own `grub-mkimage`, so they fit the modules beside its grub.cfg.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{about, steps};
use crate::failure::Failure;

/// Modules in both: enough to read a configuration that `update-grub` wrote, and what it names.
const MODULES: &[&str] = &[
    "part_gpt",
    "ext2",
    "search_fs_uuid",
    "search",
    "normal",
    "configfile",
    "linux",
    "serial",
    "terminal",
    "echo",
    "test",
    "ls",
    "gzio",
    "minicmd",
    "reboot",
    "halt",
    "all_video",
    "gfxterm",
];
/// Octets of the boot sector that are code: the rest is the disk's own.
const CODE: usize = 440;
/// Where boot.img has the number of the sector that it reads.
const NEXT_SECTOR: usize = 0x5c;
/// Where boot.img jumps over its check of the drive's number, which some BIOSes get wrong.
const DRIVE_CHECK: usize = 0x66;
/// Where the first sector of core.img has the number of the next, and how many there are.
const REST_SECTOR: usize = 0x1f4;
const REST_COUNT: usize = 0x1fc;

/// Both, as files.
pub struct Grub {
    boot: Vec<u8>,
    core: Vec<u8>,
    /// The program for UEFI.
    pub efi: Vec<u8>,
}

/// Makes them with the tree's own programs.
pub fn make(tree: &Path, uuid: &str) -> Result<Grub, Failure> {
    let script = format!("search.fs_uuid {uuid} root\nset prefix=($root)/boot/grub\n");
    let early = tree.join("boot/grub/early.cfg");
    fs::write(&early, script).map_err(|e| about(&early, &e))?;
    let make = |target: &str, to: &str, more: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(tree).args(["grub-mkimage", "--format", target, "--output", to]);
        command.args(["--prefix", "/boot/grub", "--config", "/boot/grub/early.cfg"]);
        steps::run(command.args(MODULES).args(more))?;
        take(&tree.join(to.trim_start_matches('/')))
    };
    let core = make("i386-pc", "/boot/grub/core.img", &["biosdisk"])?;
    let efi = make("x86_64-efi", "/boot/grub/grub.efi", &[])?;
    fs::remove_file(&early).map_err(|e| about(&early, &e))?;
    let boot = tree.join("usr/lib/grub/i386-pc/boot.img");
    let boot = fs::read(&boot).map_err(|e| about(&boot, &e))?;
    Ok(Grub { boot, core, efi })
}

/// The contents of a file that nobody needs any more.
fn take(path: &Path) -> Result<Vec<u8>, Failure> {
    let octets = fs::read(path).map_err(|e| about(path, &e))?;
    fs::remove_file(path).map_err(|e| about(path, &e))?;
    Ok(octets)
}

impl Grub {
    /// The code of the boot sector, and what stands in its partition: first sector, and how many.
    pub fn for_bios(&self, (first, sectors): (u64, u64)) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let wrong = |what: &str| Failure::new(format!("GRUB of this Debian: {what}"));
        let mut boot =
            self.boot.get(..CODE).ok_or_else(|| wrong("boot.img is too short"))?.to_vec();
        boot[NEXT_SECTOR..NEXT_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
        boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
        let mut core = self.core.clone();
        core.resize(core.len().next_multiple_of(512), 0);
        let count = (core.len() / 512) as u64;
        if count > sectors {
            return Err(wrong("core.img does not fit into its partition"));
        }
        let said =
            core.get(REST_COUNT..REST_COUNT + 2).ok_or_else(|| wrong("core.img is empty"))?;
        if u64::from(u16::from_le_bytes([said[0], said[1]])) != count - 1 {
            return Err(wrong("core.img does not say how long it is where it should"));
        }
        core[REST_SECTOR..REST_SECTOR + 8].copy_from_slice(&(first + 1).to_le_bytes());
        Ok((boot, core))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grub(core: usize, said: u16) -> Grub {
        let mut core = vec![0xee; core];
        core[REST_COUNT..REST_COUNT + 2].copy_from_slice(&said.to_le_bytes());
        Grub { boot: vec![0xbb; 512], core, efi: Vec::new() }
    }

    #[test]
    fn each_part_is_told_where_the_next_one_is() {
        let (boot, core) = grub(1300, 2).for_bios((2048, 3)).unwrap();
        assert_eq!((boot.len(), core.len()), (440, 1536));
        assert_eq!(boot[0x5b..0x68], [0xbb, 0, 8, 0, 0, 0, 0, 0, 0, 0xbb, 0xbb, 0x90, 0x90]);
        assert_eq!(core[0x1f3..0x1fe], [0xee, 1, 8, 0, 0, 0, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn what_does_not_fit_or_is_laid_out_otherwise_is_refused() {
        assert!(grub(1300, 2).for_bios((2048, 2)).is_err());
        assert!(grub(1300, 3).for_bios((2048, 3)).is_err());
    }
}

//! `ipvisor image debian`: a disk image from Debian's archive, made without mounting anything.
//!
//! # Theory of operation
//! ```text
//! mmdebstrap  packages, unpacked and configured ──> tree/
//! here        files of the image's own in tree/     (tree)
//! chroot      grub-mkimage: GRUB for BIOS, for UEFI (boot)
//! sfdisk      partitions                 ──> image  1 MiB GRUB | 32 MiB EFI | root
//! here        GRUB in its partition and in the boot sector, GRUB in a FAT file system
//! mke2fs -d   the tree as ext4, in its place
//! qemu-img    to qcow2, if the file is called that
//! ```
//! Both GRUBs find the root partition by its UUID and read `/boot/grub/grub.cfg` there, which the
//! guest writes anew whenever a kernel comes or goes: a kernel upgrade is an upgrade of what is
//! started, under both firmwares.
//!
//! The tree is made in a mount namespace of mmdebstrap's own, so nothing is ever mounted that
//! removing it could reach.
//!
//! # Limits
//! Needs root, as `chroot` and files of many owners do. The image is of the machine's own
//! architecture, amd64.

mod boot;
mod steps;
mod tree;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base::engine::fat;

use crate::failure::Failure;
use crate::show;
use steps::Steps;

/// Octets of a sector.
const SECTOR: u64 = 512;
/// Where the partitions begin, in sectors, and how long the first two are.
const BIOS: (u64, u64) = (2048, 2048);
const EFI: (u64, u64) = (4096, 65_536);
const ROOT: u64 = EFI.0 + EFI.1;
/// Sectors at the end that the partition table's copy needs, rounded up.
const TAIL: u64 = 2048;

/// Octets of the smallest disk.
const LEAST: u64 = 1 << 30;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The file.
    pub file: PathBuf,
    /// Which Debian.
    pub suite: String,
    /// Octets of the disk.
    pub size: u64,
    /// More packages.
    pub include: Vec<String>,
}

/// Packages that make a tree a machine that starts, has a network and can be reached.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "iproute2",
    "iputils-ping",
    "linux-image-cloud-amd64",
    "openssh-server",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
];

/// Makes it.
pub fn debian(wish: &Wish) -> Result<(), Failure> {
    let to_qcow2 = wish.file.extension().is_some_and(|e| e.eq_ignore_ascii_case("qcow2"));
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new("making an image needs root")
            .hint("its files have many owners, and its programs run in a `chroot`"));
    }
    if wish.size < LEAST {
        return Err(Failure::new("a disk of less than 1G has no room for a Debian"));
    }
    let mut tools =
        vec![("mmdebstrap", "mmdebstrap"), ("sfdisk", "fdisk"), ("mke2fs", "e2fsprogs")];
    if to_qcow2 {
        tools.push(("qemu-img", "qemu-utils"));
    }
    steps::need(&tools)?;
    if wish.file.exists() {
        return Err(Failure::new(format!("{} is there already", wish.file.display()))
            .hint("VMs may have clones of it: choose another name, or remove it"));
    }
    let work = Work::beside(&wish.file)?;
    let steps = Steps::begin();
    let made = make(wish, &work, &steps, to_qcow2)?;
    fs::rename(&made, &wish.file).map_err(|e| about(&wish.file, &e))?;
    show::done(&format!("{}: made in {}", wish.file.display(), steps.elapsed()))?;
    Ok(())
}

fn make(wish: &Wish, work: &Work, steps: &Steps, to_qcow2: bool) -> Result<PathBuf, Failure> {
    let (tree, raw) = (work.path("tree"), work.path("image.raw"));
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .map_err(|e| Failure::new(format!("cannot make a UUID: {e}")))?;
    let uuid = uuid.trim();
    steps.run("packages", || bootstrap(wish, &tree))?;
    steps.run("configuration", || tree::furnish(&tree, uuid))?;
    let grub = steps.run("boot loader", || boot::make(&tree, uuid))?;
    steps.run("partitions", || partition(&raw, wish.size, &grub))?;
    steps.run("file system", || {
        let size = wish.size / 1024 - (ROOT + TAIL) * SECTOR / 1024;
        let mut mke2fs = Command::new("mke2fs");
        // What GRUB does not know yet is left out.
        mke2fs.args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^metadata_csum_seed,^orphan_file",
            "-m",
            "1",
        ]);
        mke2fs.args(["-L", "root", "-U", uuid, "-E", &format!("offset={}", ROOT * SECTOR), "-d"]);
        steps::run(mke2fs.arg(&tree).arg(&raw).arg(format!("{size}k")))
    })?;
    if !to_qcow2 {
        return Ok(raw);
    }
    let qcow2 = work.path("image.qcow2");
    steps.run("conversion to qcow2", || {
        let mut convert = Command::new("qemu-img");
        steps::run(convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&qcow2))
    })?;
    Ok(qcow2)
}

/// Unpacks and configures the packages.
fn bootstrap(wish: &Wish, tree: &Path) -> Result<(), Failure> {
    let mut packages = PACKAGES.join(",");
    for more in &wish.include {
        packages.push(',');
        packages.push_str(more);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "mmdebstrap", "--mode=root"]);
    command.args(["--variant=minbase", "--architectures=amd64", &format!("--include={packages}")]);
    // Proxies, and what else this machine's apt was told about fetching.
    for option in steps::output(Command::new("apt-config").args(["dump", "Acquire"]))?.lines() {
        if ["Acquire::http", "Acquire::Check", "Acquire::Retries"]
            .iter()
            .any(|o| option.starts_with(o))
        {
            command.arg(format!("--aptopt={option}"));
        }
    }
    steps::run(command.arg(&wish.suite).arg(tree))
}

/// Makes the file, its partitions, and what the firmwares start.
fn partition(raw: &Path, size: u64, grub: &boot::Grub) -> Result<(), Failure> {
    let file = File::options().read(true).write(true).create_new(true).open(raw);
    let file = file.map_err(|e| about(raw, &e))?;
    file.set_len(size).map_err(|e| about(raw, &e))?;
    let script = format!(
        "label: gpt\n\
         start={}, size={}, type=21686148-6449-6E6F-744E-656564454649, name=bios\n\
         start={}, size={}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=efi\n\
         start={ROOT}, size={}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root\n",
        BIOS.0,
        BIOS.1,
        EFI.0,
        EFI.1,
        size / SECTOR - ROOT - TAIL
    );
    let mut sfdisk = Command::new("sfdisk");
    steps::feed(sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(raw), &script)?;
    let write = |octets: &[u8], sector: u64| {
        file.write_all_at(octets, sector * SECTOR).map_err(|e| about(raw, &e))
    };
    let (sector, core) = grub.for_bios(BIOS)?;
    // In front of the partition table that sfdisk has put there.
    write(&sector, 0)?;
    write(&core, BIOS.0)?;
    let files = [("EFI/BOOT/BOOTX64.EFI", grub.efi.as_slice())];
    let octets = usize::try_from(EFI.1 * SECTOR).unwrap_or(usize::MAX);
    let efi = fat::image(b"EFI        ", octets, &files).map_err(|e| about(raw, &e))?;
    write(&efi, EFI.0)?;
    (&file).flush().map_err(|e| about(raw, &e))
}

fn about(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// A directory beside the image, on the same file system; goes with this value.
struct Work(PathBuf);

impl Work {
    fn beside(file: &Path) -> Result<Self, Failure> {
        let absolute = std::path::absolute(file).map_err(|e| about(file, &e))?;
        let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = absolute.with_file_name(format!(".{name}.{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| about(&path, &e))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed lies there to be seen.
        let _ = steps::run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0));
    }
}

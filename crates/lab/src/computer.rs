//! A whole computer, emulated, with what the machine of the tests may lack: systemd, cgroup
//! controllers, a `/dev/kvm` on which ordinary guests run.
//!
//! # Theory of operation
//! ```text
//! QEMU (software emulation) ── kernel ── initramfs ── systemd ── one unit: the test's script
//!        │                                  │ overlay in its memory over
//!        └── virtiofsd ── this machine's root, read by it and never written
//! ```
//! It has every program that is installed here, and those of this build under the same paths; what
//! it changes is gone with it. Its own network namespace has no way out. What the script says comes
//! over a serial port, with its status in the last line.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command::{Background, wait_until};
use crate::error::{Attempt, LabError, Result};
use crate::image::Image;
use crate::image::initramfs::Archive;

const INIT: &str = include_str!("../computer/init");

/// Kernel modules, in an order in which `insmod` takes them.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
    "fs/overlayfs/overlay",
    "drivers/net/veth",
    "drivers/net/tun",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
    "virt/lib/irqbypass",
    "arch/x86/kvm/kvm",
    "arch/x86/kvm/kvm-amd",
];

/// MiB of its memory.
const MEMORY: u32 = 1536;
/// Begins the script's last line.
const STATUS: &str = "computer: ";
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// What a script did in the computer.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status.
    pub status: i32,
    /// What it said.
    pub text: String,
}

/// Boots the computer, runs the shell script in it as root, and gives what came of it.
pub fn run(image: &Image, script: &str, limit: Duration) -> Result<Ran> {
    let dir = tempfile::tempdir().attempt(|| "create a temporary directory".to_owned())?;
    let at = |name: &str| dir.path().join(name);
    let initramfs = at("initramfs.cpio");
    std::fs::write(&initramfs, root(image, script)?)
        .attempt(|| format!("write {}", initramfs.display()))?;
    let socket = at("root.sock");
    let mut share = Command::new(VIRTIOFSD);
    share.arg(format!("--socket-path={}", socket.display()));
    share.args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]);
    let _share = Background::start(&mut share, &at("virtiofsd.log"))?;
    let shared = || Ok(socket.exists().then_some(()));
    wait_until(Duration::from_secs(10), || format!("{VIRTIOFSD} at its socket"), shared)?;
    let (console, said) = (at("console"), at("said"));
    let mut qemu = command(image, &initramfs, &socket, [&console, &said]);
    let mut computer = Background::start(&mut qemu, &at("qemu.log"))?;
    let ended = computer.wait(limit);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().replace('\r', "");
    let text = read(&said);
    let last = text.lines().rev().find_map(|line| line.strip_prefix(STATUS)?.parse().ok());
    match (ended, last) {
        (Ok(_), Some(status)) => Ok(Ran { status, text }),
        (ended, _) => Err(LabError::Unexpected(format!(
            "the computer did not come to its end ({ended:?}); its console:\n{}\nQEMU:\n{}\n\
             the script so far:\n{text}",
            read(&console),
            read(&at("qemu.log")),
        ))),
    }
}

fn root(image: &Image, script: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys"] {
        archive.directory(dir)?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("job", 0o755, script.as_bytes())?;
    archive.copy("bin/busybox", &image.programs.join("bin/busybox"))?;
    archive.link("bin/sh", "busybox")?;
    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        let from = image.modules.join(format!("{module}.ko"));
        archive.copy(&format!("lib/modules/{name}.ko"), &from)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes())?;
    archive.finish()
}

fn command(image: &Image, initramfs: &Path, share: &Path, serial: [&Path; 2]) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    // What virtiofsd reads and writes must be shared with it.
    let memory = format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on");
    command.args(["-m", &MEMORY.to_string(), "-object", &memory]);
    command.args(["-numa", "node,memdev=memory"]);
    command.args(["-chardev", &format!("socket,id=root,path={}", share.display())]);
    // Without vectors: QEMU 7.2 crashes with MSI-X on vhost-user devices under software emulation.
    command.args(["-device", "vhost-user-fs-pci,chardev=root,tag=host,vectors=0"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(initramfs);
    command.args(["-append", &format!("{} oops=panic net.ifnames=0", Image::CMDLINE)]);
    for path in serial {
        command.args(["-serial", &format!("file:{}", path.display())]);
    }
    command
}

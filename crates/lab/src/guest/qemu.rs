//! Boots a guest under QEMU's software emulation, without a base.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::command::Background;
use crate::error::{Attempt, LabError, Result};
use crate::guest::Guest;
use crate::image::Image;

/// How a guest is booted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory in MiB.
    pub memory: u32,
    /// Words added to the kernel's command line.
    pub cmdline: String,
    /// More arguments for QEMU.
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: 192, cmdline: String::new(), arguments: Vec::new() }
    }
}

/// A guest with its QEMU, which is killed when this is dropped.
#[derive(Debug)]
pub struct Qemu {
    guest: Guest,
    process: Background,
    _dir: TempDir,
}

impl Qemu {
    /// Boots, and waits for the guest's shell.
    pub fn boot(name: &str, image: &Image, options: &Options) -> Result<Self> {
        let dir = tempfile::tempdir().attempt(|| "create a temporary directory".to_owned())?;
        let socket = dir.path().join("console");
        let log = dir.path().join("qemu.log");
        let mut process = Background::start(&mut command(image, options, &socket), &log)?;
        let console = kept_log(name);
        let attached = Guest::attach(name, &socket, &console, Duration::from_secs(60));
        let guest = attached.map_err(|error| {
            let ended = process.ended().ok().flatten();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            LabError::Unexpected(format!("{error:?}; QEMU ({ended:?}) said: {said}"))
        })?;
        Ok(Self { guest, process, _dir: dir })
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// QEMU's process.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }
}

/// Where a guest's console is kept, for a person to read after a failure.
fn kept_log(name: &str) -> PathBuf {
    let dir = crate::paths::cache().join("logs");
    let _ = std::fs::create_dir_all(&dir);
    dir.join(format!("{name}-{}.console", std::process::id()))
}

fn command(image: &Image, options: &Options, console: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-nic", "none"]);
    command.args(["-m", &options.memory.to_string()]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    command.args(["-append", &format!("{} {}", Image::CMDLINE, options.cmdline)]);
    command
        .args(["-chardev", &format!("socket,id=c,path={},server=on,wait=off", console.display())]);
    command.args(["-serial", "chardev:c", "-object", "rng-random,id=r,filename=/dev/urandom"]);
    command.args(["-device", "virtio-rng-pci,rng=r"]);
    command.args(&options.arguments);
    command
}

//! What a guest of the lab boots: Debian's cloud kernel and a small root file system in memory.
//!
//! # Theory of operation
//! ```text
//! apt-get download ──> unpack ──┬─> kernel: ELF file taken out of the bzImage   (kernel)
//!  (packages)                   └─> busybox, ip, iperf3, ping, dhcpcd ... with
//!                                   their libraries, modules, init ──> cpio     (initramfs)
//! ```
//! Everything comes from Debian's archive; nothing is installed, and only static recipes decide
//! what goes in. The result is kept under the hash of that recipe: the second call takes no time,
//! a changed init script makes a new image from the packages already fetched. A lock lets parallel
//! tests ask at once.
//!
//! # What a guest does
//! `guest/init` mounts, loads modules, brings `lo` and `eth0` up, starts the DHCP client (dhcpcd:
//! IPv4, router advertisements and DHCPv6 in one, as Debian ships it), prints `guest: ready` and
//! keeps a root shell on the serial console. Words on the kernel's command line steer it:
//! `lab.dhcp=none` (no client), `lab.dhcp=udhcpc` (busybox's, IPv4 only).

pub(crate) mod initramfs;
mod kernel;
mod packages;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::output;
use crate::error::{Attempt, Result};
use crate::paths;
use initramfs::Archive;

/// The package that always depends on the newest cloud kernel.
const KERNEL: (&str, &str) = ("linux-image-cloud-amd64", "linux-image-");

/// Packages that guest programs come from.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "dash",
    "dhcpcd-base",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-arping",
    "iputils-ping",
    "ndisc6",
    "tcpdump",
];

/// Programs taken from them; busybox has everything else.
const PROGRAMS: &[&str] = &[
    "dash", "dhcpcd", "ethtool", "iperf3", "ip", "ss", "arping", "ping", "ndisc6", "rdisc6",
    "tcpdump",
];

/// Kernel modules, in an order in which `insmod` takes them.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/virtio/virtio_mmio",
    "drivers/char/hw_random/virtio-rng",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/acpi/button",
    "drivers/input/evdev",
    "drivers/misc/pvpanic/pvpanic",
    "drivers/misc/pvpanic/pvpanic-mmio",
];

const INIT: &str = include_str!("../../guest/init");
const AGENT: &str = include_str!("../../guest/agent");
const DHCP_HOOK: &str = include_str!("../../guest/dhcp-hook");
const PROFILE: &str = include_str!("../../guest/profile");
const DHCPCD_CONF: &str = include_str!("../../guest/dhcpcd.conf");

/// Files that a guest boots.
#[derive(Clone, Debug)]
pub struct Image {
    /// The uncompressed kernel (ELF, started over PVH).
    pub kernel: PathBuf,
    /// The same as Debian ships it (bzImage).
    pub kernel_packed: PathBuf,
    /// The root file system.
    pub initramfs: PathBuf,
    /// The kernel's modules, as its package has them.
    pub modules: PathBuf,
    /// The tree that the guest's programs come from.
    pub programs: PathBuf,
}

impl Image {
    /// What the kernel's command line needs for the console and a quick start.
    pub const CMDLINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check \
                               mitigations=off random.trust_cpu=on tsc=reliable nokaslr \
                               cryptomgr.notests rcupdate.rcu_expedited=1";

    /// The image of this recipe: from the cache, or built now (some seconds, some 60 MB fetched
    /// the first time). `progress` hears what is being done.
    pub fn get(progress: impl Fn(&str)) -> Result<Self> {
        let dir = paths::cache().join(format!("image-{:016x}", recipe()));
        let image = Self {
            kernel: dir.join("vmlinux"),
            kernel_packed: dir.join("vmlinuz"),
            initramfs: dir.join("initramfs.cpio"),
            modules: dir.join("modules"),
            programs: dir.join("programs"),
        };
        let _lock = paths::Lock::take("image")?;
        if !dir.exists() {
            let unfinished = dir.with_extension("unfinished");
            let _ = fs::remove_dir_all(&unfinished);
            build(&unfinished, &progress)?;
            fs::rename(&unfinished, &dir).attempt(|| format!("rename to {}", dir.display()))?;
        }
        Ok(image)
    }
}

fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (KERNEL, PACKAGES, PROGRAMS, MODULES, INIT, AGENT, DHCP_HOOK, DHCPCD_CONF, PROFILE)
        .hash(&mut hasher);
    (include_str!("mod.rs"), include_str!("initramfs.rs"), include_str!("kernel.rs"))
        .hash(&mut hasher);
    hasher.finish()
}

fn build(into: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    fs::create_dir_all(into).attempt(|| format!("create {}", into.display()))?;
    let cache = paths::cache();
    let modules = fetch_kernel(&cache, into, progress)?;
    let root = fetch_programs(&cache, progress)?;
    for (name, tree) in [("modules", &modules), ("programs", &root)] {
        let link = into.join(name);
        std::os::unix::fs::symlink(tree, &link).attempt(|| format!("link {}", link.display()))?;
    }
    progress("packing the guest's root file system");
    let archive = root_file_system(&root, &modules)?;
    let path = into.join("initramfs.cpio");
    fs::write(&path, archive).attempt(|| format!("write {}", path.display()))
}

/// Puts the kernel in `into` and gives the directory of its modules.
fn fetch_kernel(cache: &Path, into: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let name = packages::behind(KERNEL.0, KERNEL.1)?;
    let version = name.trim_start_matches(KERNEL.1).to_owned();
    let tree = cache.join(&name);
    if !tree.exists() {
        progress(&format!("fetching {name}"));
        let debs = cache.join("packages");
        let deb = packages::download(&name, &debs)?;
        let unfinished = cache.join(format!("{name}.unfinished"));
        let _ = fs::remove_dir_all(&unfinished);
        packages::unpack(&deb, &unfinished)?;
        fs::rename(&unfinished, &tree).attempt(|| format!("rename to {}", tree.display()))?;
    }
    progress("unpacking the kernel");
    let packed = tree.join(format!("boot/vmlinuz-{version}"));
    let bytes = fs::read(&packed).attempt(|| format!("read {}", packed.display()))?;
    let elf = kernel::elf_inside(&bytes)?;
    for (name, content) in [("vmlinuz", &bytes), ("vmlinux", &elf)] {
        let path = into.join(name);
        fs::write(&path, content).attempt(|| format!("write {}", path.display()))?;
    }
    Ok(tree.join(format!("lib/modules/{version}/kernel")))
}

/// Unpacks the packages of the guest's programs and gives the tree.
fn fetch_programs(cache: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    PACKAGES.hash(&mut hasher);
    let tree = cache.join(format!("programs-{:016x}", hasher.finish()));
    if tree.exists() {
        return Ok(tree);
    }
    progress(&format!("fetching {}", PACKAGES.join(", ")));
    let debs = packages::download_with_dependencies(PACKAGES, &cache.join("packages/programs"))?;
    progress("unpacking packages");
    let unfinished = tree.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    for deb in debs {
        // Of what they depend on, a guest needs the libraries; not dpkg, perl or adduser.
        let package = packages::package_of(&deb);
        let wanted = PACKAGES.contains(&package.as_str())
            || package.starts_with("lib")
            || package.starts_with("zlib");
        if wanted && !package.starts_with("libperl") {
            packages::unpack(&deb, &unfinished)?;
        }
    }
    fs::rename(&unfinished, &tree).attempt(|| format!("rename to {}", tree.display()))?;
    Ok(tree)
}

fn root_file_system(root: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "etc", "lib/modules", "proc", "root", "run", "sys", "tmp", "var/run"]
    {
        archive.directory(dir)?;
    }
    for dir in ["sbin", "usr/bin", "usr/sbin"] {
        archive.link(dir, "/bin")?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("bin/agent", 0o755, AGENT.as_bytes())?;
    archive.file("bin/dhcp-hook", 0o755, DHCP_HOOK.as_bytes())?;
    archive.file("etc/dhcpcd.conf", 0o644, DHCPCD_CONF.as_bytes())?;
    archive.file("etc/profile", 0o644, PROFILE.as_bytes())?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    archive.directory("var/lib/dhcpcd")?;

    archive.copy(initramfs::LOADER, &root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))?;
    for program in PROGRAMS {
        archive.program(root, program)?;
    }
    let busybox = root.join("bin/busybox");
    archive.copy("bin/busybox", &busybox)?;
    // Busybox's own shell prefers its applets to the programs above.
    archive.link("bin/sh", "dash")?;
    for applet in output(Command::new(&busybox).arg("--list"))?.lines() {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }

    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.copy(&format!("lib/modules/{name}.ko"), &modules.join(format!("{module}.ko")))?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes())?;
    archive.finish()
}

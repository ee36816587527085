//! What the machine says of itself: everything that the doctor reads, and the only file in which it
//! reads anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use datapath::names::Mac;
use datapath::neighbor::Settings;
use datapath::netlink::{Link, Netlink};
use datapath::uplink::{self, CardLook};
use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use super::Case;
use crate::config::{Config, Gateway, Network, Socket};
use crate::engine::qemu::PROGRAM;
use crate::engine::spawn::find_program;
use crate::entry::{Failure, causes};
use crate::instance::host_facts::HostFacts;
use crate::ledger::Capacity;
use crate::state_dir::{self, StateDirError};

/// Linux's numbers of the capabilities that matter here.
pub(super) mod capability {
    pub const NET_ADMIN: u32 = 12;
    pub const NET_RAW: u32 = 13;
    pub const IPC_LOCK: u32 = 14;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_RESOURCE: u32 = 24;
    pub const BPF: u32 = 39;
}

/// The kernel's parts that may be modules.
pub(super) const MODULES: [&str; 3] = ["tun", "sch_ingress", "cls_bpf"];

/// Why the processor's own virtualisation can or cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kvm {
    /// The module that is loaded.
    pub module: Option<&'static str>,
    /// The module that the processor would need; `None` if it cannot do it.
    pub wanted: Option<&'static str>,
    /// This machine is a VM itself.
    pub nested: bool,
    /// How `/dev/kvm` can be opened.
    pub device: Device,
}

/// Whether a device can be opened to read and write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Device {
    /// Yes.
    Usable,
    /// Not by this user.
    Denied,
    /// It is not there.
    #[default]
    Missing,
}

/// QEMU as it is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Qemu {
    /// What it says of its version.
    pub version: String,
    /// Files of its firmware that it would not find.
    pub lacks: Vec<&'static str>,
}

/// The machine at one moment.
#[derive(Debug)]
pub struct Facts {
    /// This program's file.
    pub(super) program: PathBuf,
    /// The kernel's release, as `uname -r` says it.
    pub(super) release: String,
    /// The capabilities in effect, a bit for each.
    pub(super) capabilities: u64,
    pub(super) kvm: Kvm,
    pub(super) qemu: Option<Qemu>,
    pub(super) capacity: Capacity,
    /// Octets of memory that could be had now.
    pub(super) available: u64,
    /// Octets of memory that are set aside as huge pages.
    pub(super) huge: u64,
    /// Files that a process could have open.
    pub(super) open_files: u64,
    /// Octets of memory that a process may lock; `None`: any.
    pub(super) lockable: Option<u64>,
    /// Whether the kernel takes our programs from us.
    pub(super) programs: Result<(), String>,
    pub(super) tun: Device,
    /// Of each module whether it is there, loaded or not; empty if nobody can tell.
    pub(super) modules: BTreeMap<&'static str, bool>,
    pub(super) host: HostFacts,
    /// The cards of the configuration that are there.
    pub(super) cards: BTreeMap<String, Result<CardLook, String>>,
    /// For each network that could be asked: which of its gateways answer.
    pub(super) answers: BTreeMap<String, Result<BTreeMap<IpAddr, Mac>, String>>,
    /// The state directory, and which instance has it.
    pub(super) state: Result<(PathBuf, Option<u32>), StateDirError>,
    /// The directories in which external front ends are awaited, with what is wrong with them.
    pub(super) sockets: BTreeMap<PathBuf, Option<String>>,
}

impl Facts {
    /// Looks at the machine, as far as the configuration has to do with it. Takes two seconds for
    /// each network whose gateway is silent.
    pub fn read(
        config: Option<&Config>,
        state_dir: Result<PathBuf, StateDirError>,
    ) -> Result<Self, Failure> {
        let mut netlink = Netlink::open()?;
        let capabilities = capabilities();
        let mut facts = Self {
            program: std::env::current_exe().unwrap_or_else(|_| "ipvisor".into()),
            release: text("/proc/sys/kernel/osrelease"),
            capabilities,
            kvm: kvm(),
            qemu: find_program(PROGRAM).map(|path| qemu(&path)),
            capacity: Capacity::of_this_machine()?,
            available: meminfo("MemAvailable"),
            huge: huge_pages(),
            open_files: open_files(has(capabilities, capability::SYS_RESOURCE)),
            lockable: getrlimit(Resource::Memlock).current,
            programs: uplink::programs_load().map_err(|error| causes(&error)),
            tun: device(Path::new("/dev/net/tun")),
            modules: modules(),
            host: HostFacts::read_patiently(&mut netlink)?,
            cards: BTreeMap::new(),
            answers: BTreeMap::new(),
            state: state_dir.and_then(|dir| Ok((dir.clone(), state_dir::look(&dir)?))),
            sockets: sockets(config),
        };
        let case = Case { facts: &facts, config };
        let (mut cards, mut answers) = (BTreeMap::new(), BTreeMap::new());
        for (name, network, card) in case.carded() {
            let Some(link) = facts.host.link(card) else { continue };
            let seen = uplink::look(card, link.index).map_err(|error| error.to_string());
            cards.insert(card.to_owned(), seen);
            if link.up && link.carrier {
                answers.insert(name.to_owned(), facts.ask(network, link));
            }
        }
        (facts.cards, facts.answers) = (cards, answers);
        Ok(facts)
    }

    /// Whether a capability is in effect.
    pub(super) fn may(&self, capability: u32) -> bool {
        has(self.capabilities, capability)
    }

    /// A network's gateways: those written, or the host's own.
    pub(super) fn gateways(&self, network: &Network) -> Vec<IpAddr> {
        let index =
            network.uplink.as_deref().and_then(|card| self.host.link(card)).map(|l| l.index);
        let (v4, v6) = match network.gateway {
            Gateway::Fixed { v4, v6 } => (v4, v6),
            Gateway::Auto => (
                index.and_then(|i| self.host.gateway4(i)),
                index.and_then(|i| self.host.gateway6(i)),
            ),
        };
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect()
    }

    /// Asks a network's gateways, as the base would.
    fn ask(&self, network: &Network, link: &Link) -> Result<BTreeMap<IpAddr, Mac>, String> {
        let gateways = self.gateways(network);
        let Some(mac) = link.mac.filter(|_| !gateways.is_empty()) else {
            return Ok(BTreeMap::new());
        };
        let settings = Settings {
            mac,
            host4: self.host.first4(link.index),
            host6: self.host.first6(link.index),
            link_local: self.host.link_local(link.index),
            ..Settings::default()
        };
        uplink::knock(link.index, settings, &gateways).map_err(|error| causes(&error))
    }
}

fn has(capabilities: u64, capability: u32) -> bool {
    capabilities.checked_shr(capability).is_some_and(|bits| bits & 1 == 1)
}

/// A file of the kernel's, without the end of its line; empty if it is not there.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn capabilities() -> u64 {
    let status = text("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn device(path: &Path) -> Device {
    match access(path, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Device::Usable,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Device::Missing,
        Err(_) => Device::Denied,
    }
}

fn kvm() -> Kvm {
    let cpuinfo = text("/proc/cpuinfo");
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    let loaded = |module: &&str| Path::new("/sys/module").join(module).is_dir();
    Kvm {
        module: ["kvm_intel", "kvm_amd"].into_iter().find(loaded),
        wanted: match (has("vmx"), has("svm")) {
            (true, _) => Some("kvm_intel"),
            (_, true) => Some("kvm_amd"),
            _ => None,
        },
        nested: has("hypervisor"),
        device: device(Path::new("/dev/kvm")),
    }
}

fn qemu(program: &Path) -> Qemu {
    let said = |arguments: &[&str]| -> io::Result<String> {
        let out = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let version = said(&["--version"]).unwrap_or_default();
    let places = said(&["-L", "help"]).unwrap_or_default();
    let there = |file: &&str| places.lines().any(|dir| Path::new(dir).join(file).is_file());
    Qemu {
        version: version.lines().next().unwrap_or("a version that does not say").to_owned(),
        lacks: ["bios-256k.bin", "linuxboot_dma.bin", "pvh.bin"]
            .into_iter()
            .filter(|file| !there(file))
            .collect(),
    }
}

/// A line of `/proc/meminfo`, in octets if it has a unit.
fn meminfo(name: &str) -> u64 {
    let text = text("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut words = line.unwrap_or_default().split_whitespace();
    let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    if words.next() == Some("kB") { number.saturating_mul(1024) } else { number }
}

fn huge_pages() -> u64 {
    meminfo("HugePages_Total").saturating_mul(meminfo("Hugepagesize"))
}

/// As many as the holder raises the limit to.
fn open_files(may_raise: bool) -> u64 {
    let most = text("/proc/sys/fs/nr_open").parse().unwrap_or(1 << 20);
    if may_raise { most } else { getrlimit(Resource::Nofile).maximum.unwrap_or(most) }
}

/// Built in, loaded, or a file that could be: told by the kernel's own lists.
fn modules() -> BTreeMap<&'static str, bool> {
    let dir = Path::new("/lib/modules").join(text("/proc/sys/kernel/osrelease"));
    let list = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let known = list("modules.builtin") + &list("modules.dep");
    if known.is_empty() {
        return BTreeMap::new();
    }
    let named = |module: &str| {
        let file = format!("/{module}.ko");
        let loaded = Path::new("/sys/module").join(module).is_dir();
        loaded || known.lines().any(|line| line.split(':').next().unwrap_or("").contains(&file))
    };
    MODULES.into_iter().map(|module| (module, named(module))).collect()
}

fn sockets(config: Option<&Config>) -> BTreeMap<PathBuf, Option<String>> {
    let vms = config.into_iter().flat_map(|config| config.vms.values());
    let paths = vms.filter_map(|vm| match &vm.engine {
        crate::config::Engine::External(Socket::Listen(path)) => path.parent(),
        _ => None,
    });
    let wrong = |dir: &Path| {
        let may = access(dir, Access::WRITE_OK | Access::EXEC_OK);
        may.err().map(|errno| io::Error::from(errno).to_string())
    };
    paths.map(|dir| (dir.to_owned(), wrong(dir))).collect()
}

#[cfg(test)]
impl Facts {
    /// A machine on which everything is as it should be, and that has no card.
    pub(super) fn sound() -> Self {
        Self {
            program: "/usr/local/bin/ipvisor".into(),
            release: "6.1.0-18-amd64".to_owned(),
            capabilities: u64::MAX,
            kvm: Kvm {
                module: Some("kvm_intel"),
                wanted: Some("kvm_intel"),
                nested: false,
                device: Device::Usable,
            },
            qemu: Some(Qemu { version: "QEMU emulator version 7.2.0".to_owned(), lacks: vec![] }),
            capacity: Capacity { cpus: 4, memory: 8 << 30 },
            available: 6 << 30,
            huge: 0,
            open_files: 1 << 20,
            lockable: None,
            programs: Ok(()),
            tun: Device::Usable,
            modules: BTreeMap::new(),
            host: HostFacts::default(),
            cards: BTreeMap::new(),
            answers: BTreeMap::new(),
            state: Ok(("/run/ipvisor".into(), None)),
            sockets: BTreeMap::new(),
        }
    }
}

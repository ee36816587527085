//! `[vm.NAME]`, read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use datapath::names::{MAX_PAIRS, Mac};
use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::addresses;
use super::disk;
use super::files::{Files, Found, QCOW2_MAGIC};
use super::keys::Table;
use super::network;
use super::reader::{At, Reader};
use super::report::Mistake;
use super::seed;
use super::types::{Engine, Firmware, Kernel, Machine, Restart, Socket};
use super::units::{self, Wrong};
use crate::ledger::DiskId;

/// Addresses and prefixes one VM can have.
const MOST_ADDRESSES: usize = 256;
/// Virtual CPUs one VM can have.
const MOST_CPUS: u32 = 255;
/// Octets of a kernel command line: what x86 kernels take.
const LONGEST_CMDLINE: usize = 2047;
/// Octets of the longest path a Unix socket can have.
const LONGEST_SOCKET: usize = 107;

/// VMs that one can be after.
const MOST_AFTER: usize = 64;
/// Octets of memory of a VM that says nothing about it.
const DEFAULT_MEMORY: u64 = 512 << 20;
/// Time to stop of a VM that says nothing about it.
const DEFAULT_STOP: Duration = Duration::from_secs(30);
/// Command line of a kernel that is given without.
const DEFAULT_CMDLINE: &str = "console=ttyS0";

/// The keys that only a VM which the base forms can have.
const FORMED: [&str; 14] = [
    "kernel",
    "initramfs",
    "cmdline",
    "firmware",
    "disk",
    "user",
    "ssh_keys",
    "user_data",
    "cpus",
    "memory",
    "restart",
    "autostart",
    "after",
    "stop_timeout",
];

/// A VM as written, with the places that later rules speak of.
pub(super) struct Draft {
    pub(super) name: At<String>,
    /// The network's name, if one is said.
    pub(super) network: Option<At<String>>,
    pub(super) addresses: Vec<At<IpNet>>,
    pub(super) mac: Option<At<Mac>>,
    pub(super) mtu: Option<u16>,
    pub(super) mtu_at: Option<Range<usize>>,
    pub(super) queues: usize,
    pub(super) hostname: String,
    pub(super) engine: Engine,
    /// Where the socket of an external VM stands.
    pub(super) socket_at: Option<Range<usize>>,
    /// Where its disks stand, and which they are.
    pub(super) disks: Vec<At<Option<DiskId>>>,
    /// Where its CPUs and its memory stand, as far as the file says how many and how much.
    pub(super) cpus_at: Option<Range<usize>>,
    pub(super) memory_at: Option<Range<usize>>,
    /// The VMs that it starts after.
    pub(super) after: Vec<At<String>>,
}

/// What reading needs beside the text.
pub(super) struct Surroundings<'a> {
    /// Where relative paths start.
    pub(super) directory: &'a Path,
    pub(super) files: &'a dyn Files,
}

pub(super) fn read<'t>(
    name: At<String>,
    values: &'t DeTable<'t>,
    around: &Surroundings<'_>,
    out: &mut Vec<Mistake>,
) -> Draft {
    let whose = format!("VM `{}`", name.value);
    let mut reader = Reader::new(Table::Vm, whose, &name.at, values, out);

    let network = reader.parsed("network", |t| Ok(t.to_owned()));
    let addresses = addresses_of(&mut reader);
    let mac = reader.parsed("mac", mac);
    let mtu_at = reader.place("mtu");
    let mtu = network::mtu(&mut reader, false);
    let queues = reader.number("queues", 1..=MAX_PAIRS as u32).map_or(1, |n| n.value as usize);
    let default_name = || name.value.replace('_', "-");
    let hostname = reader.parsed("hostname", |t| units::hostname(t).map(|()| t.to_owned()));
    let hostname = hostname.map_or_else(default_name, |h| h.value);

    let mut draft = Draft {
        name,
        network,
        addresses,
        mac,
        mtu,
        mtu_at,
        queues,
        hostname,
        engine: Engine::External(Socket::Listen(PathBuf::new())),
        socket_at: None,
        disks: Vec::new(),
        cpus_at: None,
        memory_at: None,
        after: Vec::new(),
    };
    let chosen = reader.place("engine").is_some();
    match reader.parsed("engine", engine).map(|e| e.value) {
        Some(Who::Else) => formed_by_somebody_else(&mut reader, around, &mut draft),
        None if chosen => reader.leave_the_rest(),
        Some(Who::Base) | None => formed_by_the_base(&mut reader, around, &mut draft),
    }
    reader.finish();
    draft
}

/// Who forms a VM.
enum Who {
    Base,
    Else,
}

fn engine(text: &str) -> Result<Who, Wrong> {
    match text {
        "auto" | "qemu" => Ok(Who::Base),
        "external" => Ok(Who::Else),
        "kvm" => Err(Wrong::new("the built-in engine \"kvm\" is not in this version")
            .help("write \"auto\": QEMU then uses KVM where the machine can")),
        _ => Err(Wrong::new(format!("there is no engine `{text}`"))
            .help("it must be \"auto\", \"qemu\" or \"external\"")),
    }
}

/// The VM's own addresses: at least one.
fn addresses_of(reader: &mut Reader<'_, '_>) -> Vec<At<IpNet>> {
    let before = reader.out.len();
    match reader.texts("addresses", MOST_ADDRESSES, addresses::member) {
        Some(list) => {
            if list.value.is_empty() && reader.out.len() == before {
                reader.out.push(
                    Mistake::at(&list.at, format!("{} has no address", reader.whose))
                        .help("write at least one, as in `addresses = [\"203.0.113.10\"]`"),
                );
            }
            list.value
        }
        None => {
            reader.missing("addresses");
            Vec::new()
        }
    }
}

fn mac(text: &str) -> Result<Mac, Wrong> {
    let mac: Mac = text
        .parse()
        .map_err(|e| Wrong::new(format!("`{text}` is not a MAC address")).help(format!("{e}")))?;
    let wrong = if mac.is_multicast() {
        "belongs to a group (the lowest bit of its first octet is set)"
    } else if mac == Mac::BASE {
        "is the base's own on every VM's link"
    } else if mac == Mac::default() {
        "is nobody's"
    } else {
        return Ok(mac);
    };
    Err(Wrong::new(format!("{mac} {wrong}"))
        .help("write another, as in \"02:00:00:00:00:01\", or leave `mac` out"))
}

/// A path as written, from the directory of the file.
pub(super) fn path(text: &str, around: &Surroundings<'_>) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Wrong::new("this is not a path").help("as in \"images/web.qcow2\""));
    }
    Ok(around.directory.join(text))
}

/// A path where a file is: a kernel, or an initial file system.
pub(super) fn file(text: &str, around: &Surroundings<'_>) -> Result<PathBuf, Wrong> {
    let path = path(text, around)?;
    match look(&path, around)? {
        Found::File(QCOW2_MAGIC) => {
            Err(Wrong::new(format!("`{}` is a qcow2 image", path.display()))
                .help(format!("a disk is written so: disk = [\"{text}\"]")))
        }
        Found::File(_) | Found::Unseen => Ok(path),
        _ => Err(Wrong::new(format!("`{}` is not a file", path.display()))
            .help("name the file itself, as in \"boot/vmlinuz\"")),
    }
}

pub(super) fn look(path: &Path, around: &Surroundings<'_>) -> Result<Found, Wrong> {
    around.files.look(path).map_err(|error| {
        let shown = path.display();
        let wrong = Wrong::new(format!("cannot read `{shown}`: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                Wrong::new(format!("there is no file `{shown}`")).help(format!(
                    "paths are relative to the configuration's directory, {}",
                    around.directory.display()
                ))
            }
            std::io::ErrorKind::PermissionDenied => {
                wrong.help("whoever runs `ipvisor up` must be allowed to read it")
            }
            _ => wrong.help("name a file that can be read"),
        }
    })
}

/// What an external VM has: a socket, and nothing that only the base could give it.
fn formed_by_somebody_else(
    reader: &mut Reader<'_, '_>,
    around: &Surroundings<'_>,
    draft: &mut Draft,
) {
    match reader.place("socket") {
        None => reader.missing("socket"),
        Some(_) => {
            if let Some(found) = socket(reader, around) {
                draft.engine = Engine::External(found.value);
                draft.socket_at = Some(found.at);
            }
        }
    }
    for key in FORMED {
        if let Some((at, _)) = reader.take(key) {
            let message = format!("`{key}` has no meaning for an external VM");
            let help = "whoever runs it decides that; the base only carries its datagrams";
            reader.out.push(Mistake::at(&at, message).help(help));
        }
    }
}

/// `socket`: a path, or a table that says where the front end listens.
fn socket(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>) -> Option<At<Socket>> {
    let read = |text: &str| {
        let path = path(text, around)?;
        match path.as_os_str().len() {
            0..=LONGEST_SOCKET => Ok(path),
            len => Err(Wrong::new(format!("the socket's path has {len} octets"))
                .help(format!("a Unix socket's path has at most {LONGEST_SOCKET}"))),
        }
    };
    let (_, value) = reader.take("socket")?;
    match value.get_ref() {
        DeValue::String(text) => {
            let text = At::new(text.as_ref(), &value.span());
            text.then(reader.out, |t: &&str| {
                let path = read(t)?;
                directory_is_there(&path, around)?;
                Ok(Socket::Listen(path))
            })
        }
        DeValue::Table(table) => {
            let whose = format!("the socket of {}", reader.whose);
            let at = value.span();
            let mut inner = Reader::new(Table::Socket, whose, &at, table, reader.out);
            if inner.place("connect").is_none() {
                inner.missing("connect");
            }
            let path = inner.parsed("connect", |t| read(t).map(Socket::Connect));
            inner.finish();
            path
        }
        _ => {
            reader.wrong_kind("socket", value);
            None
        }
    }
}

/// Whether the base can make a socket there: nobody makes its directory.
fn directory_is_there(socket: &Path, around: &Surroundings<'_>) -> Result<(), Wrong> {
    let Some(directory) = socket.parent() else { return Ok(()) };
    match around.files.look(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let shown = directory.display();
            Err(Wrong::new(format!("there is no directory `{shown}` for the socket"))
                .help(format!("make it (`mkdir -p {shown}`), or write another path")))
        }
        _ => Ok(()),
    }
}

/// What a VM that the base forms is made of.
fn formed_by_the_base(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>, draft: &mut Draft) {
    let before = reader.out.len();
    let kernel = kernel(reader, around);
    let firmware = firmware(reader, kernel.is_some());
    let seed = seed::read(reader, around);
    let mut disks = Vec::new();
    for disk in disk::read(reader, around) {
        draft.disks.push(At::new(around.files.disk(&disk.value.path), &disk.at));
        disks.push(disk.value);
    }
    if kernel.is_none() && disks.is_empty() && reader.out.len() == before {
        let message = format!("{} has nothing to start from", reader.whose);
        let help = "add a disk, as in `disk = [\"web.qcow2\"]`, or `kernel` and `initramfs`";
        reader.out.push(Mistake::at(&draft.name.at, message).help(help));
    }
    let cpus = reader.number("cpus", 1..=MOST_CPUS);
    let memory = reader.measured("memory", units::memory);
    draft.cpus_at = cpus.as_ref().map(|n| n.at.clone());
    draft.memory_at = memory.as_ref().map(|n| n.at.clone());
    let cpus = cpus.map_or(1, |n| n.value);
    let memory = memory.map_or(DEFAULT_MEMORY, |n| n.value);
    let restart = reader.parsed("restart", restart).map_or(Restart::Never, |r| r.value);
    let autostart = reader.boolean("autostart").unwrap_or(true);
    let stop_timeout = reader.measured("stop_timeout", units::duration);
    let stop_timeout = stop_timeout.map_or(DEFAULT_STOP, |t| t.value);
    draft.after =
        reader.texts("after", MOST_AFTER, |t| Ok(t.to_owned())).map_or(vec![], |l| l.value);
    let after = draft.after.iter().map(|name| name.value.clone()).collect();
    if let Some((at, _)) = reader.take("socket") {
        let message = "`socket` is for VMs that somebody else runs";
        let help = "leave it out, or write `engine = \"external\"`";
        reader.out.push(Mistake::at(&at, message).help(help));
    }
    draft.engine = Engine::Qemu(Machine {
        cpus,
        memory,
        kernel,
        firmware,
        disks,
        seed,
        restart,
        autostart,
        after,
        stop_timeout,
    });
}

fn kernel(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>) -> Option<Kernel> {
    let said = reader.place("kernel").is_some();
    let image = reader.parsed("kernel", |t| file(t, around)).map(|k| k.value);
    for key in ["initramfs", "cmdline"] {
        if let Some(at) = reader.place(key)
            && !said
        {
            let message = format!("`{key}` without `kernel`");
            let help = "add `kernel = PATH`; what is on a disk has its own";
            reader.out.push(Mistake::at(&at, message).help(help));
        }
    }
    let initramfs = reader.parsed("initramfs", |t| file(t, around)).map(|k| k.value);
    let cmdline = reader.parsed("cmdline", cmdline).map(|c| c.value);
    let cmdline = cmdline.unwrap_or_else(|| DEFAULT_CMDLINE.to_owned());
    Some(Kernel { image: image?, initramfs, cmdline })
}

fn firmware(reader: &mut Reader<'_, '_>, has_kernel: bool) -> Firmware {
    let found = reader.parsed("firmware", |t| match t {
        "bios" => Ok(Firmware::Bios),
        "uefi" => Ok(Firmware::Uefi),
        _ => Err(Wrong::new(format!("there is no firmware `{t}`"))
            .help("it must be \"bios\" or \"uefi\"")),
    });
    if let Some(found) = &found
        && has_kernel
    {
        let message = "`firmware` beside `kernel`";
        let help = "leave one of them out: a kernel that is started directly needs no firmware";
        reader.out.push(Mistake::at(&found.at, message).help(help));
    }
    found.map_or(Firmware::default(), |f| f.value)
}

fn cmdline(text: &str) -> Result<String, Wrong> {
    if text.len() > LONGEST_CMDLINE {
        return Err(Wrong::new(format!("the command line has {} octets", text.len()))
            .help(format!("kernels take at most {LONGEST_CMDLINE}")));
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::new("a command line is one line of text")
            .help("leave out what is no letter, digit or sign: ends of lines, tabs"));
    }
    Ok(text.to_owned())
}

fn restart(text: &str) -> Result<Restart, Wrong> {
    // The word of those who come from elsewhere.
    let text = if text == "no" { Restart::Never.as_str() } else { text };
    [Restart::Never, Restart::OnFailure, Restart::Always]
        .into_iter()
        .find(|r| r.as_str() == text)
        .ok_or_else(|| {
            Wrong::new(format!("`restart` cannot be \"{text}\""))
                .help("it must be \"no\", \"on-failure\" or \"always\"")
        })
}

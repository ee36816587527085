//! Forms a VM: takes what it needs from the ledger, makes its memory, opens its disks, starts its
//! vessel, and has a successor's descriptors kept.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use datapath::names::Mac;

use super::Shared;
use crate::config::{Engine, Firmware, Machine, Vm, mac_of};
use crate::data_dir;
use crate::engine::disk::OpenDisk;
use crate::engine::firmware::{self, Uefi};
use crate::engine::qemu::{self, Vessel};
use crate::engine::spawn::{Launch, Lock, Process, Vacancy, find_program};
use crate::engine::{clone, memory, seed};
use crate::ledger::{Claim, Refusal};
use crate::state_dir::{StateDir, StateDirError, older_log};

/// Octets of a vessel's messages before they are put aside.
const LOG_LIMIT: u64 = 1 << 20;
/// Octets of what a console showed before all but the last of it goes.
const CONSOLE_LIMIT: u64 = 8 << 20;
/// Octets of either that are kept then.
const LOG_END: u64 = 1 << 20;
/// Octets at the end of a vessel's messages in which its last words are looked for.
const LAST_WORDS: u64 = 4096;
/// Characters of its last words that are passed on.
const LONGEST_WORDS: usize = 300;

/// What is to be formed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The VM's name.
    pub(super) name: String,
    pub(super) machine: Machine,
    vm: Vm,
    mac: Mac,
    mtu: Option<u16>,
    port: PathBuf,
}

impl Plan {
    /// A VM of the configuration. `port`: where the base listens for its network card; `mtu`: the
    /// largest datagram it is told of, unless it has its own. `None` if somebody else forms it.
    pub fn new(name: &str, vm: &Vm, port: PathBuf, mtu: Option<u16>) -> Option<Self> {
        let Engine::Qemu(machine) = &vm.engine else { return None };
        Some(Self {
            name: name.to_owned(),
            machine: machine.clone(),
            mac: vm.mac.unwrap_or_else(|| mac_of(&vm.network, name)),
            mtu: vm.mtu.or(mtu),
            vm: vm.clone(),
            port,
        })
    }

    /// What it needs from the ledger.
    pub(super) fn claim(&self) -> io::Result<Claim> {
        Claim::of(&self.vm)
    }
}

/// Why a VM could not be formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The ledger does not give it what it needs.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// QEMU is not installed.
    #[error(
        "there is no {} in PATH: install QEMU (Debian: apt install qemu-system-x86)",
        qemu::PROGRAM
    )]
    NoProgram,
    /// The firmware is not installed.
    #[error(
        "VM `{0}`: there is no UEFI firmware on this machine: install OVMF (Debian: apt install \
         ovmf), or write `firmware = \"bios\"`"
    )]
    NoFirmware(String),
    /// A vessel of that name lives that nobody knew of.
    #[error("process {pid} runs VM `{vm}` already")]
    Lives {
        /// The VM.
        vm: String,
        /// Its process.
        pid: u32,
    },
    /// The kernel refused something.
    #[error("VM `{vm}`: cannot {what}: {source}")]
    Step {
        /// The VM.
        vm: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where the files of one VM are: all below `vm` in the state directory.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    directory: PathBuf,
    /// The console's socket.
    pub(super) console: PathBuf,
    /// The monitor's socket.
    pub(super) monitor: PathBuf,
    /// What a successor must know.
    pub(super) record: PathBuf,
    /// Held by the vessel; says which process that is.
    pub(super) lock: PathBuf,
    /// What the vessel complains of.
    log: PathBuf,
    /// What the console showed.
    pub(super) console_log: PathBuf,
    /// Held by whoever types at the console.
    pub(super) keyboard: PathBuf,
}

impl Paths {
    pub(super) fn of(state_dir: &StateDir, vm: &str) -> Result<Self, StateDirError> {
        let directory = state_dir.vm_directory();
        let file = |what: &str| directory.join(format!("{vm}.{what}"));
        Ok(Self {
            console: state_dir.vm_socket(vm, "console")?,
            monitor: state_dir.vm_socket(vm, "monitor")?,
            record: file("json"),
            lock: file("pid"),
            log: file("log"),
            console_log: state_dir.vm_console_log(vm),
            keyboard: file("keyboard"),
            directory,
        })
    }

    /// Keeps what vessel and guest write from filling the disk, or the memory where the state
    /// directory is in memory. They append, so the files can be cut under them.
    pub(super) fn tidy(&self) {
        for (path, limit) in [(&self.log, LOG_LIMIT), (&self.console_log, CONSOLE_LIMIT)] {
            // It is looked at again, and a VM does not end for its log.
            let _ = cut(path, limit);
        }
    }

    /// Forgets the VM, whose vessel does not live: the next of that name is a new one. What it had
    /// to say stays.
    pub(super) fn forget(&self) {
        for file in [&self.record, &self.lock, &self.console, &self.monitor, &self.keyboard] {
            // What is not there is forgotten already.
            let _ = std::fs::remove_file(file);
        }
    }

    /// The last thing that the vessel said since its log had `from` octets.
    pub(super) fn last_words(&self, from: u64) -> Option<String> {
        let mut file = File::open(&self.log).ok()?;
        let len = file.metadata().ok()?.len();
        // It may have been cut meanwhile.
        let from = if from <= len { from } else { 0 };
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(LAST_WORDS)))).ok()?;
        let mut octets = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut octets).ok()?;
        let text = String::from_utf8_lossy(&octets);
        let line = text.lines().map(str::trim).rfind(|l| !l.is_empty())?;
        // The time and the program's name in front of it are no news.
        let program = format!("{}: ", qemu::PROGRAM);
        let words = line.split_once(&program).map_or(line, |(_, words)| words);
        Some(words.chars().filter(|c| !c.is_control()).take(LONGEST_WORDS).collect())
    }
}

/// A VM that was formed.
#[derive(Debug)]
pub(super) struct Formed {
    pub(super) process: Process,
    /// Octets of the vessel's log before it said anything.
    pub(super) log_from: u64,
    /// What did not go as it should, without keeping the VM from running.
    pub(super) troubles: Vec<String>,
}

/// Forms the VM. What the ledger gave stays with it until [`dissolve`].
pub(super) fn form(plan: &Plan, paths: &Paths, shared: &Shared) -> Result<Formed, FormError> {
    let claim = plan.claim().map_err(|e| step(plan, "find its disks", e))?;
    shared.ledger().take(&plan.name, claim)?;
    let formed = form_from(plan, paths, shared);
    if formed.is_err() {
        shared.ledger().give_back(&plan.name);
    }
    formed
}

fn step(plan: &Plan, what: &'static str, source: io::Error) -> FormError {
    FormError::Step { vm: plan.name.clone(), what, source }
}

fn form_from(plan: &Plan, paths: &Paths, shared: &Shared) -> Result<Formed, FormError> {
    let lock = match Lock::take(&paths.lock).map_err(|e| step(plan, "take its lock", e))? {
        Vacancy::Free(lock) => lock,
        Vacancy::Taken(process) => {
            return Err(FormError::Lives { vm: plan.name.clone(), pid: process.pid });
        }
    };
    let program = shared.qemu.clone().or_else(|| find_program(qemu::PROGRAM));
    let program = program.ok_or(FormError::NoProgram)?;
    let machine = &plan.machine;
    let memory =
        memory::sealed(&plan.name, machine.memory).map_err(|e| step(plan, "make its memory", e))?;
    let Media { uefi, disks, seed } = Media::open(plan, shared)?;
    let (log, log_from) = logs(paths).map_err(|e| step(plan, "open its log", e))?;
    let arguments = qemu::arguments(&Vessel {
        name: &plan.name,
        accel: shared.accel,
        cpus: machine.cpus,
        memory: machine.memory,
        memory_fd: memory.as_raw_fd(),
        port: &plan.port,
        mac: plan.mac,
        mtu: plan.mtu,
        queues: plan.vm.queues,
        kernel: machine.kernel.as_ref(),
        uefi: uefi.as_ref(),
        disks: &disks,
        seed: seed.as_ref(),
        console: &paths.console,
        console_log: &paths.console_log,
        monitor: &paths.monitor,
    });
    let mut inherit: Vec<BorrowedFd<'_>> = vec![memory.as_fd()];
    let flash = uefi.iter().flat_map(|uefi| [&uefi.code, &uefi.variables]);
    inherit.extend(disks.iter().chain(&seed).chain(flash).flat_map(OpenDisk::descriptors));
    let launch = Launch {
        program: &program,
        arguments: &arguments,
        inherit: &inherit,
        log: &log,
        directory: &paths.directory,
    };
    let process = lock.launch(&launch).map_err(|e| step(plan, "start its vessel", e))?;
    let mut troubles = Vec::new();
    for (what, fd) in [("memory", memory.as_fd()), ("pidfd", process.as_fd())] {
        if let Err(error) = shared.keeper.keep(&key(&plan.name, what), fd) {
            troubles.push(format!("a successor of this base will not have its {what}: {error}"));
        }
    }
    Ok(Formed { process, log_from, troubles })
}

/// What a VM starts from, open.
struct Media {
    uefi: Option<Uefi>,
    disks: Vec<OpenDisk>,
    seed: Option<OpenDisk>,
}

impl Media {
    /// Opens all of it; makes what the VM has of its own and has not yet.
    fn open(plan: &Plan, shared: &Shared) -> Result<Self, FormError> {
        let machine = &plan.machine;
        let own = || match &shared.data_dir {
            Some(data_dir) => data_dir::of_vm(data_dir, &plan.name),
            None => Err(io::Error::other("no home directory: name one by `data_dir` under [host]")),
        };
        let uefi = match (&machine.kernel, machine.firmware) {
            (None, Firmware::Uefi) if !firmware::is_installed() => {
                return Err(FormError::NoFirmware(plan.name.clone()));
            }
            (None, Firmware::Uefi) => Some(own().and_then(|own| firmware::open(&own))),
            _ => None,
        };
        let uefi = uefi.transpose().map_err(|e| step(plan, "open its firmware", e))?;
        let disks = machine.disks.iter().map(|disk| match disk.clone {
            Some(size) => clone::open(disk, size, &own()?),
            None => OpenDisk::open(disk),
        });
        let disks = disks.collect::<io::Result<Vec<_>>>();
        let disks = disks.map_err(|e| step(plan, "open its disks", e))?;
        let seed = machine.seed.as_ref().map(|s| seed::open(&plan.name, &plan.vm.hostname, s));
        let seed = seed.transpose().map_err(|e| step(plan, "make what cloud-init is told", e))?;
        Ok(Self { uefi, disks, seed })
    }
}

/// Gives back everything of a VM whose vessel has ended.
pub(super) fn dissolve(plan: &Plan, shared: &Shared) {
    shared.ledger().give_back(&plan.name);
    for what in ["memory", "pidfd"] {
        // What cannot be forgotten is a holder that is gone, and with it what it kept.
        let _ = shared.keeper.forget(&key(&plan.name, what));
    }
}

/// Has the process of a vessel kept that was found by its lock: the holder does not know it.
pub(super) fn keep_found(plan: &Plan, process: &Process, shared: &Shared) -> io::Result<()> {
    shared.keeper.keep(&key(&plan.name, "pidfd"), process.as_fd())
}

fn key(vm: &str, what: &str) -> String {
    format!("vm/{vm}/{what}")
}

/// The vessel's log, and how long it is; what the console showed before is put aside.
fn logs(paths: &Paths) -> io::Result<(File, u64)> {
    put_aside(&paths.console_log, 0)?;
    put_aside(&paths.log, LOG_LIMIT)?;
    let log = File::options().append(true).create(true).open(&paths.log)?;
    let len = log.metadata()?.len();
    Ok((log, len))
}

/// Empties a file that is longer than `limit`; the end of it takes the place of the one before.
fn cut(path: &Path, limit: u64) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    if len > limit {
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_END)))?;
        let mut end = Vec::new();
        (&file).take(LOG_END).read_to_end(&mut end)?;
        file.set_len(0)?;
        std::fs::write(older_log(path), end)?;
    }
    Ok(())
}

/// Renames a file that is longer than `limit`, in the place of the one before it.
fn put_aside(path: &Path, limit: u64) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > limit => std::fs::rename(path, older_log(path)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn last_words_are_the_last_line_since_the_start_without_time_and_program() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path());
        std::fs::create_dir(state_dir.vm_directory()).unwrap();
        let paths = Paths::of(&state_dir, "web").unwrap();
        assert_eq!(paths.last_words(0), None);
        let old = "an older complaint\n";
        let new = "2026-01-01T00:00:00.0Z qemu-system-x86_64: -kernel: \u{1b}[2Jno such file\n\n";
        std::fs::write(&paths.log, format!("{old}{new}")).unwrap();
        assert_eq!(paths.last_words(0).unwrap(), "-kernel: [2Jno such file");
        std::fs::write(&paths.log, old).unwrap();
        assert_eq!(paths.last_words(old.len() as u64), None);
    }

    #[test]
    fn what_a_guest_writes_without_end_is_cut_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path());
        std::fs::create_dir(state_dir.vm_directory()).unwrap();
        let paths = Paths::of(&state_dir, "web").unwrap();
        // As QEMU opens it.
        let mut console =
            File::options().append(true).create(true).open(&paths.console_log).unwrap();
        let line = [b'y'; 1 << 20];
        let size = || std::fs::metadata(&paths.console_log).unwrap().len();
        for written in 1..=64 {
            console.write_all(&line).unwrap();
            paths.tidy();
            assert!(size() <= CONSOLE_LIMIT, "{} after {written} MiB", size());
        }
        console.write_all(b"the end").unwrap();
        paths.tidy();
        let shown = std::fs::read(&paths.console_log).unwrap();
        assert!(shown.ends_with(b"the end") && !shown.contains(&0), "a hole");
        assert_eq!(std::fs::metadata(older_log(&paths.console_log)).unwrap().len(), LOG_END);
    }

    #[test]
    fn the_console_of_the_run_before_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path());
        std::fs::create_dir(state_dir.vm_directory()).unwrap();
        let paths = Paths::of(&state_dir, "web").unwrap();
        std::fs::write(&paths.console_log, "first run").unwrap();
        logs(&paths).unwrap();
        logs(&paths).unwrap();
        let old = state_dir.vm_directory().join("web.console.log.1");
        assert_eq!(std::fs::read_to_string(old).unwrap(), "first run");
        assert!(!paths.console_log.exists());
    }
}

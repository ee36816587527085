//! Network namespaces as machines of a test: made, wired, used, and gone without trace.
//!
//! # Theory of operation
//! A [`Netns`] is a named namespace `ipv-PID-N`, so that `ip netns` shows it and `ip netns exec`
//! gives programs inside a fitting `/sys`. When it is dropped, whatever still runs inside is killed
//! and the namespace removed; devices in it go with it. A test that died leaves namespaces behind
//! whose process is gone: the first namespace of every later process removes them.
//!
//! Sockets belong to the namespace in which they were made, whoever uses them later:
//! [`Netns::enter`] runs a closure on a thread inside and gives back what it made.
//!
//! # Invariants
//! The machine's own network is never touched: a cable is made directly between two namespaces.

mod snapshot;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use snapshot::Snapshot;

use crate::command::{output, wait_until, words};
use crate::error::{Attempt, LabError, Result};

const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "ipv-";

static NEXT: AtomicU32 = AtomicU32::new(0);
static TIDY: Once = Once::new();

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    kept: bool,
}

impl Netns {
    /// Makes a namespace in which `lo` is up and nothing else exists.
    pub fn new() -> Result<Self> {
        TIDY.call_once(remove_leftovers);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { name, kept: false };
        made.run("ip link set lo up")?;
        Ok(made)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program to be run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line inside that must succeed (split at blanks, no quoting).
    pub fn run(&self, line: &str) -> Result<String> {
        let mut parts = line.split_whitespace();
        output(self.command(parts.next().unwrap_or_default()).args(parts))
    }

    /// Sets a kernel parameter inside (`net.ipv4.ip_forward`).
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?.attempt(|| format!("set {name} to {value}"))
    }

    /// Runs `work` on a thread inside. Sockets it makes belong to this namespace for good.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let what = || format!("enter {}", path.display());
        let file = File::open(&path).attempt(what)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .attempt(what)?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The namespace's file.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Processes that run inside.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        processes_in(&self.name)
    }

    /// Leaves the namespace, and what runs inside, when this is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.name);
        }
    }
}

/// Lays a cable: a veth pair with its ends in two namespaces, both up.
pub fn cable(a: (&Netns, &str), b: (&Netns, &str)) -> Result<()> {
    let (a_space, a_card) = (a.0.name(), a.1);
    let (b_space, b_card) = (b.0.name(), b.1);
    let line = format!(
        "ip link add name {a_card} netns {a_space} type veth peer name {b_card} netns {b_space}"
    );
    output(&mut words(&line))?;
    for (space, card) in [a, b] {
        space.run(&format!("ip link set {card} up"))?;
    }
    Ok(())
}

/// The MAC address of a card.
pub fn mac(space: &Netns, card: &str) -> Result<[u8; 6]> {
    let text = space.run(&format!("ip -j link show dev {card}"))?;
    let known = || -> Option<[u8; 6]> {
        let json: serde_json::Value = serde_json::from_str(&text).ok()?;
        let parts = json.get(0)?.get("address")?.as_str()?.split(':');
        let octets: Vec<u8> = parts.map_while(|p| u8::from_str_radix(p, 16).ok()).collect();
        octets.try_into().ok()
    };
    known().ok_or_else(|| LabError::Unexpected(format!("no MAC address of {card} in: {text}")))
}

fn processes_in(name: &str) -> Result<Vec<Pid>> {
    let text = output(Command::new("ip").args(["netns", "pids", name]))?;
    Ok(text.lines().filter_map(|l| Pid::from_raw(l.trim().parse().ok()?)).collect())
}

/// Kills what runs in a namespace and removes it.
fn remove(name: &str) {
    let _ = wait_until(Duration::from_secs(5), String::new, || {
        let left = processes_in(name)?;
        for &process in &left {
            let _ = kill_process(process, Signal::KILL);
        }
        Ok(left.is_empty().then_some(()))
    });
    let _ = output(Command::new("ip").args(["netns", "del", name]));
}

/// Removes namespaces whose maker is gone.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    let names: BTreeSet<_> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    for name in names {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(maker) = maker.and_then(|m| m.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{maker}")).exists()
        {
            remove(&name);
        }
    }
}

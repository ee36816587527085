//! The machine: what it is, and what it lends for the measurement.

use std::fs;
use std::process::Command;

use lab::Result;
use lab::command::output;
use lab::error::Attempt;

use crate::results::Machine;

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// What DPDK's programs need together, in pages of 2 MiB.
const NEEDED: u32 = 512;

/// Huge pages, given back when dropped.
pub struct HugePages {
    before: u32,
}

impl HugePages {
    /// Takes as many as are missing.
    pub fn take() -> Result<Self> {
        let read = || fs::read_to_string(HUGE_PAGES).attempt(|| format!("read {HUGE_PAGES}"));
        let number = |text: String| text.trim().parse().unwrap_or(0);
        let before = number(read()?);
        let wanted = before + NEEDED;
        fs::write(HUGE_PAGES, wanted.to_string()).attempt(|| format!("write {HUGE_PAGES}"))?;
        let made = Self { before };
        let have = number(read()?);
        if have < wanted {
            let lacks = format!("the machine has {have} huge pages of {wanted}");
            return Err(lab::LabError::Unexpected(lacks));
        }
        Ok(made)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(HUGE_PAGES, self.before.to_string());
    }
}

/// What this machine is, as far as it says so.
pub fn describe() -> Machine {
    let said = |words: &[&str]| {
        let text = output(Command::new(words[0]).args(&words[1..])).unwrap_or_default();
        text.trim().to_owned()
    };
    let version = |package| said(&["dpkg-query", "-W", "-f", "${Version}", package]);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    let root = lab::paths::workspace();
    let root = root.to_string_lossy();
    Machine {
        processor: model.unwrap_or_default().to_owned(),
        // Whatever this thread is kept to.
        cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
        kernel: said(&["uname", "-r"]),
        dpdk: version("dpdk"),
        ovs: version("openvswitch-switch-dpdk"),
        revision: said(&["git", "-C", &root, "describe", "--always", "--dirty"]),
    }
}

//! Why something was not given out.

use std::fmt;
use std::path::PathBuf;

use ipnet::IpNet;

/// Why a VM was not given what it needs, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too few CPUs are free.
    Cpus {
        /// Who asked.
        vm: String,
        /// CPUs it needs.
        wanted: u32,
        /// CPUs nobody has.
        free: u32,
        /// CPUs of the machine.
        have: u32,
        /// Who has how many.
        holders: Vec<(String, u64)>,
    },
    /// Too little memory is free.
    Memory {
        /// Who asked.
        vm: String,
        /// Octets it needs.
        wanted: u64,
        /// Octets nobody has.
        free: u64,
        /// Octets of the machine.
        have: u64,
        /// Who has how many.
        holders: Vec<(String, u64)>,
    },
    /// Another VM uses the disk.
    Disk {
        /// Who asked.
        vm: String,
        /// The disk, as the asker calls it.
        path: PathBuf,
        /// Who has it.
        holder: String,
        /// The disk, as the holder calls it.
        theirs: PathBuf,
    },
    /// Another VM has the address.
    Address {
        /// Who asked.
        vm: String,
        /// What it asked for.
        address: IpNet,
        /// Who has it.
        holder: String,
        /// What the holder has.
        theirs: IpNet,
    },
    /// The VM has taken what it needs already.
    AlreadyHolds {
        /// Who asked.
        vm: String,
    },
}

/// Mebioctets, rounded up: nobody is told that 0M are missing.
fn mebi(octets: u64) -> String {
    format!("{}M", octets.div_ceil(1 << 20))
}

/// Who has how much.
fn list(holders: &[(String, u64)], show: impl Fn(u64) -> String) -> String {
    if holders.is_empty() {
        return String::new();
    }
    let each: Vec<String> =
        holders.iter().map(|(vm, much)| format!("`{vm}` has {}", show(*much))).collect();
    format!(": {}", each.join(", "))
}

const REMEDY: &str = "stop another VM, or write `overcommit = true` under [host]";

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus { vm, wanted, free, have, holders } => {
                let plural = if *wanted == 1 { "" } else { "s" };
                let holders = list(holders, |n| n.to_string());
                write!(
                    f,
                    "VM `{vm}` needs {wanted} CPU{plural}; of the machine's {have}, {free} are \
                     free{holders}. Give it fewer, {REMEDY}"
                )
            }
            Self::Memory { vm, wanted, free, have, holders } => {
                let (wanted, free, have) = (mebi(*wanted), free >> 20, mebi(*have));
                let holders = list(holders, mebi);
                write!(
                    f,
                    "VM `{vm}` needs {wanted} of memory; of the machine's {have}, {free}M are \
                     free{holders}. Give it less, {REMEDY}"
                )
            }
            Self::Disk { vm, path, holder, theirs } => write!(
                f,
                "VM `{vm}` cannot have the disk {}: `{holder}` uses it as {}. Copy it, or make it \
                 `readonly` in both",
                path.display(),
                theirs.display()
            ),
            Self::Address { vm, address, holder, theirs } => {
                write!(f, "VM `{vm}` cannot have {address}: `{holder}` has {theirs}")
            }
            Self::AlreadyHolds { vm } => write!(f, "VM `{vm}` has taken what it needs already"),
        }
    }
}

impl std::error::Error for Refusal {}

//! The ledger: what the base has given to which VM, so that nothing is given twice.
//!
//! # Theory of operation
//! A VM takes a [`Claim`] when it is started and gives it back when its process has ended. CPUs and
//! memory are counted against what the machine has ([`Capacity`]); with `overcommit` they are
//! counted only. Disks are told apart by what they are (device and inode), not by their paths: two
//! VMs that write one disk destroy it, whatever it is called. Addresses belong to one VM of a
//! network. `overcommit` does not change the last two.
//!
//! # Invariants
//! - A refused claim changes nothing.
//! - Nothing here touches the machine but [`Capacity::of_this_machine`] and [`Claim::of`].
//!
//! # Limits
//! What other programs of the machine use is not known and not subtracted.

mod capacity;
mod owners;
mod refusal;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::config::{Engine, Vm};

pub use capacity::Capacity;
pub use refusal::Refusal;

use owners::Owners;

/// Which disk it is, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskId {
    /// A file: its file system's device and its inode.
    File {
        /// The file system's device.
        device: u64,
        /// The inode.
        inode: u64,
    },
    /// A block device, by its number.
    Device(u64),
}

impl DiskId {
    /// Asks the kernel what is at `path`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(if found.file_type().is_block_device() {
            Self::Device(found.rdev())
        } else {
            Self::File { device: found.dev(), inode: found.ino() }
        })
    }
}

/// One disk that a VM uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskClaim {
    /// Which it is.
    pub id: DiskId,
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// Whether it is only read.
    pub readonly: bool,
}

/// What one VM needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Octets of memory.
    pub memory: u64,
    /// Disks.
    pub disks: Vec<DiskClaim>,
    /// The network that the addresses belong to.
    pub network: String,
    /// Addresses and prefixes.
    pub addresses: Vec<IpNet>,
}

impl Claim {
    /// What a configured VM needs; looks its disks up.
    pub fn of(vm: &Vm) -> io::Result<Self> {
        let mut claim = Self {
            network: vm.network.clone(),
            addresses: vm.addresses.clone(),
            ..Self::default()
        };
        if let Engine::Qemu(machine) = &vm.engine {
            claim.cpus = machine.cpus;
            claim.memory = machine.memory;
            for disk in &machine.disks {
                let named = |e: io::Error| {
                    io::Error::new(e.kind(), format!("{}: {e}", disk.path.display()))
                };
                let id = DiskId::of(&disk.path).map_err(named)?;
                let (path, readonly) = (disk.path.clone(), disk.only_read());
                claim.disks.push(DiskClaim { id, path, readonly });
            }
        }
        Ok(claim)
    }
}

/// Who has what.
#[derive(Clone, Debug)]
pub struct Ledger {
    capacity: Capacity,
    overcommit: bool,
    held: BTreeMap<String, Claim>,
    owners: Owners,
}

impl Ledger {
    /// Nobody has anything yet.
    pub fn new(capacity: Capacity, overcommit: bool) -> Self {
        Self { capacity, overcommit, held: BTreeMap::new(), owners: Owners::default() }
    }

    /// What the machine has.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Who has what.
    #[cfg(test)]
    pub fn held(&self) -> impl Iterator<Item = (&str, &Claim)> {
        self.held.iter().map(|(vm, claim)| (vm.as_str(), claim))
    }

    /// Gives `claim` to `vm`, or says who has what it needs.
    pub fn take(&mut self, vm: &str, claim: Claim) -> Result<(), Refusal> {
        if self.held.contains_key(vm) {
            return Err(Refusal::AlreadyHolds { vm: vm.to_owned() });
        }
        self.enough(vm, &claim)?;
        self.nobody_elses(vm, &claim)?;
        self.note(vm, claim);
        Ok(())
    }

    /// Notes what a VM that runs already has, whether or not it would be given that today: it was,
    /// by the base that started it.
    pub fn note(&mut self, vm: &str, claim: Claim) {
        self.give_back(vm);
        self.owners.add(vm, &claim);
        self.held.insert(vm.to_owned(), claim);
    }

    /// Takes back what `vm` has.
    pub fn give_back(&mut self, vm: &str) -> Option<Claim> {
        let claim = self.held.remove(vm)?;
        self.owners.remove(vm, &claim);
        Some(claim)
    }

    fn enough(&self, vm: &str, claim: &Claim) -> Result<(), Refusal> {
        if self.overcommit {
            return Ok(());
        }
        let cpus: u64 = self.held.values().map(|c| u64::from(c.cpus)).sum();
        let has = u64::from(self.capacity.cpus);
        if claim.cpus > 0 && cpus.saturating_add(claim.cpus.into()) > has {
            return Err(Refusal::Cpus {
                vm: vm.to_owned(),
                wanted: claim.cpus,
                free: u32::try_from(has.saturating_sub(cpus)).unwrap_or(0),
                have: self.capacity.cpus,
                holders: self.holders(|c| c.cpus.into()),
            });
        }
        let memory: u64 = self.held.values().map(|c| c.memory).fold(0, u64::saturating_add);
        if claim.memory > 0 && memory.saturating_add(claim.memory) > self.capacity.memory {
            return Err(Refusal::Memory {
                vm: vm.to_owned(),
                wanted: claim.memory,
                free: self.capacity.memory.saturating_sub(memory),
                have: self.capacity.memory,
                holders: self.holders(|c| c.memory),
            });
        }
        Ok(())
    }

    /// Who has some of it, and how much.
    fn holders(&self, of: impl Fn(&Claim) -> u64) -> Vec<(String, u64)> {
        let held = self.held.iter().map(|(vm, claim)| (vm.clone(), of(claim)));
        held.filter(|(_, much)| *much > 0).collect()
    }

    fn nobody_elses(&self, vm: &str, claim: &Claim) -> Result<(), Refusal> {
        for (holder, held) in &self.held {
            for disk in &claim.disks {
                let clash = |d: &&DiskClaim| d.id == disk.id && !(d.readonly && disk.readonly);
                if let Some(theirs) = held.disks.iter().find(clash) {
                    return Err(Refusal::Disk {
                        vm: vm.to_owned(),
                        path: disk.path.clone(),
                        holder: holder.clone(),
                        theirs: theirs.path.clone(),
                    });
                }
            }
        }
        for own in &claim.addresses {
            if let Some((theirs, holder)) = self.owners.overlapping(&claim.network, own) {
                return Err(Refusal::Address {
                    vm: vm.to_owned(),
                    address: *own,
                    holder: holder.to_owned(),
                    theirs,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn ledger(overcommit: bool) -> Ledger {
        Ledger::new(Capacity { cpus: 4, memory: 8 * GIB }, overcommit)
    }

    fn claim(cpus: u32, memory: u64) -> Claim {
        Claim { cpus, memory, ..Claim::default() }
    }

    fn disk(inode: u64, path: &str, readonly: bool) -> Claim {
        let id = DiskId::File { device: 1, inode };
        Claim { disks: vec![DiskClaim { id, path: path.into(), readonly }], ..Claim::default() }
    }

    fn addresses(network: &str, address: &str) -> Claim {
        let addresses = vec![address.parse().unwrap()];
        Claim { network: network.into(), addresses, ..Claim::default() }
    }

    #[test]
    fn the_last_cpu_is_given_and_the_next_refused_with_who_has_them() {
        let mut ledger = ledger(false);
        ledger.take("a", claim(3, GIB)).unwrap();
        ledger.take("b", claim(1, GIB)).unwrap();
        let refused = ledger.take("c", claim(1, GIB)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "VM `c` needs 1 CPU; of the machine's 4, 0 are free: `a` has 3, `b` has 1. Give it \
             fewer, stop another VM, or write `overcommit = true` under [host]"
        );
        assert_eq!(ledger.give_back("a").unwrap().cpus, 3);
        ledger.take("c", claim(3, GIB)).unwrap();
    }

    #[test]
    fn memory_is_counted_to_the_octet() {
        let mut ledger = ledger(false);
        ledger.take("a", claim(1, 6 * GIB)).unwrap();
        let refused = ledger.take("b", claim(1, 2 * GIB + 1)).unwrap_err().to_string();
        assert!(refused.contains("of the machine's 8192M, 2048M are free: `a` has 6144M"));
        ledger.take("b", claim(1, 2 * GIB)).unwrap();
        assert!(ledger.take("c", claim(1, u64::MAX)).is_err());
    }

    #[test]
    fn overcommit_gives_more_than_there_is_but_nothing_twice() {
        let mut ledger = ledger(true);
        ledger.take("a", claim(100, 100 * GIB)).unwrap();
        ledger.take("b", disk(7, "/d", false)).unwrap();
        assert!(matches!(ledger.take("c", disk(7, "/e", false)), Err(Refusal::Disk { .. })));
    }

    #[test]
    fn a_disk_under_two_paths_is_one_disk_unless_both_only_read_it() {
        let mut ledger = ledger(false);
        ledger.take("a", disk(7, "/a.img", true)).unwrap();
        ledger.take("b", disk(7, "/link", true)).unwrap();
        let refused = ledger.take("c", disk(7, "/other", false)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "VM `c` cannot have the disk /other: `a` uses it as /a.img. Copy it, or make it \
             `readonly` in both"
        );
        ledger.take("d", disk(8, "/a.img", false)).unwrap();
    }

    #[test]
    fn an_address_belongs_to_one_vm_of_a_network() {
        let mut ledger = ledger(false);
        ledger.take("a", addresses("lan", "203.0.113.64/28")).unwrap();
        let refused = ledger.take("b", addresses("lan", "203.0.113.65/32")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "VM `b` cannot have 203.0.113.65/32: `a` has 203.0.113.64/28"
        );
        ledger.take("b", addresses("other", "203.0.113.65/32")).unwrap();
    }

    #[test]
    fn a_refused_claim_changes_nothing_and_nobody_claims_twice() {
        let mut ledger = ledger(false);
        ledger.take("a", claim(1, GIB)).unwrap();
        assert!(matches!(ledger.take("a", claim(1, GIB)), Err(Refusal::AlreadyHolds { .. })));
        assert!(ledger.take("b", claim(9, GIB)).is_err());
        assert_eq!(ledger.held().map(|(vm, _)| vm).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn hard_links_are_seen_through() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&first, "x").unwrap();
        std::fs::hard_link(&first, &second).unwrap();
        assert_eq!(DiskId::of(&first).unwrap(), DiskId::of(&second).unwrap());
    }
}

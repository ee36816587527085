//! What is present on this machine, as far as a configuration can ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use datapath::netlink::{Address, Netlink};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::ledger::Capacity;

/// A machine at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its interfaces by name, and whether they are Ethernet cards.
    pub cards: BTreeMap<String, bool>,
    /// Its own addresses of global scope, and the interface that each is on.
    pub addresses: BTreeMap<IpAddr, String>,
    /// CPUs and memory.
    pub capacity: Capacity,
    /// The cores that threads of ipvisor may keep to; `None` if the kernel does not say.
    pub cores: Option<BTreeSet<usize>>,
}

impl Present {
    /// Asks the kernel.
    pub fn of_this_machine() -> io::Result<Self> {
        let mut netlink = Netlink::open().map_err(io::Error::other)?;
        let links = netlink.links().map_err(io::Error::other)?;
        let addresses = netlink.addresses().map_err(io::Error::other)?;
        let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
        let named = |a: &Address| Some((a.net.addr(), (*names.get(&a.index)?).to_owned()));
        let own = addresses.iter().filter(|a| a.global && !a.net.addr().is_loopback());
        let cores = |set: CpuSet| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
        Ok(Self {
            addresses: own.filter_map(named).collect(),
            cards: links.iter().map(|l| (l.name.clone(), l.mac.is_some())).collect(),
            capacity: Capacity::of_this_machine()?,
            cores: sched_getaffinity(None).ok().map(cores),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_and_a_core_to_run_on() {
        let present = Present::of_this_machine().unwrap();
        assert!(present.cards.contains_key("lo"));
        assert!(present.cores.is_some_and(|cores| !cores.is_empty()));
        assert!(!present.addresses.keys().any(IpAddr::is_loopback));
    }
}

//! The numbers of networks and ports: their records in the state memory.
//!
//! A port or network keeps its number as long as it is in the configuration, deaths of the base and
//! other configurations included: the record says whose it is, and a new one takes the first that is
//! nobody's.

use std::collections::{BTreeMap, BTreeSet};

use datapath::names::{NetworkId, PortId};
use datapath::state::StateMemory;
use datapath::state::network_name::NetworkName;
use datapath::state::port::{self, PortRecord};

use crate::config::Config;

/// Who has which number.
#[derive(Debug, Default)]
pub struct Ids {
    networks: BTreeMap<String, NetworkId>,
    ports: BTreeMap<String, PortId>,
}

impl Ids {
    /// Finds the numbers given before, and gives new ones where there are none.
    pub fn assign(config: &Config, state: &StateMemory) -> Self {
        let networks = networks(config, state);
        let vms: BTreeSet<&str> = config.vms.keys().map(String::as_str).collect();
        let ports = port::assign(state, &vms);
        Self { networks, ports }
    }

    /// The ports in the state memory that are not in this configuration.
    pub fn ports_gone(config: &Config, state: &StateMemory) -> Vec<(String, PortId)> {
        let records = (0..).map(PortId).take(datapath::state::MAX_PORTS);
        let named = records.filter_map(|id| Some((PortRecord::of(state, id).name()?, id)));
        named.filter(|(name, _)| !config.vms.contains_key(name)).collect()
    }

    /// The networks in the state memory, in this configuration or not.
    pub fn networks_known(state: &StateMemory) -> Vec<(String, NetworkId)> {
        let records = (0..).map(NetworkId).take(datapath::state::MAX_NETWORKS);
        records.filter_map(|id| Some((NetworkName::of(state, id).name()?, id))).collect()
    }

    /// A network's number. The configuration's check has made sure that there are enough.
    pub fn network(&self, name: &str) -> NetworkId {
        self.networks.get(name).copied().unwrap_or(NetworkId(0))
    }

    /// The number of a VM's port, likewise.
    pub fn port(&self, vm: &str) -> PortId {
        self.ports.get(vm).copied().unwrap_or(PortId(0))
    }

    /// Whose port it is.
    pub fn vm(&self, id: PortId) -> Option<&str> {
        self.ports.iter().find(|(_, p)| **p == id).map(|(name, _)| name.as_str())
    }

    /// Whose network it is.
    pub fn network_name(&self, id: NetworkId) -> Option<&str> {
        self.networks.iter().find(|(_, n)| **n == id).map(|(name, _)| name.as_str())
    }
}

fn networks(config: &Config, state: &StateMemory) -> BTreeMap<String, NetworkId> {
    let known = Ids::networks_known(state);
    if known.is_empty() {
        // A new state memory, or one of a base that wrote no names and counted like this.
        return config.networks.keys().cloned().zip((0..).map(NetworkId)).collect();
    }
    let mut networks: BTreeMap<_, _> =
        known.into_iter().filter(|(name, _)| config.networks.contains_key(name)).collect();
    let taken: Vec<NetworkId> = networks.values().copied().collect();
    let records = (0..).map(NetworkId).take(datapath::state::MAX_NETWORKS);
    let mut free = records.filter(|id| !taken.contains(id));
    for name in config.networks.keys() {
        if !networks.contains_key(name)
            && let Some(id) = free.next()
        {
            networks.insert(name.clone(), id);
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn config(networks: &[&str]) -> Config {
        let tables = networks.iter().enumerate().map(|(n, name)| {
            format!("[network.{name}]\nprefixes = [\"198.51.100.{}/28\"]\n", n * 16)
        });
        config::check_accepted(&tables.collect::<String>(), Path::new("/tmp/net.toml")).unwrap()
    }

    #[test]
    fn a_network_keeps_its_number_when_others_come_and_go() {
        let (state, _fd) = StateMemory::create().unwrap();
        let assign = |names: &[&str]| {
            let config = config(names);
            for (name, id) in Ids::networks_known(&state) {
                if !config.networks.contains_key(&name) {
                    NetworkName::of(&state, id).clear();
                }
            }
            let ids = Ids::assign(&config, &state);
            let numbers: Vec<u16> = names.iter().map(|name| ids.network(name).0).collect();
            for name in names {
                NetworkName::of(&state, ids.network(name)).set(name, None);
            }
            numbers
        };
        assert_eq!(assign(&["b", "d"]), [0, 1]);
        assert_eq!(assign(&["a", "b", "c", "d"]), [2, 0, 3, 1]);
        assert_eq!(assign(&["c", "d"]), [3, 1]);
        assert_eq!(assign(&["a", "c", "d"]), [0, 3, 1]);
    }
}

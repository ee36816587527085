//! The numbers of networks and ports: their records in the state memory.

use std::collections::{BTreeMap, BTreeSet};

use datapath::names::{NetworkId, PortId};
use datapath::state::{StateMemory, port};

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
        let networks = config.networks.keys().cloned().zip((0..).map(NetworkId)).collect();
        let vms: BTreeSet<&str> = config.vms.keys().map(String::as_str).collect();
        let ports = port::assign(state, &vms);
        Self { networks, ports }
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

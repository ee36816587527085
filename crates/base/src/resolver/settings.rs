//! What the resolver is told by the base: for each network the names, and whom to ask for others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// All of it; a later one takes the place of an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The networks on whose last inches DNS is answered.
    pub networks: Vec<Network>,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name: the domain of its VMs.
    pub name: String,
    /// Octets of the largest datagram on its VMs' links.
    pub mtu: u16,
    /// Whether names of others are asked for outside. In a private network there are none.
    pub forwards: bool,
    /// Whom to ask, in the order of preference.
    pub servers: Vec<SocketAddr>,
    /// The numbers of its ports.
    pub ports: Vec<u16>,
    /// Its VMs, each with its single addresses.
    pub names: BTreeMap<String, Vec<IpAddr>>,
}

//! What the workers tell the control side: things that happened, not datagrams.

use std::net::IpAddr;

use crate::names::{Mac, NetworkId, PortId};

/// Something worth telling. Sent from a worker's thread, so receivers must not block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A guest or front end broke its rings; the port stands still until they are brought anew.
    RingBroken {
        /// Whose.
        port: PortId,
        /// What was wrong, with the values found.
        fault: String,
    },
    /// The first frame told a guest's MAC address.
    MacLearned {
        /// Whose.
        port: PortId,
        /// The address.
        mac: Mac,
    },
    /// Nobody else on the LAN has the address: it is answered for and announced from now on.
    AddressClaimed {
        /// Where.
        network: NetworkId,
        /// The address.
        address: IpAddr,
    },
    /// Somebody on the LAN has the address already: it was taken out of the list.
    AddressConflict {
        /// Where.
        network: NetworkId,
        /// The address.
        address: IpAddr,
        /// Who has it.
        mac: Mac,
    },
    /// Somebody on the LAN uses an address of ours; we keep it.
    AddressDefended {
        /// Where.
        network: NetworkId,
        /// The address.
        address: IpAddr,
        /// Who else uses it.
        mac: Mac,
    },
    /// Somebody removed the device of the host's path.
    HostPathLost {
        /// Whose.
        network: NetworkId,
    },
}

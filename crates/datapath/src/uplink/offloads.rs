//! Settings of the card that would change what was on the wire: off while the base uses it.

use super::UplinkError;
use crate::names::NetworkId;
use crate::state::StateMemory;

/// What was turned off on a card, and how to put it back.
#[derive(Debug)]
pub struct Offloads {
    state: StateMemory,
    network: NetworkId,
}

impl Offloads {
    /// Turns off LRO, hardware GRO and UDP merging on the card `name`; the kernel's own GRO for TCP
    /// too unless `coalesce`. What was on is noted in the network's record.
    pub fn take(
        name: &str,
        coalesce: bool,
        state: &StateMemory,
        network: NetworkId,
    ) -> Result<Self, UplinkError> {
        unimplemented!()
    }

    /// Turns on again what [`Offloads::take`] noted, a predecessor's notes included.
    pub fn restore(name: &str, state: &StateMemory, network: NetworkId) -> Result<(), UplinkError> {
        unimplemented!()
    }
}

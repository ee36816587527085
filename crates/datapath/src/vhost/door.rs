//! A port's door: the socket at which its front end is met.

use std::path::PathBuf;

use crate::names::PortId;

/// Where a port's front end is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The base listens at this path.
    Listen(PathBuf),
    /// The front end listens at this path: the base connects, and tries for ever.
    Connect(PathBuf),
}

/// A port as its door is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDoor {
    /// The port's record in the state memory. The worker must know the port before its door opens.
    pub id: PortId,
    /// Its name: part of the keeper's keys. At most [`crate::state::port::MAX_NAME`] octets, no
    /// slash.
    pub name: String,
    /// Where its front end is met.
    pub socket: Socket,
    /// The virtio features it may be offered, of [`super::features::OFFERED`]. `u64::MAX` for all.
    pub features_mask: u64,
}

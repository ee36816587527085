//! Whose an address can be, and how that is written into an entry's word.

use ipnet::IpNet;

use crate::names::PortId;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A VM's, behind this port.
    Port(PortId),
    /// The host's own.
    Host,
}

/// A prefix is in the list already, under another owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{prefix} is already in the list of this network")]
pub struct Taken {
    /// The prefix that was asked for.
    pub prefix: IpNet,
    /// Who has it.
    pub owner: Target,
}

/// The host in an entry's word.
const HOST: u32 = 1 << 17;
/// Beside a port's number in an entry's word.
const PORT: u32 = 1 << 16;

impl Target {
    /// As an entry's word has it; never zero, and below 2^24.
    #[inline]
    pub(super) fn payload(self) -> u32 {
        match self {
            Self::Host => HOST,
            Self::Port(PortId(id)) => PORT | u32::from(id),
        }
    }

    /// Out of an entry's word; zero is nobody.
    #[inline]
    pub(super) fn from_payload(payload: u32) -> Option<Self> {
        if payload & PORT != 0 {
            return Some(Self::Port(PortId(payload as u16)));
        }
        (payload != 0).then_some(Self::Host)
    }
}

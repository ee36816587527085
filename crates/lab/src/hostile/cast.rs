//! Who plays in a campaign.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frames::Mac;

/// The base's MAC address on every last inch.
pub const BASE_MAC: Mac = [0x02, 0x69, 0x70, 0x76, 0x00, 0x01];

/// The VMs, one port each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// Does everything it should not.
    Hostile,
    /// A receiver that takes every offload.
    Rich,
    /// A receiver that takes none, and no datagram in several buffers.
    Plain,
    /// Its receive ring runs and has no buffers.
    Mute,
    /// Its receive buffers are too small for anything.
    Tiny,
    /// No driver is attached.
    Absent,
    /// A driver is attached, and its MAC address is not known.
    Unknown,
    /// Has broken its rings.
    Broken,
    /// One of two well-behaved neighbours.
    GoodA,
    /// The other.
    GoodB,
}

impl Who {
    /// All of them; the position is the port's number.
    pub const ALL: [Self; 10] = [
        Self::Hostile,
        Self::Rich,
        Self::Plain,
        Self::Mute,
        Self::Tiny,
        Self::Absent,
        Self::Unknown,
        Self::Broken,
        Self::GoodA,
        Self::GoodB,
    ];

    /// Its place in [`Who::ALL`].
    pub fn number(self) -> u8 {
        Self::ALL.iter().position(|who| *who == self).unwrap_or_default() as u8
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hostile => "hostile",
            Self::Rich => "rich",
            Self::Plain => "plain",
            Self::Mute => "mute",
            Self::Tiny => "tiny",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
            Self::GoodA => "good-a",
            Self::GoodB => "good-b",
        }
    }

    /// Its IPv4 address.
    pub fn ip4(self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 100 + self.number())
    }

    /// Its IPv6 address.
    pub fn ip6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100 + u16::from(self.number()))
    }

    /// Its address of a family: of IPv4 if `v4`.
    pub fn ip(self, v4: bool) -> IpAddr {
        if v4 { self.ip4().into() } else { self.ip6().into() }
    }

    /// Its MAC address.
    pub fn mac(self) -> Mac {
        [2, 0, 0, 0, 1, self.number()]
    }
}

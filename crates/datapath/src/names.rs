//! The small identifiers that everything in the datapath is named by.

use std::fmt;

/// A MAC address. Ethernet exists only on the last inch (guest to base) and towards the LAN; nothing
/// is ever forwarded by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// The base's own address on every last inch: locally administered, the same for ever, so that
    /// a guest's neighbour cache stays right when the base is restarted.
    pub const BASE: Self = Self([0x02, 0x69, 0x70, 0x76, 0x00, 0x01]);

    /// Whether the group bit is set (multicast or broadcast).
    pub fn is_multicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut octets = [0u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(MacError)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() { Err(MacError) } else { Ok(Self(octets)) }
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of hexadecimal digits, as in 02:00:00:00:00:01")]
pub struct MacError;

/// A port: one virtio NIC of one VM. The index of its record in the state memory; stable while the
/// instance lives, deaths of the base included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// One of the sockets by which a card's frames come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inlet(pub u8);

impl Inlet {
    /// The packet socket.
    pub const PACKET: Self = Self(0);

    /// The AF_XDP socket of a receive queue. Those of queues beyond the 255th do not exist.
    pub fn queue(queue: usize) -> Self {
        Self(u8::try_from(queue.saturating_add(1)).unwrap_or(u8::MAX))
    }

    /// The receive queue, unless it is the packet socket.
    pub fn as_queue(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// One of a port's two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Towards the guest: its input buffers. Queue 0.
    Rx,
    /// From the guest: its output buffers. Queue 1.
    Tx,
}

impl Side {
    /// Both, in the order of their queue numbers.
    pub const BOTH: [Self; 2] = [Self::Rx, Self::Tx];

    /// The ring's queue number.
    pub fn queue(self) -> u8 {
        match self {
            Self::Rx => 0,
            Self::Tx => 1,
        }
    }

    /// The ring of a queue number.
    pub fn from_queue(queue: u32) -> Option<Self> {
        match queue {
            0 => Some(Self::Rx),
            1 => Some(Self::Tx),
            _ => None,
        }
    }

    /// `rx` or `tx`, as in the keeper's keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }
}

/// A network: one list of addresses with its uplink. The index of its record in the state memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u16);

/// Whose a datagram is, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A VM's port.
    Port(PortId),
    /// A network's adapter card.
    Uplink(NetworkId),
    /// The host's own stack, through a network's TUN device.
    Host(NetworkId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_reads_what_it_writes_and_refuses_the_rest() {
        let mac = Mac([0x02, 0, 0, 0xab, 0, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for wrong in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "zz:00:00:00:00:01"]
        {
            assert_eq!(wrong.parse::<Mac>(), Err(MacError), "{wrong}");
        }
    }
}

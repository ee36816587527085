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

/// Queue pairs that one port can have. Linux guests use one for each of their CPUs; more than eight make
/// nothing faster, because all of a port's rings are served by one worker.
pub const MAX_PAIRS: usize = 8;

/// One of a port's queue pairs: an input ring and an output ring. There are [`MAX_PAIRS`], so that its
/// number has three bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair(u8);

impl Pair {
    /// The one that every port has. What the base itself says goes there.
    pub const FIRST: Self = Self(0);

    /// The pair of this number, if there can be one.
    pub fn new(number: u32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| usize::from(*n) < MAX_PAIRS).map(Self)
    }

    /// The first `count` pairs, as many as there can be.
    pub fn first(count: usize) -> impl Iterator<Item = Self> + Clone {
        (0..MAX_PAIRS as u8).map(Self).take(count)
    }

    /// Its number.
    #[inline]
    pub fn number(self) -> u8 {
        self.0
    }
}

/// Which ring of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Towards the guest: its input buffers.
    Rx,
    /// From the guest: its output buffers.
    Tx,
}

/// One of a port's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId {
    /// The pair it belongs to.
    pub pair: Pair,
    /// Which of the two it is.
    pub side: Side,
}

impl RingId {
    /// The input ring that every port has.
    pub const RX: Self = Self { pair: Pair::FIRST, side: Side::Rx };
    /// The output ring that every port has.
    pub const TX: Self = Self { pair: Pair::FIRST, side: Side::Tx };
    /// The rings that every port has, in the order of their numbers.
    pub const FIRST: [Self; 2] = [Self::RX, Self::TX];

    /// The rings of a port with so many pairs, in the order of their numbers.
    pub fn all(pairs: usize) -> impl Iterator<Item = Self> + Clone {
        Pair::first(pairs).flat_map(|pair| [Side::Rx, Side::Tx].map(|side| Self { pair, side }))
    }

    /// Its number in virtio and vhost-user: input rings are even, output rings odd.
    pub fn number(self) -> u8 {
        let side = match self.side {
            Side::Rx => 0,
            Side::Tx => 1,
        };
        self.pair.0 << 1 | side
    }

    /// The ring of a number, if a port with so many pairs has one.
    pub fn from_number(number: u32, pairs: usize) -> Option<Self> {
        let pair = Pair::new(number >> 1).filter(|pair| usize::from(pair.0) < pairs)?;
        Some(Self { pair, side: if number & 1 == 0 { Side::Rx } else { Side::Tx } })
    }
}

/// `rx`, `tx`, `rx1`, `tx1`, ..., as in the keeper's keys.
impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.side {
            Side::Rx => "rx",
            Side::Tx => "tx",
        })?;
        if self.pair == Pair::FIRST { Ok(()) } else { write!(f, "{}", self.pair.0) }
    }
}

/// One of a port's queue pairs, among those of all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The port.
    pub port: PortId,
    /// Which of its pairs.
    pub pair: Pair,
}

impl Lane {
    /// The first pair of a port.
    pub fn first(port: PortId) -> Self {
        Self { port, pair: Pair::FIRST }
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
    fn a_ring_is_known_by_its_number_and_there_are_no_others() {
        for (number, ring) in (0..).zip(RingId::all(MAX_PAIRS)) {
            assert_eq!(u32::from(ring.number()), number);
            assert_eq!(RingId::from_number(number, MAX_PAIRS), Some(ring));
            let known = (usize::from(ring.pair.number()) < 3).then_some(ring);
            assert_eq!(RingId::from_number(number, 3), known);
        }
        for number in [2 * MAX_PAIRS as u32, 0x100, 0x1_0000, u32::MAX] {
            assert_eq!(RingId::from_number(number, usize::MAX), None, "{number}");
        }
        let names: Vec<_> = RingId::all(2).map(|ring| ring.to_string()).collect();
        assert_eq!(names, ["rx", "tx", "rx1", "tx1"]);
        assert_eq!(RingId::FIRST.to_vec(), RingId::all(1).collect::<Vec<_>>());
    }

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

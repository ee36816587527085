//! What is sent on a lane, and known again where it arrives.

use std::net::{IpAddr, Ipv6Addr};

use lab::frames::{self, protocol};
use lab::numbered::Flow;
use lab::scene::Pair;

/// Numbered datagrams of any kind.
pub trait Numbered: Send {
    /// Datagram number `number`.
    fn datagram(&self, number: u64) -> Vec<u8>;
    /// The number of a datagram of this kind; `None` if it is none, or not as it was sent.
    fn number(&self, datagram: &[u8]) -> Option<u64>;
}

/// Both families by turns: short datagrams over IPv4, longer ones over IPv6.
pub struct Both([Flow; 2]);

impl Both {
    /// From one to another.
    pub fn new(source: Pair, destination: Pair, ports: (u16, u16)) -> Self {
        let flow =
            |family: usize, data| Flow::new(source[family], destination[family], ports, data);
        Self([flow(0, 64), flow(1, 1000)])
    }
}

impl Numbered for Both {
    fn datagram(&self, number: u64) -> Vec<u8> {
        self.0[(number % 2) as usize].datagram(number)
    }

    fn number(&self, datagram: &[u8]) -> Option<u64> {
        let found = (0u64..).zip(&self.0).find_map(|(f, flow)| Some((f, flow.number(datagram)?)));
        found.filter(|(family, number)| number % 2 == *family).map(|(_, number)| number)
    }
}

impl Numbered for Flow {
    fn datagram(&self, number: u64) -> Vec<u8> {
        self.datagram(number)
    }

    fn number(&self, datagram: &[u8]) -> Option<u64> {
        self.number(datagram)
    }
}

/// Each datagram goes to somebody on the LAN to whom nobody has spoken yet.
pub struct Strangers(pub IpAddr);

/// Ports of those datagrams.
const PORTS: (u16, u16) = (3000, 3000);

impl Strangers {
    fn stranger(number: u64) -> Ipv6Addr {
        let [.., a, b, c, d] = number.to_be_bytes();
        let word = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0xabcd, 0, word(a, b), word(c, d))
    }
}

impl Numbered for Strangers {
    fn datagram(&self, number: u64) -> Vec<u8> {
        let (from, to) = (self.0, IpAddr::V6(Self::stranger(number)));
        frames::datagram(
            from,
            to,
            protocol::UDP,
            frames::udp(from, to, PORTS, &frames::pattern(99)),
        )
    }

    fn number(&self, datagram: &[u8]) -> Option<u64> {
        let number = u32::from_be_bytes(*datagram.get(36..)?.first_chunk()?).into();
        (self.datagram(number) == datagram).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::scene::vm;

    #[test]
    fn a_datagram_is_known_by_its_number() {
        let kinds: [&dyn Numbered; 2] = [&Both::new(vm(0), vm(1), (1, 2)), &Strangers(vm(0)[1])];
        for kind in kinds {
            for number in [0, 1, 70_000] {
                let mut datagram = kind.datagram(number);
                assert_eq!(kind.number(&datagram), Some(number));
                let last = datagram.len() - 1;
                datagram[last] ^= 1;
                assert_eq!(kind.number(&datagram), None);
            }
        }
    }
}

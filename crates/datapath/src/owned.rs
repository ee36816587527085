//! Source addresses that a port was found to own, so that the list is not asked for each datagram.
//!
//! # Theory of operation
//! ```text
//! source ── place, by a few bits of it ── the address found there last: the same?  the port's own
//!                                                                    another?   the list says
//! ```
//! Few guests have more addresses than places here, and most datagrams have a source that was seen a
//! moment ago. Only what the list has confirmed is kept, and all of it is forgotten when the port may
//! have lost an address ([`Fib::version`](crate::fib::Fib::version)), so an answer from here is the
//! list's. A guest that thinks up sources spoils its own places and nobody else's.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::admit::Admission;
use crate::names::PortId;

/// Places of each family: two kilobytes of IPv4 addresses, eight of IPv6. There are none before the first
/// address.
const PLACES: usize = 1 << BITS;
const BITS: u32 = 9;
/// Spreads the bits in which addresses of one guest differ: odd, and about the golden ratio's part of
/// 2^64.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is known of one port.
#[derive(Default)]
pub struct Owned {
    version: u64,
    // Neither family's unspecified address, which is zero, is anybody's.
    four: Vec<u32>,
    six: Vec<u128>,
}

fn place(bits: u64) -> usize {
    (bits.wrapping_mul(SPREAD) >> (u64::BITS - BITS)) as usize
}

impl Owned {
    /// Forgets what an older list has said. Before the first question after it may have changed.
    #[inline]
    pub fn renew(&mut self, admission: &Admission, port: PortId) {
        let version = admission.fib.version(port);
        if self.version != version {
            self.four.fill(0);
            self.six.fill(0);
            self.version = version;
        }
    }

    /// Whether the port may say this address.
    #[inline]
    pub fn has4(&mut self, admission: &Admission, port: PortId, source: Ipv4Addr) -> bool {
        let bits = source.to_bits();
        self.four.get(place(bits.into())) == Some(&bits) && bits != 0
            || self.ask4(admission, port, source)
    }

    /// Whether the port may say this address.
    #[inline]
    pub fn has6(&mut self, admission: &Admission, port: PortId, source: Ipv6Addr) -> bool {
        let bits = source.to_bits();
        self.six.get(place(fold(bits))) == Some(&bits) && bits != 0
            || self.ask6(admission, port, source)
    }

    #[inline(never)]
    fn ask4(&mut self, admission: &Admission, port: PortId, source: Ipv4Addr) -> bool {
        let own = admission.owns4(port, source);
        if own {
            let bits = source.to_bits();
            keep(&mut self.four, place(bits.into()), bits);
        }
        own
    }

    #[inline(never)]
    fn ask6(&mut self, admission: &Admission, port: PortId, source: Ipv6Addr) -> bool {
        let own = admission.owns6(port, source);
        if own {
            let bits = source.to_bits();
            keep(&mut self.six, place(fold(bits)), bits);
        }
        own
    }
}

fn fold(bits: u128) -> u64 {
    (bits >> 64) as u64 ^ bits as u64
}

fn keep<T: Copy + Default>(places: &mut Vec<T>, at: usize, address: T) {
    if places.is_empty() {
        places.resize(PLACES, T::default());
    }
    if let Some(place) = places.get_mut(at) {
        *place = address;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fib::Target;
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::IpAddr;

    const PORT: PortId = PortId(1);

    fn four(n: u32) -> Ipv4Addr {
        // Documentation's, and at last no address at all.
        Ipv4Addr::from_bits(if n == 1000 { 0 } else { 0xc633_6400 | (n & 0xff) })
    }

    fn six(n: u32) -> Ipv6Addr {
        let base = u128::from(0x2001_0db8u32) << 96;
        Ipv6Addr::from_bits(if n == 1000 {
            0
        } else {
            base | u128::from(n) << 32 | u128::from(n % 3)
        })
    }

    fn net(address: IpAddr, len: u8) -> IpNet {
        IpNet::new(address, len).unwrap()
    }

    /// What happens.
    #[derive(Clone, Debug)]
    enum Step {
        Comes(u32, u8, u16),
        Goes(u32, u8),
        Leaves(u16),
        Says(u32),
        OtherList,
    }

    fn step() -> impl Strategy<Value = Step> {
        let address = || prop_oneof![9 => 0..200u32, 1 => Just(1000)];
        prop_oneof![
            1 => (address(), 20..=32u8, 1..3u16).prop_map(|(n, len, port)| Step::Comes(n, len, port)),
            1 => (address(), 1..3u16).prop_map(|(n, port)| Step::Comes(n, 32, port)),
            1 => (address(), 20..=32u8).prop_map(|(n, len)| Step::Goes(n, len)),
            1 => address().prop_map(|n| Step::Goes(n, 32)),
            1 => (1..3u16).prop_map(Step::Leaves),
            12 => address().prop_map(Step::Says),
            1 => Just(Step::OtherList),
        ]
    }

    proptest! {
        #[test]
        fn its_answer_is_always_the_lists(steps in prop::collection::vec(step(), 1..200)) {
            let (mut admission, mut owned) = (Admission::new(&[]), Owned::default());
            for step in steps {
                match step {
                    Step::Comes(n, len, port) => {
                        let target = Target::Port(PortId(port));
                        for prefix in [net(four(n).into(), len), net(six(n).into(), len + 96)] {
                            let _ = admission.fib.insert(prefix, target);
                        }
                    }
                    Step::Goes(n, len) => {
                        admission.fib.remove(net(four(n).into(), len));
                        admission.fib.withdraw(six(n).into());
                    }
                    Step::Leaves(port) => admission.fib.remove_owner(Target::Port(PortId(port))),
                    Step::Says(n) => {
                        owned.renew(&admission, PORT);
                        let (four, six) = (four(n), six(n));
                        prop_assert_eq!(owned.has4(&admission, PORT, four), admission.owns4(PORT, four));
                        prop_assert_eq!(owned.has6(&admission, PORT, six), admission.owns6(PORT, six));
                    }
                    Step::OtherList => admission = Admission::new(&[]),
                }
            }
        }
    }

    #[test]
    fn an_address_is_asked_for_once() {
        let mut admission = Admission::new(&[]);
        admission.fib.insert(net(four(1).into(), 32), Target::Port(PORT)).unwrap();
        let mut owned = Owned::default();
        owned.renew(&admission, PORT);
        assert!(owned.has4(&admission, PORT, four(1)));
        // A list that nobody has told of: the answer did not come from there.
        assert!(owned.has4(&Admission::new(&[]), PORT, four(1)));
    }
}

//! Admission and direction: may this datagram be said here, and whose is it?
//!
//! # Theory of operation
//! Three doors lead into the base: a VM's port, the card, the host's TUN device. Each has its own
//! question, all read the same table of reserved addresses and the same list:
//!
//! ```text
//! from a VM      source: not reserved, and the list gives it to this very port     (rule 6)
//!                destination: not reserved, not the sender's own
//!                -> the port that the list names | the host | outside              (rule 5)
//! from the card  source: not reserved, in nobody's list (a forgery, or a loop)
//!                destination: not reserved, in the list                            (rule 5)
//!                -> the port that the list names, else dropped: never out again
//! from the host  source: one of the host's own addresses; destination: a VM of this network
//!                -> that port, else dropped: what the host would route is not ours
//! ```
//! The order of the checks is part of the contract: the most specific name wins, and the source is
//! judged before the destination.
//!
//! # Invariants
//! - Pure: no clock, no state, nothing but the list and the addresses.
//! - What comes in from the card can only go to a port: the base is never part of a routing loop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::counters::Counter;
use crate::fib::{Batch, Fib, Target};
use crate::names::PortId;
use crate::reserved::Class;

/// Where an admitted datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into this port's receive ring.
    Port(PortId),
    /// To the host's own stack.
    Host,
    /// Out of the uplink, if there is one.
    Outside,
}

/// Last octets of addresses: a set that nearly every look at the subnets is spared by.
struct Ends([bool; 256]);

impl Default for Ends {
    fn default() -> Self {
        Self([false; 256])
    }
}

impl Ends {
    fn insert(&mut self, address: Ipv4Addr) {
        let [.., last] = address.octets();
        if let Some(place) = self.0.get_mut(usize::from(last)) {
            *place = true;
        }
    }

    #[inline]
    fn contain(&self, address: Ipv4Addr) -> bool {
        let [.., last] = address.octets();
        self.0.get(usize::from(last)) == Some(&true)
    }
}

/// Two addresses of a subnet that are nobody's.
#[derive(Clone, Copy)]
struct Subnet {
    network: Ipv4Addr,
    broadcast: Ipv4Addr,
}

/// What a network knows for admission: its list and its subnets.
#[derive(Default)]
pub struct Admission {
    /// The list.
    pub fib: Fib,
    /// IPv4 prefixes that are a subnet with a broadcast address of its own.
    subnets: Vec<Subnet>,
    /// What such addresses end in.
    ends: Ends,
}

impl Admission {
    /// An empty list over these prefixes.
    pub fn new(prefixes: &[IpNet]) -> Self {
        let subnets: Vec<_> = prefixes
            .iter()
            .filter_map(|p| match p {
                // RFC 3021: a /31 has no broadcast address, and a /32 is a single host.
                IpNet::V4(p) if p.prefix_len() <= 30 => {
                    Some(Subnet { network: p.network(), broadcast: p.broadcast() })
                }
                _ => None,
            })
            .collect();
        let mut ends = Ends::default();
        for Subnet { network, broadcast } in &subnets {
            ends.insert(*network);
            ends.insert(*broadcast);
        }
        Self { fib: Fib::default(), subnets, ends }
    }

    /// Admits what a VM sends, and finds where it goes.
    #[inline]
    pub fn from_vm(
        &self,
        port: PortId,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Way, Counter> {
        self.source(source)?;
        if self.fib.lookup(source) != Some(Target::Port(port)) {
            return Err(Counter::DropSourceNotOwn);
        }
        self.destination(destination)?;
        match self.fib.lookup(destination) {
            Some(Target::Port(to)) if to == port => Err(Counter::DropDestinationOwn),
            Some(Target::Port(to)) => Ok(Way::Port(to)),
            Some(Target::Host) => Ok(Way::Host),
            None => Ok(Way::Outside),
        }
    }

    /// Whether a VM may say this address.
    #[inline]
    pub fn owns4(&self, port: PortId, source: Ipv4Addr) -> bool {
        Class::is_unicast4(source)
            && self.fib.lookup4(source) == Some(Target::Port(port))
            && !self.is_subnet_broadcast4(source)
    }

    /// Whether a VM may say this address.
    #[inline]
    pub fn owns6(&self, port: PortId, source: Ipv6Addr) -> bool {
        Class::of6(source) == Class::Unicast && self.fib.lookup6(source) == Some(Target::Port(port))
    }

    /// Where a destination leads, of which `owner` says whose it is: to another VM's port, or outside.
    /// `None` where [`Admission::from_vm`] has to say what becomes of it.
    #[inline]
    pub fn way4(
        &self,
        port: PortId,
        destination: Ipv4Addr,
        owner: impl FnOnce() -> Option<Target>,
    ) -> Option<Way> {
        if !Class::is_unicast4(destination) {
            return None;
        }
        let way = straight(port, owner())?;
        (!self.is_subnet_broadcast4(destination)).then_some(way)
    }

    /// As [`Admission::way4`].
    #[inline]
    pub fn way6(
        &self,
        port: PortId,
        destination: Ipv6Addr,
        owner: impl FnOnce() -> Option<Target>,
    ) -> Option<Way> {
        if Class::of6(destination) != Class::Unicast {
            return None;
        }
        straight(port, owner())
    }

    /// Whose a destination is.
    #[inline]
    pub fn owner4(&self, destination: Ipv4Addr) -> Option<Target> {
        self.fib.lookup4(destination)
    }

    /// As [`Admission::owner4`].
    #[inline]
    pub fn owner6(&self, destination: Ipv6Addr) -> Option<Target> {
        self.fib.lookup6(destination)
    }

    /// Whether looking up by a [`batch`](Admission::batch) is worth it: whether the list is larger than the
    /// caches of a core.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.fib.is_large()
    }

    /// Look-ups of the destinations of a whole stretch, whose memory is waited for once.
    #[inline]
    pub fn batch(&self) -> Batch<'_> {
        self.fib.batch()
    }

    /// Admits what comes in from the card, and finds the port that owns the destination.
    #[inline]
    pub fn from_uplink(&self, source: IpAddr, destination: IpAddr) -> Result<PortId, Counter> {
        self.source(source)?;
        if self.fib.lookup(source).is_some() {
            return Err(Counter::DropSourceInList);
        }
        self.destination(destination)?;
        match self.fib.lookup(destination) {
            Some(Target::Port(to)) => Ok(to),
            // The host's own stack has it already: it shares the card.
            Some(Target::Host) | None => Err(Counter::DropUnknownDestination),
        }
    }

    /// Admits what the host's stack sends, and finds the port that owns the destination.
    #[inline]
    pub fn from_host(&self, source: IpAddr, destination: IpAddr) -> Result<PortId, Counter> {
        self.source(source)?;
        if self.fib.lookup(source) != Some(Target::Host) {
            return Err(Counter::DropHostForwarded);
        }
        self.destination(destination)?;
        match self.fib.lookup(destination) {
            Some(Target::Port(to)) => Ok(to),
            Some(Target::Host) | None => Err(Counter::DropHostForwarded),
        }
    }

    fn source(&self, address: IpAddr) -> Result<(), Counter> {
        if let Some(refusal) = Class::of(address).refusal_as_source() {
            return Err(refusal);
        }
        if self.is_subnet_broadcast(address) {
            return Err(Counter::DropSourceBroadcast);
        }
        Ok(())
    }

    fn destination(&self, address: IpAddr) -> Result<(), Counter> {
        if let Some(refusal) = Class::of(address).refusal_as_destination() {
            return Err(refusal);
        }
        if self.is_subnet_broadcast(address) {
            return Err(Counter::DropDestinationBroadcast);
        }
        Ok(())
    }

    fn is_subnet_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        self.is_subnet_broadcast4(address)
    }

    #[inline]
    fn is_subnet_broadcast4(&self, address: Ipv4Addr) -> bool {
        self.ends.contain(address)
            && self.subnets.iter().any(|s| s.broadcast == address || s.network == address)
    }
}

/// Where what a look-up has found leads, if it is neither the sender itself nor the host.
#[inline]
fn straight(port: PortId, found: Option<Target>) -> Option<Way> {
    match found {
        Some(Target::Port(to)) if to != port => Some(Way::Port(to)),
        Some(_) => None,
        None => Some(Way::Outside),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn network() -> Admission {
        let mut network =
            Admission::new(&["203.0.113.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()]);
        for (prefix, target) in [
            ("203.0.113.10/32", Target::Port(A)),
            ("203.0.113.11/32", Target::Port(B)),
            ("203.0.113.2/32", Target::Host),
            ("2001:db8::10/128", Target::Port(A)),
            ("2001:db8::11/128", Target::Port(B)),
            ("2001:db8::2/128", Target::Host),
        ] {
            network.fib.insert(prefix.parse().unwrap(), target).unwrap();
        }
        network
    }

    #[test]
    fn a_vm_reaches_other_vms_the_host_and_the_outside() {
        let n = network();
        let go = |to: &str| n.from_vm(A, ip("203.0.113.10"), ip(to));
        assert_eq!(go("203.0.113.11"), Ok(Way::Port(B)));
        assert_eq!(go("203.0.113.2"), Ok(Way::Host));
        assert_eq!(go("203.0.113.1"), Ok(Way::Outside));
        assert_eq!(go("198.51.100.1"), Ok(Way::Outside));
        assert_eq!(go("203.0.113.10"), Err(Counter::DropDestinationOwn));
        assert_eq!(go("203.0.113.255"), Err(Counter::DropDestinationBroadcast));
        assert_eq!(go("203.0.113.0"), Err(Counter::DropDestinationBroadcast));
    }

    /// Even where a prefix of somebody's holds them: the general way has their drops' names.
    #[test]
    fn a_reserved_address_is_nobodys_on_the_straight_way() {
        let mut n = network();
        for (prefix, target) in [
            ("0.0.0.0/1", Target::Port(A)),
            ("128.0.0.0/1", Target::Port(B)),
            ("::/1", Target::Port(A)),
            ("8000::/1", Target::Port(B)),
        ] {
            n.fib.insert(prefix.parse().unwrap(), target).unwrap();
        }
        let owns = |port, address: &str| match ip(address) {
            IpAddr::V4(a) => n.owns4(port, a),
            IpAddr::V6(a) => n.owns6(port, a),
        };
        let leads = |from, address: &str| match ip(address) {
            IpAddr::V4(a) => n.way4(from, a, || n.owner4(a)),
            IpAddr::V6(a) => n.way6(from, a, || n.owner6(a)),
        };
        for (ordinary, own, other) in
            [("1.0.0.1", A, B), ("198.51.100.1", B, A), ("2001:db8:9::1", A, B), ("a000::1", B, A)]
        {
            assert!(owns(own, ordinary), "{ordinary}");
            assert_eq!(leads(other, ordinary), Some(Way::Port(own)), "{ordinary}");
        }
        for reserved in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:0:1",
        ] {
            for port in [A, B] {
                assert!(!owns(port, reserved), "{reserved}");
                assert_eq!(leads(port, reserved), None, "{reserved}");
            }
        }
    }

    /// Addresses of all kinds: near the networks' own and their edges, reserved ones, any.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let near4 = (0..=255u8).prop_map(|n| Ipv4Addr::new(203, 0, 113, n));
        let edge4 = (any::<u8>(), 0..3u8).prop_map(|(a, n)| Ipv4Addr::new(a, 254 + n / 2, 0, n));
        let six = (any::<u16>(), 0..20u16).prop_map(|(a, n)| {
            Ipv6Addr::new(
                [0x2001, 0xfe80, 0xff02, 0, a][usize::from(a % 5)],
                0xdb8,
                0,
                0,
                0,
                0,
                0,
                n,
            )
        });
        let any4 = any::<u32>().prop_map(Ipv4Addr::from_bits);
        let any6 = any::<u128>().prop_map(Ipv6Addr::from_bits);
        prop_oneof![
            4 => near4.prop_map(IpAddr::V4),
            1 => edge4.prop_map(IpAddr::V4),
            1 => any4.prop_map(IpAddr::V4),
            4 => six.prop_map(IpAddr::V6),
            1 => any6.prop_map(IpAddr::V6),
        ]
    }

    proptest! {
        #[test]
        fn the_straight_way_is_the_general_way(
            source in addresses(),
            destination in addresses(),
        ) {
            let n = network();
            let (own, straight) = match destination {
                IpAddr::V4(to) => (ip("203.0.113.10"), n.way4(A, to, || n.owner4(to))),
                IpAddr::V6(to) => (ip("2001:db8::10"), n.way6(A, to, || n.owner6(to))),
            };
            if let Some(way) = straight {
                prop_assert_eq!(n.from_vm(A, own, destination), Ok(way));
            }
            let owns = match source {
                IpAddr::V4(source) => n.owns4(A, source),
                IpAddr::V6(source) => n.owns6(A, source),
            };
            prop_assert_eq!(owns, n.from_vm(A, source, ip("203.0.113.1")).is_ok());
        }
    }

    #[test]
    fn a_vm_may_not_say_what_is_not_its_own() {
        let n = network();
        for (source, reason) in [
            ("203.0.113.11", Counter::DropSourceNotOwn),
            ("203.0.113.2", Counter::DropSourceNotOwn),
            ("198.51.100.1", Counter::DropSourceNotOwn),
            ("0.0.0.0", Counter::DropSourceUnspecified),
            ("203.0.113.255", Counter::DropSourceBroadcast),
        ] {
            assert_eq!(n.from_vm(A, ip(source), ip("203.0.113.1")), Err(reason), "{source}");
        }
        assert_eq!(
            n.from_vm(A, ip("fe80::2"), ip("2001:db8::11")),
            Err(Counter::DropSourceLinkLocal)
        );
    }

    #[test]
    fn unknown_destination_from_the_lan_is_dropped_and_never_sent_back() {
        let n = network();
        let go = |from: &str, to: &str| n.from_uplink(ip(from), ip(to));
        assert_eq!(go("198.51.100.1", "203.0.113.10"), Ok(A));
        assert_eq!(go("198.51.100.1", "203.0.113.99"), Err(Counter::DropUnknownDestination));
        assert_eq!(go("198.51.100.1", "203.0.113.2"), Err(Counter::DropUnknownDestination));
        assert_eq!(go("203.0.113.11", "203.0.113.10"), Err(Counter::DropSourceInList));
        assert_eq!(go("203.0.113.2", "203.0.113.10"), Err(Counter::DropSourceInList));
    }

    #[test]
    fn from_the_host_comes_only_what_the_host_itself_says_to_a_vm() {
        let n = network();
        let go = |from: &str, to: &str| n.from_host(ip(from), ip(to));
        assert_eq!(go("203.0.113.2", "203.0.113.10"), Ok(A));
        assert_eq!(go("198.51.100.1", "203.0.113.10"), Err(Counter::DropHostForwarded));
        assert_eq!(go("203.0.113.2", "198.51.100.1"), Err(Counter::DropHostForwarded));
        assert_eq!(go("2001:db8::2", "2001:db8::11"), Ok(B));
    }
}

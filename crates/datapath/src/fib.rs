//! The list of the VMs' IP addresses: whose is a destination?
//!
//! # Theory of operation
//! Each network has one list. An address is found exactly (a hash of all /32 and /128), else by the
//! longest prefix that holds it. The answer is a port, or the host itself, whose addresses are in
//! every list. What is not listed is outside: the uplink's.
//!
//! The same list answers the question who may *say* an address: a VM may send from what the list
//! gives to its port and from nothing else (rule 6).
//!
//! # Invariants
//! - One owner per prefix: a second claim is refused, never silently replaced.
//! - Look-ups neither lock nor allocate. The worker owns the list and changes it between batches, so
//!   a removed port is never found by a batch that runs later.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::names::PortId;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// `prefix` without `address`: what is left of it, the larger first. All of it if it does not hold
/// the address, nothing if it is the address.
pub fn without(prefix: IpNet, address: IpAddr) -> Vec<IpNet> {
    let (mut left, mut around) = (Vec::new(), prefix.trunc());
    while around.contains(&address) {
        // The address itself has no halves.
        let Ok(halves) = around.subnets(around.prefix_len().saturating_add(1)) else { return left };
        for half in halves {
            if half.contains(&address) {
                around = half;
            } else {
                left.push(half);
            }
        }
    }
    left.push(around);
    left
}

/// One network's list.
#[derive(Default)]
pub struct Fib {
    exact4: HashMap<Ipv4Addr, Target, RandomState>,
    exact6: HashMap<Ipv6Addr, Target, RandomState>,
    prefixes4: PrefixMap<Ipv4Net, Target>,
    prefixes6: PrefixMap<Ipv6Net, Target>,
}

impl Fib {
    /// Puts a prefix into the list. Putting it again for the same owner changes nothing.
    pub fn insert(&mut self, prefix: IpNet, owner: Target) -> Result<(), Taken> {
        let prefix = prefix.trunc();
        match self.entry(prefix) {
            Some(found) if found != owner => return Err(Taken { prefix, owner: found }),
            Some(_) => return Ok(()),
            None => {}
        }
        match prefix {
            IpNet::V4(p) if p.prefix_len() == 32 => {
                self.exact4.insert(p.addr(), owner);
            }
            IpNet::V6(p) if p.prefix_len() == 128 => {
                self.exact6.insert(p.addr(), owner);
            }
            IpNet::V4(p) => {
                self.prefixes4.insert(p, owner);
            }
            IpNet::V6(p) => {
                self.prefixes6.insert(p, owner);
            }
        }
        Ok(())
    }

    /// Takes a prefix out of the list; whose it was.
    pub fn remove(&mut self, prefix: IpNet) -> Option<Target> {
        match prefix.trunc() {
            IpNet::V4(p) if p.prefix_len() == 32 => self.exact4.remove(&p.addr()),
            IpNet::V6(p) if p.prefix_len() == 128 => self.exact6.remove(&p.addr()),
            IpNet::V4(p) => self.prefixes4.remove(&p),
            IpNet::V6(p) => self.prefixes6.remove(&p),
        }
    }

    /// Takes an address away from the port that has it, from the prefixes around it too; whose it
    /// was. What is left of them stays the port's.
    pub fn withdraw(&mut self, address: IpAddr) -> Option<PortId> {
        let mut was = None;
        while let Some((prefix, Target::Port(port))) = self.longest(address) {
            self.remove(prefix);
            for rest in without(prefix, address) {
                // An entry that is there already is as good.
                let _ = self.insert(rest, Target::Port(port));
            }
            was = Some(port);
        }
        was
    }

    /// The entry that says whose an address is.
    fn longest(&self, address: IpAddr) -> Option<(IpNet, Target)> {
        if let Some(target) = self.entry(address.into()) {
            return Some((address.into(), target));
        }
        match address {
            IpAddr::V4(a) => {
                let found = self.prefixes4.get_lpm(&Ipv4Net::from(a));
                found.map(|(prefix, target)| (IpNet::V4(prefix), *target))
            }
            IpAddr::V6(a) => {
                let found = self.prefixes6.get_lpm(&Ipv6Net::from(a));
                found.map(|(prefix, target)| (IpNet::V6(prefix), *target))
            }
        }
    }

    /// Takes out everything that `owner` has.
    pub fn remove_owner(&mut self, owner: Target) {
        self.exact4.retain(|_, o| *o != owner);
        self.exact6.retain(|_, o| *o != owner);
        self.prefixes4.retain(|_, o| *o != owner);
        self.prefixes6.retain(|_, o| *o != owner);
    }

    /// Whose entry exactly this prefix is.
    pub fn entry(&self, prefix: IpNet) -> Option<Target> {
        match prefix.trunc() {
            IpNet::V4(p) if p.prefix_len() == 32 => self.exact4.get(&p.addr()).copied(),
            IpNet::V6(p) if p.prefix_len() == 128 => self.exact6.get(&p.addr()).copied(),
            IpNet::V4(p) => self.prefixes4.get(&p).copied(),
            IpNet::V6(p) => self.prefixes6.get(&p).copied(),
        }
    }

    /// Whose an IPv4 address is.
    #[inline]
    pub fn lookup4(&self, address: Ipv4Addr) -> Option<Target> {
        if let Some(target) = self.exact4.get(&address) {
            return Some(*target);
        }
        if self.prefixes4.is_empty() {
            return None;
        }
        self.prefixes4.get_lpm(&Ipv4Net::from(address)).map(|(_, target)| *target)
    }

    /// Whose an IPv6 address is.
    #[inline]
    pub fn lookup6(&self, address: Ipv6Addr) -> Option<Target> {
        if let Some(target) = self.exact6.get(&address) {
            return Some(*target);
        }
        if self.prefixes6.is_empty() {
            return None;
        }
        self.prefixes6.get_lpm(&Ipv6Net::from(address)).map(|(_, target)| *target)
    }

    /// Whose an address is.
    pub fn lookup(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(a) => self.lookup4(a),
            IpAddr::V6(a) => self.lookup6(a),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn an_exact_address_goes_before_a_prefix_and_a_longer_prefix_before_a_shorter() {
        let mut fib = Fib::default();
        fib.insert(net("203.0.113.0/24"), Target::Port(PortId(1))).unwrap();
        fib.insert(net("203.0.113.64/26"), Target::Port(PortId(2))).unwrap();
        fib.insert(net("203.0.113.65/32"), Target::Host).unwrap();
        let of = |a: &str| fib.lookup(a.parse().unwrap());
        assert_eq!(of("203.0.113.1"), Some(Target::Port(PortId(1))));
        assert_eq!(of("203.0.113.66"), Some(Target::Port(PortId(2))));
        assert_eq!(of("203.0.113.65"), Some(Target::Host));
        assert_eq!(of("203.0.114.1"), None);
    }

    #[test]
    fn a_second_owner_of_an_address_is_refused_and_the_first_keeps_it() {
        let mut fib = Fib::default();
        let prefix = net("2001:db8::5/128");
        fib.insert(prefix, Target::Port(PortId(1))).unwrap();
        let owner = Target::Port(PortId(1));
        assert_eq!(fib.insert(prefix, Target::Host), Err(Taken { prefix, owner }));
        assert_eq!(fib.lookup("2001:db8::5".parse().unwrap()), Some(owner));
    }

    #[test]
    fn an_owner_that_leaves_takes_all_its_entries_along() {
        let mut fib = Fib::default();
        for p in ["203.0.113.5/32", "203.0.113.8/29", "2001:db8::5/128", "2001:db8:1::/64"] {
            fib.insert(net(p), Target::Port(PortId(1))).unwrap();
        }
        fib.insert(net("203.0.113.6/32"), Target::Port(PortId(2))).unwrap();
        fib.remove_owner(Target::Port(PortId(1)));
        for a in ["203.0.113.5", "203.0.113.9", "2001:db8::5", "2001:db8:1::1"] {
            assert_eq!(fib.lookup(a.parse().unwrap()), None, "{a}");
        }
        assert_eq!(fib.lookup("203.0.113.6".parse().unwrap()), Some(Target::Port(PortId(2))));
    }

    #[test]
    fn an_address_that_is_withdrawn_is_nobodys_and_its_neighbours_stay() {
        let (port, other) = (PortId(1), Target::Port(PortId(2)));
        for (prefix, address, neighbours) in [
            ("203.0.113.64/28", "203.0.113.70", ["203.0.113.69", "203.0.113.71"]),
            ("203.0.113.64/28", "203.0.113.64", ["203.0.113.65", "203.0.113.79"]),
            ("2001:db8:1::/64", "2001:db8:1::9", ["2001:db8:1::8", "2001:db8:1:0:8000::"]),
        ] {
            let mut fib = Fib::default();
            fib.insert(net(prefix), Target::Port(port)).unwrap();
            let address: IpAddr = address.parse().unwrap();
            // The VM may have it by itself too.
            fib.insert(address.into(), Target::Port(port)).unwrap();
            fib.insert(net("198.51.100.0/24"), other).unwrap();
            assert_eq!(fib.withdraw(address), Some(port));
            assert_eq!(fib.lookup(address), None);
            for neighbour in neighbours {
                assert_eq!(fib.lookup(neighbour.parse().unwrap()), Some(Target::Port(port)));
            }
            assert_eq!(fib.lookup("198.51.100.1".parse().unwrap()), Some(other));
            assert_eq!(fib.withdraw(address), None);
            fib.remove_owner(Target::Port(port));
            assert_eq!(fib.lookup(neighbours[0].parse().unwrap()), None);
        }
    }

    #[test]
    fn the_hosts_own_address_is_not_withdrawn() {
        let mut fib = Fib::default();
        fib.insert(net("203.0.113.64/28"), Target::Port(PortId(1))).unwrap();
        fib.insert(net("203.0.113.70/32"), Target::Host).unwrap();
        let address = "203.0.113.70".parse().unwrap();
        assert_eq!(fib.withdraw(address), None);
        assert_eq!(fib.lookup(address), Some(Target::Host));
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_prefix_is_all_but_the_address(
            base in any::<u32>(), len in 20u8..=32, address in any::<u32>(), other in any::<u32>(),
        ) {
            let prefix = Ipv4Net::new(base.into(), len).unwrap().trunc();
            // Near enough to be in it, mostly.
            let near = |a: u32| Ipv4Addr::from(u32::from(prefix.addr()) ^ (a & 0x1fff));
            let (address, other) = (near(address), near(other));
            let left = without(prefix.into(), address.into());
            let times = left.iter().filter(|p| p.contains(&IpAddr::V4(other))).count();
            prop_assert_eq!(times, usize::from(prefix.contains(&other) && other != address));
            prop_assert!(left.is_sorted_by_key(|p| p.prefix_len()));
        }

        #[test]
        fn look_ups_agree_with_a_linear_search(
            entries in prop::collection::vec((any::<u32>(), 8u8..=32, 0u16..5), 0..60),
            addresses in prop::collection::vec(any::<u32>(), 0..60),
        ) {
            // Few distinct high bits, so that prefixes nest and addresses hit them.
            let narrow = |a: u32| Ipv4Addr::from(0xcb00_0000 | (a & 0x0003_0303));
            let mut fib = Fib::default();
            let mut model: Vec<(Ipv4Net, Target)> = Vec::new();
            for (a, len, p) in entries {
                let prefix = Ipv4Net::new(narrow(a), len).unwrap().trunc();
                let target = Target::Port(PortId(p));
                match model.iter().find(|(m, _)| *m == prefix) {
                    Some((_, t)) => prop_assert_eq!(
                        fib.insert(prefix.into(), target).is_ok(), *t == target),
                    None => {
                        fib.insert(prefix.into(), target).unwrap();
                        model.push((prefix, target));
                    }
                }
            }
            for a in addresses {
                let a = narrow(a);
                let best = model.iter().filter(|(p, _)| p.contains(&a))
                    .max_by_key(|(p, _)| p.prefix_len()).map(|(_, t)| *t);
                prop_assert_eq!(fib.lookup4(a), best);
            }
        }
    }
}

//! The list, case by case; `model` and `large` beside it, and with other threads `interleavings` and
//! `threads`.

#[expect(clippy::duplicate_mod, reason = "the same files with other atomics")]
mod interleavings;
mod large;
mod model;
mod threads;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;
use crate::names::PortId;

/// Whose some addresses are, at most [`BATCH`], looked up at once.
fn answers(mut batch: Batch<'_>, addresses: &[IpAddr]) -> Vec<Option<Target>> {
    for (n, address) in (0..).zip(addresses) {
        match address {
            IpAddr::V4(address) => batch.ask4(n, *address),
            IpAddr::V6(address) => batch.ask6(n, *address),
        }
    }
    let mut found = vec![None; addresses.len()];
    let mut told = 0;
    batch.answer(|n, owner| {
        found[usize::from(n)] = owner;
        told += 1;
    });
    assert_eq!(told, addresses.len());
    found
}

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
}

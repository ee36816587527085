//! Many addresses: that all are found, what they cost in memory, that what goes leaves nothing behind.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::answers;
use crate::fib::*;
use crate::names::PortId;

/// Octets that an address may cost, all in all.
const OCTETS: usize = 64;

/// The `n`th address: IPv4 and IPv6 in turns, as operators number them, one after the other.
fn address(n: u32) -> IpAddr {
    if n.is_multiple_of(2) {
        Ipv4Addr::from(0x0a00_0000 + n / 2).into()
    } else {
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n / 2)).into()
    }
}

fn owner(n: u32) -> Target {
    Target::Port(PortId((n / 32) as u16))
}

fn all(fib: &Fib, addresses: std::ops::Range<u32>, expected: impl Fn(u32) -> Option<Target>) {
    let addresses: Vec<u32> = addresses.collect();
    for batch in addresses.chunks(BATCH) {
        let batch_addresses: Vec<IpAddr> = batch.iter().map(|n| address(*n)).collect();
        let found = answers(fib.batch(), &batch_addresses);
        let expected: Vec<_> = batch.iter().map(|n| expected(*n)).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_million_addresses_cost_at_most_64_octets_each_at_every_moment_of_growth() {
    let mut fib = Fib::default();
    for n in 0..1_000_000 {
        fib.insert(address(n).into(), owner(n)).unwrap();
        if n > 50_000 && n % 10_000 == 0 {
            let each = fib.memory() / n as usize;
            assert!(each <= OCTETS, "{each} octets for each of {n} addresses");
        }
    }
    all(&fib, 0..1_000_000, |n| Some(owner(n)));
    all(&fib, 1_000_000..1_010_000, |_| None);
}

#[test]
fn a_million_ipv6_addresses_alone_cost_at_most_64_octets_each() {
    let mut fib = Fib::default();
    for n in 0..1_000_000 {
        fib.insert(address(2 * n + 1).into(), owner(n)).unwrap();
        if n > 50_000 && n % 10_000 == 0 {
            let each = fib.memory() / n as usize;
            assert!(each <= OCTETS, "{each} octets for each of {n} addresses");
        }
    }
}

#[test]
fn addresses_that_come_and_go_leave_no_memory_behind() {
    let mut fib = Fib::default();
    let empty = fib.memory();
    for n in 0..300_000 {
        fib.insert(address(n).into(), owner(n)).unwrap();
        if let Some(old) = n.checked_sub(1_000) {
            assert_eq!(fib.remove(address(old).into()), Some(owner(old)));
        }
    }
    // A thousand addresses, at most each in a line of its own.
    assert!(fib.memory() < empty + 100 * 1024, "{} octets", fib.memory());
    for port in 0..=u16::MAX {
        fib.remove_owner(Target::Port(PortId(port)));
    }
    all(&fib, 0..300_000, |_| None);
    assert!(fib.memory() < empty + 1024 * 1024, "{} octets", fib.memory());
}

#[test]
fn a_list_is_large_from_thousands_on_and_small_again_when_few_are_left() {
    let mut fib = Fib::default();
    let mut reader = fib.reader();
    let all_there = |fib: &Fib, reader: &mut FibReader, there: std::ops::Range<u32>| {
        all(fib, there.clone(), |n| Some(owner(n)));
        let view = reader.batch();
        assert!(there.clone().all(|n| view.lookup(address(n)) == Some(owner(n))));
        assert_eq!(view.is_large(), fib.is_large());
    };
    for n in 0..4_096 {
        fib.insert(address(n).into(), owner(n)).unwrap();
    }
    assert!(!fib.is_large());
    all_there(&fib, &mut reader, 0..4_096);
    for n in 4_096..5_000 {
        fib.insert(address(n).into(), owner(n)).unwrap();
    }
    assert!(fib.is_large());
    all_there(&fib, &mut reader, 0..5_000);
    for n in 0..4_000 {
        assert_eq!(fib.remove(address(n).into()), Some(owner(n)));
    }
    assert!(!fib.is_large());
    all_there(&fib, &mut reader, 4_000..5_000);
    all(&fib, 0..4_000, |_| None);
}

#[test]
fn an_owner_takes_its_own_out_of_a_million_and_nothing_else() {
    let mut fib = Fib::default();
    for n in 0..200_000 {
        fib.insert(address(n).into(), owner(n)).unwrap();
    }
    // What an owner had once and another has now is the other's.
    let (passed_on, to) = (owner(64), owner(96));
    fib.remove(address(64).into());
    fib.insert(address(64).into(), to).unwrap();
    fib.remove_owner(passed_on);
    let expected = |n: u32| match owner(n) {
        _ if n == 64 => Some(to),
        owner if owner == passed_on => None,
        owner => Some(owner),
    };
    all(&fib, 0..200_000, expected);
}

#[test]
fn a_hundred_thousand_prefixes_are_found_by_the_addresses_in_them() {
    let mut fib = Fib::default();
    let prefix = |n: u32| {
        let bits = 0x2001_0db8_u128 << 96 | u128::from(n) << 72;
        IpNet::new(Ipv6Addr::from(bits).into(), 56).unwrap()
    };
    for n in 0..100_000 {
        fib.insert(prefix(n), owner(n)).unwrap();
    }
    for n in 0..100_000 {
        let IpNet::V6(p) = prefix(n) else { unreachable!() };
        let inside = Ipv6Addr::from(u128::from(p.addr()) | u128::from(n) << 3);
        assert_eq!(fib.lookup6(inside), Some(owner(n)));
    }
    assert!(fib.memory() / 100_000 <= OCTETS + 32, "{} octets", fib.memory());
}

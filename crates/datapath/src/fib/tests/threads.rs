//! One thread changes the list as fast as it can, two others look up.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::answers;
use crate::fib::*;
use crate::names::PortId;

fn stable(n: u16) -> IpAddr {
    if n.is_multiple_of(2) {
        Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into()
    } else {
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n)).into()
    }
}

/// An address that port `id` has for a moment.
fn fleeting(id: u16) -> IpAddr {
    Ipv6Addr::from(0x2001_0db8_0001_u128 << 80 | u128::from(id)).into()
}

/// Waits until every reader has passed a quiescent point.
fn pass(fib: &Fib) {
    let retired = fib.retire();
    while !fib.is_past(retired) {
        thread::yield_now();
    }
}

#[test]
fn readers_find_what_stays_and_never_a_port_that_was_freed() {
    let mut fib = Fib::default();
    for n in 0..2_000 {
        fib.insert(stable(n).into(), Target::Port(PortId(n))).unwrap();
    }
    // Ports from here on come and go; all below this one are freed.
    let first_there = AtomicU16::new(10_000);
    let over = AtomicBool::new(false);
    let readers = [fib.reader(), fib.reader()];
    let neighbour: IpAddr = "203.0.113.5".parse().unwrap();
    let withdrawn: IpAddr = "203.0.113.4".parse().unwrap();
    let around: IpNet = "203.0.113.0/24".parse().unwrap();
    let home = Target::Port(PortId(9_999));
    fib.insert(around, home).unwrap();
    thread::scope(|scope| {
        for mut reader in readers {
            let (over, first_there) = (&over, &first_there);
            scope.spawn(move || {
                let mut n = 0u16;
                while !over.load(Ordering::Relaxed) {
                    n = (n + 31) % 2_000;
                    let next = first_there.load(Ordering::Relaxed);
                    let (a, b) = (fleeting(next), fleeting(next.wrapping_add(1)));
                    let addresses = [stable(n), a, neighbour, b];
                    let found = answers(reader.batch().batch(), &addresses);
                    assert_eq!(found[0], Some(Target::Port(PortId(n))));
                    assert_eq!(found[2], Some(home));
                    for port in [found[1], found[3]] {
                        if let Some(Target::Port(PortId(id))) = port {
                            assert!(id >= first_there.load(Ordering::Relaxed), "{id} was freed");
                        }
                    }
                    if n.is_multiple_of(7) {
                        reader.rest();
                    }
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(500);
        let mut id = 10_000u16;
        while Instant::now() < end && id < 60_000 {
            let target = Target::Port(PortId(id));
            for n in 0..4 {
                fib.insert(fleeting(id + n).into(), target).unwrap();
            }
            fib.withdraw(withdrawn);
            fib.remove_owner(target);
            pass(&fib);
            id += 1;
            first_there.store(id, Ordering::Relaxed);
            // Back to one prefix, without a moment in which the neighbour is nobody's.
            fib.insert(around, home).unwrap();
            pass(&fib);
            for rest in without(around, withdrawn) {
                fib.remove(rest);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

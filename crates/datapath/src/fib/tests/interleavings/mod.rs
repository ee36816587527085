//! Every interleaving of a writer with a reader, and every value that the memory model lets the reader
//! see: the files of the list themselves, compiled with the model checker's atomics.
//!
//! # Theory of operation
//! loom runs a closure again and again, each time with another schedule and other (permitted) results
//! of its loads, until there is none left; more than two or three forced switches between threads
//! are left out. A test that holds something to be true is followed by one in which the
//! protocol is broken in that very place, and which must fail: what is written in the wrong order, a slot
//! that is used again, a port that is freed too early.
#![allow(dead_code, reason = "the files are used whole by the crate, in parts here")]

#[path = "../../address.rs"]
mod address;
#[path = "../../ahead.rs"]
mod ahead;
#[path = "../../batch.rs"]
mod batch;
#[path = "../../bucket.rs"]
mod bucket;
#[path = "../../family.rs"]
mod family;
#[path = "../../hash.rs"]
mod hash;
#[path = "../../list.rs"]
mod list;
#[path = "../../owners.rs"]
mod owners;
#[path = "../../prefixes.rs"]
mod prefixes;
#[path = "../../shared.rs"]
mod shared;
mod sync;
#[path = "../../table.rs"]
mod table;
#[path = "../../target.rs"]
mod target;
#[path = "../../versions.rs"]
mod versions;
#[path = "../../view.rs"]
mod view;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use loom::thread;

use self::address::Address;
use self::bucket::{Bucket, Bucket6, Slot, word};
use self::hash::Seed;
use self::list::Fib;
use self::shared::FibReader;
use self::sync::{AtomicU32, Ordering};
use self::target::Target;
use crate::fib::without;
use crate::names::PortId;

const SEED: Seed = Seed([1, 3, 5, 0x9e37_79b9_7f4a_7c15]);
const TAG: u8 = u128::EXACT;

/// Runs all interleavings with at most so many switches that no thread asked for.
fn check(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.max_branches = 20_000;
    builder.check(model);
}

const ONE: u128 = 0x2001_0db8 << 96 | 0x17;
const OTHER: u128 = 0x2001_0db8_0001 << 80 | 0x29;

fn slot(address: u128, payload: u32) -> Slot<u128> {
    Slot { address, tag: TAG, payload }
}

/// What a reader may take for an address while that one is being written.
fn halves_of(address: u128) -> [u128; 3] {
    let low = u128::from(address as u64);
    [0, low, address ^ low]
}

fn find(bucket: &Bucket6, address: u128) -> u32 {
    bucket.find(address, TAG, 0).unwrap_or(0)
}

fn a_reader_beside(write: impl Fn(&Bucket6) + Sync + Send + Copy + 'static) {
    check(3, move || {
        let bucket = Arc::new(Bucket6::default());
        let written = Arc::clone(&bucket);
        let writer = thread::spawn(move || write(&written));
        assert!([0, 7].contains(&find(&bucket, ONE)));
        for half in halves_of(ONE) {
            assert_eq!(find(&bucket, half), 0);
        }
        writer.join().unwrap();
        assert_eq!(find(&bucket, ONE), 7);
    });
}

#[test]
fn an_entry_is_found_whole_or_not_at_all() {
    a_reader_beside(|bucket| bucket.put(0, slot(ONE, 7)));
}

#[test]
#[should_panic(expected = "left == right")]
fn an_entry_whose_word_comes_before_its_address_is_seen_to_be_found_in_halves() {
    a_reader_beside(|bucket| {
        bucket.words[0].store(word(TAG, 7), Ordering::Release);
        bucket.put(0, slot(ONE, 7));
    });
}

#[test]
#[should_panic(expected = "left == right")]
fn an_entry_whose_word_is_not_released_is_seen_to_be_found_in_halves() {
    a_reader_beside(|bucket| {
        bucket.addresses[0][0].store((ONE >> 64) as u64, Ordering::Relaxed);
        bucket.addresses[0][1].store(ONE as u64, Ordering::Relaxed);
        bucket.words[0].store(word(TAG, 7), Ordering::Relaxed);
    });
}

/// One address goes, another comes, and a reader looks for the second.
fn a_reader_beside_two(second: usize) {
    check(3, move || {
        let bucket = Arc::new(Bucket6::default());
        bucket.put(0, slot(ONE, 7));
        let written = Arc::clone(&bucket);
        let writer = thread::spawn(move || {
            written.set(0, 0);
            written.put(second, slot(OTHER, 8));
        });
        assert!([0, 8].contains(&find(&bucket, OTHER)));
        writer.join().unwrap();
        assert_eq!(find(&bucket, OTHER), 8);
        assert_eq!(find(&bucket, ONE), 0);
    });
}

#[test]
fn an_address_that_comes_is_never_found_under_the_owner_of_one_that_went() {
    a_reader_beside_two(1);
}

#[test]
#[should_panic(expected = "contains")]
fn a_slot_that_is_used_again_is_seen_to_mix_two_owners() {
    a_reader_beside_two(0);
}

/// Addresses of a small table, which is one shard: the second makes it grow.
fn of_one_shard<const N: usize>() -> [Ipv6Addr; N] {
    let mut addresses = (ONE..).map(Ipv6Addr::from);
    std::array::from_fn(|_| addresses.next().unwrap())
}

/// An address of the other family's table.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

fn owner(id: u16) -> Target {
    Target::Port(PortId(id))
}

#[test]
fn what_is_in_the_list_is_found_while_it_grows_and_what_came_at_the_next_batch() {
    check(2, || {
        let mut fib = Fib::with_seed(SEED);
        let [stays, second, third] = of_one_shard();
        fib.insert(IpAddr::from(stays).into(), owner(1)).unwrap();
        let mut reader = fib.reader();
        reader.batch();
        let writer = thread::spawn(move || {
            for address in [second, third] {
                fib.insert(IpAddr::from(address).into(), owner(2)).unwrap();
            }
            fib
        });
        for _ in 0..2 {
            let view = reader.batch();
            assert_eq!(view.lookup6(stays), Some(owner(1)));
            let found = view.lookup6(third);
            assert!(found.is_none() || found == Some(owner(2)));
        }
        let _fib = writer.join().unwrap();
        assert_eq!(reader.batch().lookup6(third), Some(owner(2)));
    });
}

#[test]
fn the_neighbours_of_an_address_that_is_withdrawn_are_found_all_the_while() {
    check(2, || {
        let mut fib = Fib::with_seed(SEED);
        fib.insert("203.0.113.4/31".parse().unwrap(), owner(1)).unwrap();
        let mut reader = fib.reader();
        reader.batch();
        let writer = thread::spawn(move || {
            fib.withdraw("203.0.113.5".parse().unwrap());
            fib
        });
        for _ in 0..2 {
            let found = reader.batch().lookup4("203.0.113.4".parse().unwrap());
            assert_eq!(found, Some(owner(1)));
        }
        let _fib = writer.join().unwrap();
        assert_eq!(reader.batch().lookup4("203.0.113.5".parse().unwrap()), None);
    });
}

/// When the writer frees a port.
#[derive(Clone, Copy, PartialEq)]
enum Frees {
    WhenPast,
    AtOnce,
    WhenPastButRemovedLater,
    /// Its table grew just before, and the other family's does just after.
    WhenPastAmidGrowth,
}

/// A port's memory, with a reader that goes there when the list says so.
fn a_port_leaves(frees: Frees, read: fn(&mut FibReader, &dyn Fn(Option<Target>))) {
    let switches = if frees == Frees::WhenPastAmidGrowth { 2 } else { 3 };
    check(switches, move || {
        let mut fib = Fib::with_seed(SEED);
        let [address, second, third] = of_one_shard();
        let prefix = IpAddr::from(address).into();
        fib.insert(prefix, owner(1)).unwrap();
        let mut reader = fib.reader();
        if frees == Frees::WhenPastAmidGrowth {
            // It is awake, and has the shard as it is.
            reader.batch();
        }
        let memory = Arc::new(AtomicU32::new(1));
        let port = Arc::clone(&memory);
        let worker = thread::spawn(move || {
            read(&mut reader, &|found| {
                let there = found.is_none() || port.load(Ordering::Relaxed) == 1;
                assert!(there, "a port is used that was freed");
            });
        });
        let grow = |fib: &mut Fib, addresses: &[IpAddr]| {
            for address in addresses.iter().filter(|_| frees == Frees::WhenPastAmidGrowth) {
                fib.insert((*address).into(), owner(2)).unwrap();
            }
        };
        grow(&mut fib, &[second.into(), third.into()]);
        if frees != Frees::WhenPastButRemovedLater {
            fib.remove(prefix);
        }
        let retired = fib.retire();
        grow(&mut fib, &[ELSEWHERE.into()]);
        if frees == Frees::AtOnce || fib.is_past(retired) {
            memory.store(0, Ordering::Relaxed);
        }
        fib.remove(prefix);
        worker.join().unwrap();
        assert!(fib.is_past(fib.retire()));
    });
}

fn leaving_address() -> Ipv6Addr {
    let [address] = of_one_shard();
    address
}

/// A batch.
fn once(reader: &mut FibReader, go_there: &dyn Fn(Option<Target>)) {
    go_there(reader.batch().lookup6(leaving_address()));
}

/// Two batches.
fn busy(reader: &mut FibReader, go_there: &dyn Fn(Option<Target>)) {
    for _ in 0..2 {
        go_there(reader.batch().lookup6(leaving_address()));
    }
}

/// A batch, a rest, another batch.
fn resting(reader: &mut FibReader, go_there: &dyn Fn(Option<Target>)) {
    go_there(reader.batch().lookup6(leaving_address()));
    reader.rest();
    go_there(reader.batch().lookup6(leaving_address()));
}

#[test]
fn a_port_that_is_freed_when_its_leaving_is_past_is_not_used_any_more() {
    a_port_leaves(Frees::WhenPast, busy);
}

#[test]
fn a_reader_that_could_not_take_over_new_buckets_has_passed_nothing() {
    a_port_leaves(Frees::WhenPastAmidGrowth, once);
}

#[test]
fn a_reader_that_wakes_does_not_find_what_was_freed_while_it_rested() {
    a_port_leaves(Frees::WhenPast, resting);
}

#[test]
#[should_panic(expected = "a port is used that was freed")]
fn a_port_that_is_freed_before_readers_pass_a_quiescent_point_is_seen_to_be_used() {
    a_port_leaves(Frees::AtOnce, busy);
}

#[test]
#[should_panic(expected = "a port is used that was freed")]
fn a_port_that_is_retired_before_its_entry_is_removed_is_seen_to_be_used() {
    a_port_leaves(Frees::WhenPastButRemovedLater, busy);
}

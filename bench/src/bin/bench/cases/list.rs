//! The list of addresses beside the hash table that programs like this usually have.
//!
//! # Theory of operation
//! A million random addresses, half of them IPv6, in the list and in two tables of hashbrown with
//! foldhash, one for each family. Then, in turns, a million look-ups in random order: one by one in the
//! tables, in batches in the list, as the datapath makes them. Last, the list alone while another
//! thread changes it 100,000 times a second: nobody waits for anybody there, but both fetch the lines
//! that the other has written.
//!
//! Counted is the time that the looking thread has computed: other programs do not count.

use std::collections::VecDeque;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datapath::fib::{BATCH, Fib, Target};
use datapath::names::PortId;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use lab::{LabError, Result, interrupt};
use rustix::time::{ClockId, clock_gettime};

use crate::contender::{SWITCHING, pin};
use crate::results::Measured;
use crate::stage::Stage;

/// Addresses in the list.
const ADDRESSES: usize = 1_000_000;
/// Look-ups in a round.
const LOOKUPS: usize = 1 << 20;
/// Changes of the list in a second.
const CHANGES: u32 = 100_000;
/// How often who changes looks at the clock.
const CHANGE_EVERY: Duration = Duration::from_micros(100);

/// The usual tables.
#[derive(Default)]
struct Plain {
    four: HashMap<Ipv4Addr, Target, RandomState>,
    six: HashMap<Ipv6Addr, Target, RandomState>,
}

impl Plain {
    fn insert(&mut self, address: IpAddr, target: Target) -> Option<Target> {
        match address {
            IpAddr::V4(address) => self.four.insert(address, target),
            IpAddr::V6(address) => self.six.insert(address, target),
        }
    }

    #[inline]
    fn lookup(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(address) => self.four.get(&address).copied(),
            IpAddr::V6(address) => self.six.get(&address).copied(),
        }
    }
}

/// Random numbers, the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn address(&mut self, six: bool) -> IpAddr {
        match six {
            true => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(self.roll())).into(),
            false => Ipv4Addr::from(0x0a00_0000 | self.roll() as u32 & 0xff_ffff).into(),
        }
    }

    fn target(&mut self) -> Target {
        Target::Port(PortId(self.roll() as u16))
    }
}

/// Nanoseconds of one look-up, by what this thread has computed meanwhile.
fn per_lookup(look_up: impl FnOnce()) -> f64 {
    let computed = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let start = computed();
    look_up();
    (computed() - start) / LOOKUPS as f64
}

/// Lets addresses come and go in turns until it is over; tells how many times.
fn change(fib: &mut Fib, addresses: &[IpAddr], over: &AtomicBool, made: &AtomicU32) {
    let (start, mut present) = (Instant::now(), VecDeque::new());
    let mut spare = addresses.iter().cycle();
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(CHANGES)) as u32;
        while count < due {
            if count % 2 == 1
                && let Some(address) = present.pop_front()
            {
                fib.remove(address);
            } else if let Some(address) = spare.next().map(|address| (*address).into())
                && fib.insert(address, Target::Host).is_ok()
            {
                present.push_back(address);
            }
            count += 1;
        }
        made.store(count, Ordering::Relaxed);
        thread::sleep(CHANGE_EVERY);
    }
    for address in present {
        fib.remove(address);
    }
}

/// Look-ups in the list and beside it, and what the list needs.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let (rounds, progress) = (stage.effort.rounds, stage.progress);
    let mut dice = Dice(1);
    let (mut plain, mut fib) = (Plain::default(), Fib::default());
    let mut present = Vec::with_capacity(ADDRESSES);
    while present.len() < ADDRESSES {
        let address = dice.address(present.len() % 2 == 1);
        let target = dice.target();
        if plain.lookup(address).is_some() {
            continue;
        }
        plain.insert(address, target);
        fib.insert(address.into(), target)
            .map_err(|e| LabError::Unexpected(format!("{address} into the list: {e}")))?;
        present.push(address);
    }
    let octets = fib.memory() as f64 / ADDRESSES as f64;
    let chosen: Vec<IpAddr> =
        (0..LOOKUPS).map(|_| present[dice.roll() as usize % ADDRESSES]).collect();
    let mut outside = |six| loop {
        let address = dice.address(six);
        if plain.lookup(address).is_none() {
            break address;
        }
    };
    let spare: Vec<IpAddr> = (0..ADDRESSES).map(|n| outside(n % 2 == 1)).collect();

    let (mut usual, mut ours, mut changing) = (Vec::new(), Vec::new(), Vec::new());
    let mut reader = fib.reader();
    let mut in_batches = || {
        per_lookup(|| {
            for batch in chosen.chunks(BATCH) {
                let mut found = [None; BATCH];
                reader.batch().lookup_batch(batch, &mut found);
                black_box(&found);
            }
        })
    };
    for round in 0..rounds {
        interrupt::check()?;
        progress.say(format!("look-ups: round {} of {rounds}", round + 1));
        usual.push(per_lookup(|| {
            for address in &chosen {
                black_box(plain.lookup(*address));
            }
        }));
        ours.push(in_batches());
        let (over, made) = (AtomicBool::new(false), AtomicU32::new(0));
        let each = thread::scope(|scope| {
            scope.spawn(|| {
                // Best effort: on the same core they take turns, which says less, but nothing wrong.
                let _ = pin(None, SWITCHING);
                change(&mut fib, &spare, &over, &made);
            });
            while made.load(Ordering::Relaxed) == 0 {
                thread::sleep(CHANGE_EVERY);
            }
            let each = in_batches();
            over.store(true, Ordering::Relaxed);
            each
        });
        changing.push(each);
    }
    let row = |case, contender, rounds| Measured::new(case, contender, "ns a look-up", rounds);
    Ok(vec![
        row("look-ups", "ipvisor", ours),
        row("look-ups", "hashbrown, foldhash", usual),
        row("look-ups while it changes", "ipvisor", changing),
        Measured::new("memory of an address", "ipvisor", "octets", vec![octets]),
    ])
}

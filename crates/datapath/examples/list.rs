//! What the list of addresses costs, beside a plain hash table: `cargo run --release -p datapath
//! --example list [addresses]`.
//!
//! # Theory of operation
//! A million random addresses, half of them IPv6, in the list and in the hash table that programs like
//! this usually have (hashbrown with foldhash, a table for each family). Then, in turns, a million
//! look-ups in random order: one by one in the table, in batches in the list. What counts is the ratio
//! within a round, since the machine's speed changes between rounds; printed are the median and the
//! range of all rounds. At last a second thread changes the list while the first looks up: in turns
//! not at all and 100,000 times a second.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use datapath::fib::{BATCH, Fib, Target};
use datapath::names::PortId;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rustix::time::{ClockId, clock_gettime};

/// Rounds of each comparison.
const ROUNDS: usize = 15;
/// Look-ups in a round.
const LOOKUPS: usize = 1 << 20;
/// Changes of the list in a second.
const UPDATES: u32 = 100_000;
/// How long a slice with or without changes lasts.
const SLICE: Duration = Duration::from_millis(200);

/// The usual table.
#[derive(Default)]
struct Plain {
    four: HashMap<Ipv4Addr, Target, RandomState>,
    six: HashMap<Ipv6Addr, Target, RandomState>,
}

impl Plain {
    fn insert(&mut self, address: IpAddr, target: Target) {
        match address {
            IpAddr::V4(a) => self.four.insert(a, target),
            IpAddr::V6(a) => self.six.insert(a, target),
        };
    }

    #[inline]
    fn lookup(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(a) => self.four.get(&a).copied(),
            IpAddr::V6(a) => self.six.get(&a).copied(),
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

    fn address4(&mut self) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 | self.roll() as u32 & 0xff_ffff).into()
    }

    fn address6(&mut self) -> IpAddr {
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(self.roll())).into()
    }

    fn target(&mut self) -> Target {
        Target::Port(PortId(self.roll() as u16))
    }

    fn choose(&mut self, from: &[IpAddr]) -> Vec<IpAddr> {
        (0..LOOKUPS).map(|_| from[self.roll() as usize % from.len()]).collect()
    }
}

/// Median and range.
fn summary(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// What this thread has computed so far: other programs on the machine do not count.
fn computed() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds of one look-up.
fn per_lookup(work: impl FnOnce()) -> f64 {
    let start = computed();
    work();
    (computed() - start) / LOOKUPS as f64
}

fn one_by_one(addresses: &[IpAddr], lookup: impl Fn(IpAddr) -> Option<Target>) {
    for address in addresses {
        black_box(lookup(*address));
    }
}

fn in_batches(addresses: &[IpAddr], lookup: impl Fn(&[IpAddr], &mut [Option<Target>])) {
    for batch in addresses.chunks(BATCH) {
        let mut found = [None; BATCH];
        lookup(batch, &mut found);
        black_box(&found);
    }
}

fn compare(what: &str, addresses: &[IpAddr], plain: &Plain, fib: &Fib) {
    let (mut by_one, mut single, mut batched, mut ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let a = per_lookup(|| one_by_one(addresses, |address| plain.lookup(address)));
        let b = per_lookup(|| in_batches(addresses, |batch, found| fib.lookup_batch(batch, found)));
        let c = per_lookup(|| one_by_one(addresses, |address| fib.lookup(address)));
        by_one.push(a);
        batched.push(b);
        single.push(c);
        ratios.push(b / a);
    }
    let (ratio, least, most) = summary(ratios);
    println!(
        "{what:24} {:6.1} ns {:6.1} ns {:6.1} ns   {ratio:.2} ({least:.2} to {most:.2})",
        summary(by_one).0,
        summary(single).0,
        summary(batched).0,
    );
}

/// Reads and writes at once; look-ups a second with and without changes, as a ratio.
fn under_change(addresses: &[IpAddr], fib: &mut Fib, spare: &[IpAddr]) {
    let (changing, over, looked_up) =
        (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut reader = fib.reader();
    thread::scope(|scope| {
        scope.spawn(|| {
            for batch in addresses.chunks(BATCH).cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let mut found = [None; BATCH];
                reader.batch().lookup_batch(batch, &mut found);
                black_box(&found);
                looked_up.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        });
        let (mut ratios, mut made) = (vec![], vec![]);
        let mut spare = spare.iter().cycle();
        let mut present = std::collections::VecDeque::new();
        for _ in 0..ROUNDS {
            let mut rates = [0.0; 2];
            for with in [false, true] {
                changing.store(with, Ordering::Relaxed);
                let (start, before) = (Instant::now(), looked_up.load(Ordering::Relaxed));
                let mut updates = 0u32;
                while start.elapsed() < SLICE {
                    let due = (start.elapsed().as_secs_f64() * f64::from(UPDATES)) as u32;
                    while with && updates < due {
                        // As many come as go.
                        if updates.is_multiple_of(2) {
                            let address = *spare.next().expect("there are some");
                            let _ = fib.insert(address.into(), Target::Host);
                            present.push_back(address);
                        } else if let Some(address) = present.pop_front() {
                            fib.remove(address.into());
                        }
                        updates += 1;
                    }
                    thread::sleep(Duration::from_micros(100));
                }
                let looked_up = looked_up.load(Ordering::Relaxed) - before;
                let seconds = start.elapsed().as_secs_f64();
                rates[usize::from(with)] = looked_up as f64 / seconds;
                if with {
                    made.push(f64::from(updates) / seconds);
                }
            }
            ratios.push(rates[1] / rates[0]);
        }
        over.store(true, Ordering::Relaxed);
        let (ratio, least, most) = summary(ratios);
        println!(
            "look-ups with {:.0} changes a second, of those without: {ratio:.2} ({least:.2} to {most:.2})",
            summary(made).0
        );
    });
}

fn main() {
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000usize);
    let mut dice = Dice(1);
    let (mut plain, mut fib) = (Plain::default(), Fib::default());
    let (mut four, mut six) = (vec![], vec![]);
    let mut worst = Duration::ZERO;
    let mut all = Duration::ZERO;
    while four.len() + six.len() < count {
        let of6 = four.len() > six.len();
        let address = if of6 { dice.address6() } else { dice.address4() };
        if plain.lookup(address).is_some() {
            continue;
        }
        let target = dice.target();
        plain.insert(address, target);
        let start = Instant::now();
        fib.insert(address.into(), target).expect("nobody has it yet");
        let took = start.elapsed();
        all += took;
        worst = worst.max(took);
        if of6 { &mut six } else { &mut four }.push(address);
    }
    println!("{count} addresses, half IPv6");
    println!("memory of the list: {:.1} octets an address", fib.memory() as f64 / count as f64);
    let each = all.as_nanos() as f64 / count as f64;
    println!("an insertion: {each:.0} ns on average, {} us at most", worst.as_micros());
    let both = [four.as_slice(), six.as_slice()].concat();
    let mut outside = |of6: bool| loop {
        let address = if of6 { dice.address6() } else { dice.address4() };
        if plain.lookup(address).is_none() {
            break address;
        }
    };
    let absent: Vec<IpAddr> = (0..count).map(|i| outside(i % 2 == 0)).collect();
    println!("{:24} {:>9} {:>9} {:>9}   batch to hashbrown", "", "hashbrown", "list", "batch");
    compare("both families", &dice.choose(&both), &plain, &fib);
    compare("IPv4", &dice.choose(&four), &plain, &fib);
    compare("IPv6", &dice.choose(&six), &plain, &fib);
    compare("not in the list", &dice.choose(&absent), &plain, &fib);
    under_change(&dice.choose(&both), &mut fib, &absent);
}

//! The list of addresses beside the hash table that programs like this usually have.
//!
//! # Theory of operation
//! A million random addresses, half of them IPv6, in the list and in two tables of hashbrown with
//! foldhash, one for each family. Then, in turns, a million look-ups in random order: one by one in the
//! tables; in the list by stretches, all addresses of a stretch asked for ahead, as the datapath does
//! (`worker/from_vm/stretch.rs`). Before that both give the same answers, once.
//!
//! Counted is the time that the looking thread has computed: other programs do not count.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::fib::{BATCH, Fib, Target};
use datapath::names::PortId;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use lab::hostile::Dice;
use lab::{LabError, Result, interrupt};

use crate::results::Measured;
use crate::slice::computed;
use crate::stage::Stage;

/// Addresses in the list.
const ADDRESSES: usize = 1_000_000;
/// Look-ups in a round.
const LOOKUPS: usize = 1 << 20;

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

fn address(dice: &mut Dice, six: bool) -> IpAddr {
    match six {
        true => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(dice.next())).into(),
        false => Ipv4Addr::from(0x0a00_0000 | dice.next() as u32 & 0xff_ffff).into(),
    }
}

/// Nanoseconds of one look-up, by what this thread has computed meanwhile.
fn per_lookup(look_up: impl FnOnce()) -> f64 {
    let before = computed();
    look_up();
    computed().saturating_sub(before).as_nanos() as f64 / LOOKUPS as f64
}

/// Look-ups in the list and beside it, and what the list needs.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let (rounds, progress) = (stage.effort.rounds, stage.progress);
    let mut dice = Dice::new(1);
    let (mut plain, mut fib) = (Plain::default(), Fib::default());
    let mut present = Vec::with_capacity(ADDRESSES);
    while present.len() < ADDRESSES {
        let address = address(&mut dice, present.len() % 2 == 1);
        let target = Target::Port(PortId(dice.next() as u16));
        if plain.lookup(address).is_some() {
            continue;
        }
        plain.insert(address, target);
        fib.insert(address.into(), target)
            .map_err(|e| LabError::Unexpected(format!("{address} into the list: {e}")))?;
        present.push(address);
    }
    let octets = fib.memory() as f64 / ADDRESSES as f64;
    let chosen: Vec<IpAddr> = (0..LOOKUPS).map(|_| dice.pick(&present)).collect();
    let wrong = |address: &&IpAddr| fib.lookup(**address) != plain.lookup(**address);
    if let Some(address) = chosen.iter().find(wrong) {
        return Err(LabError::Unexpected(format!("the list does not know whose {address} is")));
    }

    let (mut usual, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        interrupt::check()?;
        progress.say(format!("look-ups: round {} of {rounds}", round + 1));
        usual.push(per_lookup(|| {
            for address in &chosen {
                black_box(plain.lookup(*address));
            }
        }));
        ours.push(per_lookup(|| {
            for stretch in chosen.chunks(BATCH) {
                let mut batch = fib.batch();
                for (n, address) in (0..).zip(stretch) {
                    match address {
                        IpAddr::V4(address) => batch.ask4(n, *address),
                        IpAddr::V6(address) => batch.ask6(n, *address),
                    }
                }
                batch.answer(|n, owner| {
                    black_box((n, owner));
                });
            }
        }));
    }
    let row = |contender, rounds| Measured::new("look-ups", contender, "ns a look-up", rounds);
    Ok(vec![
        row("ipvisor", ours),
        row("hashbrown, foldhash", usual),
        Measured::new("memory of an address", "ipvisor", "octets", vec![octets]),
    ])
}

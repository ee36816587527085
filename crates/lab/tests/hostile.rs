//! The hostile driver against the worker alone: most of the rounds, as fast as they go.

use std::time::Instant;

use lab::hostile::{Campaign, Dice, Inside, Pair, by_drivers, often_enough};

/// Rounds of each kind, with each seed.
const SPEECH: u64 = 88_000;
const RINGS: u64 = 6_000;
const RACE: u64 = 8_000;
/// Known to everybody.
const FIXED: u64 = 0x1d0_5eed;

fn campaign(seed: u64) {
    let begun = Instant::now();
    let mut stage = Inside::start().unwrap();
    let mut pair = Pair::start(&mut stage).unwrap();
    let mut campaign = Campaign::new(&mut stage, seed).unwrap();
    campaign.speech(SPEECH).unwrap();
    campaign.effort().unwrap();
    campaign.rings(RINGS).unwrap();
    campaign.race(RACE, false).unwrap();
    campaign.race(RACE, true).unwrap();
    pair.check().unwrap();
    campaign.check().unwrap();
    let report = campaign.report().clone();
    let fared = pair.finish().unwrap();
    println!("{} rounds in {:?}, {} frames judged", report.rounds, begun.elapsed(), report.judged);
    println!("{:?}", report.seen.0);
    println!("neighbours: {fared:?}");
    assert!(report.rounds > 100_000);
    often_enough(&report.seen, &by_drivers(false), 100).unwrap();
    assert!(fared.datagrams > 1000);
}

#[test]
fn a_hostile_driver_harms_nobody_but_itself_with_a_known_seed() {
    println!("hostile driver: known seed {FIXED:#x}");
    campaign(FIXED);
}

#[test]
fn a_hostile_driver_harms_nobody_but_itself_with_a_fresh_seed() {
    let seed = Dice::fresh_seed();
    // Not captured: a seed that nobody sees is of no use.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("hostile driver: fresh seed {seed:#x}\n").as_bytes(),
    );
    campaign(seed);
}

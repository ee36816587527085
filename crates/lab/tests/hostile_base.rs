//! The hostile driver and a hostile peer on the LAN against a running base: through vhost-user and
//! a card, with everything around them that the worker alone has not.

use std::time::Instant;

use lab::hostile::{Campaign, Dice, Lan, Outside, Pair, by_drivers, by_lan, often_enough};
use lab::scene::by_xdp;

/// Rounds of each kind.
const SPEECH: u64 = 15_000;
const RINGS: u64 = 1_900;
const RACE: u64 = 2_000;
const LAN: u64 = 8_000;
const GIANTS: u64 = 100;

/// What a peer causes only where the base gets the frames as they were sent.
const OF_WHOLE_FRAMES: [&str; 4] = [
    "drop.offload_checksum",
    "drop.segment_too_big",
    "drop.uplink_clipped",
    "drop.uplink_ring_full",
];

#[test]
fn a_running_base_stays_what_it_is_whatever_a_driver_and_the_lan_do() {
    let begun = Instant::now();
    let seed = Dice::fresh_seed();
    // Not captured: a seed that nobody sees is of no use.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("hostile base: fresh seed {seed:#x}\n").as_bytes(),
    );
    let mut stage = Outside::start().unwrap();
    let lan = Lan::open(&mut stage).unwrap();
    let mut pair = Pair::start(&mut stage).unwrap();
    let mut campaign = Campaign::new(&mut stage, seed).unwrap();
    // By AF_XDP: the kernel cuts large sends before the base sees them, and drops by itself what does not
    // fit its rings.
    let slow = !by_xdp(1500);
    if slow {
        campaign.giants(&lan, GIANTS).unwrap();
    }
    campaign.scan().unwrap();
    campaign.lan(&lan, LAN).unwrap();
    campaign.effort().unwrap();
    if slow {
        campaign.outrun(&lan).unwrap();
    }
    campaign.speech(SPEECH).unwrap();
    campaign.check().unwrap();
    campaign.rings(RINGS).unwrap();
    campaign.race(RACE, false).unwrap();
    campaign.race(RACE, true).unwrap();
    if slow {
        campaign.flood(&lan).unwrap();
    }
    pair.check().unwrap();
    campaign.check().unwrap();
    let report = campaign.report().clone();
    let fared = pair.finish().unwrap();
    println!("{} rounds in {:?}, {} frames judged", report.rounds, begun.elapsed(), report.judged);
    println!("drivers: {:?}\nLAN: {:?}", report.seen.0, report.lan.0);
    println!("neighbours: {fared:?}");
    let mut reasons = by_drivers(true);
    reasons.retain(|reason| slow || *reason != "drop.uplink_send");
    often_enough(&report.seen, &reasons, 100).unwrap();
    let mut lan_reasons = by_lan().to_vec();
    lan_reasons.retain(|reason| slow || !OF_WHOLE_FRAMES.contains(reason));
    often_enough(&report.lan, &lan_reasons, 100).unwrap();
    assert!(fared.datagrams > 1000);
    stage.instance().ps().unwrap();
}

//! One port floods, another sends little: what the flood takes from it.
//!
//! # Theory of operation
//! ```text
//!  a ══ as much as goes ════════════╗        ╔══ b
//!                                   ╠ base ══╣
//!  c ══ 10,000 datagrams a second ══╝        ╚══ d
//! ```
//! One thread plays all four by turns: a batch of the flood, what has arrived of it, the other's
//! datagram if it is due, what has arrived of that. A turn takes one or two microseconds, so times
//! are that exact, and what this thread itself does is in them. A datagram's time begins when it is
//! written; if its ring had no room when it was due, it begins then. It counts only beside a flood:
//! if the flood's ring was full in nine of ten attempts, and what arrived of it was what was sent.

use std::time::{Duration, Instant};

use bench::frames::{Ends, Kind};
use lab::scene::vm;
use lab::{LabError, Result, interrupt};

use super::mpps;
use crate::contender::{MACS, Ours, Switch, Vm, ends};
use crate::generator::{Generator, Guest, Template};
use crate::results::{Measured, median, percentile};
use crate::slice::Slice;
use crate::stage::{SETTLE, SHORT, Stage, detach};

/// Datagrams in a second, and how long they are sent.
const RATE: u32 = 10_000;
const TIME: Duration = Duration::from_secs(1);
/// How long is waited for those that are missing.
const LATE: Duration = Duration::from_millis(100);
/// More than can be under way in two rings.
const UNDER_WAY: usize = 4096;

/// What a round showed.
struct Seen {
    flood: Slice,
    paced: Slice,
    /// How long each datagram took, in microseconds.
    times: Vec<f64>,
    /// Those that never arrived.
    lost: u64,
}

fn both(flood: &mut Generator<'_>, paced: &mut Generator<'_>) -> Seen {
    let mut seen = Seen {
        flood: Slice::default(),
        paced: Slice::default(),
        times: Vec::with_capacity((RATE * TIME.as_secs() as u32) as usize),
        lost: 0,
    };
    let (start, every) = (Instant::now(), Duration::from_secs(1) / RATE);
    let mut begun = vec![Duration::ZERO; UNDER_WAY];
    // When the next is due, and whether it was refused since.
    let (mut due, mut refused) = (Duration::ZERO, false);
    let mut now = Duration::ZERO;
    while now < TIME {
        flood.turn(&mut seen.flood);
        now = start.elapsed();
        if now >= due && paced.sender.room() == 0 {
            refused = true;
        } else if now >= due {
            begun[paced.sender.next() as usize % UNDER_WAY] = if refused { due } else { now };
            paced.sender.send(1);
            seen.paced.attempts += 1;
            // What was missed is not made up for: it would be a burst.
            (due, refused) = ((due + every).max(now), false);
        }
        let Seen { paced: slice, times, .. } = &mut seen;
        paced.receiver.receive(paced.sender.next(), slice, |number| {
            let took = start.elapsed().saturating_sub(begun[number as usize % UNDER_WAY]);
            times.push(took.as_secs_f64() * 1e6);
        });
    }
    (seen.flood.time, seen.paced.time) = (now, now);
    flood.drain(LATE);
    let late = paced.drain(LATE);
    seen.lost = seen.paced.attempts.saturating_sub(seen.paced.received + late.received);
    seen.paced.wrong += late.wrong;
    // Late ones took at least so long as what was waited for.
    seen.times.extend((0..late.received).map(|_| LATE.as_secs_f64() * 1e6));
    seen
}

/// Measures it, round by round.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { effort, progress, .. } = stage;
    let mut vms = Vm::pair().to_vec();
    for (name, n) in [("c", 2), ("d", 3)] {
        vms.push(Vm { name: name.to_owned(), mac: Some(mac(n)), addresses: vec![vm(n)[0]] });
    }
    let ours = Ours::start(&[], &vms)?;
    let mut guests = Vec::new();
    for vm in &vms {
        let mut guest = Guest::new(&SHORT)?;
        guest.attach(&ours.instance.socket(&vm.name), &SHORT)?;
        guests.push(guest);
    }
    std::thread::sleep(SETTLE);
    let other = Ends { macs: [mac(2), ends().macs[1]], addresses: [vm(2)[0], vm(3)[0]] };
    let templates = [ends(), other].map(|ends| Template::new(Kind::Udp, ends, SHORT.frame));
    let mut flood = Generator::new(&guests[0], &guests[1], &templates[0]);
    let mut paced = Generator::new(&guests[2], &guests[3], &templates[1]);
    let (mut lost, mut rates, mut typical, mut slow) = (0, Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        interrupt::check()?;
        progress.say(format!("flood: round {} of {}", round + 1, effort.rounds));
        let seen = both(&mut flood, &mut paced);
        lost += seen.lost;
        let sent = seen.paced.attempts as f64;
        let flooded = seen.flood.is_flood() && seen.flood.received > 0 && seen.flood.wrong == 0;
        if !flooded || seen.paced.wrong > 0 || sent < 0.9 * f64::from(RATE) {
            progress
                .note(format!("flood: {:?} beside {:?} does not count", seen.paced, seen.flood));
            for values in [&mut rates, &mut typical, &mut slow] {
                values.push(f64::NAN);
            }
            continue;
        }
        rates.push(mpps(&seen.flood));
        typical.push(median(&seen.times));
        slow.push(percentile(&seen.times, 99));
    }
    if slow.iter().all(|time| time.is_nan()) {
        return Err(LabError::Unexpected("no round had a flood".to_owned()));
    }
    let row = |case, unit, rounds| Measured::new(case, ours.name(), unit, rounds);
    let measured = vec![
        row("flood", "Mpps", rates),
        row("beside a flood", "µs", typical),
        row("beside a flood, p99", "µs", slow),
        row("beside a flood, lost", "datagrams", vec![lost as f64]),
    ];
    detach(&[&ours], guests)?;
    Ok(measured)
}

/// The MAC address of the `n`th VM.
fn mac(n: u8) -> [u8; 6] {
    let [a, b, c, d, e, _] = MACS[0];
    [a, b, c, d, e, n + 1]
}

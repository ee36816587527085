//! Through the base's storage: a sender that rewrites its buffer while the base looks changes nothing.
//!
//! Another thread of the sender swaps source addresses in buffers that the base has been given, all
//! the time. If the base decided about one content and delivered another, forged sources would
//! arrive. As it decides about its own copy, a datagram arrives with the sender's own source, or it
//! is dropped by name.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::frames::{self, datagram_of, pattern, protocol};
use lab::scene::vm;
use virtqueue::driver::{Buffer, DriverMemory, DriverRing};
use virtqueue::{GuestAddress, NetHeader};

use super::checks::{Stage, source};

/// Buffers that are given to the base at once.
const BUFFERS: usize = 32;
/// How long it goes on for each family, at least.
const FOR: Duration = Duration::from_millis(700);
/// How often each outcome must be seen.
const ENOUGH: u64 = 100;
/// How long to wait for that.
const LIMIT: Duration = Duration::from_secs(20);

/// A buffer whose IP header is rewritten: where that lies, and what it alternates between.
struct Victim {
    at: GuestAddress,
    len: u32,
    header: GuestAddress,
    contents: [Vec<u8>; 2],
}

fn victim(memory: &DriverMemory, frames: [Vec<u8>; 2]) -> Victim {
    let start = NetHeader::LEN as u64;
    let len = start + frames[0].len() as u64;
    let at = memory.allocate(len, 64);
    let header = GuestAddress(at.0 + start + 14);
    let [honest, forged] = frames;
    memory.write(GuestAddress(at.0 + start), &honest);
    // As far as the addresses go.
    let head = |frame: Vec<u8>| frame[14..14 + 40].to_vec();
    Victim { at, len: len as u32, header, contents: [head(honest), head(forged)] }
}

fn rewrite(memory: &DriverMemory, victims: &[Victim], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for turn in 0..2 {
            for victim in victims {
                memory.write(victim.header, &victim.contents[turn]);
            }
        }
    }
}

/// Sends the victims round after round while they are rewritten. How many datagrams arrived.
fn race(stage: &mut Stage, own: IpAddr, forged: IpAddr, to: IpAddr) -> u64 {
    let memory = Arc::clone(&stage.w.a.memory);
    let frame = |source| {
        let datagram = frames::datagram(source, to, protocol::EXPERIMENT, pattern(1400));
        stage.w.from_a(&datagram)
    };
    let victims: Vec<_> =
        (0..BUFFERS).map(|_| victim(&memory, [frame(own), frame(forged)])).collect();
    let stop = AtomicBool::new(false);
    let mut arrived = 0;
    let before = stage.w.instance.counters().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| rewrite(&memory, &victims, &stop));
        let start = Instant::now();
        loop {
            arrived += round(stage, &victims, own, to);
            if start.elapsed() < FOR {
                continue;
            }
            let counters = stage.w.instance.counters().unwrap().since(&before);
            let forged = counters.get("vm/a", "drop.source_not_own");
            if arrived >= ENOUGH && forged >= ENOUGH || start.elapsed() > LIMIT {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let counters = stage.w.instance.counters().unwrap().since(&before);
    let refused = counters.get("vm/a", "drop.source_not_own");
    println!("{arrived} arrived, {refused} refused: {:?}", counters.0["vm/a"]);
    // Both were caught, or nothing was shown.
    assert!(arrived >= ENOUGH && refused >= ENOUGH);
    assert_eq!(counters.get("vm/a", "to_vm"), arrived);
    arrived
}

fn round(stage: &mut Stage, victims: &[Victim], own: IpAddr, to: IpAddr) -> u64 {
    let queue = &mut stage.w.a.tx.queue;
    for victim in victims {
        let buffer = Buffer { address: victim.at, len: victim.len };
        queue.add(&[buffer], false, None).unwrap();
    }
    if queue.expose() {
        rustix::io::write(&stage.w.a.kick[1], &1u64.to_ne_bytes()).unwrap();
    }
    let end = Instant::now() + LIMIT;
    let mut arrived = 0;
    while stage.w.a.tx.queue.outstanding() > 0 {
        assert!(Instant::now() < end, "the base gave no buffers back");
        while stage.w.a.tx.queue.take_used().is_some() {}
        std::thread::yield_now();
    }
    while let Some((_, frame)) = stage.w.b.receive(Duration::ZERO).unwrap() {
        let datagram = datagram_of(&frame);
        if datagram.len() < 1400 {
            // The base's own advertisements.
            continue;
        }
        assert_eq!(source(datagram), Some(own), "a forged source arrived");
        let (destination, rest) = match own {
            IpAddr::V4(_) => (IpAddr::from(*datagram[16..].first_chunk::<4>().unwrap()), 20),
            IpAddr::V6(_) => (IpAddr::from(*datagram[24..].first_chunk::<16>().unwrap()), 40),
        };
        assert_eq!(destination, to);
        assert_eq!(datagram[rest..], pattern(1400));
        assert!(own.is_ipv6() || frames::checksum(&[&datagram[..20]]) == 0);
        arrived += 1;
    }
    arrived
}

#[test]
fn what_a_sender_rewrites_behind_the_bases_back_changes_nothing() {
    let mut stage = Stage::jumbo();
    for family in 0..2 {
        let (own, other) = (vm(0)[family], vm(1)[family]);
        for forged in [lab::scene::HOST[family], other] {
            race(&mut stage, own, forged, other);
        }
    }
    stage.end();
}

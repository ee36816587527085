//! A VM that looks for neighbours that are not there: it is told so, and nobody else notices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use lab::driver::Settings;
use lab::exchange::{DriverEnd, Exchange, TapEnd};
use lab::frames::{self, protocol};
use lab::numbered::{Flow, Stream};
use lab::scene::{OUTSIDE, Scene, vm};
use lab::wired::{LIMIT, MACS, Wired, Wiring};

/// Dead addresses of each family.
const DEAD: [usize; 2] = [400, 1000];
/// How long the scan takes, and as long the flows are watched without it.
const WATCHED: Duration = Duration::from_secs(4);
/// Slices of it whose rates are compared by their median: one stall of a busy machine is no rate.
const SLICES: u32 = 8;
/// No flow may stand still so long, on a machine whose cores others want too.
const STILL: Duration = Duration::from_secs(2);
/// A pause between two looks at what is due.
const PAUSE: Duration = Duration::from_millis(5);
/// ICMP errors that one VM may cause: at once, and then a second (`datapath/src/limiter.rs`).
const ERRORS: (u64, u64) = (50, 100);

/// The one in the middle.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Addresses on link that nobody has.
fn dead(family: usize) -> Vec<IpAddr> {
    match family {
        0 => (0..DEAD[0] as u32)
            .map(|i| {
                let first = if i < 200 { [198, 51, 100, 10] } else { [203, 0, 113, 55] };
                IpAddr::V4(Ipv4Addr::from(u32::from_be_bytes(first) + i % 200))
            })
            .collect(),
        _ => (0..DEAD[1] as u16)
            .map(|i| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0xdead, i)))
            .collect(),
    }
}

/// The dead address that an ICMP "unreachable" is about.
fn unreachable(datagram: &[u8]) -> Option<IpAddr> {
    match datagram.first()? >> 4 {
        4 => {
            let told = datagram.get(9) == Some(&protocol::ICMP) && datagram.get(20..22)? == [3, 1];
            let original = datagram.get(28..)?;
            let octets: [u8; 4] = *original.get(16..)?.first_chunk()?;
            told.then_some(IpAddr::V4(octets.into()))
        }
        _ => {
            let told = datagram.get(6) == Some(&protocol::ICMP6) && datagram.get(40..42)? == [1, 3];
            let original = datagram.get(48..)?;
            let octets: [u8; 16] = *original.get(24..)?.first_chunk()?;
            told.then_some(IpAddr::V6(octets.into()))
        }
    }
}

#[test]
fn a_scan_of_dead_addresses_slows_nobody_and_is_told() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    let (once, more) = ("[\"203.0.113.0/24\"", "[\"203.0.113.0/24\", \"198.51.100.0/24\"");
    let wiring = Wiring {
        drivers: [Settings { ring: 512, ..Settings::plain() }; 2],
        table: Some(scene.network().replace(once, more)),
        ..Wiring::default()
    };
    let Wired { a, b, tap, instance, base_mac, card_mac, lan_mac, scene } =
        Wired::on(scene, &wiring).unwrap();
    let mut exchange = Exchange::default();
    let [a, b] = [(a, MACS[0]), (b, MACS[1])]
        .map(|(port, own)| exchange.end(DriverEnd { port, own, base: base_mac }));
    let outside = exchange.end(TapEnd { tap, own: lan_mac, card: card_mac });
    let mut streams = Vec::new();
    for family in [0, 1] {
        let [own, other] = [0, 1].map(|n| vm(n)[family]);
        let lan = OUTSIDE[family];
        for (name, from, to, source, destination) in [
            ("the scanner to the other VM", a, b, own, other),
            ("the other VM to the scanner", b, a, other, own),
            ("the scanner to the LAN", a, outside, own, lan),
            ("the LAN to the scanner", outside, a, lan, own),
            ("the other VM to the LAN", b, outside, other, lan),
            ("the LAN to the other VM", outside, b, lan, other),
        ] {
            // No more on the way than may wait for a neighbour that is not known yet.
            let flow = Flow::new(source, destination, (1000, 2000), 200);
            streams.push((name, exchange.stream(from, to, Stream::new(flow, 8))));
        }
    }
    exchange.run_until_sent(10, LIMIT).unwrap();

    let targets: Vec<Vec<u8>> = [0, 1]
        .into_iter()
        .flat_map(|family| {
            let own = vm(0)[family];
            dead(family).into_iter().map(move |target| {
                let message = frames::udp(own, target, (3000, 33434), &[0; 16]);
                frames::datagram(own, target, protocol::UDP, message)
            })
        })
        .collect();
    // The same loop with the scan and without, in turns: what the test itself costs is in both, and
    // so is what else the machine has to do.
    let (mut told, mut next) = (Vec::new(), 0);
    let mut run = |exchange: &mut Exchange, scan: bool, slice: u32| -> Vec<u64> {
        let sent = |exchange: &mut Exchange| -> Vec<u64> {
            streams.iter().map(|(_, s)| exchange.of(*s).sent).collect()
        };
        let (before, began) = (sent(exchange), Instant::now());
        while began.elapsed() < WATCHED / SLICES {
            // All of them twice in the given time.
            let passed = WATCHED / SLICES * slice + began.elapsed();
            let due = 2.0 * targets.len() as f64 * passed.as_secs_f64() / WATCHED.as_secs_f64();
            while scan && next < due as usize {
                exchange.at(a).put(&targets[next % targets.len()]).unwrap();
                next += 1;
            }
            let pause = Instant::now() + PAUSE;
            exchange
                .run_watching(&mut || Instant::now() >= pause, &mut |end, datagram| {
                    if let Some(about) = unreachable(datagram).filter(|_| end == a) {
                        told.push((about, Instant::now()));
                    }
                })
                .unwrap();
        }
        sent(exchange).iter().zip(before).map(|(after, before)| after - before).collect()
    };
    exchange.begin();
    let (mut quiet, mut scanned) = (Vec::new(), Vec::new());
    for slice in 0..SLICES {
        quiet.push(run(&mut exchange, false, slice));
        scanned.push(run(&mut exchange, true, slice));
    }
    // The last of them end unresolved after their questions have been asked.
    for slice in 0..SLICES {
        run(&mut exchange, false, slice);
    }
    exchange.settle(LIMIT).unwrap();

    let counters = instance.balanced(LIMIT).unwrap();
    let of = |slices: &[Vec<u64>], flows: &[usize]| -> u64 {
        median(slices.iter().map(|slice| flows.iter().map(|i| slice[*i]).sum()).collect())
    };
    for (i, (name, stream)) in streams.iter().enumerate() {
        let (alone, during) = (of(&quiet, &[i]), of(&scanned, &[i]));
        let silence = exchange.of(*stream).tally.take_silence();
        println!("{name}: {alone} a slice without, {during} with; still for {silence:?}");
        exchange.of(*stream).assert_complete(name, 0);
        assert!(during * 2 > alone, "{name}: {alone} without, {during} with");
        assert!(silence < STILL, "{name}: still for {silence:?}");
    }
    // All flows of one VM together are a better measure than one of them.
    for (vm, flows) in [("the scanner", [0, 2, 6, 8]), ("the other VM", [1, 4, 7, 10])] {
        let (alone, during) = (of(&quiet, &flows), of(&scanned, &flows));
        println!("{vm}: {alone} a slice without, {during} with");
        assert!(during * 5 > alone * 3, "{vm}: {alone} without, {during} with");
    }
    assert!(next >= 1000, "only {next} addresses looked for");
    for family in [0, 1] {
        let all = dead(family);
        let of: Vec<_> = told.iter().filter(|(a, _)| a.is_ipv4() == (family == 0)).collect();
        println!("{} of {} told unreachable", of.len(), all.len());
        assert!(of.len() >= 50, "{} told", of.len());
        assert!(of.iter().all(|(a, _)| all.contains(a)), "{of:?}");
    }
    // From the first to the last of them: no more than the limit allows, and not much less.
    let (at_once, a_second) = ERRORS;
    let [first, last] = [told.first(), told.last()].map(|t| t.unwrap().1);
    let allowed = at_once as f64 + a_second as f64 * (last - first).as_secs_f64();
    let told = told.len() as u64;
    println!("{told} told, {allowed:.0} allowed meanwhile");
    assert!((told as f64) < 1.1 * allowed, "{told} told, {allowed:.0} allowed");
    assert!(told as f64 > 0.7 * allowed, "{told} told, {allowed:.0} allowed");
    assert_eq!(counters.get("vm/a", "icmp_errors"), told);
    let limited = counters.get("vm/a", "icmp_limited");
    assert!(limited > 0, "the scan is fast enough to be limited");
    let [unreachable, full] = ["drop.neighbor_unreachable", "drop.neighbor_queue_full"]
        .map(|name| counters.get("vm/a", name));
    assert_eq!(unreachable, told + limited, "each one told, or not told because of the limit");
    assert_eq!(unreachable + full, next as u64, "each datagram of the scan is accounted for");
    for name in ["drop.neighbor_unreachable", "drop.neighbor_queue_full"] {
        assert_eq!(counters.get("vm/b", name), 0, "{name}");
    }
    instance.down().unwrap();
    drop(scene);
}

//! The base is killed under traffic, at moments nobody chose: its successor goes on where it was.
//!
//! Every datagram has a number. What was sent must arrive, byte for byte; a batch that was under way
//! when the base died may arrive twice.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::driver::{Rings, Settings, request};
use lab::exchange::{DriverEnd, Exchange, SocketEnd, TapEnd};
use lab::instance::Instance;
use lab::numbered::{Flow, Stream};
use lab::scene::{HOST, OUTSIDE, Scene, vm};
use lab::wired::{MACS, Wired, Wiring};

const KILLS: u64 = 10;
/// Datagrams that the base handles as one batch.
const BATCH: u64 = 64;
/// Datagrams on their way, less than a ring holds even if a batch comes twice.
const WINDOW: u64 = 200;
const LIMIT: Duration = Duration::from_secs(10);
/// Within which a successor carries datagrams; most do in a tenth of it.
const SOON: Duration = Duration::from_secs(1);

fn wiring() -> Wiring {
    let settings = Settings { ring: 512, ..Settings::plain() };
    Wiring { drivers: [settings; 2], ..Wiring::default() }
}

/// Kills the base again and again while `exchange` goes on; the longest times of standing still.
fn kill_under(exchange: &mut Exchange, instance: &Instance, streams: &[usize]) -> Vec<Duration> {
    let (ended, mut chance) = (AtomicBool::new(false), Chance::fresh());
    exchange.begin();
    scope(|scope| {
        let killer = scope.spawn(|| {
            let mut recovered = Vec::new();
            for _ in 0..KILLS {
                let before = instance.base_process().unwrap();
                sleep(chance.time(Duration::from_millis(20), Duration::from_millis(250)));
                let killed = Instant::now();
                instance.kill_base().unwrap();
                instance.wait_successor(before, LIMIT).unwrap();
                recovered.push(killed.elapsed());
            }
            // What the last one does is part of the test.
            sleep(Duration::from_millis(200));
            ended.store(true, Ordering::Relaxed);
            recovered
        });
        let finished = || killer.is_finished();
        exchange.run(|| ended.load(Ordering::Relaxed) || finished()).unwrap();
        killer.join().unwrap();
    });
    exchange.settle(LIMIT).unwrap();
    streams.iter().map(|&s| exchange.of(s).tally.take_silence()).collect()
}

fn assert_adopted(instance: &Instance) {
    for name in ["vm/a", "vm/b"] {
        instance.wait_event("adopted", name, "").unwrap();
    }
    for event in instance.events().unwrap() {
        let kind = event["kind"].as_str().unwrap();
        assert!(!["renegotiate", "detached", "attached", "ring_broken"].contains(&kind), "{event}");
    }
    assert_eq!(instance.ps().unwrap()["instance"]["takeovers"], KILLS);
}

#[test]
fn between_vms_nothing_is_lost_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    between_vms(Wired::up(&wiring()).unwrap());
}

#[test]
fn between_vms_with_packed_rings_nothing_is_lost_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    // No power of two.
    let settings = Settings { ring: 500, rings: Rings::Packed, ..Settings::plain() };
    let wiring = Wiring { drivers: [settings; 2], ..Wiring::default() };
    between_vms(Wired::up(&wiring).unwrap());
}

#[test]
fn between_vms_with_several_queue_pairs_nothing_is_lost_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    let settings = Settings { ring: 256, pairs: 4, ..Settings::plain() };
    let vms = ["queues = 4", "queues = 8"].map(str::to_owned);
    let wiring = Wiring { drivers: [settings; 2], vms, ..Wiring::default() };
    let mut wired = Wired::up(&wiring).unwrap();
    assert_eq!(wired.a.front_end.ask(request::GET_QUEUE_NUM, &[]).unwrap(), 4);
    assert_eq!(wired.b.front_end.ask(request::GET_QUEUE_NUM, &[]).unwrap(), 8);
    // What came there would be missing: that driver does not look at it any more.
    let last = wired.b.more.pop().unwrap();
    last.enable(&mut wired.b.front_end, false).unwrap();
    flows_between_vms(wired, 8);
}

fn between_vms(wired: Wired) {
    flows_between_vms(wired, 1);
}

/// `flows` in each direction and family.
fn flows_between_vms(wired: Wired, flows: u16) {
    let Wired { a, b, instance, base_mac, scene: _scene, .. } = wired;
    let mut exchange = Exchange::default();
    let [a, b] = [(a, MACS[0]), (b, MACS[1])]
        .map(|(port, own)| exchange.end(DriverEnd { port, own, base: base_mac }));
    let mut streams = Vec::new();
    for (family, size) in [(0, 64), (1, 1000)] {
        for (from, to, x, y) in [(a, b, 0, 1), (b, a, 1, 0)] {
            for port in 0..flows {
                let ports = (1000 + port, 2000);
                let flow = Flow::new(vm(x)[family], vm(y)[family], ports, size);
                let window = WINDOW / 2 / u64::from(flows);
                streams.push(exchange.stream(from, to, Stream::new(flow, window)));
            }
        }
    }
    let still = kill_under(&mut exchange, &instance, &streams);
    let (mut sent, mut twice) = (0, 0);
    for &stream in &streams {
        exchange.of(stream).assert_complete("between VMs", KILLS * BATCH);
        sent += exchange.of(stream).sent;
        twice += exchange.of(stream).tally.duplicates();
    }
    println!("{sent} datagrams, {twice} came twice, longest times without any: {still:?}");
    assert!(sent > 10_000, "only {sent} datagrams");
    assert!(still.iter().all(|t| *t < SOON), "nothing was carried for {still:?}");
    assert!(twice <= KILLS * BATCH, "{twice} came twice");
    assert_adopted(&instance);
    let counters = instance.counters().unwrap();
    for owner in ["vm/a", "vm/b"] {
        assert_eq!(counters.get(owner, "port_renegotiated"), 0);
    }
    instance.down().unwrap();
}

#[test]
fn between_a_vm_and_the_lan_nothing_is_lost_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    kill_between_vm_and_lan(Wired::up(&wiring()).unwrap());
}

#[test]
fn by_af_xdp_nothing_is_lost_between_a_vm_and_the_lan_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    let wiring = Wiring { table: Some(scene.network_by(Some("xdp"))), ..wiring() };
    let wired = Wired::on(scene, &wiring).unwrap();
    let told = wired.instance.wait_event("driver", "network/lan", "AF_XDP carries").unwrap();
    assert_eq!(told["level"], "info", "{told}");
    kill_between_vm_and_lan(wired);
}

fn kill_between_vm_and_lan(wired: Wired) {
    let Wired { a, b: _b, tap, instance, base_mac, card_mac, lan_mac, scene: _scene } = wired;
    let mut exchange = Exchange::default();
    let a = exchange.end(DriverEnd { port: a, own: MACS[0], base: base_mac });
    let outside = exchange.end(TapEnd { tap, own: lan_mac, card: card_mac });
    // The neighbour is found first: what waits for it is few by rule.
    for family in [0, 1] {
        let flow = Flow::new(vm(0)[family], OUTSIDE[family], (1, 2), 64);
        exchange.stream(a, outside, Stream::new(flow, 4));
    }
    exchange.run_until_sent(5, LIMIT).unwrap();
    exchange.settle(LIMIT).unwrap();
    let mut streams = Vec::new();
    for (family, size) in [(0, 64), (1, 1000)] {
        let (vm, lan) = (vm(0)[family], OUTSIDE[family]);
        for (from, to, source, destination) in [(a, outside, vm, lan), (outside, a, lan, vm)] {
            let flow = Flow::new(source, destination, (1000, 2000), size);
            streams.push(exchange.stream(from, to, Stream::new(flow, WINDOW / 4)));
        }
    }
    let still = kill_under(&mut exchange, &instance, &streams);
    let counters = instance.counters().unwrap();
    assert_eq!(counters.get("uplink/lan", "drop.uplink_ring_full"), 0);
    let (mut sent, mut twice) = (0, 0);
    for &stream in &streams {
        exchange.of(stream).assert_complete("VM and LAN", KILLS * BATCH);
        sent += exchange.of(stream).sent;
        twice += exchange.of(stream).tally.duplicates();
    }
    println!("{sent} datagrams, {twice} came twice, longest times without any: {still:?}");
    assert!(sent > 2_000, "only {sent} datagrams");
    assert!(still.iter().all(|t| *t < SOON), "nothing was carried for {still:?}");
    assert!(twice <= KILLS * BATCH, "{twice} came twice");
    assert_adopted(&instance);
    instance.down().unwrap();
}

#[test]
fn between_a_vm_and_the_host_nothing_is_lost_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    let Wired { a, b: _b, instance, base_mac, scene, .. } = Wired::up(&wiring()).unwrap();
    let mut exchange = Exchange::default();
    let a = exchange.end(DriverEnd { port: a, own: MACS[0], base: base_mac });
    let mut streams = Vec::new();
    for (family, size) in [(0, 64), (1, 1000)] {
        let (vm, host) = (vm(0)[family], HOST[family]);
        let [out, back] =
            [(vm, host), (host, vm)].map(|(s, d)| Flow::new(s, d, (1000, 1000), size).by_data());
        let [own, other] = [host, vm].map(|ip| SocketAddr::new(ip, 1000));
        let socket = SocketEnd::new(&scene.host, own, other, &back).unwrap();
        let host = exchange.end(socket);
        streams.push(exchange.stream(a, host, Stream::new(out, WINDOW / 4)));
        streams.push(exchange.stream(host, a, Stream::new(back, WINDOW / 4)));
    }
    let still = kill_under(&mut exchange, &instance, &streams);
    let (mut sent, mut twice) = (0, 0);
    for &stream in &streams {
        exchange.of(stream).assert_complete("VM and host", KILLS * BATCH);
        sent += exchange.of(stream).sent;
        twice += exchange.of(stream).tally.duplicates();
    }
    println!("{sent} datagrams, {twice} came twice, longest times without any: {still:?}");
    assert!(sent > 2_000, "only {sent} datagrams");
    assert!(still.iter().all(|t| *t < SOON), "nothing was carried for {still:?}");
    assert!(twice <= KILLS * BATCH, "{twice} came twice");
    assert_adopted(&instance);
    instance.down().unwrap();
}

//! Drivers nobody here wrote: DPDK's testpmd on two external ports.
//!
//! What testpmd says it sent is what testpmd says it received, and what the base says it dropped,
//! by name. The drivers are killed and come back, the base is killed and comes back.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::instance::{Counters, Instance};
use lab::netns::Netns;
use lab::scene::vm;
use lab::testpmd::{Options, Statistics, Testpmd};

const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];
const NAMES: [&str; 2] = ["a", "b"];
const OWNERS: [&str; 2] = ["vm/a", "vm/b"];
const LIMIT: Duration = Duration::from_secs(20);
/// How soon a driver that starts, or goes on, must carry datagrams.
const SOON: Duration = Duration::from_secs(1);
/// Datagrams that a driver handles as one batch.
const BURST: u32 = 256;
/// Datagrams that the base handles as one batch.
const BATCH: u64 = 64;
/// Drops that a driver can cause by not being there or not giving buffers.
const RECEIVER: [&str; 3] = ["drop.rx_no_buffer", "drop.rx_port_down", "drop.rx_port_broken"];

/// Who opens the connection between base and front end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    FrontEnd,
    Base,
}

/// A base with two external ports, without a card.
struct House {
    instance: Instance,
    opener: Opener,
    sockets: [PathBuf; 2],
    _space: Netns,
    _dir: tempfile::TempDir,
}

impl House {
    fn up(opener: Opener) -> Self {
        let (space, dir) = (Netns::new().unwrap(), tempfile::tempdir().unwrap());
        let sockets = NAMES.map(|name| dir.path().join(name));
        let mut config = "[network.lan]\nprefixes = [\"203.0.113.0/24\"]\n".to_owned();
        for (number, name) in (0u8..).zip(NAMES) {
            let index = usize::from(number);
            let path = format!("\"{}\"", sockets[index].display());
            let socket = match opener {
                Opener::FrontEnd => path,
                Opener::Base => format!("{{ connect = {path} }}"),
            };
            config.push_str(&format!(
                "[vm.{name}]\nengine = \"external\"\nsocket = {socket}\nmac = \"{}\"\n\
                 addresses = [\"{}\"]\n",
                MACS[index],
                vm(number)[0]
            ));
        }
        let instance = Instance::up_fast(&space, &config).unwrap();
        Self { instance, opener, sockets, _space: space, _dir: dir }
    }

    /// Driver number `n` in a mode; it sends to the other one.
    fn options(&self, n: usize, mode: &str, ring: u16) -> Options {
        let (own, other) = (n as u8, 1 - n as u8);
        let more = if self.opener == Opener::Base { ",server=1" } else { "" };
        Options::new(mode, n)
            .ring(ring)
            .virtio_user(&self.sockets[n], MACS[n], more)
            .argument(&format!("--tx-ip={},{}", vm(own)[0], vm(other)[0]))
    }

    fn start(&self, n: usize, mode: &str, ring: u16) -> Testpmd {
        if self.opener == Opener::Base {
            // A predecessor that was killed left its socket behind.
            let _ = std::fs::remove_file(&self.sockets[n]);
        }
        let options = self.options(n, mode, ring).argument(&format!("--burst={BURST}"));
        Testpmd::run(&options).unwrap()
    }
}

fn both(drivers: &mut [Testpmd; 2]) -> [Statistics; 2] {
    drivers.each_mut().map(|d| d.statistics(0).unwrap())
}

fn sent(of: &[Statistics; 2]) -> u64 {
    of.iter().map(|s| s.tx_packets).sum()
}

fn received(of: &[Statistics; 2]) -> u64 {
    of.iter().map(|s| s.rx_packets).sum()
}

/// Everything the base dropped by name; each name must be one of the receiver's.
fn dropped(counters: &Counters) -> u64 {
    let mut sum = 0;
    for owner in OWNERS {
        for (name, count) in counters.0[owner].iter().filter(|(n, _)| n.starts_with("drop.")) {
            assert!(*count == 0 || RECEIVER.contains(&name.as_str()), "{owner}: {name} {count}");
            sum += count;
        }
    }
    sum
}

/// Stops both drivers and lets them take what still lies in their rings.
fn drain(drivers: &mut [Testpmd; 2]) -> [Statistics; 2] {
    for driver in drivers.iter_mut() {
        driver.stop().unwrap();
    }
    for driver in drivers.iter_mut() {
        driver.set_mode("rxonly").unwrap();
        driver.forward().unwrap();
    }
    let mut before = both(drivers);
    loop {
        sleep(Duration::from_millis(300));
        let now = both(drivers);
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Waits for `driver` to receive more than `before`; how long it took since `since`.
fn until_more(driver: &mut Testpmd, before: u64, since: Instant) -> Duration {
    loop {
        if driver.statistics(0).unwrap().rx_packets > before {
            return since.elapsed();
        }
        assert!(since.elapsed() < LIMIT, "nothing comes any more");
    }
}

fn list(times: &[Duration]) -> String {
    let shown: Vec<_> = times.iter().map(|t| t.as_millis().to_string()).collect();
    shown.join(" ")
}

#[test]
fn ten_million_datagrams_are_received_or_dropped_by_name() {
    const MANY: u64 = 10_000_000;
    let _alone = lab::paths::alone().unwrap();
    let house = House::up(Opener::FrontEnd);
    let mut drivers = [0, 1].map(|n| house.start(n, "5tswap", 8192));
    let start = Instant::now();
    drivers[1].forward().unwrap();
    drivers[0].forward_after_sending(16).unwrap();
    while sent(&both(&mut drivers)) < MANY {
        assert!(start.elapsed() < Duration::from_secs(180), "{:?}", both(&mut drivers));
        sleep(Duration::from_millis(200));
    }
    let swung = start.elapsed();
    // One sends as fast as it can, and more than the other has buffers for.
    drivers.iter_mut().for_each(|d| d.stop().unwrap());
    drivers[0].set_mode("txonly").unwrap();
    drivers[1].set_mode("rxonly").unwrap();
    drivers.iter_mut().for_each(|d| d.forward().unwrap());
    sleep(Duration::from_secs(1));
    let seen = drain(&mut drivers);
    let counters = house.instance.balanced(LIMIT).unwrap();
    println!(
        "{} sent, {} received, {} dropped by name; the first {MANY} in {} ms",
        sent(&seen),
        received(&seen),
        dropped(&counters),
        swung.as_millis()
    );
    assert_eq!(sent(&seen), received(&seen) + dropped(&counters));
    for (n, other) in [(0, 1), (1, 0)] {
        let (own, others) = (OWNERS[n], OWNERS[other]);
        assert_eq!(counters.get(own, "taken"), seen[n].tx_packets, "{own}");
        assert_eq!(counters.get(own, "to_vm"), seen[n].tx_packets, "{own}");
        assert_eq!(counters.get(others, "delivered"), seen[other].rx_packets, "{others}");
        let lacked: u64 = RECEIVER.iter().map(|name| counters.get(others, name)).sum();
        assert_eq!(seen[n].tx_packets, seen[other].rx_packets + lacked, "{own}");
    }
    house.instance.down().unwrap();
}

/// Kills one driver and starts it again, 20 times; each time traffic must flow at once.
fn come_and_go(opener: Opener) {
    const TIMES: usize = 20;
    let house = House::up(opener);
    let modes = ["txonly", "rxonly"];
    let mut drivers = [0, 1].map(|n| Some(house.start(n, modes[n], 1024)));
    drivers.iter_mut().flatten().for_each(|d| d.forward().unwrap());
    let mut times = Vec::new();
    for time in 0..TIMES {
        let n = time % 2;
        drivers[n] = None;
        let mut driver = house.start(n, modes[n], 1024);
        let since = Instant::now();
        driver.forward().unwrap();
        drivers[n] = Some(driver);
        let receiver = drivers[1].as_mut().unwrap();
        let before = if n == 1 { 0 } else { receiver.statistics(0).unwrap().rx_packets };
        times.push(until_more(receiver, before, since));
    }
    println!("traffic after ms: {}", list(&times));
    assert!(times.iter().all(|t| *t < SOON), "{times:?}");
    // Nobody's fault but the driver's that went.
    dropped(&house.instance.balanced(LIMIT).unwrap());
    house.instance.down().unwrap();
}

#[test]
fn drivers_that_are_killed_come_back_and_pass_traffic_at_once() {
    let _alone = lab::paths::alone().unwrap();
    come_and_go(Opener::FrontEnd);
}

#[test]
fn drivers_that_listen_are_connected_to_again_and_again() {
    let _alone = lab::paths::alone().unwrap();
    come_and_go(Opener::Base);
}

#[test]
fn stock_drivers_notice_nothing_when_the_base_is_killed() {
    const KILLS: u64 = 10;
    /// As many datagrams swing between the two.
    const BURSTS: u32 = 4;
    let _alone = lab::paths::alone().unwrap();
    let mut chance = Chance::fresh();
    let house = House::up(Opener::FrontEnd);
    let mut drivers = [0, 1].map(|n| house.start(n, "5tswap", 8192));
    drivers[1].forward().unwrap();
    drivers[0].forward_after_sending(BURSTS).unwrap();
    let mut times = Vec::new();
    for _ in 0..KILLS {
        sleep(chance.time(Duration::from_millis(50), Duration::from_millis(400)));
        let before = house.instance.kill_base().unwrap();
        let since = Instant::now();
        // What already lay in its ring comes in any case; more than that was carried.
        let lies = drivers[1].statistics(0).unwrap().rx_packets + u64::from(BURSTS * BURST);
        times.push(until_more(&mut drivers[1], lies, since));
        house.instance.wait_successor(before, LIMIT).unwrap();
    }
    let seen = drain(&mut drivers);
    let counters = house.instance.counters().unwrap();
    let (sent, received, dropped) = (sent(&seen), received(&seen), dropped(&counters));
    println!(
        "{sent} sent, {received} received, {dropped} dropped; again after ms: {}",
        list(&times)
    );
    assert!(received + dropped >= sent, "{} lost", sent - received - dropped);
    assert!(received + dropped <= sent + KILLS * BATCH, "more than a batch came twice");
    // Three programs share two cores here; `takeover` measures how long nothing is carried.
    assert!(times.iter().all(|t| *t < 3 * SOON), "{times:?}");
    assert_eq!(house.instance.ps().unwrap()["instance"]["takeovers"], KILLS);
    for owner in OWNERS {
        house.instance.wait_event("adopted", owner, "").unwrap();
    }
    for event in house.instance.events().unwrap() {
        let kind = event["kind"].as_str().unwrap();
        assert!(!["renegotiate", "detached", "attached", "ring_broken"].contains(&kind), "{event}");
    }
    house.instance.down().unwrap();
}

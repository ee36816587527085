//! Drivers nobody here wrote: DPDK's testpmd on two external ports.
//!
//! What testpmd says it sent is what testpmd says it received, and what the base says it dropped,
//! by name. The drivers are killed and come back, the base is killed and comes back.
//!
//! testpmd numbers nothing, so here a kill's account is a sum: what it repeats and what it loses are
//! told apart by direction only. `takeover` shows the same of every single datagram.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, UNIX_EPOCH};

use lab::chance::Chance;
use lab::command::wait_until;
use lab::driver::Rings;
use lab::instance::{Counters, Instance};
use lab::netns::Netns;
use lab::scene::vm;
use lab::testpmd::{Options, Statistics, Testpmd};

const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];
const NAMES: [&str; 2] = ["a", "b"];
const OWNERS: [&str; 2] = ["vm/a", "vm/b"];
const LIMIT: Duration = Duration::from_secs(20);
/// How long a driver's own start may take: it locks half a gigabyte of memory.
const START: Duration = Duration::from_secs(60);
/// How soon a driver that starts, or goes on, must carry datagrams.
const SOON: Duration = Duration::from_secs(1);
/// Datagrams that a driver handles as one batch.
const BURST: u32 = 256;
/// Datagrams that the base handles as one batch.
const BATCH: u64 = 64;
/// The driver's rings are packed.
const PACKED: &str = ",packed_vq=1";
/// They are not.
const SPLIT: &str = "";
/// Drops that a driver can cause by not being there or not giving buffers.
const RECEIVER: [&str; 3] = ["drop.rx_no_buffer", "drop.rx_port_down", "drop.rx_port_broken"];

/// Who opens the connection between base and front end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    FrontEnd,
    Base,
}

/// One of each: what is shown of both drivers is shown of both ways to connect.
const EITHER: [Opener; 2] = [Opener::FrontEnd, Opener::Base];

/// A base with two external ports, without a card.
struct House {
    instance: Instance,
    openers: [Opener; 2],
    sockets: [PathBuf; 2],
    /// More of the drivers' options.
    options: &'static str,
    _space: Netns,
    _dir: tempfile::TempDir,
}

impl House {
    fn up(openers: [Opener; 2]) -> Self {
        let (space, dir) = (Netns::new().unwrap(), tempfile::tempdir().unwrap());
        let sockets = NAMES.map(|name| dir.path().join(name));
        let mut config = "[network.lan]\nprefixes = [\"203.0.113.0/24\"]\n".to_owned();
        for (number, name) in (0u8..).zip(NAMES) {
            let index = usize::from(number);
            let path = format!("\"{}\"", sockets[index].display());
            let socket = match openers[index] {
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
        // What a driver has negotiated is told at this level.
        let environment = vec![("IPVISOR_LOG", "debug".into())];
        let program = lab::paths::ipvisor_with_faults().unwrap();
        let instance = Instance::up_by(&program, &space, &config, environment).unwrap();
        let options = match Rings::chosen() {
            Rings::Split => SPLIT,
            Rings::Packed => PACKED,
        };
        Self { instance, openers, sockets, options, _space: space, _dir: dir }
    }

    /// The drivers' options: `,packed_vq=1` ...
    fn with(mut self, options: &'static str) -> Self {
        self.options = options;
        self
    }

    /// Driver number `n` in a mode; it sends to the other one.
    fn options(&self, n: usize, mode: &str, ring: u16) -> Options {
        let (own, other) = (n as u8, 1 - n as u8);
        let server = if self.openers[n] == Opener::Base { ",server=1" } else { "" };
        let more = format!("{server}{}", self.options);
        Options::new(mode, n)
            .ring(ring)
            .virtio_user(&self.sockets[n], MACS[n], &more)
            .argument(&format!("--tx-ip={},{}", vm(own)[0], vm(other)[0]))
    }

    fn start(&self, n: usize, mode: &str, ring: u16) -> Testpmd {
        self.start_timed(n, mode, ring).0
    }

    /// Starts driver number `n` and waits for its prompt; also how long the base took to connect to
    /// a driver that listens.
    fn start_timed(&self, n: usize, mode: &str, ring: u16) -> (Testpmd, Duration) {
        let listens = self.openers[n] == Opener::Base;
        if listens {
            // A predecessor that was killed left its socket behind.
            let _ = std::fs::remove_file(&self.sockets[n]);
        }
        let options = self.options(n, mode, ring).argument(&format!("--burst={BURST}"));
        let mut driver = Testpmd::start(&options).unwrap();
        driver.wait_ready(START).unwrap();
        let took = if listens { self.connected_after(n) } else { Duration::ZERO };
        (driver, took)
    }

    /// How long after driver number `n` began to listen the base was connected to it: by the times
    /// of its socket and of the event, so that the driver's own start counts for nothing.
    fn connected_after(&self, n: usize) -> Duration {
        let made = std::fs::metadata(&self.sockets[n]).unwrap().modified().unwrap();
        let made = made.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let last = || {
            let events = self.instance.events().unwrap();
            let ours =
                events.iter().filter(|e| e["kind"] == "attached" && e["subject"] == OWNERS[n]);
            ours.filter_map(|e| e["at"].as_u64()).filter(|at| *at >= made).max()
        };
        let what = || format!("an event that the base is attached to {}", OWNERS[n]);
        let attached = wait_until(LIMIT, what, || Ok(last())).unwrap();
        Duration::from_millis(attached - made)
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

/// Lets both drivers, which have stopped, take what still lies in their rings.
fn drain(drivers: &mut [Testpmd; 2]) -> [Statistics; 2] {
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

/// The one in the middle.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn list(times: &[Duration]) -> String {
    let shown: Vec<_> = times.iter().map(|t| t.as_millis().to_string()).collect();
    shown.join(" ")
}

#[test]
fn packed_rings_carry_everything_or_drop_it_by_name() {
    let _alone = lab::paths::alone().unwrap();
    for options in [
        PACKED,
        ",packed_vq=1,mrg_rxbuf=0,in_order=0",
        ",packed_vq=1,in_order=0",
        ",packed_vq=1,mrg_rxbuf=0",
    ] {
        let house = House::up(EITHER).with(options);
        let mut drivers = [0, 1].map(|n| house.start(n, "5tswap", 1024));
        assert!(packed(&house) >= 2, "{options}: {}", house.instance.messages());
        drivers[1].forward().unwrap();
        drivers[0].forward_after_sending(2).unwrap();
        let start = Instant::now();
        while sent(&both(&mut drivers)) < 200_000 {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{options}: {:?}",
                both(&mut drivers)
            );
            sleep(Duration::from_millis(100));
        }
        drivers.iter_mut().for_each(|d| d.stop().unwrap());
        let seen = drain(&mut drivers);
        let counters = house.instance.balanced(LIMIT).unwrap();
        println!("{options}: {} sent, {} received", sent(&seen), received(&seen));
        assert_eq!(sent(&seen), received(&seen) + dropped(&counters), "{options}");
        for owner in OWNERS {
            assert_eq!(counters.get(owner, "port_renegotiated"), 0, "{options}");
        }
        house.instance.down().unwrap();
    }
}

#[test]
fn ten_million_datagrams_are_received_or_dropped_by_name() {
    const MANY: u64 = 10_000_000;
    let _alone = lab::paths::alone().unwrap();
    let house = House::up(EITHER);
    let mut drivers = [0, 1].map(|n| house.start(n, "5tswap", 8192));
    let start = Instant::now();
    drivers[1].forward().unwrap();
    drivers[0].forward_after_sending(16).unwrap();
    while sent(&both(&mut drivers)) < MANY {
        assert!(start.elapsed() < Duration::from_secs(180), "{:?}", both(&mut drivers));
        sleep(Duration::from_millis(200));
    }
    let swung = start.elapsed();
    // One sends as fast as it can, to another that takes nothing: more than it has buffers for.
    drivers.iter_mut().for_each(|d| d.stop().unwrap());
    drivers[0].set_mode("txonly").unwrap();
    drivers[0].forward().unwrap();
    sleep(Duration::from_secs(1));
    drivers[0].stop().unwrap();
    let seen = drain(&mut drivers);
    let counters = house.instance.balanced(LIMIT).unwrap();
    println!(
        "{} sent, {} received, {} dropped by name; the first {MANY} in {} ms",
        sent(&seen),
        received(&seen),
        dropped(&counters),
        swung.as_millis()
    );
    assert!(dropped(&counters) > 0, "nothing was dropped: then the sum shows nothing of drops");
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

/// Kills one driver and starts it again, 20 times; each time the base must be there at once, and
/// traffic must flow at once.
fn come_and_go(opener: Opener) {
    const TIMES: usize = 20;
    let house = House::up([opener; 2]);
    let modes = ["txonly", "rxonly"];
    let mut drivers = [0, 1].map(|n| Some(house.start(n, modes[n], 1024)));
    drivers.iter_mut().flatten().for_each(|d| d.forward().unwrap());
    let (mut connected, mut times) = (Vec::new(), Vec::new());
    for time in 0..TIMES {
        let n = time % 2;
        drivers[n] = None;
        let (mut driver, took) = house.start_timed(n, modes[n], 1024);
        connected.push(took);
        let since = Instant::now();
        driver.forward().unwrap();
        drivers[n] = Some(driver);
        let receiver = drivers[1].as_mut().unwrap();
        let before = if n == 1 { 0 } else { receiver.statistics(0).unwrap().rx_packets };
        times.push(until_more(receiver, before, since));
    }
    println!("connected after ms: {}", list(&connected));
    println!("traffic after ms: {}", list(&times));
    assert!(connected.iter().all(|t| *t < SOON), "{connected:?}");
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

/// In each direction, how many more were received than sent: from the first to the second driver,
/// and back.
fn surplus(of: &[Statistics; 2]) -> [i64; 2] {
    [(0, 1), (1, 0)].map(|(from, to)| {
        let (sent, received) = (of[from].tx_packets, of[to].rx_packets);
        received.cast_signed() - sent.cast_signed()
    })
}

#[test]
fn stock_drivers_notice_nothing_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    let house = House::up(EITHER).with(SPLIT);
    kill_under(&house, 8192);
    assert_eq!(packed(&house), 0);
    house.instance.down().unwrap();
}

#[test]
fn stock_drivers_with_packed_rings_notice_nothing_when_the_base_is_killed() {
    let _alone = lab::paths::alone().unwrap();
    let house = House::up(EITHER).with(PACKED);
    kill_under(&house, 8192);
    assert!(packed(&house) >= 2, "{}", house.instance.messages());
    house.instance.down().unwrap();
}

/// How often a driver has taken packed rings, by what the base logs.
fn packed(house: &House) -> usize {
    const RING_PACKED: u64 = 1 << 34;
    let log = house.instance.messages();
    let negotiated = log.lines().filter(|line| line.contains("negotiated"));
    let digits = negotiated.filter_map(|line| line.split("0x").nth(1));
    let features = digits.filter_map(|text| {
        let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
        u64::from_str_radix(&text[..end], 16).ok()
    });
    features.filter(|features| features & RING_PACKED != 0).count()
}

/// Kills the base again and again under two drivers that play datagrams to each other, over rings of
/// `ring` descriptors.
fn kill_under(house: &House, ring: u16) {
    const KILLS: u64 = 10;
    /// As many datagrams swing between the two.
    const BURSTS: u32 = 4;
    let mut chance = Chance::fresh();
    let mut drivers = [0, 1].map(|n| house.start(n, "5tswap", ring));
    let (mut times, mut twice) = (Vec::new(), Vec::new());
    let mut before = [0, 0];
    for _ in 0..KILLS {
        drivers[1].forward().unwrap();
        drivers[0].forward_after_sending(BURSTS).unwrap();
        sleep(chance.time(Duration::from_millis(50), Duration::from_millis(400)));
        let base = house.instance.kill_base().unwrap();
        let since = Instant::now();
        // What already lay in its ring comes in any case; more than that was carried.
        let lies = drivers[1].statistics(0).unwrap().rx_packets + u64::from(BURSTS * BURST);
        times.push(until_more(&mut drivers[1], lies, since));
        house.instance.wait_successor(base, LIMIT).unwrap();

        // Each kill has an account of its own, and each direction: nothing that another kill or the
        // other direction repeats makes up for a loss. One worker has one batch under way when it
        // dies, so only one direction can have got something twice.
        drivers.iter_mut().for_each(|d| d.stop().unwrap());
        let after = surplus(&drain(&mut drivers));
        let grown = [after[0] - before[0], after[1] - before[1]];
        assert!(grown.iter().all(|n| *n >= 0), "lost: {grown:?}, and twice before: {twice:?}");
        assert!(grown.iter().all(|n| *n <= BATCH.cast_signed()), "more than a batch: {grown:?}");
        assert!(grown.contains(&0), "both ways at once: {grown:?}");
        twice.push(grown[0] + grown[1]);
        before = after;
        for driver in &mut drivers {
            driver.stop().unwrap();
            driver.set_mode("5tswap").unwrap();
        }
    }
    let seen = both(&mut drivers);
    let counters = house.instance.counters().unwrap();
    println!(
        "{} sent, {} received; twice after each kill: {twice:?}; again after ms: {}",
        sent(&seen),
        received(&seen),
        list(&times)
    );
    // There were buffers for all of them.
    assert_eq!(dropped(&counters), 0);
    // Three programs share two cores here; `takeover` measures how long nothing is carried.
    assert!(median(times.clone()) < SOON, "{times:?}");
    assert_eq!(house.instance.ps().unwrap()["instance"]["takeovers"], KILLS);
    for owner in OWNERS {
        house.instance.wait_event("adopted", owner, "").unwrap();
    }
    for event in house.instance.events().unwrap() {
        let kind = event["kind"].as_str().unwrap();
        assert!(!["renegotiate", "detached", "attached", "ring_broken"].contains(&kind), "{event}");
    }
}

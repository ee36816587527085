//! Two stock DPDK drivers exchange datagrams through the base; every one is accounted for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::instance::{Counters, Instance};
use lab::netns::Netns;
use lab::scene::vm;
use lab::testpmd::{Options, Statistics, Testpmd};

const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];
/// Any MAC address will do: the base does not look at it.
const BASE: &str = "02:00:00:00:00:ff";
const NAMES: [&str; 2] = ["a", "b"];

/// A network without uplink, and two external VMs on it.
fn up(space: &Netns, socket: fn(&str) -> String) -> Instance {
    let mut config = "[network.inner]\nprefixes = [\"203.0.113.0/24\"]\n".to_owned();
    for (number, name) in (0u8..).zip(NAMES) {
        config.push_str(&format!(
            "\n[vm.{name}]\nengine = \"external\"\nsocket = {}\nmac = \"{}\"\n\
             addresses = [\"{}\"]\n",
            socket(name),
            MACS[usize::from(number)],
            vm(number)[0],
        ));
    }
    Instance::up(space, &config).unwrap()
}

fn listen(name: &str) -> String {
    format!("\"{name}.sock\"")
}

fn connect(name: &str) -> String {
    format!("{{ connect = \"{name}.sock\" }}")
}

/// A driver that swaps source and destination of what it gets, and makes datagrams to the other.
fn driver(instance: &Instance, number: usize, more: &str) -> Options {
    let (own, other) = (vm(number as u8)[0], vm(1 - number as u8)[0]);
    let socket: PathBuf = instance.socket(NAMES[number]);
    Options::new("5tswap", number)
        .ring(4096)
        .virtio_user(&socket, MACS[number], more)
        .peer(0, BASE)
        .argument(&format!("--tx-ip={own},{other}"))
}

fn drops(grown: &Counters) -> u64 {
    let of = |owner: &str| {
        let counters = grown.0.get(owner).into_iter().flatten();
        counters.filter(|(name, _)| name.starts_with("drop.")).map(|(_, n)| n).sum::<u64>()
    };
    NAMES.iter().map(|name| of(&format!("vm/{name}"))).sum()
}

/// What came of letting datagrams swing.
#[derive(Debug)]
struct Account {
    sent: u64,
    received: u64,
    dropped: u64,
}

/// Lets datagrams swing between both drivers while `meanwhile` runs, and then, when all rings are
/// empty, gives what was sent and received by the drivers and dropped by the base, by name.
fn swing(
    instance: &Instance,
    drivers: &mut [Testpmd; 2],
    meanwhile: impl FnOnce(&mut [Testpmd; 2]),
) -> Account {
    let before = instance.counters().unwrap();
    let start: Vec<Statistics> = drivers.iter_mut().map(|d| d.statistics(0).unwrap()).collect();
    drivers[1].forward().unwrap();
    // As much as fits a ring: they take turns on few cores.
    drivers[0].forward_after_sending(100).unwrap();
    meanwhile(drivers);
    // One stops, the other sends back what it still gets; then what lies in the rings is taken.
    for driver in &mut *drivers {
        driver.stop().unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    for driver in &mut *drivers {
        driver.set_mode("rxonly").unwrap();
        driver.forward().unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let dropped = drops(&instance.counters().unwrap().since(&before));
    let mut account = Account { sent: 0, received: 0, dropped };
    for (driver, start) in drivers.iter_mut().zip(&start) {
        driver.stop().unwrap();
        driver.set_mode("5tswap").unwrap();
        let now = driver.statistics(0).unwrap();
        account.sent += now.tx_packets - start.tx_packets;
        account.received += now.rx_packets - start.rx_packets;
        assert_eq!(now.rx_errors, start.rx_errors);
    }
    println!("{account:?}");
    account
}

/// Waits until both drivers together have sent `total`.
fn until_sent(total: u64) -> impl FnOnce(&mut [Testpmd; 2]) {
    move |drivers| {
        let end = Instant::now() + Duration::from_secs(240);
        let sent = |drivers: &mut [Testpmd; 2]| -> u64 {
            drivers.iter_mut().map(|d| d.statistics(0).unwrap().tx_packets).sum()
        };
        let start = sent(drivers);
        while sent(drivers) - start < total {
            assert!(Instant::now() < end, "only {} of {total} sent", sent(drivers) - start);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Account {
    /// Every datagram is accounted for, and most arrived.
    fn check(&self) {
        assert_eq!(self.sent, self.received + self.dropped, "{self:?}");
        assert!(self.received > self.sent / 2, "{self:?}");
    }
}

fn pair(instance: &Instance) -> [Testpmd; 2] {
    [0, 1].map(|n| Testpmd::run(&driver(instance, n, "")).unwrap())
}

#[test]
fn ten_million_datagrams_are_accounted_for_to_the_last() {
    let _alone = lab::paths::alone().unwrap();
    let space = Netns::new().unwrap();
    let instance = up(&space, listen);
    let mut drivers = pair(&instance);
    swing(&instance, &mut drivers, until_sent(10_000_000)).check();
}

#[test]
fn a_driver_that_was_killed_passes_traffic_within_a_second_after_it_is_back() {
    let _alone = lab::paths::alone().unwrap();
    let space = Netns::new().unwrap();
    let instance = up(&space, listen);
    let [mut a, mut b] = pair(&instance);
    for round in 0..20 {
        // Dropped: killed.
        drop(a);
        a = Testpmd::run(&driver(&instance, 0, "")).unwrap();
        let before = b.statistics(0).unwrap().rx_packets;
        b.forward().unwrap();
        let start = Instant::now();
        a.forward_after_sending(8).unwrap();
        while a.statistics(0).unwrap().rx_packets == 0 {
            assert!(start.elapsed() < Duration::from_secs(1), "round {round}: nothing came back");
        }
        assert!(b.statistics(0).unwrap().rx_packets > before, "round {round}");
        b.stop().unwrap();
    }
}

#[test]
fn the_base_connects_to_drivers_that_listen_and_comes_back_to_them() {
    let _alone = lab::paths::alone().unwrap();
    let space = Netns::new().unwrap();
    let instance = up(&space, connect);
    for _ in 0..2 {
        // A driver that was killed leaves its socket behind, and then cannot bind it again.
        for name in NAMES {
            let _ = std::fs::remove_file(instance.socket(name));
        }
        let mut drivers =
            [0, 1].map(|n| Testpmd::start(&driver(&instance, n, ",server=1")).unwrap());
        for driver in &mut drivers {
            driver.wait_ready(Duration::from_secs(20)).unwrap();
        }
        swing(&instance, &mut drivers, until_sent(200_000)).check();
    }
}

#[test]
fn ten_kills_of_the_base_lose_nothing() {
    let _alone = lab::paths::alone().unwrap();
    let space = Netns::new().unwrap();
    let instance = up(&space, listen);
    let mut drivers = pair(&instance);
    let account = swing(&instance, &mut drivers, |_| {
        let mut killed = BTreeSet::new();
        let end = Instant::now() + Duration::from_secs(120);
        while killed.len() < 10 {
            assert!(Instant::now() < end, "only {} bases came and were killed", killed.len());
            // Not in step with anything.
            std::thread::sleep(Duration::from_millis(137 + 61 * killed.len() as u64));
            // While nobody answers a successor is on its way.
            let Ok(process) = instance.base_process() else { continue };
            let pid = rustix::process::Pid::from_raw(process).unwrap();
            if killed.insert(process) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        }
        lab::command::wait_until(
            Duration::from_secs(10),
            || "a successor of the last base".to_owned(),
            || Ok(instance.base_process().ok().filter(|p| !killed.contains(p))),
        )
        .unwrap();
        std::thread::sleep(Duration::from_millis(500));
    });
    // A datagram may come twice when a base dies between delivering it and giving the buffer back.
    assert!(account.received >= account.sent && account.dropped == 0, "{account:?}");
    swing(&instance, &mut drivers, until_sent(100_000)).check();
}

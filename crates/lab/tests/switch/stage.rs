//! Two drivers and a LAN with traffic between all of them, and what is asked of the instance
//! meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use lab::command::Finished;
use lab::driver::Settings;
use lab::exchange::{DriverEnd, Exchange, TapEnd};
use lab::instance::Instance;
use lab::numbered::{Flow, Stream};
use lab::scene::{OUTSIDE, Scene, vm};
use lab::wired::{MACS, Wired, Wiring};
use serde_json::Value;

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Datagrams on their way in one stream.
const WINDOW: u64 = 50;

/// An instance under traffic.
pub struct Stage {
    pub instance: Instance,
    exchange: Exchange,
    streams: Vec<usize>,
    /// The base's MAC address on the last inch.
    pub base_mac: [u8; 6],
    scene: Scene,
}

/// How the instance's command ended.
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Stage {
    /// Two drivers and somebody on the LAN; streams between all of them, both ways, both families.
    pub fn set() -> Self {
        let settings = Settings { ring: 512, ..Settings::plain() };
        let wiring = Wiring { drivers: [settings; 2], ..Wiring::default() };
        let Wired { a, b, tap, instance, base_mac, card_mac, lan_mac, scene, .. } =
            Wired::up(&wiring).unwrap();
        let mut exchange = Exchange::default();
        let [a, b] = [(a, MACS[0]), (b, MACS[1])]
            .map(|(port, own)| exchange.end(DriverEnd { port, own, base: base_mac }));
        let outside = exchange.end(TapEnd { tap, own: lan_mac, card: card_mac });
        // The neighbour is found first: what waits for it is few by rule.
        for family in [0, 1] {
            let flow = Flow::new(vm(0)[family], OUTSIDE[family], (1, 2), 64);
            exchange.stream(a, outside, Stream::new(flow, 4));
        }
        exchange.run_until_sent(5, LIMIT).unwrap();
        exchange.settle(LIMIT).unwrap();
        let mut streams = Vec::new();
        let pairs = [(a, b, vm(0), vm(1)), (a, outside, vm(0), OUTSIDE)];
        for (one, other, here, there) in pairs {
            for (family, size) in [(0, 64), (1, 1000)] {
                let (here, there) = (here[family], there[family]);
                for (from, to, s, d) in [(one, other, here, there), (other, one, there, here)] {
                    let flow = Flow::new(s, d, (1000, 2000), size);
                    streams.push(exchange.stream(from, to, Stream::new(flow, WINDOW)));
                }
            }
        }
        Self { instance, exchange, streams, base_mac, scene }
    }

    /// Host and LAN.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Does `what` while the traffic goes on, and for a while after it.
    pub fn during<T: Send>(&mut self, what: impl FnOnce(&Instance) -> T + Send) -> T {
        let (ended, instance) = (AtomicBool::new(false), &self.instance);
        let exchange = &mut self.exchange;
        let done = scope(|scope| {
            let doer = scope.spawn(|| {
                sleep(Duration::from_millis(50));
                let done = what(instance);
                sleep(Duration::from_millis(200));
                ended.store(true, Ordering::Relaxed);
                done
            });
            exchange.run(|| ended.load(Ordering::Relaxed) || doer.is_finished()).unwrap();
            doer.join().unwrap()
        });
        exchange.settle(LIMIT).unwrap();
        done
    }

    /// Shows that everything that was sent came, and so many at most a second time. How much it was.
    pub fn assert_complete(&mut self, duplicates: u64) -> u64 {
        let (mut sent, mut twice) = (0, 0);
        for &stream in &self.streams {
            let stream = self.exchange.of(stream);
            stream.assert_complete("during switches", duplicates);
            sent += stream.sent;
            twice += stream.tally.duplicates();
        }
        let counters = self.instance.counters().unwrap();
        assert_eq!(counters.get("uplink/lan", "drop.uplink_ring_full"), 0);
        assert!(sent > 1000, "only {sent} datagrams");
        println!("{sent} datagrams, {twice} came twice");
        sent
    }

    /// Shows that no front end had to negotiate anew.
    pub fn assert_unnoticed(&self) {
        for event in self.instance.events().unwrap() {
            let kind = event["kind"].as_str().unwrap();
            assert!(!["renegotiate", "detached"].contains(&kind), "{event}");
        }
    }
}

/// Runs the instance's command.
pub fn say(instance: &Instance, words: &[&str]) -> Said {
    let Finished { status, stdout, stderr } = instance.finish(words).unwrap();
    Said { status: status.code().unwrap_or(-1), out: stdout, err: stderr }
}

/// Runs a command that must succeed.
pub fn ok(instance: &Instance, words: &[&str]) -> String {
    let said = say(instance, words);
    assert_eq!(said.status, 0, "{words:?}: {}\n{}", said.err, instance.messages());
    said.out
}

/// How it came to the base that runs.
pub fn takeover(instance: &Instance) -> Value {
    instance.ps().unwrap()["instance"]["takeover"].clone()
}

/// Rewrites the instance's file and reloads it.
pub fn reload(instance: &Instance, change: impl FnOnce(String) -> String) -> Said {
    let path = instance.config_path();
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(before)).unwrap();
    say(instance, &["reload"])
}

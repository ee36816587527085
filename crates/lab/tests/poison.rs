//! What kills the base twice costs one port, or one frame: everybody else loses nothing, and the port
//! comes back when it is reset.
//!
//! ```text
//!  driver a ══╗          ╔══ the LAN
//!  driver b ══╬══ base ══╣   a, b and the LAN exchange numbered datagrams all the time
//!  driver c ══╝          ╚══ the host
//! ```
//! The base is the build that can be told what to die of (`lab::faults`): of datagrams with certain
//! octets, or of one message. It aborts, which is a death of its own making.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use lab::capture::Tap;
use lab::chance::Chance;
use lab::command::wait_until;
use lab::driver::{DriverPort, FrontEnd, Settings, request};
use lab::exchange::{DriverEnd, Exchange, TapEnd};
use lab::frames::{self, Mac, protocol};
use lab::instance::Instance;
use lab::numbered::{Flow, Stream};
use lab::scene::{HOST, LAN_CARD, OUTSIDE, Scene, vm};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Octets of which the base dies.
const POISON: &[u8; 16] = b"ipvisor poison!!";
/// The base's MAC address on the last inch.
const BASE: Mac = [0x02, 0x69, 0x70, 0x76, 0, 1];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Datagrams on their way in one stream.
const WINDOW: u64 = 50;
/// Datagrams that the base handles as one batch.
const BATCH: u64 = 64;
const LIMIT: Duration = Duration::from_secs(20);

fn mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, 0xa + number]
}

fn settings() -> Settings {
    Settings { ring: 512, ..Settings::plain() }
}

/// A datagram of which the base dies.
fn poison(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let message = frames::udp(source, destination, (666, 666), POISON);
    frames::datagram(source, destination, protocol::UDP, message)
}

/// Everything, with traffic that must not suffer.
struct Stage {
    exchange: Exchange,
    /// The ends of a, b, and the LAN.
    a: usize,
    b: usize,
    outside: usize,
    /// The streams that must not suffer.
    streams: Vec<usize>,
    instance: Instance,
    _scene: Scene,
    _alone: lab::paths::Lock,
}

impl Stage {
    /// With so many ports; a driver is attached to a and b.
    fn up(fault: &str, ports: u8) -> Self {
        let alone = lab::paths::alone().unwrap();
        let scene = Scene::set().unwrap();
        let tap = Tap::open(&scene.outside, LAN_CARD).unwrap();
        let mut config = scene.network();
        for (number, name) in (0..ports).zip(NAMES) {
            let [v4, v6] = vm(number);
            config.push_str(&format!(
                "\n[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\n\
                 mac = \"{}\"\naddresses = [\"{v4}\", \"{v6}\"]\n",
                mac(number).map(|o| format!("{o:02x}")).join(":"),
            ));
        }
        let instance = Instance::up_with_fault(&scene.host, &config, fault).unwrap();
        let mut exchange = Exchange::default();
        let [a, b] = [0, 1].map(|n| exchange.end(driver(&instance, n)));
        let own = lab::netns::mac(&scene.outside, LAN_CARD).unwrap();
        let outside = exchange.end(TapEnd { tap, own, card: scene.card_mac().unwrap() });
        // The neighbour is found first: what waits for it is few by rule.
        let first = Flow::new(vm(0)[0], OUTSIDE[0], (1, 2), 64);
        exchange.stream(a, outside, Stream::new(first, 4));
        exchange.run_until_sent(5, LIMIT).unwrap();
        exchange.settle(LIMIT).unwrap();
        let mut streams = Vec::new();
        for (from, to, source, destination) in [
            (a, b, vm(0)[0], vm(1)[0]),
            (b, a, vm(1)[1], vm(0)[1]),
            (a, outside, vm(0)[0], OUTSIDE[0]),
            (outside, a, OUTSIDE[0], vm(0)[0]),
        ] {
            let flow = Flow::new(source, destination, (1000, 2000), 200);
            streams.push(exchange.stream(from, to, Stream::new(flow, WINDOW)));
        }
        exchange.run_for(Duration::from_millis(200)).unwrap();
        exchange.begin();
        Self { exchange, a, b, outside, streams, instance, _scene: scene, _alone: alone }
    }

    /// Does something while the traffic goes on.
    fn meanwhile<T: Send>(&mut self, work: impl FnOnce(&Instance) -> T + Send) -> T {
        let Self { exchange, instance, .. } = self;
        scope(|scope| {
            let worker = scope.spawn(|| work(instance));
            exchange.run(|| worker.is_finished()).unwrap();
            worker.join().unwrap()
        })
    }

    /// Nobody else has lost anything, or waited for long; so often the base has died.
    fn end(mut self, deaths: u64) {
        self.meanwhile(|_| sleep(Duration::from_millis(300)));
        self.exchange.settle(LIMIT).unwrap();
        for &stream in &self.streams {
            let stream = self.exchange.of(stream);
            stream.assert_complete("the others", deaths * BATCH);
            let silence = stream.tally.take_silence();
            println!("{} datagrams, longest silence {silence:?}", stream.sent);
            assert!(stream.sent > 1000, "only {} datagrams", stream.sent);
        }
        // Nobody had to wait for longer than it takes to start a base.
        let log = self.instance.messages();
        assert_eq!(log.matches("the next is started at once").count() as u64, deaths, "{log}");
        assert!(!log.contains("the next is started in"), "{log}");
        let counters = self.instance.counters().unwrap();
        assert_eq!(counters.get("uplink/lan", "drop.uplink_ring_full"), 0);
        assert_eq!(takeovers(&self.instance), deaths);
        self.instance.down().unwrap();
    }
}

/// The driver of the VM of this number, attached.
fn driver(instance: &Instance, number: u8) -> DriverEnd {
    let socket = instance.socket(NAMES[usize::from(number)]);
    let port = DriverPort::connect(&socket, &settings()).unwrap();
    DriverEnd { port, own: mac(number), base: BASE }
}

fn takeovers(instance: &Instance) -> u64 {
    instance.ps().unwrap()["instance"]["takeovers"].as_u64().unwrap()
}

/// Why the port of this VM is quarantined, if it is.
fn quarantine(instance: &Instance, name: &str) -> Option<String> {
    let ps = instance.ps().unwrap();
    let vms = ps["vms"].as_array().unwrap();
    let vm = vms.iter().find(|vm| vm["name"] == name).unwrap();
    vm.get("quarantine").and_then(Value::as_str).map(str::to_owned)
}

/// Waits until this port, and no other, is quarantined.
fn wait_quarantined(instance: &Instance, name: &str, why: &str) {
    let event = instance.wait_event("quarantined", &format!("vm/{name}"), why).unwrap();
    assert_eq!(event["level"], "error");
    for other in instance.ps().unwrap()["vms"].as_array().unwrap() {
        let other = other["name"].as_str().unwrap();
        assert_eq!(quarantine(instance, other).is_some(), other == name, "{other}");
    }
    let shown = instance.finish(&["ps"]).unwrap().stdout;
    assert!(shown.contains(&format!("`ipvisor port reset {name}` frees it")), "{shown}");
}

fn reset(instance: &Instance, name: &str) -> String {
    let end = instance.finish(&["port", "reset", name]).unwrap();
    assert!(end.status.success(), "{}{}", end.stdout, end.stderr);
    end.stdout
}

#[test]
fn a_datagram_that_kills_costs_its_port_until_that_is_reset_and_then_itself() {
    let mut stage = Stage::up("poison vm", 3);
    let c = stage.exchange.end(driver(&stage.instance, 2));
    let flow = Flow::new(vm(2)[0], vm(1)[0], (3000, 4000), 64);
    let (b, a) = (stage.b, stage.a);
    let stream = stage.exchange.stream(c, b, Stream::new(flow, WINDOW));
    stage.exchange.run_for(Duration::from_millis(100)).unwrap();
    stage.exchange.at(c).put(&poison(vm(2)[0], vm(1)[0])).unwrap();
    stage.meanwhile(|instance| wait_quarantined(instance, "c", "died twice of what it sent"));
    let stuck = stage.exchange.of(stream).sent;
    assert_eq!(takeovers(&stage.instance), 2);
    // What comes for it is dropped by name.
    let to_c = Flow::new(vm(0)[0], vm(2)[0], (5, 5), 64);
    stage.exchange.at(a).put(&to_c.datagram(1)).unwrap();
    stage.meanwhile(|instance| {
        let end = Instant::now() + LIMIT;
        while instance.counters().unwrap().get("vm/c", "drop.rx_port_quarantined") == 0 {
            assert!(Instant::now() < end);
        }
        // The next base knows it too.
        let before = instance.kill_base().unwrap();
        instance.wait_successor(before, LIMIT).unwrap();
        wait_quarantined(instance, "c", "");
    });
    assert_eq!(stage.exchange.of(stream).sent, stuck, "its ring stood still");
    let said = stage.meanwhile(|instance| reset(instance, "c"));
    assert!(said.contains("c's port goes on; it was quarantined because the base died"), "{said}");
    stage.exchange.run_for(Duration::from_millis(300)).unwrap();
    assert!(stage.exchange.of(stream).sent > stuck, "its ring goes on");
    stage.exchange.at(a).put(&to_c.datagram(2)).unwrap();
    let mut came = false;
    let end = Instant::now() + LIMIT;
    let Stage { exchange, .. } = &mut stage;
    while !came {
        assert!(Instant::now() < end);
        let until = Instant::now() + Duration::from_millis(20);
        exchange
            .run_watching(&mut || Instant::now() > until, &mut |at, datagram| {
                came |= at == c && to_c.number(datagram) == Some(2);
            })
            .unwrap();
    }
    assert_eq!(quarantine(&stage.instance, "c"), None);
    assert_eq!(stage.instance.counters().unwrap().get("vm/c", "drop.poison"), 1);
    assert!(reset(&stage.instance, "c").contains("was not quarantined"));
    assert!(!stage.instance.finish(&["port", "reset", "x"]).unwrap().status.success());
    stage.streams.push(stream);
    stage.end(3);
}

#[test]
fn a_frame_that_kills_costs_itself() {
    let mut stage = Stage::up("poison lan", 2);
    let outside = stage.outside;
    for n in 1..=2 {
        stage.exchange.at(outside).put(&poison(OUTSIDE[0], vm(1)[0])).unwrap();
        stage.meanwhile(|instance| {
            instance.wait_event("poison", "network/lan", "frame number").unwrap();
            let end = Instant::now() + LIMIT;
            while instance.counters().unwrap().get("uplink/lan", "drop.poison") < n {
                assert!(Instant::now() < end);
            }
        });
    }
    for name in ["a", "b"] {
        assert_eq!(quarantine(&stage.instance, name), None);
    }
    stage.end(4);
}

#[test]
fn a_datagram_from_the_host_that_kills_costs_itself() {
    let mut stage = Stage::up("poison host", 2);
    let socket = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(HOST[0], 666))?;
        socket.connect(SocketAddr::new(vm(0)[0], 666))?;
        Ok(socket)
    };
    let socket = stage._scene.host.enter(socket).unwrap().unwrap();
    socket.send(POISON).unwrap();
    socket.send(b"harmless").unwrap();
    stage.meanwhile(|instance| {
        instance.wait_event("poison", "network/lan", "from the host").unwrap();
        let end = Instant::now() + LIMIT;
        loop {
            let counters = instance.counters().unwrap();
            let count = |name| counters.get("host/lan", name);
            if count("drop.poison") == 1 && count("to_vm") > 0 {
                break;
            }
            assert!(Instant::now() < end, "{counters:?}");
        }
    });
    stage.end(2);
}

#[test]
fn a_message_that_kills_shuts_its_front_end_out_until_the_port_is_reset() {
    let mut stage = Stage::up("poison message", 3);
    let socket = stage.instance.socket("c");
    let deadly = [1u32, 0xdead].map(u32::to_le_bytes).concat();
    let kill = |stage: &mut Stage| {
        let end = driver(&stage.instance, 2);
        end.port.front_end.send(request::SET_VRING_BASE, 0, &deadly, &[]).unwrap();
        let until = Instant::now() + LIMIT;
        stage
            .exchange
            .run(|| {
                assert!(Instant::now() < until, "the connection stays");
                end.port.front_end.is_closed()
            })
            .unwrap();
    };
    kill(&mut stage);
    stage.meanwhile(|instance| {
        instance.wait_event("renegotiate", "vm/c", "(1 in a row)").unwrap();
        assert_eq!(quarantine(instance, "c"), None);
    });
    kill(&mut stage);
    stage.meanwhile(|instance| {
        wait_quarantined(instance, "c", "SET_VRING_BASE");
        assert!(FrontEnd::connect(&socket, Duration::from_millis(500)).is_err());
        reset(instance, "c");
    });
    let c = stage.exchange.end(driver(&stage.instance, 2));
    let flow = Flow::new(vm(2)[0], vm(1)[0], (3000, 4000), 64);
    let stream = stage.exchange.stream(c, stage.b, Stream::new(flow, WINDOW));
    stage.exchange.run_until_sent(2000, LIMIT).unwrap();
    stage.streams.push(stream);
    stage.end(2);
}

/// A datagram from one end to the other shows that front ends have said all they have to say: else the
/// base would die in the middle of a request, too.
fn said_all(exchange: &mut Exchange, from: usize, source: IpAddr, to: usize, address: IpAddr) {
    let flow = Flow::new(source, address, (3000, 4000), 64);
    exchange.at(from).put(&flow.datagram(0)).unwrap();
    wait_until(LIMIT, || "the first datagram".to_owned(), || exchange.at(to).get()).unwrap();
}

#[test]
fn a_datagram_that_kills_where_it_is_delivered_costs_its_sender_and_not_its_receiver() {
    let mut stage = Stage::up("poison delivery", 4);
    let [c, d] = [2, 3].map(|n| stage.exchange.end(driver(&stage.instance, n)));
    said_all(&mut stage.exchange, c, vm(2)[0], d, vm(3)[0]);
    said_all(&mut stage.exchange, d, vm(3)[0], c, vm(2)[0]);
    stage.exchange.at(c).put(&poison(vm(2)[0], vm(3)[0])).unwrap();
    stage.meanwhile(|instance| {
        wait_quarantined(instance, "c", "died twice of what it sent");
        reset(instance, "c");
    });
    for (from, to, x, y) in [(c, d, 2, 3), (d, c, 3, 2)] {
        let flow = Flow::new(vm(x)[0], vm(y)[0], (3000, 4000), 64);
        stage.streams.push(stage.exchange.stream(from, to, Stream::new(flow, WINDOW)));
    }
    stage.exchange.run_until_sent(2000, LIMIT).unwrap();
    assert_eq!(stage.instance.counters().unwrap().get("vm/c", "drop.poison"), 1);
    stage.end(2);
}

#[test]
fn a_buffer_that_kills_costs_the_receivers_port_until_that_is_reset_and_then_itself() {
    let mut stage = Stage::up("poison buffer", 4);
    let mut end = driver(&stage.instance, 3);
    end.port.rx.may_be_empty = true;
    let d = stage.exchange.end(end);
    let a = stage.a;
    let flow = Flow::new(vm(0)[0], vm(3)[0], (3000, 4000), 64);
    said_all(&mut stage.exchange, a, vm(0)[0], d, vm(3)[0]);
    // All at once, so that the deadly buffer is in the middle of a batch: the first thing that a
    // successor puts into the ring is an advertisement.
    let base = Pid::from_raw(stage.instance.base_process().unwrap()).unwrap();
    kill_process(base, Signal::STOP).unwrap();
    for number in 1..100 {
        stage.exchange.at(a).put(&flow.datagram(number)).unwrap();
    }
    kill_process(base, Signal::CONT).unwrap();
    stage.meanwhile(|instance| {
        wait_quarantined(instance, "d", "while it delivered to index 64");
        reset(instance, "d");
    });
    let stream = stage.exchange.stream(a, d, Stream::new(flow, WINDOW));
    stage.exchange.of(stream).sent = 1000;
    for number in 0..1000 {
        stage.exchange.of(stream).tally.note(number);
    }
    stage.exchange.run_until_sent(2000, LIMIT).unwrap();
    stage.exchange.settle(LIMIT).unwrap();
    assert_eq!(stage.exchange.of(stream).on_the_way(), 0);
    assert_eq!(quarantine(&stage.instance, "d"), None);
    stage.end(2);
}

#[test]
fn a_hundred_kills_from_outside_quarantine_nothing() {
    const KILLS: u64 = 100;
    let mut stage = Stage::up("poison vm", 2);
    stage.meanwhile(|instance| {
        let mut chance = Chance::fresh();
        for _ in 0..KILLS {
            let before = instance.base_process().unwrap();
            sleep(chance.time(Duration::ZERO, Duration::from_millis(50)));
            instance.kill_base().unwrap();
            instance.wait_successor(before, LIMIT).unwrap();
        }
        for name in ["a", "b"] {
            assert_eq!(quarantine(instance, name), None);
        }
        // Of all bases: what one of them suspects is in its own log of events only.
        let log = instance.messages();
        assert!(log.contains("adopted"), "{log}");
        assert!(!log.contains("suspected") && !log.contains("quarantined"), "{log}");
    });
    let counters = stage.instance.counters().unwrap();
    for owner in ["vm/a", "vm/b", "uplink/lan", "host/lan"] {
        assert_eq!(counters.get(owner, "drop.poison"), 0);
    }
    stage.end(KILLS);
}

#[test]
fn a_machine_that_was_suspended_kills_nothing() {
    let mut stage = Stage::up("poison vm", 2);
    let base = stage.instance.base_process().unwrap();
    let both = [stage.instance.holder_process().unwrap(), base];
    let signal = |signal| {
        for process in both {
            kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
        }
    };
    signal(Signal::STOP);
    sleep(Duration::from_secs(10));
    signal(Signal::CONT);
    stage.exchange.begin();
    // Longer than it takes to find that a base has fallen silent.
    stage.meanwhile(|_| sleep(Duration::from_secs(12)));
    assert_eq!(stage.instance.base_process().unwrap(), base);
    stage.end(0);
}

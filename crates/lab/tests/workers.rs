//! Several workers: ports have each their own, are moved between them by command and under traffic, and
//! nothing of it is seen outside.

use std::thread::{scope, sleep};
use std::time::Duration;

use lab::driver::Settings;
use lab::exchange::{DriverEnd, Exchange, TapEnd};
use lab::instance::Instance;
use lab::numbered::{Flow, Stream};
use lab::scene::{OUTSIDE, Scene, vm};
use lab::wired::{MACS, Wired, Wiring};

const MOVES: usize = 20;
const LIMIT: Duration = Duration::from_secs(10);

/// Which worker has the port of each VM.
fn placed(instance: &Instance) -> [u64; 2] {
    let ps = instance.ps().unwrap();
    [0, 1].map(|n| ps["vms"][n]["worker"].as_u64().unwrap_or_else(|| panic!("no worker in {ps}")))
}

fn with_workers(workers: &str) -> Wired {
    let scene = Scene::set().unwrap();
    let table = Some(format!("workers = {workers}\n{}", scene.network()));
    let drivers = [Settings { ring: 512, ..Settings::plain() }; 2];
    Wired::on(scene, &Wiring { drivers, table, ..Wiring::default() }).unwrap()
}

#[test]
fn ports_are_moved_under_traffic_and_nothing_is_lost_or_comes_twice() {
    let _alone = lab::paths::alone().unwrap();
    let Wired { a, b, tap, instance, base_mac, card_mac, lan_mac, scene: _scene } =
        with_workers("2");
    assert_eq!(placed(&instance), [0, 1]);
    let mut exchange = Exchange::default();
    let [a, b] = [(a, MACS[0]), (b, MACS[1])]
        .map(|(port, own)| exchange.end(DriverEnd { port, own, base: base_mac }));
    let outside = exchange.end(TapEnd { tap, own: lan_mac, card: card_mac });
    // The neighbour is found first, by a worker that does not serve the card: what waits for it is few
    // by rule.
    let flow = Flow::new(vm(1)[0], OUTSIDE[0], (1, 2), 64);
    exchange.stream(b, outside, Stream::new(flow, 4));
    exchange.run_until_sent(5, LIMIT).unwrap();
    exchange.settle(LIMIT).unwrap();
    let (vms, lan) = ([vm(0)[0], vm(1)[0]], OUTSIDE[0]);
    let streams = [
        (a, b, vms[0], vms[1]),
        (b, a, vms[1], vms[0]),
        (a, outside, vms[0], lan),
        (outside, a, lan, vms[0]),
        (b, outside, vms[1], lan),
        (outside, b, lan, vms[1]),
    ]
    .map(|(from, to, source, destination)| {
        let flow = Flow::new(source, destination, (1000, 2000), 64);
        exchange.stream(from, to, Stream::new(flow, 50))
    });
    exchange.begin();
    scope(|scope| {
        let moving = scope.spawn(|| {
            for n in 0..MOVES {
                sleep(Duration::from_millis(20));
                let (name, worker) = (["a", "b"][n / 2 % 2], ["1", "0"][n % 2]);
                let moved = instance.finish(&["port", "move", name, worker]).unwrap();
                assert!(moved.status.success(), "{moved:?}");
            }
            sleep(Duration::from_millis(200));
        });
        exchange.run(|| moving.is_finished()).unwrap();
        moving.join().unwrap();
    });
    exchange.settle(LIMIT).unwrap();
    for stream in streams {
        let stream = exchange.of(stream);
        assert!(stream.sent > 500, "only {} datagrams", stream.sent);
        stream.assert_complete("with moves", 0);
    }
    assert_eq!(placed(&instance), [0, 0]);
    // What cannot be is refused, and changes nothing.
    for (words, why) in
        [(["port", "move", "a", "2"], "there is no worker 2"), (["port", "move", "x", "1"], "x")]
    {
        let refused = instance.finish(&words).unwrap();
        assert!(!refused.status.success() && refused.stderr.contains(why), "{refused:?}");
    }
    assert_eq!(placed(&instance), [0, 0]);
    // A successor places them anew.
    let before = instance.kill_base().unwrap();
    instance.wait_successor(before, LIMIT).unwrap();
    assert_eq!(placed(&instance), [0, 1]);
    instance.down().unwrap();
}

#[test]
fn workers_keep_to_their_cores() {
    let _alone = lab::paths::alone().unwrap();
    let Wired { instance, scene: _scene, .. } = with_workers("[1, 0]");
    let tasks = format!("/proc/{}/task", instance.base_process().unwrap());
    let mut found = Vec::new();
    for task in std::fs::read_dir(tasks).unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap();
        let status = std::fs::read_to_string(path.join("status")).unwrap();
        let cores = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
        if name.starts_with("worker") {
            found.push((name.trim().to_owned(), cores.trim().to_owned()));
        }
    }
    found.sort();
    let expected = [("worker", "1"), ("worker 1", "0")];
    assert_eq!(found, expected.map(|(name, core)| (name.to_owned(), core.to_owned())));
    instance.down().unwrap();
}

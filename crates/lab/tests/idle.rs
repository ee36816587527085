//! Nobody polls when nobody talks: idle VMs cost next to no CPU, and their traffic still starts at
//! once.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::driver::Settings;
use lab::exchange::{DriverEnd, Exchange};
use lab::numbered::{Flow, Stream};
use lab::scene::vm;
use lab::wired::{LIMIT, MACS, Wired, Wiring};

/// How long nothing is done.
const QUIET: Duration = Duration::from_secs(10);
/// Of a core, in a thousand.
const ALLOWED: f64 = 5.0;

/// CPU time that all threads of a process have used.
fn used(process: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let one = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(one).sum())
}

#[test]
fn two_idle_vms_cost_next_to_nothing() {
    let _alone = lab::paths::alone().unwrap();
    let wiring = Wiring { drivers: [Settings::plain(); 2], ..Wiring::default() };
    let Wired { a, b, instance, base_mac, scene: _scene, .. } = Wired::up(&wiring).unwrap();
    let mut exchange = Exchange::default();
    let [a, b] = [(a, MACS[0]), (b, MACS[1])]
        .map(|(port, own)| exchange.end(DriverEnd { port, own, base: base_mac }));
    let flow = |x, y| Flow::new(vm(x)[0], vm(y)[0], (1000, 2000), 64);
    let streams = [(a, b, flow(0, 1)), (b, a, flow(1, 0))]
        .map(|(from, to, flow)| exchange.stream(from, to, Stream::new(flow, 64)));
    exchange.run_for(Duration::from_millis(300)).unwrap();
    exchange.settle(LIMIT).unwrap();
    // Probing, announcing and reporting groups end within some seconds of `up`.
    sleep(Duration::from_secs(3));

    let processes = [instance.base_process().unwrap(), instance.holder_process().unwrap()];
    let (start, before) = (Instant::now(), processes.map(used));
    sleep(QUIET);
    let (passed, after) = (start.elapsed(), processes.map(used));
    let [base, holder] = [0, 1].map(|i| after[i] - before[i]);
    let share = 1000.0 * (base + holder).as_secs_f64() / passed.as_secs_f64();
    println!("base {base:?}, holder {holder:?} in {passed:?}: {share:.2} in a thousand of a core");
    assert!(share < ALLOWED, "{share:.2} in a thousand");

    // Asleep, not dead; and busy it is seen to be busy.
    let before = processes.map(used);
    let start = Instant::now();
    exchange.begin();
    exchange.run_for(Duration::from_millis(300)).unwrap();
    exchange.settle(LIMIT).unwrap();
    let busy = (processes.map(used)[0] - before[0]).as_secs_f64() / start.elapsed().as_secs_f64();
    for stream in streams {
        let stream = exchange.of(stream);
        stream.assert_complete("after the rest", 0);
        let silence = stream.tally.take_silence();
        assert!(silence < Duration::from_millis(200), "traffic began after {silence:?}");
    }
    assert!(busy > 0.05, "{busy} of a core under traffic: the measure is wrong");
    instance.down().unwrap();
}

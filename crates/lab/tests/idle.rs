//! Nobody polls when nobody talks: idle VMs cost next to no CPU, and their traffic still starts at
//! once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::driver::Settings;
use lab::exchange::{DriverEnd, Exchange};
use lab::instance::processor_time;
use lab::numbered::{Flow, Stream};
use lab::scene::vm;
use lab::wired::{LIMIT, MACS, Wired, Wiring};

/// How long nothing is done.
const QUIET: Duration = Duration::from_secs(10);
/// Of a core, in a thousand.
const ALLOWED: f64 = 5.0;

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
    let used = || processes.map(|process| processor_time(process).unwrap());
    let (before, start) = (used(), Instant::now());
    sleep(QUIET);
    let (passed, after) = (start.elapsed(), used());
    let [base, holder] = [0, 1].map(|i| after[i] - before[i]);
    let share = 1000.0 * (base + holder).as_secs_f64() / passed.as_secs_f64();
    println!("base {base:?}, holder {holder:?} in {passed:?}: {share:.2} in a thousand of a core");
    assert!(share < ALLOWED, "{share:.2} in a thousand");

    // Asleep, not dead; and busy it is seen to be busy.
    let (before, start) = (used(), Instant::now());
    exchange.begin();
    exchange.run_for(Duration::from_millis(300)).unwrap();
    exchange.settle(LIMIT).unwrap();
    let busy = (used()[0] - before[0]).as_secs_f64() / start.elapsed().as_secs_f64();
    for stream in streams {
        let stream = exchange.of(stream);
        stream.assert_complete("after the rest", 0);
        let silence = stream.tally.take_silence();
        assert!(silence < Duration::from_millis(200), "traffic began after {silence:?}");
    }
    // Other programs may have most of the cores: it is compared with itself.
    assert!(1000.0 * busy > 5.0 * share, "{busy} of a core under traffic: the measure is wrong");
    instance.down().unwrap();
}

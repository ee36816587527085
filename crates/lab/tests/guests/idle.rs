//! Two guests that do nothing: what the base has running for VMs it formed itself (consoles, their
//! emulators' control connections, their processes) costs next to nothing either.

use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::instance::processor_time;
use lab::measure::{Stream, stream};
use lab::scene::{Place, vm};

use crate::stage::{Stage, Turn};

/// How long nothing is done.
const QUIET: Duration = Duration::from_secs(10);
/// Of a core, in a thousand: base and holder together.
const ALLOWED: f64 = 5.0;

#[test]
fn two_idle_guests_cost_the_base_next_to_nothing() {
    let stage = Stage::set_in(Turn::alone(), &[("", ""), ("", "")]).with_addresses();
    // What follows a boot (probing, announcing, reporting groups) ends within some seconds.
    sleep(Duration::from_secs(5));
    let instance = &stage.instance;
    let processes = [instance.base_process().unwrap(), instance.holder_process().unwrap()];
    let used = || processes.map(|process| processor_time(process).unwrap());
    let measure = |during: &dyn Fn()| {
        let (before, start) = (used(), Instant::now());
        during();
        let (passed, after) = (start.elapsed(), used());
        let [base, holder] = [0, 1].map(|i| after[i] - before[i]);
        let share = 1000.0 * (base + holder).as_secs_f64() / passed.as_secs_f64();
        println!("base {base:?}, holder {holder:?} in {passed:?}: {share:.2} in a thousand");
        share
    };
    let idle = measure(&|| sleep(QUIET));
    assert!(idle < ALLOWED, "{idle:.2} in a thousand of a core");

    // Asleep, not dead; and what is measured is what works.
    let (web, db) = (Place::Guest(stage.guest(0)), Place::Guest(stage.guest(1)));
    let busy = measure(&|| {
        stream(web, db, vm(1)[0], Stream::Tcp).unwrap();
    });
    assert!(busy > 3.0 * idle, "{busy:.2} in a thousand under traffic: the measure is wrong");
}

//! `ipvisor down` while guests run: they stop by their power buttons, and nothing is left.

use std::time::{Duration, Instant};

use lab::command::wait_until;
use lab::instance::Instance;
use lab::netns::Snapshot;
use lab::scene::Scene;

use crate::stage::{BOOT, LIMIT, NAMES, Turn, machine, operate, status};

/// Whether a process runs: one that only waits for its parent to take note has ended.
fn lives(process: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn down_stops_the_vms_by_their_power_buttons_and_leaves_nothing() {
    let _turn = Turn::beside_others();
    let scene = Scene::set().unwrap();
    // Until its own kernel has settled, the host looks different every moment.
    let settled = || Ok(scene.host.run("ip -6 addr show tentative")?.is_empty().then_some(()));
    wait_until(LIMIT, String::new, settled).unwrap();
    let before = Snapshot::of(&scene.host).unwrap();
    let keys = "stop_timeout = \"60s\"";
    let config = scene.network() + &machine(0, "", keys) + &machine(1, "", keys);
    let instance = &Instance::up(&scene.host, &config).unwrap();
    for name in NAMES {
        drop(instance.guest(name, BOOT).unwrap());
    }
    let ps = instance.ps().unwrap();
    let holder = ps["instance"]["holder"].as_i64().unwrap();
    let vessels = NAMES.map(|name| status(instance, name)["pid"].as_i64().unwrap());
    let base = i64::from(instance.base_process().unwrap());
    let state = instance.state_dir();
    assert!(state.exists());
    let start = Instant::now();
    operate(instance, &["down"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    for process in vessels.into_iter().chain([holder, base]) {
        assert!(!lives(process), "{process:?} lives");
    }
    assert!(!state.exists());
    let left = Snapshot::of(&scene.host).unwrap().since(&before);
    assert!(left.is_empty(), "{left}");
    assert_eq!(scene.host.processes().unwrap(), []);
}

//! The holder is killed under traffic: the base finds itself another, and nothing is lost.

use std::time::Duration;

use lab::command::wait_until;
use lab::instance::Instance;
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{LIMIT, Stage, takeover};

/// Datagrams that the base handles as one batch, and so may repeat when it is killed.
const BATCH: u64 = 64;

/// Kills the holder, and waits until another has a base of its own; gives its process.
fn kill_holder(instance: &Instance) -> i32 {
    let (holder, base) = (instance.holder_process().unwrap(), instance.base_process().unwrap());
    kill_process(Pid::from_raw(holder).unwrap(), Signal::KILL).unwrap();
    wait_until(
        LIMIT,
        || format!("another holder:\n{}", instance.messages()),
        || {
            let Ok(ps) = instance.ps() else { return Ok(None) };
            let ps = &ps["instance"];
            let another = ps["holder"] != holder && ps["base"] != base;
            Ok(another.then(|| ps["holder"].as_i64().unwrap() as i32))
        },
    )
    .unwrap()
}

#[test]
fn a_holder_that_is_killed_is_replaced_and_nobody_notices() {
    let _alone = lab::paths::alone().unwrap();
    let mut stage = Stage::set();
    stage.during(|instance| {
        let first = kill_holder(instance);
        assert_eq!(takeover(instance)["how"], "switch");
        // The new one does for its base what the old one did.
        let before = instance.kill_base().unwrap();
        instance.wait_successor(before, LIMIT).unwrap();
        assert_eq!(instance.holder_process().unwrap(), first);
        assert_ne!(kill_holder(instance), first);
    });
    stage.assert_complete(BATCH);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

#[test]
fn an_instance_whose_holder_died_ends_like_any_other() {
    let mut stage = Stage::set();
    let dir = stage.instance.state_dir();
    stage.during(|instance| {
        kill_holder(instance);
        std::thread::sleep(Duration::from_millis(100));
    });
    stage.assert_complete(0);
    stage.instance.down().unwrap();
    assert!(!dir.exists());
}

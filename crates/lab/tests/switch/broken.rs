//! Bases that die where they are told to, in the middle of a switch.
//!
//! These tests run themselves again, as a process whose environment names the build that can be told
//! to die, and the file in which it is told (`datapath/src/faults/order.rs`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use lab::command::{finish, wait_until};
use lab::instance::Instance;
use lab::paths;
use serde_json::Value;

use crate::stage::{LIMIT, Stage, reload, say, takeover};

const POINTS: &str = "IPVISOR_FAULT_POINTS";
/// Octets of the file, and of a point in it.
const FILE: u64 = 4096;
const SLOT: u64 = 64;
const ORDER_AT: u64 = 40;
const KILL: u64 = 1;
const ABORT: u64 = 2;
/// Datagrams that the base handles as one batch, and so may repeat when it dies.
const BATCH: u64 = 64;

/// Whether this is the process that has everything; if not, it is run.
fn is_prepared(test: &str) -> bool {
    if std::env::var_os(POINTS).is_some() {
        return true;
    }
    let temp = tempfile::NamedTempFile::new().unwrap();
    temp.as_file().set_len(FILE).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]);
    command.env(paths::INSTEAD, paths::ipvisor_with_faults().unwrap()).env(POINTS, temp.path());
    let end = finish(&mut command).unwrap();
    let text = end.stdout + &end.stderr;
    assert!(end.status.success() && text.contains("1 passed; 0 failed"), "{text}");
    println!("{text}");
    false
}

/// Orders the base to die at a point, the next time that it comes there.
fn order(point: &str, how: u64) {
    let path = PathBuf::from(std::env::var_os(POINTS).unwrap());
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut octets = vec![0; FILE as usize];
    file.read_exact_at(&mut octets, 0).unwrap();
    let slots = octets.chunks(SLOT as usize);
    let is =
        |slot: &[u8]| slot[..ORDER_AT as usize].split(|o| *o == 0).next() == Some(point.as_bytes());
    let number = slots.into_iter().position(is).unwrap_or_else(|| panic!("no point {point}"));
    let order = 1u64 | how << 32;
    file.write_all_at(&order.to_le_bytes(), number as u64 * SLOT + ORDER_AT).unwrap();
}

fn another_mtu(instance: &Instance, mtu: u32) -> crate::stage::Said {
    reload(instance, |text| {
        let rest: Vec<_> = text.lines().filter(|line| !line.starts_with("mtu")).collect();
        rest.join("\n").replacen("[network.lan]", &format!("[network.lan]\nmtu = {mtu}"), 1) + "\n"
    })
}

fn rolled_back(instance: &Instance) -> Value {
    instance.wait_event("rolled_back", "base", "configuration rolled back").unwrap()
}

#[test]
fn a_base_that_dies_adopting_is_followed_by_the_last_good_release() {
    if !is_prepared("broken::a_base_that_dies_adopting_is_followed_by_the_last_good_release") {
        return;
    }
    let mut stage = Stage::set();
    for (point, how) in [("takeover.begun", ABORT), ("takeover.done", KILL)] {
        let said = stage.during(|instance| {
            order(point, how);
            say(instance, &["upgrade"])
        });
        assert_eq!(said.status, 1, "{}", said.out);
        assert!(said.err.contains("the last good release runs again"), "{}", said.err);
        rolled_back(&stage.instance);
        assert_eq!(takeover(&stage.instance)["how"], "back");
    }
    stage.assert_complete(0);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

#[test]
fn a_base_that_dies_at_any_step_of_a_reload_loses_nothing() {
    if !is_prepared("broken::a_base_that_dies_at_any_step_of_a_reload_loses_nothing") {
        return;
    }
    let mut stage = Stage::set();
    for (round, point) in (0..).zip(["reload.accepted", "reload.resting"]) {
        stage.during(|instance| {
            let before = instance.base_process().unwrap();
            order(point, KILL);
            let said = another_mtu(instance, 1400 + round);
            instance.wait_successor(before, LIMIT).unwrap();
            // The one whose copy was written dies before anybody is asked; the one that rests has
            // yielded as good as if it had said so.
            let config = std::fs::read_to_string(instance.config_path()).unwrap();
            println!("{point}: {} {}, {} octets", said.status, said.err, config.len());
            let how = takeover(instance)["how"].clone();
            assert_eq!(how, if point == "reload.resting" { "switch" } else { "death" });
        });
    }
    // The one that dies while it serves may have been in the middle of a batch.
    stage.assert_complete(BATCH);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

#[test]
fn a_configuration_that_kills_the_base_is_rolled_back() {
    if !is_prepared("broken::a_configuration_that_kills_the_base_is_rolled_back") {
        return;
    }
    let mut stage = Stage::set();
    stage.during(|instance| {
        let said = another_mtu(instance, 1400);
        assert_eq!(said.status, 0, "{}", said.err);
        // Twice, as if it were what it carries out: at different places, so that nothing else is
        // taken for the cause.
        for point in ["worker.delivered", "worker.copied"] {
            let before = instance.base_process().unwrap();
            order(point, ABORT);
            wait_until(
                LIMIT,
                || format!("a death at {point}:\n{}", instance.messages()),
                || Ok(instance.base_process().ok().filter(|now| *now != before)),
            )
            .unwrap();
        }
        rolled_back(instance);
        assert_eq!(takeover(instance)["how"], "back");
        let lan = &instance.ps().unwrap()["instance"]["takeovers"];
        assert_eq!(*lan, 3);
    });
    stage.assert_complete(2 * BATCH);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

//! What the holder promises, one test each.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use base::entry::{exit, start_detached};
use base::state_dir::{LockError, StateDir, StateDirError};
use rustix::process::Signal;

use crate::world::{World, kill, lives, pid, program, run, wait_until_gone, wait_until_heard};

#[test]
fn a_killed_base_is_replaced_and_an_instance_told_to_end_leaves_nothing() {
    let mut world = World::start("plain");
    world.wait_for("serving 0");
    let first = world.base();
    kill(first, Signal::KILL);
    world.wait_for("base 1 after Some(Ended(Signaled(9)))");
    world.wait_for("serving 1");
    assert_ne!(world.base(), first);
    let second = world.base();
    let said = world.end_in_order();
    assert!(said.contains("was killed by signal 9: the next is started at once"), "{said}");
    assert!(!lives(second));
}

#[test]
fn a_terminal_that_takes_nothing_holds_up_neither_holder_nor_successor() {
    let (_nobody_reads, write) = rustix::pipe::pipe().unwrap();
    // Full, as behind a pager that is not read on.
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    let mut other = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while other.write(&[0; 4096]).is_ok() {}
    let mut world = World::start_saying("plain", write.into());
    for generation in 0..3 {
        world.wait_for(&format!("serving {generation}"));
        kill(world.base(), Signal::KILL);
    }
    world.wait_for("serving 3");
    world.end_in_order();
}

#[test]
fn six_hundred_descriptors_reach_the_successor_in_pieces() {
    let mut world = World::start("keep-600");
    world.wait_for("serving 0");
    for generation in 1..3 {
        kill(world.base(), Signal::KILL);
        world.wait_for(&format!("serving {generation}"));
    }
    let trace = world.trace();
    let inherited = trace.lines().filter(|l| *l == "inherited 599 right, 0 other").count();
    assert_eq!(inherited, 2, "{trace}");
    world.end_in_order();
}

#[test]
fn what_a_base_registered_in_its_last_moment_is_not_lost() {
    let mut world = World::start("last-words");
    world.wait_for("spoken");
    wait_until_gone(world.base());
    kill(world.holder(), Signal::CONT);
    assert_eq!(world.wait_for("inherited"), "8 late");
    world.end_in_order();
}

#[test]
fn a_vm_process_outlives_its_base_and_the_successor_hears_how_it_ended() {
    let mut world = World::start("vm-outlives-base");
    world.wait_for("serving 1");
    let vm = world.wait_for("vm");
    assert_eq!(world.wait_for("told of"), format!("{vm} Exited(7)"));
    world.end_in_order();
}

#[test]
fn the_end_of_a_vm_process_is_told_to_each_successor_until_one_has_settled_it() {
    let mut world = World::start("vm-ends-between");
    world.wait_for("serving 3");
    let vm = world.wait_for("vm");
    let trace = world.trace();
    let told: Vec<_> = trace.lines().filter_map(|l| l.strip_prefix("told of ")).collect();
    assert_eq!(told, [format!("{vm} Exited(9)")], "{trace}");
    world.end_in_order();
}

#[test]
fn a_base_that_falls_silent_is_killed_and_replaced() {
    let mut world = World::start("silent");
    world.wait_for("base 1 after Some(Silent)");
    world.wait_for("serving 1");
    let said = world.end_in_order();
    assert!(said.contains("has been silent"), "{said}");
}

#[test]
fn a_panic_in_any_thread_ends_the_whole_base() {
    let mut world = World::start("panic");
    world.wait_for("base 1 after Some(Ended(Signaled(6)))");
    world.wait_for("serving 1");
    world.end_in_order();
}

#[test]
fn a_machine_that_stood_still_kills_nothing() {
    let mut world = World::start("plain");
    world.wait_for("serving 0");
    let (holder, base) = (world.holder(), world.base());
    kill(base, Signal::STOP);
    kill(holder, Signal::STOP);
    // Longer than a base may be silent.
    std::thread::sleep(Duration::from_secs(3));
    kill(holder, Signal::CONT);
    kill(base, Signal::CONT);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(world.base(), base);
    assert!(lives(base));
    assert!(!world.trace().contains("base 1"), "{}", world.trace());
    world.end_in_order();
}

#[test]
fn a_wrong_configuration_ends_the_holder_with_status_2_and_leaves_nothing() {
    let mut world = World::start("wrong-configuration");
    let output = world.wait_for_end();
    assert_eq!(output.status.code(), Some(exit::CONFIGURATION.into()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.ends_with("vm.toml:3:5: `cpus` must be a number\n"), "{said}");
    assert!(!world.state().exists());
}

#[test]
fn a_base_that_dies_before_it_ever_served_is_not_started_again() {
    let mut world = World::start("crash-at-start");
    let output = world.wait_for_end();
    assert_eq!(output.status.code(), Some(exit::FAILED.into()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("was killed by signal 6 while it was starting"), "{said}");
    assert_eq!(world.trace().lines().count(), 1, "{}", world.trace());
    assert!(!world.state().exists());
}

#[test]
fn a_second_instance_in_the_same_directory_is_refused_and_told_who_has_it() {
    let mut world = World::start("plain");
    world.wait_for("serving 0");
    let holder = world.holder().as_raw_pid().unsigned_abs();
    match world.second() {
        Err(StateDirError::Lock(LockError::Held { process, .. })) => {
            assert_eq!(process, Some(holder));
        }
        other => panic!("{other:?}"),
    }
    let output = run(&program("holder", "plain", &world.state()));
    assert_eq!(output.status.code(), Some(exit::FAILED.into()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("(process {holder})")), "{said}");
    world.end_in_order();
}

#[test]
fn a_base_that_does_not_stop_is_killed_with_its_vms_on_the_third_demand() {
    let mut world = World::start("deaf");
    world.wait_for("serving 0");
    let vm = pid(&world.wait_for("vm"));
    let base = world.base();
    kill(world.holder(), Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    assert!(lives(base) && lives(vm));
    wait_until_heard(world.holder());
    kill(world.holder(), Signal::TERM);
    wait_until_heard(world.holder());
    kill(world.holder(), Signal::TERM);
    let output = world.wait_for_end();
    assert_eq!(output.status.code(), Some(exit::FAILED.into()));
    assert!(!lives(base) && !lives(vm));
    assert!(!world.state().exists());
}

#[test]
fn force_follows_the_second_demand_by_itself() {
    let mut world = World::start("deaf");
    world.wait_for("serving 0");
    let vm = pid(&world.wait_for("vm"));
    kill(world.holder(), Signal::INT);
    wait_until_heard(world.holder());
    kill(world.holder(), Signal::INT);
    let output = world.wait_for_end();
    assert_eq!(output.status.code(), Some(exit::FAILED.into()));
    assert!(!lives(vm));
}

#[test]
fn a_base_that_dies_while_stopping_gets_a_successor_that_stops() {
    let mut world = World::start("die-while-stopping");
    world.wait_for("serving 0");
    kill(world.holder(), Signal::TERM);
    let output = world.wait_for_end();
    assert_eq!(output.status.code(), Some(exit::CLEAN.into()));
    assert!(world.trace().contains("serving 1\nstop now=false"), "{}", world.trace());
}

#[test]
fn a_base_whose_holder_was_killed_carries_on_until_the_next_holder_ends_it() {
    let mut world = World::start("plain");
    world.wait_for("serving 0");
    let base = world.base();
    world.kill_holder();
    world.wait_for("holder gone");
    assert!(lives(base));
    // A new instance in the same place.
    let state = world.state();
    let (dir, lock) = StateDir::lock(&state).unwrap();
    let detached = start_detached(&program("detached", "plain", &state), &dir, lock).unwrap();
    assert!(world.trace().contains("left"), "{}", world.trace());
    assert!(!lives(base));
    let holder = pid(&detached.holder.to_string());
    kill(holder, Signal::TERM);
    wait_until_gone(holder);
}

#[test]
fn a_detached_instance_reports_that_it_serves_and_outlives_who_started_it() {
    let mut world = World::empty();
    let state = world.state();
    let (dir, lock) = StateDir::lock(&state).unwrap();
    let detached = start_detached(&program("detached", "plain", &state), &dir, lock).unwrap();
    world.wait_for("serving 0");
    let holder = pid(&detached.holder.to_string());
    assert!(lives(holder));
    assert_eq!(rustix::process::getsid(Some(holder)).unwrap(), holder);
    match world.second() {
        Err(StateDirError::Lock(LockError::Held { process, .. })) => {
            assert_eq!(process, Some(detached.holder));
        }
        other => panic!("{other:?}"),
    }
    kill(holder, Signal::HUP);
    kill(world.base(), Signal::KILL);
    world.wait_for("serving 1");
    kill(holder, Signal::TERM);
    wait_until_gone(holder);
    assert!(!state.exists());
}

#[test]
fn a_detached_instance_that_cannot_start_says_why_where_it_was_started() {
    let world = World::empty();
    let state = world.state();
    let (dir, lock) = StateDir::lock(&state).unwrap();
    let play = "wrong-configuration";
    let failure = start_detached(&program("detached", play, &state), &dir, lock).unwrap_err();
    assert_eq!(failure.status, exit::CONFIGURATION);
    let said = failure.message;
    assert!(said.ends_with("vm.toml:3:5: `cpus` must be a number\n"), "{said}");
    assert!(!state.exists());
}

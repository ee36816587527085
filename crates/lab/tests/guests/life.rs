//! What guests and their operator do to a VM: stopped, started, powered off, panicking, rebooting,
//! its card turned off and on; and that it is on the network again afterwards.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lab::command::{Background, wait_until};
use lab::guest::Guest;
use lab::instance::Instance;
use lab::scene::{OUTSIDE, vm};
use rustix::process::{Pid, Signal, kill_process};

use crate::again::last_command;
use crate::stage::{
    BOOT, LIMIT, NAMES, Stage, operate, status, talk, told, wait_state, wait_status,
};

/// Attaches to a guest that boots, waits for its addresses, and lets it talk.
fn back_on_the_network(stage: &Stage, number: usize) -> Guest {
    let guest = stage.instance.guest(NAMES[number], BOOT).unwrap();
    guest.wait_for_addresses(&vm(number as u8), BOOT).unwrap();
    talk(&guest, OUTSIDE);
    guest
}

/// A console as people have it: what is typed goes to the shell, what it says comes back.
fn people_see_a_console(instance: &Instance, name: &str) {
    let screen = instance.dir().join("screen");
    let mut console = instance.command("console");
    let out = File::create(&screen).unwrap();
    let streams = console.arg(name).stdin(Stdio::piped()).stdout(out);
    let mut process = Background::spawn(streams).unwrap();
    let keys = process.child().stdin.as_mut().unwrap();
    // Whatever runs there is ended first.
    keys.write_all(b"\x03\necho shown-$((6 * 7))\n").unwrap();
    let shown = || std::fs::read_to_string(&screen).unwrap_or_default();
    wait_until(LIMIT, shown, || Ok(shown().contains("shown-42").then_some(()))).unwrap();
}

#[test]
fn a_vm_lives_as_its_operator_and_its_guest_want() {
    // One starts again whatever happens and has time to stop; the other after failures only.
    let mut stage = Stage::set(&[
        ("", "restart = \"always\"\nstop_timeout = \"60s\""),
        ("", "restart = \"on-failure\"\nstop_timeout = \"2s\""),
    ])
    .with_addresses();
    for name in NAMES {
        let vm = status(&stage.instance, name);
        assert_eq!((&vm["state"], &vm["restarts"]), (&"running".into(), &0.into()), "{vm}");
        assert_eq!(vm["attached"], true, "{vm}");
    }
    let guests = stage.take_guests();
    std::thread::scope(|scope| {
        let [web, db]: [Guest; 2] = guests.try_into().unwrap();
        let web = scope.spawn(|| one_that_starts_again(&stage, web));
        one_that_starts_after_failures(&stage, db);
        web.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn one_that_starts_again(stage: &Stage, web: Guest) {
    let instance = &stage.instance;

    // The guest's own reboot: the vessel stays, the driver comes anew.
    let vessel = status(instance, "web")["pid"].clone();
    last_command(web, "reboot -f");
    let web = back_on_the_network(stage, 0);
    assert_eq!(status(instance, "web")["pid"], vessel);
    assert_eq!(told(instance, "vm/web", "rebooted").len(), 1);

    // It powers itself off: it waits a moment, and starts again.
    last_command(web, "poweroff -f");
    let waits = wait_state(instance, "web", "waiting");
    assert_eq!((&waits["pid"], &waits["attached"]), (&().into(), &false.into()), "{waits}");
    let powered_off = Instant::now();
    wait_state(instance, "web", "running");
    assert!(powered_off.elapsed() > Duration::from_millis(700), "without a wait");
    assert_eq!(status(instance, "web")["restarts"], 1);
    let web = back_on_the_network(stage, 0);

    // Killed from outside: the second wait is longer.
    let vessel = status(instance, "web")["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(vessel as i32).unwrap(), Signal::KILL).unwrap();
    let waits = wait_state(instance, "web", "waiting");
    assert!(waits["note"].as_str().unwrap().contains("signal 9"), "{waits}");
    let killed = Instant::now();
    wait_state(instance, "web", "running");
    assert!(killed.elapsed() > Duration::from_millis(1500), "without a longer wait");
    drop(web);
    let web = back_on_the_network(stage, 0);

    // Stopped by its power button: long before it would be ended by force. It stays so.
    let took = operate(instance, &["stop", "web"]);
    assert!(took < Duration::from_secs(30), "{took:?}");
    let stopped = status(instance, "web");
    assert_eq!((&stopped["state"], &stopped["pid"]), (&"stopped".into(), &().into()), "{stopped}");
    println!("stopped by its power button after {took:?}");
    let end = instance.finish(&["stop", "web"]).unwrap();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    drop(web);
    operate(instance, &["start", "web"]);
    drop(back_on_the_network(stage, 0));

    // Restarted: another vessel.
    let vessel = wait_state(instance, "web", "running")["pid"].clone();
    operate(instance, &["restart", "web"]);
    wait_status(instance, "web", "another vessel", |vm| {
        vm["state"] == "running" && vm["pid"] != vessel
    });
    back_on_the_network(stage, 0);
}

fn one_that_starts_after_failures(stage: &Stage, db: Guest) {
    let instance = &stage.instance;
    drop(db);
    people_see_a_console(instance, "db");
    let db = instance.guest("db", BOOT).unwrap();

    // It does not hear its power button: ended by force, but not before its time.
    db.ok("killall head").unwrap();
    let took = operate(instance, &["stop", "db"]);
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(status(instance, "db")["state"], "stopped");
    drop(db);
    operate(instance, &["start", "db"]);
    let db = back_on_the_network(stage, 1);

    // Its kernel panics: that is a failure.
    last_command(db, "echo c >/proc/sysrq-trigger");
    let waits = wait_state(instance, "db", "waiting");
    assert_eq!(waits["note"], "the guest's kernel panicked", "{waits}");
    assert_eq!(told(instance, "vm/db", "panicked").len(), 1);
    let db = back_on_the_network(stage, 1);

    its_card_goes_and_comes(&db);

    // It powers itself off: that is none.
    last_command(db, "poweroff -f");
    let stopped = wait_state(instance, "db", "stopped");
    assert_eq!(stopped["note"], "the guest powered itself off", "{stopped}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(status(instance, "db")["state"], "stopped");
}

/// What the second guest can do to its card without anybody's help: turn it off and on, change its MTU,
/// load its driver anew.
pub fn its_card_goes_and_comes(guest: &Guest) {
    guest.ok("ip link set eth0 down; sleep 0.5; ip link set eth0 up").unwrap();
    guest.wait_for_addresses(&vm(1), LIMIT).unwrap();
    talk(guest, OUTSIDE);

    // Smaller and back: the largest datagrams that fit still pass.
    for mtu in [1280, 1500] {
        guest.ok(&format!("ip link set eth0 mtu {mtu}")).unwrap();
        guest.wait_for_addresses(&vm(1), LIMIT).unwrap();
        let [v4, v6] = OUTSIDE;
        guest.ok(&format!("ping -n -c 1 -W 5 -M do -s {} {v4}", mtu - 28)).unwrap();
        guest.ok(&format!("ping -n -c 1 -W 5 -M do -s {} {v6}", mtu - 48)).unwrap();
    }

    guest.ok("killall dhcpcd; while pidof dhcpcd; do sleep 0.1; done; rmmod virtio_net").unwrap();
    assert!(!guest.ok("ls /sys/class/net").unwrap().contains("eth0"));
    guest.ok("insmod /lib/modules/virtio_net.ko").unwrap();
    // In a session of its own: it is not to end with this console.
    let client = "setsid dhcpcd --quiet --nodelay --nobackground eth0";
    guest.ok(&format!("{client} >/run/dhcp.log 2>&1 </dev/null &")).unwrap();
    guest.wait_for_addresses(&vm(1), LIMIT).unwrap();
    talk(guest, OUTSIDE);
}

//! The base dies under guests that talk: their connections, their links and their processes stay.

use std::net::IpAddr;

use lab::command::wait_until;
use lab::guest::Guest;
use lab::instance::Instance;
use lab::scene::vm;
use rustix::process::{Pid, Signal, kill_process};

use crate::again::last_command;
use crate::life::its_card_goes_and_comes;
use crate::stage::{LIMIT, NAMES, Stage, events, status, talk, told, wait_state};

/// Deaths of the base during one transfer.
const DEATHS: u64 = if cfg!(feature = "long") { 10 } else { 3 };
/// Octets between two of them.
const ENOUGH: u64 = 4 << 20;

/// Kills the base and waits for its successor.
fn kill_base(instance: &Instance) {
    let before = instance.base_process().unwrap();
    kill_process(Pid::from_raw(before).unwrap(), Signal::KILL).unwrap();
    wait_until(
        LIMIT,
        || format!("a successor of the base:\n{}", instance.messages()),
        || Ok(instance.base_process().is_ok_and(|now| now != before).then_some(())),
    )
    .unwrap();
}

fn takeovers(instance: &Instance) -> u64 {
    instance.ps().unwrap()["instance"]["takeovers"].as_u64().unwrap()
}

/// How often the guest has seen its link go or come.
fn link_changes(guest: &Guest) -> String {
    guest.ok("cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier").unwrap()
}

/// Waits until a command in the guest says something, and gives that.
fn said(guest: &Guest, command: &str) -> String {
    let what = || format!("`{command}`:\n{}", guest.ok("ps; ss -tain").unwrap_or_default());
    let say = || Ok(Some(guest.ok(command)?).filter(|text| !text.is_empty()));
    wait_until(LIMIT, what, say).unwrap()
}

/// Has the guest take what comes to `port`, and keep its sum.
fn listen(guest: &Guest, port: u16) {
    // Its own input never ends, or it would hang up.
    let take = format!("nc -l -p {port} <>/tmp/open | md5sum >/tmp/taken");
    guest.ok(&format!("mkfifo /tmp/open; ({take}) >/dev/null 2>&1 &")).unwrap();
    said(guest, &format!("ss -Hltn sport = :{port}"));
}

/// Has the guest send octets that never repeat until it is told that it is enough, and keep their
/// sum.
fn send(guest: &Guest, to: IpAddr, port: u16) {
    let octets = "n=0; until [ -e /tmp/enough ]; do cat /bin/busybox; echo $((n += 1)); done";
    let give = format!("({octets}) | tee /tmp/copy | nc {to} {port}");
    let sum = "md5sum </tmp/copy >/tmp/given";
    guest.ok(&format!("mkfifo /tmp/copy; ({sum} & {give}) >/dev/null 2>&1 &")).unwrap();
}

/// Octets that the guest's card has received.
fn received(guest: &Guest) -> u64 {
    let text = guest.ok("cat /sys/class/net/eth0/statistics/rx_bytes").unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn guests_notice_nothing_of_the_bases_deaths() {
    let mut stage = Stage::set(&[("", ""), ("", "")]).with_addresses();
    let processes = NAMES.map(|name| status(&stage.instance, name)["pid"].clone());
    let guests = [stage.guest(0), stage.guest(1)];
    let links = guests.map(link_changes);

    // A transfer each way at once, one over IPv4, one over IPv6.
    let [web, db] = guests;
    for (from, to, at, port) in [(web, db, vm(1)[0], 5001), (db, web, vm(0)[1], 5002)] {
        listen(to, port);
        send(from, at, port);
    }
    for _ in 0..DEATHS {
        for guest in guests {
            let before = received(guest);
            let goes_on = || Ok((received(guest) > before + ENOUGH).then_some(()));
            wait_until(LIMIT, || events(&stage.instance), goes_on).unwrap();
        }
        kill_base(&stage.instance);
    }
    for guest in guests {
        guest.ok("touch /tmp/enough").unwrap();
    }
    for (from, to) in [(web, db), (db, web)] {
        let [given, taken] = [(from, "cat /tmp/given"), (to, "cat /tmp/taken")]
            .map(|(guest, command)| said(guest, command));
        assert_eq!(given, taken);
    }
    let most = guests.map(|guest| received(guest) >> 20);
    println!("{DEATHS} deaths; {most:?} MiB received");

    assert_eq!(takeovers(&stage.instance), DEATHS);
    assert_eq!(guests.map(link_changes), links);
    assert_eq!(NAMES.map(|name| status(&stage.instance, name)["pid"].clone()), processes);

    // What a guest does to its card does it to a successor's port.
    its_card_goes_and_comes(stage.guest(1));
    talk(stage.guest(0), vm(1));

    // A guest that negotiates with the successor from the beginning.
    let mut guests = stage.take_guests().into_iter();
    last_command(guests.next().unwrap(), "reboot -f");
    drop(guests);
    let mut stage = stage.attach_again(2);
    assert_eq!(told(&stage.instance, "vm/web", "rebooted").len(), 1);
    assert_eq!(status(&stage.instance, "web")["pid"], processes[0]);
    talk(stage.guest(0), vm(1));

    // Processes that the base before started can be stopped, and others started.
    for command in [&["stop", "db"][..], &["start", "db"], &["restart", "web", "--force"]] {
        let end = stage.instance.finish(command).unwrap();
        assert!(end.status.success(), "{command:?}: {end:?}");
    }
    for (name, before) in NAMES.iter().zip(&processes) {
        let now = wait_state(&stage.instance, name, "running");
        assert_ne!(now["pid"], *before);
    }
    drop(stage.take_guests());
    let stage = stage.attach_again(2);
    talk(stage.guest(1), vm(0));
    stage.instance.down().unwrap();
}

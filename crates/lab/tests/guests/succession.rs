//! The base dies under guests that talk: their connections, their links and their processes stay.

use std::time::Duration;

use lab::command::wait_until;
use lab::guest::Guest;
use lab::instance::Instance;
use lab::scene::vm;
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{LIMIT, NAMES, Stage, events, last_command, status, talk, told, wait_state};

/// Deaths of the base during one transfer.
const DEATHS: u64 = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(1500);

/// Octets that both guests can write, over and over: the same in both, as both have the same files.
fn octets(repeated: u32) -> String {
    let turns: Vec<_> = (0..repeated).map(|n| n.to_string()).collect();
    format!(
        "for i in {}; do cat /bin/dhcpcd /bin/iperf3 /bin/busybox; echo $i; done",
        turns.join(" ")
    )
}

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

/// Has the guest take what comes to `port`, and keep its sum.
fn listen(guest: &Guest, port: u16) {
    let take = format!("nc -l -p {port} <>/tmp/open | md5sum >/tmp/sum.{port}");
    guest.ok(&format!("rm -f /tmp/open; mkfifo /tmp/open; ({take}) >/dev/null 2>&1 &")).unwrap();
    guest
        .ok(&format!(
            "timeout 10 sh -c 'until ss -Hltn sport = :{port} | grep .; do sleep 0.1; done'"
        ))
        .unwrap();
}

#[test]
fn guests_notice_nothing_of_the_bases_deaths() {
    let mut stage = Stage::set(&[("", ""), ("", "")]).with_addresses();
    let processes = NAMES.map(|name| status(&stage.instance, name)["pid"].clone());
    let (web, db) = (stage.guest(0), stage.guest(1));
    let links = [web, db].map(link_changes);

    // A transfer each way at once, one over IPv4, one over IPv6.
    let write = octets(30);
    let sum = web.ok(&format!("({write}) | md5sum")).unwrap();
    for (from, to, at, port) in [(web, db, vm(1)[0], 5001), (db, web, vm(0)[1], 5002)] {
        listen(to, port);
        from.ok(&format!("({write}) | nc {at} {port} >/dev/null 2>&1 &")).unwrap();
    }
    for _ in 0..DEATHS {
        std::thread::sleep(PAUSE);
        for (guest, port) in [(db, 5001), (web, 5002)] {
            let done = guest.ok(&format!("cat /tmp/sum.{port}")).unwrap();
            assert_eq!(done, "", "the transfer was over before the base died");
        }
        kill_base(&stage.instance);
    }
    for (guest, port) in [(db, 5001), (web, 5002)] {
        let arrived = wait_until(
            Duration::from_secs(90),
            || guest.ok("ss -tin").unwrap_or_default() + &events(&stage.instance),
            || Ok(Some(guest.ok(&format!("cat /tmp/sum.{port}"))?).filter(|s| !s.is_empty())),
        );
        assert_eq!(arrived.unwrap(), sum, "port {port}");
    }

    assert_eq!(takeovers(&stage.instance), DEATHS);
    assert_eq!([web, db].map(link_changes), links);
    assert_eq!(NAMES.map(|name| status(&stage.instance, name)["pid"].clone()), processes);

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

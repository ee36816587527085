//! Guests whose network cards have several queue pairs.

use std::time::Duration;

use lab::guest::Guest;
use lab::scene::vm;

use crate::stage::{LIMIT, Stage, talk};

/// Packets that the guest's driver has taken from each of its input queues.
fn received(guest: &Guest) -> Vec<u64> {
    let text = guest.ok("ethtool -S eth0").unwrap();
    let of = |queue: usize| {
        let name = format!("rx_queue_{queue}_packets:");
        let line = text.lines().find(|line| line.contains(&name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    (0..).map_while(of).collect()
}

#[test]
fn a_guest_has_the_queue_pairs_of_its_configuration_and_traffic_comes_by_all_of_them() {
    let keys = "cpus = 2\nqueues = 2\n[host]\novercommit = true";
    let stage = Stage::set(&[("", ""), ("", keys)]).with_addresses();
    let (web, db) = (stage.guest(0), stage.guest(1));
    for (guest, queues) in [(web, 1), (db, 2)] {
        let shown = guest.ok("ls /sys/class/net/eth0/queues").unwrap();
        let names = shown.split_whitespace();
        assert_eq!(names.filter(|name| name.starts_with("rx-")).count(), queues, "{shown}");
    }
    let channels = db.ok("ethtool -l eth0").unwrap();
    let combined = channels.lines().filter(|line| line.starts_with("Combined:"));
    assert!(combined.map(|line| line.trim_end().ends_with('2')).eq([true, true]), "{channels}");
    let connections = |to: std::net::IpAddr| {
        db.ok("killall -q iperf3; iperf3 -s -1 -D").unwrap();
        db.ok("until ss -Hltn sport = :5201 | grep -q .; do sleep 0.05; done").unwrap();
        let run = format!("iperf3 -c {to} -P 8 -t 2");
        web.run_within(&run, Duration::from_secs(60)).unwrap().ok().unwrap();
    };
    let before = received(db);
    connections(vm(1)[0]);
    let grown = |before: &[u64]| -> Vec<u64> {
        received(db).iter().zip(before).map(|(now, before)| now - before).collect()
    };
    assert!(grown(&before).iter().all(|packets| *packets > 20), "{:?}", grown(&before));

    // A successor goes on with both pairs.
    let base = stage.instance.kill_base().unwrap();
    stage.instance.wait_successor(base, LIMIT).unwrap();
    stage.instance.wait_event("adopted", "vm/db", "").unwrap();
    let before = received(db);
    connections(vm(1)[1]);
    assert!(grown(&before).iter().all(|packets| *packets > 20), "{:?}", grown(&before));

    // The guest goes down to one, and up again: what is not in use gets nothing.
    let before = received(db);
    db.ok("ethtool -L eth0 combined 1").unwrap();
    connections(vm(1)[0]);
    // The driver shows those only that are in use.
    assert_eq!(received(db).len(), 1);
    db.ok("ethtool -L eth0 combined 2").unwrap();
    let by = grown(&before);
    assert!(by[0] > 100 && by[1] < 10, "{by:?}");
    let before = received(db);
    connections(vm(1)[0]);
    assert!(grown(&before).iter().all(|packets| *packets > 20), "{:?}", grown(&before));
    talk(web, vm(1));
}

//! Drivers of our own with several queue pairs, on a running instance.

use std::collections::BTreeSet;
use std::time::Duration;

use lab::driver::{DriverPort, Rings, Settings, request};
use lab::frames;
use lab::scene::{OUTSIDE, vm};
use lab::wired::{MACS, Wired, Wiring};

const LIMIT: Duration = Duration::from_secs(10);
const FLOWS: u16 = 64;

/// The frames that came by each pair so far.
fn came(port: &DriverPort) -> Vec<u64> {
    [port.came].into_iter().chain(port.more.iter().map(|pair| pair.came)).collect()
}

/// Sends a datagram of each of many flows to the first VM, from the second and from the LAN; the pairs
/// by which they came.
fn pairs_used(wired: &mut Wired) -> BTreeSet<usize> {
    let before = came(&wired.a);
    for port in 0..FLOWS {
        for family in [0, 1] {
            let to = vm(0)[family];
            for (from, inside) in [(vm(1)[family], true), (OUTSIDE[family], false)] {
                let message = frames::udp(from, to, (port, 2000), &frames::pattern(32));
                let datagram = frames::datagram(from, to, frames::protocol::UDP, message);
                if inside {
                    let frame = frames::carry(wired.base_mac, MACS[1], &datagram);
                    wired.b.send_plain(&frame).unwrap();
                } else {
                    wired.tap.send(&wired.from_lan(&datagram)).unwrap();
                }
                lab::wired::delivered(&mut wired.a, &datagram).unwrap();
            }
        }
    }
    let grown = came(&wired.a).into_iter().zip(before).map(|(now, before)| now - before);
    grown.enumerate().filter(|(_, grown)| *grown > 2).map(|(pair, _)| pair).collect()
}

#[test]
fn datagrams_come_by_the_pairs_that_are_in_use_and_by_no_other_whatever_dies() {
    for rings in [Rings::Split, Rings::Packed] {
        let settings = Settings { pairs: 4, rings, ..Settings::plain() };
        let drivers = [settings, Settings { rings, ..Settings::plain() }];
        let vms = ["queues = 4".to_owned(), String::new()];
        let mut wired = Wired::up(&Wiring { drivers, vms, ..Wiring::default() }).unwrap();
        assert_eq!(wired.a.front_end.ask(request::GET_QUEUE_NUM, &[]).unwrap(), 4);
        assert_eq!(wired.b.front_end.ask(request::GET_QUEUE_NUM, &[]).unwrap(), 1);
        assert_eq!(pairs_used(&mut wired), BTreeSet::from([0, 1, 2, 3]));

        // As a guest's driver that goes down to two pairs has its front end say.
        for pair in [1, 2] {
            let Wired { a, .. } = &mut wired;
            a.more[pair].enable(&mut a.front_end, false).unwrap();
        }
        assert_eq!(pairs_used(&mut wired), BTreeSet::from([0, 1]));

        let before = wired.instance.kill_base().unwrap();
        wired.instance.wait_successor(before, LIMIT).unwrap();
        wired.instance.wait_event("adopted", "vm/a", "").unwrap();
        assert_eq!(pairs_used(&mut wired), BTreeSet::from([0, 1]));

        for pair in [1, 2] {
            let Wired { a, .. } = &mut wired;
            a.more[pair].enable(&mut a.front_end, true).unwrap();
        }
        assert_eq!(pairs_used(&mut wired), BTreeSet::from([0, 1, 2, 3]));
        let counters = wired.instance.counters().unwrap();
        assert_eq!(counters.get("vm/a", "port_renegotiated"), 0);
        wired.instance.down().unwrap();
    }
}

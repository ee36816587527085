//! Two instances on one machine: the same names, the same addresses, and nothing in common.

use std::net::IpAddr;
use std::time::Duration;

use lab::command::wait_until;
use lab::driver::{DriverPort, Settings};
use lab::frames::{self, Mac, protocol};
use lab::guest::Guest;
use lab::instance::Instance;
use lab::netns::Netns;
use lab::scene::vm;

use crate::stage::{BOOT, LIMIT, Turn, events, machine, told};

const MAC: Mac = [2, 0, 0, 0, 0, 0x0b];

/// A private network with a guest, and a driver of our own beside it.
struct Private {
    guest: Guest,
    driver: DriverPort,
    instance: Instance,
}

impl Private {
    fn up(space: &Netns) -> Self {
        let config = format!(
            "[network.inner]\nprefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]\n{}\
             [vm.peer]\nengine = \"external\"\nsocket = \"peer.sock\"\nmac = \"{}\"\n\
             addresses = [\"{}\", \"{}\"]\n",
            machine(0, "", ""),
            MAC.map(|o| format!("{o:02x}")).join(":"),
            vm(1)[0],
            vm(1)[1],
        );
        let instance = Instance::up(space, &config).unwrap();
        let driver = DriverPort::connect(&instance.socket("peer"), &Settings::plain()).unwrap();
        let guest = instance.guest("web", BOOT).unwrap();
        guest.wait_for_addresses(&vm(0), BOOT).unwrap();
        Self { guest, driver, instance }
    }

    /// Sends the guest an echo request with these octets; they must come back.
    fn echo(&mut self, octets: &[u8]) {
        for (from, to) in vm(1).into_iter().zip(vm(0)) {
            let (number, kind) = match to {
                IpAddr::V4(_) => (protocol::ICMP, 8),
                IpAddr::V6(_) => (protocol::ICMP6, 128),
            };
            let message = frames::icmp(from, to, kind, 0, &[&[0x77, 0, 0, 1], octets].concat());
            // Any MAC address will do: the base does not look at it.
            let frame = frames::carry([2; 6], MAC, &frames::datagram(from, to, number, message));
            self.driver.send_plain(&frame).unwrap();
            let answer = self.driver.receive_matching(LIMIT, |_, f| f.ends_with(octets)).unwrap();
            assert!(answer.is_some(), "no echo from {to}: {}", events(&self.instance));
        }
    }

    /// Echo requests that the guest's kernel has answered.
    fn echoes(&self) -> [u64; 2] {
        let lines = "awk '/^Icmp:/ { if (h) print $(c); h = 1; for (i = 1; i <= NF; i++) \
                     if ($i == \"InEchos\") c = i }' /proc/net/snmp; \
                     awk '/^Icmp6InEchos/ { print $2 }' /proc/net/snmp6";
        let text = self.guest.ok(lines).unwrap();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }
}

/// Whether the host's own stack reaches the VM's addresses.
fn host_reaches(space: &Netns) -> bool {
    vm(0).iter().all(|to| space.run(&format!("ping -n -c 2 -i 0.2 -W 5 {to}")).is_ok())
}

#[test]
fn two_instances_with_the_same_addresses_live_beside_each_other() {
    let _turn = Turn::beside_others();
    let space = Netns::new().unwrap();
    for address in ["198.51.100.1/32", "2001:db8:2::1/128"] {
        space.run(&format!("ip addr add {address} dev lo")).unwrap();
    }
    let mut one = Private::up(&space);
    assert!(host_reaches(&space));
    let mut other = Private::up(&space);
    assert_ne!(one.instance.state_dir(), other.instance.state_dir());

    // Each guest answers its own neighbour, and only that.
    let before = (one.echoes(), other.echoes());
    for n in 0..3u8 {
        one.echo(&[b"one "[..].to_vec(), vec![n; 60]].concat());
    }
    other.echo(&[7; 80]);
    let now = (one.echoes(), other.echoes());
    let more = |now: [u64; 2], before: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
    assert_eq!((more(now.0, before.0), more(now.1, before.1)), ([3, 3], [1, 1]));
    assert!(one.driver.receive(Duration::from_millis(100)).unwrap().is_none());

    // The host has one routing table: it belongs to the first, and the second says so.
    let said = events(&other.instance);
    assert!(host_reaches(&space), "{said}");
    assert!(more(one.echoes(), now.0)[0] >= 2, "{said}");
    assert_eq!(other.echoes(), now.1, "{said}");
    let refused = told(&other.instance, "network/inner", "route_refused");
    for address in vm(0) {
        let about = refused.iter().filter(|text| text.contains(&format!(" {address}/")));
        assert_eq!(about.count(), 1, "{said}");
    }

    // The first goes: the second does not notice, but for the host, which is its neighbour now.
    let Private { guest, instance, .. } = one;
    drop(guest);
    instance.down().unwrap();
    other.echo(&[9; 33]);
    let what = || events(&other.instance);
    wait_until(LIMIT, what, || Ok(host_reaches(&space).then_some(()))).unwrap();
    other.instance.down().unwrap();
}

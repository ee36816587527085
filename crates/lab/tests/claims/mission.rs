//! What the base is, besides what it does with a datagram: no bridge, no tap per VM, no NAT, no
//! packet filter of the kernel, one MAC address outside; networks that never meet.

use std::time::Duration;

use lab::driver::{DriverPort, Settings};
use lab::frames::{self, datagram_of, pattern, protocol};
use lab::instance::Instance;
use lab::neighbor::QuietNeighbor;
use lab::netns::{Netns, Snapshot};
use lab::scene::{OUTSIDE, Scene, by_xdp, vm};
use lab::wired::{LIMIT, Wired, Wiring};

use super::checks::{next, nothing_more};

/// What may be new in the host's kernel: a device (of the kind without Ethernet) with its routes, the
/// groups that the VMs' addresses are in, and one filter on the card.
const NEW: [&str; 8] = [
    "+ ethtool -k ipv0: ",
    "+ ip link: 3: ipv0: <POINTOPOINT,",
    "+ ip maddr: ",
    "- ip maddr: ",
    "+ ip route: 203.0.113.1",
    "+ ip -6 route: ",
    "+ tc filter eth1 ingress: filter protocol all pref 1 bpf ",
    "+ tc qdisc: ",
];

/// By AF_XDP also: a program at the card, which leaves tags in frames.
const NEW_BY_XDP: [&str; 6] = [
    "+ ethtool -k eth1: rx-vlan-offload: off",
    "- ethtool -k eth1: rx-vlan-offload: on",
    "+ ethtool -k eth1: rx-vlan-stag-hw-parse: off",
    "- ethtool -k eth1: rx-vlan-stag-hw-parse: on",
    "+ ip link: 2: eth1@",
    "- ip link: 2: eth1@",
];

/// The kernel's own link-local addresses come late.
fn settled(space: &Netns) -> Snapshot {
    lab::command::wait_until(LIMIT, String::new, || {
        Ok((!space.run("ip -6 addr show tentative")?.contains("inet6")).then_some(()))
    })
    .unwrap();
    Snapshot::of(space).unwrap()
}

#[test]
fn the_hosts_kernel_gets_one_device_its_routes_and_one_filter_and_loses_them_again() {
    let scene = Scene::set().unwrap();
    let before = [settled(&scene.host), settled(&scene.outside)];
    let mut w = Wired::on(scene, &Wiring::default()).unwrap();
    let datagram = frames::datagram(vm(0)[0], vm(1)[0], protocol::EXPERIMENT, pattern(9));
    let frame = w.from_a(&datagram);
    w.a.send_plain(&frame).unwrap();
    assert_eq!(datagram_of(&next(&mut w.b).unwrap().1), datagram);

    let host = &w.scene.host;
    let more = if by_xdp(Wiring::default().mtu) { &NEW_BY_XDP[..] } else { &[] };
    for line in Snapshot::of(host).unwrap().since(&before[0]).lines {
        assert!(NEW.iter().chain(more).any(|new| line.starts_with(new)), "{line}");
    }
    // No bridge, no device that carries Ethernet, and no rule that could change an address.
    let kinds = |kind: &str| host.run(&format!("ip -o link show type {kind}")).unwrap();
    assert_eq!(kinds("bridge") + &kinds("macvlan") + &kinds("macvtap") + &kinds("ipvlan"), "");
    let devices = host.run("ip tuntap show").unwrap();
    assert!(devices.lines().count() == 1 && devices.contains(": tun "), "{devices}");
    assert_eq!(host.run("nft list ruleset").unwrap(), "");

    let Wired { instance, scene, .. } = w;
    instance.down().unwrap();
    for (space, before) in [&scene.host, &scene.outside].into_iter().zip(before) {
        let left = Snapshot::of(space).unwrap().since(&before);
        assert!(left.lines.is_empty(), "{left}");
    }
}

/// Processor time that a process has used, all its threads together.
fn used(process: i32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanoseconds = |thread: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(threads.flatten().filter_map(nanoseconds).sum())
}

#[test]
fn when_nobody_talks_nobody_is_polled() {
    const WATCHED: Duration = Duration::from_secs(3);
    let scene = Scene::set().unwrap();
    let _neighbor = QuietNeighbor::replace(&scene).unwrap();
    let mut w = Wired::on(scene, &Wiring::default()).unwrap();
    // A busy moment before: it must come to an end.
    let datagram = frames::datagram(vm(0)[0], vm(1)[0], protocol::EXPERIMENT, pattern(900));
    let frame = w.from_a(&datagram);
    for _ in 0..200 {
        w.a.send_plain(&frame).unwrap();
        assert_eq!(datagram_of(&next(&mut w.b).unwrap().1), datagram);
    }
    let ps = w.instance.ps().unwrap();
    let process = |name: &str| {
        let number = ps.pointer(&format!("/instance/{name}")).and_then(|n| n.as_i64());
        i32::try_from(number.unwrap()).unwrap()
    };
    let both = || used(process("base")) + used(process("holder"));
    std::thread::sleep(Duration::from_millis(500));
    let before = both();
    std::thread::sleep(WATCHED);
    let share = (both() - before).as_secs_f64() / WATCHED.as_secs_f64();
    println!("{:.3} % of a core", share * 100.0);
    assert!(share < 0.005, "{:.2} % of a core", share * 100.0);
}

/// One driver on each of these VMs.
fn drivers<const N: usize>(instance: &Instance, names: [&str; N]) -> [DriverPort; N] {
    names.map(|n| DriverPort::connect(&instance.socket(n), &Settings::default()).unwrap())
}

#[test]
fn networks_with_the_same_addresses_never_meet() {
    let space = Netns::new().unwrap();
    let mut config = String::new();
    for network in ["x", "y"] {
        config +=
            &format!("[network.{network}]\nprefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]\n");
        for number in 0..2 {
            let [v4, v6] = vm(number);
            config += &format!(
                "[vm.{network}{number}]\nnetwork = \"{network}\"\nengine = \"external\"\n\
                 socket = \"{network}{number}.sock\"\nmac = \"02:00:00:00:00:0{number}\"\n\
                 addresses = [\"{v4}\", \"{v6}\"]\n"
            );
        }
    }
    let instance = Instance::up(&space, &config).unwrap();
    let [mut x0, mut x1, mut y0, mut y1] = drivers(&instance, ["x0", "x1", "y0", "y1"]);
    for (i, (from, to)) in vm(0).into_iter().zip(vm(1)).enumerate() {
        let datagram = |text: &[u8]| {
            frames::datagram(from, to, protocol::EXPERIMENT, [text, &[i as u8]].concat())
        };
        let frame = |d: &[u8]| frames::carry([2, 9, 9, 9, 9, 9], [2, 0, 0, 0, 0, 0], d);
        let (x, y) = (datagram(b"in x"), datagram(b"in y"));
        x0.send_plain(&frame(&x)).unwrap();
        assert_eq!(datagram_of(&next(&mut x1).unwrap().1), x);
        y0.send_plain(&frame(&y)).unwrap();
        assert_eq!(datagram_of(&next(&mut y1).unwrap().1), y);
    }
    for port in [&mut x0, &mut x1, &mut y0, &mut y1] {
        nothing_more(port);
    }
    instance.balanced(LIMIT).unwrap();
}

#[test]
fn a_network_without_a_card_lets_nothing_out() {
    let space = Netns::new().unwrap();
    let [v4, v6] = vm(0);
    let config = format!(
        "[network.x]\nprefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]\n\
         [vm.x0]\nengine = \"external\"\nsocket = \"x0.sock\"\nmac = \"02:00:00:00:00:00\"\n\
         addresses = [\"{v4}\", \"{v6}\"]\n"
    );
    let instance = Instance::up(&space, &config).unwrap();
    let [mut port] = drivers(&instance, ["x0"]);
    for (from, to) in vm(0).into_iter().zip(OUTSIDE) {
        let datagram = frames::datagram(from, to, protocol::EXPERIMENT, pattern(9));
        port.send_plain(&frames::carry([2, 9, 9, 9, 9, 9], [2, 0, 0, 0, 0, 0], &datagram)).unwrap();
    }
    port.wait_sent(LIMIT).unwrap();
    let counters = instance.balanced(LIMIT).unwrap();
    assert_eq!(counters.get("vm/x0", "drop.no_uplink"), 2);
}

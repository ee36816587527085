//! The host keeps its own addresses on the card that the VMs use, forwards like a router, and has
//! filters of its own: everybody gets exactly one answer, from who it is meant for.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use lab::capture::{Capture, Tap};
use lab::command::wait_until;
use lab::driver::{DriverPort, Settings};
use lab::frames::{self, Mac, protocol};
use lab::instance::Instance;
use lab::measure;
use lab::netns::Snapshot;
use lab::scene::{CARD, GATEWAY, HOST, LAN_CARD, OUTSIDE, Place, Scene, by_xdp, vm};
use lab::stack::{self, Address, ECHO, Stack};
use lab::wired::{LIMIT, MACS, Wired, Wiring};

/// Requests of each kind.
const REQUESTS: usize = 5;
/// Octets of a transfer, each way.
const OCTETS: usize = 1 << 20;

/// A host that somebody has configured as hosts are: it forwards, filters and counts.
fn lived_in(scene: &Scene) {
    for name in [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        // It answers for what it has a route to, as if the VMs were behind it.
        "net.ipv4.conf.eth1.proxy_arp",
        "net.ipv6.conf.eth1.proxy_ndp",
    ] {
        scene.host.sysctl(name, "1").unwrap();
    }
    scene.host.sysctl("net.ipv4.neigh.eth1.proxy_delay", "0").unwrap();
    scene.host.sysctl("net.ipv6.neigh.eth1.proxy_delay", "0").unwrap();
    scene.host.run(&format!("ip -6 neigh add proxy {} dev {CARD}", vm(0)[1])).unwrap();
    for line in [
        format!("tc qdisc add dev {CARD} clsact"),
        format!("tc filter add dev {CARD} ingress protocol all prio 8 u32 match u32 0 0"),
        format!("tc filter add dev {CARD} egress protocol all prio 1 u32 match u32 0 0"),
        "nft add table inet foreign".to_owned(),
        "nft add chain inet foreign passing { type filter hook forward priority 0; policy drop; }"
            .to_owned(),
        "nft add chain inet foreign arriving { type filter hook input priority 0; }".to_owned(),
        "nft add rule inet foreign arriving counter accept".to_owned(),
    ] {
        scene.host.run(&line).unwrap();
    }
}

/// Whether a frame is the answer.
type Judge = Box<dyn Fn(&[u8]) -> bool>;

/// A request from the LAN, and what its answer looks like.
struct Question {
    what: String,
    frame: Vec<u8>,
    answers: Judge,
}

/// Everything that somebody outside asks about one machine's addresses.
fn questions(card: Mac, outside: Mac, of: &str, addresses: [IpAddr; 2]) -> Vec<Question> {
    let mut all = Vec::new();
    let [IpAddr::V4(own), IpAddr::V6(own6)] = addresses else { panic!("{addresses:?}") };
    let [IpAddr::V4(asker), IpAddr::V6(asker6)] = OUTSIDE else { panic!("{OUTSIDE:?}") };

    let request = frames::arp(1, (outside, asker), ([0; 6], own));
    all.push(Question {
        what: format!("ARP for {of}"),
        frame: frames::ethernet([0xff; 6], outside, frames::ARP, &request),
        answers: Box::new(move |f| {
            f[12..14] == frames::ARP.to_be_bytes() && f[21] == 2 && f[28..32] == own.octets()
        }),
    });

    let group = {
        let [.., a, b, c] = own6.octets();
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
    };
    let [.., g0, g1, g2, g3] = group.octets();
    let target = [&[0; 4], own6.octets().as_slice(), &[1, 1], &outside].concat();
    let message = frames::icmp(asker6.into(), group.into(), 135, 0, &target);
    let mut solicitation = frames::Ip6::new(asker6, group, protocol::ICMP6, message);
    solicitation.hop_limit = 255;
    let to = [0x33, 0x33, g0, g1, g2, g3];
    all.push(Question {
        what: format!("neighbour solicitation for {of}"),
        frame: frames::carry(to, outside, &solicitation.bytes()),
        answers: Box::new(move |f| {
            f[12..14] == frames::IP6.to_be_bytes() && f[54] == 136 && f[62..78] == own6.octets()
        }),
    });

    for (address, asker, number, kind, reply) in [
        (addresses[0], OUTSIDE[0], protocol::ICMP, 8, 0),
        (addresses[1], OUTSIDE[1], protocol::ICMP6, 128, 129),
    ] {
        let echo = [&[0x77, 0x77, 0, 1], frames::pattern(40).as_slice()].concat();
        let message = frames::icmp(asker, address, kind, 0, &echo);
        // Whoever forwards it instead of taking it has to complain.
        let mut datagram = frames::datagram(asker, address, number, message);
        match address {
            IpAddr::V4(_) => {
                datagram[8] = 1;
                frames::fix_ip4_checksum(&mut datagram);
            }
            IpAddr::V6(_) => datagram[7] = 1,
        }
        all.push(Question {
            what: format!("echo request to {of}, {address}"),
            frame: frames::carry(card, outside, &datagram),
            answers: Box::new(move |f| {
                let d = frames::datagram_of(f);
                let (source, rest) = match address {
                    IpAddr::V4(_) => (d.get(12..16), d.get(20..)),
                    IpAddr::V6(_) => (d.get(8..24), d.get(40..)),
                };
                let octets = match address {
                    IpAddr::V4(a) => a.octets().to_vec(),
                    IpAddr::V6(a) => a.octets().to_vec(),
                };
                source == Some(&octets)
                    && rest.is_some_and(|r| r.first() == Some(&reply) && r[4..] == echo)
            }),
        });
    }
    all
}

/// The base on a host that is lived in; the first VM has a stack, the second a silent driver.
struct Shared {
    stack: Stack,
    _silent: DriverPort,
    tap: Tap,
    instance: Instance,
    scene: Scene,
    card_mac: Mac,
    lan_mac: Mac,
    before: Snapshot,
}

impl Shared {
    fn up() -> Self {
        let scene = Scene::set().unwrap();
        lived_in(&scene);
        scene.wait_settled().unwrap();
        let before = Snapshot::of(&scene.host).unwrap();
        let wiring = Wiring { drivers: [Settings::plain(); 2], ..Wiring::default() };
        let Wired { a, b, tap, instance, scene, card_mac, lan_mac, .. } =
            Wired::on(scene, &wiring).unwrap();
        let ([IpAddr::V4(v4), IpAddr::V6(v6)], [IpAddr::V4(router), _]) = (vm(0), GATEWAY) else {
            panic!("the scene's addresses")
        };
        let stack = Stack::start(a, MACS[0], Address { v4, prefix: 24, router, v6 }).unwrap();
        for address in vm(0) {
            instance.wait_event("address_claimed", "network/lan", &address.to_string()).unwrap();
        }
        // Who answers an echo request first asks for his neighbour; this stack then forgets why.
        for other in HOST.into_iter().chain(OUTSIDE) {
            stack.ping(other).unwrap();
        }
        Self { stack, _silent: b, tap, instance, scene, card_mac, lan_mac, before }
    }

    /// Ends the base; the host must be as it was.
    fn down(self) {
        self.instance.down().unwrap();
        let left = Snapshot::of(&self.scene.host).unwrap().since(&self.before);
        assert!(left.is_empty(), "{left}");
    }
}

#[test]
fn every_request_outside_gets_exactly_one_answer() {
    let _alone = lab::paths::alone().unwrap();
    let shared = Shared::up();
    let (card, outside) = (shared.card_mac, shared.lan_mac);
    let mut all = questions(card, outside, "the VM", vm(0));
    all.extend(questions(card, outside, "the host", HOST));
    // All find each other first: a request that waits for that is not the subject here.
    for (of, address) in [("VM", vm(0)), ("host", HOST)] {
        for address in address {
            let place = Place::Space(&shared.scene.outside);
            assert_eq!(measure::echo(place, address, 2).unwrap().received, 2, "{of} {address}");
        }
    }
    for question in &all {
        assert_eq!(question.ask(&shared), Ok(()), "{}", question.what);
    }
    // Without what keeps the VMs' datagrams from the host's stack each of them would show it, but for
    // those that AF_XDP takes before that stack would see them.
    shared.scene.host.run(&format!("tc filter del dev {CARD} ingress prio 1")).unwrap();
    for question in all.iter().filter(|q| q.what.contains("the VM")) {
        let taken_before = by_xdp(Wiring::default().mtu) && question.what.contains("echo");
        assert_eq!(question.ask(&shared).is_ok(), taken_before, "{}", question.what);
    }
    shared.down();
}

impl Question {
    /// Asks a few times; what was wrong with the answers, if anything was.
    fn ask(&self, shared: &Shared) -> Result<(), String> {
        let capture = Capture::start(&shared.scene.outside, LAN_CARD).unwrap();
        for _ in 0..REQUESTS {
            shared.tap.send(&self.frame).unwrap();
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(200));
        let frames: Vec<_> = capture.stop().unwrap().into_iter().filter(|f| !f.outgoing).collect();
        let answers: Vec<_> = frames.iter().filter(|f| (self.answers)(&f.bytes)).collect();
        let complaints = frames.iter().filter(|f| is_complaint(&f.bytes)).count();
        if answers.len() != REQUESTS || complaints > 0 {
            return Err(format!("{} answers, {complaints} complaints", answers.len()));
        }
        if answers.iter().any(|f| f.bytes[6..12] != shared.card_mac) {
            return Err("an answer from a MAC address that is not the card's".to_owned());
        }
        Ok(())
    }
}

/// An ICMP error or redirect.
fn is_complaint(frame: &[u8]) -> bool {
    let datagram = frames::datagram_of(frame);
    match (frame.get(12..14), datagram.get(9), datagram.get(6)) {
        (Some([8, 0]), Some(&protocol::ICMP), _) => {
            datagram.get(20).is_some_and(|kind| [3, 4, 5, 11, 12].contains(kind))
        }
        (Some([0x86, 0xdd]), _, Some(&protocol::ICMP6)) => {
            datagram.get(40).is_some_and(|kind| *kind < 128 || *kind == 137)
        }
        _ => false,
    }
}

#[test]
fn host_and_vm_reach_each_other() {
    let _alone = lab::paths::alone().unwrap();
    let shared = Shared::up();
    let (stack, host) = (&shared.stack, &shared.scene.host);
    let before = shared.instance.counters().unwrap();
    for (own, other) in vm(0).into_iter().zip(HOST) {
        let pinged = measure::echo(Place::Space(host), own, 3).unwrap();
        assert_eq!((pinged.sent, pinged.received), (3, 3), "host to {own}");
        stack.ping(other).unwrap();
        stack::transfer(host, SocketAddr::new(own, ECHO), OCTETS).unwrap();
        let at = SocketAddr::new(other, 7000);
        let server = stack::serve(host, at).unwrap();
        stack.transfer(at, OCTETS).unwrap();
        assert_eq!(server.join().unwrap().unwrap(), OCTETS as u64);
    }
    // All of it went this way, and no other.
    let counters = shared.instance.balanced(LIMIT).unwrap().since(&before);
    for owner in ["vm/a", "host/lan"] {
        assert!(counters.get(owner, "delivered_bytes") > 4 * OCTETS as u64, "{counters:?}");
    }
    assert_eq!(counters.get("vm/a", "to_uplink"), 0, "{counters:?}");
    shared.down();
}

#[test]
fn what_the_host_does_not_take_is_counted_by_name() {
    /// Datagrams of each family.
    const SENT: usize = 100;
    let _alone = lab::paths::alone().unwrap();
    let wiring = Wiring { drivers: [Settings::plain(); 2], ..Wiring::default() };
    let mut wired = Wired::up(&wiring).unwrap();
    // Somebody sets down the device that leads to the host's stack.
    let route = wired.scene.host.run(&format!("ip route show {}", vm(0)[0])).unwrap();
    let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
    wired.scene.host.run(&format!("ip link set {device} down")).unwrap();
    let before = wired.instance.counters().unwrap();
    for (own, host) in vm(0).into_iter().zip(HOST) {
        for number in 0..SENT {
            let message = frames::udp(own, host, (7, 9), &number.to_be_bytes());
            let datagram = frames::datagram(own, host, protocol::UDP, message);
            wired.a.send_plain(&wired.from_a(&datagram)).unwrap();
        }
    }
    let counted = wait_until(
        LIMIT,
        || format!("drops by the host: {:?}", wired.instance.counters()),
        || {
            let grown = wired.instance.counters()?.since(&before);
            Ok((grown.get("vm/a", "drop.host_send") >= 2 * SENT as u64).then_some(grown))
        },
    )
    .unwrap();
    assert_eq!(counted.get("vm/a", "drop.host_send"), 2 * SENT as u64, "{counted:?}");
    assert_eq!(counted.get("vm/a", "to_host"), 0, "{counted:?}");
    wired.instance.balanced(LIMIT).unwrap();
    wired.instance.down().unwrap();
}

#[test]
fn lan_and_vm_reach_each_other_past_a_host_that_forwards() {
    let _alone = lab::paths::alone().unwrap();
    let shared = Shared::up();
    let (stack, outside) = (&shared.stack, &shared.scene.outside);
    let before = shared.instance.counters().unwrap();
    for (own, other) in vm(0).into_iter().zip(OUTSIDE) {
        let pinged = measure::echo(Place::Space(outside), own, 3).unwrap();
        assert_eq!((pinged.sent, pinged.received), (3, 3), "LAN to {own}");
        stack.ping(other).unwrap();
        stack::transfer(outside, SocketAddr::new(own, ECHO), OCTETS).unwrap();
        let at = SocketAddr::new(other, 7000);
        let server = stack::serve(outside, at).unwrap();
        stack.transfer(at, OCTETS).unwrap();
        assert_eq!(server.join().unwrap().unwrap(), OCTETS as u64);
    }
    // All of it went this way, nothing through the host's stack.
    let counters = shared.instance.balanced(LIMIT).unwrap().since(&before);
    for owner in ["vm/a", "uplink/lan"] {
        assert!(counters.get(owner, "delivered_bytes") > 4 * OCTETS as u64, "{counters:?}");
    }
    for name in ["to_vm", "drop.host_forwarded"] {
        assert_eq!(counters.get("host/lan", name), 0, "{counters:?}");
    }
    shared.down();
}

#[test]
fn a_card_without_foreign_filters_is_left_as_it_was() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    scene.wait_settled().unwrap();
    let before = Snapshot::of(&scene.host).unwrap();
    let wired = Wired::on(scene, &Wiring::default()).unwrap();
    let Wired { instance, scene, .. } = wired;
    let during = Snapshot::of(&scene.host).unwrap().since(&before);
    for wanted in ["+ ip route: 203.0.113.10 ", "+ ip link: ", "+ tc filter eth1 ingress: "] {
        assert!(during.lines.iter().any(|l| l.starts_with(wanted)), "{wanted}: {during}");
    }
    instance.down().unwrap();
    let left = Snapshot::of(&scene.host).unwrap().since(&before);
    assert!(left.is_empty(), "{left}");
}

//! The LAN as it is: addresses that are taken, a gateway and a card that change under traffic, and
//! providers that do it their own way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use lab::capture::{Capture, Frame, Tap};
use lab::command::wait_until;
use lab::driver::{DriverPort, Settings};
use lab::frames::{self, Mac, protocol};
use lab::instance::Instance;
use lab::measure;
use lab::netns::mac;
use lab::scene::{CARD, GATEWAY, HOST, LAN_CARD, OUTSIDE, Place, Scene, driver, driver_line, vm};
use lab::stack::{self, Address, ECHO, Stack};
use lab::wired::{LIMIT, MACS, Wired, Wiring};

/// Somewhere beyond the gateway.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xfa, 0, 0, 0, 0, 7)),
];

fn written(mac: Mac) -> String {
    mac.map(|o| format!("{o:02x}")).join(":")
}

fn plain() -> Wiring {
    Wiring { drivers: [Settings::plain(); 2], ..Wiring::default() }
}

/// A UDP datagram from a VM or the LAN, told from others by `tag`.
fn tagged(source: IpAddr, destination: IpAddr, tag: u16, data: usize) -> Vec<u8> {
    let message = frames::udp(source, destination, (tag, 9), &frames::pattern(data));
    frames::datagram(source, destination, protocol::UDP, message)
}

/// An ARP message in a frame: operation, sender, target.
fn arp_of(frame: &Frame) -> Option<(u8, Ipv4Addr, Ipv4Addr)> {
    let bytes = frame.bytes.get(12..42).filter(|b| b[..2] == frames::ARP.to_be_bytes())?;
    let at = |from: usize| -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(*bytes.get(from..)?.first_chunk::<4>()?))
    };
    Some((bytes[9], at(16)?, at(26)?))
}

/// A neighbour message in a frame: type, source, target.
fn discovery_of(frame: &Frame) -> Option<(u8, Ipv6Addr, Ipv6Addr)> {
    let bytes = frame.bytes.get(12..78).filter(|b| b[..2] == frames::IP6.to_be_bytes())?;
    let kind = bytes[42];
    let at = |from: usize| -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(*bytes.get(from..)?.first_chunk::<16>()?))
    };
    (bytes[8] == protocol::ICMP6 && [135, 136].contains(&kind)).then_some((kind, at(10)?, at(50)?))
}

/// Waits until a datagram of the first VM to `to` is seen outside; gives the frame.
fn goes_out(wired: &mut Wired, family: usize, to: IpAddr) -> Frame {
    let what = || format!("a datagram to {to} on the LAN");
    let (mut tag, end) = (40_000, Instant::now() + LIMIT);
    loop {
        assert!(Instant::now() < end, "{}", what());
        tag += 1;
        let datagram = tagged(vm(0)[family], to, tag, 100);
        let frame = wired.from_a(&datagram);
        wired.a.send_plain(&frame).unwrap();
        let wait = Instant::now() + Duration::from_millis(300);
        while let Some(frame) =
            wired.tap.receive(wait.saturating_duration_since(Instant::now())).unwrap()
        {
            if !frame.outgoing && frames::datagram_of(&frame.bytes) == datagram {
                return frame;
            }
        }
    }
}

/// Waits until a datagram from outside reaches the first VM.
fn comes_in(wired: &mut Wired, family: usize) {
    let (mut tag, end) = (50_000, Instant::now() + LIMIT);
    let card = wired.scene.card_mac().unwrap();
    loop {
        assert!(Instant::now() < end, "nothing comes in");
        tag += 1;
        let datagram = tagged(OUTSIDE[family], vm(0)[family], tag, 100);
        wired.tap.send(&frames::carry(card, wired.lan_mac, &datagram)).unwrap();
        let came = wired
            .a
            .receive_matching(Duration::from_millis(300), |_, f| frames::datagram_of(f) == datagram)
            .unwrap();
        if came.is_some() {
            return;
        }
    }
}

/// Both families, out and in; every frame outside has the card's MAC address.
fn flows(wired: &mut Wired) {
    let card = wired.scene.card_mac().unwrap();
    for family in [0, 1] {
        let frame = goes_out(wired, family, OUTSIDE[family]);
        assert_eq!(frame.bytes[6..12], card);
        comes_in(wired, family);
    }
}

fn ips(addresses: [IpAddr; 2]) -> (Ipv4Addr, Ipv6Addr) {
    match addresses {
        [IpAddr::V4(v4), IpAddr::V6(v6)] => (v4, v6),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_that_is_taken_on_the_lan_is_refused_by_the_mac_that_has_it() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    let (taken4, taken6) = ips(vm(0));
    scene.outside.run(&format!("ip addr add {taken4}/24 dev {LAN_CARD}")).unwrap();
    scene.outside.run(&format!("ip addr add {taken6}/64 dev {LAN_CARD} nodad")).unwrap();
    let has = written(mac(&scene.outside, LAN_CARD).unwrap());
    let capture = Capture::start(&scene.outside, LAN_CARD).unwrap();

    let mut config = scene.network();
    for (number, name) in [(0, "a"), (1, "b")] {
        let [v4, v6] = vm(number);
        config.push_str(&format!(
            "[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\nmac = \"{}\"\n\
             addresses = [\"{v4}\", \"{v6}\"]\n",
            written(MACS[usize::from(number)])
        ));
    }
    let instance = Instance::up(&scene.host, &config).unwrap();
    for address in vm(0) {
        let event =
            instance.wait_event("address_conflict", "network/lan", &address.to_string()).unwrap();
        assert!(event["text"].as_str().unwrap().contains(&has), "{event}");
        assert_eq!(event["level"], "error");
    }
    for address in vm(1) {
        instance.wait_event("address_claimed", "network/lan", &address.to_string()).unwrap();
    }
    // Nobody is attached yet: all were probed for because of `up`.
    let frames = capture.frames();
    for number in [0, 1] {
        let (v4, v6) = ips(vm(number));
        let probed4 = |f: &Frame| arp_of(f) == Some((1, Ipv4Addr::UNSPECIFIED, v4));
        let probed6 = |f: &Frame| discovery_of(f) == Some((135, Ipv6Addr::UNSPECIFIED, v6));
        assert!(frames.iter().any(|f| !f.outgoing && probed4(f)), "{v4} is not probed for");
        assert!(frames.iter().any(|f| !f.outgoing && probed6(f)), "{v6} is not probed for");
    }

    // Who has it keeps it, for the host too, whatever becomes of the base.
    for killed in [false, true] {
        if killed {
            let before = instance.kill_base().unwrap();
            instance.wait_successor(before, LIMIT).unwrap();
        }
        for address in vm(0) {
            let host = Place::Space(&scene.host);
            assert_eq!(measure::echo(host, address, 2).unwrap().received, 2, "{address}");
        }
        let mut a = DriverPort::connect(&instance.socket("a"), &Settings::plain()).unwrap();
        let before = instance.counters().unwrap();
        for (own, to) in vm(0).into_iter().zip(OUTSIDE) {
            a.send_plain(&frames::carry([2; 6], MACS[0], &tagged(own, to, 1, 10))).unwrap();
        }
        a.wait_sent(LIMIT).unwrap();
        let counters = instance.counters().unwrap().since(&before);
        assert_eq!(counters.get("vm/a", "drop.source_not_own"), 2, "{counters:?}");
    }
    // Not once has the base spoken for it.
    let (own4, own6) = ips(vm(0));
    for frame in capture.stop().unwrap().iter().filter(|f| !f.outgoing) {
        assert!(arp_of(frame).is_none_or(|(_, sender, _)| sender != own4), "{frame:?}");
        let spoke = |(kind, source, target)| source == own6 || kind == 136 && target == own6;
        assert!(!discovery_of(frame).is_some_and(spoke), "{frame:?}");
    }
    instance.down().unwrap();
}

#[test]
fn a_gateway_that_gets_another_mac_is_followed() {
    let _alone = lab::paths::alone().unwrap();
    let mut wired = Wired::up(&plain()).unwrap();
    let (gateway4, gateway6) = ips(GATEWAY);
    for family in [0, 1] {
        let frame = goes_out(&mut wired, family, FAR[family]);
        assert_eq!(frame.bytes[..6], wired.lan_mac);
    }
    // A router that takes over from another says so.
    let new: Mac = [2, 0, 0, 0, 0x77, 1];
    wired.scene.outside.run(&format!("ip link set {LAN_CARD} address {}", written(new))).unwrap();
    let announcement = frames::arp(1, (new, gateway4), ([0; 6], gateway4));
    wired.tap.send(&frames::ethernet([0xff; 6], new, frames::ARP, &announcement)).unwrap();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let rest = [&[0xa0, 0, 0, 0], gateway6.octets().as_slice(), &[2, 1], &new].concat();
    let message = frames::icmp(gateway6.into(), all_nodes.into(), 136, 0, &rest);
    let mut advertisement = frames::Ip6::new(gateway6, all_nodes, protocol::ICMP6, message);
    advertisement.hop_limit = 255;
    wired.tap.send(&frames::carry([0x33, 0x33, 0, 0, 0, 1], new, &advertisement.bytes())).unwrap();
    for family in [0, 1] {
        let followed = || goes_out(&mut wired, family, FAR[family]).bytes[..6] == new;
        assert!(std::iter::repeat_with(followed).take(20).any(|yes| yes), "family {family}");
    }
    wired.instance.down().unwrap();
}

#[test]
fn a_card_whose_link_goes_and_comes_is_followed() {
    let _alone = lab::paths::alone().unwrap();
    let mut wired = Wired::up(&plain()).unwrap();
    flows(&mut wired);
    // Its own switch, and the other end's.
    for (space, card) in [(&wired.scene.host, CARD), (&wired.scene.outside, LAN_CARD)]
        .map(|(s, c)| (s.name().to_owned(), c))
    {
        let set = |how: &str| {
            lab::command::run(&format!("ip -n {space} link set {card} {how}")).unwrap();
        };
        let before = wired.instance.counters().unwrap();
        set("down");
        wait_until(
            LIMIT,
            || "a drop because the link is down".to_owned(),
            || {
                let frame = wired.from_a(&tagged(vm(0)[0], OUTSIDE[0], 7, 10));
                wired.a.send_plain(&frame)?;
                let counters = wired.instance.counters()?.since(&before);
                Ok((counters.get("vm/a", "drop.uplink_down") > 0).then_some(()))
            },
        )
        .unwrap();
        set("up");
        flows(&mut wired);
    }
    wired.instance.down().unwrap();
}

#[test]
fn the_cards_mtu_is_followed() {
    let _alone = lab::paths::alone().unwrap();
    let mut wired = Wired::up(&plain()).unwrap();
    flows(&mut wired);
    let set = |wired: &Wired, mtu: u16| {
        for (space, card) in [(&wired.scene.host, CARD), (&wired.scene.outside, LAN_CARD)] {
            let line = format!("ip link set {card} mtu {mtu}");
            // A card with an XDP program bounds that of the other end, until the base has ended it.
            wait_until(LIMIT, || line.clone(), || Ok(space.run(&line).ok())).unwrap();
        }
    };
    let large = |family: usize, length: usize, from: [IpAddr; 2], to: [IpAddr; 2]| {
        let header = [28, 48][family];
        let mut datagram = tagged(from[family], to[family], 99, length - header);
        if family == 0 {
            // Not to be fragmented.
            datagram[6] = 0x40;
            frames::fix_ip4_checksum(&mut datagram);
        }
        datagram
    };

    set(&wired, 1400);
    for family in [0, 1] {
        let datagram = large(family, 1450, vm(0), OUTSIDE);
        let told = wait_until(
            LIMIT,
            || format!("a message that 1450 octets are too many, family {family}"),
            || {
                wired.a.send_plain(&wired.from_a(&datagram))?;
                wired.a.receive_matching(Duration::from_millis(200), |_, f| {
                    let d = frames::datagram_of(f);
                    match family {
                        0 => d.get(20..22) == Some(&[3, 4]) && d[26..28] == 1400u16.to_be_bytes(),
                        _ => d.get(40) == Some(&2) && d[44..48] == 1400u32.to_be_bytes(),
                    }
                })
            },
        );
        told.unwrap();
        goes_out(&mut wired, family, OUTSIDE[family]);
    }

    set(&wired, 9000);
    for family in [0, 1] {
        let out = large(family, 8000, vm(0), OUTSIDE);
        wait_until(
            LIMIT,
            || format!("8000 octets on the LAN, family {family}"),
            || {
                wired.a.send_plain(&wired.from_a(&out))?;
                let wait = Instant::now() + Duration::from_millis(200);
                while let Some(frame) =
                    wired.tap.receive(wait.saturating_duration_since(Instant::now()))?
                {
                    if !frame.outgoing && frames::datagram_of(&frame.bytes) == out {
                        return Ok(Some(()));
                    }
                }
                Ok(None)
            },
        )
        .unwrap();
        let back = large(family, 8000, OUTSIDE, vm(0));
        wired.tap.send(&wired.from_lan(&back)).unwrap();
        lab::wired::delivered(&mut wired.a, &back).unwrap();
        let across = large(family, 8000, vm(0), vm(1));
        wired.a.send_plain(&wired.from_a(&across)).unwrap();
        lab::wired::delivered(&mut wired.b, &across).unwrap();
        let host = large(family, 8000, vm(0), HOST);
        let before = wired.instance.counters().unwrap();
        wired.a.send_plain(&wired.from_a(&host)).unwrap();
        wired.a.wait_sent(LIMIT).unwrap();
        let counters = wired.instance.counters().unwrap().since(&before);
        assert_eq!(counters.get("vm/a", "to_host"), 1, "{counters:?}");
    }
    // The host's own stack may send as much to a VM.
    for address in vm(0) {
        let routes = wired.scene.host.run(&format!("ip route get {address}")).unwrap();
        let device = routes.split(" dev ").nth(1).and_then(|r| r.split(' ').next()).unwrap();
        let link = wired.scene.host.run(&format!("ip link show dev {device}")).unwrap();
        assert!(link.contains("mtu 9000"), "{link}");
    }
    wired.instance.down().unwrap();
}

#[test]
fn a_card_that_gets_another_mac_is_announced_anew() {
    let _alone = lab::paths::alone().unwrap();
    let mut wired = Wired::up(&plain()).unwrap();
    for address in vm(0) {
        let text = address.to_string();
        wired.instance.wait_event("address_claimed", "network/lan", &text).unwrap();
    }
    flows(&mut wired);
    let capture = Capture::start(&wired.scene.outside, LAN_CARD).unwrap();
    let new: Mac = [2, 0, 0, 0, 0x77, 2];
    wired.scene.host.run(&format!("ip link set {CARD} address {}", written(new))).unwrap();
    let (v4, v6) = ips(vm(0));
    let from_new = |f: &Frame| !f.outgoing && f.bytes[6..12] == new;
    capture
        .wait_for(LIMIT, "an announcement by ARP", |f| {
            from_new(f) && arp_of(f) == Some((1, v4, v4))
        })
        .unwrap();
    capture
        .wait_for(LIMIT, "an announcement by advertisement", |f| {
            from_new(f) && discovery_of(f).is_some_and(|(kind, _, of)| kind == 136 && of == v6)
        })
        .unwrap();
    flows(&mut wired);
    wired.instance.down().unwrap();
}

#[test]
fn a_card_that_is_deleted_and_made_again_is_used_again() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    let mut wired = Wired::on(scene, &plain()).unwrap();
    flows(&mut wired);
    for round in 1..=2 {
        wired.scene.host.run(&format!("ip link del {CARD}")).unwrap();
        wired.instance.wait_event("card_gone", "network/lan", CARD).unwrap();
        wired.scene.rewire().unwrap();
        wait_until(
            LIMIT,
            || format!("{round} times an event that the card is back"),
            || {
                let events = wired.instance.events()?;
                let back = events.iter().filter(|e| e["kind"] == "card_back").count();
                Ok((back >= round).then_some(()))
            },
        )
        .unwrap();
        wired.tap = Tap::open(&wired.scene.outside, LAN_CARD).unwrap();
        wired.lan_mac = mac(&wired.scene.outside, LAN_CARD).unwrap();
        flows(&mut wired);
        // The VMs' traffic is kept from the host's stack on the new card too.
        let filters = wired.scene.host.run(&format!("tc filter show dev {CARD} ingress")).unwrap();
        assert!(filters.contains("bpf"), "{filters}");
    }
    let Wired { instance, scene, .. } = wired;
    instance.down().unwrap();
    let filters = scene.host.run(&format!("tc filter show dev {CARD} ingress")).unwrap();
    assert_eq!(filters.trim(), "");
}

/// A VM with a stack on a network that its provider does his way: a single IPv4 address, routed
/// here, by a router that is nobody's neighbour by prefix.
#[test]
fn a_routed_address_with_a_router_outside_its_prefix_reaches_everybody() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    let (own4, own6): (Ipv4Addr, Ipv6Addr) =
        ("198.51.100.77".parse().unwrap(), "2001:db8:77::25".parse().unwrap());
    let (router, _) = ips(GATEWAY);
    for line in [
        format!("ip addr add fe80::1/64 dev {LAN_CARD} nodad"),
        format!("ip route add {own4}/32 dev {LAN_CARD}"),
        format!("ip route add 2001:db8:77::/64 dev {LAN_CARD}"),
        format!("ip addr add {}/32 dev lo", FAR[0]),
        format!("ip addr add {}/128 dev lo nodad", FAR[1]),
    ] {
        scene.outside.run(&line).unwrap();
    }
    let config = format!(
        "[network.provider]\nuplink = \"{CARD}\"\nprefixes = [\"{own4}/32\", \"2001:db8:77::/64\"]\n\
         gateway = [\"{router}\", \"fe80::1\"]\non_link = false\n{}\
         [vm.a]\nengine = \"external\"\nsocket = \"a.sock\"\nmac = \"{}\"\n\
         addresses = [\"{own4}\", \"{own6}\"]\n",
        driver_line(driver().as_deref()),
        written(MACS[0])
    );
    let capture = Capture::start(&scene.outside, LAN_CARD).unwrap();
    let instance = Instance::up(&scene.host, &config).unwrap();
    let a = DriverPort::connect(&instance.socket("a"), &Settings::plain()).unwrap();
    let base = Ipv4Addr::new(169, 254, 0, 1);
    let address = Address { v4: own4, prefix: 32, router: base, v6: own6 };
    let stack = Stack::start(a, MACS[0], address).unwrap();
    for to in [FAR, OUTSIDE, HOST].concat() {
        stack.ping(to).unwrap_or_else(|e| panic!("to {to}: {e}"));
    }
    for (own, far) in [IpAddr::V4(own4), IpAddr::V6(own6)].into_iter().zip(FAR) {
        stack::transfer(&scene.outside, SocketAddr::new(own, ECHO), 100_000).unwrap();
        let at = SocketAddr::new(far, 7000);
        let server = stack::serve(&scene.outside, at).unwrap();
        stack.transfer(at, 100_000).unwrap();
        server.join().unwrap().unwrap();
    }
    // Nobody but the router was looked for, in the name of somebody it can answer to.
    let (host, _) = ips(HOST);
    for frame in capture.stop().unwrap().iter().filter(|f| !f.outgoing) {
        if let Some((1, sender, target)) = arp_of(frame) {
            let probe = sender.is_unspecified() || sender == target;
            assert!(probe || (sender, target) == (host, router), "{sender} asks for {target}");
        }
        if let Some((135, source, target)) = discovery_of(frame)
            && !source.is_unspecified()
        {
            assert_eq!(target, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), "{source} asks");
        }
    }
    instance.down().unwrap();
}

#[test]
fn without_neighbours_on_link_everything_goes_to_the_gateway() {
    let _alone = lab::paths::alone().unwrap();
    let wiring = Wiring { network: "on_link = false\n".to_owned(), ..plain() };
    let mut wired = Wired::up(&wiring).unwrap();
    let (gateway4, gateway6) = ips(GATEWAY);
    let capture = Capture::start(&wired.scene.outside, LAN_CARD).unwrap();
    for family in [0, 1] {
        goes_out(&mut wired, family, OUTSIDE[family]);
        comes_in(&mut wired, family);
    }
    let frames = capture.stop().unwrap();
    let ours = || frames.iter().filter(|f| !f.outgoing);
    assert!(ours().any(|f| arp_of(f).is_some_and(|(op, _, to)| op == 1 && to == gateway4)));
    let (outside4, outside6) = ips(OUTSIDE);
    assert!(!ours().any(|f| arp_of(f).is_some_and(|(_, _, to)| to == outside4)));
    assert!(ours().any(|f| discovery_of(f).is_some_and(|(_, _, to)| to == gateway6)));
    assert!(!ours().any(|f| discovery_of(f).is_some_and(|(_, _, to)| to == outside6)));
    // The other VM is reached as ever.
    let across = tagged(vm(0)[0], vm(1)[0], 5, 10);
    wired.a.send_plain(&wired.from_a(&across)).unwrap();
    lab::wired::delivered(&mut wired.b, &across).unwrap();
    wired.instance.down().unwrap();
}

#[test]
fn the_hosts_own_gateway_is_used_and_followed() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    let (gateway4, gateway6) = ips(GATEWAY);
    let table = scene
        .network()
        .lines()
        .filter(|l| !l.starts_with("gateway"))
        .fold(String::new(), |text, line| text + line + "\n");
    let wiring = Wiring { table: Some(table), ..plain() };
    let mut wired = Wired::on(scene, &wiring).unwrap();
    let before = wired.instance.counters().unwrap();
    for family in [0, 1] {
        let frame = wired.from_a(&tagged(vm(0)[family], FAR[family], 3, 10));
        wired.a.send_plain(&frame).unwrap();
    }
    wired.a.wait_sent(LIMIT).unwrap();
    let counters = wired.instance.counters().unwrap().since(&before);
    assert_eq!(counters.get("vm/a", "drop.no_gateway"), 2, "{counters:?}");

    for (v4, v6) in [(gateway4, gateway6), ips(OUTSIDE)] {
        wired.scene.host.run(&format!("ip route replace default via {v4} dev {CARD}")).unwrap();
        // With `replace` a second IPv6 gateway would come beside the first.
        let _ = wired.scene.host.run("ip -6 route del default");
        wired.scene.host.run(&format!("ip -6 route add default via {v6} dev {CARD}")).unwrap();
        wait_until(
            LIMIT,
            || format!("gateways {v4}, {v6}: {:?}", wired.instance.ps()),
            || {
                let ps = wired.instance.ps()?;
                let gateways = ps.pointer("/networks/0/uplink/gateways");
                Ok((gateways == Some(&serde_json::json!([v4, v6]))).then_some(()))
            },
        )
        .unwrap();
        for family in [0, 1] {
            goes_out(&mut wired, family, FAR[family]);
        }
    }
    wired.instance.down().unwrap();
}

//! A card that is reached by AF_XDP: VMs in and out, the host beside them, deaths, changes, the end.
//!
//! Every other test can be run so as well: `IPVISOR_TEST_DRIVER=xdp`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::command::wait_until;
use lab::driver::{DriverPort, Settings};
use lab::frames::{self, protocol};
use lab::instance::Instance;
use lab::measure;
use lab::netns::{Netns, Snapshot};
use lab::scene::{CARD, GATEWAY, HOST, LAN_CARD, OUTSIDE, Place, Scene, vm};
use lab::stack::{self, Address, ECHO, Stack};
use lab::wired::{LIMIT, MACS, Wired, Wiring, delivered};

/// Octets of a transfer, each way.
const OCTETS: usize = 1 << 20;

fn up(scene: Scene) -> Wired {
    let wiring = Wiring {
        drivers: [Settings::plain(); 2],
        table: Some(scene.network_by(Some("xdp"))),
        ..Wiring::default()
    };
    Wired::on(scene, &wiring).unwrap()
}

fn wait_program(scene: &Scene) {
    let what = || "a card with an XDP program".to_owned();
    wait_until(LIMIT, what, || Ok(scene.has_program()?.then_some(()))).unwrap();
}

fn stack(port: DriverPort) -> Stack {
    let ([IpAddr::V4(v4), IpAddr::V6(v6)], [IpAddr::V4(router), _]) = (vm(0), GATEWAY) else {
        panic!("the scene's addresses")
    };
    Stack::start(port, MACS[0], Address { v4, prefix: 24, router, v6 }).unwrap()
}

/// Both ways, by echo and by transfers between two kernels' stacks that check every octet.
fn reach(stack: &Stack, place: &Netns, others: [IpAddr; 2]) {
    for (own, other) in vm(0).into_iter().zip(others) {
        // Who answers an echo request first asks for his neighbour; this stack then forgets why.
        stack.ping(other).unwrap();
        let pinged = measure::echo(Place::Space(place), own, 3).unwrap();
        assert_eq!((pinged.sent, pinged.received), (3, 3), "{other} to {own}");
        stack::transfer(place, SocketAddr::new(own, ECHO), OCTETS).unwrap();
        let at = SocketAddr::new(other, 7000);
        let server = stack::serve(place, at).unwrap();
        stack.transfer(at, OCTETS).unwrap();
        assert_eq!(server.join().unwrap().unwrap(), OCTETS as u64);
    }
}

fn claimed(instance: &Instance) {
    for address in vm(0) {
        instance.wait_event("address_claimed", "network/lan", &address.to_string()).unwrap();
    }
}

#[test]
fn vm_lan_and_host_reach_each_other_and_the_host_is_left_as_it_was() {
    let _alone = lab::paths::alone().unwrap();
    let scene = Scene::set().unwrap();
    scene.wait_settled().unwrap();
    let before = Snapshot::of(&scene.host).unwrap();
    let Wired { a, b: _b, tap: _tap, instance, scene, .. } = up(scene);
    let told = instance.wait_event("driver", "network/lan", "AF_XDP carries").unwrap();
    assert_eq!(told["level"], "info", "{told}");
    assert!(scene.has_program().unwrap());
    claimed(&instance);
    let stack = stack(a);
    reach(&stack, &scene.outside, OUTSIDE);
    reach(&stack, &scene.host, HOST);
    // The host's own traffic on the card is as without us.
    for (host, lan) in HOST.into_iter().zip(OUTSIDE) {
        for (place, other) in [(&scene.host, lan), (&scene.outside, host)] {
            let pinged = measure::echo(Place::Space(place), other, 3).unwrap();
            assert_eq!((pinged.sent, pinged.received), (3, 3), "host and LAN, {other}");
        }
        let at = SocketAddr::new(host, 7001);
        let server = stack::serve(&scene.host, at).unwrap();
        stack::transfer(&scene.outside, at, OCTETS).unwrap();
        assert_eq!(server.join().unwrap().unwrap(), OCTETS as u64);
    }
    let counters = instance.balanced(LIMIT).unwrap();
    for owner in ["vm/a", "uplink/lan"] {
        assert!(counters.get(owner, "delivered_bytes") > 4 * OCTETS as u64, "{counters:?}");
    }
    for name in
        ["drop.uplink_send", "drop.uplink_ring_full", "drop.vlan_tagged", "drop.rx_card_lost"]
    {
        assert_eq!(counters.get("uplink/lan", name) + counters.get("vm/a", name), 0, "{name}");
    }
    instance.down().unwrap();
    assert!(!scene.has_program().unwrap());
    let left = Snapshot::of(&scene.host).unwrap().since(&before);
    assert!(left.is_empty(), "{left}");
}

#[test]
fn a_successor_goes_on_by_af_xdp() {
    let _alone = lab::paths::alone().unwrap();
    let Wired { a, b: _b, tap: _tap, instance, scene, .. } = up(Scene::set().unwrap());
    claimed(&instance);
    let stack = stack(a);
    for _ in 0..3 {
        let before = instance.base_process().unwrap();
        instance.kill_base().unwrap();
        assert!(scene.has_program().unwrap(), "while no base lives");
        instance.wait_successor(before, LIMIT).unwrap();
        assert!(scene.has_program().unwrap());
        reach(&stack, &scene.outside, OUTSIDE);
    }
    let events = instance.events().unwrap();
    let told = events.iter().find(|e| e["kind"] == "state_damaged" || e["level"] == "error");
    assert_eq!(told, None);
    instance.down().unwrap();
}

/// A scene on a cable with this MTU.
fn wide(mtu: u16) -> Wired {
    let scene = Scene::set().unwrap();
    let drivers = [Settings::plain(); 2];
    let table = Some(scene.network_by(Some("xdp")));
    Wired::on(scene, &Wiring { mtu, drivers, table, ..Wiring::default() }).unwrap()
}

/// So many octets come from the LAN as one datagram.
fn comes_whole(mut wired: Wired, octets: usize) {
    claimed(&wired.instance);
    let message = frames::udp(OUTSIDE[0], vm(0)[0], (7, 9), &vec![7; octets]);
    let datagram = frames::datagram(OUTSIDE[0], vm(0)[0], protocol::UDP, message);
    wired.tap.send(&wired.from_lan(&datagram)).unwrap();
    delivered(&mut wired.a, &datagram).unwrap();
    wired.instance.down().unwrap();
}

#[test]
fn a_jumbo_frame_comes_by_af_xdp_in_pieces_and_arrives_whole() {
    let _alone = lab::paths::alone().unwrap();
    let wired = wide(9000);
    wired.instance.wait_event("driver", "network/lan", "AF_XDP carries").unwrap();
    assert!(wired.scene.has_program().unwrap());
    comes_whole(wired, 8900);
}

#[test]
fn a_card_that_af_xdp_cannot_serve_is_served_all_the_same() {
    let _alone = lab::paths::alone().unwrap();
    let wired = wide(12_000);
    let told = wired.instance.wait_event("driver", "network/lan", "MTU").unwrap();
    assert_eq!(told["level"], "warning", "{told}");
    assert!(!wired.scene.has_program().unwrap());
    comes_whole(wired, 11_900);
}

#[test]
fn a_card_that_comes_back_is_served_by_af_xdp_again() {
    let _alone = lab::paths::alone().unwrap();
    let Wired { a, b: _b, tap, instance, scene, .. } = up(Scene::set().unwrap());
    claimed(&instance);
    let stack = stack(a);
    drop(tap);
    scene.host.run(&format!("ip link del {CARD}")).unwrap();
    instance.wait_event("card_gone", "network/lan", "").unwrap();
    scene.rewire().unwrap();
    for (space, card) in [(&scene.host, CARD), (&scene.outside, LAN_CARD)] {
        space.run(&format!("ip link set {card} up")).unwrap();
    }
    instance.wait_event("card_back", "network/lan", "").unwrap();
    wait_program(&scene);
    let answered = || measure::echo(Place::Space(&scene.outside), vm(0)[0], 1);
    let what = || "an echo after the card came back".to_owned();
    let limit = Duration::from_secs(20);
    wait_until(limit, what, || Ok((answered()?.received == 1).then_some(()))).unwrap();
    reach(&stack, &scene.outside, OUTSIDE);
    instance.down().unwrap();
}

//! The host may be a router; what it would forward to a VM or for one is not the base's.
//!
//! ```text
//!  outside ── eth1 (the base's card) host, ip_forward = 1  eth2 ── elsewhere
//!                                    198.51.100.1                  198.51.100.2
//! ```
#![allow(clippy::needless_range_loop, reason = "the family, in several tables")]

use std::net::IpAddr;

use lab::capture::Tap;
use lab::frames::{self, Mac};
use lab::netns::{Netns, cable, mac};
use lab::scene::{OUTSIDE, Scene, vm};

use super::stage::{Door, Place, Stage, owner_of};
use super::table::datagram;

/// The host's card and address towards elsewhere, and who is there.
const CARD: &str = "eth2";
const NEAR: [&str; 2] = ["198.51.100.1", "2001:db8:9::1"];
const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:9::2"];

struct Router {
    stage: Stage,
    /// On the far end of the second cable.
    tap: Tap,
    far_mac: Mac,
    near_mac: Mac,
    _elsewhere: Netns,
}

fn router() -> Router {
    let scene = Scene::set().unwrap();
    let elsewhere = Netns::new().unwrap();
    cable((&scene.host, CARD), (&elsewhere, "far0")).unwrap();
    elsewhere.sysctl("net.ipv6.conf.all.disable_ipv6", "1").unwrap();
    for (address, bits) in NEAR.into_iter().zip(["24", "64 nodad"]) {
        scene.host.run(&format!("ip addr add {address}/{bits} dev {CARD}")).unwrap();
    }
    for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        scene.host.sysctl(name, "1").unwrap();
    }
    let far_mac = mac(&elsewhere, "far0").unwrap();
    let text = far_mac.map(|o| format!("{o:02x}")).join(":");
    for address in FAR {
        scene.host.run(&format!("ip neigh add {address} lladdr {text} dev {CARD}")).unwrap();
    }
    let tap = Tap::open(&elsewhere, "far0").unwrap();
    let near_mac = mac(&scene.host, CARD).unwrap();
    Router { stage: Stage::on(scene), tap, far_mac, near_mac, _elsewhere: elsewhere }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_the_host_would_forward_to_a_vm_is_dropped_by_name() {
    let mut r = router();
    for (family, far) in FAR.into_iter().enumerate() {
        for to in [vm(0)[family], vm(1)[family]] {
            let from = ip(far);
            let datagram = datagram(from, to, &r.stage.mark());
            r.tap.send(&frames::carry(r.near_mac, r.far_mac, &datagram)).unwrap();
            let what = format!("from elsewhere, {from}, through the host to {to}");
            r.stage.sent(what, Door::Host, &["drop.host_forwarded"], None);
        }
    }
    assert_eq!(r.stage.end(), 4);
}

#[test]
fn all_addresses_of_the_host_are_the_hosts() {
    let mut r = router();
    for (family, near) in NEAR.into_iter().enumerate() {
        let (near, own) = (ip(near), vm(0)[family]);
        // A VM reaches it on whichever of its cards, and is reached from it.
        let to_host = datagram(own, near, &r.stage.mark());
        let frame = r.stage.w.from_a(&to_host);
        let what = format!("{own} to {near}");
        r.stage.send(what, Door::Vm, &frame, &["to_host"], Some(Place::Host));
        let from_host = datagram(near, own, &r.stage.mark());
        let what = format!("{near} to {own}");
        r.stage.send(what, Door::Host, &from_host, &["to_vm"], Some(Place::A));
        // A VM may not say it, and nobody on the LAN.
        let forged = datagram(near, vm(1)[family], &r.stage.mark());
        let frame = r.stage.w.from_a(&forged);
        let what = format!("{near} said by a VM");
        r.stage.send(what, Door::Vm, &frame, &["drop.source_not_own"], None);
        let forged = datagram(near, own, &r.stage.mark());
        let frame = r.stage.w.from_lan(&forged);
        let what = format!("{near} said on the LAN");
        r.stage.send(what, Door::Card, &frame, &["drop.source_in_list"], None);
    }
    assert_eq!(r.stage.end(), 8);
}

#[test]
fn a_host_that_forwards_is_no_way_around_the_base() {
    let mut r = router();
    for family in 0..2 {
        // To a VM from outside: once, by the base.
        let (outside, to) = (OUTSIDE[family], vm(1)[family]);
        let datagram_in = datagram(outside, to, &r.stage.mark());
        let frame = r.stage.w.from_lan(&datagram_in);
        r.stage.send(format!("{outside} to {to}"), Door::Card, &frame, &["to_vm"], owner_of(to));
        // From a VM to elsewhere: by the LAN's gateway, not by the host next door.
        let (own, far) = (vm(0)[family], ip(FAR[family]));
        let datagram_out = datagram(own, far, &r.stage.mark());
        let frame = r.stage.w.from_a(&datagram_out);
        r.stage.send(format!("{own} to {far}"), Door::Vm, &frame, &["to_uplink"], Some(Place::Lan));
    }
    // Nothing of it was seen elsewhere.
    while let Some(frame) = r.tap.receive(std::time::Duration::ZERO).unwrap() {
        assert!(!frame.bytes.windows(4).any(|w| w == b"mark"), "{:02x?}", frame.bytes);
    }
    assert_eq!(r.stage.end(), 4);
}

//! What the LAN hears when an instance comes up, before any guest has said anything.

use std::net::IpAddr;
use std::time::Duration;

use lab::capture::{Capture, Frame};
use lab::command::wait_until;
use lab::frames::{ARP, IP6};
use lab::instance::Instance;
use lab::netns::mac;
use lab::scene::{LAN_CARD, Pair, Scene, vm};

use crate::stage::{LIMIT, Turn, machine, status, told};

/// Whether the frame asks on the LAN who has `address`, in nobody's name.
fn probes(frame: &Frame, address: IpAddr) -> bool {
    let bytes = &frame.bytes;
    let kind = bytes.get(12..14).unwrap_or_default();
    match address {
        // Operation 1, sender 0.0.0.0, target the address.
        IpAddr::V4(a) => {
            kind == ARP.to_be_bytes()
                && bytes.get(20..22) == Some(&[0, 1])
                && bytes.get(28..32) == Some(&[0; 4])
                && bytes.get(38..42) == Some(&a.octets())
        }
        // A neighbour solicitation from ::.
        IpAddr::V6(a) => {
            kind == IP6.to_be_bytes()
                && bytes.get(22..38) == Some(&[0; 16])
                && bytes.get(54) == Some(&135)
                && bytes.get(62..78) == Some(&a.octets())
        }
    }
}

/// Whether the frame tells everybody on the LAN who has `address`.
fn announces(frame: &Frame, address: IpAddr) -> bool {
    let bytes = &frame.bytes;
    match address {
        IpAddr::V4(a) => {
            bytes.get(12..14) == Some(&ARP.to_be_bytes())
                && bytes.get(28..32) == Some(&a.octets())
                && bytes.get(38..42) == Some(&a.octets())
        }
        IpAddr::V6(a) => {
            bytes.get(12..14) == Some(&IP6.to_be_bytes())
                && bytes.get(54) == Some(&136)
                && bytes.get(62..78) == Some(&a.octets())
        }
    }
}

/// A VM that `up` does not start, so that nothing on the LAN can be of its making.
fn sleeping(number: usize) -> String {
    machine(number, "", "autostart = false")
}

#[test]
fn probing_starts_at_up_and_not_when_the_guest_asks() {
    let _turn = Turn::beside_others();
    let scene = Scene::set().unwrap();
    let capture = Capture::start(&scene.outside, LAN_CARD).unwrap();
    let instance = Instance::up(&scene.host, &(scene.network() + &sleeping(0))).unwrap();
    let came_up = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();

    for address in vm(0) {
        let probe = capture.wait_for(LIMIT, &format!("a probe for {address}"), |f| {
            !f.outgoing && probes(f, address)
        });
        let late = probe.unwrap().at.saturating_sub(came_up);
        assert!(late < Duration::from_secs(2), "{address}: {late:?} after `up`");
        capture
            .wait_for(LIMIT, &format!("an announcement of {address}"), |f| announces(f, address))
            .unwrap();
    }
    let web = status(&instance, "web");
    assert_eq!((&web["state"], &web["attached"]), (&"stopped".into(), &false.into()), "{web}");
    // None of it was said before the address had been asked for.
    let frames = capture.stop().unwrap();
    for address in vm(0) {
        let first = |wanted: &dyn Fn(&Frame) -> bool| frames.iter().position(wanted).unwrap();
        let (probed, announced) =
            (first(&|f| probes(f, address)), first(&|f| announces(f, address)));
        assert!(probed < announced, "{address}");
    }
    instance.down().unwrap();
}

#[test]
fn an_address_that_somebody_on_the_lan_has_is_refused_with_their_mac() {
    let _turn = Turn::beside_others();
    let scene = Scene::set().unwrap();
    let taken: Pair = vm(0);
    for (address, rest) in taken.into_iter().zip(["/24", "/64 nodad"]) {
        let line = format!("ip addr add dev {LAN_CARD} {address}{rest}");
        scene.outside.run(&line).unwrap();
    }
    let theirs = mac(&scene.outside, LAN_CARD).unwrap().map(|o| format!("{o:02x}")).join(":");
    let config = scene.network() + &sleeping(0) + &sleeping(1);
    let instance = Instance::up(&scene.host, &config).unwrap();

    let conflicts = wait_until(
        LIMIT,
        || crate::stage::events(&instance),
        || {
            let told = told(&instance, "network/lan", "address_conflict");
            Ok((told.len() == taken.len()).then_some(told))
        },
    );
    for (text, address) in conflicts.unwrap().iter().zip(taken) {
        assert!(text.contains(&theirs), "{text} does not name {theirs}");
        assert!(taken.iter().any(|a| text.contains(&a.to_string())), "{text}: {address}");
    }
    // The other VM's are claimed all the same.
    let claimed = wait_until(
        LIMIT,
        || crate::stage::events(&instance),
        || {
            let told = told(&instance, "network/lan", "address_claimed");
            Ok((told.len() >= 2).then_some(told))
        },
    );
    for address in vm(1) {
        let text = format!("{address} is ours");
        assert!(claimed.as_ref().unwrap().iter().any(|t| t.starts_with(&text)), "{claimed:?}");
    }
    // Whoever had them keeps them: reached from the host, by the LAN.
    for address in taken {
        scene.host.run(&format!("ping -n -c 1 -W 5 {address}")).unwrap();
    }
    instance.down().unwrap();
}

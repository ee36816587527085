//! Duplicate address detection by guests: it must succeed for what is theirs, and for nothing else.

use std::net::IpAddr;
use std::time::Duration;

use lab::command::wait_until;
use lab::guest::Guest;
use lab::scene::{GATEWAY, HOST, OUTSIDE, vm};

use crate::stage::{BOOT, LIMIT, Stage};

/// What the guest's kernel makes of an IPv6 address that it is given.
fn detect6(guest: &Guest, address: &str, prefix: u8) -> String {
    guest.run(&format!("ip -6 addr del {address}/{prefix} dev eth0")).unwrap();
    guest.ok(&format!("ip -6 addr add {address}/{prefix} dev eth0")).unwrap();
    let settled = wait_until(
        LIMIT,
        || format!("the end of the detection of {address}"),
        || {
            let shown = guest.ok(&format!("ip -o -6 addr show dev eth0 to {address}"))?;
            let open = shown.contains("tentative") && !shown.contains("dadfailed");
            Ok((!open).then_some(shown))
        },
    );
    settled.unwrap()
}

/// Whether arping finds nobody who has an IPv4 address.
fn free4(guest: &Guest, address: IpAddr) -> bool {
    let found = guest.run(&format!("arping -D -c 2 -w 3 -I eth0 {address}")).unwrap();
    assert!(found.status <= 1, "{found:?}");
    found.status == 0
}

fn link_local(guest: &Guest) -> String {
    let shown = guest.ok("ip -o -6 addr show dev eth0 scope link").unwrap();
    shown.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned()
}

#[test]
fn detection_succeeds_for_a_guests_own_addresses_and_fails_for_all_others() {
    let stage = Stage::set(&[("", ""), ("lab.dhcp=none", "")]);
    let (web, db) = (stage.guest(0), stage.guest(1));
    web.wait_for_addresses(&vm(0), BOOT).unwrap();

    // Its own: by the kernel, as the DHCP client gives it, and by arping.
    let own = vm(1);
    assert!(free4(db, own[0]), "{own:?}");
    let shown = detect6(db, &own[1].to_string(), 128);
    assert!(!shown.contains("dadfailed") && shown.contains("global"), "{shown}");

    // Its own link-local address, made by the kernel, and a second one.
    for address in [link_local(db), "fe80::db".to_owned()] {
        let shown = detect6(db, &address, 64);
        assert!(!shown.contains("dadfailed") && shown.contains("link"), "{address}: {shown}");
    }

    // Another VM's, the gateway's, the host's, another machine's, nobody's.
    for others in [vm(0), GATEWAY, HOST, OUTSIDE, vm(77)] {
        assert!(!free4(db, others[0]), "{others:?}");
        let shown = detect6(db, &others[1].to_string(), 128);
        assert!(shown.contains("dadfailed"), "{others:?}: {shown}");
        db.ok(&format!("ip -6 addr del {}/128 dev eth0", others[1])).unwrap();
    }
    // The base's own addresses on the last inch.
    assert!(!free4(db, "169.254.0.1".parse().unwrap()));
    let shown = detect6(db, "fe80::1", 64);
    assert!(shown.contains("dadfailed"), "{shown}");

    // Nobody else noticed: the other guest's addresses stand, and it is reached.
    let shown = web.ok("ip -6 addr show dev eth0").unwrap();
    assert!(!shown.contains("dadfailed") && !shown.contains("tentative"), "{shown}");
    db.ok(&format!("ip addr add {}/24 dev eth0", own[0])).unwrap();
    crate::stage::talk(db, vm(0));
}

#[test]
fn a_guest_asks_once_and_is_answered_at_once() {
    let stage = Stage::set(&[("lab.dhcp=none", "")]);
    let web = stage.guest(0);
    web.ok("tcpdump -Z root --immediate-mode -i eth0 -U -w /tmp/seen 2>/tmp/tcpdump &").unwrap();
    web.ok("timeout 20 sh -c 'until grep listening /tmp/tcpdump; do sleep 0.1; done'").unwrap();
    web.ok("dhcpcd --quiet --nodelay --nobackground eth0 >/run/dhcp.log 2>&1 </dev/null &")
        .unwrap();
    web.wait_for_addresses(&vm(0), BOOT).unwrap();
    web.ok("rdisc6 -q -1 eth0").unwrap();
    web.ok("killall tcpdump; sleep 0.2").unwrap();
    let seen =
        seen(&web.ok("tcpdump -Z root -r /tmp/seen -n -tt -v 'udp or icmp6' 2>/dev/null").unwrap());

    for (question, answer, at_most) in [
        ("Discover", "Offer", 1),
        ("Request", "ACK", 1),
        ("dhcp6 solicit", "dhcp6 advertise", 1),
        ("dhcp6 request", "dhcp6 reply", 1),
        // The kernel asks as well as the client, and rdisc6.
        ("router solicitation", "router advertisement", 9),
    ] {
        let asked: Vec<_> = seen.iter().filter(|(_, kind)| *kind == question).collect();
        assert!((1..=at_most).contains(&asked.len()), "{question}: {seen:?}");
        for (at, _) in asked {
            let answered = seen.iter().find(|(t, kind)| t >= at && *kind == answer);
            let (then, _) = answered.unwrap_or_else(|| panic!("no {answer}: {seen:?}"));
            let waited = Duration::from_secs_f64(then - at);
            println!("{question}: {answer} after {waited:?}");
            assert!(waited < Duration::from_millis(50), "{question}: {waited:?}");
        }
    }
}

/// What tcpdump shows of questions and answers, each with its time in seconds.
fn seen(text: &str) -> Vec<(f64, &'static str)> {
    const KINDS: [(&str, &str); 10] = [
        ("length 1: Discover", "Discover"),
        ("length 1: Offer", "Offer"),
        ("length 1: Request", "Request"),
        ("length 1: ACK", "ACK"),
        ("dhcp6 solicit", "dhcp6 solicit"),
        ("dhcp6 advertise", "dhcp6 advertise"),
        ("dhcp6 request", "dhcp6 request"),
        ("dhcp6 reply", "dhcp6 reply"),
        ("router solicitation", "router solicitation"),
        ("router advertisement", "router advertisement"),
    ];
    let mut found = Vec::new();
    let mut at = 0.0;
    for line in text.lines() {
        if line.starts_with(|c: char| c.is_ascii_digit()) {
            at = line.split(' ').next().unwrap().parse().unwrap();
        }
        found.extend(KINDS.iter().filter(|(text, _)| line.contains(text)).map(|(_, k)| (at, *k)));
    }
    found
}

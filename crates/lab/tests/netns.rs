//! Namespaces of the lab: wired, used from inside, and gone without trace.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use lab::command::Background;
use lab::netns::{Netns, Snapshot, cable, mac};

#[test]
fn two_namespaces_talk_over_a_cable_and_vanish_with_what_runs_inside() {
    let (paths, process);
    {
        let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
        paths = [a.path(), b.path()];
        cable((&a, "eth1"), (&b, "lan0")).unwrap();
        a.run("ip addr add 203.0.113.1/24 dev eth1").unwrap();
        b.run("ip addr add 203.0.113.2/24 dev lan0").unwrap();
        assert_ne!(mac(&a, "eth1").unwrap(), mac(&b, "lan0").unwrap());
        a.run("ping -c 1 -W 5 203.0.113.2").unwrap();

        // Sockets stay in the namespace where they were made.
        let one = a.enter(|| UdpSocket::bind("203.0.113.1:7000")).unwrap().unwrap();
        let two = b.enter(|| UdpSocket::bind("203.0.113.2:7000")).unwrap().unwrap();
        one.send_to(b"hello", "203.0.113.2:7000").unwrap();
        two.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 10];
        let (n, from) = two.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..n], from), (b"hello".as_slice(), "203.0.113.1:7000".parse().unwrap()));

        a.sysctl("net.ipv4.ip_forward", "1").unwrap();
        assert_eq!(a.run("sysctl -n net.ipv4.ip_forward").unwrap().trim(), "1");
        assert_eq!(b.run("sysctl -n net.ipv4.ip_forward").unwrap().trim(), "0");

        let mut sleeper = Background::spawn(a.command("sleep").arg("1000")).unwrap();
        process = sleeper.id();
        lab::command::wait_until(Duration::from_secs(5), String::new, || {
            Ok((!a.processes()?.is_empty()).then_some(()))
        })
        .unwrap();
        drop(a);
        sleeper.wait(Duration::from_secs(5)).unwrap();
    }
    assert!(paths.iter().all(|p| !p.exists()));
    assert!(!Path::new(&format!("/proc/{process}")).exists());
}

#[test]
fn a_snapshot_shows_each_kind_of_trace() {
    let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
    cable((&a, "eth1"), (&b, "lan0")).unwrap();
    // The kernel's own link-local address comes late.
    a.sysctl("net.ipv6.conf.eth1.disable_ipv6", "1").unwrap();
    let before = Snapshot::of(&a).unwrap();
    for line in [
        "ip addr add 203.0.113.1/24 dev eth1",
        "ip route add 198.51.100.0/24 dev eth1",
        "ip rule add from 203.0.113.1 table 9",
        "nft add table inet foreign",
        "tc qdisc add dev eth1 clsact",
        "tc filter add dev eth1 ingress prio 7 protocol ip u32 match u32 0 0",
        "ip tuntap add mode tun name t0",
        "ethtool -K eth1 tso off",
    ] {
        a.run(line).unwrap_or_else(|e| panic!("{line}: {e:?}"));
    }
    let difference = Snapshot::of(&a).unwrap().since(&before);
    for subject in [
        "+ ip addr: ",
        "+ ip route: ",
        "+ ip rule: ",
        "+ nft: ",
        "+ tc qdisc: ",
        "+ tc filter eth1 ingress: ",
        "+ ip link: ",
        "+ ethtool -k eth1: tcp-segmentation-offload: off",
    ] {
        assert!(difference.lines.iter().any(|l| l.starts_with(subject)), "{subject}: {difference}");
    }
}

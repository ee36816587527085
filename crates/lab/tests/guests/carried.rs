//! Large sends between guests: what their drivers negotiate, and that it is used.

use lab::guest::Guest;
use lab::measure::{Stream, stream};
use lab::scene::{Place, vm};

use crate::stage::Stage;

/// Octets and packets that the guest's driver has sent or received.
fn counted(guest: &Guest, direction: &str) -> (u64, u64) {
    let files = ["bytes", "packets"]
        .map(|what| format!("/sys/class/net/eth0/statistics/{direction}_{what}"))
        .join(" ");
    let text = guest.ok(&format!("cat {files}")).unwrap();
    let mut numbers = text.lines().map(|line| line.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Octets per packet since an earlier count.
fn mean(now: (u64, u64), before: (u64, u64)) -> u64 {
    (now.0 - before.0) / (now.1 - before.1).max(1)
}

#[test]
fn large_tcp_sends_between_guests_travel_whole() {
    let stage = Stage::set(&[("", ""), ("", "")]).with_addresses();
    let (web, db) = (stage.guest(0), stage.guest(1));
    for guest in [web, db] {
        let shown = guest.ok("ethtool -k eth0").unwrap();
        for feature in [
            "tx-checksumming",
            "rx-checksumming",
            "scatter-gather",
            "tcp-segmentation-offload",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "generic-segmentation-offload",
            "generic-receive-offload",
        ] {
            let line = shown.lines().find(|l| l.trim().starts_with(&format!("{feature}:")));
            let line = line.unwrap_or_else(|| panic!("no {feature} in {shown}"));
            assert!(line.contains(": on"), "{line}");
        }
    }

    for to in vm(1) {
        let sent = counted(web, "tx");
        let received = counted(db, "rx");
        let before = stage.instance.counters().unwrap();
        let rate = stream(Place::Guest(web), Place::Guest(db), to, Stream::Tcp).unwrap();
        let grown = stage.instance.counters().unwrap().since(&before);
        let carried = grown.get("vm/web", "taken_bytes") / grown.get("vm/web", "taken").max(1);
        let [sent, received] = [mean(counted(web, "tx"), sent), mean(counted(db, "rx"), received)];
        println!(
            "to {to}: {:.0} Mb/s; octets per packet: sent {sent}, carried {carried}, received {received}",
            rate.bits_per_second / 1e6
        );
        for octets in [sent, carried, received] {
            assert!(octets > 6000, "to {to}: {octets} octets per packet");
        }
        // The base cut none of them, and lost none.
        for name in ["segmented", "fragmented"] {
            assert_eq!(grown.get("vm/web", name), 0, "{grown:?}");
        }
        assert_eq!(grown.get("vm/web", "taken"), grown.get("vm/web", "to_vm") + last_inch(&grown));
    }
}

/// What the guest said to the base itself.
fn last_inch(grown: &lab::instance::Counters) -> u64 {
    grown.get("vm/web", "answered") + grown.get("vm/web", "silent")
}

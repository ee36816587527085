//! The measurements themselves, between two namespaces: right when the path works, wrong when not.

#![cfg(feature = "long")]

use lab::measure::{Rate, Stream, echo, stream};
use lab::scene::{LAN_CARD, OUTSIDE, Place, Scene};

#[test]
fn a_working_path_measures_well_and_a_cut_one_does_not() {
    let scene = Scene::set().unwrap();
    let (host, outside) = (Place::Space(&scene.host), Place::Space(&scene.outside));
    for to in OUTSIDE {
        let seen = echo(host, to, 2).unwrap();
        assert_eq!((seen.sent, seen.received), (2, 2));
        for kind in [Stream::Tcp, Stream::TcpBack, Stream::Udp] {
            let rate = stream(host, outside, to, kind).unwrap();
            assert!(
                rate.bytes >= Rate::ENOUGH && rate.lost_percent < 50.0,
                "{to} {kind:?}: {rate:?}"
            );
        }
    }
    // Everything works but the data does not arrive: what is counted is what did.
    for line in [
        "nft add table inet deaf",
        "nft add chain inet deaf in { type filter hook input priority 0 ; }",
        "nft add rule inet deaf in udp length > 1000 drop",
    ] {
        scene.outside.run(line).unwrap();
    }
    for to in OUTSIDE {
        let rate = stream(host, outside, to, Stream::Udp).unwrap();
        assert_eq!((rate.bytes, rate.lost_percent), (0, 100.0), "{to}: {rate:?}");
    }
    scene.outside.run(&format!("ip link set {LAN_CARD} down")).unwrap();
    for to in OUTSIDE {
        assert!(echo(host, to, 1).is_ok_and(|e| e.received == 0) || echo(host, to, 1).is_err());
        assert!(stream(host, outside, to, Stream::Tcp).is_err());
    }
}

//! The measurements themselves, between two namespaces: right when the path works, wrong when not.

use lab::measure::{Stream, echo, stream};
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
            assert!(rate.bytes > 100_000 && rate.lost_percent < 50.0, "{to} {kind:?}: {rate:?}");
        }
    }
    scene.outside.run(&format!("ip link set {LAN_CARD} down")).unwrap();
    for to in OUTSIDE {
        assert!(echo(host, to, 1).is_ok_and(|e| e.received == 0) || echo(host, to, 1).is_err());
        assert!(stream(host, outside, to, Stream::Tcp).is_err());
    }
}

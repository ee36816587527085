//! What is seen of a card and its LAN before anybody uses it.

use std::net::IpAddr;

use super::offloads::turn;
use super::world::{CARD, CARD_MAC, PEER_MAC, World, without_capabilities};
use crate::neighbor::Settings;
use crate::uplink::{Meddling, knock, look, programs_load};

fn addresses<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
    texts.map(|text| text.parse().unwrap())
}

#[test]
fn who_is_there_answers_and_who_is_not_does_not() {
    World::run(|world| {
        world.address();
        let settings = Settings {
            mac: CARD_MAC,
            host4: Some("203.0.113.1".parse().unwrap()),
            host6: Some("2001:db8:1::1".parse().unwrap()),
            ..Settings::default()
        };
        let [v4, v6, gone4, gone6] =
            addresses(["203.0.113.2", "2001:db8:1::2", "203.0.113.3", "2001:db8:1::3"]);
        let found = knock(world.card.index, settings, &[v4, v6, gone4, gone6]).unwrap();
        assert_eq!(found, [(v4, PEER_MAC), (v6, PEER_MAC)].into());
        // Nobody is named as the asker.
        let nobody = Settings { mac: CARD_MAC, ..Settings::default() };
        assert_eq!(knock(world.card.index, nobody, &[v4]).unwrap(), [(v4, PEER_MAC)].into());
    });
}

#[test]
fn without_the_privilege_nobody_is_asked() {
    World::run(|world| {
        without_capabilities(|| {
            let error = knock(world.card.index, Settings::default(), &[]).unwrap_err();
            assert!(error.to_string().contains("this needs CAP_NET_RAW"), "{error}");
            let error = programs_load().unwrap_err();
            assert!(error.to_string().contains("this needs CAP_BPF"), "{error}");
        });
        programs_load().unwrap();
    });
}

#[test]
fn a_card_is_described_and_nothing_is_changed() {
    World::run(|world| {
        turn("rx-udp-gro-forwarding", true);
        turn("rx-vlan-hw-parse", true);
        let seen = look(CARD, world.card.index).unwrap();
        assert_eq!(seen.driver, "veth");
        let can = |name| Meddling { name, fixed: false };
        assert_eq!(seen.merges, [can("rx-udp-gro-forwarding")]);
        assert!(seen.strips_tags.contains(&can("rx-vlan-hw-parse")), "{seen:?}");
        if let Some(xdp) = seen.xdp {
            assert!(xdp.runs(), "{xdp:?}");
        }
        assert_eq!(look(CARD, world.card.index).unwrap(), seen);
        let lo = world.netlink.link("lo").unwrap().unwrap();
        assert_eq!(
            look("lo", lo.index).unwrap().xdp.map(|xdp| xdp.runs()),
            seen.xdp.map(|_| false)
        );
        assert!(look("none", 999).is_err());
    });
}

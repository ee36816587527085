//! Netlink against a kernel, in namespaces that each test makes: needs root.

use std::net::IpAddr;
use std::os::fd::AsFd;

use super::{Address, Direction, Event, Gateway, Monitor, Route};
use crate::uplink::tests::world::{CARD, CARD_MAC, PEER, World, readable, without_capabilities};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn links_are_found_by_name_and_number_and_not_found_is_no_error() {
    World::run(|world| {
        let card = world.netlink.link(CARD).unwrap().unwrap();
        assert_eq!((card.name.as_str(), card.mac, card.mtu), (CARD, Some(CARD_MAC), 1500));
        assert!(card.up && card.carrier);
        assert_eq!(world.netlink.link_by_index(card.index).unwrap(), Some(card.clone()));
        assert!(world.netlink.links().unwrap().contains(&card));
        assert_eq!(world.netlink.link("nowhere").unwrap(), None);
        assert_eq!(world.netlink.link_by_index(4242).unwrap(), None);
        assert_eq!(world.netlink.link(PEER).unwrap(), None, "it is outside");
        assert_eq!(world.netlink.link("lo").unwrap().unwrap().mac, None);
    });
}

#[test]
fn addresses_are_listed_with_their_prefix_and_scope() {
    World::run(|world| {
        world.address();
        let index = world.card.index;
        let found: Vec<_> =
            world.netlink.addresses().unwrap().into_iter().filter(|a| a.global).collect();
        let expected = ["203.0.113.1/24", "2001:db8:1::1/64"].map(|net| Address {
            index,
            net: net.parse().unwrap(),
            global: true,
            tentative: false,
        });
        assert_eq!(found, expected);
    });
}

#[test]
fn gateways_come_in_order_of_preference() {
    World::run(|world| {
        world.address();
        let index = world.card.index;
        assert_eq!(world.netlink.gateways().unwrap(), []);
        world.netlink.add_gateway(ip("203.0.113.254"), index, 200);
        world.netlink.add_gateway(ip("203.0.113.253"), index, 100);
        world.netlink.add_gateway(ip("fe80::1"), index, 300);
        let gateway = |address, for_ip4, metric| Gateway { index, address, for_ip4, metric };
        assert_eq!(
            world.netlink.gateways().unwrap(),
            [
                gateway(ip("203.0.113.253"), true, 100),
                gateway(ip("203.0.113.254"), true, 200),
                gateway(ip("fe80::1"), false, 300),
            ]
        );
    });
}

#[test]
fn a_route_is_replaced_if_it_is_ours_and_left_alone_if_not() {
    World::run(|world| {
        world.address();
        let (card, lo) = (world.card.index, world.netlink.link("lo").unwrap().unwrap().index);
        world.netlink.add_address(card, "203.0.113.3/24");
        world.netlink.add_address(card, "2001:db8:1::3/64");
        for (prefix, sources) in [
            ("203.0.113.10/32", ["203.0.113.1", "203.0.113.3"]),
            ("2001:db8:1::10/128", ["2001:db8:1::1", "2001:db8:1::3"]),
        ] {
            let prefix: ipnet::IpNet = prefix.parse().unwrap();
            for source in sources {
                world.netlink.replace_route(prefix, card, Some(ip(source))).unwrap();
            }
            let routes = world.netlink.routes_through(card).unwrap();
            let last = Route { prefix, source: Some(ip(sources[1])) };
            assert_eq!(routes.iter().filter(|r| r.prefix == prefix).collect::<Vec<_>>(), [&last]);
            let others = world.netlink.routes_through(lo).unwrap();
            assert!(others.iter().all(|r| r.prefix != prefix), "{others:?}");
            // The kernel answers with the address that the last one carries.
            let socket = std::net::UdpSocket::bind(match prefix.addr() {
                IpAddr::V4(_) => "0.0.0.0:0",
                IpAddr::V6(_) => "[::]:0",
            })
            .unwrap();
            socket.connect((prefix.addr(), 9)).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), ip(sources[1]));

            let error = world.netlink.replace_route(prefix, lo, None).unwrap_err();
            assert_eq!(error.errno(), libc::EEXIST, "{prefix}");
            world.netlink.remove_route(prefix, lo).unwrap();
            socket.connect((prefix.addr(), 9)).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), ip(sources[1]), "still there");
            world.netlink.remove_route(prefix, card).unwrap();
            world.netlink.remove_route(prefix, card).unwrap();
            world.netlink.replace_route(prefix, lo, None).unwrap();
        }
    });
}

#[test]
fn the_routes_through_a_device_are_listed_with_their_sources() {
    World::run(|world| {
        world.address();
        let (card, lo) = (world.card.index, world.netlink.link("lo").unwrap().unwrap().index);
        assert_eq!(world.netlink.routes_through(lo).unwrap(), []);
        let route = |prefix: &str, source: Option<&str>| Route {
            prefix: prefix.parse().unwrap(),
            source: source.map(ip),
        };
        let ours = [
            route("198.51.100.7/32", Some("203.0.113.1")),
            route("198.51.100.64/28", None),
            route("2001:db8:2::7/128", Some("2001:db8:1::1")),
            route("2001:db8:3::/64", None),
        ];
        for Route { prefix, source } in ours {
            world.netlink.replace_route(prefix, card, source).unwrap();
        }
        world.netlink.replace_route("198.51.100.8/32".parse().unwrap(), lo, None).unwrap();
        let found = world.netlink.routes_through(card).unwrap();
        for route in ours {
            assert!(found.contains(&route), "{route:?} in {found:?}");
        }
        assert!(found.iter().all(|r| r.prefix.addr() != ip("198.51.100.8")), "{found:?}");
    });
}

#[test]
fn changes_are_heard() {
    World::run(|world| {
        let mut monitor = Monitor::open().unwrap();
        // The making of the world may still be echoing.
        while monitor.next().unwrap().is_some() {}
        let mut hear = |expected: &dyn Fn(&Event) -> bool| {
            loop {
                match monitor.next().unwrap() {
                    Some(event) if expected(&event) => return,
                    Some(_) => {}
                    None => assert!(readable(monitor.as_fd()), "an event in time"),
                }
            }
        };
        let index = world.card.index;
        world.netlink.set_link_mtu(index, 1400).unwrap();
        hear(&|e| matches!(e, Event::LinkChanged(l) if l.index == index && l.mtu == 1400));
        world.outside(|netlink| netlink.set_link_up(world.peer.index, false).unwrap());
        hear(&|e| matches!(e, Event::LinkChanged(l) if l.index == index && l.up && !l.carrier));
        world.outside(|netlink| netlink.set_link_up(world.peer.index, true).unwrap());
        hear(&|e| matches!(e, Event::LinkChanged(l) if l.index == index && l.carrier));
        let net = "203.0.113.1/24".parse().unwrap();
        world.netlink.add_address(index, "203.0.113.1/24");
        hear(&|e| matches!(e, Event::AddressAdded(a) if a.net == net && a.global));
        world.netlink.add_gateway(ip("203.0.113.254"), index, 0);
        hear(&|e| *e == Event::RouteChanged);
        world.netlink.remove_address(index, "203.0.113.1/24");
        hear(&|e| matches!(e, Event::AddressRemoved(a) if a.net == net));
        world.netlink.remove_link(index);
        hear(&|e| matches!(e, Event::LinkGone { index: i, name } if *i == index && name == CARD));
    });
}

#[test]
fn a_link_without_a_place_for_filters_has_none() {
    World::run(|world| {
        let index = world.card.index;
        assert!(!world.netlink.has_clsact(index).unwrap());
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(world.netlink.filters(index, direction).unwrap(), []);
        }
        world.netlink.remove_bpf_filter(index, 1, 1).unwrap();
        world.netlink.remove_clsact(index).unwrap();
        assert!(world.netlink.add_clsact(index).unwrap());
        assert!(!world.netlink.add_clsact(index).unwrap());
        assert!(world.netlink.has_clsact(index).unwrap());
    });
}

#[test]
fn who_may_not_is_told_what_is_missing() {
    World::run(|world| {
        let index = world.card.index;
        without_capabilities(|| {
            let error = super::Netlink::open().unwrap().set_link_mtu(index, 1400).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "cannot set the MTU of link number {index}: this needs CAP_NET_ADMIN; {}",
                    super::SETCAP
                )
            );
        });
    });
}

//! Finding neighbours, and keeping what is known of them true.

use super::*;

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

fn known(bench: &mut Bench, hop: impl Into<IpAddr>) -> Mac {
    match bench.lookup(hop, VM) {
        Lookup::Known(mac) => mac,
        other => panic!("{other:?}"),
    }
}

/// A bench that knows the gateway by `OTHER`.
fn with_gateway() -> Bench {
    let mut bench = Bench::holding();
    assert_eq!(bench.lookup(GATEWAY4, VM), Lookup::Resolving);
    bench.feed(&arp(OTHER, true, GATEWAY4, VM4)).unwrap();
    let resolved = Event::Resolved { hop: GATEWAY4.into(), mac: OTHER };
    assert_eq!(bench.told(), [resolved]);
    bench.sent();
    bench
}

#[test]
fn the_next_hop_is_the_neighbour_on_link_and_else_the_gateway_of_its_family() {
    let lan = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        Lan::new(settings)
    };
    let usual = lan(|_| {});
    let hop = |lan: &Lan, a: &str| lan.next_hop(a.parse().unwrap()).map(|a| a.to_string());
    assert_eq!(hop(&usual, "203.0.113.20"), Ok("203.0.113.20".into()));
    assert_eq!(hop(&usual, "198.51.100.7"), Ok("203.0.113.1".into()));
    assert_eq!(hop(&usual, "2001:db8:1::20"), Ok("2001:db8:1::20".into()));
    assert_eq!(hop(&usual, "2001:db8:2::7"), Ok("fe80::1".into()));

    let off_link = lan(|s| s.on_link = false);
    assert_eq!(hop(&off_link, "203.0.113.20"), Ok("203.0.113.1".into()));
    assert_eq!(hop(&off_link, "203.0.113.1"), Ok("203.0.113.1".into()));
    assert_eq!(hop(&off_link, "2001:db8:1::20"), Ok("fe80::1".into()));

    let routed = lan(|s| {
        s.prefixes = ["203.0.113.20/32", "2001:db8:1::20/128"].map(|p| p.parse().unwrap()).into();
        s.gateway4 = Some(OUTSIDE4);
    });
    assert_eq!(hop(&routed, "203.0.113.20"), Ok("198.51.100.7".into()));
    assert_eq!(hop(&routed, "2001:db8:1::20"), Ok("fe80::1".into()));

    let lone = lan(|s| (s.gateway4, s.gateway6) = (None, None));
    assert_eq!(hop(&lone, "203.0.113.20"), Ok("203.0.113.20".into()));
    assert_eq!(hop(&lone, "198.51.100.7"), Err(Counter::DropNoGateway));
    assert_eq!(hop(&lone, "2001:db8:2::7"), Err(Counter::DropNoGateway));
}

#[test]
fn an_unknown_neighbour_is_asked_for_by_broadcast_in_the_name_of_the_vm() {
    let mut bench = Bench::holding();
    assert_eq!(bench.lookup(PEER4, VM), Lookup::Resolving);
    assert_eq!(bench.sent(), [arp_request(Mac::BROADCAST, VM4, PEER4)]);
    assert_eq!(bench.lookup(PEER4, VM), Lookup::Resolving);
    assert_eq!(bench.sent(), [], "asked once, not once a datagram");
    assert_eq!(bench.feed(&arp(OTHER, true, PEER4, VM4)), Ok(Heard::Silent));
    assert_eq!(bench.told(), [Event::Resolved { hop: PEER4.into(), mac: OTHER }]);
    assert_eq!(known(&mut bench, PEER4), OTHER);
    bench.pass(millis(10_000));
    assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
}

#[test]
fn an_ip6_neighbour_is_asked_for_in_its_group_with_the_cards_address() {
    let mut bench = Bench::holding();
    let asker = Asker { address: Some(VM6.into()), ..VM };
    assert_eq!(bench.lookup(PEER6, asker), Lookup::Resolving);
    let group: Ipv6Addr = "ff02::1:ff00:20".parse().unwrap();
    let to = Mac([0x33, 0x33, 0xff, 0, 0, 0x20]);
    let link = Some(CARD);
    let expected = Seen::Ns { to, source: VM6, destination: group, target: PEER6, link };
    assert_eq!(bench.sent(), [expected]);
    bench.feed(&na(OTHER, PEER6, VM6, SOLICITED, Some(OTHER))).unwrap();
    assert_eq!(bench.told(), [Event::Resolved { hop: PEER6.into(), mac: OTHER }]);
    assert_eq!(known(&mut bench, PEER6), OTHER);
}

#[test]
fn where_the_vms_address_is_not_on_link_or_not_held_the_host_asks() {
    let asked_by = |change: fn(&mut Settings), asker: IpAddr, hop: IpAddr| {
        let mut bench = Bench::holding();
        let mut settings = settings();
        change(&mut settings);
        bench.lan.reconfigure(bench.now, settings);
        bench.lookup(hop, Asker { address: Some(asker), ..VM });
        match bench.sent().pop().unwrap() {
            Seen::Arp { sender, .. } => sender.to_string(),
            Seen::Ns { source, .. } => source.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let (hop4, hop6) = (GATEWAY4.into(), GATEWAY6.into());
    assert_eq!(asked_by(|_| {}, VM4.into(), hop4), VM4.to_string());
    assert_eq!(asked_by(|_| {}, VM6.into(), hop6), VM6.to_string());
    assert_eq!(asked_by(|_| {}, PEER4.into(), hop4), HOST4.to_string(), "not held");
    assert_eq!(asked_by(|s| s.on_link = false, VM4.into(), hop4), HOST4.to_string());
    assert_eq!(asked_by(|s| s.prefixes.clear(), VM6.into(), hop6), HOST6.to_string());
    let nobody: fn(&mut Settings) = |s| {
        (s.on_link, s.host4, s.host6) = (false, None, None);
    };
    assert_eq!(asked_by(nobody, VM4.into(), hop4), "0.0.0.0");
    assert_eq!(asked_by(nobody, VM6.into(), hop6), HOST_LINK.to_string());
    let nothing: fn(&mut Settings) = |s| {
        (s.on_link, s.host6, s.link_local) = (false, None, None);
    };
    assert_eq!(asked_by(nothing, VM6.into(), hop6), "fe80::ff:fe00:1", "made from the MAC");
}

#[test]
fn a_dead_neighbour_is_asked_three_times_and_then_left_alone_for_a_while() {
    let mut bench = Bench::holding();
    bench.lookup(PEER4, VM);
    bench.pass(millis(1999));
    assert_eq!(bench.sent(), vec![arp_request(Mac::BROADCAST, VM4, PEER4); 3]);
    assert_eq!(bench.told(), []);
    assert_eq!(bench.lookup(PEER4, VM), Lookup::Resolving);
    bench.pass(millis(1));
    assert_eq!(bench.told(), [Event::Unreachable { hop: PEER4.into() }]);
    bench.pass(FAILED_TIME - millis(1));
    assert_eq!(bench.lookup(PEER4, VM), Lookup::Unreachable);
    assert_eq!(bench.sent(), []);
    bench.pass(millis(1));
    assert_eq!(bench.lookup(PEER4, VM), Lookup::Resolving);
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_neighbour_that_was_dead_and_speaks_up_is_reached_at_once() {
    let mut bench = Bench::holding();
    bench.lookup(PEER4, VM);
    bench.pass(millis(2000));
    assert_eq!(bench.lookup(PEER4, VM), Lookup::Unreachable);
    bench.feed(&arp(OTHER, false, PEER4, PEER4)).unwrap();
    assert_eq!(known(&mut bench, PEER4), OTHER);
}

#[test]
fn an_old_answer_is_checked_by_unicast_while_traffic_goes_on() {
    let mut bench = with_gateway();
    bench.pass(REACHABLE_TIME - millis(1));
    assert_eq!(known(&mut bench, GATEWAY4), OTHER);
    assert_eq!(bench.sent(), []);
    bench.pass(millis(1));
    assert_eq!(known(&mut bench, GATEWAY4), OTHER);
    assert_eq!(bench.sent(), [arp_request(OTHER, VM4, GATEWAY4)]);
    bench.feed(&arp(OTHER, true, GATEWAY4, VM4)).unwrap();
    bench.pass(REACHABLE_TIME - millis(1));
    assert_eq!(known(&mut bench, GATEWAY4), OTHER);
    assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
}

#[test]
fn a_neighbour_in_use_is_noted_for_a_successor_each_time_it_answers() {
    let mut bench = with_gateway();
    let noted = [(GATEWAY4.into(), Some(OTHER))];
    assert_eq!(std::mem::take(&mut bench.learned), noted);
    bench.pass(REACHABLE_TIME);
    known(&mut bench, GATEWAY4);
    bench.feed(&arp(OTHER, true, GATEWAY4, VM4)).unwrap();
    assert_eq!(bench.learned, noted);
}

#[test]
fn a_neighbour_that_left_is_asked_for_by_unicast_then_by_broadcast_and_then_given_up() {
    let mut bench = with_gateway();
    bench.pass(REACHABLE_TIME);
    known(&mut bench, GATEWAY4);
    bench.pass(millis(2999));
    assert_eq!(known(&mut bench, GATEWAY4), OTHER);
    assert_eq!(bench.sent(), vec![arp_request(OTHER, VM4, GATEWAY4); 3]);
    bench.pass(millis(1));
    assert_eq!(bench.lookup(GATEWAY4, VM), Lookup::Resolving);
    bench.pass(millis(2000));
    assert_eq!(bench.sent(), vec![arp_request(Mac::BROADCAST, VM4, GATEWAY4); 3]);
    assert_eq!(bench.told(), [Event::Unreachable { hop: GATEWAY4.into() }]);
    assert_eq!(bench.lookup(GATEWAY4, VM), Lookup::Unreachable);
}

#[test]
fn nobody_is_asked_about_neighbours_that_nobody_talks_to() {
    let mut bench = with_gateway();
    bench.pass(Duration::from_secs(3600));
    assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
    assert_eq!(bench.lan.next_deadline(), None);
}

#[test]
fn a_changed_mac_of_the_gateway_is_followed_whichever_way_it_is_told() {
    for frame in [
        arp(THIRD, false, GATEWAY4, GATEWAY4),
        arp(THIRD, true, GATEWAY4, GATEWAY4),
        arp(THIRD, false, GATEWAY4, PEER4),
        arp(THIRD, true, GATEWAY4, VM4),
    ] {
        let mut bench = with_gateway();
        bench.feed(&frame).unwrap();
        assert_eq!(known(&mut bench, GATEWAY4), THIRD);
    }
    for (frame, followed) in [
        (na(THIRD, GATEWAY6, ndp::ALL_NODES, OVERRIDE, Some(THIRD)), true),
        (na(THIRD, GATEWAY6, VM6, OVERRIDE | SOLICITED, Some(THIRD)), true),
        (ns(THIRD, GATEWAY6, PEER6, Some(THIRD)), true),
        (na(THIRD, GATEWAY6, VM6, SOLICITED, Some(THIRD)), false),
        (na(THIRD, GATEWAY6, ndp::ALL_NODES, 0, Some(THIRD)), false),
    ] {
        let mut bench = Bench::holding();
        bench.lookup(GATEWAY6, VM);
        bench.feed(&na(OTHER, GATEWAY6, VM6, OVERRIDE | SOLICITED, Some(OTHER))).unwrap();
        bench.sent();
        bench.feed(&frame).unwrap();
        assert_eq!(known(&mut bench, GATEWAY6), if followed { THIRD } else { OTHER });
        if !followed {
            let asked = bench.sent();
            assert!(matches!(asked[..], [Seen::Ns { to: OTHER, .. }]), "doubted: {asked:?}");
        }
    }
}

#[test]
fn an_advertisement_without_a_link_address_confirms_what_is_known_and_makes_nothing_known() {
    let mut bench = Bench::holding();
    bench.lookup(GATEWAY6, VM);
    bench.feed(&na(OTHER, GATEWAY6, VM6, SOLICITED, None)).unwrap();
    assert_eq!(bench.lookup(GATEWAY6, VM), Lookup::Resolving);
    bench.feed(&na(OTHER, GATEWAY6, VM6, SOLICITED, Some(OTHER))).unwrap();
    bench.pass(REACHABLE_TIME);
    known(&mut bench, GATEWAY6);
    bench.feed(&na(OTHER, GATEWAY6, VM6, SOLICITED, None)).unwrap();
    bench.sent();
    bench.pass(millis(20_000));
    assert_eq!((bench.sent(), bench.told().len()), (vec![], 1));
}

#[test]
fn nothing_is_learned_of_those_nobody_asked_for() {
    let mut bench = Bench::holding();
    for last in 20..200 {
        let sender = Ipv4Addr::new(203, 0, 113, last);
        bench.feed(&arp(OTHER, false, sender, sender)).unwrap();
        bench.feed(&arp(OTHER, true, sender, VM4)).unwrap();
        let sender = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last.into());
        bench.feed(&ns(OTHER, sender, PEER6, Some(OTHER))).unwrap();
        bench.feed(&na(OTHER, sender, VM6, 0x60, Some(OTHER))).unwrap();
    }
    assert_eq!(bench.lan.cache.len(), 0);
}

#[test]
fn a_mac_address_that_cannot_be_a_neighbours_is_not_believed() {
    for wrong in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0; 6]), CARD] {
        let mut bench = Bench::holding();
        bench.lookup(PEER4, VM);
        bench.lookup(PEER6, VM);
        let mut frame = arp(wrong, true, PEER4, VM4);
        frame[6..12].copy_from_slice(&OTHER.0);
        bench.feed(&frame).unwrap();
        bench.feed(&na(OTHER, PEER6, VM6, 0x60, Some(wrong))).unwrap();
        bench.feed(&ns(OTHER, PEER6, VM6, Some(wrong))).unwrap();
        assert_eq!(bench.lookup(PEER4, VM), Lookup::Resolving, "{wrong}");
        assert_eq!(bench.lookup(PEER6, VM), Lookup::Resolving, "{wrong}");
    }
}

#[test]
fn after_the_link_came_back_what_was_known_is_doubted_but_used() {
    let mut bench = with_gateway();
    bench.lan.link_restored(bench.now);
    bench.pass(millis(0));
    bench.sent();
    assert_eq!(known(&mut bench, GATEWAY4), OTHER);
    assert_eq!(bench.sent(), [arp_request(OTHER, VM4, GATEWAY4)]);
}

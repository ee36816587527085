//! VMs that scan, a LAN that forges, bytes of any kind.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn dead(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n).into()
}

fn asker(port: u16) -> Asker {
    Asker { owner: Owner::Port(PortId(port)), address: Some(VM4.into()) }
}

#[test]
fn a_vm_that_scans_dead_addresses_slows_nobody_and_learns_that_each_is_dead() {
    let mut bench = Bench::holding();
    let (scanner, neighbor) = (asker(1), asker(2));
    bench.lookup(GATEWAY4, scanner);
    bench.feed(&arp(OTHER, true, GATEWAY4, VM4)).unwrap();
    bench.told();
    let mut waiting = HashSet::new();
    let mut refused = 0;
    for n in 0..1000 {
        match bench.lookup(dead(n), scanner) {
            Lookup::Resolving => assert!(waiting.insert(dead(n))),
            Lookup::Unreachable => refused += 1,
            Lookup::Known(_) => panic!("nobody is there"),
        }
        assert_eq!(bench.lookup(GATEWAY4, scanner), Lookup::Known(OTHER), "its own other flow");
        bench.pass(millis(3));
    }
    assert!(refused < 1000 - ASK_BURST as usize);
    // Another VM, and the same one, find somebody who lives.
    assert_eq!(bench.lookup(PEER4, neighbor), Lookup::Resolving);
    bench.feed(&arp(THIRD, true, PEER4, VM4)).unwrap();
    assert_eq!(bench.lookup(PEER4, neighbor), Lookup::Known(THIRD));
    assert_eq!(bench.lookup(PEER4, scanner), Lookup::Known(THIRD));
    bench.pass(millis(10_000));
    for event in bench.told() {
        match event {
            Event::Unreachable { hop } => assert!(waiting.remove(&hop), "told twice: {hop}"),
            Event::Resolved { hop, .. } => assert_eq!(hop, IpAddr::V4(PEER4)),
            other => panic!("{other:?}"),
        }
    }
    assert!(waiting.is_empty());
    // Three requests for each at most, and no more than the allowance.
    let requests = bench.sent().len();
    assert!(requests <= 3 * (ASK_BURST as usize + 3 * ASK_PER_SECOND as usize) + 10, "{requests}");
}

#[test]
fn a_scan_fills_no_more_than_its_share_and_its_oldest_go_first() {
    let mut bench = Bench::holding();
    let scanner = asker(1);
    for n in 0..3000 {
        bench.lookup(dead(n), scanner);
        bench.pass(millis(1));
        assert!(bench.lan.cache.len() <= MAX_UNRESOLVED);
    }
    let first = bench.told().first().copied();
    assert_eq!(first, Some(Event::Unreachable { hop: dead(0) }));
}

#[test]
fn what_two_vms_ask_for_is_not_pushed_out_by_the_scan_of_one() {
    let mut bench = Bench::holding();
    bench.lookup(PEER4, asker(1));
    bench.lookup(PEER4, asker(2));
    for n in 0..2000 {
        bench.lookup(dead(n), asker(1));
        bench.lookup(PEER4, asker(1));
    }
    bench.feed(&arp(THIRD, true, PEER4, VM4)).unwrap();
    assert_eq!(bench.lookup(PEER4, asker(2)), Lookup::Known(THIRD));
}

#[test]
fn a_table_that_many_scanners_fill_keeps_the_neighbours_that_live() {
    let mut bench = Bench::holding();
    bench.lookup(PEER4, asker(500));
    bench.feed(&arp(THIRD, true, PEER4, VM4)).unwrap();
    for port in 0..40 {
        for n in 0..200 {
            bench.lookup(dead(u32::from(port) * 1000 + n), asker(port));
        }
    }
    assert_eq!(bench.lan.cache.len(), MAX_ENTRIES);
    assert_eq!(bench.lookup(PEER4, asker(500)), Lookup::Known(THIRD));
    bench.pass(millis(10_000));
    assert_eq!(bench.lan.cache.len(), 1, "the dead are forgotten");
}

#[test]
fn the_allowance_of_an_owner_comes_back_with_time_and_no_further_than_the_burst() {
    let mut bench = Bench::holding();
    let mut begun = |wait: Duration, from: u32| {
        bench.pass(wait);
        (from..from + 1000)
            .filter(|n| bench.lookup(dead(*n), asker(1)) == Lookup::Resolving)
            .count()
    };
    assert_eq!(begun(millis(0), 0), ASK_BURST as usize);
    assert_eq!(begun(millis(0), 1000), 0);
    assert_eq!(begun(millis(1000), 2000), ASK_PER_SECOND as usize);
    assert_eq!(begun(Duration::from_secs(3600), 3000), ASK_BURST as usize);
}

#[test]
fn a_scan_that_used_up_its_allowance_still_finds_the_gateway() {
    let mut bench = Bench::holding();
    for n in 0..1000 {
        bench.lookup(dead(n), asker(1));
    }
    assert_eq!(bench.lookup(dead(2000), asker(1)), Lookup::Unreachable);
    assert_eq!(bench.lookup(GATEWAY4, asker(1)), Lookup::Resolving);
}

#[test]
fn malformed_and_forged_messages_are_refused_by_name() {
    let mut bench = Bench::holding();
    let short = &arp(OTHER, false, PEER4, VM4)[..14 + 27];
    assert_eq!(bench.feed(short), Err(Counter::DropArpMalformed));
    let mut token_ring = arp(OTHER, false, PEER4, VM4);
    token_ring[15] = 6;
    assert_eq!(bench.feed(&token_ring), Err(Counter::DropArpMalformed));
    let mut reverse = arp(OTHER, false, PEER4, VM4);
    reverse[21] = 3;
    assert_eq!(bench.feed(&reverse), Ok(Heard::Silent));

    let refused = |message: Vec<u8>, addresses: (Ipv6Addr, Ipv6Addr), hop_limit: u8| {
        let frame = frame6(OTHER, &craft::icmp6(addresses, hop_limit, message));
        assert_eq!(Bench::holding().feed(&frame), Err(Counter::DropAnswerMalformed));
    };
    let group = ndp::solicited_node(VM6);
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0], &VM6.octets()[..]].concat();
    let with = |rest: &[u8]| [&solicitation, rest].concat();
    let any = Ipv6Addr::UNSPECIFIED;
    refused(solicitation.clone(), (PEER6, group), 64);
    refused(solicitation[..23].to_vec(), (PEER6, group), 255);
    refused(with(&[1, 0, 0, 0, 0, 0, 0, 0]), (PEER6, group), 255);
    refused(with(&[1, 2, 0, 0, 0, 0, 0, 0]), (PEER6, group), 255);
    refused(with(&[1, 1, 2, 0, 0, 0, 0, 2]), (any, group), 255);
    refused(solicitation.clone(), (any, VM6), 255);
    refused(solicitation.clone(), (ndp::ALL_NODES, group), 255);
    let mut code = solicitation.clone();
    code[1] = 1;
    refused(code, (PEER6, group), 255);
    let mut multicast = solicitation.clone();
    multicast[8..24].copy_from_slice(&group.octets());
    refused(multicast, (PEER6, group), 255);
    let advertisement = [&[136, 0, 0, 0, 0x60, 0, 0, 0], &PEER6.octets()[..]].concat();
    refused(advertisement, (PEER6, ndp::ALL_NODES), 255);

    let mut broken = ns(OTHER, PEER6, VM6, Some(OTHER));
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(bench.feed(&broken), Err(Counter::DropAnswerMalformed));
    let message = craft::icmp6_message((PEER6, group), solicitation);
    for fragment in [[58, 0, 0, 0, 0, 0, 0, 1], [58, 0, 0, 1, 0, 0, 0, 1]] {
        let datagram = craft::ip6((PEER6, group), 44, 255, &[&fragment, &message[..]].concat());
        let refused = bench.feed(&frame6(OTHER, &datagram));
        assert_eq!(refused, Err(Counter::DropNdpFragmented));
    }
    assert_eq!(bench.sent(), []);
}

#[test]
fn redirects_router_advertisements_and_all_other_datagrams_go_their_way_unheard() {
    let mut bench = Bench::holding();
    for kind in [1, 128, 129, 131, 132, 133, 134, 137, 143] {
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat();
        let frame = frame6(OTHER, &craft::icmp6((GATEWAY6, ndp::ALL_NODES), 255, message));
        assert_eq!(bench.feed(&frame), Ok(Heard::Elsewhere), "type {kind}");
    }
    let frame = craft::frame4(&craft::udp4((PEER4, VM4), (5, 7), b"x"));
    assert_eq!(bench.feed(&frame), Ok(Heard::Elsewhere));
    assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
}

/// What a test does to a LAN.
#[derive(Clone, Debug)]
enum Step {
    Lookup {
        hop: u8,
        port: u16,
    },
    Claim(u8),
    Release(u8),
    Pass(u16),
    /// A well-formed frame with some octets changed.
    Frame {
        kind: u8,
        a: u8,
        b: u8,
        from: u8,
        flags: u8,
        changes: Vec<(u16, u8)>,
    },
    Link(bool),
    Moved,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec((any::<u16>(), any::<u8>()), 0..3);
    prop_oneof![
        4 => (0u8..12, 0u16..3).prop_map(|(hop, port)| Step::Lookup { hop, port }),
        1 => (0u8..12).prop_map(Step::Claim),
        1 => (0u8..12).prop_map(Step::Release),
        3 => (0u16..5000).prop_map(Step::Pass),
        8 => (0u8..7, 0u8..12, 0u8..12, 0u8..5, any::<u8>(), changes)
            .prop_map(|(kind, a, b, from, flags, changes)| {
                Step::Frame { kind, a, b, from, flags, changes }
            }),
        1 => any::<bool>().prop_map(Step::Link),
        1 => Just(Step::Moved),
    ]
}

fn four(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, n)
}

fn six(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n.into())
}

fn either(n: u8) -> IpAddr {
    if n.is_multiple_of(2) { four(n).into() } else { six(n).into() }
}

fn frame(kind: u8, a: u8, b: u8, from: u8, flags: u8) -> Vec<u8> {
    let from = Mac([2, 0, 0, 0, 0, from]);
    let link = (flags & 1 == 0).then_some(from);
    let (a6, b6) = (if a == 0 { Ipv6Addr::UNSPECIFIED } else { six(a) }, six(b));
    match kind {
        0 => arp(from, false, if a == 0 { Ipv4Addr::UNSPECIFIED } else { four(a) }, four(b)),
        1 => arp(from, true, four(a), four(b)),
        2 => ns(from, a6, b6, link.filter(|_| a != 0)),
        3 => na(from, b6, a6, flags, link),
        4 => na(from, b6, ndp::ALL_NODES, flags & 0x20, link),
        5 => super::groups::query(GATEWAY6, a6, flags.into()),
        _ => craft::frame4(&craft::udp4((four(a), four(b)), (5, 7), b"x")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever VMs and the LAN do: nothing panics; every frame that goes out is a message that
    /// smoltcp reads, from the card (see `read`); who waits for a hop is told what became of it; and no address is answered for that is not held.
    #[test]
    fn any_course_of_events_leaves_no_datagram_waiting(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new(settings());
        let mut waiting = HashSet::new();
        for step in steps {
            let held: Vec<_> =
                (0..12).filter(|n| bench.lan.claims.is_held(either(*n))).map(either).collect();
            match step {
                Step::Lookup { hop, port } => {
                    if bench.lookup(either(hop), asker(port)) == Lookup::Resolving {
                        waiting.insert(either(hop));
                    }
                }
                Step::Claim(n) => bench.claim(either(n)),
                Step::Release(n) => bench.release(either(n)),
                Step::Pass(time) => bench.pass(millis(time.into())),
                Step::Link(up) => bench.lan.set_link(bench.now, up),
                Step::Moved => bench.lan.link_restored(bench.now),
                Step::Frame { kind, a, b, from, flags, changes } => {
                    let mut frame = frame(kind, a, b, from, flags);
                    for (at, value) in changes {
                        let len = frame.len();
                        frame[usize::from(at) % len] ^= value;
                    }
                    let _ = bench.feed(&frame);
                    for seen in bench.sent() {
                        let spoken: IpAddr = match seen {
                            Seen::Arp { sender, .. } => sender.into(),
                            Seen::Na { source, .. } => source.into(),
                            other => panic!("only answers are sent at once: {other:?}"),
                        };
                        prop_assert!(held.contains(&spoken), "{spoken} is not held");
                    }
                }
            }
            bench.sent();
            for event in bench.told() {
                if let Event::Resolved { hop, .. } | Event::Unreachable { hop } = event {
                    waiting.remove(&hop);
                }
            }
        }
        bench.pass(millis(60_000));
        for event in bench.told() {
            if let Event::Resolved { hop, .. } | Event::Unreachable { hop } = event {
                waiting.remove(&hop);
            }
        }
        prop_assert!(waiting.is_empty(), "{waiting:?}");
        prop_assert_eq!(bench.lan.next_deadline(), None);
    }
}

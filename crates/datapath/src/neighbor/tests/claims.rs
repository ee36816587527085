//! Addresses probed for, held, announced, answered for and defended.

use super::*;

const ANY4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456);
const GROUP_MAC: Mac = Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

fn probe4() -> Seen {
    arp_request(Mac::BROADCAST, ANY4, VM4)
}

fn announcement4() -> Seen {
    arp_request(Mac::BROADCAST, VM4, VM4)
}

fn probe6() -> Seen {
    Seen::Ns { to: GROUP_MAC, source: ANY6, destination: GROUP, target: VM6, link: None }
}

fn announcement6() -> Seen {
    let flags = NdiscNeighborFlags::OVERRIDE;
    Seen::Na { to: ALL_NODES_MAC, source: VM6, destination: ndp::ALL_NODES, flags }
}

fn without_reports(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter().filter(|s| !matches!(s, Seen::Report { .. })).collect()
}

#[test]
fn an_address_is_probed_for_and_then_held_and_announced() {
    for (address, probe, announcement) in
        [(IpAddr::V4(VM4), probe4(), announcement4()), (IpAddr::V6(VM6), probe6(), announcement6())]
    {
        let mut bench = Bench::new(settings());
        bench.claim(address);
        bench.told();
        assert_eq!(bench.lan.standing(address), Some(Standing::Probing));
        bench.pass(millis(1199));
        assert_eq!(without_reports(bench.sent()), vec![probe; 3]);
        assert_eq!((bench.told(), bench.lan.standing(address)), (vec![], Some(Standing::Probing)));
        bench.pass(millis(1));
        assert_eq!(bench.told(), [Event::Claimed { address, port: PORT }]);
        assert_eq!(bench.lan.standing(address), Some(Standing::Held));
        assert_eq!(without_reports(bench.sent()), vec![announcement.clone()]);
        bench.pass(ANNOUNCE_WAIT);
        assert_eq!(without_reports(bench.sent()), [announcement]);
        bench.pass(Duration::from_secs(3600));
        assert_eq!((bench.sent(), bench.lan.next_deadline()), (vec![], None));
    }
}

#[test]
fn without_a_link_nothing_is_claimed_and_probing_begins_when_it_comes() {
    for (address, probe, rival) in [
        (IpAddr::V4(VM4), probe4(), arp(OTHER, true, VM4, ANY4)),
        (IpAddr::V6(VM6), probe6(), na(OTHER, VM6, ndp::ALL_NODES, 0x20, Some(OTHER))),
    ] {
        // From the start, and lost in the midst of probing.
        for before in [0, 1000] {
            let mut bench = Bench::new(settings());
            bench.lan.set_link(bench.now, before > 0);
            bench.claim(address);
            bench.pass(millis(before));
            bench.lan.set_link(bench.now, false);
            bench.sent();
            bench.told();
            bench.pass(Duration::from_secs(10));
            assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
            assert_eq!(bench.lan.next_deadline(), None, "nobody wakes for nothing");
            assert_eq!(bench.lan.standing(address), Some(Standing::Probing));

            bench.lan.set_link(bench.now, true);
            bench.pass(millis(1199));
            assert_eq!(without_reports(bench.sent()), vec![probe.clone(); 3]);
            assert_eq!(bench.told(), []);
            bench.feed(&rival).unwrap();
            assert_eq!(bench.told(), [Event::Conflict { address, port: PORT, mac: OTHER }]);
        }
    }
}

#[test]
fn a_question_for_a_neighbour_ends_without_a_link_too() {
    let mut bench = Bench::holding();
    bench.lan.set_link(bench.now, false);
    bench.lookup(PEER4, VM);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.told(), [Event::Unreachable { hop: PEER4.into() }]);
}

#[test]
fn a_held_address_is_answered_for_with_the_cards_mac() {
    let mut bench = Bench::holding();
    let answer =
        |target| Seen::Arp { to: OTHER, reply: true, sender: VM4, target_mac: OTHER, target };
    assert_eq!(bench.feed(&arp(OTHER, false, PEER4, VM4)), Ok(Heard::Answered));
    assert_eq!(bench.sent(), [answer(PEER4)]);
    // A probe for a duplicate is answered too: that is what it is for.
    assert_eq!(bench.feed(&arp(OTHER, false, ANY4, VM4)), Ok(Heard::Answered));
    assert_eq!(bench.sent(), [answer(ANY4)]);

    let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    let answer = Seen::Na { to: OTHER, source: VM6, destination: PEER6, flags };
    assert_eq!(bench.feed(&ns(OTHER, PEER6, VM6, Some(OTHER))), Ok(Heard::Answered));
    assert_eq!(bench.feed(&ns(OTHER, PEER6, VM6, None)), Ok(Heard::Answered));
    assert_eq!(bench.sent(), [answer.clone(), answer]);
    assert_eq!(bench.feed(&ns(OTHER, ANY6, VM6, None)), Ok(Heard::Answered));
    assert_eq!(bench.sent(), [announcement6()], "to all nodes, solicited flag clear");
    assert_eq!(bench.told(), []);
}

#[test]
fn nothing_else_is_answered_for() {
    let mut bench = Bench::holding();
    for target in [PEER4, HOST4, GATEWAY4, OUTSIDE4, ANY4] {
        assert_eq!(bench.feed(&arp(OTHER, false, PEER4, target)), Ok(Heard::Silent));
    }
    assert_eq!(bench.feed(&arp(OTHER, true, PEER4, VM4)), Ok(Heard::Silent));
    for target in [PEER6, HOST6, HOST_LINK, GATEWAY6, ndp::link_local(CARD)] {
        assert_eq!(bench.feed(&ns(OTHER, PEER6, target, Some(OTHER))), Ok(Heard::Silent));
    }
    assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
}

#[test]
fn an_address_that_is_probed_for_is_not_answered_for_nor_asked_in_the_name_of() {
    let mut bench = Bench::new(settings());
    bench.claim(VM4);
    bench.claim(VM6);
    bench.pass(millis(100));
    bench.sent();
    assert_eq!(bench.feed(&arp(OTHER, false, PEER4, VM4)), Ok(Heard::Silent));
    assert_eq!(bench.feed(&ns(OTHER, PEER6, VM6, Some(OTHER))), Ok(Heard::Silent));
    bench.lookup(PEER4, VM);
    assert_eq!(bench.sent(), [arp_request(Mac::BROADCAST, HOST4, PEER4)]);
    assert_eq!(
        bench.lan.standing(VM6.into()),
        Some(Standing::Probing),
        "being asked is no conflict"
    );
}

#[test]
fn an_address_that_somebody_has_or_wants_is_refused_with_the_mac_that_has_it() {
    let frames4 = [
        arp(OTHER, true, VM4, ANY4),
        arp(OTHER, false, VM4, PEER4),
        arp(OTHER, false, VM4, VM4),
        arp(OTHER, false, ANY4, VM4),
    ];
    let frames6 = [
        na(OTHER, VM6, ndp::ALL_NODES, 0x20, Some(OTHER)),
        na(OTHER, VM6, ndp::ALL_NODES, 0, None),
        ns(OTHER, ANY6, VM6, None),
        ns(OTHER, VM6, PEER6, Some(OTHER)),
    ];
    let cases = frames4.map(|f| (IpAddr::V4(VM4), f)).into_iter();
    for (address, frame) in cases.chain(frames6.map(|f| (IpAddr::V6(VM6), f))) {
        let mut bench = Bench::new(settings());
        bench.claim(address);
        bench.pass(millis(1000));
        bench.told();
        assert_eq!(bench.feed(&frame), Ok(Heard::Silent));
        assert_eq!(bench.told(), [Event::Conflict { address, port: PORT, mac: OTHER }]);
        assert_eq!(bench.lan.standing(address), Some(Standing::Refused { mac: OTHER }));
        bench.pass(millis(10));
        bench.sent();
        bench.feed(&frame).unwrap();
        bench.feed(&arp(THIRD, false, PEER4, VM4)).unwrap();
        bench.feed(&ns(THIRD, PEER6, VM6, Some(THIRD))).unwrap();
        bench.pass(millis(60_000));
        assert_eq!((without_reports(bench.sent()), bench.told()), (vec![], vec![]));
        // Claimed anew, the other one gone:
        bench.claim(address);
        bench.pass(millis(1200));
        assert_eq!(bench.told(), [Event::Claimed { address, port: PORT }]);
    }
}

#[test]
fn who_has_a_refused_address_is_a_neighbour_like_others() {
    let mut bench = Bench::new(settings());
    bench.claim(VM4);
    bench.feed(&arp(OTHER, true, VM4, ANY4)).unwrap();
    bench.told();
    bench.lookup(VM4, VM);
    bench.feed(&arp(OTHER, true, VM4, HOST4)).unwrap();
    assert_eq!(bench.told(), [Event::Resolved { hop: VM4.into(), mac: OTHER }]);
}

#[test]
fn a_held_address_that_somebody_uses_is_defended_once_in_ten_seconds_and_kept() {
    for (address, frame, defence) in [
        (IpAddr::V4(VM4), arp(OTHER, false, VM4, VM4), announcement4()),
        (IpAddr::V4(VM4), arp(OTHER, true, VM4, PEER4), announcement4()),
        (IpAddr::V6(VM6), na(OTHER, VM6, ndp::ALL_NODES, 0x20, Some(OTHER)), announcement6()),
        (IpAddr::V6(VM6), ns(OTHER, VM6, PEER6, Some(OTHER)), announcement6()),
    ] {
        let mut bench = Bench::holding();
        let contested = Event::Contested { address, port: PORT, mac: OTHER };
        assert_eq!(bench.feed(&frame), Ok(Heard::Answered));
        assert_eq!((bench.sent(), bench.told()), (vec![defence.clone()], vec![contested]));
        for _ in 0..9 {
            bench.pass(millis(1000));
            assert_eq!(bench.feed(&frame), Ok(Heard::Silent));
        }
        assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
        bench.pass(millis(1000));
        assert_eq!(bench.feed(&frame), Ok(Heard::Answered));
        assert_eq!((bench.sent(), bench.told()), (vec![defence], vec![contested]));
        assert_eq!(bench.lan.standing(address), Some(Standing::Held));
    }
}

#[test]
fn a_successor_holds_what_its_predecessor_held_without_a_word_on_the_lan() {
    let mut bench = Bench::holding();
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.sent(), bench.told()), (vec![], vec![]));
    assert_eq!(bench.feed(&arp(OTHER, false, PEER4, VM4)), Ok(Heard::Answered));
    bench.sent();
    bench.claim(VM4);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.sent(), [], "claiming what is held changes nothing");
}

#[test]
fn a_released_address_is_not_answered_for() {
    let mut bench = Bench::holding();
    bench.release(VM4);
    bench.release(VM6);
    assert_eq!(bench.feed(&arp(OTHER, false, PEER4, VM4)), Ok(Heard::Silent));
    assert_eq!(bench.feed(&ns(OTHER, PEER6, VM6, Some(OTHER))), Ok(Heard::Silent));
    assert_eq!(bench.lan.standing(VM4.into()), None);
    bench.claim(VM4);
    bench.release(VM4);
    bench.pass(millis(60_000));
    assert_eq!(without_reports(bench.sent()), []);
}

#[test]
fn frames_that_come_back_to_their_sender_are_no_rivals() {
    let mut bench = Bench::new(settings());
    bench.claim(VM4);
    bench.claim(VM6);
    bench.pass(millis(500));
    bench.told();
    assert_eq!(bench.feed(&arp(CARD, false, ANY4, VM4)), Ok(Heard::Silent));
    assert_eq!(bench.feed(&ns(CARD, ANY6, VM6, None)), Ok(Heard::Silent));
    assert_eq!(bench.feed(&na(CARD, VM6, ndp::ALL_NODES, 0x20, Some(CARD))), Ok(Heard::Silent));
    assert_eq!(bench.told(), []);
}

#[test]
fn another_mac_of_the_card_is_announced_for_all_that_is_held() {
    let mut bench = Bench::holding();
    bench.lan.reconfigure(bench.now, Settings { mac: THIRD, ..settings() });
    bench.pass(millis(60_000));
    let sent = without_reports(bench.sent()); // `read` checks that they come from the new one
    assert_eq!(sent.iter().filter(|s| **s == announcement4()).count(), 2);
    assert_eq!(sent.iter().filter(|s| **s == announcement6()).count(), 2);
    assert_eq!(sent.len(), 4);
    bench.lan.reconfigure(bench.now, Settings { mac: THIRD, ..settings() });
    assert_eq!(bench.lan.next_deadline(), None, "nothing else changed");
}

#[test]
fn probing_starts_again_when_the_link_comes_back() {
    let mut bench = Bench::new(settings());
    bench.claim(VM4);
    bench.pass(millis(1000));
    bench.sent();
    bench.lan.link_restored(bench.now);
    bench.pass(millis(1199));
    assert_eq!((bench.sent(), bench.told()), (vec![probe4(); 3], vec![]));
    bench.pass(millis(1));
    assert_eq!(bench.told(), [Event::Claimed { address: VM4.into(), port: PORT }]);
}

/// Two bases on one LAN: what one sends, the other hears.
struct Cable {
    sides: [(Lan, Outbox); 2],
    now: Instant,
    events: [Vec<Event>; 2],
}

impl Cable {
    fn new() -> Self {
        let side = |mac| (Lan::new(Settings { mac, ..settings() }), Outbox::new());
        Self { sides: [side(CARD), side(OTHER)], now: Instant::now(), events: Default::default() }
    }

    fn claim(&mut self, side: usize, address: IpAddr) {
        let (lan, out) = &mut self.sides[side];
        lan.claim(self.now, address, PORT, out);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let mut busy = false;
            for from in 0..2 {
                let (lan, out) = &mut self.sides[from];
                lan.poll(self.now, out);
                let frames: Vec<_> = out.frames().map(|(h, d)| [&h[..], d].concat()).collect();
                self.events[from].extend(out.events());
                out.clear();
                busy |= !frames.is_empty();
                let (lan, out) = &mut self.sides[1 - from];
                for frame in frames {
                    let (ethernet, payload) = parse(&frame).unwrap();
                    lan.input(self.now, &ethernet, &payload, out).unwrap();
                }
            }
            if busy {
                continue;
            }
            match self.sides.iter().filter_map(|s| s.0.next_deadline()).min() {
                Some(due) if due <= end => self.now = self.now.max(due),
                _ => break,
            }
        }
        self.now = end;
    }

    fn told(&mut self, side: usize) -> Vec<Event> {
        let events = std::mem::take(&mut self.events[side]);
        let group = |e: &Event| matches!(e, Event::JoinGroup { .. } | Event::LeaveGroup { .. });
        events.into_iter().filter(|e| !group(e)).collect()
    }
}

#[test]
fn of_two_bases_the_first_keeps_an_address_and_the_second_is_refused_it() {
    for address in [IpAddr::V4(VM4), IpAddr::V6(VM6)] {
        let mut cable = Cable::new();
        cable.claim(0, address);
        cable.pass(millis(5000));
        assert_eq!(cable.told(0), [Event::Claimed { address, port: PORT }]);
        cable.claim(1, address);
        cable.pass(millis(60_000));
        assert_eq!(cable.told(1), [Event::Conflict { address, port: PORT, mac: CARD }]);
        assert_eq!(cable.told(0), [], "undisturbed");
        assert_eq!(cable.sides[0].0.standing(address), Some(Standing::Held));
    }
}

#[test]
fn of_two_bases_that_probe_at_once_never_both_get_the_address() {
    for address in [IpAddr::V4(VM4), IpAddr::V6(VM6)] {
        for apart in [0, 1, 399, 400, 1199] {
            let mut cable = Cable::new();
            cable.claim(0, address);
            cable.pass(millis(apart));
            cable.claim(1, address);
            cable.pass(millis(60_000));
            let held = |side: usize| cable.sides[side].0.standing(address) == Some(Standing::Held);
            assert!(!(held(0) && held(1)), "{apart} ms apart");
            let told = [cable.told(0), cable.told(1)].concat();
            let conflicts = told.iter().filter(|e| matches!(e, Event::Conflict { .. }));
            assert!(conflicts.count() > 0, "{told:?}");
        }
    }
}

#[test]
fn two_bases_find_each_others_vms() {
    for (mine, theirs) in [(IpAddr::V4(VM4), IpAddr::V4(PEER4)), (VM6.into(), PEER6.into())] {
        let mut cable = Cable::new();
        cable.claim(0, mine);
        cable.claim(1, theirs);
        cable.pass(millis(5000));
        let (lan, out) = &mut cable.sides[0];
        let asker = Asker { owner: VM.owner, address: Some(mine) };
        assert_eq!(lan.lookup(cable.now, theirs, asker, out), Lookup::Resolving);
        cable.pass(millis(10));
        assert!(cable.told(0).contains(&Event::Resolved { hop: theirs, mac: OTHER }));
    }
}

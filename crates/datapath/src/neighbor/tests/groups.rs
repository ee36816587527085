//! The groups that are joined, and the reports of them.

use super::*;

const ALL_ROUTERS: Mac = Mac([0x33, 0x33, 0, 0, 0, 0x16]);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456);
const GROUP_MAC: Mac = Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;

/// A listener query as a router sends it.
pub fn query(source: Ipv6Addr, group: Ipv6Addr, code: u16) -> Vec<u8> {
    let destination = if group.is_unspecified() { ndp::ALL_NODES } else { group };
    let [c0, c1] = code.to_be_bytes();
    let message = [&[130, 0, 0, 0, c0, c1, 0, 0], &group.octets()[..], &[2, 125, 0, 0]].concat();
    let message = craft::icmp6_message((source, destination), message);
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    let datagram = craft::ip6((source, destination), 0, 1, &[&alert, &message[..]].concat());
    frame6(OTHER, &datagram)
}

fn reports(bench: &mut Bench) -> Vec<Vec<(u8, Ipv6Addr)>> {
    let records = |seen| match seen {
        Seen::Report { to: ALL_ROUTERS, source: HOST_LINK, records } => Some(records),
        _ => None,
    };
    bench.sent().into_iter().filter_map(records).collect()
}

fn joined(mac: Mac, group: Ipv6Addr) -> Event {
    Event::JoinGroup { mac, group }
}

fn all_nodes() -> (Mac, Ipv6Addr) {
    (Mac([0x33, 0x33, 0, 0, 0, 1]), ndp::ALL_NODES)
}

#[test]
fn a_group_is_joined_and_reported_twice_when_its_first_address_is_claimed() {
    let mut bench = Bench::new(settings());
    bench.claim(VM6);
    let (mac, group) = all_nodes();
    assert_eq!(bench.told(), [joined(mac, group), joined(GROUP_MAC, GROUP)]);
    bench.pass(millis(0));
    assert_eq!(reports(&mut bench), [[(TO_EXCLUDE, GROUP)]]);
    // Another address with the same last octets.
    bench.claim(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 9, 9, 0x12, 0x3456));
    assert_eq!(bench.told(), []);
    bench.pass(millis(999));
    assert_eq!(reports(&mut bench).len(), 0);
    bench.pass(millis(1));
    assert_eq!(reports(&mut bench), [[(TO_EXCLUDE, GROUP)]]);
    bench.pass(millis(60_000));
    assert_eq!(reports(&mut bench).len(), 0);
    bench.claim(VM4);
    assert!(!bench.told().iter().any(|e| matches!(e, Event::JoinGroup { .. })));
}

#[test]
fn a_group_is_left_with_its_last_address() {
    let mut bench = Bench::new(settings());
    let twin = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 9, 9, 0x12, 0x3456);
    bench.claim(VM6);
    bench.claim(twin);
    bench.pass(millis(60_000));
    bench.sent();
    bench.told();
    bench.release(twin);
    bench.release(twin);
    assert_eq!(bench.told(), []);
    bench.release(VM6);
    let (mac, group) = all_nodes();
    let left =
        [Event::LeaveGroup { mac: GROUP_MAC, group: GROUP }, Event::LeaveGroup { mac, group }];
    assert_eq!(bench.told(), left);
    bench.pass(millis(60_000));
    assert_eq!(reports(&mut bench), [[(TO_INCLUDE, GROUP)], [(TO_INCLUDE, GROUP)]]);
}

#[test]
fn a_query_is_answered_for_all_groups_within_the_time_it_allows() {
    let mut bench = Bench::new(settings());
    let addresses = (0..130).map(|n| (IpAddr::V6(Ipv6Addr::from(0x2001_0db8u128 << 96 | n)), PORT));
    bench.lan.restore_claimed(addresses, &mut bench.out);
    bench.collect();
    assert_eq!(bench.told().len(), 131, "joined again after a restart");
    assert_eq!(bench.lan.next_deadline(), None, "nothing has changed, nothing is reported");
    assert_eq!(bench.feed(&query(GATEWAY6, Ipv6Addr::UNSPECIFIED, 10_000)), Ok(Heard::Silent));
    assert_eq!(bench.sent(), []);
    bench.pass(millis(10_000));
    let reports = reports(&mut bench);
    assert_eq!(reports.iter().map(Vec::len).collect::<Vec<_>>(), [60, 60, 10], "fit the MTU");
    let mut groups: Vec<_> = reports.concat();
    assert!(groups.iter().all(|(record, _)| *record == IS_EXCLUDE));
    groups.dedup();
    assert_eq!(groups.len(), 130);
}

#[test]
fn a_query_for_one_group_is_answered_for_that_one_and_only_by_who_listens() {
    let mut bench = Bench::holding();
    bench.feed(&query(GATEWAY6, GROUP, 1000)).unwrap();
    bench.pass(millis(1000));
    assert_eq!(reports(&mut bench), [[(IS_EXCLUDE, GROUP)]]);
    bench.feed(&query(GATEWAY6, ndp::solicited_node(PEER6), 1000)).unwrap();
    assert_eq!(bench.lan.next_deadline(), None);
    let mut deaf = Bench::new(settings());
    deaf.feed(&query(GATEWAY6, Ipv6Addr::UNSPECIFIED, 1000)).unwrap();
    assert_eq!(deaf.lan.next_deadline(), None);
}

#[test]
fn many_queries_at_once_are_answered_once() {
    let mut bench = Bench::holding();
    for code in [5000, 100, 0xffff, 0] {
        bench.feed(&query(GATEWAY6, GROUP, code)).unwrap();
        bench.feed(&query(GATEWAY6, Ipv6Addr::UNSPECIFIED, code)).unwrap();
    }
    bench.pass(millis(10_000));
    assert_eq!(reports(&mut bench), [[(IS_EXCLUDE, GROUP)]]);
}

#[test]
fn a_query_that_no_router_of_the_link_can_have_sent_is_refused() {
    let mut bench = Bench::holding();
    let refused = Err(Counter::DropAnswerMalformed);
    assert_eq!(bench.feed(&query(PEER6, GROUP, 1000)), refused);
    let mut beyond = query(GATEWAY6, GROUP, 1000);
    beyond[14 + 7] = 2;
    assert_eq!(bench.feed(&beyond), refused);
    let mut broken = query(GATEWAY6, GROUP, 1000);
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(bench.feed(&broken), refused);
    assert_eq!(bench.lan.next_deadline(), None);
}

#[test]
fn without_a_link_local_address_reports_come_from_the_unspecified_one() {
    let mut bench = Bench::new(Settings { link_local: None, ..settings() });
    bench.claim(VM6);
    bench.pass(millis(0));
    let any = Ipv6Addr::UNSPECIFIED;
    assert!(
        bench.sent().iter().any(|s| matches!(s, Seen::Report { source, .. } if *source == any))
    );
}

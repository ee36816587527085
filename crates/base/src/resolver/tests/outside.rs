//! What is asked outside: servers that answer, are silent, fail, lie, or have more to say.

use super::octets::*;
use super::*;

const DATA: [u8; 4] = [192, 0, 2, 80];

fn asks() -> Vec<u8> {
    question(5, "Www.Example.com", A, Some(4096))
}

fn right(asked: &Asked) -> Vec<u8> {
    answer(&asked.message, NO_ERROR, &[(A, 60, DATA.to_vec())], &[])
}

#[test]
fn an_answer_is_told_in_the_askers_own_words_and_kept_as_long_as_it_says() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &asks()).only_asked();
    let sent = Message::read(&asked.message);
    assert_eq!((sent.name.as_str(), sent.kind, sent.edns), ("www.example.com.", A, Some(1232)));
    assert_eq!((asked.server.to_string().as_str(), asked.carrier), (SERVERS[0], Carrier::Udp));
    let came = bench.heard(asked.ticket, &right(&asked));
    assert_eq!(came.closed, [asked.ticket]);
    let told = came.only_told();
    assert_eq!((told.id, told.name.as_str(), told.authoritative), (5, "Www.Example.com.", false));
    assert_eq!((told.answers, told.edns), (vec![(A, 60, DATA.to_vec())], Some(1232)));

    bench.passes(Duration::from_secs(59));
    let kept = bench.told(0, &question(6, "www.example.com", A, Some(512)));
    assert_eq!((kept.id, kept.answers), (6, vec![(A, 1, DATA.to_vec())]));
    bench.passes(Duration::from_secs(1));
    bench.ask(0, &asks()).only_asked();
}

#[test]
fn several_who_ask_the_same_are_told_by_one_inquiry() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &asks()).only_asked();
    let second = bench.ask(0, &question(6, "www.example.COM", A, Some(512)));
    assert!(second.asked.is_empty() && second.told.is_empty());
    let told = bench.heard(asked.ticket, &right(&asked)).told;
    assert_eq!(told.iter().map(|t| t.id).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn what_nobody_asked_for_is_not_believed() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &asks()).only_asked();
    let mut wrong_id = right(&asked);
    wrong_id[0] ^= 1;
    let other = question(Message::read(&asked.message).id, "www.example.org", A, None);
    let other_name = answer(&other, NO_ERROR, &[(A, 60, vec![6, 6, 6, 6])], &[]);
    for forged in [wrong_id, other_name, asked.message.clone(), vec![0; 11]] {
        let came = bench.heard(asked.ticket, &forged);
        assert!(came.told.is_empty() && came.closed.is_empty(), "{came:?}");
    }
    let unknown = bench.heard(Ticket(999), &right(&asked));
    assert!(unknown.told.is_empty());
    assert_eq!(bench.heard(asked.ticket, &right(&asked)).only_told().data(), [DATA]);
    assert!(bench.heard(asked.ticket, &right(&asked)).told.is_empty(), "only once");
}

#[test]
fn dead_servers_are_told_as_a_failure_within_two_seconds() {
    let mut bench = Bench::new();
    let begun = bench.now;
    let mut asked = vec![bench.ask(0, &asks()).only_asked()];
    let told = loop {
        bench.now = bench.answering.deadline().expect("something is due");
        assert!(bench.now - begun < Duration::from_secs(2), "after {:?}", bench.now - begun);
        let came = bench.poll();
        asked.extend(came.asked);
        if let Some(told) = came.told.first() {
            break told.clone();
        }
    };
    assert_eq!((told.id, told.code), (5, FAILURE));
    let to: Vec<_> = asked.iter().map(|asked| asked.server.to_string()).collect();
    assert_eq!(to, [SERVERS[0], SERVERS[1], SERVERS[0], SERVERS[1]]);
    assert_eq!(bench.answering.deadline(), None, "nothing is left behind");
}

#[test]
fn a_late_answer_of_the_first_server_counts_and_who_answers_is_asked_first() {
    let mut bench = Bench::new();
    let first = bench.ask(0, &asks()).only_asked();
    bench.passes(Duration::from_millis(500));
    let second = bench.poll().only_asked();
    assert_eq!(second.server.to_string(), SERVERS[1]);
    let came = bench.heard(first.ticket, &right(&first));
    assert_eq!(came.closed.len(), 2);
    assert_eq!(came.only_told().data(), [DATA]);

    let first = bench.ask(0, &question(1, "a.example", A, None)).only_asked();
    assert_eq!(first.server.to_string(), SERVERS[0]);
    let second = bench.failed(first.ticket).only_asked();
    assert_eq!(second.server.to_string(), SERVERS[1], "at once");
    bench.heard(second.ticket, &right(&second)).only_told();
    let next = bench.ask(0, &question(1, "b.example", A, None)).only_asked();
    assert_eq!(next.server.to_string(), SERVERS[1]);
}

#[test]
fn a_server_that_fails_is_no_end_before_the_last_one_has() {
    let mut bench = Bench::new();
    let first = bench.ask(0, &asks()).only_asked();
    let second = bench.heard(first.ticket, &answer(&first.message, FAILURE, &[], &[]));
    let second = second.only_asked();
    let end = bench.heard(second.ticket, &answer(&second.message, REFUSED, &[], &[]));
    assert_eq!(end.only_told().code, FAILURE);
}

#[test]
fn a_server_without_edns_is_asked_without() {
    let mut bench = Bench::new();
    let first = bench.ask(0, &asks()).only_asked();
    let again = bench.heard(first.ticket, &answer(&first.message, FORMAT, &[], &[])).only_asked();
    assert_eq!(Message::read(&again.message).edns, None);
    assert_eq!(again.server, first.server);
    assert_eq!(bench.heard(again.ticket, &right(&again)).only_told().data(), [DATA]);
}

#[test]
fn what_is_too_long_for_udp_comes_by_tcp_and_goes_by_tcp() {
    let mut bench = Bench::new();
    let by_udp = bench.ask(0, &question(5, "long.example", TXT, None)).only_asked();
    let mut cut = answer(&by_udp.message, NO_ERROR, &[], &[]);
    cut[2] |= 0x02;
    let by_tcp = bench.heard(by_udp.ticket, &cut).only_asked();
    assert_eq!((by_tcp.server, by_tcp.carrier), (by_udp.server, Carrier::Tcp));
    let text = |n: u8| (TXT, 60, [&[250][..], &[b'a' + n; 250]].concat());
    let records: Vec<_> = (0..10).map(text).collect();
    let whole = answer(&by_tcp.message, NO_ERROR, &records, &[]);
    let told = bench.heard(by_tcp.ticket, &whole).only_told();
    assert!(told.truncated && told.answers.is_empty() && told.len <= 512, "{told:?}");

    for (edns, most) in [(None, 512), (Some(600), 600), (Some(1232), 1232), (Some(65_535), 1232)] {
        let told = bench.told(0, &question(6, "long.example", TXT, edns));
        assert!(told.truncated && told.len <= most, "{edns:?}: {told:?}");
    }
    let back = Back::Tcp(super::super::stacks::Stacks::connection(1));
    let asker = Asker { tag: tag(0), back };
    let whole = bench.ask_as(asker, &question(6, "long.example", TXT, None)).only_told();
    assert_eq!((whole.truncated, whole.answers), (false, records));
}

#[test]
fn an_answer_that_just_fits_is_told_whole() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &question(5, "four.example", TXT, Some(1232))).only_asked();
    let text = |n: u8| (TXT, 60, [&[250][..], &[b'a' + n; 250]].concat());
    let records: Vec<_> = (0..4).map(text).collect();
    let answer = answer(&asked.message, NO_ERROR, &records, &[]);
    let told = bench.heard(asked.ticket, &answer).only_told();
    assert_eq!((told.truncated, told.answers), (false, records));
}

#[test]
fn that_a_name_is_not_there_is_kept_as_long_as_its_zone_says() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &asks()).only_asked();
    let none = answer(&asked.message, NO_NAME, &[], &[(SOA, 3600, zone(30))]);
    let told = bench.heard(asked.ticket, &none).only_told();
    assert_eq!((told.code, told.authorities.len()), (NO_NAME, 1));
    bench.passes(Duration::from_secs(29));
    assert_eq!(bench.told(0, &asks()).code, NO_NAME);
    bench.passes(Duration::from_secs(1));
    let asked = bench.ask(0, &asks()).only_asked();
    // Without its zone's word it is not kept at all, and neither is what is good for this once.
    for mut reply in [
        answer(&asked.message, NO_NAME, &[], &[]),
        answer(&asked.message, NO_ERROR, &[(A, 0, DATA.to_vec())], &[]),
    ] {
        let mut bench = Bench::new();
        let again = bench.ask(0, &asks()).only_asked();
        reply[..2].copy_from_slice(&again.message[..2]);
        bench.heard(again.ticket, &reply).only_told();
        bench.ask(0, &asks()).only_asked();
    }
}

#[test]
fn records_that_nobody_knows_and_aliases_pass() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &question(5, "odd.example", 0xff01, None)).only_asked();
    let odd = (0xff01, 60, vec![1, 2, 3, 0xc0]);
    let reply = answer(&asked.message, NO_ERROR, std::slice::from_ref(&odd), &[]);
    assert_eq!(bench.heard(asked.ticket, &reply).only_told().answers, [odd]);
    let asked = bench.ask(0, &question(5, "alias.example", A, None)).only_asked();
    let records = [(CNAME, 60, name("real.example")), (A, 60, DATA.to_vec())];
    let reply = answer(&asked.message, NO_ERROR, &records, &[]);
    assert_eq!(bench.heard(asked.ticket, &reply).only_told().answers.len(), 2);
}

#[test]
fn other_servers_begin_with_nothing_known() {
    let mut bench = Bench::new();
    let asked = bench.ask(0, &asks()).only_asked();
    bench.heard(asked.ticket, &right(&asked)).only_told();
    let waiting = bench.ask(0, &question(6, "slow.example", A, None)).only_asked();
    let mut settings = settings();
    settings.networks[0].servers.reverse();
    let mut acts = Vec::new();
    bench.answering.set(settings, &mut acts);
    let came = Came::of(acts);
    assert_eq!((came.told[0].code, came.closed), (FAILURE, vec![waiting.ticket]));
    assert_eq!(bench.ask(0, &asks()).only_asked().server.to_string(), SERVERS[1]);
}

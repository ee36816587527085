//! What is answered without asking anybody.

use super::octets::*;
use super::*;

#[test]
fn a_vm_is_known_by_its_short_and_its_long_name() {
    let mut bench = Bench::new();
    for asked in ["web", "web.lan", "WEB.Lan"] {
        let told = bench.told(0, &question(77, asked, A, None));
        assert_eq!((told.id, told.code, told.kind), (77, NO_ERROR, A));
        assert!(told.is_response && told.authoritative && told.available && !told.truncated);
        assert_eq!(told.name, format!("{asked}."), "as it was asked, letter by letter");
        assert_eq!(told.data(), [[203, 0, 113, 10], [203, 0, 113, 11]]);
        assert_eq!(told.answers[0].1, 10);
        assert_eq!(told.edns, None, "who says nothing of EDNS is told nothing of it");
    }
    let told = bench.told(0, &question(1, "web.lan", AAAA, Some(4096)));
    assert_eq!(told.data(), [[0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]]);
    assert_eq!(told.edns, Some(1232));
    assert_eq!(bench.told(0, &question(1, "web.lan", ANY, None)).answers.len(), 3);
}

#[test]
fn what_a_vm_has_not_is_not_there_and_its_name_still_is() {
    let mut bench = Bench::new();
    for (asked, kind) in [("web.lan", MX), ("web", TXT), ("bare.lan", A)] {
        let told = bench.told(0, &question(1, asked, kind, None));
        assert_eq!((told.code, told.answers.len()), (NO_ERROR, 0), "{asked}");
    }
    let told = bench.told(0, &question(1, "nobody", A, None));
    assert_eq!((told.code, told.authoritative), (NO_NAME, true), "a short name is never asked for");
}

#[test]
fn addresses_lead_back_to_names() {
    let mut bench = Bench::new();
    let six = format!("0.1.0.0.{}1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(16));
    for asked in ["10.113.0.203.in-addr.arpa", "11.113.0.203.IN-ADDR.arpa", &six] {
        let told = bench.told(0, &question(1, asked, PTR, None));
        assert_eq!(told.data(), [name("web.lan")], "{asked}");
    }
    let other = bench.ask(0, &question(1, "99.113.0.203.in-addr.arpa", PTR, None));
    assert_eq!(other.only_asked().server.to_string(), SERVERS[0]);
    let whole = bench.ask(0, &question(1, "113.0.203.in-addr.arpa", PTR, None));
    whole.only_asked();
}

#[test]
fn networks_have_names_of_their_own_and_a_private_one_has_no_others() {
    let mut bench = Bench::new();
    let told = bench.told(1, &question(1, "web", A, None));
    assert_eq!(told.data(), [[198, 51, 100, 1]]);
    for (asked, kind) in [("web.lan", A), ("example.com", A), ("com", SOA)] {
        assert_eq!(bench.told(1, &question(1, asked, kind, None)).code, NO_NAME, "{asked}");
    }
    let nothing = bench.ask(2, &question(1, "web", A, None));
    assert!(nothing.told.is_empty() && nothing.asked.is_empty());
}

#[test]
fn names_change_under_way() {
    let mut bench = Bench::new();
    let mut settings = settings();
    let moved = settings.networks[0].names.remove("web").unwrap();
    settings.networks[0].names.insert("shop".into(), moved);
    let asked = bench.ask(0, &question(1, "example.com", A, None)).only_asked();
    let mut acts = Vec::new();
    bench.answering.set(settings, &mut acts);
    assert!(acts.is_empty(), "whoever waits for servers goes on waiting: {acts:?}");
    assert_eq!(bench.told(0, &question(1, "shop", A, None)).answers.len(), 2);
    assert_eq!(bench.told(0, &question(1, "web", A, None)).code, NO_NAME);
    let answer = answer(&asked.message, NO_ERROR, &[(A, 60, vec![192, 0, 2, 7])], &[]);
    assert_eq!(bench.heard(asked.ticket, &answer).only_told().data(), [[192, 0, 2, 7]]);
}

#[test]
fn what_is_no_question_is_refused_or_left_alone() {
    let mut bench = Bench::new();
    let right = question(9, "web", A, None);
    let changed = |at: usize, to: u8| {
        let mut message = right.clone();
        message[at] = to;
        message
    };
    for (message, code) in [
        (changed(2, 0x10), NOT_IMPLEMENTED),
        (changed(5, 2), FORMAT),
        (changed(5, 0), FORMAT),
        (right[..16].to_vec(), FORMAT),
        (question(9, "web", 252, None), REFUSED),
    ] {
        let told = bench.told(0, &message);
        assert_eq!((told.id, told.code, told.is_response), (9, code, true), "{message:02x?}");
    }
    let mut chaos = question(9, "version.bind", TXT, None);
    let class = chaos.len() - 1;
    chaos[class] = 3;
    let mut acts = Vec::new();
    bench.answering.ask(by_udp(0), &chaos, bench.now, &mut acts);
    let [Act::Answer { message, .. }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(message[3] & 15, REFUSED);
    for silent in [changed(2, 0x81), right[..11].to_vec(), vec![]] {
        let came = bench.ask(0, &silent);
        assert!(came.told.is_empty() && came.asked.is_empty(), "{silent:02x?}");
    }
}

//! Guests and servers that say what they like: nothing breaks, and nothing grows without bound.

use super::super::cache::ROOM;
use super::super::inquiries::MOST;
use super::octets::*;
use super::*;

/// Chance that is the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }

    /// Some octets changed, put in, taken out, or the end cut off.
    fn spoil(&mut self, message: &mut Vec<u8>) {
        for _ in 0..=self.next(4) {
            if message.is_empty() {
                return;
            }
            let at = self.next(message.len());
            match self.next(6) {
                0 => message.truncate(at),
                1 => message.insert(at, self.next(256) as u8),
                2 => drop(message.remove(at)),
                3 => message[at] = [0xc0, 0xff, 0, 0x3f, 0x40, 12][self.next(6)],
                _ => message[at] ^= 1 << self.next(8),
            }
        }
    }
}

#[test]
fn a_hundred_thousand_spoiled_messages_break_nothing() {
    let mut bench = Bench::new();
    let mut chance = Chance(0x1234_5678_9abc_def1);
    let names = ["web", "web.lan", "10.113.0.203.in-addr.arpa", "www.example.com", "a.b.c.d"];
    let (mut told, mut asked_at_all) = (0, 0);
    for n in 0..100_000u32 {
        let kind = [A, AAAA, PTR, TXT, ANY, SOA][chance.next(6)];
        let edns = [None, Some(512), Some(4096)][chance.next(3)];
        let of = names[chance.next(5)];
        let mut message = question(n as u16, of, kind, edns);
        chance.spoil(&mut message);
        let mut acts = Vec::new();
        bench.answering.ask(by_udp(0), &message, bench.now, &mut acts);
        // Servers answer, some of them nonsense.
        while let Some(act) = acts.pop() {
            match act {
                Act::Answer { message, .. } => {
                    told += 1;
                    assert!((12..=1232).contains(&message.len()) && message[2] & 0x80 != 0);
                }
                Act::Ask { ticket, message, .. } => {
                    asked_at_all += 1;
                    if chance.next(8) == 0 {
                        continue;
                    }
                    let records = [(A, 60, vec![1; 4]), (SOA, 60, zone(60)), (TXT, 1, vec![3; 4])];
                    let mut reply = answer(&message, 0, &records[..chance.next(4)], &[]);
                    chance.spoil(&mut reply);
                    bench.answering.heard(ticket, &reply, bench.now, &mut acts);
                }
                Act::Close(_) => {}
            }
        }
        if n % 64 == 0 {
            bench.passes(Duration::from_millis(100));
            bench.poll();
        }
        assert!(bench.answering.kept() <= ROOM);
    }
    assert!(told > 50_000 && asked_at_all > 5_000, "{told} told, {asked_at_all} asked");
}

#[test]
fn one_who_asks_without_end_leaves_others_their_share() {
    let mut bench = Bench::new();
    let mut asked = 0;
    for n in 0..1000 {
        let came = bench.ask(0, &question(n, &format!("n{n}.example"), A, None));
        asked += came.asked.len();
        assert!(came.told.iter().all(|told| told.code == FAILURE));
    }
    assert!((1..MOST).contains(&asked), "{asked}");
    let mut settings = settings();
    settings.networks[0].ports.push(9);
    bench.answering.set(settings, &mut Vec::new());
    bench.ask(9, &question(1, "other.example", A, None)).only_asked();
    bench.passes(Duration::from_secs(2));
    assert_eq!(bench.poll().told.len(), asked + 1);
    bench.ask(0, &question(1, "again.example", A, None)).only_asked();
}

#[test]
fn what_is_kept_takes_no_more_than_its_room() {
    let mut bench = Bench::new();
    let data = (TXT, 3600, [&[255][..], &[b'x'; 255]].concat());
    let records = vec![data; 200];
    let mut most = 0;
    for n in 0..300 {
        let name = format!("n{n}.example");
        let asked = bench.ask(0, &question(n, &name, TXT, None)).only_asked();
        let reply = answer(&asked.message, NO_ERROR, &records, &[]);
        bench.heard(asked.ticket, &reply).only_told();
        most = most.max(bench.answering.kept());
        assert!(bench.answering.kept() <= ROOM);
    }
    assert!(most > ROOM / 2, "it was filled: {most}");
    bench.told(0, &question(1, "n299.example", TXT, None));
    bench.ask(0, &question(1, "n0.example", TXT, None)).only_asked();
}

//! The LAN side: VMs that claim, release and look for neighbours, a LAN that says anything, and
//! time that passes. The input is a short program of such steps.
#![no_main]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use datapath::datagram::{Payload, parse};
use datapath::names::{Mac, NetworkId, Owner, PortId};
use datapath::neighbor::{Asker, Event, Lan, Lookup, Outbox, Settings};
use libfuzzer_sys::fuzz_target;

const CARD: Mac = Mac([2, 0, 0, 0, 0, 1]);

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// As many octets as the next one says, or as there are.
    fn octets(&mut self) -> Option<&'a [u8]> {
        let wanted = usize::from(self.octet()?);
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        Some(taken)
    }

    fn address(&mut self) -> Option<IpAddr> {
        let n = self.octet()?;
        Some(if n % 2 == 0 { four(n).into() } else { six(n).into() })
    }
}

fn four(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, n % 16)
}

fn six(n: u8) -> Ipv6Addr {
    match n % 32 {
        1 => Ipv6Addr::UNSPECIFIED,
        3 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        n => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n.into()),
    }
}

fn settings() -> Settings {
    Settings {
        mac: CARD,
        prefixes: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        on_link: true,
        gateway4: Some(four(1)),
        gateway6: Some(six(3)),
        host4: Some(four(2)),
        host6: Some(six(2)),
        link_local: None,
    }
}

fn frame(from: u8, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let from = [2, 0, 0, 0, 0, from % 4];
    [&Mac::BROADCAST.0[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An ICMPv6 message with a right checksum, behind a router alert if it is a listener's.
fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
    }
    let len = message.len() as u32;
    let addresses = [source.octets(), destination.octets()].concat();
    let words = |bytes: &[u8]| -> u32 {
        let word = |w: &[u8]| u32::from(w[0]) << 8 | w.get(1).map_or(0, |low| u32::from(*low));
        bytes.chunks(2).map(word).sum()
    };
    let mut sum = words(&addresses) + len + 58 + words(&message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    let alert: &[u8] = if hops == 1 { &[58, 0, 5, 2, 0, 0, 1, 0] } else { &[] };
    let next = if alert.is_empty() { 58 } else { 0 };
    let [high, low] = (len as u16 + alert.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, next, hops];
    [&head[..], &addresses, alert, &message].concat()
}

fn heard(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let (kind, from) = (input.octet()?, input.octet()?);
    Some(match kind % 6 {
        0 => frame(from, 0x0806, input.octets()?),
        1 => {
            let (operation, a, b) = (input.octet()?, input.octet()?, input.octet()?);
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation % 4, 2, 0, 0, 0, 0, from % 4];
            arp.extend(four(a).octets());
            arp.extend([0; 6]);
            arp.extend(four(b).octets());
            frame(from, 0x0806, &arp)
        }
        2 | 3 => {
            let (pick, a, b, c) = (input.octet()?, input.octet()?, input.octet()?, input.octet()?);
            let mut message = vec![135 + pick % 2, 0, 0, 0, pick, 0, 0, 0];
            message.extend(six(c).octets());
            if kind % 6 == 2 {
                message.extend([1 + (pick >> 2) % 2, 1, 2, 0, 0, 0, 0, from % 4]);
            } else {
                message.extend(input.octets()?);
            }
            frame(from, 0x86dd, &icmp6(six(a), six(b), 255, &message))
        }
        4 => {
            let (a, b) = (input.octet()?, input.octet()?);
            let mut message = vec![130, 0, 0, 0];
            message.extend(input.octets()?);
            frame(from, 0x86dd, &icmp6(six(a), six(b), 1, &message))
        }
        _ => frame(from, 0x86dd, input.octets()?),
    })
}

/// Reads what is to be sent and told, and empties it.
fn drain(out: &mut Outbox, waiting: &mut HashSet<IpAddr>) {
    for (ethernet, payload) in out.frames() {
        let frame = [&ethernet[..], payload].concat();
        let (ethernet, payload) = parse(&frame).expect("what the base says is well formed");
        assert_eq!(ethernet.source, CARD);
        assert!(matches!(payload, Payload::Arp(_) | Payload::Ip6(_)));
    }
    for event in out.events() {
        if let Event::Resolved { hop, .. } | Event::Unreachable { hop } = event {
            waiting.remove(hop);
        }
    }
    out.clear();
}

fn run(input: &mut Input<'_>, lan: &mut Lan, state: &mut (Instant, Outbox, HashSet<IpAddr>)) -> Option<()> {
    let (now, out, waiting) = state;
    loop {
        let step = input.octet()?;
        match step % 8 {
            0 => {
                let hop = input.address()?;
                let owner = match step >> 3 {
                    0 => Owner::Uplink(NetworkId(0)),
                    n => Owner::Port(PortId(n.into())),
                };
                let asker = Asker { owner, address: Some(four(step).into()) };
                if lan.lookup(*now, hop, asker, out) == Lookup::Resolving {
                    waiting.insert(hop);
                }
            }
            1 => lan.claim(*now, input.address()?, PortId((step >> 3).into()), out),
            2 => lan.release(*now, input.address()?, out),
            3 => {
                *now += Duration::from_millis(u64::from(input.octet()?) * 20);
                lan.poll(*now, out);
            }
            4 if step >> 3 == 0 => lan.link_restored(*now),
            4 if matches!(step >> 3, 2 | 3) => lan.set_link(*now, step >> 3 == 3),
            4 if step >> 3 == 1 => {
                let settings = Settings { gateway4: None, on_link: false, ..settings() };
                lan.reconfigure(*now, settings);
            }
            _ => {
                let frame = heard(input)?;
                if let Ok((ethernet, payload)) = parse(&frame) {
                    let _ = lan.input(*now, &ethernet, &payload, out);
                }
            }
        }
        drain(out, waiting);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut lan = Lan::new(settings());
    let mut state = (Instant::now(), Outbox::new(), HashSet::new());
    run(&mut Input(data), &mut lan, &mut state);
    let (mut now, mut out, mut waiting) = state;
    for _ in 0..60 {
        now += Duration::from_secs(1);
        lan.poll(now, &mut out);
        drain(&mut out, &mut waiting);
    }
    assert!(waiting.is_empty(), "who waits is told");
    assert_eq!(lan.next_deadline(), None, "all timers end");
});

//! The LAN side against a hostile LAN: the input is a course of events, each a frame from the LAN or
//! a step of a VM or of time. Nothing panics, and every frame that goes out has the card's MAC
//! address as its source.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use datapath::checksum::pseudo6;
use datapath::datagram::parse;
use datapath::names::{Mac, NetworkId, Owner, PortId};
use datapath::neighbor::{Asker, Lan, Outbox, Settings};
use libfuzzer_sys::fuzz_target;

const CARD: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn address(n: u8) -> IpAddr {
    if n & 1 == 0 {
        Ipv4Addr::new(203, 0, 113, n).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n.into()).into()
    }
}

fn ethernet(from: u8, kind: u16) -> Vec<u8> {
    [&CARD.0, &[2, 0, 0, 0, 0, from], &kind.to_be_bytes()[..]].concat()
}

/// An ICMPv6 message with its checksum put right; the sender's octet picks the addresses too.
fn icmp6(from: u8, message: &[u8]) -> Vec<u8> {
    let source = match from >> 5 {
        0 => Ipv6Addr::UNSPECIFIED,
        1 => "fe80::1".parse().unwrap(),
        n => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, (2 * n + 1).into()),
    };
    let destination: Ipv6Addr = match from & 1 {
        0 => "ff02::1".parse().unwrap(),
        _ => "ff02::1:ff00:5".parse().unwrap(),
    };
    let mut message = message.to_vec();
    message.resize(message.len().max(4), 0);
    message[2..4].fill(0);
    let len = message.len() as u32;
    let sum = pseudo6(&source.octets(), &destination.octets(), 58, len).plus(&message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    // Queries come behind a router alert, with hop limit 1.
    let query = message[0] == 130;
    let alert: &[u8] = if query { &[58, 0, 5, 2, 0, 0, 1, 0] } else { &[] };
    let next = if query { [0, 1] } else { [58, 255] };
    let len = ((alert.len() + message.len()) as u16).to_be_bytes();
    let (source, destination) = (source.octets(), destination.octets());
    let header = [&[0x60, 0, 0, 0], &len[..], &next, &source, &destination].concat();
    [&ethernet(from, 0x86dd)[..], &header, alert, &message].concat()
}

fuzz_target!(|input: &[u8]| {
    let settings = Settings {
        mac: CARD,
        prefixes: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        on_link: true,
        gateway4: Some(Ipv4Addr::new(203, 0, 113, 2)),
        gateway6: Some("fe80::1".parse().unwrap()),
        ..Settings::default()
    };
    let (mut lan, mut out) = (Lan::new(settings), Outbox::new());
    let mut now = Instant::now();
    let mut rest = input;
    while let Some((&[step, value], behind)) = rest.split_first_chunk::<2>() {
        rest = behind;
        let target = address(value);
        match step & 7 {
            0 => lan.claim(now, target, PortId(0), &mut out),
            1 => lan.release(now, target, &mut out),
            2 => lan.restore_claimed([(target, PortId(0))], &mut out),
            3 => {
                let owner = if step & 8 == 0 {
                    Owner::Port(PortId(u16::from(step >> 4)))
                } else {
                    Owner::Uplink(NetworkId(0))
                };
                lan.lookup(now, target, Asker { owner, address: Some(address(step)) }, &mut out);
            }
            4 => {
                now += Duration::from_millis(u64::from(value) * 20);
                lan.poll(now, &mut out);
            }
            // A message of `value` octets, framed so that it is looked at.
            _ => {
                let (message, behind) = rest.split_at(rest.len().min(value.into()));
                rest = behind;
                let frame = match step >> 3 & 3 {
                    0 => [&ethernet(step, 0x0806)[..], message].concat(),
                    1 => [&ethernet(step, 0x86dd)[..], message].concat(),
                    _ => icmp6(step, message),
                };
                if let Ok((ethernet, payload)) = parse(&frame) {
                    let _ = lan.input(now, &ethernet, &payload, &mut out);
                }
            }
        }
        for (ethernet, _) in out.frames() {
            assert_eq!(ethernet[6..12], CARD.0);
        }
        out.clear();
    }
});

//! The views of frames and datagrams: any octets are refused, or their views lie within them.
#![no_main]

use datapath::datagram::{Payload, last_inch_only, parse, parse_ip};
use libfuzzer_sys::fuzz_target;

/// Puts the right checksum into an IPv4 header, which octets made up would hardly ever have.
fn repair(datagram: &mut [u8]) {
    let Some(header_len) = datagram.first().map(|first| usize::from(first & 15) * 4) else {
        return;
    };
    if header_len < 20 || header_len > datagram.len() {
        return;
    }
    datagram[10..12].fill(0);
    let words = datagram[..header_len].chunks(2);
    let sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    datagram[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn check(payload: Payload<'_>, len: usize) {
    let _ = last_inch_only(&payload);
    assert!(payload.bytes().len() <= len);
    match payload {
        Payload::Ip4(ip) => {
            assert_eq!(ip.header_len() + ip.payload().len(), ip.bytes().len());
            assert_eq!(ip.options().len() + 20, ip.header_len());
        }
        Payload::Ip6(ip) => {
            assert_eq!(ip.upper().offset + ip.upper_bytes().len(), ip.bytes().len());
        }
        Payload::Arp(_) => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok((_, payload)) = parse(bytes) {
        check(payload, bytes.len());
    }
    let mut datagram = bytes.to_vec();
    repair(&mut datagram);
    if let Ok(payload) = parse_ip(&datagram) {
        check(payload, datagram.len());
    }
});

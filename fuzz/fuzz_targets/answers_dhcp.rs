//! DHCP messages of a guest: the first octet picks the version and how much of the message is given.
#![no_main]

mod last_inch;

use datapath::answer::BASE6;
use last_inch::{LINK_LOCAL, frame, frame6};
use libfuzzer_sys::fuzz_target;

/// UDP's header, without a checksum for IPv4 and with some for IPv6: fuzzing verifies none.
fn udp(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let checksum = [0, u8::from(ports[1] == 547)];
    let len = (8 + payload.len() as u16).to_be_bytes();
    [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &len, &checksum, payload].concat()
}

/// A DHCPv4 message's fixed part, for whoever finds only the options.
fn fixed_part() -> Vec<u8> {
    let mut head = vec![0; 240];
    head[..3].copy_from_slice(&[1, 1, 6]);
    head[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    head
}

/// An IPv4 datagram from 0.0.0.0 to everybody.
fn broadcast(payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    let words = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

fuzz_target!(|input: &[u8]| {
    let Some((&pick, message)) = input.split_first() else { return };
    let message = &message[..message.len().min(60_000)];
    match pick % 3 {
        0 => last_inch::answer(&frame6(LINK_LOCAL, BASE6, 17, 64, &udp([546, 547], message))),
        1 => last_inch::answer(&frame(0x0800, &broadcast(&udp([68, 67], message)))),
        _ => {
            let message = [&fixed_part(), message].concat();
            last_inch::answer(&frame(0x0800, &broadcast(&udp([68, 67], &message))))
        }
    };
});

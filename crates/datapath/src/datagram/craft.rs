//! Makes frames for tests, field by field and without the code under test: checksums come from
//! etherparse.
#![allow(clippy::arithmetic_side_effects)]

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;

use super::{Ethernet, Payload, ethertype, parse};
use crate::names::Mac;

/// The guest's MAC address in tests.
pub const GUEST: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

pub fn frame(destination: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.0[..], &GUEST.0, &kind.to_be_bytes(), payload].concat()
}

/// The views of a frame that must be right.
pub fn views(frame: &[u8]) -> (Ethernet, Payload<'_>) {
    parse(frame).expect("the test's frame is well formed")
}

/// An IPv4 datagram; `fix` changes the header before its checksum is put in.
pub fn ip4_with(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    options: &[u8],
    payload: &[u8],
    fix: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header_len = 20 + options.len();
    let total = u16::try_from(header_len + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x40 | (header_len / 4) as u8, 0, total[0], total[1], 0, 0, 0, 0, 64];
    header.extend([protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(options);
    fix(&mut header);
    let sum = Sum16BitWords::new().add_slice(&header).ones_complement().to_ne_bytes();
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

pub fn ip4(addresses: (Ipv4Addr, Ipv4Addr), protocol: u8, payload: &[u8]) -> Vec<u8> {
    ip4_with(addresses, protocol, &[], payload, |_| {})
}

/// An IPv6 datagram whose payload starts with whatever `next` names.
pub fn ip6(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut datagram = vec![0x60, 0, 0, 0];
    datagram.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    datagram.extend([next, hop_limit]);
    datagram.extend(source.octets());
    datagram.extend(destination.octets());
    datagram.extend(payload);
    datagram
}

fn checksum6(addresses: (Ipv6Addr, Ipv6Addr), protocol: u8, message: &[u8]) -> [u8; 2] {
    Sum16BitWords::new()
        .add_16bytes(addresses.0.octets())
        .add_16bytes(addresses.1.octets())
        .add_4bytes((message.len() as u32).to_be_bytes())
        .add_4bytes([0, 0, 0, protocol])
        .add_slice(message)
        .to_ones_complement_with_no_zero()
        .to_ne_bytes()
}

fn checksum4(addresses: (Ipv4Addr, Ipv4Addr), protocol: u8, message: &[u8]) -> [u8; 2] {
    Sum16BitWords::new()
        .add_4bytes(addresses.0.octets())
        .add_4bytes(addresses.1.octets())
        .add_2bytes([0, protocol])
        .add_2bytes((message.len() as u16).to_be_bytes())
        .add_slice(message)
        .to_ones_complement_with_no_zero()
        .to_ne_bytes()
}

fn udp_header(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut udp = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    udp.extend((8 + payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    udp
}

/// A UDP datagram over IPv4.
pub fn udp4(addresses: (Ipv4Addr, Ipv4Addr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut udp = udp_header(ports, payload);
    let sum = checksum4(addresses, 17, &udp);
    udp[6..8].copy_from_slice(&sum);
    ip4(addresses, 17, &udp)
}

/// A UDP datagram over IPv6.
pub fn udp6(addresses: (Ipv6Addr, Ipv6Addr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut udp = udp_header(ports, payload);
    let sum = checksum6(addresses, 17, &udp);
    udp[6..8].copy_from_slice(&sum);
    ip6(addresses, 17, 64, &udp)
}

/// An ICMP message with its checksum.
pub fn icmp4_message(mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    let sum = Sum16BitWords::new().add_slice(&message).ones_complement().to_ne_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// An ICMPv6 message with its checksum.
pub fn icmp6_message(addresses: (Ipv6Addr, Ipv6Addr), mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    let sum = checksum6(addresses, 58, &message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// An ICMPv6 message in its datagram.
pub fn icmp6(addresses: (Ipv6Addr, Ipv6Addr), hop_limit: u8, message: Vec<u8>) -> Vec<u8> {
    ip6(addresses, 58, hop_limit, &icmp6_message(addresses, message))
}

/// A frame to the base around an IPv4 datagram.
pub fn frame4(datagram: &[u8]) -> Vec<u8> {
    frame(Mac::BASE, ethertype::IP4, datagram)
}

/// A frame to the base around an IPv6 datagram.
pub fn frame6(datagram: &[u8]) -> Vec<u8> {
    frame(Mac::BASE, ethertype::IP6, datagram)
}

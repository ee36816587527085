//! Echo on the base's own addresses.

use super::*;

fn request4(from: Ipv4Addr, message: Vec<u8>) -> Vec<u8> {
    frame4(&ip4((from, BASE4), 1, &icmp4_message(message)))
}

fn request6(from: Ipv6Addr, message: Vec<u8>) -> Vec<u8> {
    frame6(&icmp6((from, BASE6), 64, message))
}

fn echo(kind: u8, len: usize) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 7];
    message.extend((0..len).map(|i| i as u8));
    message
}

#[test]
fn echo_over_ip4_comes_back_with_addresses_swapped() {
    for len in [0, 1, 56, 57, 1472] {
        let frame = reply(&inch(), &request4(OWN4, echo(8, len)));
        let Payload::Ip4(ip) = parse(&frame).unwrap().1 else { panic!() };
        assert_eq!((ip.source(), ip.destination(), ip.protocol()), (BASE4, OWN4, 1));
        assert_eq!(ip.payload(), icmp4_message(echo(0, len)));
    }
}

#[test]
fn echo_over_ip6_comes_back_with_addresses_swapped() {
    for from in [OWN6, SECOND6, LINK_LOCAL] {
        for len in [0, 1, 56, 57, 1452] {
            let frame = reply(&inch(), &request6(from, echo(128, len)));
            let Payload::Ip6(ip) = parse(&frame).unwrap().1 else { panic!() };
            assert_eq!((ip.source(), ip.destination()), (BASE6, from));
            assert_eq!(ip.upper_bytes(), icmp6_message((BASE6, from), echo(129, len)));
        }
    }
}

#[test]
fn an_atomic_fragment_and_options_are_no_reason_for_silence() {
    let message = icmp6_message((OWN6, BASE6), echo(128, 8));
    let atomic = [&[58, 0, 0, 0, 1, 2, 3, 4][..], &message].concat();
    reply(&inch(), &frame6(&ip6((OWN6, BASE6), 44, 64, &atomic)));
    let message = icmp4_message(echo(8, 8));
    reply(&inch(), &frame4(&ip4_with((OWN4, BASE4), 1, &[148, 4, 0, 0], &message, |_| {})));
}

#[test]
fn echo_from_an_address_that_is_not_the_vms_is_dropped() {
    let not_own = Answer::Drop(Counter::DropSourceNotOwn);
    for from in [OTHER4, BASE4, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(169, 254, 3, 3)] {
        assert_eq!(fate(&inch(), &request4(from, echo(8, 8))), not_own);
    }
    for from in [OTHER6, BASE6, Ipv6Addr::UNSPECIFIED, ALL_NODES] {
        assert_eq!(fate(&inch(), &request6(from, echo(128, 8))), not_own);
    }
}

#[test]
fn other_icmp_and_broken_echo_are_dropped_by_name() {
    let not_served = Answer::Drop(Counter::DropNotServed);
    for kind in [0, 3, 5, 13] {
        assert_eq!(fate(&inch(), &request4(OWN4, echo(kind, 8))), not_served);
    }
    for kind in [1, 129, 130, 143, 200] {
        assert_eq!(fate(&inch(), &request6(OWN6, echo(kind, 8))), not_served);
    }
    let malformed = Answer::Drop(Counter::DropAnswerMalformed);
    let mut wrong = request4(OWN4, echo(8, 8));
    wrong[14 + 22] ^= 1;
    assert_eq!(fate(&inch(), &wrong), malformed);
    let mut wrong = request6(OWN6, echo(128, 8));
    wrong[14 + 42] ^= 1;
    assert_eq!(fate(&inch(), &wrong), malformed);
    assert_eq!(fate(&inch(), &frame4(&ip4((OWN4, BASE4), 1, &[8, 0, 0]))), malformed);
    assert_eq!(fate(&inch(), &frame6(&ip6((OWN6, BASE6), 58, 64, &[128]))), malformed);
}

#[test]
fn a_request_too_large_for_the_link_gets_no_reply_that_is() {
    let too_big = Answer::Drop(Counter::DropTooBig);
    assert_eq!(fate(&inch(), &request4(OWN4, echo(8, 1473))), too_big);
    assert_eq!(fate(&inch(), &request6(OWN6, echo(128, 1453))), too_big);
    assert_eq!(fate(&inch(), &request6(OWN6, echo(128, 60_000))), too_big);
}

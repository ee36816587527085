//! ARP: who gets an answer.

use super::*;
use crate::datagram::ethertype;

fn message(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend(GUEST.0);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    bytes.resize(46, 0); // padded as a real card does
    bytes
}

fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    frame(Mac::BROADCAST, ethertype::ARP, &message(1, sender, target))
}

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const NOT_OWN: Answer = Answer::Drop(Counter::DropSourceNotOwn);

#[test]
fn every_request_for_a_foreign_address_is_answered_with_the_bases_mac() {
    let frame = reply(&inch(), &request(OWN4, ROUTER4));
    #[rustfmt::skip]
    let expected = [
        0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x02, 0x69, 0x70, 0x76, 0x00, 0x01, 0x08, 0x06,
        0, 1, 8, 0, 6, 4, 0, 2,
        0x02, 0x69, 0x70, 0x76, 0x00, 0x01, 203, 0, 113, 1,
        0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 203, 0, 113, 10,
    ];
    assert_eq!(frame, expected);
    for target in [OTHER4, BASE4, Ipv4Addr::new(198, 51, 100, 9), Ipv4Addr::new(10, 0, 0, 1)] {
        reply(&inch(), &request(OWN4, target));
        reply(&inch(), &request(SECOND4, target));
    }
}

#[test]
fn a_probe_finds_every_address_taken_but_the_vms_own() {
    for target in [OTHER4, ROUTER4, BASE4] {
        reply(&inch(), &request(NOBODY, target));
        reply(&bare(), &request(NOBODY, target));
    }
    for target in [OWN4, SECOND4] {
        assert_eq!(fate(&inch(), &request(NOBODY, target)), Answer::Silent);
        reply(&bare(), &request(NOBODY, target));
    }
}

#[test]
fn a_link_local_address_is_the_guests_to_choose_but_for_the_bases() {
    let chosen = Ipv4Addr::new(169, 254, 77, 7);
    assert_eq!(fate(&inch(), &request(NOBODY, chosen)), Answer::Silent);
    assert_eq!(fate(&inch(), &request(chosen, chosen)), Answer::Silent);
    assert_eq!(fate(&inch(), &request(BASE4, BASE4)), NOT_OWN);
    // It says nothing from there.
    assert_eq!(fate(&inch(), &request(chosen, ROUTER4)), NOT_OWN);
}

#[test]
fn targets_that_nobody_can_have_get_silence() {
    for target in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
        assert_eq!(fate(&inch(), &request(OWN4, target.parse().unwrap())), Answer::Silent);
    }
}

#[test]
fn announcements_and_replies_are_heard_in_silence_and_forgeries_dropped() {
    let reply_from = |from, to| frame(Mac::BASE, ethertype::ARP, &message(2, from, to));
    assert_eq!(fate(&inch(), &request(OWN4, OWN4)), Answer::Silent);
    assert_eq!(fate(&inch(), &reply_from(OWN4, OWN4)), Answer::Silent);
    assert_eq!(fate(&inch(), &reply_from(OWN4, ROUTER4)), Answer::Silent);
    assert_eq!(fate(&inch(), &request(OTHER4, OTHER4)), NOT_OWN);
    assert_eq!(fate(&inch(), &request(OTHER4, ROUTER4)), NOT_OWN);
    assert_eq!(fate(&inch(), &reply_from(ROUTER4, OTHER4)), NOT_OWN);
}

#[test]
fn a_message_that_is_not_arp_for_ip4_over_ethernet_is_dropped() {
    let good = message(1, OWN4, ROUTER4);
    let malformed = Answer::Drop(Counter::DropArpMalformed);
    let drop = |bytes: &[u8]| fate(&inch(), &frame(Mac::BROADCAST, ethertype::ARP, bytes));
    assert_eq!(drop(&good[..27]), malformed);
    assert_eq!(drop(&[]), malformed);
    // Hardware, protocol, their lengths, an operation nobody knows, a group as sender.
    for (at, value) in [(0, 1), (1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (7, 0), (8, 0xff)] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(drop(&bytes), malformed, "octet {at} = {value}");
    }
}

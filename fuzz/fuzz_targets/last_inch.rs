//! What the targets for the last inch share: a VM, and what must hold whatever its guest says.

use std::net::{Ipv4Addr, Ipv6Addr};

use datapath::answer::{self, Answer, BASE6, LastInch, Lease4, Replies};
use datapath::datagram::parse;
use datapath::names::Mac;

pub const OWN4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10);
const GUEST: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A frame from the guest to the base.
pub fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&Mac::BASE.0[..], &GUEST.0, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv6 datagram in its frame.
pub fn frame6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, next, hop_limit];
    frame(0x86dd, &[&head[..], &from.octets(), &to.octets(), payload].concat())
}

/// Answers the frame as the worker does. At most one sound frame comes back.
pub fn answer(frame: &[u8]) -> Option<Answer> {
    let inch = LastInch {
        guest_mac: Some(GUEST),
        addresses4: vec![Lease4 { address: OWN4, prefix_len: 32, router: answer::BASE4 }],
        addresses6: vec![OWN6],
        dns: vec![Ipv4Addr::new(198, 51, 100, 53).into(), OWN6.into()],
        search: "lan".into(),
        resolves: true,
        hostname: "web".into(),
        icmp_source4: answer::BASE4,
        ..LastInch::silent(1500)
    };
    let (ethernet, payload) = parse(frame).ok()?;
    let mut replies = Replies::new();
    let answer = answer::answer(&inch, &ethernet, &payload, true, &mut replies);
    assert_eq!(replies.len(), usize::from(answer == Answer::Replied));
    for reply in replies.iter() {
        let (ethernet, _) = parse(reply).expect("what the base says is well formed");
        assert_eq!(ethernet.source, Mac::BASE);
        assert!(reply.len() <= 1514);
    }
    replies.clear();
    answer::errors::too_big(&inch, &payload, 1280, &mut replies);
    Some(answer)
}

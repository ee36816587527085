//! Echo on the base's own addresses: a guest's `ping 169.254.0.1` shows that its last inch works.
//!
//! The reply is the request with addresses swapped and its type changed. It must fit the guest's
//! link, since the base fragments nothing that it says itself, and reassembles nothing either.

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};

use super::{Answer, Guest, Replies, wrap};
use crate::counters::Counter;
use crate::datagram::{Ip4, Ip6};

/// Answers an ICMP message to the base.
pub(super) fn answer4(guest: &Guest<'_>, ip: &Ip4<'_>, replies: &mut Replies) -> Answer {
    let Ok(request) = Icmpv4Packet::new_checked(ip.payload()) else {
        return Answer::Drop(Counter::DropAnswerMalformed);
    };
    if request.msg_type() != Icmpv4Message::EchoRequest || request.msg_code() != 0 {
        return Answer::Drop(Counter::DropNotServed);
    }
    if ip.bytes().len() > guest.inch.mtu.into() {
        return Answer::Drop(Counter::DropTooBig);
    }
    if !guest.checksum_pending && !request.verify_checksum() {
        return Answer::Drop(Counter::DropAnswerMalformed);
    }
    let addresses = (ip.destination(), ip.source());
    let len = ip.payload().len();
    let room = wrap::ip4(replies, guest.mac, addresses, IpProtocol::Icmp, len);
    room.copy_from_slice(ip.payload());
    let mut reply = Icmpv4Packet::new_unchecked(room);
    reply.set_msg_type(Icmpv4Message::EchoReply);
    reply.fill_checksum();
    Answer::Replied
}

/// Answers an ICMPv6 message to the base that is not neighbour discovery.
pub(super) fn answer6(guest: &Guest<'_>, ip: &Ip6<'_>, replies: &mut Replies) -> Answer {
    let message = ip.upper_bytes();
    let Some(&[kind, code, ..]) = message.first_chunk::<8>() else {
        return Answer::Drop(Counter::DropAnswerMalformed);
    };
    if (kind, code) != (Icmpv6Message::EchoRequest.into(), 0) {
        return Answer::Drop(Counter::DropNotServed);
    }
    let request = Icmpv6Packet::new_unchecked(message);
    let (source, destination) = (ip.source(), ip.destination());
    if ip.bytes().len() > guest.inch.mtu.into() {
        return Answer::Drop(Counter::DropTooBig);
    }
    if !guest.checksum_pending && !request.verify_checksum(&source, &destination) {
        return Answer::Drop(Counter::DropAnswerMalformed);
    }
    let addresses = (destination, source);
    let len = message.len();
    let room = wrap::ip6(replies, guest.mac, addresses, IpProtocol::Icmpv6, wrap::HOPS, len);
    room.copy_from_slice(message);
    let mut reply = Icmpv6Packet::new_unchecked(room);
    reply.set_msg_type(Icmpv6Message::EchoReply);
    reply.fill_checksum(&addresses.0, &addresses.1);
    Answer::Replied
}

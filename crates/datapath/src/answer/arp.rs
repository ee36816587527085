//! ARP responder: answers a guest's requests with the MAC of the base, and nothing else.
//!
//! # Theory of operation
//! ```text
//! request from one's own address ----+--> reply, the base's MAC, whatever the target
//! request from 0.0.0.0 (a probe) ----'      but silence for: one's own address (a duplicate check
//!                                           must succeed), 169.254/16 except the base's address,
//!                                           and targets nobody can have
//! announcement, reply -------------------> silence
//! any of them from another address ------> drop.source_not_own
//! ```
//! 1. Nothing is learned from a message: which VM owns which address is configuration.
//! 2. A guest that checks an address that is not its own for a duplicate (RFC 5227) finds one, and
//!    gives it up: it may not use it.
//! 3. In 169.254/16 a guest may choose for itself (RFC 3927), so its claim there is heard in silence;
//!    it gets nowhere with it.
//!
//! # Invariants
//! A reply depends on the frame and the VM's configuration. At most one frame out for one in.

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use super::{Answer, BASE4, Guest, Replies, wrap};
use crate::counters::Counter;
use crate::names::Mac;

pub(super) fn answer(guest: &Guest<'_>, message: &[u8], replies: &mut Replies) -> Answer {
    let parsed = ArpPacket::new_checked(message).and_then(|packet| ArpRepr::parse(&packet));
    let Ok(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: asker_mac,
        source_protocol_addr: asker,
        target_protocol_addr: target,
        ..
    }) = parsed
    else {
        return Answer::Drop(Counter::DropArpMalformed);
    };
    if !asker_mac.is_unicast() {
        return Answer::Drop(Counter::DropArpMalformed);
    }
    let claims_link_local = asker == target && asker.is_link_local() && asker != BASE4;
    if !guest.inch.owns4(asker) && !asker.is_unspecified() && !claims_link_local {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    match operation {
        ArpOperation::Request if calls_for_answer(guest, target) => {}
        ArpOperation::Request | ArpOperation::Reply => return Answer::Silent,
        ArpOperation::Unknown(_) => return Answer::Drop(Counter::DropArpMalformed),
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(Mac::BASE.0),
        source_protocol_addr: target,
        target_hardware_addr: asker_mac,
        target_protocol_addr: asker,
    };
    let room = wrap::ethernet(replies, guest.mac, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(room));
    Answer::Replied
}

/// Whether the base speaks for this address.
fn calls_for_answer(guest: &Guest<'_>, target: Ipv4Addr) -> bool {
    let [first, ..] = target.octets();
    let nobodys = matches!(first, 0 | 127 | 224..);
    !guest.inch.owns4(target) && (!target.is_link_local() || target == BASE4) && !nobodys
}

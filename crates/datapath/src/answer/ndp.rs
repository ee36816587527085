//! Neighbour discovery: answers a guest's solicitations with the MAC of the base, and nothing else.
//!
//! # Theory of operation
//! ```text
//! neighbour solicitation --+--> advertisement, the base's MAC, whatever the target
//!   from ::, fe80::/10 or  |      but silence for: one's own address, fe80::/10 except fe80::1
//!   one's own address      |      (duplicate address detection must succeed there), ::, ::1
//!                          '--> to ff02::1 if it came from :: (a duplicate check finds one)
//! router solicitation -------> router advertisement (`ra`)
//! neighbour advertisement ---> silence, if it speaks for an address the guest may have
//! router advertisement, redirect -> drop.last_inch: a guest is no router
//! any of them fragmented ----> drop.ndp_fragmented (RFC 6980)
//! ```
//! 1. A message is believed only with hop limit 255, code 0, a right checksum and well-formed
//!    options (RFC 4861, sections 6.1.1 and 7.1). A checksum that the guest left to offload is not
//!    there yet, and not looked at.
//! 2. The answer sets the override flag, for nobody else can answer here; the router flag only for
//!    fe80::1, the guests' router.
//! 3. Nothing is learned from a message: which VM owns which address is configuration.
//!
//! # Invariants
//! None of ICMPv6 133 to 137 that a guest sends ends in [`Answer::NotForBase`].

use std::net::Ipv6Addr;

use smoltcp::wire::{
    EthernetAddress, Icmpv6Message, Icmpv6Packet, IpProtocol, NdiscNeighborFlags, NdiscRepr,
};

use super::{ALL_NODES, Answer, BASE6, Guest, Replies, ra, wrap};
use crate::counters::Counter;
use crate::datagram::Ip6;
use crate::names::Mac;

/// Hop limit that shows that a message did not come from afar.
pub(super) const HOPS: u8 = 255;

const MALFORMED: Answer = Answer::Drop(Counter::DropAnswerMalformed);

pub(super) fn answer(guest: &Guest<'_>, ip: &Ip6<'_>, replies: &mut Replies) -> Answer {
    if ip.upper().fragment.is_some() {
        return Answer::Drop(Counter::DropNdpFragmented);
    }
    let Ok(packet) = Icmpv6Packet::new_checked(ip.upper_bytes()) else {
        return MALFORMED;
    };
    if matches!(packet.msg_type(), Icmpv6Message::RouterAdvert | Icmpv6Message::Redirect) {
        return Answer::Drop(Counter::DropLastInch);
    }
    let checksum_is_right =
        guest.checksum_pending || packet.verify_checksum(&ip.source(), &ip.destination());
    if ip.hop_limit() != HOPS || packet.msg_code() != 0 || !checksum_is_right {
        return MALFORMED;
    }
    match NdiscRepr::parse(&packet) {
        Ok(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
            if ip.source().is_unspecified()
                && (lladdr.is_some() || !is_solicited_node(ip.destination()))
            {
                return MALFORMED;
            }
            solicited(guest, ip, target_addr, replies)
        }
        Ok(NdiscRepr::RouterSolicit { lladdr }) => {
            if ip.source().is_unspecified() && lladdr.is_some() {
                return MALFORMED;
            }
            ra::solicited(guest, ip, replies)
        }
        Ok(NdiscRepr::NeighborAdvert { target_addr, .. }) => advertised(guest, ip, target_addr),
        _ => MALFORMED,
    }
}

fn solicited(guest: &Guest<'_>, ip: &Ip6<'_>, target: Ipv6Addr, replies: &mut Replies) -> Answer {
    if target.is_multicast() {
        return MALFORMED;
    }
    let asker = ip.source();
    if !asker.is_unspecified() && !guest.inch.may_ask6(asker) {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    if !calls_for_answer(guest, target) {
        return Answer::Silent;
    }
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::ROUTER, target == BASE6);
    flags.set(NdiscNeighborFlags::SOLICITED, !asker.is_unspecified());
    let (to, mac) = guest.or_all_nodes(asker);
    let advert = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(EthernetAddress(Mac::BASE.0).into()),
    };
    let addresses = (target, to);
    let room = wrap::ip6(replies, mac, addresses, IpProtocol::Icmpv6, HOPS, advert.buffer_len());
    let mut packet = Icmpv6Packet::new_unchecked(room);
    advert.emit(&mut packet);
    packet.fill_checksum(&addresses.0, &addresses.1);
    Answer::Replied
}

/// Whether the base speaks for this address.
fn calls_for_answer(guest: &Guest<'_>, target: Ipv6Addr) -> bool {
    !guest.inch.owns6(target)
        && (!target.is_unicast_link_local() || target == BASE6)
        && !target.is_unspecified()
        && !target.is_loopback()
}

/// A guest may say that it has its own addresses, to all or to the base.
fn advertised(guest: &Guest<'_>, ip: &Ip6<'_>, target: Ipv6Addr) -> Answer {
    if !guest.inch.may_ask6(ip.source()) || !guest.inch.may_ask6(target) {
        Answer::Drop(Counter::DropSourceNotOwn)
    } else if ip.destination().is_multicast() || ip.destination() == BASE6 {
        Answer::Silent
    } else {
        Answer::Drop(Counter::DropLastInch)
    }
}

/// Whether this is a solicited-node group: ff02::1:ff00:0/104.
fn is_solicited_node(group: Ipv6Addr) -> bool {
    matches!(group.segments(), [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _])
}

impl Guest<'_> {
    /// Where an answer to `asker` goes: to it, or to all nodes if it has no address yet.
    pub(super) fn or_all_nodes(&self, asker: Ipv6Addr) -> (Ipv6Addr, Mac) {
        if asker.is_unspecified() {
            (ALL_NODES, wrap::multicast_mac(ALL_NODES))
        } else {
            (asker, self.mac)
        }
    }
}

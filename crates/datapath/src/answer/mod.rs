//! What the base itself answers on the last inch, the link between a guest's network card and the
//! base.
//!
//! # Why it exists
//! A guest believes it is on an Ethernet segment with neighbours, a router and DHCP servers. There is
//! none: the link has two ends, the guest and the base. So whatever speaks for a link is answered
//! here, out of the VM's configuration alone, and goes no further.
//!
//! # Theory of operation
//! ```text
//!            ARP ---------------------------> arp
//!  IPv4 to 169.254.0.1 ---------------------> dhcp4, echo, Resolve, else drop.not_served
//!  IPv4 to 255.255.255.255, UDP port 67 ----> dhcp4
//!  ICMPv6 133 to 137, whatever destination -> ndp, ra
//!  IPv6 to fe80::1 -------------------------> dhcp6, echo, Resolve, else drop.not_served
//!  IPv6 to ff02::1:2, UDP port 547 ---------> dhcp6
//!            the rest ----------------------> NotForBase: admission decides
//! ```
//! 1. [`answer`] runs on a datagram's view before admission, for a guest without an address must be
//!    heard here. So this is where rule "a VM says only what it may" holds for the last inch: a
//!    source that is not the VM's gets no answer but its drop name.
//! 2. A decision is made from the message and [`LastInch`] alone: no clock, no state, no lock.
//!    Nothing is learned from a guest. So a base that was replaced goes on as if nothing happened.
//! 3. Formats come from smoltcp's `wire`; what to say is decided here. DHCPv6 has a small one of its
//!    own (`dhcp6/message.rs` says why).
//! 4. [`errors`] makes the ICMP errors that tell a guest why its datagram went nowhere.
//! 5. DNS is not answered here but by a process of its own (`resolve`): [`Answer::Resolve`].
//!
//! # Invariants
//! - At most one frame out for one frame in, to the guest it came from, and no longer than the
//!   link's MTU allows.
//! - Nothing here can panic on what a guest wrote, and work is bounded by the message's length.
//! - Checksums are verified, unless the guest left them to offload (`checksum_pending`).

mod arp;
mod dhcp4;
mod dhcp6;
mod echo;
pub mod errors;
mod ndp;
mod ra;
mod replies;
mod resolve;
mod search;
mod wrap;

pub use errors::{Unreachable, too_big, unreachable};
pub use ra::{ADVERTISE_EVERY, advertise};
pub use replies::Replies;
pub use resolve::{DNS_PORT, pass_on};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::UdpPacket;

use crate::counters::Counter;
use crate::datagram::{Ethernet, Ip4, Ip6, Payload, discovery_type, protocol};
use crate::names::Mac;

/// The base's IPv4 address on every last inch.
pub const BASE4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The base's IPv6 address on every last inch.
pub const BASE6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Source of ICMP errors where no better address is known (RFC 7600).
pub const DUMMY4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// What a link carries unless something else is told.
const ETHERNET_MTU: u16 = 1500;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An IPv4 address of a VM, as DHCP tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease4 {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its mask: 32 where no neighbour is on link, or the router lies outside the prefix.
    pub prefix_len: u8,
    /// The router: the LAN's gateway, or [`BASE4`] where there is none.
    pub router: Ipv4Addr,
}

/// All that the base needs to know to answer one VM.
#[derive(Clone, Debug)]
pub struct LastInch {
    /// The MAC address of the guest's card; none until the first frame has told it.
    pub guest_mac: Option<Mac>,
    /// The VM's IPv4 addresses; DHCP gives the first.
    pub addresses4: Vec<Lease4>,
    /// The VM's IPv6 addresses; DHCPv6 gives all.
    pub addresses6: Vec<Ipv6Addr>,
    /// Name servers, of both families.
    pub dns: Vec<IpAddr>,
    /// The domain in which short names are looked for; empty for none.
    pub search: String,
    /// Whether the base answers DNS at its own addresses here.
    pub resolves: bool,
    /// The link's MTU.
    pub mtu: u16,
    /// The VM's host name; empty for none.
    pub hostname: String,
    /// Source of IPv4 ICMP errors towards the guest.
    pub icmp_source4: Ipv4Addr,
    /// Source of IPv6 ICMP errors towards the guest.
    pub icmp_source6: Ipv6Addr,
}

impl LastInch {
    /// One on which nothing is configured, with this MTU.
    pub fn silent(mtu: u16) -> Self {
        Self {
            guest_mac: None,
            addresses4: Vec::new(),
            addresses6: Vec::new(),
            dns: Vec::new(),
            search: String::new(),
            resolves: false,
            mtu,
            hostname: String::new(),
            icmp_source4: DUMMY4,
            icmp_source6: BASE6,
        }
    }

    /// Whether this is one of the VM's addresses.
    pub fn owns4(&self, address: Ipv4Addr) -> bool {
        self.addresses4.iter().any(|lease| lease.address == address)
    }

    /// Whether this is one of the VM's addresses. The link-local address that a guest makes itself is
    /// none of them.
    pub fn owns6(&self, address: Ipv6Addr) -> bool {
        self.addresses6.contains(&address)
    }

    /// Whether the guest may speak to the base from this address: its own, or a link-local one that
    /// is not the base's.
    fn may_ask6(&self, source: Ipv6Addr) -> bool {
        self.owns6(source) || (source.is_unicast_link_local() && source != BASE6)
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not the base's to answer: it goes on to admission.
    NotForBase,
    /// A reply was added to the replies.
    Replied,
    /// Meant for the last inch, and calls for no answer.
    Silent,
    /// For the resolver.
    Resolve,
    /// Refused, for this reason.
    Drop(Counter),
}

/// Whose message is looked at, and what is known about it.
struct Guest<'a> {
    inch: &'a LastInch,
    /// Where replies go: the card's configured or learned address, else the frame's source.
    mac: Mac,
    /// The guest left the transport checksum to offload.
    checksum_pending: bool,
}

impl Guest<'_> {
    /// Whether a request is no longer than its link carries. A guest that was not told its MTU yet
    /// takes it for Ethernet's.
    fn may_send(&self, octets: usize) -> bool {
        octets <= self.inch.mtu.max(ETHERNET_MTU).into()
    }
}

/// Answers what is the base's to answer. At most one frame is added to `replies`.
///
/// `checksum_pending` says that the guest left the transport checksum to offload: what lies in the
/// datagram is no checksum yet.
#[inline]
pub fn answer(
    inch: &LastInch,
    ethernet: &Ethernet,
    payload: &Payload<'_>,
    checksum_pending: bool,
    replies: &mut Replies,
) -> Answer {
    let guest = || Guest { inch, mac: inch.guest_mac.unwrap_or(ethernet.source), checksum_pending };
    match payload {
        Payload::Arp(message) => arp::answer(&guest(), message, replies),
        Payload::Ip4(ip) => match ip.destination() {
            BASE4 => to_base4(&guest(), ip, replies),
            Ipv4Addr::BROADCAST if dhcp4::is_request(ip) => dhcp4::answer(&guest(), ip, replies),
            _ => Answer::NotForBase,
        },
        Payload::Ip6(ip) if discovery_type(ip).is_some() => ndp::answer(&guest(), ip, replies),
        Payload::Ip6(ip) => match ip.destination() {
            BASE6 => to_base6(&guest(), ip, replies),
            dhcp6::ALL_SERVERS if dhcp6::is_request(ip) => dhcp6::answer(&guest(), ip, replies),
            _ => Answer::NotForBase,
        },
    }
}

#[cold]
fn to_base4(guest: &Guest<'_>, ip: &Ip4<'_>, replies: &mut Replies) -> Answer {
    if ip.is_fragment() {
        return Answer::Drop(Counter::DropNotServed);
    }
    if dhcp4::is_request(ip) {
        return dhcp4::answer(guest, ip, replies);
    }
    if !guest.inch.owns4(ip.source()) {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    match ip.protocol() {
        protocol::ICMP4 => echo::answer4(guest, ip, replies),
        other if resolve::asks(guest, other, ip.payload()) => Answer::Resolve,
        _ => Answer::Drop(Counter::DropNotServed),
    }
}

#[cold]
fn to_base6(guest: &Guest<'_>, ip: &Ip6<'_>, replies: &mut Replies) -> Answer {
    if ip.upper().is_fragmented() {
        return Answer::Drop(Counter::DropNotServed);
    }
    if dhcp6::is_request(ip) {
        return dhcp6::answer(guest, ip, replies);
    }
    if !guest.inch.may_ask6(ip.source()) {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    match ip.upper().protocol {
        protocol::ICMP6 => echo::answer6(guest, ip, replies),
        other if resolve::asks(guest, other, ip.upper_bytes()) => Answer::Resolve,
        _ => Answer::Drop(Counter::DropNotServed),
    }
}

/// Whether a UDP checksum is right, absent (IPv4 only), or left to offload.
fn udp_is_sound(guest: &Guest<'_>, udp: &UdpPacket<&[u8]>, from: IpAddr, to: IpAddr) -> bool {
    guest.checksum_pending
        || (udp.checksum() == 0 && from.is_ipv4())
        || (udp.checksum() != 0 && udp.verify_checksum(&from.into(), &to.into()))
}

#[cfg(test)]
mod tests;

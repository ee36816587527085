//! Router advertisements: the base is every guest's IPv6 router.
//!
//! # Theory of operation
//! A guest is told by an advertisement from fe80::1, on its solicitation and from time to time
//! ([`ADVERTISE_EVERY`]), that
//! - its router is fe80::1, for [`ROUTER_LIFETIME`] seconds;
//! - its addresses come by DHCPv6, and the rest too (flags "managed" and "other");
//! - the link's MTU, the router's MAC, the name servers and the search domain (RFC 8106) are these.
//!
//! No prefix is advertised. So no guest invents an address (in a shared /64 that would be one it
//! may not use), and none takes another VM or a LAN host for a neighbour: all goes to the router.
//!
//! A VM without IPv6 addresses is told nothing.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, IpProtocol, NdiscOption, NdiscOptionRepr, NdiscRepr,
    NdiscRouterFlags,
};

use super::{ALL_NODES, Answer, BASE6, Guest, LastInch, Replies, ndp, search, wrap};
use crate::counters::Counter;
use crate::datagram::Ip6;
use crate::names::Mac;

/// How often to advertise without having been asked.
pub const ADVERTISE_EVERY: Duration = Duration::from_secs(600);
/// Seconds for which a guest keeps the base as its router: many intervals, so that a base that is
/// away for a while takes no guest's default route.
pub(super) const ROUTER_LIFETIME: u16 = 9000;

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The least MTU that IPv6 knows; a smaller one is not advertised.
const MIN_MTU: u16 = 1280;
/// Name servers told at most.
const MAX_DNS: usize = 8;
/// The type of the recursive name server option (RFC 8106).
const RDNSS: u8 = 25;
/// The type of the search list option.
const DNSSL: u8 = 31;
/// Octets of an option beside its data.
const OPTION_HEAD: usize = 2;

/// Answers a router solicitation that was found well formed.
pub(super) fn solicited(guest: &Guest<'_>, ip: &Ip6<'_>, replies: &mut Replies) -> Answer {
    let asker = ip.source();
    if !asker.is_unspecified() && !guest.inch.may_ask6(asker) {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    if ip.destination() != ALL_ROUTERS && ip.destination() != BASE6 {
        return Answer::Drop(Counter::DropLastInch);
    }
    if guest.inch.addresses6.is_empty() {
        return Answer::Silent;
    }
    write(guest.inch, guest.or_all_nodes(asker), replies);
    Answer::Replied
}

/// Advertises to the guest without having been asked. Returns whether a frame was added: none is for
/// a VM without IPv6 addresses.
pub fn advertise(inch: &LastInch, replies: &mut Replies) -> bool {
    if inch.addresses6.is_empty() {
        return false;
    }
    write(inch, (ALL_NODES, wrap::multicast_mac(ALL_NODES)), replies);
    true
}

fn write(inch: &LastInch, (to, mac): (Ipv6Addr, Mac), replies: &mut Replies) {
    let advert = NdiscRepr::RouterAdvert {
        hop_limit: wrap::HOPS,
        flags: NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER,
        router_lifetime: smoltcp::time::Duration::from_secs(ROUTER_LIFETIME.into()),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: Some(EthernetAddress(Mac::BASE.0).into()),
        mtu: (inch.mtu >= MIN_MTU).then_some(inch.mtu.into()),
        prefix_info: None,
    };
    let mut data = [0; 6 + MAX_DNS * 16];
    let servers = name_servers(inch, &mut data).map(|data| option(RDNSS, data));
    let domain = search_list(inch);
    let domain = domain.as_deref().map(|data| option(DNSSL, data));
    let options = [servers, domain].into_iter().flatten();
    let advert_len = advert.buffer_len();
    let len = options.clone().fold(advert_len, |sum, o| sum.saturating_add(o.buffer_len()));
    let room = wrap::ip6(replies, mac, (BASE6, to), IpProtocol::Icmpv6, ndp::HOPS, len);
    advert.emit(&mut Icmpv6Packet::new_unchecked(&mut *room));
    let mut rest = room.get_mut(advert_len..).unwrap_or_default();
    for option in options {
        let Some((place, behind)) = rest.split_at_mut_checked(option.buffer_len()) else { break };
        option.emit(&mut NdiscOption::new_unchecked(place));
        rest = behind;
    }
    Icmpv6Packet::new_unchecked(room).fill_checksum(&BASE6, &to);
}

/// An option that smoltcp has no name for.
fn option(type_: u8, data: &[u8]) -> NdiscOptionRepr<'_> {
    let length = (data.len().saturating_add(OPTION_HEAD) >> 3) as u8;
    NdiscOptionRepr::Unknown { type_, length, data }
}

/// What the search list option holds behind its type and length: two reserved octets, the lifetime, the
/// domain, and zeroes up to a multiple of eight octets. None without a domain.
fn search_list(inch: &LastInch) -> Option<Vec<u8>> {
    let domain = search::encoded(&inch.search);
    if domain.is_empty() {
        return None;
    }
    let lifetime = u32::from(ROUTER_LIFETIME).to_be_bytes();
    let mut data = [&[0, 0][..], &lifetime, &domain].concat();
    let whole = data.len().saturating_add(OPTION_HEAD).next_multiple_of(8);
    data.resize(whole.saturating_sub(OPTION_HEAD), 0);
    Some(data)
}

/// What the name server option holds behind its type and length: two reserved octets, the lifetime,
/// the addresses. None without an IPv6 name server.
fn name_servers<'a>(inch: &LastInch, data: &'a mut [u8; 6 + MAX_DNS * 16]) -> Option<&'a [u8]> {
    let (head, addresses) = data.split_first_chunk_mut::<6>()?;
    let [_, _, lifetime @ ..] = head;
    *lifetime = u32::from(ROUTER_LIFETIME).to_be_bytes();
    let servers = inch.dns.iter().filter_map(|server| match server {
        IpAddr::V6(server) => Some(server),
        IpAddr::V4(_) => None,
    });
    let mut count = 0usize;
    for (room, server) in addresses.as_chunks_mut::<16>().0.iter_mut().zip(servers) {
        *room = server.octets();
        count = count.saturating_add(1);
    }
    let len = count.saturating_mul(16).saturating_add(6);
    data.get(..len).filter(|_| count > 0)
}

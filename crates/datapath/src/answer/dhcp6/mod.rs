//! DHCPv6 server (RFC 8415) for the one client of a last inch: all of the VM's IPv6 addresses.
//!
//! # Theory of operation
//! ```text
//! SOLICIT ------------------> ADVERTISE, or REPLY where the client asks for rapid commit
//! REQUEST, RENEW, REBIND ---> REPLY with the addresses
//! CONFIRM ------------------> REPLY: success if all addresses named are the VM's, else not on link
//! RELEASE, DECLINE ---------> REPLY: success
//! INFORMATION-REQUEST ------> REPLY with name servers
//! names another server -----> silence
//! ```
//! 1. There is one client and its addresses are configuration: nothing is leased and nothing kept.
//!    The first identity association for addresses (IA_NA) gets all of them; a further one, and those
//!    for temporary addresses (IA_TA) and prefixes (IA_PD), are told that there are none.
//! 2. Addresses that a client renews and that are not the VM's come back with lifetimes of zero, so
//!    that it gives them up.
//! 3. The preference is the highest, so that the client asks no further and takes the first offer.
//! 4. The server's identifier is made of the base's MAC on the last inch: the same for ever.
//!
//! # Limits
//! Relayed messages are not served, nor those for a VM without IPv6 addresses (silence). The reply
//! never exceeds IPv6's least MTU: addresses that do not fit are left out.

mod message;

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::UdpPacket;

use self::message::{Association, Request, Writer, code, kind, status};
use super::{Answer, BASE6, Guest, LastInch, Replies, search, udp_is_sound, wrap};
use crate::counters::Counter;
use crate::datagram::{Ip6, protocol, udp_destination};
use crate::names::Mac;

/// The group that clients send to.
pub(super) const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;

/// Seconds after which the guest renews.
const RENEW: u32 = 1800;
/// Seconds after which it asks any server.
const REBIND: u32 = 2880;
/// Seconds for which an address is preferred.
const PREFERRED: u32 = 3600;
/// Seconds for which an address may be used at all.
const VALID: u32 = 7200;
/// Name servers told at most.
const MAX_DNS: usize = 8;

const MALFORMED: Answer = Answer::Drop(Counter::DropAnswerMalformed);

/// The server's identifier: "link-layer address", Ethernet, the base's.
const SERVER_ID: [u8; 10] = {
    let [a, b, c, d, e, f] = Mac::BASE.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
};

/// Whether this is a datagram to a DHCPv6 server's port.
pub(super) fn is_request(ip: &Ip6<'_>) -> bool {
    ip.upper().protocol == protocol::UDP
        && !ip.upper().is_fragmented()
        && udp_destination(ip.upper_bytes()) == Some(SERVER_PORT)
}

/// Answers a message to a DHCPv6 server's port, sent to the base or to all servers.
pub(super) fn answer(guest: &Guest<'_>, ip: &Ip6<'_>, replies: &mut Replies) -> Answer {
    let source = ip.source();
    if !guest.inch.may_ask6(source) {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    if !guest.may_send(ip.bytes().len()) {
        return Answer::Drop(Counter::DropTooBig);
    }
    let Ok(udp) = UdpPacket::new_checked(ip.upper_bytes()) else {
        return MALFORMED;
    };
    if !udp_is_sound(guest, &udp, source.into(), ip.destination().into()) {
        return MALFORMED;
    }
    let Some(request) = Request::parse(udp.payload()) else {
        return MALFORMED;
    };
    if guest.inch.addresses6.is_empty() {
        return Answer::Silent;
    }
    match decide(guest.inch, &request) {
        Ok(reply) => {
            let ports = (SERVER_PORT, CLIENT_PORT);
            wrap::udp6(replies, guest.mac, (BASE6, source), ports, &reply);
            Answer::Replied
        }
        Err(other) => other,
    }
}

/// The reply, or why there is none. What makes a message invalid: RFC 8415, section 16.
fn decide(inch: &LastInch, request: &Request<'_>) -> Result<Vec<u8>, Answer> {
    let names_server = match request.kind {
        kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => true,
        kind::SOLICIT | kind::CONFIRM | kind::REBIND => false,
        kind::INFORMATION_REQUEST => request.server_id.is_some(),
        kind::ADVERTISE | kind::REPLY | kind::RECONFIGURE => {
            return Err(Answer::Drop(Counter::DropDhcpReply));
        }
        _ => return Err(Answer::Drop(Counter::DropNotServed)),
    };
    let anonymous = request.client_id.is_none() && request.kind != kind::INFORMATION_REQUEST;
    if request.server_id.is_some() != names_server || anonymous {
        return Err(MALFORMED);
    }
    if request.server_id.is_some_and(|id| id != SERVER_ID) {
        return Err(Answer::Silent);
    }
    match request.kind {
        kind::SOLICIT if request.rapid_commit => {
            let mut reply = start(kind::REPLY, request);
            reply.option(code::RAPID_COMMIT, &[]);
            Ok(configure(inch, request, reply))
        }
        kind::SOLICIT => {
            let mut reply = start(kind::ADVERTISE, request);
            reply.option(code::PREFERENCE, &[&[255]]);
            Ok(configure(inch, request, reply))
        }
        kind::REQUEST | kind::RENEW | kind::REBIND => {
            Ok(configure(inch, request, start(kind::REPLY, request)))
        }
        kind::CONFIRM => confirm(inch, request),
        kind::INFORMATION_REQUEST if request.associations().next().is_some() => Err(MALFORMED),
        kind::INFORMATION_REQUEST => {
            let mut reply = start(kind::REPLY, request);
            name_servers(inch, &mut reply);
            Ok(reply.finish())
        }
        _ => {
            let mut reply = start(kind::REPLY, request);
            reply.status(status::SUCCESS);
            Ok(reply.finish())
        }
    }
}

/// A reply with both identifiers.
fn start(kind: u8, request: &Request<'_>) -> Writer {
    let mut reply = Writer::new(kind, request.transaction);
    if let Some(client) = request.client_id {
        reply.option(code::CLIENT_ID, &[client]);
    }
    reply.option(code::SERVER_ID, &[&SERVER_ID]);
    reply
}

/// Completes a reply with name servers and what each identity association gets.
fn configure(inch: &LastInch, request: &Request<'_>, mut reply: Writer) -> Vec<u8> {
    name_servers(inch, &mut reply);
    let renews = matches!(request.kind, kind::RENEW | kind::REBIND);
    let mut given = false;
    for association in request.associations() {
        match association.code {
            code::IA_NA if !given => {
                addresses(inch, &association, renews, &mut reply);
                given = true;
            }
            code::IA_TA => reply.nested(code::IA_TA, &[&association.id], |reply| {
                reply.status(status::NO_ADDRESSES);
            }),
            other => reply.nested(other, &[&association.id, &[0; 8]], |reply| {
                let prefix = other == code::IA_PD;
                reply.status(if prefix { status::NO_PREFIXES } else { status::NO_ADDRESSES });
            }),
        }
    }
    reply.finish()
}

/// Adds the VM's addresses for one association, and takes back what is not the VM's.
fn addresses(inch: &LastInch, association: &Association<'_>, renews: bool, reply: &mut Writer) {
    let times = [RENEW.to_be_bytes(), REBIND.to_be_bytes()].concat();
    reply.nested(code::IA_NA, &[&association.id, &times], |reply| {
        let lifetimes = [PREFERRED.to_be_bytes(), VALID.to_be_bytes()].concat();
        for address in &inch.addresses6 {
            reply.option(code::IA_ADDRESS, &[&address.octets(), &lifetimes]);
        }
        for address in association.addresses().filter(|a| renews && !inch.owns6(*a)) {
            reply.option(code::IA_ADDRESS, &[&address.octets(), &[0; 8]]);
        }
    });
}

/// Says whether all addresses that a client names are the VM's. A client that names none gets no
/// answer (RFC 8415, section 18.3.3).
fn confirm(inch: &LastInch, request: &Request<'_>) -> Result<Vec<u8>, Answer> {
    let mut named =
        request.associations().flat_map(|a| a.addresses().collect::<Vec<_>>()).peekable();
    if named.peek().is_none() {
        return Err(Answer::Silent);
    }
    let all = named.all(|address| inch.owns6(address));
    let mut reply = start(kind::REPLY, request);
    reply.status(if all { status::SUCCESS } else { status::NOT_ON_LINK });
    Ok(reply.finish())
}

fn name_servers(inch: &LastInch, reply: &mut Writer) {
    let servers = inch.dns.iter().filter_map(|server| match server {
        IpAddr::V6(server) => Some(server.octets()),
        IpAddr::V4(_) => None,
    });
    let octets: Vec<u8> = servers.take(MAX_DNS).flatten().collect();
    if !octets.is_empty() {
        reply.option(code::DNS, &[&octets]);
    }
    let search = search::encoded(&inch.search);
    if !search.is_empty() {
        reply.option(code::SEARCH, &[&search]);
    }
}

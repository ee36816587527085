//! DHCPv4 server (RFC 2131) for the one client of a last inch: the VM's first IPv4 address.
//!
//! # Theory of operation
//! ```text
//! DISCOVER -------------------------------------------> OFFER
//! REQUEST  names another server (option 54) ----------> silence: it chose that one
//!          asks for the VM's address: option 50 in
//!          states selecting and init-reboot, else
//!          ciaddr (renewing by unicast, rebinding) ---> ACK
//!          asks for another address ------------------> NAK
//! INFORM   from one of the VM's addresses ------------> ACK without address and times
//! RELEASE, DECLINE -----------------------------------> silence
//! ```
//! 1. There is one client and its address is configuration: nothing is leased, so nothing is kept,
//!    and a released or declined address is offered again.
//! 2. The server is 169.254.0.1. Renewals reach it by unicast, through the router that the guest
//!    was told, for the base answers ARP for every router.
//! 3. Every reply tells all that is configured, whether option 55 asks for it or not: clients
//!    ignore what they do not know, and the message stays small.
//! 4. A router outside the VM's prefix (mask /32) is told by classless routes too (option 121,
//!    RFC 3442): first the way to the router, on link, then the default route through it. A client
//!    that knows option 121 ignores option 3, one that does not gets option 3.
//! 5. The client identifier comes back as it was sent (RFC 6842).
//!
//! # Limits
//! Relayed requests are not served, nor requests for a VM without IPv4 addresses (silence). Clients
//! that cannot hear unicast yet say so (broadcast flag) and get a broadcast.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    ArpHardware, DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOpCode, DhcpOption,
    DhcpPacket, DhcpRepr, UdpPacket,
};

use super::{Answer, BASE4, Guest, LastInch, Lease4, Replies, search, udp_is_sound, wrap};
use crate::counters::Counter;
use crate::datagram::{Ip4, protocol, udp_destination};
use crate::names::Mac;

/// Seconds that an address is given for.
const LEASE: u32 = 3600;
/// Seconds after which the guest renews.
const RENEW: u32 = LEASE / 2;
/// Seconds after which it asks any server.
const REBIND: u32 = LEASE / 8 * 7;
/// What stands before the options of every DHCP message.
const MAGIC: u32 = 0x6382_5363;
/// Octets of the shortest message: what BOOTP fixed, and old clients insist on.
const MIN_LEN: usize = 300;
/// Name servers told at most.
const MAX_DNS: usize = 8;
/// Octets of the longest host name told: more is longer than Linux takes.
const MAX_HOSTNAME: usize = 64;

const MALFORMED: Answer = Answer::Drop(Counter::DropAnswerMalformed);

/// Option codes that smoltcp's representation has no field for.
mod code {
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
}

/// Whether this is a datagram to a DHCP server's port.
pub(super) fn is_request(ip: &Ip4<'_>) -> bool {
    ip.protocol() == protocol::UDP
        && !ip.is_fragment()
        && udp_destination(ip.payload()) == Some(DHCP_SERVER_PORT)
}

/// What a client says, as far as it matters here.
struct Request<'a> {
    kind: DhcpMessageType,
    packet: &'a DhcpPacket<&'a [u8]>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client_id: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// Reads a client's message for Ethernet. smoltcp's own representation is not used here: it
    /// refuses client identifiers that only look like an Ethernet address.
    fn parse(packet: &'a DhcpPacket<&'a [u8]>) -> Option<Self> {
        if packet.opcode() != DhcpOpCode::Request
            || packet.hardware_type() != ArpHardware::Ethernet
            || packet.hardware_len() != 6
            || packet.magic_number() != MAGIC
        {
            return None;
        }
        let mut kind = None;
        let (mut requested, mut server, mut client_id) = (None, None, None);
        let address = |data: &[u8]| data.try_into().ok().map(|octets: [u8; 4]| octets.into());
        for option in packet.options() {
            match (option.kind, option.data) {
                (code::MESSAGE_TYPE, &[value]) => kind = Some(DhcpMessageType::from(value)),
                (code::REQUESTED_ADDRESS, data) => requested = address(data),
                (code::SERVER, data) => server = address(data),
                (code::CLIENT_ID, data) => client_id = Some(data),
                _ => {}
            }
        }
        Some(Self { kind: kind?, packet, requested, server, client_id })
    }
}

/// Answers a message to a DHCP server's port, sent to the base or to all.
pub(super) fn answer(guest: &Guest<'_>, ip: &Ip4<'_>, replies: &mut Replies) -> Answer {
    let source = ip.source();
    if !source.is_unspecified() && !guest.inch.owns4(source) {
        return Answer::Drop(Counter::DropSourceNotOwn);
    }
    if !guest.may_send(ip.bytes().len()) {
        return Answer::Drop(Counter::DropTooBig);
    }
    let Ok(udp) = UdpPacket::new_checked(ip.payload()) else {
        return MALFORMED;
    };
    if !udp_is_sound(guest, &udp, source.into(), ip.destination().into()) {
        return MALFORMED;
    }
    let packet = DhcpPacket::new_checked(udp.payload());
    let Some(request) = packet.as_ref().ok().and_then(Request::parse) else {
        return MALFORMED;
    };
    let Some(lease) = guest.inch.addresses4.first() else {
        return Answer::Silent;
    };
    if !request.packet.relay_agent_ip().is_unspecified() {
        return Answer::Drop(Counter::DropNotServed);
    }
    use DhcpMessageType as Type;
    match request.kind {
        Type::Discover => reply(guest, &request, Type::Offer, Some(lease), replies),
        Type::Request if request.server.is_some_and(|server| server != BASE4) => Answer::Silent,
        Type::Request => {
            let wanted = request.requested.unwrap_or(request.packet.client_ip());
            if wanted.is_unspecified() {
                MALFORMED
            } else if wanted == lease.address {
                reply(guest, &request, Type::Ack, Some(lease), replies)
            } else {
                reply(guest, &request, Type::Nak, None, replies)
            }
        }
        Type::Inform if guest.inch.owns4(request.packet.client_ip()) => {
            reply(guest, &request, Type::Ack, None, replies)
        }
        Type::Inform => Answer::Drop(Counter::DropSourceNotOwn),
        Type::Release | Type::Decline => Answer::Silent,
        Type::Offer | Type::Ack | Type::Nak => Answer::Drop(Counter::DropDhcpReply),
        Type::Unknown(_) => MALFORMED,
    }
}

/// Writes a reply: an offer or acknowledgement of `lease`, an acknowledgement of configuration alone
/// (none), or a refusal.
fn reply(
    guest: &Guest<'_>,
    request: &Request<'_>,
    kind: DhcpMessageType,
    lease: Option<&Lease4>,
    replies: &mut Replies,
) -> Answer {
    let refusal = kind == DhcpMessageType::Nak;
    let facts = Facts::of(guest.inch);
    let mut options = Vec::with_capacity(8);
    if lease.is_some() {
        options.push(DhcpOption { kind: code::RENEWAL_TIME, data: &RENEW_OCTETS });
        options.push(DhcpOption { kind: code::REBINDING_TIME, data: &REBIND_OCTETS });
    }
    if !refusal {
        facts.tell(&mut options);
    }
    if let Some(data) = request.client_id {
        options.push(DhcpOption { kind: code::CLIENT_ID, data });
    }
    let told = guest.inch.addresses4.first().filter(|_| !refusal);
    let client = request.packet.client_ip();
    let message = DhcpRepr {
        message_type: kind,
        transaction_id: request.packet.transaction_id(),
        secs: 0,
        client_hardware_address: request.packet.client_hardware_address(),
        client_ip: if refusal { Ipv4Addr::UNSPECIFIED } else { client },
        your_ip: lease.map_or(Ipv4Addr::UNSPECIFIED, |lease| lease.address),
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: told.map(|lease| lease.router),
        subnet_mask: told.map(|lease| mask(lease.prefix_len)),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: wants_broadcast(request),
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(BASE4),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: lease.map(|_| LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    let mut bytes = vec![0; message.buffer_len().max(MIN_LEN)];
    if message.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).is_err() {
        return MALFORMED;
    }
    // RFC 2131, section 4.1: to the client's address if it has one, else where it can hear.
    let (to, mac) = if refusal || (client.is_unspecified() && wants_broadcast(request)) {
        (Ipv4Addr::BROADCAST, Mac::BROADCAST)
    } else if client.is_unspecified() {
        (message.your_ip, guest.mac)
    } else {
        (client, guest.mac)
    };
    wrap::udp4(replies, mac, (BASE4, to), (DHCP_SERVER_PORT, DHCP_CLIENT_PORT), &bytes);
    Answer::Replied
}

const RENEW_OCTETS: [u8; 4] = RENEW.to_be_bytes();
const REBIND_OCTETS: [u8; 4] = REBIND.to_be_bytes();

/// Whether the client cannot hear unicast yet.
fn wants_broadcast(request: &Request<'_>) -> bool {
    request.packet.flags().contains(smoltcp::wire::DhcpFlags::BROADCAST)
}

/// The octets of the options that come from configuration.
struct Facts<'a> {
    routes: Vec<u8>,
    dns: Vec<u8>,
    mtu: [u8; 2],
    hostname: &'a [u8],
    domain: &'a [u8],
    search: Vec<u8>,
}

impl<'a> Facts<'a> {
    fn of(inch: &'a LastInch) -> Self {
        let servers = inch.dns.iter().filter_map(|server| match server {
            IpAddr::V4(server) => Some(server.octets()),
            IpAddr::V6(_) => None,
        });
        let hostname = inch.hostname.as_bytes();
        Self {
            routes: inch.addresses4.first().map(classless_routes).unwrap_or_default(),
            dns: servers.take(MAX_DNS).flatten().collect(),
            mtu: inch.mtu.to_be_bytes(),
            hostname: if hostname.len() <= MAX_HOSTNAME { hostname } else { &[] },
            domain: inch.search.as_bytes(),
            search: search::encoded(&inch.search),
        }
    }

    fn tell<'b>(&'b self, options: &mut Vec<DhcpOption<'b>>) {
        let all = [
            (code::CLASSLESS_ROUTES, &self.routes[..]),
            (code::DNS, &self.dns),
            (code::MTU, &self.mtu),
            (code::HOSTNAME, self.hostname),
            // Old clients know the first of the two only.
            (code::DOMAIN, self.domain),
            (code::SEARCH, &self.search),
        ];
        options.extend(
            all.into_iter()
                .filter(|(_, data)| !data.is_empty())
                .map(|(kind, data)| DhcpOption { kind, data }),
        );
    }
}

/// The mask of a prefix.
fn mask(prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32u32.saturating_sub(prefix_len.into())).unwrap_or(0))
}

/// Option 121, for a router that does not lie in the VM's prefix: the router on link, then the default
/// route through it. Empty for a router that does.
fn classless_routes(lease: &Lease4) -> Vec<u8> {
    let mask = mask(lease.prefix_len).to_bits();
    if lease.router.to_bits() & mask == lease.address.to_bits() & mask {
        return Vec::new();
    }
    let router = lease.router.octets();
    [&[32][..], &router, &[0; 4], &[0], &router].concat()
}

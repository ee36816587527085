//! DHCPv4, with dhcproto as the client.

use dhcproto::v4::{DhcpOption as Opt, DhcpOptions, Flags, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable};

use super::*;

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const XID: u32 = 0xdead_beef;

fn message(kind: MessageType, options: &[Opt]) -> Message {
    let mut message = Message::new_with_id(XID, NOBODY, NOBODY, NOBODY, NOBODY, &GUEST.0);
    let mut all: DhcpOptions = [Opt::MessageType(kind)].into_iter().collect();
    options.iter().for_each(|option| {
        all.insert(option.clone());
    });
    message.set_opts(all);
    message
}

fn from_to(addresses: (Ipv4Addr, Ipv4Addr), message: &Message) -> Vec<u8> {
    frame4(&udp4(addresses, (68, 67), &message.to_vec().unwrap()))
}

/// As a client sends it that has no address yet.
fn broadcast(message: &Message) -> Vec<u8> {
    from_to((NOBODY, Ipv4Addr::BROADCAST), message)
}

/// Where a reply goes, and what it says.
fn heard(frame: &[u8]) -> (Mac, Ipv4Addr, Message) {
    let (mac, (source, to), payload) = udp_reply4(frame, (67, 68));
    assert_eq!(source, BASE4);
    assert!(payload.len() >= 300, "what BOOTP fixed");
    let reply = Message::from_bytes(&payload).unwrap();
    assert_eq!((reply.xid(), reply.chaddr()), (XID, &GUEST.0[..]));
    let server = reply.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(server, Some(&Opt::ServerIdentifier(BASE4)));
    (mac, to, reply)
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

/// The options that come from configuration, but for classless routes.
fn facts() -> Vec<Opt> {
    vec![
        Opt::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        Opt::Router(vec![ROUTER4]),
        Opt::DomainNameServer(vec![DNS4]),
        Opt::Hostname("web".into()),
        Opt::InterfaceMtu(1500),
    ]
}

fn times() -> Vec<Opt> {
    vec![Opt::AddressLeaseTime(3600), Opt::Renewal(1800), Opt::Rebinding(3150)]
}

fn says_exactly(reply: &Message, kind: MessageType, expected: &[Vec<Opt>]) {
    let common = vec![Opt::MessageType(kind), Opt::ServerIdentifier(BASE4)];
    let expected: DhcpOptions = [common].iter().chain(expected).flatten().cloned().collect();
    assert_eq!(*reply.opts(), expected);
}

#[test]
fn a_discover_is_offered_the_first_address_and_all_that_is_configured() {
    let frame = reply(&inch(), &broadcast(&message(MessageType::Discover, &[])));
    let (mac, to, offer) = heard(&frame);
    assert_eq!((mac, to), (GUEST, OWN4));
    assert_eq!((offer.yiaddr(), offer.ciaddr(), offer.siaddr()), (OWN4, NOBODY, NOBODY));
    says_exactly(&offer, MessageType::Offer, &[facts(), times()]);
}

#[test]
fn a_client_that_cannot_hear_unicast_yet_gets_a_broadcast() {
    let mut discover = message(MessageType::Discover, &[]);
    discover.set_flags(Flags::default().set_broadcast());
    let (mac, to, offer) = heard(&reply(&inch(), &broadcast(&discover)));
    assert_eq!((mac, to), (Mac::BROADCAST, Ipv4Addr::BROADCAST));
    assert!(offer.flags().broadcast());
}

#[test]
fn a_request_for_the_vms_address_is_acknowledged_in_every_state() {
    let requested = Opt::RequestedIpAddress(OWN4);
    let selecting =
        message(MessageType::Request, &[requested.clone(), Opt::ServerIdentifier(BASE4)]);
    let rebooting = message(MessageType::Request, &[requested]);
    let mut renewing = message(MessageType::Request, &[]);
    renewing.set_ciaddr(OWN4);
    for frame in [
        broadcast(&selecting),
        broadcast(&rebooting),
        from_to((OWN4, BASE4), &renewing),
        from_to((OWN4, Ipv4Addr::BROADCAST), &renewing),
    ] {
        let (mac, to, ack) = heard(&reply(&inch(), &frame));
        assert_eq!((mac, to, ack.yiaddr()), (GUEST, OWN4, OWN4));
        says_exactly(&ack, MessageType::Ack, &[facts(), times()]);
    }
}

#[test]
fn a_request_for_another_address_is_refused_aloud_in_every_state() {
    for wanted in [OTHER4, SECOND4, BASE4] {
        let requested = Opt::RequestedIpAddress(wanted);
        let selecting =
            message(MessageType::Request, &[requested.clone(), Opt::ServerIdentifier(BASE4)]);
        let rebooting = message(MessageType::Request, &[requested]);
        let mut rebinding = message(MessageType::Request, &[]);
        rebinding.set_ciaddr(wanted);
        for request in [selecting, rebooting, rebinding] {
            let (mac, to, nak) = heard(&reply(&inch(), &broadcast(&request)));
            assert_eq!((mac, to), (Mac::BROADCAST, Ipv4Addr::BROADCAST));
            assert_eq!((nak.yiaddr(), nak.ciaddr()), (NOBODY, NOBODY));
            says_exactly(&nak, MessageType::Nak, &[]);
        }
    }
}

#[test]
fn a_request_to_another_server_is_none_of_the_bases_business() {
    let elsewhere =
        [Opt::RequestedIpAddress(OTHER4), Opt::ServerIdentifier(Ipv4Addr::new(192, 0, 2, 1))];
    let request = message(MessageType::Request, &elsewhere);
    assert_eq!(fate(&inch(), &broadcast(&request)), Answer::Silent);
}

#[test]
fn an_inform_gets_configuration_and_no_address() {
    for address in [OWN4, SECOND4] {
        let mut inform = message(MessageType::Inform, &[]);
        inform.set_ciaddr(address);
        for destination in [BASE4, Ipv4Addr::BROADCAST] {
            let (mac, to, ack) = heard(&reply(&inch(), &from_to((address, destination), &inform)));
            assert_eq!((mac, to), (GUEST, address));
            assert_eq!((ack.yiaddr(), ack.ciaddr()), (NOBODY, address));
            says_exactly(&ack, MessageType::Ack, &[facts()]);
        }
    }
    let mut lie = message(MessageType::Inform, &[]);
    lie.set_ciaddr(OTHER4);
    assert_eq!(fate(&inch(), &broadcast(&lie)), Answer::Drop(Counter::DropSourceNotOwn));
}

#[test]
fn release_and_decline_are_heard_in_silence_and_the_address_offered_again() {
    let mut release = message(MessageType::Release, &[Opt::ServerIdentifier(BASE4)]);
    release.set_ciaddr(OWN4);
    assert_eq!(fate(&inch(), &from_to((OWN4, BASE4), &release)), Answer::Silent);
    let decline = [Opt::RequestedIpAddress(OWN4), Opt::ServerIdentifier(BASE4)];
    let decline = message(MessageType::Decline, &decline);
    assert_eq!(fate(&inch(), &broadcast(&decline)), Answer::Silent);
    let again = reply(&inch(), &broadcast(&message(MessageType::Discover, &[])));
    assert_eq!(heard(&again).2.yiaddr(), OWN4);
}

#[test]
fn a_router_outside_the_prefix_is_told_by_classless_routes() {
    let routed = |prefix_len, router| {
        let mut inch = inch();
        inch.addresses4[0] = Lease4 { address: OWN4, prefix_len, router };
        let frame = reply(&inch, &broadcast(&message(MessageType::Discover, &[])));
        let (_, _, offer) = heard(&frame);
        assert_eq!(offer.opts().get(OptionCode::Router), Some(&Opt::Router(vec![router])));
        let mask = offer.opts().get(OptionCode::SubnetMask).cloned();
        let routes = offer.opts().get(OptionCode::ClasslessStaticRoute).cloned();
        (mask, routes)
    };
    let all = Ipv4Addr::BROADCAST;
    for router in [BASE4, ROUTER4, Ipv4Addr::new(198, 51, 100, 1)] {
        let routes = vec![
            (format!("{router}/32").parse().unwrap(), NOBODY),
            ("0.0.0.0/0".parse().unwrap(), router),
        ];
        let expected = (Some(Opt::SubnetMask(all)), Some(Opt::ClasslessStaticRoute(routes)));
        assert_eq!(routed(32, router), expected);
    }
    let mask = Ipv4Addr::new(255, 255, 255, 192);
    assert_eq!(routed(26, ROUTER4), (Some(Opt::SubnetMask(mask)), None));
    assert_eq!(routed(0, BASE4), (Some(Opt::SubnetMask(NOBODY)), None));
}

#[test]
fn the_client_identifier_comes_back_as_it_was_sent() {
    // The last looks like an Ethernet address and is none.
    for id in [vec![1, 2, 3, 4, 5, 6, 7], vec![0xff; 19], vec![0; 2], vec![0xff; 7]] {
        let identifier = Opt::ClientIdentifier(id.clone());
        let discover = message(MessageType::Discover, std::slice::from_ref(&identifier));
        let (_, _, offer) = heard(&reply(&inch(), &broadcast(&discover)));
        assert_eq!(offer.opts().get(OptionCode::ClientIdentifier), Some(&identifier));
    }
}

#[test]
fn options_without_content_are_left_out_and_long_lists_cut() {
    let mut plain = inch();
    (plain.hostname, plain.dns) = (String::new(), vec![DNS6.into()]);
    let discover = broadcast(&message(MessageType::Discover, &[]));
    let (_, _, offer) = heard(&reply(&plain, &discover));
    assert_eq!(offer.opts().get(OptionCode::Hostname), None);
    assert_eq!(offer.opts().get(OptionCode::DomainNameServer), None);
    (plain.hostname, plain.dns) = ("w".repeat(65), vec![DNS4.into(); 20]);
    let (_, _, offer) = heard(&reply(&plain, &discover));
    assert_eq!(offer.opts().get(OptionCode::Hostname), None);
    let servers = offer.opts().get(OptionCode::DomainNameServer);
    assert_eq!(servers, Some(&Opt::DomainNameServer(vec![DNS4; 8])));
}

#[test]
fn the_search_domain_is_told_in_both_ways_where_there_is_one() {
    let discover = broadcast(&message(MessageType::Discover, &[]));
    let told = |inch: &LastInch| {
        let (_, _, offer) = heard(&reply(inch, &discover));
        let search = offer.opts().get(OptionCode::DomainSearch).cloned();
        (offer.opts().get(OptionCode::DomainName).cloned(), search)
    };
    assert_eq!(told(&inch()), (None, None));
    let (name, search) = told(&LastInch { search: "lan".into(), ..inch() });
    assert_eq!(name, Some(Opt::DomainName("lan".into())));
    assert!(format!("{search:?}").contains("lan"), "{search:?}");
}

#[test]
fn a_vm_without_ip4_addresses_gets_silence() {
    let discover = broadcast(&message(MessageType::Discover, &[]));
    assert_eq!(fate(&bare(), &discover), Answer::Silent);
}

#[test]
fn a_source_that_is_not_the_vms_is_dropped_by_name() {
    let mut renewing = message(MessageType::Request, &[]);
    renewing.set_ciaddr(OTHER4);
    let not_own = Answer::Drop(Counter::DropSourceNotOwn);
    assert_eq!(fate(&inch(), &from_to((OTHER4, BASE4), &renewing)), not_own);
    assert_eq!(fate(&inch(), &from_to((OTHER4, Ipv4Addr::BROADCAST), &renewing)), not_own);
}

#[test]
fn a_servers_message_a_relayed_and_a_malformed_one_are_dropped_by_name() {
    let offer = message(MessageType::Offer, &[]);
    let reply = Answer::Drop(Counter::DropDhcpReply);
    assert_eq!(fate(&inch(), &broadcast(&offer)), reply);
    let mut relayed = message(MessageType::Discover, &[]);
    relayed.set_giaddr(Ipv4Addr::new(203, 0, 113, 99));
    assert_eq!(fate(&inch(), &broadcast(&relayed)), Answer::Drop(Counter::DropNotServed));

    let malformed = Answer::Drop(Counter::DropAnswerMalformed);
    let nothing_asked = message(MessageType::Request, &[]);
    assert_eq!(fate(&inch(), &broadcast(&nothing_asked)), malformed);
    let good = message(MessageType::Discover, &[]).to_vec().unwrap();
    let drop = |bytes: &[u8]| {
        fate(&inch(), &frame4(&udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), bytes)))
    };
    assert_eq!(drop(&good[..239]), malformed);
    assert_eq!(drop(&good[..240]), malformed); // no message type: BOOTP
    for at in [0, 1, 2, 236] {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        assert_eq!(drop(&bad), malformed, "octet {at}");
    }
    let mut checksum = udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), &good);
    checksum[26] ^= 1;
    assert_eq!(fate(&inch(), &frame4(&checksum)), malformed);
    let mut length = udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), &good);
    length[24] ^= 0x40;
    assert_eq!(fate(&inch(), &frame4(&length)), malformed);
}

#[test]
fn a_message_longer_than_the_link_carries_is_not_even_read() {
    let mut long = message(MessageType::Discover, &[]).to_vec().unwrap();
    // Who was not told of a smaller MTU yet takes the link for Ethernet.
    long.resize(1500 - 28, 0);
    let frame = frame4(&udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), &long));
    heard(&reply(&LastInch { mtu: 600, ..inch() }, &frame));
    long.push(0);
    let frame = frame4(&udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), &long));
    assert_eq!(fate(&inch(), &frame), Answer::Drop(Counter::DropTooBig));
}

#[test]
fn a_message_without_udp_checksum_is_heard() {
    let discover = message(MessageType::Discover, &[]).to_vec().unwrap();
    let mut datagram = udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), &discover);
    datagram[26..28].fill(0);
    heard(&reply(&inch(), &frame4(&datagram)));
}

/// What Debian's dhclient sends first, but for the host name: other code than dhcproto's.
#[test]
fn a_discover_as_dhclient_writes_it_is_offered_an_address() {
    let mut bytes = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 3, 0, 0];
    bytes.extend([0; 16]);
    bytes.extend(GUEST.0);
    bytes.extend([0; 10 + 64 + 128]);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 50, 4, 203, 0, 113, 20]);
    bytes.extend([55, 13, 1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42, 255]);
    bytes.resize(300, 0);
    let datagram = udp4((NOBODY, Ipv4Addr::BROADCAST), (68, 67), &bytes);
    let (_, _, offer) = heard(&reply(&inch(), &frame4(&datagram)));
    assert_eq!((kind(&offer), offer.yiaddr()), (MessageType::Offer, OWN4));
}

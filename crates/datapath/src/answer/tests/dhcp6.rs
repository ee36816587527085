//! DHCPv6, with dhcproto as the client.

use dhcproto::v6::{
    DhcpOption as Opt, DhcpOptions, IAAddr, IANA, IAPD, IATA, Message, MessageType, OptionCode,
    Status,
};
use dhcproto::{Decodable, Encodable};

use super::*;

const SERVERS: Ipv6Addr = ALL_SERVERS;
const XID: [u8; 3] = [0xab, 0xcd, 0xef];
const CLIENT_ID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SERVER_ID: [u8; 10] = [0, 3, 0, 1, 0x02, 0x69, 0x70, 0x76, 0x00, 0x01];
const MALFORMED: Answer = Answer::Drop(Counter::DropAnswerMalformed);

fn client() -> Opt {
    Opt::ClientId(CLIENT_ID.to_vec())
}

fn server() -> Opt {
    Opt::ServerId(SERVER_ID.to_vec())
}

fn list(options: &[Opt]) -> DhcpOptions {
    options.iter().cloned().collect()
}

fn address(addr: Ipv6Addr, preferred_life: u32, valid_life: u32) -> Opt {
    Opt::IAAddr(IAAddr { addr, preferred_life, valid_life, opts: DhcpOptions::new() })
}

fn wants(id: u32, addresses: &[Ipv6Addr]) -> Opt {
    let opts = addresses.iter().map(|addr| address(*addr, 0, 0)).collect();
    Opt::IANA(IANA { id, t1: 0, t2: 0, opts })
}

/// The VM's addresses, and those it is to give up.
fn gets(id: u32, gone: &[Ipv6Addr]) -> Opt {
    let opts = [OWN6, SECOND6].iter().map(|addr| address(*addr, 3600, 7200));
    let gone = gone.iter().map(|addr| address(*addr, 0, 0));
    Opt::IANA(IANA { id, t1: 1800, t2: 2880, opts: opts.chain(gone).collect() })
}

fn status(status: Status) -> Opt {
    Opt::StatusCode(dhcproto::v6::StatusCode { status, msg: String::new() })
}

fn name_servers() -> Opt {
    Opt::DomainNameServers(vec![DNS6])
}

fn message(kind: MessageType, options: &[Opt]) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, XID);
    message.set_opts(list(options));
    message.to_vec().unwrap()
}

fn sent(kind: MessageType, options: &[Opt]) -> Vec<u8> {
    frame6(&udp6((LINK_LOCAL, SERVERS), (546, 547), &message(kind, options)))
}

/// What the base says to a message: its type and its options.
fn heard(inch: &LastInch, frame: &[u8]) -> (MessageType, DhcpOptions) {
    let (addresses, payload) = udp_reply6(&reply(inch, frame), (547, 546));
    assert_eq!(addresses, (BASE6, LINK_LOCAL));
    let message = Message::from_bytes(&payload).unwrap();
    assert_eq!(message.xid(), XID);
    (message.msg_type(), message.opts().clone())
}

fn says(kind: MessageType, options: &[Opt]) -> (MessageType, DhcpOptions) {
    (kind, list(&[&[client(), server()], options].concat()))
}

#[test]
fn a_solicit_is_offered_all_addresses_at_once() {
    let solicit = sent(MessageType::Solicit, &[client(), wants(7, &[])]);
    let offer = [Opt::Preference(255), name_servers(), gets(7, &[])];
    assert_eq!(heard(&inch(), &solicit), says(MessageType::Advertise, &offer));
    // What a client would like to have makes no difference.
    let hinted = sent(MessageType::Solicit, &[client(), wants(7, &[OTHER6])]);
    assert_eq!(heard(&inch(), &hinted), says(MessageType::Advertise, &offer));
}

#[test]
fn the_search_domain_is_told_where_there_is_one() {
    let solicit = sent(MessageType::Solicit, &[client(), wants(7, &[])]);
    let named = LastInch { search: "lan".into(), ..inch() };
    let (_, payload) = udp_reply6(&reply(&named, &solicit), (547, 546));
    let option = [0, 24, 0, 5, 3, b'l', b'a', b'n', 0];
    assert!(payload.windows(option.len()).any(|octets| octets == option), "{payload:02x?}");
}

#[test]
fn a_solicit_with_rapid_commit_gets_its_addresses_without_asking_again() {
    let solicit = sent(MessageType::Solicit, &[client(), Opt::RapidCommit, wants(7, &[])]);
    let reply = [Opt::RapidCommit, name_servers(), gets(7, &[])];
    assert_eq!(heard(&inch(), &solicit), says(MessageType::Reply, &reply));
}

#[test]
fn request_renew_and_rebind_get_the_addresses() {
    let addresses = says(MessageType::Reply, &[name_servers(), gets(1, &[])]);
    let mine = wants(1, &[OWN6]);
    let request = sent(MessageType::Request, &[client(), server(), mine.clone()]);
    assert_eq!(heard(&inch(), &request), addresses);
    let renew = sent(MessageType::Renew, &[client(), server(), mine.clone()]);
    assert_eq!(heard(&inch(), &renew), addresses);
    let rebind = sent(MessageType::Rebind, &[client(), mine]);
    assert_eq!(heard(&inch(), &rebind), addresses);
}

#[test]
fn an_address_that_is_no_longer_the_vms_is_taken_back_on_renewal() {
    let renew = sent(MessageType::Renew, &[client(), server(), wants(1, &[OTHER6, OWN6])]);
    let expected = says(MessageType::Reply, &[name_servers(), gets(1, &[OTHER6])]);
    assert_eq!(heard(&inch(), &renew), expected);
}

#[test]
fn further_associations_are_told_that_there_is_nothing() {
    let options = list(&[status(Status::NoAddrsAvail)]);
    let asked = [
        client(),
        wants(1, &[]),
        wants(2, &[]),
        Opt::IATA(IATA { id: 3, opts: DhcpOptions::new() }),
        Opt::IAPD(IAPD { id: 4, t1: 0, t2: 0, opts: DhcpOptions::new() }),
    ];
    let offered = [
        Opt::Preference(255),
        name_servers(),
        gets(1, &[]),
        Opt::IANA(IANA { id: 2, t1: 0, t2: 0, opts: options.clone() }),
        Opt::IATA(IATA { id: 3, opts: options }),
        Opt::IAPD(IAPD { id: 4, t1: 0, t2: 0, opts: list(&[status(Status::NoPrefixAvail)]) }),
    ];
    let solicit = sent(MessageType::Solicit, &asked);
    assert_eq!(heard(&inch(), &solicit), says(MessageType::Advertise, &offered));
}

#[test]
fn confirm_says_whether_all_addresses_are_the_vms() {
    let confirm = |named: &[Ipv6Addr]| sent(MessageType::Confirm, &[client(), wants(1, named)]);
    let reply = |code| says(MessageType::Reply, &[status(code)]);
    assert_eq!(heard(&inch(), &confirm(&[OWN6, SECOND6])), reply(Status::Success));
    assert_eq!(heard(&inch(), &confirm(&[OWN6, OTHER6])), reply(Status::NotOnLink));
    assert_eq!(fate(&inch(), &confirm(&[])), Answer::Silent);
}

#[test]
fn release_and_decline_are_acknowledged() {
    for kind in [MessageType::Release, MessageType::Decline] {
        let message = sent(kind, &[client(), server(), wants(1, &[OWN6])]);
        let expected = says(MessageType::Reply, &[status(Status::Success)]);
        assert_eq!(heard(&inch(), &message), expected);
    }
}

#[test]
fn an_information_request_gets_name_servers_and_need_not_say_who_asks() {
    let anonymous = sent(MessageType::InformationRequest, &[]);
    let (kind, options) = heard(&inch(), &anonymous);
    assert_eq!((kind, options), (MessageType::Reply, list(&[server(), name_servers()])));
    let named = sent(MessageType::InformationRequest, &[client(), server()]);
    assert_eq!(heard(&inch(), &named), says(MessageType::Reply, &[name_servers()]));
    let with_address = sent(MessageType::InformationRequest, &[client(), wants(1, &[])]);
    assert_eq!(fate(&inch(), &with_address), MALFORMED);
}

#[test]
fn the_base_is_reached_by_unicast_too_and_from_a_global_address() {
    let renew = message(MessageType::Renew, &[client(), server(), wants(1, &[OWN6])]);
    let frame = frame6(&udp6((OWN6, BASE6), (546, 547), &renew));
    let (addresses, _) = udp_reply6(&reply(&inch(), &frame), (547, 546));
    assert_eq!(addresses, (BASE6, OWN6));
}

#[test]
fn a_message_for_another_server_is_none_of_the_bases_business() {
    let elsewhere = Opt::ServerId(vec![0, 2, 9, 9]);
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Release] {
        let message = sent(kind, &[client(), elsewhere.clone(), wants(1, &[])]);
        assert_eq!(fate(&inch(), &message), Answer::Silent);
    }
}

#[test]
fn a_message_that_names_whom_it_must_not_or_not_whom_it_must_is_dropped() {
    use MessageType::*;
    for kind in [Solicit, Confirm, Rebind] {
        assert_eq!(fate(&inch(), &sent(kind, &[client(), server(), wants(1, &[])])), MALFORMED);
        assert_eq!(fate(&inch(), &sent(kind, &[wants(1, &[])])), MALFORMED);
    }
    for kind in [Request, Renew, Release, Decline] {
        assert_eq!(fate(&inch(), &sent(kind, &[client(), wants(1, &[])])), MALFORMED);
        assert_eq!(fate(&inch(), &sent(kind, &[server(), wants(1, &[])])), MALFORMED);
    }
    for kind in [Advertise, Reply, Reconfigure] {
        let answer = fate(&inch(), &sent(kind, &[client(), server()]));
        assert_eq!(answer, Answer::Drop(Counter::DropDhcpReply));
    }
    for kind in [LeaseQuery, Unknown(200), Unknown(0)] {
        let answer = fate(&inch(), &sent(kind, &[client(), server()]));
        assert_eq!(answer, Answer::Drop(Counter::DropNotServed));
    }
}

#[test]
fn a_source_that_is_not_the_vms_is_dropped_by_name_and_a_vm_without_addresses_gets_silence() {
    let solicit = message(MessageType::Solicit, &[client(), wants(7, &[])]);
    for source in [OTHER6, BASE6, Ipv6Addr::UNSPECIFIED] {
        let frame = frame6(&udp6((source, SERVERS), (546, 547), &solicit));
        assert_eq!(fate(&inch(), &frame), Answer::Drop(Counter::DropSourceNotOwn));
    }
    let solicit = sent(MessageType::Solicit, &[client(), wants(7, &[])]);
    assert_eq!(fate(&bare(), &solicit), Answer::Silent);
}

#[test]
fn a_message_with_a_wrong_length_anywhere_is_dropped() {
    let raw = |options: &[&[u8]]| {
        let message = [&[1, 0xab, 0xcd, 0xef][..], &options.concat()].concat();
        fate(&inch(), &frame6(&udp6((LINK_LOCAL, SERVERS), (546, 547), &message)))
    };
    let id: &[u8] = &[0, 1, 0, 4, 0, 3, 0, 1];
    assert_eq!(raw(&[id, &[0, 14, 0]]), MALFORMED);
    assert_eq!(raw(&[id, &[0, 14, 0, 1]]), MALFORMED);
    assert_eq!(raw(&[id, &[0, 3, 0, 11], &[0; 11]]), MALFORMED);
    assert_eq!(raw(&[id, &[0, 4, 0, 3], &[0; 3]]), MALFORMED);
    assert_eq!(raw(&[id, &[0, 3, 0, 15], &[0; 15]]), MALFORMED);
    assert_eq!(raw(&[id, &[0, 3, 0, 16], &[0; 12], &[0, 5, 0, 24]]), MALFORMED);
    assert_eq!(raw(&[id, &[0, 3, 0, 39], &[0; 12], &[0, 5, 0, 23], &[0; 23]]), MALFORMED);
    assert_eq!(raw(&[&[0, 1, 0, 1, 7]]), MALFORMED);
    assert_eq!(raw(&[&[0, 1, 0, 131], &[7; 131]]), MALFORMED);
    let nine = [[0, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; 9].concat();
    assert_eq!(raw(&[id, &nine]), MALFORMED);
    assert_eq!(fate(&inch(), &frame6(&udp6((OWN6, SERVERS), (546, 547), &[1, 0, 0]))), MALFORMED);
    let mut checksum =
        udp6((OWN6, SERVERS), (546, 547), &message(MessageType::Solicit, &[client()]));
    checksum[46] ^= 1;
    assert_eq!(fate(&inch(), &frame6(&checksum)), MALFORMED);
    checksum[46..48].fill(0);
    assert_eq!(fate(&inch(), &frame6(&checksum)), MALFORMED);
}

#[test]
fn a_status_code_too_short_to_be_one_is_ignored() {
    let options: &[u8] = &[0, 1, 0, 4, 0, 3, 0, 1, 0, 13, 0, 1, 9, 0, 3, 0, 12];
    let message = [&[1, 0xab, 0xcd, 0xef][..], options, &[0; 12]].concat();
    let frame = frame6(&udp6((LINK_LOCAL, SERVERS), (546, 547), &message));
    assert_eq!(heard(&inch(), &frame).0, MessageType::Advertise);
}

#[test]
fn a_reply_never_exceeds_the_least_mtu() {
    let many: Vec<_> = (0..100).map(|i| Ipv6Addr::from(u128::from(OWN6) + i)).collect();
    // A link that carries a request as long as this one.
    let mtu = 65_000;
    let full = LastInch { addresses6: many.clone(), dns: vec![DNS6.into(); 20], mtu, ..inch() };
    let asked: Vec<_> = (0..8).map(|id| wants(id, &many[..50])).collect();
    let long = Opt::ClientId(vec![7; 130]);
    let renew = sent(MessageType::Renew, &[&[long, server()], &asked[..]].concat());
    let frame = reply(&full, &renew);
    assert!((1240..=14 + 1280).contains(&frame.len()), "{}", frame.len());
    let (_, payload) = udp_reply6(&frame, (547, 546));
    let message = Message::from_bytes(&payload).unwrap();
    assert_eq!(message.to_vec().unwrap().len(), payload.len(), "all of it is well formed");
    let Some(Opt::IANA(first)) = message.opts().get(OptionCode::IANA) else { panic!() };
    assert!(first.opts.iter().count() > 30);
}

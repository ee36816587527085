//! DNS at the base's own addresses: what goes to the resolver, and what comes back from it.

use super::*;

/// An inch on which DNS is answered.
fn named() -> LastInch {
    LastInch { resolves: true, search: "lan".into(), ..inch() }
}

fn passed(inch: &LastInch, datagram: &[u8]) -> Result<Vec<u8>, Counter> {
    let mut replies = Replies::new();
    let result = pass_on(inch, datagram, &mut replies);
    let frames: Vec<_> = replies.iter().map(<[u8]>::to_vec).collect();
    assert_eq!(frames.len(), usize::from(result.is_ok()));
    result.map(|()| frames.concat())
}

#[test]
fn questions_go_to_the_resolver_where_there_is_one_and_only_from_the_vm() {
    let four = |from, port| frame4(&udp4((from, BASE4), (1000, port), b"hello"));
    let six = |from, port| frame6(&udp6((from, BASE6), (1000, port), b"hello"));
    let tcp = [&[4, 0, 0, 53][..], &[0; 16]].concat();
    for asks in [
        four(OWN4, 53),
        four(SECOND4, 53),
        six(OWN6, 53),
        six(LINK_LOCAL, 53),
        frame4(&ip4((OWN4, BASE4), 6, &tcp)),
        frame6(&ip6((LINK_LOCAL, BASE6), 6, 64, &tcp)),
    ] {
        assert_eq!(fate(&named(), &asks), Answer::Resolve);
        assert_eq!(fate(&inch(), &asks), Answer::Drop(Counter::DropNotServed));
    }
    let not_served = Answer::Drop(Counter::DropNotServed);
    for other in [four(OWN4, 54), six(OWN6, 5353), frame4(&ip4((OWN4, BASE4), 132, &tcp))] {
        assert_eq!(fate(&named(), &other), not_served);
    }
    for forged in [four(OTHER4, 53), six(OTHER6, 53), six(BASE6, 53)] {
        assert_eq!(fate(&named(), &forged), Answer::Drop(Counter::DropSourceNotOwn));
    }
    let fragment = ip4_with((OWN4, BASE4), 17, &[], &[0, 1, 0, 53, 0, 16, 0, 0], |h| h[6] = 0x20);
    assert_eq!(fate(&named(), &frame4(&fragment)), not_served);
    // Elsewhere it is nobody's business.
    let through = frame4(&udp4((OWN4, DNS4), (1000, 53), b"hello"));
    assert_eq!(fate(&named(), &through), Answer::NotForBase);
}

#[test]
fn an_answer_reaches_the_guest_as_it_is() {
    let four = udp4((BASE4, OWN4), (53, 1000), b"answer");
    let six = udp6((BASE6, LINK_LOCAL), (53, 1000), b"answer");
    let with_mac = |frame: Vec<u8>| [&GUEST.0[..], &Mac::BASE.0, &frame[12..]].concat();
    assert_eq!(passed(&named(), &four).unwrap(), with_mac(frame4(&four)));
    assert_eq!(passed(&named(), &six).unwrap(), with_mac(frame6(&six)));
}

#[test]
fn the_resolver_is_not_believed() {
    let four = |from, to, port| udp4((from, to), (port, 1000), b"answer");
    let six = |from, to| udp6((from, to), (53, 1000), b"answer");
    let mut padded = four(BASE4, OWN4, 53);
    padded.push(0);
    let fragment = ip4_with((BASE4, OWN4), 17, &[], &[0, 53, 4, 0, 0, 8, 0, 0], |h| h[6] = 0x20);
    for wrong in [
        four(OWN4, OWN4, 53),
        four(OTHER4, OWN4, 53),
        four(BASE4, OTHER4, 53),
        four(BASE4, Ipv4Addr::BROADCAST, 53),
        four(BASE4, OWN4, 67),
        six(OTHER6, OWN6),
        six(BASE6, OTHER6),
        six(BASE6, ALL_NODES),
        six(BASE6, BASE6),
        ip4((BASE4, OWN4), 1, &[0, 53, 0, 0, 0, 0, 0, 0]),
        ip6((BASE6, OWN6), 58, 255, &[134, 0, 0, 0, 0, 0, 0, 0]),
        udp4((BASE4, OWN4), (53, 1000), &[0; 1500 - 27]),
        four(BASE4, OWN4, 53)[..27].to_vec(),
        padded,
        fragment,
        Vec::new(),
        vec![0xff; 100],
    ] {
        assert_eq!(passed(&named(), &wrong), Err(Counter::RxResolver), "{wrong:02x?}");
    }
    assert!(passed(&named(), &udp4((BASE4, OWN4), (53, 1000), &[0; 1500 - 28])).is_ok());
    let right = four(BASE4, OWN4, 53);
    assert_eq!(passed(&inch(), &right), Err(Counter::RxResolver), "none is served here");
    let unknown = LastInch { guest_mac: None, ..named() };
    assert_eq!(passed(&unknown, &right), Err(Counter::RxMacUnknown));
}

//! What a guest says to everybody and to the base: each saying valid but for one thing, and right ones
//! among them.

use super::*;

/// What says something wrong, or something right that looks wrong, with the saying's name.
pub const SAYINGS: &[(&str, Saying)] = &[
    // Nothing is wrong: what is right must go on arriving.
    ("a datagram", |d| {
        let (to, v4) = (receiver(d), family(d));
        clean(carried(&udp(d, to.ip(v4), (4000, 4001))), Fate::Arrive(to, Left::Nothing))
    }),
    ("a checksum left to offload", |d| {
        let to = receiver(d);
        with(partial(d, to), Fate::Arrive(to, Left::Checksum))
    }),
    ("a large send", |d| {
        let to = receiver(d);
        let (header, datagram) = large(d, to, ACK);
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("any Ethernet addresses", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(true), (4000, 4001));
        let frame = [d.octets(12), vec![8, 0], datagram].concat();
        clean(frame, Fate::Arrive(to, Left::Nothing))
    }),
    ("octets behind the datagram", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(true), (4000, 4001));
        let trailer = d.range(1, 100) as usize;
        clean([carried(&datagram), d.octets(trailer)].concat(), Fate::Arrive(to, Left::Nothing))
    }),
    ("a question by ARP", |d| {
        let target = d.pick(&[Who::Rich.ip4(), Ipv4Addr::new(203, 0, 113, 1)]);
        clean(arp_frame(&arp_request(target)), Fate::Answered)
    }),
    ("a solicitation", |_| clean(carried(&solicitation(Who::Rich.ip6()).bytes()), Fate::Answered)),
    ("an echo request", |d| {
        let (from, to) = match family(d) {
            true => (Who::Hostile.ip(true), ip("169.254.0.1")),
            false => (Who::Hostile.ip(false), ip("fe80::1")),
        };
        let (kind, what) = if to.is_ipv4() { (8, protocol::ICMP) } else { (128, protocol::ICMP6) };
        let rest = [vec![0, 1, 0, 2], data(d, 0, 1200)].concat();
        let message = frames::icmp(from, to, kind, 0, &rest);
        clean(carried(&frames::datagram(from, to, what, message)), Fate::Answered)
    }),
    ("a probe for its own address", |_| {
        let message = frames::arp(
            1,
            (Who::Hostile.mac(), Ipv4Addr::UNSPECIFIED),
            ([0; 6], Who::Hostile.ip4()),
        );
        clean(arp_frame(&message), Fate::Silent)
    }),
    // Lies in the virtio-net header.
    ("csum_start is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.csum_start = d.word_but(header.csum_start);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("csum_offset is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.csum_offset = d.word_but(header.csum_offset);
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("a checksum of a protocol without one", |d| {
        let to = receiver(d);
        let (header, mut datagram) = partial(d, to);
        let at = if datagram[0] >> 4 == 4 { 9 } else { 6 };
        datagram[at] = protocol::EXPERIMENT;
        if at == 9 {
            frames::fix_ip4_checksum(&mut datagram);
        }
        with((header, datagram), Fate::Drop("drop.offload_checksum"))
    }),
    ("a checksum of a fragment", |d| {
        let to = receiver(d);
        let mut fragment = plain4(d, to);
        fragment.protocol = protocol::UDP;
        fragment.more_fragments = family(d);
        fragment.fragment_offset = u16::from(!fragment.more_fragments);
        fragment.payload = data(d, 16, 100);
        fragment.payload.truncate(fragment.payload.len() / 8 * 8);
        let header = NetHeader {
            flags: NetHeader::F_NEEDS_CSUM,
            csum_start: ETHERNET + 20,
            csum_offset: UDP_SUM,
            ..NetHeader::default()
        };
        with((header, fragment.bytes()), Fate::Drop("drop.offload_checksum"))
    }),
    ("a checksum's field behind the datagram", |d| {
        let to = receiver(d);
        let mut short = plain4(d, to);
        short.protocol = protocol::UDP;
        short.payload.truncate(d.index(8));
        let header = NetHeader {
            flags: NetHeader::F_NEEDS_CSUM,
            csum_start: ETHERNET + 20,
            csum_offset: UDP_SUM,
            ..NetHeader::default()
        };
        with((header, short.bytes()), Fate::Drop("drop.offload_checksum"))
    }),
    ("a segmentation type that is none", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_type = loop {
            let kind = d.octet();
            if kind != 0 && !matches!(kind & 0x7f, 1 | 3 | 4 | 5) {
                break kind;
            }
        };
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation of the other family", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_type ^= NetHeader::GSO_TCPV4 ^ NetHeader::GSO_TCPV6;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation without a checksum left open", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.flags = 0;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation of UDP as if it were TCP", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        let v4 = datagram[0] >> 4 == 4;
        header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        header.gso_size = 500;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segmentation that nobody was offered", |d| {
        let to = receiver(d);
        let (mut header, datagram) = partial(d, to);
        header.gso_type = d.pick(&[NetHeader::GSO_UDP, NetHeader::GSO_UDP_L4]);
        header.gso_size = 500;
        with((header, datagram), Fate::Drop("drop.offload_not_negotiated"))
    }),
    ("segments of no octets", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_size = 0;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segments of few octets", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_size = d.range(1, 32) as u16;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("segments larger than the link takes", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        let fits = MTU - usize::from(header.hdr_len - ETHERNET);
        let all = datagram.len() + usize::from(ETHERNET) - usize::from(header.hdr_len);
        header.gso_size = d.range(fits as u64 + 1, fits as u64 + 40) as u16;
        // With so few octets it would be no large send at all.
        let fate = if all > usize::from(header.gso_size) {
            Fate::Drop("drop.segment_too_big")
        } else if datagram.len() > MTU {
            if datagram[0] >> 4 == 4 {
                header.gso_size = fits as u16;
                Fate::Arrive(to, Left::Large { size: fits as u16, ecn: false })
            } else {
                Fate::Drop("drop.too_big")
            }
        } else {
            Fate::Arrive(to, Left::Checksum)
        };
        with((header, datagram), fate)
    }),
    ("a TCP header of a wrong length", |d| {
        let to = receiver(d);
        let (header, mut datagram) = large(d, to, ACK);
        let at = usize::from(header.csum_start - ETHERNET) + 12;
        datagram[at] = (d.range(0, 5) as u8) << 4;
        with((header, datagram), Fate::Drop("drop.offload_segmentation"))
    }),
    ("hdr_len is another", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.hdr_len = d.word_but(header.hdr_len);
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("congestion in the header only", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK);
        header.gso_type |= NetHeader::GSO_ECN;
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: false }))
    }),
    ("congestion, true", |d| {
        let to = receiver(d);
        let (mut header, datagram) = large(d, to, ACK | CWR);
        header.gso_type |= NetHeader::GSO_ECN;
        let size = header.gso_size;
        with((header, datagram), Fate::Arrive(to, Left::Large { size, ecn: true }))
    }),
    ("a large send of one segment", |d| {
        let to = receiver(d);
        let v4 = family(d);
        let (from, address) = (Who::Hostile.ip(v4), to.ip(v4));
        let payload = data(d, 1, 1000);
        let message = frames::tcp(from, address, (5000, 5001), ACK, &[], &payload);
        let (mut header, datagram) = unfinished(d, address, protocol::TCP, TCP_SUM, message);
        header.gso_type = if v4 { NetHeader::GSO_TCPV4 } else { NetHeader::GSO_TCPV6 };
        header.gso_size = d.range(payload.len() as u64, 65_536) as u16;
        with((header, datagram), Fate::Arrive(to, Left::Checksum))
    }),
    ("flags that mean nothing", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(true), (4000, 4001));
        let header = NetHeader { flags: d.octet() & !1, ..NetHeader::default() };
        with((header, datagram), Fate::Arrive(to, Left::Nothing))
    }),
    ("fields that are not asked for", |d| {
        let to = receiver(d);
        let datagram = udp(d, to.ip(false), (4000, 4001));
        let header = NetHeader {
            flags: d.pick(&[0, NetHeader::F_DATA_VALID]),
            gso_type: NetHeader::GSO_NONE,
            hdr_len: d.word(),
            gso_size: d.word(),
            csum_start: d.word(),
            csum_offset: d.word(),
            num_buffers: d.word(),
        };
        with((header, datagram), Fate::Arrive(to, Left::Nothing))
    }),
    // Frames and headers that are none.
    ("a frame shorter than its header", |d| {
        let len = d.index(14);
        clean(d.octets(len), Fate::Drop("drop.frame_length"))
    }),
    ("a type nobody knows", |d| {
        let to = receiver(d);
        let mut frame = carried(&plain4(d, to).bytes());
        let kind = loop {
            let kind = d.word();
            if !matches!(kind, 0x0800 | 0x0806 | 0x86dd | 0x8100 | 0x88a8 | 0x9100) {
                break kind;
            }
        };
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        clean(frame, Fate::Drop("drop.ethertype_unknown"))
    }),
    ("a tag", |d| {
        let to = receiver(d);
        let frame = carried(&plain4(d, to).bytes());
        let tag = d.pick(&[[0x81, 0], [0x88, 0xa8], [0x91, 0]]);
        let frame = [&frame[..12], &tag, &d.octets(2), &frame[12..]].concat();
        clean(frame, Fate::Drop("drop.vlan_tagged"))
    }),
    ("ARP of another kind", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        let at = d.index(6);
        message[at] = d.other(&[0, 1, 2, 4, 6, 8, 255], message[at]);
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP cut short", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        message.truncate(d.index(28));
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP with an operation nobody knows", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        message[7] = d.range(3, 256) as u8;
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP from a group", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        message[8] |= d.pick(&[1, 0xff]);
        clean(arp_frame(&message), Fate::Drop("drop.arp_malformed"))
    }),
    ("ARP in another's name", |d| {
        let mut message = arp_request(Who::Rich.ip4());
        let other = d.pick(&[Who::Plain.ip4(), Ipv4Addr::new(203, 0, 113, 1)]);
        message[14..18].copy_from_slice(&other.octets());
        clean(arp_frame(&message), Fate::Drop("drop.source_not_own"))
    }),
    ("IPv4 cut within its header", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram.truncate(d.index(20));
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP4, &datagram);
        clean(frame, Fate::Drop("drop.ip4_truncated"))
    }),
    ("IPv4 of another version", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram[0] = datagram[0] & 15 | (d.other(&[0, 1, 3, 5, 6, 15], 4) << 4);
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP4, &datagram);
        clean(frame, Fate::Drop("drop.ip4_version"))
    }),
    ("an IPv4 header too short", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram[0] = 0x40 | d.range(0, 5) as u8;
        drop(&datagram, "drop.ip4_header_length")
    }),
    ("an IPv4 header longer than the frame", |d| {
        let to = receiver(d);
        let mut datagram = Ip4 { payload: vec![], ..plain4(d, to) }.bytes();
        datagram[0] = 0x40 | d.range(6, 16) as u8;
        drop(&datagram, "drop.ip4_header_length")
    }),
    ("an IPv4 length beyond the frame", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        let len = d.range(datagram.len() as u64 + 1, 65_536) as u16;
        datagram[2..4].copy_from_slice(&len.to_be_bytes());
        frames::fix_ip4_checksum(&mut datagram);
        drop(&datagram, "drop.ip4_total_length")
    }),
    ("an IPv4 length within the header", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        datagram[2..4].copy_from_slice(&(d.range(0, 20) as u16).to_be_bytes());
        frames::fix_ip4_checksum(&mut datagram);
        drop(&datagram, "drop.ip4_total_length")
    }),
    ("one bit of an IPv4 header", |d| {
        let to = receiver(d);
        let mut datagram = plain4(d, to).bytes();
        // Not the version and the lengths: they have names of their own.
        let at = d.range(4, 20) as usize;
        datagram[at] ^= 1 << d.range(0, 8);
        drop(&datagram, "drop.ip4_checksum")
    }),
    ("IPv6 cut within its header", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to).bytes();
        datagram.truncate(d.index(40));
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP6, &datagram);
        clean(frame, Fate::Drop("drop.ip6_truncated"))
    }),
    ("IPv6 of another version", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to).bytes();
        datagram[0] = datagram[0] & 15 | (d.other(&[0, 4, 5, 7, 15], 6) << 4);
        let frame = frames::ethernet(BASE_MAC, Who::Hostile.mac(), frames::IP6, &datagram);
        clean(frame, Fate::Drop("drop.ip6_version"))
    }),
    ("an IPv6 length beyond the frame", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to).bytes();
        let len = d.range(datagram.len() as u64 - 39, 65_536) as u16;
        datagram[4..6].copy_from_slice(&len.to_be_bytes());
        drop(&datagram, "drop.ip6_payload_length")
    }),
    ("an endless chain of extension headers", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to);
        let count = d.range(17, 40) as usize;
        let mut chain = frames::options_header(protocol::DESTINATION).repeat(count);
        let last = chain.len() - 8;
        chain[last] = protocol::EXPERIMENT;
        datagram.next = protocol::DESTINATION;
        datagram.payload = chain;
        drop(&datagram.bytes(), "drop.ip6_header_chain")
    }),
    ("an extension header longer than the datagram", |d| {
        let to = receiver(d);
        let mut datagram = plain6(d, to);
        datagram.next = d.pick(&[protocol::HOP_BY_HOP, protocol::ROUTING, protocol::DESTINATION]);
        datagram.payload = frames::options_header(protocol::UDP);
        datagram.payload[1] = d.range(1, 256) as u8;
        drop(&datagram.bytes(), "drop.ip6_header_chain")
    }),
    ("a first fragment without its header", |d| {
        let to = receiver(d);
        let what = d.pick(&[protocol::TCP, protocol::UDP, protocol::ICMP, protocol::SCTP]);
        let mut fragment = plain4(d, to);
        fragment.protocol = what;
        fragment.more_fragments = true;
        fragment.payload.truncate(d.index(8));
        drop(&fragment.bytes(), "drop.first_fragment_incomplete")
    }),
    ("a first IPv6 fragment without its header", |d| {
        let to = receiver(d);
        let mut fragment = plain6(d, to);
        fragment.next = protocol::FRAGMENT;
        let short = d.index(8);
        let next = d.pick(&[protocol::TCP, protocol::UDP]);
        fragment.payload = [frames::fragment_header(next, 0, true), d.octets(short)].concat();
        drop(&fragment.bytes(), "drop.first_fragment_incomplete")
    }),
    // What speaks for the last inch.
    ("a fragmented solicitation", |d| {
        let whole = solicitation(Who::Rich.ip6());
        let header = frames::fragment_header(protocol::ICMP6, 0, family(d));
        let payload = [header, whole.payload.clone()].concat();
        drop(&Ip6 { next: protocol::FRAGMENT, payload, ..whole }.bytes(), "drop.ndp_fragmented")
    }),
    ("a router advertisement", |d| {
        let to = d.pick(&[Who::Rich.ip6(), "ff02::1".parse().unwrap_or(Ipv6Addr::LOCALHOST)]);
        drop(&discovery(134, to, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]).bytes(), "drop.last_inch")
    }),
    ("a redirect behind an extension header", |d| {
        let redirect = discovery(137, receiver(d).ip6(), &[0; 36]);
        let header = frames::options_header(protocol::ICMP6);
        let payload = [header, redirect.payload.clone()].concat();
        drop(&Ip6 { next: protocol::DESTINATION, payload, ..redirect }.bytes(), "drop.last_inch")
    }),
    ("a neighbour advertisement to another", |d| {
        let rest = [&[0x60, 0, 0, 0], &Who::Hostile.ip6().octets()[..]].concat();
        drop(&discovery(136, receiver(d).ip6(), &rest).bytes(), "drop.last_inch")
    }),
    ("a solicitation from afar", |d| {
        let hop_limit = d.range(0, 255) as u8;
        let datagram = Ip6 { hop_limit, ..solicitation(Who::Rich.ip6()) };
        drop(&datagram.bytes(), "drop.answer_malformed")
    }),
    ("a solicitation with one bit changed", |d| {
        let mut datagram = solicitation(Who::Rich.ip6()).bytes();
        // Not the type: it says what the message is.
        let at = d.range(41, datagram.len() as u64) as usize;
        datagram[at] ^= 1 << d.range(0, 8);
        drop(&datagram, "drop.answer_malformed")
    }),
    ("a solicitation in another's name", |d| {
        let other = d.pick(&[Who::Rich.ip6(), "fe80::1".parse().unwrap_or(Ipv6Addr::LOCALHOST)]);
        let whole = solicitation(Who::Plain.ip6());
        let rest = &whole.payload[4..];
        let payload = frames::icmp(other.into(), whole.destination.into(), 135, 0, rest);
        drop(&Ip6 { source: other, payload, ..whole }.bytes(), "drop.source_not_own")
    }),
    ("a DHCP server's reply", |d| {
        let (to, v4) = (receiver(d), family(d));
        let ports = if v4 { (67, 68) } else { (547, 546) };
        drop(&udp(d, to.ip(v4), ports), "drop.dhcp_reply")
    }),
    ("a DHCP message of garbage", |d| {
        let from = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let to = IpAddr::V4(Ipv4Addr::BROADCAST);
        let garbage = d.range(0, 200) as usize;
        let message = frames::udp(from, to, (68, 67), &vec![0x5a; garbage]);
        drop(&frames::datagram(from, to, protocol::UDP, message), "drop.answer_malformed")
    }),
    ("something to the base that it does not serve", |d| {
        let v4 = family(d);
        let to = if v4 { ip("169.254.0.1") } else { ip("fe80::1") };
        drop(&udp(d, to, (4000, 54)), "drop.not_served")
    }),
    // Addresses.
    ("a source that another has", |d| {
        let v4 = family(d);
        let outside = if v4 { ip("198.51.100.7") } else { ip("2001:db8:2::7") };
        let from = d.pick(&[Who::Rich.ip(v4), Who::GoodA.ip(v4), outside]);
        drop(&between(d, from, Who::GoodB.ip(v4)), "drop.source_not_own")
    }),
    ("to itself", |d| {
        let own = Who::Hostile.ip(family(d));
        drop(&between(d, own, own), "drop.destination_own")
    }),
    ("a datagram too large for the link", |d| {
        let v4 = family(d);
        let head = if v4 { 20 } else { 40 };
        let (to, len) = (receiver(d), d.range(MTU as u64 + 1, 1900) as usize);
        let payload = data(d, (len - head) as u64, (len - head) as u64 + 1);
        let datagram = if v4 {
            Ip4 { dont_fragment: true, payload, ..plain4(d, to) }.bytes()
        } else {
            Ip6 { payload, ..plain6(d, to) }.bytes()
        };
        drop(&datagram, "drop.too_big")
    }),
    // Receivers that cannot take anything.
    ("to one without buffers", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Mute.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Mute, "drop.rx_no_buffer"))
    }),
    ("to one with small buffers", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Tiny.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Tiny, "drop.rx_buffer_too_small"))
    }),
    ("to one without a driver", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Absent.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Absent, "drop.rx_port_down"))
    }),
    ("to one without a MAC address", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Unknown.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Unknown, "drop.mac_unknown"))
    }),
    ("to one with broken rings", |d| {
        let v4 = family(d);
        let datagram = udp(d, Who::Broken.ip(v4), (4000, 4001));
        clean(carried(&datagram), Fate::DropAt(Who::Broken, "drop.rx_port_broken"))
    }),
];

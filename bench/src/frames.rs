//! The frames that are sent, built by a crate that the base does not use.

use std::net::IpAddr;

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use virtqueue::NetHeader;

/// A MAC address.
pub type Mac = [u8; 6];

/// Payload octets of a segment: an Ethernet's MTU without IP header, TCP header and time stamps.
pub const SEGMENT: u16 = 1448;
/// Octets of a frame's headers, if it is TCP over IPv4 with time stamps.
const TCP4_HEADERS: u16 = 14 + 20 + 32;
/// Octets of the largest frame that Linux makes of such segments.
pub const LARGE: usize = TCP4_HEADERS as usize + 45 * SEGMENT as usize;

/// Port of the sender, port of the receiver.
const PORTS: [u16; 2] = [4000, 5000];
const HOPS: u8 = 64;

/// What kind of datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP, all done by the sender.
    Udp,
    /// TCP over IPv4: a large send whose checksum and segmentation are left to others.
    LargeTcp,
}

/// Where a frame comes from, where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// MAC addresses of sender and receiver.
    pub macs: [Mac; 2],
    /// Addresses of sender and receiver, of one family.
    pub addresses: [IpAddr; 2],
}

/// A frame of `octets` octets, without FCS, and the virtio-net header that goes before it.
///
/// Panics if the addresses are of two families, or `octets` are too few for the headers.
pub fn build(kind: Kind, ends: Ends, octets: usize) -> (NetHeader, Vec<u8>) {
    let Ends { macs: [from, to], addresses } = ends;
    let ethernet = PacketBuilder::ethernet2(from, to);
    let ip = match addresses {
        [IpAddr::V4(from), IpAddr::V4(to)] => ethernet.ipv4(from.octets(), to.octets(), HOPS),
        [IpAddr::V6(from), IpAddr::V6(to)] => ethernet.ipv6(from.octets(), to.octets(), HOPS),
        _ => panic!("{addresses:?} are of two families"),
    };
    let mut frame = Vec::with_capacity(octets);
    let payload = |headers| vec![0; octets.checked_sub(headers).expect("room for the headers")];
    let header = match kind {
        Kind::Udp => {
            let step = ip.udp(PORTS[0], PORTS[1]);
            let payload = payload(step.size(0));
            step.write(&mut frame, &payload).expect("a vector takes all");
            NetHeader::default()
        }
        Kind::LargeTcp => {
            let mut tcp = TcpHeader::new(PORTS[0], PORTS[1], 1, u16::MAX);
            tcp.set_options(&[
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(1, 1),
            ])
            .expect("time stamps fit");
            tcp.ack = true;
            let step = ip.tcp_header(tcp);
            let payload = payload(step.size(0));
            step.write(&mut frame, &payload).expect("a vector takes all");
            NetHeader {
                flags: NetHeader::F_NEEDS_CSUM,
                gso_type: NetHeader::GSO_TCPV4,
                hdr_len: TCP4_HEADERS,
                gso_size: SEGMENT,
                csum_start: 14 + 20,
                csum_offset: 16,
                num_buffers: 0,
            }
        }
    };
    (header, frame)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_frame_has_the_length_that_was_asked_for() {
        let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let v4 = [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), Ipv4Addr::new(198, 18, 0, 2).into()];
        let v6 = [IpAddr::V6(Ipv6Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        for (kind, addresses, octets) in [
            (Kind::Udp, v4, 64),
            (Kind::Udp, v6, 64),
            (Kind::Udp, v4, 1514),
            (Kind::LargeTcp, v4, LARGE),
        ] {
            assert_eq!(build(kind, Ends { macs, addresses }, octets).1.len(), octets, "{kind:?}");
        }
        // The largest that IPv4 can tell is not reached: Linux stops at whole segments.
        assert!(LARGE - 14 <= 65_535 && LARGE - 14 + usize::from(SEGMENT) > 65_535);
    }
}

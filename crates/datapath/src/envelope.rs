//! The headers in front of a datagram on its way to a guest.
//!
//! # Theory of operation
//! Nearly all datagrams that go to one guest go behind one of a few headers: they differ by family and
//! by what is left to do with the transport's checksum. So these headers are made once per receiver
//! and batch, and what a datagram needs is noted beside it as a [`Style`]: a place in that table.
//!
//! Whatever needs another header (large sends, what the kernel said about a checksum) has no style;
//! its headers are made for it alone.

use virtqueue::NetHeader;

use crate::datagram::{Ip4, Ip6, Kind, Plain, ethertype, protocol};
use crate::names::Mac;
use crate::offload::{Abilities, Checksum, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::port::ETHERNET;
use crate::storage::HEADERS;

/// Where an IPv4 header has its protocol.
const PROTOCOL: usize = 9;
/// Where an IPv6 header has its next one's.
const NEXT_HEADER: usize = 6;

/// Which of the common headers a datagram needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Style {
    /// None of them.
    #[default]
    Other,
    /// IPv4, finished.
    Four,
    /// IPv6, finished.
    Six,
    /// IPv4 without options; TCP whose checksum is to be filled in.
    Tcp4,
    /// The same with UDP.
    Udp4,
    /// IPv6 without extension headers; TCP whose checksum is to be filled in.
    Tcp6,
    /// The same with UDP.
    Udp6,
}

impl Style {
    /// All of them, each at its place.
    const ALL: [Self; 7] =
        [Self::Other, Self::Four, Self::Six, Self::Tcp4, Self::Udp4, Self::Tcp6, Self::Udp6];

    /// That of a datagram with which nothing is left to do.
    #[inline]
    pub fn finished(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(octet) if octet >> 4 == 6 => Self::Six,
            _ => Self::Four,
        }
    }

    /// That of a common datagram in its frame, behind the header that its sender wrote, if the sender
    /// may leave this to others and what it says is borne out by the datagram.
    /// [`Offload::check`](crate::offload::Offload::check) would find the same.
    #[inline]
    pub fn sent(
        header: &[u8; NetHeader::LEN],
        frame: &[u8],
        look: Plain,
        allowed: Abilities,
    ) -> Self {
        let six = match look.kind() {
            Kind::Other => return Self::Other,
            Kind::Four => false,
            Kind::Six => true,
        };
        if !NetHeader::leaves_work(header) {
            return if six { Self::Six } else { Self::Four };
        }
        if NetHeader::is_large(header) || !allowed.checksum {
            return Self::Other;
        }
        Self::open(header, frame, look, six)
    }

    #[inline(never)]
    fn open(header: &[u8; NetHeader::LEN], frame: &[u8], look: Plain, six: bool) -> Self {
        let at = ETHERNET.wrapping_add(if six { NEXT_HEADER } else { PROTOCOL });
        let style = match (frame.get(at).copied(), six) {
            (Some(protocol::TCP), false) => Self::Tcp4,
            (Some(protocol::UDP), false) => Self::Udp4,
            (Some(protocol::TCP), true) => Self::Tcp6,
            (Some(protocol::UDP), true) => Self::Udp6,
            _ => return Self::Other,
        };
        let Checksum::Partial { start, offset } = style.checksum() else { return Self::Other };
        let [_, _, _, _, _, _, s0, s1, o0, o1, ..] = *header;
        let says = (u16::from_le_bytes([s0, s1]), u16::from_le_bytes([o0, o1]));
        let end = start.wrapping_add(offset).wrapping_add(size_of::<u16>() as u16);
        let right = says == (start.wrapping_add(ETHERNET as u16), offset)
            && u32::from(end) <= look.octets();
        if right { style } else { Self::Other }
    }

    /// Whether the checksum is to be filled in.
    #[inline]
    pub fn is_open(self) -> bool {
        self as u8 >= Self::Tcp4 as u8
    }

    /// What is known of the checksum of such a datagram.
    #[inline]
    pub fn checksum(self) -> Checksum {
        let (start, offset) = match self {
            Self::Other | Self::Four | Self::Six => return Checksum::None,
            Self::Tcp4 => (Ip4::HEADER_LEN, TCP_CHECKSUM),
            Self::Udp4 => (Ip4::HEADER_LEN, UDP_CHECKSUM),
            Self::Tcp6 => (Ip6::HEADER_LEN, TCP_CHECKSUM),
            Self::Udp6 => (Ip6::HEADER_LEN, UDP_CHECKSUM),
        };
        Checksum::Partial { start: start as u16, offset: offset as u16 }
    }

    fn ethertype(self) -> u16 {
        match self {
            Self::Six | Self::Tcp6 | Self::Udp6 => ethertype::IP6,
            Self::Other | Self::Four | Self::Tcp4 | Self::Udp4 => ethertype::IP4,
        }
    }
}

/// The headers in front of a datagram that goes to one guest, for each [`Style`] that it takes.
pub struct Envelope([Option<[u8; HEADERS]>; Style::ALL.len()]);

impl Envelope {
    /// For the guest with this MAC address and these abilities.
    pub fn to(mac: Mac, abilities: Abilities) -> Self {
        Self(Style::ALL.map(|style| {
            let header = match style.checksum() {
                Checksum::Partial { start, offset } if abilities.checksum => NetHeader {
                    flags: NetHeader::F_NEEDS_CSUM,
                    csum_start: start.wrapping_add(ETHERNET as u16),
                    csum_offset: offset,
                    ..NetHeader::default()
                },
                Checksum::Partial { .. } => return None,
                _ => NetHeader::default(),
            };
            (style != Style::Other).then(|| headers(header, mac, style.ethertype()))
        }))
    }

    /// Those of a style; `None` if the guest takes no such headers.
    #[inline]
    pub fn of(&self, style: Style) -> Option<&[u8; HEADERS]> {
        self.0.get(style as usize)?.as_ref()
    }

    /// Writes those of a finished datagram before the one that lies behind the room for them.
    pub fn put_on(&self, whole: &mut [u8]) {
        let Some((room, datagram)) = whole.split_first_chunk_mut::<HEADERS>() else { return };
        if let Some(headers) = self.of(Style::finished(datagram)) {
            *room = *headers;
        }
    }
}

/// A virtio-net header that says that the frame lies in one buffer, and an Ethernet header from the
/// base to the guest.
fn headers(header: NetHeader, mac: Mac, ethertype: u16) -> [u8; HEADERS] {
    let one = NetHeader { num_buffers: 1, ..header };
    let [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11] = one.to_bytes();
    let [d0, d1, d2, d3, d4, d5] = mac.0;
    let [s0, s1, s2, s3, s4, s5] = Mac::BASE.0;
    let [t0, t1] = ethertype.to_be_bytes();
    [
        n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, d0, d1, d2, d3, d4, d5, s0, s1, s2, s3,
        s4, s5, t0, t1,
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datagram::craft::{frame4, frame6, ip4, ip6};
    use crate::datagram::{parse, plain};
    use crate::offload::{Handover, Offload, Sender};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    #[test]
    fn every_style_has_its_place_in_the_table() {
        for (place, style) in Style::ALL.iter().enumerate() {
            assert_eq!(*style as usize, place);
            assert_eq!(style.is_open(), style.checksum() != Checksum::None);
        }
        let envelope = Envelope::to(MAC, Abilities::default());
        let takes = Style::ALL.map(|style| envelope.of(style).is_some());
        assert_eq!(takes, [false, true, true, false, false, false, false]);
    }

    proptest! {
        /// Whatever the straight way makes of a header, the general way would have made of it.
        #[test]
        fn a_style_is_what_the_general_way_would_say(
            six: bool, proto in prop_oneof![Just(6u8), Just(17), any::<u8>()],
            payload in prop::collection::vec(any::<u8>(), 0..40),
            flags in 0u8..4, gso in prop_oneof![9 => Just(0u8), 1 => any::<u8>()],
            start in prop_oneof![Just(34u16), Just(54), any::<u16>()],
            offset in prop_oneof![Just(6u16), Just(16), Just(2), any::<u16>()],
            sender: bool, receiver: bool,
        ) {
            let (a4, b4) = ([203, 0, 113, 5].into(), [198, 51, 100, 9].into());
            let (a6, b6) = ("2001:db8::5".parse().unwrap(), "2001:db8::9".parse().unwrap());
            let frame = match six {
                true => frame6(&ip6((a6, b6), proto, 64, &payload)),
                false => frame4(&ip4((a4, b4), proto, &payload)),
            };
            let header = NetHeader {
                flags, gso_type: gso, csum_start: start, csum_offset: offset,
                ..NetHeader::default()
            };
            let allowed = Abilities { checksum: sender, ..Abilities::default() };
            let look = plain(&frame);
            let style = Style::sent(&header.to_bytes(), &frame, look, allowed);
            if style == Style::Other {
                return Ok(());
            }
            let (_, parsed) = parse(&frame).unwrap();
            let offload = Offload::check(&header, ETHERNET, &parsed, Sender::Guest(allowed));
            let offload = offload.unwrap();
            let expected = Offload { checksum: style.checksum(), ..Offload::default() };
            prop_assert_eq!(offload, expected);
            let takes = Abilities { checksum: receiver, ..Abilities::default() };
            let envelope = Envelope::to(MAC, takes);
            match (offload.header_for(takes, ETHERNET as u16), envelope.of(style)) {
                (Handover::Whole(header), Some(headers)) => {
                    let header = NetHeader { num_buffers: 1, ..header };
                    prop_assert_eq!(&headers[..NetHeader::LEN], &header.to_bytes()[..]);
                    prop_assert_eq!(&headers[NetHeader::LEN..][..6], &MAC.0[..]);
                    prop_assert_eq!(&headers[24..], &frame[12..14]);
                }
                (Handover::CompleteChecksum { .. }, None) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

//! The table of reserved addresses: what may never cross the base, as source or as destination.
//!
//! # Theory of operation
//! One table, read by every crossing (VM to anywhere, uplink to VM, host to VM). It holds what RFC
//! 6890 marks as neither forwardable nor global because of *where it has meaning*: this host, this
//! link. Private, documentation and shared (100.64/10) space are ordinary addresses here: whether
//! they are routed is the network's affair.
//!
//! | IPv4 | IPv6 | class |
//! | --- | --- | --- |
//! | 0.0.0.0 | :: | unspecified |
//! | 127/8 | ::1 | loopback |
//! | 169.254/16 | fe80::/10 | link-local |
//! | 224/4 | ff00::/8 | multicast |
//! | 255.255.255.255 | | broadcast |
//! | rest of 0/8, 240/4 | ::ffff:0:0/96, ::/96 | reserved |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::counters::Counter;

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An ordinary address that may cross.
    Unicast,
    /// 0.0.0.0, ::
    Unspecified,
    /// 127/8, ::1
    Loopback,
    /// 169.254/16, fe80::/10
    LinkLocal,
    /// 224/4, ff00::/8
    Multicast,
    /// 255.255.255.255
    Broadcast,
    /// The rest of 0/8 and of 240/4; IPv4-mapped and IPv4-compatible IPv6 addresses.
    Reserved,
}

impl Class {
    /// The class of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self::of4(a),
            IpAddr::V6(a) => Self::of6(a),
        }
    }

    /// The class of an IPv4 address.
    #[inline]
    pub fn of4(address: Ipv4Addr) -> Self {
        match address.octets() {
            [0, 0, 0, 0] => Self::Unspecified,
            [255, 255, 255, 255] => Self::Broadcast,
            [0 | 240..=255, ..] => Self::Reserved,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [224..=239, ..] => Self::Multicast,
            _ => Self::Unicast,
        }
    }

    /// Whether an IPv4 address is an ordinary one.
    #[inline]
    pub fn is_unicast4(address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        let first = bits >> 24;
        // 0 and what lies behind 223 are equally far away.
        first.wrapping_sub(1) < 223 && first != 127 && bits >> 16 != 169 << 8 | 254
    }

    /// The class of an IPv6 address.
    #[inline]
    pub fn of6(address: Ipv6Addr) -> Self {
        let [first, second, ..] = address.octets();
        match (first, second) {
            (0xff, _) => Self::Multicast,
            (0xfe, 0x80..=0xbf) => Self::LinkLocal,
            (0, 0) => Self::of6_low(address),
            _ => Self::Unicast,
        }
    }

    /// Addresses that begin with sixteen zero bits.
    fn of6_low(address: Ipv6Addr) -> Self {
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => Self::Reserved,
            _ => Self::Unicast,
        }
    }

    /// Why a datagram *from* such an address must not cross, if it must not.
    #[inline]
    pub fn refusal_as_source(self) -> Option<Counter> {
        Some(match self {
            Self::Unicast => return None,
            Self::Unspecified => Counter::DropSourceUnspecified,
            Self::Loopback => Counter::DropSourceLoopback,
            Self::LinkLocal => Counter::DropSourceLinkLocal,
            Self::Multicast => Counter::DropSourceMulticast,
            Self::Broadcast => Counter::DropSourceBroadcast,
            Self::Reserved => Counter::DropSourceReserved,
        })
    }

    /// Why a datagram *to* such an address must not cross, if it must not.
    #[inline]
    pub fn refusal_as_destination(self) -> Option<Counter> {
        Some(match self {
            Self::Unicast => return None,
            Self::Unspecified => Counter::DropDestinationUnspecified,
            Self::Loopback => Counter::DropDestinationLoopback,
            Self::LinkLocal => Counter::DropDestinationLinkLocal,
            Self::Multicast => Counter::DropDestinationMulticast,
            Self::Broadcast => Counter::DropDestinationBroadcast,
            Self::Reserved => Counter::DropDestinationReserved,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_ip4_addresses_are_those_of_no_other_class() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0xffff] {
                let address = Ipv4Addr::from_bits(u32::from(high) << 16 | low);
                let ordinary = Class::of4(address) == Class::Unicast;
                assert_eq!(Class::is_unicast4(address), ordinary, "{address}");
            }
        }
    }

    #[test]
    fn the_borders_of_every_reserved_block_fall_on_the_right_side() {
        use Class::*;
        for (address, class) in [
            ("0.0.0.0", Unspecified),
            ("0.0.0.1", Reserved),
            ("0.255.255.255", Reserved),
            ("1.0.0.0", Unicast),
            ("126.255.255.255", Unicast),
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("128.0.0.0", Unicast),
            ("169.253.255.255", Unicast),
            ("169.254.0.1", LinkLocal),
            ("169.255.0.0", Unicast),
            ("223.255.255.255", Unicast),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.0", Reserved),
            ("255.255.255.254", Reserved),
            ("255.255.255.255", Broadcast),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::2", Reserved),
            ("::ffff:203.0.113.1", Reserved),
            ("64:ff9b::1", Unicast),
            ("2001:db8::1", Unicast),
            ("fe7f:ffff::", Unicast),
            ("fe80::1", LinkLocal),
            ("febf:ffff::1", LinkLocal),
            ("fec0::1", Unicast),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(Class::of(address.parse().unwrap()), class, "{address}");
        }
    }
}

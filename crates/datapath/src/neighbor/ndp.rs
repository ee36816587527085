//! Neighbour solicitations and advertisements (RFC 4861), and how ICMPv6 messages are sent.

use std::net::Ipv6Addr;

use super::outbox::Outbox;
use crate::checksum::{Sum, pseudo6};
use crate::datagram::{Ip6, ethertype, protocol};
use crate::names::Mac;

/// All nodes of the link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// What neighbour discovery is sent with, so that nothing from beyond a router passes for it.
const HOP_LIMIT: u8 = 255;
const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// A neighbour solicitation or advertisement, checked as RFC 4861, section 7.1, asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    /// Who has `target`? From `source`, or from :: by somebody who wants to use it.
    Solicitation { source: Ipv6Addr, target: Ipv6Addr, link: Option<Mac> },
    /// `target` is here.
    Advertisement { target: Ipv6Addr, link: Option<Mac>, solicited: bool, overrides: bool },
}

impl Discovery {
    /// Reads the message; `None` if it is malformed or forged from beyond a router.
    pub fn parse(ip: &Ip6<'_>) -> Option<Self> {
        let message = ip.upper_bytes();
        let (head, options) = message.split_first_chunk::<24>()?;
        let [kind, code, _, _, flags, _, _, _, target @ ..] = *head;
        let target = Ipv6Addr::from(target);
        if ip.hop_limit() != HOP_LIMIT || code != 0 || target.is_multicast() || !checksum_right(ip)
        {
            return None;
        }
        let (source, destination) = (ip.source(), ip.destination());
        match kind {
            SOLICITATION => {
                let link = link_option(options, OPTION_SOURCE_LINK)?;
                let probe = source.is_unspecified();
                if source.is_multicast()
                    || (probe && (link.is_some() || !is_solicited(destination)))
                {
                    return None;
                }
                Some(Self::Solicitation { source, target, link })
            }
            ADVERTISEMENT => {
                let link = link_option(options, OPTION_TARGET_LINK)?;
                let solicited = flags & FLAG_SOLICITED != 0;
                if solicited && destination.is_multicast() {
                    return None;
                }
                let overrides = flags & FLAG_OVERRIDE != 0;
                Some(Self::Advertisement { target, link, solicited, overrides })
            }
            _ => None,
        }
    }
}

/// The link-layer address in an option of this kind: `Some(None)` if there is none, `None` if the
/// options are malformed.
fn link_option(mut options: &[u8], kind: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let Some(&[option, units]) = options.first_chunk::<2>() {
        let len = usize::from(units).saturating_mul(8);
        let (this, rest) = options.split_at_checked(len).filter(|_| len > 0)?;
        if option == kind && len == 8 {
            found = this.last_chunk::<6>().map(|m| Mac(*m));
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// Whether the checksum of an ICMPv6 message is right.
pub(super) fn checksum_right(ip: &Ip6<'_>) -> bool {
    let message = ip.upper_bytes();
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let (source, destination) = (ip.source().octets(), ip.destination().octets());
    pseudo6(&source, &destination, protocol::ICMP6, len).plus(message).checksum() == 0
}

/// The group that is asked for `address` (RFC 4291, section 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn is_solicited(group: Ipv6Addr) -> bool {
    group == solicited_node(group)
}

/// Where Ethernet sends what goes to a group (RFC 2464, section 7).
pub(super) fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// The link-local address that a card makes from its MAC address (RFC 4291, appendix A).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// From where to where a message goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub card: Mac,
    pub to: Mac,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Envelope {
    fn to_group(card: Mac, source: Ipv6Addr, group: Ipv6Addr) -> Self {
        Self { card, to: group_mac(group), source, destination: group }
    }

    /// Sends an ICMPv6 message of this kind whose `body` (an even number of octets) follows the
    /// checksum. `extension` goes before it: its first octet already says that ICMPv6 follows.
    pub fn send(
        &self,
        hop_limit: u8,
        extension: &[u8],
        kind: u8,
        body: &[&[u8]],
        out: &mut Outbox,
    ) {
        let body_len = body.iter().fold(4usize, |n, part| n.saturating_add(part.len()));
        let (source, destination) = (self.source.octets(), self.destination.octets());
        let len = u16::try_from(body_len).unwrap_or(u16::MAX);
        let start = pseudo6(&source, &destination, protocol::ICMP6, len.into());
        let sum = body.iter().fold(start.word(u16::from(kind) << 8), |s: Sum, part| s.plus(part));
        let payload_len = len.saturating_add(u16::try_from(extension.len()).unwrap_or(0));
        let next = if extension.is_empty() { protocol::ICMP6 } else { protocol::HOP_BY_HOP };
        let [high, low] = sum.checksum().to_be_bytes();
        let mut parts: [&[u8]; 16] = [&[]; 16];
        let head: [&[u8]; 9] = [
            &self.to.0,
            &self.card.0,
            &ethertype::IP6.to_be_bytes(),
            &[0x60, 0, 0, 0],
            &payload_len.to_be_bytes(),
            &[next, hop_limit],
            &source,
            &destination,
            extension,
        ];
        let tail = [kind, 0, high, low];
        let all = head.iter().copied().chain([&tail[..]]).chain(body.iter().copied());
        for (into, part) in parts.iter_mut().zip(all) {
            *into = part;
        }
        out.send(&parts);
    }
}

/// Asks who has `target`, in the name of `source`, of `to` or of everybody.
pub(super) fn solicit(
    card: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<Mac>,
    out: &mut Outbox,
) {
    let envelope = match to {
        Some(to) => Envelope { card, to, source, destination: target },
        None => Envelope::to_group(card, source, solicited_node(target)),
    };
    let option = [OPTION_SOURCE_LINK, 1];
    let body: [&[u8]; 4] = [&[0; 4], &target.octets(), &option, &card.0];
    envelope.send(HOP_LIMIT, &[], SOLICITATION, &body, out);
}

/// Asks whether anybody has `target` before it is used (RFC 4862, section 5.4.2).
pub(super) fn probe(card: Mac, target: Ipv6Addr, out: &mut Outbox) {
    let envelope = Envelope::to_group(card, Ipv6Addr::UNSPECIFIED, solicited_node(target));
    envelope.send(HOP_LIMIT, &[], SOLICITATION, &[&[0; 4], &target.octets()], out);
}

/// Says that `target` is at the card, which is no router: to `to`, who asked, or to all.
pub(super) fn advertise(
    card: Mac,
    target: Ipv6Addr,
    to: Option<(Ipv6Addr, Mac)>,
    out: &mut Outbox,
) {
    let (envelope, solicited) = match to {
        Some((destination, to)) => {
            (Envelope { card, to, source: target, destination }, FLAG_SOLICITED)
        }
        None => (Envelope::to_group(card, target, ALL_NODES), 0),
    };
    let flags = [FLAG_OVERRIDE | solicited, 0, 0, 0];
    let option = [OPTION_TARGET_LINK, 1];
    envelope.send(
        HOP_LIMIT,
        &[],
        ADVERTISEMENT,
        &[&flags, &target.octets(), &option, &card.0],
        out,
    );
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_link_local_addresses_are_those_of_the_rfcs() {
        let address: Ipv6Addr = "2001:db8:1::12:3456:789a".parse().unwrap();
        let group = solicited_node(address);
        assert_eq!(group, "ff02::1:ff56:789a".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group), Mac([0x33, 0x33, 0xff, 0x56, 0x78, 0x9a]));
        assert!(is_solicited(group) && !is_solicited(ALL_NODES));
        let mac = Mac([0x00, 0x11, 0x22, 0x33, 0x44, 0x55]);
        assert_eq!(link_local(mac), "fe80::211:22ff:fe33:4455".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn options_are_walked_to_their_end_or_refused() {
        let mac = [2, 0, 0, 0, 0, 9];
        let link = [&[1, 1][..], &mac].concat();
        let other = [14, 1, 1, 2, 3, 4, 5, 6];
        assert_eq!(link_option(&[], 1), Some(None));
        assert_eq!(link_option(&[&other[..], &link].concat(), 1), Some(Some(Mac(mac))));
        assert_eq!(link_option(&link, 2), Some(None));
        assert_eq!(link_option(&[1, 0, 0, 0, 0, 0, 0, 0], 1), None);
        assert_eq!(link_option(&link[..7], 1), None);
        assert_eq!(link_option(&[&link[..], &[1]].concat(), 1), None);
    }
}

//! Checks of the adapter cards.

use datapath::netlink::Link;
use datapath::uplink::{CardLook, LARGEST_XDP_MTU, WHOLE_XDP_MTU};

use super::machine::{FOR_XDP, version};
use super::{Case, Finding};
use crate::config::{Driver, Network};

fn about(card: &str) -> String {
    format!("card {card}")
}

/// The networks that have an Ethernet card which is there, with what is known of them.
fn found<'a>(
    case: &Case<'a>,
) -> impl Iterator<Item = (&'a str, &'a Network, &'a Link, Option<&'a CardLook>)> + use<'a> {
    let facts = case.facts;
    case.carded().filter_map(move |(name, network, card)| {
        let look = facts.cards.get(card).and_then(|look| look.as_ref().ok());
        let link = facts.host.link(card).filter(|link| link.mac.is_some())?;
        Some((name, network, link, look))
    })
}

pub(super) fn there(case: &Case<'_>) -> Vec<Finding> {
    let links = &case.facts.host.links;
    let could_be = || {
        let cards = links.iter().filter(|l| l.mac.is_some()).map(|l| l.name.as_str());
        cards.collect::<Vec<_>>().join(", ")
    };
    let judge = |(network, _, card): (&str, _, &str)| match case.facts.host.link(card) {
        None => Some(Finding::error(
            about(card),
            format!("there is no interface of this name; Ethernet cards here: {}", could_be()),
            format!("write one of them as `uplink` under [network.{network}]"),
        )),
        Some(link) if link.mac.is_none() => Some(Finding::error(
            about(card),
            "it has no MAC address, and an uplink must be an Ethernet card",
            format!(
                "write another as `uplink` under [network.{network}]; there are: {}",
                could_be()
            ),
        )),
        Some(_) => None,
    };
    case.carded().filter_map(judge).collect()
}

pub(super) fn link(case: &Case<'_>) -> Vec<Finding> {
    let judge = |(_, _, link, look): (_, _, &Link, Option<&CardLook>)| {
        let name = &link.name;
        if !link.up {
            return Finding::error(
                about(name),
                "it is down",
                format!("sudo ip link set {name} up"),
            );
        }
        if !link.carrier {
            let what = "it has no link: no cable, or nothing at the other end of it";
            return Finding::error(
                about(name),
                what,
                "plug in its cable, or turn on what is there",
            );
        }
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let driver = look.map_or("unknown", |look| &look.driver);
        let what = format!("it is up ({mac}, MTU {}, driver {driver})", link.mtu);
        Finding::ok(about(name), what)
    };
    found(case).map(judge).collect()
}

pub(super) fn merging(case: &Case<'_>) -> Vec<Finding> {
    let judge = |(_, _, link, look): (_, _, &Link, Option<&CardLook>)| {
        let on = &look?.merges;
        let names = |fixed| {
            let those = on.iter().filter(|m| m.fixed == fixed).map(|m| m.name);
            those.collect::<Vec<_>>().join(", ")
        };
        let (fixed, other) = (names(true), names(false));
        let name = &link.name;
        if !fixed.is_empty() {
            let what =
                format!("it merges datagrams on the way in and cannot be told not to: {fixed}");
            let cure = format!("use another card or driver; `ethtool -k {name}` shows what it can");
            return Some(Finding::error(about(name), what, cure));
        }
        let what = format!("{other}: on, which is turned off while ipvisor uses it");
        (!other.is_empty()).then(|| Finding::ok(about(name), what))
    };
    found(case).filter_map(judge).collect()
}

pub(super) fn mtu(case: &Case<'_>) -> Vec<Finding> {
    let judge = |(name, network, link, _): (&str, &Network, &Link, _)| {
        let wanted = network.mtu.map(u32::from).filter(|mtu| *mtu > link.mtu)?;
        let (card, has) = (&link.name, link.mtu);
        Some(Finding::warning(
            about(card),
            format!(
                "its MTU is {has}, that of network {name} {wanted}: what is larger is not sent"
            ),
            format!("sudo ip link set {card} mtu {wanted}, or no `mtu` under [network.{name}]"),
        ))
    };
    found(case).filter_map(judge).collect()
}

/// Why the packet socket would carry what AF_XDP was asked for; what else it would take.
pub(super) fn xdp(case: &Case<'_>) -> Vec<Finding> {
    let old = version(&case.facts.release).is_some_and(|version| version < FOR_XDP);
    let judge = |(name, network, link, look): (&str, &Network, &Link, Option<&CardLook>)| {
        if network.driver != Driver::Xdp {
            return None;
        }
        let features = look.and_then(|look| look.xdp);
        let fixed = look.is_some_and(|look| look.strips_tags.iter().any(|tag| tag.fixed));
        let mtu = link.mtu;
        let why = if old {
            "it needs Linux 6.4".to_owned()
        } else if features.is_some_and(|features| !features.runs()) {
            "the card's driver runs no XDP programs".to_owned()
        } else if mtu > LARGEST_XDP_MTU {
            format!("its frames hold {LARGEST_XDP_MTU} octets, the card's MTU is {mtu}")
        } else if mtu > WHOLE_XDP_MTU && features.is_some_and(|features| !features.in_pieces()) {
            format!("the card's driver has no frames in pieces, which its MTU of {mtu} needs")
        } else if fixed {
            "the card takes VLAN tags out of frames and cannot be told not to".to_owned()
        } else {
            let copies = match features.map(|features| features.without_copies()) {
                Some(true) => "without copies",
                Some(false) => "with a copy in the kernel",
                None => "if its driver can",
            };
            return Some(Finding::ok(about(&link.name), format!("AF_XDP: yes, {copies}")));
        };
        Some(Finding::warning(
            about(&link.name),
            format!("AF_XDP cannot carry its datagrams, a packet socket does: {why}"),
            format!("no `driver = \"xdp\"` under [network.{name}]"),
        ))
    };
    found(case).filter_map(judge).collect()
}

//! `[network.NAME]`, read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use datapath::uplink::PacketUplink;
use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::addresses;
use super::keys::Table;
use super::reader::{At, Reader, Value, kind};
use super::report::Mistake;
use super::types::{Driver, Gateway, Network};
use super::units::{self, Wrong};

/// Prefixes one network can have.
const MOST_PREFIXES: usize = 64;
/// Name servers guests can be told of.
const MOST_DNS: usize = 8;
/// Octets of the largest IP datagram.
const LARGEST_MTU: u32 = 65535;
/// Octets that every IPv6 link must carry (RFC 8200).
pub(super) const LEAST_MTU_IPV6: u32 = 1280;
/// Octets that every IPv4 host must take (RFC 791).
const LEAST_MTU_IPV4: u32 = 576;
/// Frames of the smallest receive ring: a batch of the datapath.
const LEAST_RING: u32 = 64;
/// Frames of the largest: a gigabyte of memory.
const LARGEST_RING: u32 = 16384;

/// A network as written, with the places that later rules speak of.
pub(super) struct Draft {
    pub(super) name: At<String>,
    pub(super) network: Network,
    pub(super) uplink_at: Option<Range<usize>>,
    pub(super) prefixes: Vec<At<IpNet>>,
    pub(super) gateways: Vec<At<IpAddr>>,
    /// Whether every prefix and gateway could be read: else rules about them would mislead.
    pub(super) whole: bool,
}

/// Reads an `mtu` that a network with or without IPv6 can have.
pub(super) fn mtu(reader: &mut Reader<'_, '_>, ipv6: bool) -> Option<u16> {
    let least = if ipv6 { LEAST_MTU_IPV6 } else { LEAST_MTU_IPV4 };
    reader.number("mtu", least..=LARGEST_MTU).and_then(|n| u16::try_from(n.value).ok())
}

pub(super) fn read<'t>(name: At<String>, values: &'t DeTable<'t>, out: &mut Vec<Mistake>) -> Draft {
    let before = out.len();
    let whose = format!("network `{}`", name.value);
    let mut reader = Reader::new(Table::Network, whose, &name.at, values, out);

    let has_uplink = reader.place("uplink").is_some();
    let uplink = reader.parsed("uplink", |t| units::interface(t).map(|()| t.to_owned()));
    let uplink_at = uplink.as_ref().map(|u| u.at.clone());
    let prefixes = prefixes(&mut reader);
    let (gateway, gateways) = gateway(&mut reader, has_uplink);
    let whole = reader.out.len() == before;

    let ipv6 = prefixes.iter().any(|p| matches!(p.value, IpNet::V6(_)));
    let on_link = reader.boolean("on_link").unwrap_or(true);
    let mtu = mtu(&mut reader, ipv6);
    let dns = reader.texts("dns", MOST_DNS, addresses::address);
    let dns = dns.map(|l| l.value).unwrap_or_default();
    for server in dns.iter().filter(|s| nobodys(s.value)) {
        let message = format!("`{}` is nobody's address", server.value);
        reader.out.push(Mistake::at(&server.at, message).help("write your name server's"));
    }
    let resolver = reader.boolean("resolver").unwrap_or(true);
    let coalesce = reader.boolean("coalesce").unwrap_or(true);
    let driver = reader.parsed("driver", driver).map(|d| d.value).unwrap_or_default();
    let receive_ring = reader.number("receive_ring", LEAST_RING..=LARGEST_RING).map(|n| n.value);
    let (icmp_source4, icmp_source6) = icmp_source(&mut reader);
    reader.finish();

    let network = Network {
        uplink: uplink.map(|u| u.value),
        prefixes: prefixes.iter().map(|p| p.value).collect(),
        gateway,
        on_link,
        mtu,
        dns: dns.into_iter().map(|s| s.value).collect(),
        resolver,
        coalesce,
        driver,
        receive_ring: receive_ring.unwrap_or(PacketUplink::FRAMES),
        icmp_source4,
        icmp_source6,
    };
    Draft { name, network, uplink_at, prefixes, gateways, whole }
}

fn driver(text: &str) -> Result<Driver, Wrong> {
    match text {
        "auto" => Ok(Driver::Auto),
        "packet" => Ok(Driver::Packet),
        "xdp" => Ok(Driver::Xdp),
        _ => Err(Wrong::new(format!("there is no driver `{text}`"))
            .help("it must be \"auto\", \"packet\" or \"xdp\"")),
    }
}

/// The network's prefixes: at least one.
fn prefixes(reader: &mut Reader<'_, '_>) -> Vec<At<IpNet>> {
    let before = reader.out.len();
    let Some(list) = reader.texts("prefixes", MOST_PREFIXES, addresses::prefix) else {
        reader.missing("prefixes");
        return Vec::new();
    };
    if list.value.is_empty() && reader.out.len() == before {
        let help = "write its own, as in `prefixes = [\"203.0.113.0/24\"]`";
        let message = "a network without prefixes has no addresses";
        reader.out.push(Mistake::at(&list.at, message).help(help));
    }
    list.value
}

/// Whether nobody can be reached at the address.
fn nobodys(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_multicast() || address.is_loopback()
}

/// The LAN's router, and where its addresses stand.
fn gateway(reader: &mut Reader<'_, '_>, uplink: bool) -> (Gateway, Vec<At<IpAddr>>) {
    const KEY: &str = "gateway";
    let default = if uplink { Gateway::Auto } else { Gateway::NONE };
    let Some(at) = reader.place(KEY) else { return (default, Vec::new()) };
    let Some(list) = reader.list(KEY) else { return (default, Vec::new()) };
    if !uplink && !list.value.is_empty() {
        let message = format!("{} has a gateway but no uplink to reach it by", reader.whose);
        let help = "name the card, as in `uplink = \"eth1\"`, or leave the gateway out";
        reader.out.push(Mistake::at(&at, message).help(help));
    }
    if let [only] = list.value.as_slice()
        && matches!(only.get_ref(), DeValue::String(t) if t == "auto")
    {
        return (Gateway::Auto, Vec::new());
    }
    let found = pair(reader, KEY, &list.value);
    for gateway in &found {
        if nobodys(gateway.value) {
            let message = format!("`{}` cannot be a router", gateway.value);
            reader.out.push(Mistake::at(&gateway.at, message).help("write the LAN's router"));
        }
    }
    (Gateway::Fixed { v4: only_v4(&found), v6: only_v6(&found) }, found)
}

/// The source of ICMP errors.
fn icmp_source(reader: &mut Reader<'_, '_>) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    const KEY: &str = "icmp_source";
    let Some(list) = reader.list(KEY) else { return (None, None) };
    let found = pair(reader, KEY, &list.value);
    for source in &found {
        if nobodys(source.value) {
            let message = format!("`{}` cannot be a source", source.value);
            let help = "write an address of this machine";
            reader.out.push(Mistake::at(&source.at, message).help(help));
        }
    }
    (only_v4(&found), only_v6(&found))
}

fn only_v4(found: &[At<IpAddr>]) -> Option<Ipv4Addr> {
    found.iter().find_map(|a| match a.value {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    })
}

fn only_v6(found: &[At<IpAddr>]) -> Option<Ipv6Addr> {
    found.iter().find_map(|a| match a.value {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    })
}

/// At most one address of each family.
fn pair(reader: &mut Reader<'_, '_>, key: &'static str, values: &[Value<'_>]) -> Vec<At<IpAddr>> {
    let mut found: Vec<At<IpAddr>> = Vec::new();
    for value in values {
        let DeValue::String(text) = value.get_ref() else {
            let message = format!("`{key}` cannot have {} in it", kind(value.get_ref()));
            let help = "a list with one IPv4 and one IPv6 address at most";
            reader.out.push(Mistake::at(&value.span(), message).help(help));
            continue;
        };
        let read = At::new(text.as_ref(), &value.span());
        let Some(read) = read.then(reader.out, |t: &&str| addresses::address(t)) else { continue };
        let same = |a: &&At<IpAddr>| a.value.is_ipv4() == read.value.is_ipv4();
        if let Some(first) = found.iter().find(same) {
            let family = if read.value.is_ipv4() { "IPv4" } else { "IPv6" };
            reader.out.push(
                Mistake::at(&read.at, format!("`{key}` has a second {family} address"))
                    .other(&first.at, "the first")
                    .help("one of each family is possible"),
            );
            continue;
        }
        found.push(read);
    }
    found
}

//! Addresses and prefixes as people write them, and which of them nobody can own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::units::Wrong;

/// Addresses that never belong to a VM: they mean something else, or never leave a link.
const RESERVED: [(IpNet, &str); 13] = [
    (v4([0, 0, 0, 0], 8), "\"this network\""),
    (v4([127, 0, 0, 0], 8), "loopback addresses"),
    (v4([169, 254, 0, 0], 16), "link-local addresses"),
    (v4([192, 0, 0, 0], 29), "addresses for the ends of tunnels"),
    (v4([192, 0, 0, 8], 32), "the address of whoever has none"),
    (v4([224, 0, 0, 0], 4), "multicast groups"),
    (v4([240, 0, 0, 0], 4), "class E, the broadcast address with it"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 127), "the unspecified and the loopback address"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4 addresses in the guise of IPv6"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "addresses whose datagrams are discarded"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local addresses"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "the abolished site-local addresses"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast groups"),
];

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6(s: [u16; 8], len: u8) -> IpNet {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    IpNet::V6(Ipv6Net::new_assert(address, len))
}

/// The reserved addresses that `net` shares an address with.
fn reserved(net: &IpNet) -> Option<(IpNet, &'static str)> {
    RESERVED.into_iter().find(|(r, _)| r.contains(net) || net.contains(r))
}

/// Refuses what no VM can own.
fn not_reserved(net: IpNet, shown: &str) -> Result<IpNet, Wrong> {
    match reserved(&net) {
        None => Ok(net),
        Some((range, what)) => {
            Err(Wrong::new(format!("`{shown}` cannot belong to a VM: {range} are {what}"))
                .help("write addresses of your own network"))
        }
    }
}

/// A prefix of full length.
pub(super) fn whole(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Whether a prefix is a single address: of full length.
pub fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// A single address without its length, a prefix with it.
pub(super) fn shown(net: &IpNet) -> String {
    if is_single(net) { net.addr().to_string() } else { net.to_string() }
}

/// One address, nothing else.
pub(super) fn address(text: &str) -> Result<IpAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = Wrong::new(format!("`{text}` is not an IP address"));
    Err(match text.split_once('/') {
        Some((front, _)) if front.parse::<IpAddr>().is_ok() => {
            wrong.help(format!("write it without the prefix length: \"{front}\""))
        }
        _ => match text.split_once('%') {
            Some((front, _)) if front.parse::<IpAddr>().is_ok() => {
                wrong.help(format!("write it without the interface: \"{front}\""))
            }
            _ if text.parse::<std::net::SocketAddr>().is_ok() => {
                wrong.help("write it without brackets and port")
            }
            _ => wrong.help("as in \"203.0.113.10\" or \"2001:db8:1::10\""),
        },
    })
}

/// A prefix of a network: address and length, nothing behind the length.
pub(super) fn prefix(text: &str) -> Result<IpNet, Wrong> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => {
            let wrong = Wrong::new(format!("`{text}` is not an IP prefix"));
            return Err(match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(a)) => {
                    wrong.help(format!("say how long it is: \"{a}/32\" is this address only"))
                }
                Ok(IpAddr::V6(a)) => {
                    wrong.help(format!("say how long it is: \"{a}/128\" is this address only"))
                }
                Err(_) => wrong.help("as in \"203.0.113.0/24\" or \"2001:db8:1::/64\""),
            });
        }
    };
    if net.addr() != net.network() {
        return Err(Wrong::new(format!("`{text}` has bits set behind its length"))
            .help(format!("write \"{}\"", net.trunc())));
    }
    not_reserved(net, text)
}

/// What a VM can own: one address, or a whole prefix.
pub(super) fn member(text: &str) -> Result<IpNet, Wrong> {
    if !text.contains('/') {
        return not_reserved(whole(address(text)?), text);
    }
    let net = prefix(text).map_err(|wrong| match text.parse::<IpNet>() {
        Ok(net) if net.addr() != net.network() => {
            Wrong::new(format!("`{text}` is neither an address nor a whole prefix")).help(format!(
                "write \"{}\" for the one address, or \"{}\" for the whole prefix",
                net.addr(),
                net.trunc()
            ))
        }
        _ => wrong,
    })?;
    Ok(net)
}

/// Why the address, though it lies in the prefix, is nobody's.
pub(super) fn not_a_host(address: IpAddr, prefix: &IpNet) -> Option<String> {
    let spare = prefix.max_prefix_len().saturating_sub(prefix.prefix_len());
    if spare < 2 {
        return None;
    }
    let v4 = matches!(prefix, IpNet::V4(_));
    if address == prefix.network() {
        let what = if v4 { "the name of the network" } else { "every router's (RFC 4291, 2.6.1)" };
        Some(format!("the first address of {prefix} is {what}, no host's"))
    } else if v4 && address == prefix.broadcast() {
        Some(format!("the last address of {prefix} is its broadcast address, no host's"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_an_address_is_answered_with_the_right_one() {
        let help = |w: Result<_, Wrong>| w.map(|_: IpNet| ()).unwrap_err().help.unwrap();
        assert_eq!(help(prefix("203.0.113.5/24")), "write \"203.0.113.0/24\"");
        assert_eq!(
            help(prefix("203.0.113.77")),
            "say how long it is: \"203.0.113.77/32\" is this address only"
        );
        assert_eq!(
            help(member("203.0.113.65/28")),
            "write \"203.0.113.65\" for the one address, or \"203.0.113.64/28\" for the whole prefix"
        );
        let bare = address("203.0.113.1/24").unwrap_err();
        assert_eq!(bare.help.unwrap(), "write it without the prefix length: \"203.0.113.1\"");
        let bare = address("fe80::1%eth0").unwrap_err();
        assert_eq!(bare.help.unwrap(), "write it without the interface: \"fe80::1\"");
    }

    #[test]
    fn reserved_addresses_are_refused_by_what_they_are() {
        for (text, what) in [
            ("0.1.2.3", "this network"),
            ("127.0.0.1", "loopback"),
            ("169.254.0.1", "link-local"),
            ("224.0.0.251", "multicast"),
            ("255.255.255.255", "class E"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:203.0.113.1", "guise"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
            ("0.0.0.0/0", "this network"),
            ("fc00::/6", "link-local"),
        ] {
            let wrong = member(text).unwrap_err().message;
            assert!(wrong.contains(what), "{wrong}");
        }
        for good in ["203.0.113.10", "10.0.0.1", "fd00::1", "2001:db8::/48", "192.0.0.9"] {
            assert!(member(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_ends_of_a_prefix_are_no_hosts_unless_it_has_only_ends() {
        let host = |a: &str, p: &str| not_a_host(a.parse().unwrap(), &p.parse().unwrap()).is_none();
        assert!(!host("203.0.113.0", "203.0.113.0/24"));
        assert!(!host("203.0.113.255", "203.0.113.0/24"));
        assert!(!host("2001:db8::", "2001:db8::/64"));
        assert!(host("2001:db8::ffff:ffff:ffff:ffff", "2001:db8::/64"));
        assert!(host("203.0.113.0", "203.0.113.0/31"));
        assert!(host("203.0.113.77", "203.0.113.77/32"));
    }
}

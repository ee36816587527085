//! The host's own name servers, as /etc/resolv.conf names them.
//!
//! The file is looked at once a second and read when it has become another. What the base itself would
//! answer is left out, so that nobody asks in a circle.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;

use datapath::answer::DNS_PORT;

use super::is_base;

const FILE: &str = "/etc/resolv.conf";
/// Servers that are used at most, as by the C library.
const MOST: usize = 3;
/// Octets of the longest file that is read.
const LONGEST: u64 = 64 * 1024;

/// What the file says.
#[derive(Debug, Default)]
pub struct HostServers {
    servers: Vec<SocketAddr>,
    /// By what a file is told from another: device, number, length, time of its last change.
    seen: Option<Option<[i64; 5]>>,
}

impl HostServers {
    /// The servers, in their order.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Looks whether the file has become another, and reads it then: whether the servers are others.
    /// `index` finds an interface.
    pub fn look(&mut self, index: impl Fn(&str) -> Option<u32>) -> bool {
        let meta = fs::metadata(FILE).ok();
        let short = meta.as_ref().is_some_and(|m| m.is_file() && m.len() <= LONGEST);
        let seen = meta.map(|m| {
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            [number(m.dev()), number(m.ino()), number(m.len()), m.mtime(), m.mtime_nsec()]
        });
        if self.seen == Some(seen) {
            return false;
        }
        self.seen = Some(seen);
        let text = if short { fs::read_to_string(FILE).unwrap_or_default() } else { String::new() };
        let servers = parse(&text, index);
        let others = servers != self.servers;
        self.servers = servers;
        others
    }
}

fn parse(text: &str, index: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())
    });
    let server = |value: &str| -> Option<SocketAddr> {
        if let Some((address, scope)) = value.split_once('%') {
            let address: Ipv6Addr = address.parse().ok()?;
            let scope = scope.parse().ok().or_else(|| index(scope))?;
            return Some(SocketAddrV6::new(address, DNS_PORT, 0, scope).into());
        }
        let address: IpAddr = value.parse().ok()?;
        (!is_base(address)).then(|| SocketAddr::new(address, DNS_PORT))
    };
    values.filter_map(server).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_read_and_what_leads_back_to_the_base_is_left_out() {
        let text = "# nameserver 192.0.2.1\nsearch example\nnameserver 127.0.0.53\n\
                    nameserver\t169.254.0.1\nnameserver fe80::1\n nameserver fe80::9%eth1\n\
                    nameserver fe80::9%nowhere\nnameserver nonsense\nnameserver 2001:db8::53\n\
                    nameserver 192.0.2.9\nnameserver 192.0.2.10\noptions ndots:1\n";
        let servers = parse(text, |name| (name == "eth1").then_some(4));
        let expected = ["127.0.0.53:53", "[fe80::9%4]:53", "[2001:db8::53]:53"];
        assert_eq!(servers.iter().map(|s| s.to_string()).collect::<Vec<_>>(), expected);
        assert_eq!(parse("", |_| None), []);
    }
}

//! What the base itself answers on the last inch, the link between a guest's network card and the
//! base.
//!
//! # Why it exists
//! A guest believes it is on an Ethernet segment with neighbours, a router and DHCP servers. There is
//! none: the link has two ends, the guest and the base. So whatever speaks for a link is answered
//! here, out of the VM's configuration alone, and goes no further.

mod replies;

pub use replies::Replies;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::counters::Counter;
use crate::names::Mac;

/// The base's IPv4 address on every last inch.
pub const BASE4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The base's IPv6 address on every last inch.
pub const BASE6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// An IPv4 address of a VM, as DHCP tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease4 {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its mask: 32 where no neighbour is on link, or the router lies outside the prefix.
    pub prefix_len: u8,
    /// The router: the LAN's gateway, or [`BASE4`] where there is none.
    pub router: Ipv4Addr,
}

/// All that the base needs to know to answer one VM.
#[derive(Clone, Debug)]
pub struct LastInch {
    /// The MAC address of the guest's card; none until the first frame has told it.
    pub guest_mac: Option<Mac>,
    /// The VM's IPv4 addresses; DHCP gives the first.
    pub addresses4: Vec<Lease4>,
    /// The VM's IPv6 addresses; DHCPv6 gives all.
    pub addresses6: Vec<Ipv6Addr>,
    /// Name servers, of both families.
    pub dns: Vec<IpAddr>,
    /// The link's MTU.
    pub mtu: u16,
    /// The VM's host name; empty for none.
    pub hostname: String,
    /// Source of IPv4 ICMP errors towards the guest.
    pub icmp_source4: Ipv4Addr,
    /// Source of IPv6 ICMP errors towards the guest.
    pub icmp_source6: Ipv6Addr,
}

impl LastInch {
    /// Whether this is one of the VM's addresses.
    pub fn owns4(&self, address: Ipv4Addr) -> bool {
        self.addresses4.iter().any(|lease| lease.address == address)
    }

    /// Whether this is one of the VM's addresses. The link-local address that a guest makes itself is
    /// none of them.
    pub fn owns6(&self, address: Ipv6Addr) -> bool {
        self.addresses6.contains(&address)
    }

    /// Whether the guest may speak to the base from this address: its own, or a link-local one that
    /// is not the base's.
    fn may_ask6(&self, source: Ipv6Addr) -> bool {
        self.owns6(source) || (source.is_unicast_link_local() && source != BASE6)
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not the base's to answer: it goes on to admission.
    NotForBase,
    /// A reply was added to the replies.
    Replied,
    /// Meant for the last inch, and calls for no answer.
    Silent,
    /// Refused, for this reason.
    Drop(Counter),
}

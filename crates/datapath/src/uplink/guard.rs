//! Keeps the host's datagrams from the base and the VMs' datagrams from the host, on a card that
//! both use.
//!
//! # Theory of operation
//! ```text
//!   card --+--> packet socket: socket filter looks into `host` --> base
//!          '--> tc ingress:    program looks into `vm`        --> host's stack
//! ```
//! Both are programs in the kernel (`bpf::programs` has their rules) that read maps which the base
//! changes while they run. A packet socket gets its copy before the tc ingress is asked, so what is
//! stopped there has reached the base.
//!
//! The ingress program is attached by netlink under a priority of its own, the first that is free,
//! and under the guard's label as its name. The name is how a later guard, after a crash of
//! everything, finds what an earlier one left. It also says whether the place for ingress filters
//! (the clsact) was made by us: then it goes when the last filter goes.
//!
//! # Invariants
//! - The kernel holds programs and maps: they work on while the base is dead.
//! - Filters with other names are never touched. Those behind ours still see all that ours lets
//!   through, since ours never says more than "drop" or "ask the next".
//! - A new program is attached before the old one is removed: there is no moment without.
//!
//! # Limits
//! A foreign filter that holds priority 1 comes before ours and can accept a VM's datagram for the
//! host's stack. Where two instances use one card and the one that made the clsact goes first, the
//! other leaves the empty clsact behind.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnet::IpNet;

use super::UplinkError;
use super::bpf::{self, Map, Program, ProgramKind};
use crate::netlink::{Direction, Filter, Netlink};

/// One of something for each of the guard's maps, which the holder keeps.
#[derive(Clone, Copy, Debug)]
pub struct GuardMaps<T> {
    /// The VMs' IPv4 addresses.
    pub vm4: T,
    /// The VMs' IPv6 addresses.
    pub vm6: T,
    /// The host's IPv4 addresses.
    pub host4: T,
    /// The host's IPv6 addresses.
    pub host6: T,
}

impl<T> GuardMaps<T> {
    /// Each with a name that ends its key at the keeper.
    pub fn named(self) -> [(&'static str, T); 4] {
        [("vm4", self.vm4), ("vm6", self.vm6), ("host4", self.host4), ("host6", self.host6)]
    }

    /// Takes by name what [`GuardMaps::named`] named; `None` unless all four are there.
    pub fn find(mut take: impl FnMut(&'static str) -> Option<T>) -> Option<Self> {
        Some(Self {
            vm4: take("vm4")?,
            vm6: take("vm6")?,
            host4: take("host4")?,
            host6: take("host6")?,
        })
    }
}

/// The program that decides what a packet socket gets.
#[derive(Debug)]
pub struct SocketFilter(Program);

impl AsFd for SocketFilter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
impl SocketFilter {
    /// A filter that lets the first octets of everything through.
    pub(super) fn keeping(octets: i32) -> Self {
        Self(bpf::load(ProgramKind::SocketFilter, &bpf::cut(octets)).unwrap())
    }
}

/// What the label becomes when the clsact is ours as well.
const WITH_CLSACT: &str = "+clsact";
/// Our filters' handle within their priority.
const HANDLE: u32 = 1;

/// The two filters of one network's card, and the addresses they look at.
#[derive(Debug)]
pub struct Guard {
    maps: GuardMaps<Map>,
    label: String,
}

impl Guard {
    /// Makes empty maps. Nothing is attached yet.
    ///
    /// `label` tells this network's guard from all others that use the card, those of other
    /// instances included, and is the same in the next life.
    pub fn open(label: &str) -> Result<Self, UplinkError> {
        let maps = GuardMaps {
            vm4: Map::create(true)?,
            vm6: Map::create(false)?,
            host4: Map::create(true)?,
            host6: Map::create(false)?,
        };
        Ok(Self { maps, label: label.to_owned() })
    }

    /// Takes over a predecessor's maps; what it attached stays attached.
    pub fn adopt(maps: GuardMaps<OwnedFd>, label: &str) -> Self {
        let maps = GuardMaps {
            vm4: Map::adopt(maps.vm4, true),
            vm6: Map::adopt(maps.vm6, false),
            host4: Map::adopt(maps.host4, true),
            host6: Map::adopt(maps.host6, false),
        };
        Self { maps, label: label.to_owned() }
    }

    /// The maps, to be kept by the holder.
    pub fn descriptors(&self) -> GuardMaps<BorrowedFd<'_>> {
        GuardMaps {
            vm4: self.maps.vm4.as_fd(),
            vm6: self.maps.vm6.as_fd(),
            host4: self.maps.host4.as_fd(),
            host6: self.maps.host6.as_fd(),
        }
    }

    /// The filter for a packet socket: all but what is for the host itself.
    pub fn socket_filter(&self) -> Result<SocketFilter, UplinkError> {
        let program = bpf::socket_filter(self.maps.host4.as_fd(), self.maps.host6.as_fd())?;
        bpf::load(ProgramKind::SocketFilter, &program).map(SocketFilter)
    }

    /// Attaches the ingress program to a card, in place of what an earlier guard with this label
    /// left there. To be called again when the card was taken out and came back, and after a
    /// takeover: then the successor's program replaces the predecessor's.
    pub fn attach(&self, netlink: &mut Netlink, index: u32) -> Result<(), UplinkError> {
        let program = bpf::ingress(self.maps.vm4.as_fd(), self.maps.vm6.as_fd())?;
        let program = bpf::load(ProgramKind::Ingress, &program)?;
        let made = netlink.add_clsact(index)?;
        let present = netlink.filters(index, Direction::Ingress)?;
        let old = own(&present, &self.label);
        let name = if made || old.iter().any(|f| f.made_clsact) {
            format!("{}{WITH_CLSACT}", self.label)
        } else {
            self.label.clone()
        };
        let mut free = (1..u16::MAX).filter(|p| present.iter().all(|f| f.priority != *p));
        loop {
            let priority = free.next().ok_or_else(|| UplinkError::Card {
                link: format!("number {index}"),
                why: "has no free priority for an ingress filter",
            })?;
            match netlink.add_bpf_filter(index, priority, HANDLE, &name, program.as_fd()) {
                Ok(()) => break,
                // Somebody took it since the list was read.
                Err(e) if e.errno() == libc::EEXIST => {}
                Err(e) => return Err(e.into()),
            }
        }
        for filter in old {
            netlink.remove_bpf_filter(index, filter.priority, filter.handle)?;
        }
        Ok(())
    }

    /// Removes from a card what a guard with this label attached, in this life or an earlier one,
    /// and the clsact if it is ours and nobody else's filter is in it.
    pub fn detach(netlink: &mut Netlink, index: u32, label: &str) -> Result<(), UplinkError> {
        let present = netlink.filters(index, Direction::Ingress)?;
        let old = own(&present, label);
        for filter in &old {
            netlink.remove_bpf_filter(index, filter.priority, filter.handle)?;
        }
        let nobodys = |netlink: &mut Netlink, direction| {
            netlink.filters(index, direction).map(|filters| filters.is_empty())
        };
        if old.iter().any(|f| f.made_clsact)
            && nobodys(netlink, Direction::Ingress)?
            && nobodys(netlink, Direction::Egress)?
        {
            netlink.remove_clsact(index)?;
        }
        Ok(())
    }

    /// Datagrams to this address or prefix are for a VM: the host's stack no longer gets them.
    pub fn add_vm(&self, prefix: IpNet) -> Result<(), UplinkError> {
        self.vm_map(prefix).insert(prefix)
    }

    /// Undoes [`Guard::add_vm`].
    pub fn remove_vm(&self, prefix: IpNet) -> Result<(), UplinkError> {
        self.vm_map(prefix).remove(prefix)
    }

    /// What [`Guard::add_vm`] added, by a predecessor too.
    pub fn vms(&self) -> Result<Vec<IpNet>, UplinkError> {
        let mut all = self.maps.vm4.list()?;
        all.extend(self.maps.vm6.list()?);
        Ok(all)
    }

    /// Datagrams to this address are for the host itself: the base no longer gets them.
    pub fn add_host(&self, address: IpAddr) -> Result<(), UplinkError> {
        self.host_map(address).insert(address.into())
    }

    /// Undoes [`Guard::add_host`].
    pub fn remove_host(&self, address: IpAddr) -> Result<(), UplinkError> {
        self.host_map(address).remove(address.into())
    }

    /// What [`Guard::add_host`] added, by a predecessor too.
    pub fn hosts(&self) -> Result<Vec<IpAddr>, UplinkError> {
        let mut all = self.maps.host4.list()?;
        all.extend(self.maps.host6.list()?);
        Ok(all.into_iter().map(|net| net.addr()).collect())
    }

    fn vm_map(&self, prefix: IpNet) -> &Map {
        match prefix {
            IpNet::V4(_) => &self.maps.vm4,
            IpNet::V6(_) => &self.maps.vm6,
        }
    }

    fn host_map(&self, address: IpAddr) -> &Map {
        match address {
            IpAddr::V4(_) => &self.maps.host4,
            IpAddr::V6(_) => &self.maps.host6,
        }
    }
}

/// A filter that a guard with our label attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    priority: u16,
    handle: u32,
    made_clsact: bool,
}

fn own(present: &[Filter], label: &str) -> Vec<Own> {
    present
        .iter()
        .filter_map(|filter| {
            let rest = filter.name.as_deref()?.strip_prefix(label)?;
            (rest.is_empty() || rest == WITH_CLSACT).then_some(Own {
                priority: filter.priority,
                handle: filter.handle,
                made_clsact: !rest.is_empty(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(name: Option<&str>, priority: u16) -> Filter {
        Filter { kind: "bpf".into(), priority, handle: 1, name: name.map(Into::into) }
    }

    #[test]
    fn only_filters_with_the_very_label_are_ours() {
        let present = [
            filter(None, 1),
            filter(Some("ipvisor:a:lan"), 2),
            filter(Some("ipvisor:a:lan+clsact"), 3),
            filter(Some("ipvisor:a:lan2"), 4),
            filter(Some("ipvisor:b:lan"), 5),
        ];
        let found: Vec<_> =
            own(&present, "ipvisor:a:lan").iter().map(|o| (o.priority, o.made_clsact)).collect();
        assert_eq!(found, [(2, false), (3, true)]);
    }
}

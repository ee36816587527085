//! The list as its one writer has it.
//!
//! # Theory of operation
//! ```text
//! insert, remove, withdraw -> owners     who has what, for those that leave
//!            |
//!            '--> writer per family -----> buckets, in place ------------> readers, at once
//!                                    '---> new buckets, published -------> readers, at their next
//!                                                                          quiescent point
//! ```
//! Every single change is atomic for a look-up: the entry is there or not. Withdrawing an address from
//! a prefix is several changes, and their order is what keeps the prefix's other addresses in the list
//! for every reader all the time: first all that is left of it is put in, then the prefix is taken out
//! with new buckets. Who sees those sees everything that was published before them.
//!
//! # Limits
//! The way back is the caller's: a look-up goes from short prefixes to long ones, so who puts a prefix
//! in and takes out the longer ones that it replaces lets readers pass a quiescent point in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::batch::Batch;
use super::family::Writer;
use super::hash::Seed;
use super::owners::Owners;
use super::shared::{FibReader, Passed, Retired, Shared};
use super::table::Removal;
use super::target::{Taken, Target};
use super::versions::Versions;
use super::view::View;
use super::without;
use crate::names::PortId;

/// One network's list: its writer, who can read it too.
pub struct Fib {
    four: Writer<u32>,
    six: Writer<u128>,
    owners: Owners,
    versions: Versions,
    shared: Arc<Shared>,
    /// What each reader has passed.
    readers: Vec<Arc<Passed>>,
}

impl Default for Fib {
    fn default() -> Self {
        Self::with_seed(Seed::random())
    }
}

impl Fib {
    /// An empty list whose addresses lie where this secret puts them.
    pub(super) fn with_seed(seed: Seed) -> Self {
        let (four, six) = (Writer::new(seed), Writer::new(seed));
        let shared = Arc::new(Shared::new(four.family.clone(), six.family.clone()));
        let (owners, readers) = (Owners::default(), Vec::new());
        Self { four, six, owners, versions: Versions::default(), shared, readers }
    }

    /// A number that no other list has had, nor this one before the last change that could take an
    /// address away from the port.
    #[inline]
    pub fn version(&self, port: PortId) -> u64 {
        self.versions.of(port)
    }

    /// Puts a prefix into the list. Putting it again for the same owner changes nothing.
    pub fn insert(&mut self, prefix: IpNet, owner: Target) -> Result<(), Taken> {
        let prefix = prefix.trunc();
        match self.entry(prefix) {
            Some(found) if found != owner => return Err(Taken { prefix, owner: found }),
            Some(_) => return Ok(()),
            None => {}
        }
        self.covered(prefix);
        let (shared, payload) = (&self.shared, owner.payload());
        match prefix {
            IpNet::V4(p) => self.four.insert(key4(p), payload, |family, change| {
                shared.publish(|all| &mut all.four, family, change);
            }),
            IpNet::V6(p) => self.six.insert(key6(p), payload, |family, change| {
                shared.publish(|all| &mut all.six, family, change);
            }),
        }
        self.owners.came(prefix, owner);
        Ok(())
    }

    /// Takes a prefix out of the list; whose it was.
    pub fn remove(&mut self, prefix: IpNet) -> Option<Target> {
        self.take_out(prefix, Removal::InPlace)
    }

    /// Takes an address away from the port that has it, from the prefixes around it too; whose it
    /// was. What is left of them stays the port's, all the while.
    pub fn withdraw(&mut self, address: IpAddr) -> Option<PortId> {
        let mut was = None;
        while let Some((prefix, Target::Port(port))) = self.longest(address) {
            for rest in without(prefix, address) {
                // An entry that is there already is as good.
                let _ = self.insert(rest, Target::Port(port));
            }
            self.take_out(prefix, Removal::Anew);
            was = Some(port);
        }
        was
    }

    /// Takes out everything that `owner` has. Costs in proportion to that.
    pub fn remove_owner(&mut self, owner: Target) {
        for prefix in self.owners.leave(owner) {
            // It may have been taken out before, and may be somebody else's by now.
            if self.entry(prefix) == Some(owner) {
                self.versions.changed(owner);
                self.remove_entry(prefix, Removal::InPlace);
            }
        }
    }

    /// A prefix comes: who has what is around it loses that part.
    fn covered(&mut self, prefix: IpNet) {
        if prefix.prefix_len() < prefix.max_prefix_len() {
            // Others may have parts of it, and hide who loses the rest.
            self.versions.all_changed();
        } else if let Some((_, owner)) = self.longest(prefix.addr()) {
            self.versions.changed(owner);
        }
    }

    fn take_out(&mut self, prefix: IpNet, removal: Removal) -> Option<Target> {
        let prefix = prefix.trunc();
        let owner = self.entry(prefix)?;
        self.versions.changed(owner);
        self.remove_entry(prefix, removal);
        let (four, six) = (&self.four, &self.six);
        self.owners.went(owner, |prefix| entry(four, six, prefix) == Some(owner));
        Some(owner)
    }

    /// Takes out an entry that is there.
    fn remove_entry(&mut self, prefix: IpNet, removal: Removal) {
        let shared = &self.shared;
        match prefix {
            IpNet::V4(p) => self.four.remove(key4(p), removal, |family, change| {
                shared.publish(|all| &mut all.four, family, change);
            }),
            IpNet::V6(p) => self.six.remove(key6(p), removal, |family, change| {
                shared.publish(|all| &mut all.six, family, change);
            }),
        }
    }

    /// The entry that says whose an address is.
    fn longest(&self, address: IpAddr) -> Option<(IpNet, Target)> {
        let (length, payload) = match address {
            IpAddr::V4(a) => self.four.family.longest(a.to_bits())?,
            IpAddr::V6(a) => self.six.family.longest(a.to_bits())?,
        };
        let prefix = IpNet::new(address, length).ok()?.trunc();
        Some((prefix, Target::from_payload(payload)?))
    }

    /// Whose entry exactly this prefix is.
    pub fn entry(&self, prefix: IpNet) -> Option<Target> {
        entry(&self.four, &self.six, prefix.trunc())
    }

    /// Whose an IPv4 address is.
    #[inline]
    pub fn lookup4(&self, address: Ipv4Addr) -> Option<Target> {
        self.view().lookup4(address)
    }

    /// Whose an IPv6 address is.
    #[inline]
    pub fn lookup6(&self, address: Ipv6Addr) -> Option<Target> {
        self.view().lookup6(address)
    }

    /// Whose an address is.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<Target> {
        self.view().lookup(address)
    }

    /// Look-ups of many addresses, in a list that [`is_large`](Self::is_large) much faster than one by one.
    #[inline]
    pub fn batch(&self) -> Batch<'_> {
        self.view().batch()
    }

    /// Whether the list is so large that asking ahead is worth it.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.view().is_large()
    }

    #[inline]
    fn view(&self) -> View<'_> {
        View::new(&self.four.family, &self.six.family)
    }

    /// A way into the list for another thread. It rests until its first batch.
    pub fn reader(&mut self) -> FibReader {
        let (four, six) = (self.four.family.clone(), self.six.family.clone());
        let reader = FibReader::new(&self.shared, four, six);
        // Those that only this list still holds are of readers that are gone.
        self.readers.retain(|passed| Arc::strong_count(passed) > 1);
        self.readers.push(Arc::clone(reader.passed()));
        reader
    }

    /// Call after something was taken out: what readers may still have found is to be kept until
    /// [`is_past`](Self::is_past) says so of the answer.
    pub fn retire(&self) -> Retired {
        self.shared.retire()
    }

    /// Whether no reader can have anything any more that was taken out before `retired`: what the list
    /// led to can be freed.
    pub fn is_past(&self, retired: Retired) -> bool {
        self.readers.iter().all(|passed| passed.is_past(retired))
    }

    /// Octets of the entries, of the ways to them and of what is known of owners. What readers
    /// keep beside it: see `shared.rs`.
    pub fn memory(&self) -> usize {
        let tables = self.four.memory().saturating_add(self.six.memory());
        tables.saturating_add(self.owners.memory())
    }
}

fn entry(four: &Writer<u32>, six: &Writer<u128>, prefix: IpNet) -> Option<Target> {
    let payload = match prefix {
        IpNet::V4(p) => {
            let (address, length) = key4(p);
            four.family.entry(address, length)
        }
        IpNet::V6(p) => {
            let (address, length) = key6(p);
            six.family.entry(address, length)
        }
    };
    Target::from_payload(payload)
}

fn key4(prefix: Ipv4Net) -> (u32, u8) {
    (prefix.addr().to_bits(), prefix.prefix_len())
}

fn key6(prefix: Ipv6Net) -> (u128, u8) {
    (prefix.addr().to_bits(), prefix.prefix_len())
}

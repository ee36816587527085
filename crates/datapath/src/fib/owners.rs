//! What each owner has, so that one who leaves takes it along without a search through the list.
//!
//! # Theory of operation
//! The writer's alone. Whatever is put into the list is noted under its owner. What is taken out stays
//! noted, and is only counted: who uses a note asks the list whether it is still true. When more than
//! half of an owner's notes may be untrue, those that are not true, or there twice, are thrown away.
//! So a note costs its octets, taking one out costs nothing, and leaving costs in proportion to
//! what the owner has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

use super::target::Target;

/// Untrue notes that are not worth a clearing.
const SLACK: usize = 16;

/// One owner's notes.
#[derive(Default)]
struct Notes {
    exact4: Vec<Ipv4Addr>,
    exact6: Vec<Ipv6Addr>,
    prefixes: Vec<IpNet>,
    /// How many entries it has in the list.
    live: usize,
}

impl Notes {
    fn note(&mut self, prefix: IpNet) {
        match prefix {
            IpNet::V4(p) if p.prefix_len() == 32 => push(&mut self.exact4, p.addr()),
            IpNet::V6(p) if p.prefix_len() == 128 => push(&mut self.exact6, p.addr()),
            _ => push(&mut self.prefixes, prefix),
        }
        self.live = self.live.saturating_add(1);
    }

    fn clear_if_untrue(&mut self, is_true: impl Fn(IpNet) -> bool) {
        let few = self.live.saturating_mul(2).saturating_add(SLACK);
        let Self { exact4, exact6, prefixes, .. } = self;
        if exact4.len().saturating_add(exact6.len()).saturating_add(prefixes.len()) > few {
            clear(exact4, |a| is_true(IpAddr::from(*a).into()));
            clear(exact6, |a| is_true(IpAddr::from(*a).into()));
            clear(prefixes, |p| is_true(*p));
        }
    }

    fn into_prefixes(self) -> impl Iterator<Item = IpNet> {
        let exact4 = self.exact4.into_iter().map(|a| IpAddr::from(a).into());
        let exact6 = self.exact6.into_iter().map(|a| IpAddr::from(a).into());
        exact4.chain(exact6).chain(self.prefixes)
    }

    fn memory(&self) -> usize {
        let exact4 = self.exact4.capacity().saturating_mul(size_of::<Ipv4Addr>());
        let exact6 = self.exact6.capacity().saturating_mul(size_of::<Ipv6Addr>());
        let prefixes = self.prefixes.capacity().saturating_mul(size_of::<IpNet>());
        exact4.saturating_add(exact6).saturating_add(prefixes)
    }
}

/// Grows by an eighth, not to the double: these lists are as large as the list itself.
fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() >> 3).saturating_add(1));
    }
    list.push(item);
}

fn clear<T: Ord>(list: &mut Vec<T>, is_true: impl Fn(&T) -> bool) {
    list.sort_unstable();
    list.dedup();
    list.retain(is_true);
    list.shrink_to_fit();
}

/// The notes of all owners.
#[derive(Default)]
pub(super) struct Owners(HashMap<Target, Notes, RandomState>);

impl Owners {
    /// A prefix was put in.
    pub(super) fn came(&mut self, prefix: IpNet, owner: Target) {
        self.0.entry(owner).or_default().note(prefix);
    }

    /// A prefix was taken out; `is_true` says whether the owner has this one still.
    pub(super) fn went(&mut self, owner: Target, is_true: impl Fn(IpNet) -> bool) {
        let Some(notes) = self.0.get_mut(&owner) else { return };
        notes.live = notes.live.saturating_sub(1);
        if notes.live == 0 {
            self.0.remove(&owner);
        } else {
            notes.clear_if_untrue(is_true);
        }
    }

    /// All that an owner may have, perhaps more, perhaps twice; it has nothing after this.
    pub(super) fn leave(&mut self, owner: Target) -> impl Iterator<Item = IpNet> + use<> {
        self.0.remove(&owner).into_iter().flat_map(Notes::into_prefixes)
    }

    /// Octets of the notes.
    pub(super) fn memory(&self) -> usize {
        let notes = self.0.values().fold(0usize, |sum, notes| sum.saturating_add(notes.memory()));
        self.0.allocation_size().saturating_add(notes)
    }
}

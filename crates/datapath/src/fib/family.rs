//! One family's part of the list: what readers look up in, and the writer around it.
//!
//! # Theory of operation
//! [`Family`] is the reader's side: where the buckets are, and which lengths of prefixes are in use.
//! Every reader has a copy of its own, refreshed at quiescent points. [`Writer`] has one too, always
//! the newest, and beside it what only the writer needs: how full shards are, how many prefixes of each
//! length there are. It tells its caller of every [`Change`] that readers do not see by themselves,
//! before it does anything further.

use super::address::{Address, prefix_tag};
use super::bucket::{Bucket, Slot};
use super::hash::Seed;
use super::prefixes::{self, Mark};
use super::table::{Anew, Directory, Fills, Removal};

/// What is looked up in.
pub(super) struct Family<A: Address> {
    pub(super) directory: Directory<A>,
    /// A bit for each length shorter than an address of which there are prefixes.
    lengths: u128,
}

/// What is to be published.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// There are other buckets.
    Buckets(Anew),
    /// Prefixes of other lengths are in use.
    Lengths,
}

impl<A: Address> Clone for Family<A> {
    fn clone(&self) -> Self {
        Self { directory: self.directory.clone(), lengths: self.lengths }
    }
}

impl<A: Address> Family<A> {
    /// Takes over one change.
    pub(super) fn follow(&mut self, newer: &Self, change: Change) {
        match change {
            Change::Buckets(anew) => self.directory.follow(&newer.directory, anew),
            Change::Lengths => self.lengths = newer.lengths,
        }
    }

    /// Takes over all changes.
    pub(super) fn refresh(&mut self, newer: &Self) {
        self.directory.refresh(&newer.directory);
        self.lengths = newer.lengths;
    }

    /// The payload of the entry that decides about an address; zero for nobody.
    #[inline]
    pub(super) fn find(&self, address: A) -> u32 {
        let hash = self.directory.hash(address);
        self.or_prefix(address, self.directory.find_hashed(address, A::EXACT, hash))
    }

    /// Asks for the memory that a look-up of this address will read first: its hash, and where that is.
    #[inline(always)]
    pub(super) fn ask(&self, address: A) -> (u64, Option<&A::Bucket>) {
        let hash = self.directory.hash(address);
        (hash, self.directory.ask(hash))
    }

    /// The payload of the entry that decides about an address that was [asked](Self::ask) for, if its home
    /// tells.
    #[inline(always)]
    pub(super) fn find_at_home(
        &self,
        home: Option<&A::Bucket>,
        address: A,
        hash: u64,
    ) -> Option<u32> {
        let payload = home.map_or(Some(0), |bucket| bucket.find_evenly(address, A::EXACT, hash));
        payload.map(|payload| self.or_prefix(address, payload))
    }

    /// Asks for what [`find_behind`](Self::find_behind) will read first.
    #[inline]
    pub(super) fn ask_behind(&self, hash: u64) {
        self.directory.ask_behind(hash);
    }

    /// The same for one whose home did not tell.
    pub(super) fn find_behind(&self, address: A, hash: u64) -> u32 {
        self.or_prefix(address, self.directory.find_behind(address, A::EXACT, hash))
    }

    /// What is decided where this is the payload of the exact entry.
    #[inline(always)]
    fn or_prefix(&self, address: A, exact: u32) -> u32 {
        if exact == 0 { self.find_prefix(address) } else { exact }
    }

    #[inline]
    fn find_prefix(&self, address: A) -> u32 {
        if self.lengths == 0 {
            return 0;
        }
        prefixes::longest(&self.directory, self.lengths, address).1
    }

    /// Length and payload of the entry that decides about an address.
    pub(super) fn longest(&self, address: A) -> Option<(u8, u32)> {
        let exact = (A::LENGTH, self.directory.find(address, A::EXACT));
        let longest = || prefixes::longest(&self.directory, self.lengths, address);
        Some(if exact.1 != 0 { exact } else { longest() }).filter(|(_, payload)| *payload != 0)
    }

    /// The payload of exactly this prefix.
    pub(super) fn entry(&self, address: A, length: u8) -> u32 {
        self.directory.find(address, prefix_tag(length))
    }
}

/// What changes a family's entries.
pub(super) struct Writer<A: Address> {
    pub(super) family: Family<A>,
    fills: Fills,
    /// Prefixes of each length that is shorter than an address.
    counts: [u32; 128],
}

impl<A: Address> Writer<A> {
    /// An empty family.
    pub(super) fn new(seed: Seed) -> Self {
        let family = Family { directory: Directory::new(seed), lengths: 0 };
        Self { family, fills: Fills::default(), counts: [0; 128] }
    }

    /// Puts a prefix in that is not there.
    pub(super) fn insert(
        &mut self,
        (address, length): (A, u8),
        payload: u32,
        mut publish: impl FnMut(&Family<A>, Change),
    ) {
        let Self { family, fills, counts } = self;
        if length < A::LENGTH {
            let prefix = (address, length);
            prefixes::mark(fills, family, prefix, Mark::One, &mut publish);
        }
        let entry = Slot { address, tag: prefix_tag(length), payload };
        if let Some(anew) = fills.put(&mut family.directory, entry) {
            publish(family, Change::Buckets(anew));
        }
        // There is no count for the length of an address.
        if let Some(count) = counts.get_mut(usize::from(length)).filter(|_| length < A::LENGTH) {
            *count = count.saturating_add(1);
            if *count == 1 {
                family.lengths |= 1u128.rotate_left(length.into());
                publish(family, Change::Lengths);
            }
        }
    }

    /// Takes a prefix out that is there.
    pub(super) fn remove(
        &mut self,
        (address, length): (A, u8),
        removal: Removal,
        mut publish: impl FnMut(&Family<A>, Change),
    ) {
        let Self { family, fills, counts } = self;
        let tag = prefix_tag(length);
        if let Some(anew) = fills.kill(&mut family.directory, address, tag, removal) {
            publish(family, Change::Buckets(anew));
        }
        if let Some(count) = counts.get_mut(usize::from(length)).filter(|_| length < A::LENGTH) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                family.lengths &= !1u128.rotate_left(length.into());
                publish(family, Change::Lengths);
            }
            let prefix = (address, length);
            prefixes::mark(fills, family, prefix, Mark::OneLess(removal), &mut publish);
        }
    }

    /// Octets of all this.
    pub(super) fn memory(&self) -> usize {
        let fills = self.fills.memory().saturating_add(size_of_val(&self.counts));
        self.family.directory.memory().saturating_add(fills)
    }
}

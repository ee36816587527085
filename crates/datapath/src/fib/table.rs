//! The hash table of one family: buckets in shards, found by one multiplication.
//!
//! # Theory of operation
//! ```text
//! hash   shard:8 | where in the shard:32 | -
//!          |               '--------------------------.
//!        [256 shards] -> Arc<[bucket bucket bucket bucket ...]>   the home bucket, and, if it has
//!                                                                  spilled, those behind it
//! ```
//! Readers have a [`Directory`]: their own copy of the 256 references. The writer changes buckets in
//! place as `bucket.rs` tells, and counts what it has used in [`Fills`]. A shard that is full to two
//! thirds, dead entries included, is written anew from its live entries with 17/32 of its slots
//! filled: larger, smaller or the same size, as it comes out. The old buckets are never written
//! again; the new ones are published, and readers take them at their next quiescent point.
//!
//! So growth comes in pieces: with a million addresses some thousands of entries are written anew, not
//! a million; and since about an eighth of the slots can be used after that, an insertion pays for a few
//! entries on average, whatever is inserted and removed.
//!
//! # A batch
//! The cost of a look-up in a large table is waiting for memory. A batch first works out all home buckets
//! ([`Directory::homes`]), then reads one word of each, in a loop so short that the processor has all of
//! these reads under way at once ([`touch`]), and only then compares ([`Directory::find_batch`]). Those
//! that go on behind their homes do so together, too.

use std::hint::black_box;
use std::sync::Arc;

use super::address::Address;
use super::bucket::{Bucket, Slot};
use super::hash::Seed;

/// Look-ups whose memory is read at once.
pub const BATCH: usize = 32;

/// Shards of a table: as many as the numbers of eight bits.
const SHARDS: usize = 256;

/// What a reader knows of a table: where its buckets are.
pub(super) struct Directory<A: Address> {
    seed: Seed,
    shards: Box<[Arc<[A::Bucket]>; SHARDS]>,
}

impl<A: Address> Clone for Directory<A> {
    fn clone(&self) -> Self {
        Self { seed: self.seed, shards: self.shards.clone() }
    }
}

/// The shard of a hash.
#[inline]
pub(super) fn shard_of(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The home of a hash among `buckets`; the only answer to none is 0.
#[inline]
fn home(hash: u64, buckets: usize) -> usize {
    // The 32 bits behind the shard's, as a fraction of the buckets. A shard never has 2^32.
    let fraction = u64::from((hash >> 24) as u32);
    (fraction.wrapping_mul(buckets as u64) >> 32) as usize
}

/// All buckets from the home on, once around.
fn from_home<B>(buckets: &[B], home: usize) -> impl Iterator<Item = &B> {
    let (before, after) = buckets.split_at_checked(home).unwrap_or((buckets, &[]));
    after.iter().chain(before)
}

/// The home buckets of a batch; none for a shard without any.
pub(super) type Homes<'a, A> = [Option<&'a <A as Address>::Bucket>; BATCH];

/// Reads a word of each of some buckets, so that all their memory is on its way at once. Pass what
/// is returned to [`black_box`]: it is of no use, but the compiler must not know.
#[inline]
pub(super) fn touch<'a, A, B: Bucket<A> + 'a>(buckets: impl Iterator<Item = &'a B>) -> u32 {
    buckets.fold(0, |read, bucket| read | bucket.touch())
}

/// Which addresses of a batch something holds for.
#[derive(Default)]
pub(super) struct Indices {
    indices: [u8; BATCH],
    len: usize,
}

impl Indices {
    /// Writes the index whether or not it is one: the next overwrites it if it is not. So there
    /// is no branch on what nobody can predict.
    #[inline]
    pub(super) fn note(&mut self, index: u8, is_one: bool) {
        if let Some(place) = self.indices.get_mut(self.len) {
            *place = index;
        }
        self.len = self.len.wrapping_add(usize::from(is_one));
    }

    /// Those noted.
    #[inline]
    pub(super) fn get(&self) -> &[u8] {
        self.indices.get(..self.len).unwrap_or_default()
    }
}

impl<A: Address> Directory<A> {
    /// An empty table.
    pub(super) fn new(seed: Seed) -> Self {
        let empty: Arc<[A::Bucket]> = Arc::new([]);
        Self { seed, shards: Box::new(std::array::from_fn(|_| Arc::clone(&empty))) }
    }

    #[inline]
    fn shard(&self, shard: u8) -> &Arc<[A::Bucket]> {
        let [first, ..] = &*self.shards;
        // There is one for each number of eight bits.
        self.shards.get(usize::from(shard)).unwrap_or(first)
    }

    /// The payload of an entry; zero if there is none.
    #[inline]
    pub(super) fn find(&self, address: A, tag: u8) -> u32 {
        let hash = address.hash(tag, self.seed);
        let buckets = self.shard(shard_of(hash));
        let Some(bucket) = buckets.get(home(hash, buckets.len())) else { return 0 };
        let found = bucket.find(address, tag);
        if found != 0 || !bucket.spilled() { found } else { self.find_behind(address, tag) }
    }

    /// The payload of an entry that is not in its home.
    fn find_behind(&self, address: A, tag: u8) -> u32 {
        let hash = address.hash(tag, self.seed);
        let buckets = self.shard(shard_of(hash));
        for bucket in from_home(buckets, home(hash, buckets.len())).skip(1) {
            let found = bucket.find(address, tag);
            if found != 0 || !bucket.spilled() {
                return found;
            }
        }
        0
    }

    /// Where single addresses are to be looked for; at most [`BATCH`]. To be touched before
    /// [`find_batch`](Self::find_batch) goes there.
    #[inline]
    pub(super) fn homes(&self, addresses: &[A]) -> Homes<'_, A> {
        let mut homes = [None; BATCH];
        for (place, address) in homes.iter_mut().zip(addresses) {
            let hash = address.hash(A::EXACT, self.seed);
            let buckets = self.shard(shard_of(hash));
            *place = buckets.get(home(hash, buckets.len()));
        }
        homes
    }

    /// The payloads of single addresses, zero for those that are not there.
    #[inline]
    pub(super) fn find_batch(&self, homes: &Homes<'_, A>, addresses: &[A], found: &mut [u32]) {
        let mut behind = Indices::default();
        for (index, ((found, bucket), address)) in
            (0u8..).zip(found.iter_mut().zip(homes).zip(addresses))
        {
            let Some(bucket) = bucket else { continue };
            *found = bucket.find(*address, A::EXACT);
            behind.note(index, *found == 0 && bucket.spilled());
        }
        if !behind.get().is_empty() {
            self.find_batch_behind(addresses, behind.get(), found);
        }
    }

    /// The same for those of a batch that may be behind their homes.
    fn find_batch_behind(&self, addresses: &[A], behind: &[u8], found: &mut [u32]) {
        let of = |index: &u8| addresses.get(usize::from(*index)).copied();
        black_box(touch::<A, _>(behind.iter().filter_map(of).filter_map(|address| {
            let hash = address.hash(A::EXACT, self.seed);
            let buckets = self.shard(shard_of(hash));
            buckets.get(home(hash, buckets.len()).wrapping_add(1))
        })));
        for index in behind {
            if let (Some(address), Some(found)) = (of(index), found.get_mut(usize::from(*index))) {
                *found = self.find_behind(address, A::EXACT);
            }
        }
    }

    /// Takes over what another directory of the same table has that this one has not.
    pub(super) fn refresh(&mut self, newer: &Self) {
        for (mine, theirs) in self.shards.iter_mut().zip(newer.shards.iter()) {
            if !Arc::ptr_eq(mine, theirs) {
                *mine = Arc::clone(theirs);
            }
        }
    }

    /// Takes over one shard.
    pub(super) fn follow(&mut self, newer: &Self, shard: u8) {
        if let Some(mine) = self.shards.get_mut(usize::from(shard)) {
            *mine = Arc::clone(newer.shard(shard));
        }
    }

    /// Octets of the buckets, and of the references to them.
    pub(super) fn memory(&self) -> usize {
        let buckets: usize = self.shards.iter().map(|shard| size_of_val(&**shard)).sum();
        buckets.saturating_add(size_of_val(&*self.shards))
    }
}

/// How full a shard is.
#[derive(Clone, Copy, Default)]
struct Fill {
    /// Slots that were used, dead entries included.
    used: usize,
    /// Live entries.
    live: usize,
}

/// The writer's side of a table: changes a directory and its buckets.
pub(super) struct Fills(Box<[Fill; SHARDS]>);

/// How an entry is taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// In place: readers see it at once.
    InPlace,
    /// With new buckets: who sees it sees all that was published before, too.
    Anew,
}

/// A shard's buckets are new and are to be published.
#[must_use]
#[derive(Clone, Copy)]
pub(super) struct Anew(pub(super) u8);

impl Default for Fills {
    fn default() -> Self {
        Self(Box::new([Fill::default(); SHARDS]))
    }
}

impl Fills {
    /// Makes an entry, or changes the payload of one. Call with a payload other than zero.
    pub(super) fn put<A: Address>(
        &mut self,
        directory: &mut Directory<A>,
        entry: Slot<A>,
    ) -> Option<Anew> {
        let hash = entry.address.hash(entry.tag, directory.seed);
        let shard = shard_of(hash);
        let fill = self.0.get_mut(usize::from(shard))?;
        let buckets = directory.shard(shard);
        if let Some((bucket, slot)) = locate(buckets, hash, entry.address, entry.tag) {
            let dead = bucket.slot(slot).is_some_and(|old| old.payload == 0);
            fill.live = fill.live.saturating_add(usize::from(dead));
            bucket.set(slot, entry.payload);
            return None;
        }
        let slots = buckets.len().saturating_mul(A::Bucket::SLOTS);
        let full = fill.used.saturating_add(1).saturating_mul(3) > slots.saturating_mul(2);
        let anew = full.then(|| write_anew(fill, directory, shard, 1, None));
        add(directory.shard(shard), hash, entry);
        fill.used = fill.used.saturating_add(1);
        fill.live = fill.live.saturating_add(1);
        anew
    }

    /// Kills an entry, if it lives.
    pub(super) fn kill<A: Address>(
        &mut self,
        directory: &mut Directory<A>,
        address: A,
        tag: u8,
        removal: Removal,
    ) -> Option<Anew> {
        let hash = address.hash(tag, directory.seed);
        let shard = shard_of(hash);
        let fill = self.0.get_mut(usize::from(shard))?;
        if removal == Removal::Anew {
            return Some(write_anew(fill, directory, shard, 0, Some((address, tag))));
        }
        let buckets = directory.shard(shard);
        let (bucket, slot) = locate(buckets, hash, address, tag)?;
        bucket.slot(slot).filter(|old| old.payload != 0)?;
        bucket.set(slot, 0);
        fill.live = fill.live.saturating_sub(1);
        let slots = buckets.len().saturating_mul(A::Bucket::SLOTS);
        let sparse = fill.live.saturating_mul(4) < slots && (fill.live == 0 || buckets.len() > 1);
        sparse.then(|| write_anew(fill, directory, shard, 0, None))
    }

    /// Octets of the counts.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Writes the live entries of a shard into new buckets, with room for `more`, without `without`.
fn write_anew<A: Address>(
    fill: &mut Fill,
    directory: &mut Directory<A>,
    shard: u8,
    more: usize,
    without: Option<(A, u8)>,
) -> Anew {
    let seed = directory.seed;
    let entries = fill.live.saturating_add(more);
    // 32 slots for 17 entries.
    let buckets = entries.saturating_mul(32).div_ceil(A::Bucket::SLOTS.saturating_mul(17));
    let new: Arc<[A::Bucket]> = (0..buckets).map(|_| A::Bucket::default()).collect();
    let mut written: usize = 0;
    for bucket in directory.shard(shard).iter() {
        for entry in (0..A::Bucket::SLOTS).filter_map(|slot| bucket.slot(slot)) {
            if entry.payload != 0 && without != Some((entry.address, entry.tag)) {
                add(&new, entry.address.hash(entry.tag, seed), entry);
                written = written.saturating_add(1);
            }
        }
    }
    *fill = Fill { used: written, live: written };
    if let Some(place) = directory.shards.get_mut(usize::from(shard)) {
        *place = new;
    }
    Anew(shard)
}

/// The place of an entry, dead or alive.
fn locate<A: Address>(
    buckets: &[A::Bucket],
    hash: u64,
    address: A,
    tag: u8,
) -> Option<(&A::Bucket, usize)> {
    for bucket in from_home(buckets, home(hash, buckets.len())) {
        if let Some(slot) = bucket.position(address, tag) {
            return Some((bucket, slot));
        }
        if !bucket.spilled() {
            break;
        }
    }
    None
}

/// Puts an entry that is not there into the first free slot from its home on. There is one: a third
/// of all slots is.
fn add<A: Address>(buckets: &[A::Bucket], hash: u64, entry: Slot<A>) {
    for bucket in from_home(buckets, home(hash, buckets.len())) {
        if let Some(slot) = bucket.free() {
            bucket.put(slot, entry);
            return;
        }
        bucket.spill();
    }
}

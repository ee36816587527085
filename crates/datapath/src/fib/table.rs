//! The hash table of one family: buckets in shards, found by one multiplication.
//!
//! # Theory of operation
//! ```text
//! hash   where in the shard:32 | shard:8 | ... | slot:3 | ...
//!                  |                '---.
//!                  |                 [shards]
//!                  '---------.          v
//!          Arc<[bucket bucket bucket bucket ...]>   the home bucket, and, if it has spilled, those
//!                                                   behind it
//! ```
//! Readers have a [`Directory`]: their own copy of the references to the shards. The writer changes
//! buckets in place as `bucket.rs` tells, and counts what it has used in [`Fills`]. A shard that is
//! full, dead entries included, is written anew from its live entries: larger, smaller or the same
//! size, as it comes out. The old buckets are never written again; the new ones are published, and
//! readers take them at their next quiescent point.
//!
//! A small table is one shard; one with more than [`SMALL`] entries has 256, and one with few again is
//! brought back to one. In a small one, between a third and half of the slots are used, so that most
//! entries are the first that is looked at. In a large one memory is what counts: between 17/32 and
//! two thirds ([`Density`]).
//!
//! So growth comes in pieces: with a million addresses some thousands of entries are written anew, not a
//! million; and since an eighth of the slots can be used after that, an insertion pays for a few
//! entries on average, whatever is inserted and removed.
//!
//! # A batch
//! The cost of a look-up in a large table is waiting for memory. So for many at once all home buckets
//! are asked for ([`Directory::ask`]) before the first is read (`batch.rs`).

use std::sync::Arc;

use super::address::Address;
use super::ahead;
use super::bucket::{Bucket, Slot};
use super::hash::Seed;

/// Entries of a table that are one shard: their buckets fit the caches of one core.
pub(super) const SMALL: usize = 2048;
/// Below so many entries a large table is one shard again.
const FEW: usize = SMALL / 4;
/// Shards of a large table: as many as the numbers of eight bits.
const SHARDS: usize = 256;

/// How many of its slots a shard uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Density {
    /// Between a third and half.
    Loose,
    /// Between 17/32 and two thirds.
    Dense,
}

impl Density {
    fn of(shards: usize) -> Self {
        if shards > 1 { Self::Dense } else { Self::Loose }
    }

    /// Slots of a shard that is made for so many entries.
    fn slots(self, entries: usize) -> usize {
        match self {
            Self::Loose => entries.saturating_mul(3),
            Self::Dense => entries.saturating_mul(32).div_ceil(17),
        }
    }

    /// Whether so many used slots are too many.
    fn is_full(self, used: usize, slots: usize) -> bool {
        match self {
            Self::Loose => used.saturating_mul(2) > slots,
            Self::Dense => used.saturating_mul(3) > slots.saturating_mul(2),
        }
    }
}

/// The buckets of one shard.
type Shard<A> = Arc<[<A as Address>::Bucket]>;

/// What a reader knows of a table: where its buckets are.
pub(super) struct Directory<A: Address> {
    seed: Seed,
    /// All buckets of a small table; none of a large one.
    only: Shard<A>,
    /// The [`SHARDS`] of a large table; none of a small one.
    shards: Box<[Shard<A>]>,
}

impl<A: Address> Clone for Directory<A> {
    fn clone(&self) -> Self {
        Self { seed: self.seed, only: Arc::clone(&self.only), shards: self.shards.clone() }
    }
}

/// The shard of a hash among `shards`.
#[inline]
pub(super) fn shard_of(hash: u64, shards: usize) -> usize {
    (hash >> 24) as usize & shards.wrapping_sub(1)
}

/// The home of a hash among `buckets`; the only answer to none is 0.
#[inline]
fn home(hash: u64, buckets: usize) -> usize {
    // The upper 32 bits, as a fraction of the buckets. A shard never has 2^32.
    ((hash >> 32).wrapping_mul(buckets as u64) >> 32) as usize
}

/// All buckets from the home on, once around.
fn from_home<B>(buckets: &[B], hash: u64) -> impl Iterator<Item = &B> {
    let home = home(hash, buckets.len());
    let (before, after) = buckets.split_at_checked(home).unwrap_or((buckets, &[]));
    after.iter().chain(before)
}

/// There are other buckets, which readers are to be told of.
#[must_use]
#[derive(Clone, Copy)]
pub(super) enum Anew {
    /// In this shard.
    One(usize),
    /// In all shards, and there are more or fewer of them.
    All,
}

impl<A: Address> Directory<A> {
    /// An empty table.
    pub(super) fn new(seed: Seed) -> Self {
        Self { seed, only: Arc::new([]), shards: Box::new([]) }
    }

    /// Whether there are more entries than fit a core's caches.
    #[inline]
    pub(super) fn is_large(&self) -> bool {
        !self.shards.is_empty()
    }

    /// The buckets among which an entry with this hash is.
    #[inline]
    fn shard(&self, hash: u64) -> &[A::Bucket] {
        self.shards.get(shard_of(hash, SHARDS)).unwrap_or(&self.only)
    }

    /// The bucket where the search for a hash begins. `None` where there are no buckets.
    #[inline(always)]
    fn home(&self, hash: u64) -> Option<&A::Bucket> {
        // In a small table this ends the search; that there are none says that it is a large one.
        self.only.get(home(hash, self.only.len())).or_else(|| {
            let buckets = self.shards.get(shard_of(hash, SHARDS))?;
            buckets.get(home(hash, buckets.len()))
        })
    }

    /// The place of a shard, by its number.
    fn place(&mut self, shard: usize) -> Option<&mut Shard<A>> {
        if self.is_large() { self.shards.get_mut(shard) } else { Some(&mut self.only) }
    }

    /// The hash of a single address.
    #[inline]
    pub(super) fn hash(&self, address: A) -> u64 {
        address.hash(A::EXACT, self.seed)
    }

    /// Asks for the home bucket of a hash: which that is.
    #[inline(always)]
    pub(super) fn ask(&self, hash: u64) -> Option<&A::Bucket> {
        self.home(hash).inspect(|bucket| ahead::ask(*bucket))
    }

    /// The payload of an entry; zero if there is none.
    #[inline(never)]
    pub(super) fn find(&self, address: A, tag: u8) -> u32 {
        self.find_hashed(address, tag, address.hash(tag, self.seed))
    }

    /// The same for an entry whose hash is known. What a datagram does twice: nothing of it is a call,
    /// unless a bucket is full.
    #[inline(always)]
    pub(super) fn find_hashed(&self, address: A, tag: u8, hash: u64) -> u32 {
        let Some(bucket) = self.home(hash) else { return 0 };
        match bucket.find(address, tag, hash) {
            Some(payload) => payload,
            None => self.find_behind(address, tag, hash),
        }
    }

    /// Asks for the bucket behind the home of a hash.
    #[inline]
    pub(super) fn ask_behind(&self, hash: u64) {
        if let Some(bucket) = self.behind(hash).next() {
            ahead::ask(bucket);
        }
    }

    /// The payload of an entry that is not in its home.
    #[inline(never)]
    pub(super) fn find_behind(&self, address: A, tag: u8, hash: u64) -> u32 {
        self.behind(hash).find_map(|bucket| bucket.find(address, tag, hash)).unwrap_or(0)
    }

    /// The buckets behind the home of a hash.
    fn behind(&self, hash: u64) -> impl Iterator<Item = &A::Bucket> {
        from_home(self.shard(hash), hash).skip(1)
    }

    /// Takes over what another directory of the same table has that this one has not.
    pub(super) fn refresh(&mut self, newer: &Self) {
        follow(&mut self.only, &newer.only);
        if self.shards.len() != newer.shards.len() {
            self.shards.clone_from(&newer.shards);
            return;
        }
        for (mine, theirs) in self.shards.iter_mut().zip(newer.shards.iter()) {
            follow(mine, theirs);
        }
    }

    /// Takes over what has changed.
    pub(super) fn follow(&mut self, newer: &Self, anew: Anew) {
        match anew {
            Anew::All => self.refresh(newer),
            Anew::One(shard) => {
                let theirs = newer.shards.get(shard).unwrap_or(&newer.only);
                if let Some(mine) = self.place(shard) {
                    follow(mine, theirs);
                }
            }
        }
    }

    /// All shards.
    fn all(&self) -> impl Iterator<Item = &Shard<A>> {
        std::iter::once(&self.only).chain(&self.shards)
    }

    /// Octets of the buckets, and of the references to them.
    pub(super) fn memory(&self) -> usize {
        let buckets: usize = self.all().map(|shard| size_of_val(&**shard)).sum();
        buckets.saturating_add(size_of_val(&*self.shards))
    }
}

/// Takes over the buckets of a shard.
fn follow<B>(mine: &mut Arc<[B]>, theirs: &Arc<[B]>) {
    if !Arc::ptr_eq(mine, theirs) {
        *mine = Arc::clone(theirs);
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
pub(super) struct Fills {
    /// Of each shard.
    shards: Vec<Fill>,
    /// Live entries of all shards.
    live: usize,
}

/// How an entry is taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// In place: readers see it at once.
    InPlace,
    /// With new buckets: who sees it sees all that was published before, too.
    Anew,
}

impl Default for Fills {
    fn default() -> Self {
        Self { shards: vec![Fill::default()], live: 0 }
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
        if let Some((bucket, old)) = locate(directory.shard(hash), hash, entry.address, entry.tag) {
            let dead = bucket.slot(old).is_some_and(|old| old.payload == 0);
            bucket.set(old, entry.payload);
            if dead {
                self.count(shard_of(hash, self.shards.len()), |live| live.saturating_add(1));
            }
            return None;
        }
        let mut anew = None;
        if self.live >= SMALL && !directory.is_large() {
            self.spread(directory, SHARDS);
            anew = Some(Anew::All);
        }
        let shard = shard_of(hash, self.shards.len());
        let slots = directory.shard(hash).len().saturating_mul(A::Bucket::SLOTS);
        let used = self.shards.get(shard).map_or(0, |fill| fill.used);
        if Density::of(self.shards.len()).is_full(used.saturating_add(1), slots) {
            self.write_anew(directory, shard, 1, None);
            anew = anew.or(Some(Anew::One(shard)));
        }
        add(directory.shard(hash), hash, entry);
        if let Some(fill) = self.shards.get_mut(shard) {
            fill.used = fill.used.saturating_add(1);
        }
        self.count(shard, |live| live.saturating_add(1));
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
        let shard = shard_of(hash, self.shards.len());
        if removal == Removal::Anew {
            self.write_anew(directory, shard, 0, Some((address, tag)));
            return Some(Anew::One(shard));
        }
        let buckets = directory.shard(hash);
        let (bucket, slot) = locate(buckets, hash, address, tag)?;
        bucket.slot(slot).filter(|old| old.payload != 0)?;
        bucket.set(slot, 0);
        let (buckets, slots) = (buckets.len(), buckets.len().saturating_mul(A::Bucket::SLOTS));
        self.count(shard, |live| live.saturating_sub(1));
        if self.live < FEW && directory.is_large() {
            self.spread(directory, 1);
            return Some(Anew::All);
        }
        let live = self.shards.get(shard)?.live;
        let sparse = live.saturating_mul(4) < slots && (live == 0 || buckets > 1);
        if !sparse {
            return None;
        }
        self.write_anew(directory, shard, 0, None);
        Some(Anew::One(shard))
    }

    /// Octets of the counts.
    pub(super) fn memory(&self) -> usize {
        self.shards.capacity().saturating_mul(size_of::<Fill>())
    }

    /// Counts a live entry of a shard, or one less.
    fn count(&mut self, shard: usize, change: impl Fn(usize) -> usize) {
        if let Some(fill) = self.shards.get_mut(shard) {
            fill.live = change(fill.live);
            self.live = change(self.live);
        }
    }

    /// Writes the live entries of a shard into new buckets, with room for `more`, without `without`.
    fn write_anew<A: Address>(
        &mut self,
        directory: &mut Directory<A>,
        shard: usize,
        more: usize,
        without: Option<(A, u8)>,
    ) {
        let density = Density::of(self.shards.len());
        let seed = directory.seed;
        let (Some(fill), Some(place)) = (self.shards.get_mut(shard), directory.place(shard)) else {
            return;
        };
        let stays = |entry: &Slot<A>| without != Some((entry.address, entry.tag));
        let slots = density.slots(fill.live.saturating_add(more));
        let (new, written) = buckets_of(live::<A>(place).filter(stays), slots, seed);
        *place = new;
        self.live = self.live.saturating_sub(fill.live).saturating_add(written);
        *fill = Fill { used: written, live: written };
    }

    /// Writes all entries anew, into so many shards.
    fn spread<A: Address>(&mut self, directory: &mut Directory<A>, shards: usize) {
        let seed = directory.seed;
        let mut parts: Vec<Vec<Slot<A>>> = (0..shards).map(|_| Vec::new()).collect();
        for entry in directory.all().flat_map(|shard| live::<A>(shard)) {
            let hash = entry.address.hash(entry.tag, seed);
            if let Some(part) = parts.get_mut(shard_of(hash, shards)) {
                part.push(entry);
            }
        }
        let fill = |part: &Vec<_>| Fill { used: part.len(), live: part.len() };
        self.shards = parts.iter().map(fill).collect();
        let buckets = |part: Vec<_>| {
            let slots = Density::of(shards).slots(part.len());
            buckets_of(part.into_iter(), slots, seed).0
        };
        let mut made: Vec<Shard<A>> = parts.into_iter().map(buckets).collect();
        // One by itself is a small table's.
        directory.only = made.pop_if(|_| shards == 1).unwrap_or_else(|| Arc::new([]));
        directory.shards = made.into();
    }
}

/// The live entries of a shard.
fn live<A: Address>(buckets: &[A::Bucket]) -> impl Iterator<Item = Slot<A>> {
    let slots =
        |bucket| (0..A::Bucket::SLOTS).filter_map(move |slot| A::Bucket::slot(bucket, slot));
    buckets.iter().flat_map(slots).filter(|entry| entry.payload != 0)
}

/// New buckets of at least so many slots with these entries; how many there were.
fn buckets_of<A: Address>(
    entries: impl Iterator<Item = Slot<A>>,
    slots: usize,
    seed: Seed,
) -> (Shard<A>, usize) {
    let new: Shard<A> =
        (0..slots.div_ceil(A::Bucket::SLOTS)).map(|_| A::Bucket::default()).collect();
    let mut written: usize = 0;
    for entry in entries {
        add(&new, entry.address.hash(entry.tag, seed), entry);
        written = written.saturating_add(1);
    }
    (new, written)
}

/// The place of an entry, dead or alive.
fn locate<A: Copy, B: Bucket<A>>(
    buckets: &[B],
    hash: u64,
    address: A,
    tag: u8,
) -> Option<(&B, usize)> {
    for bucket in from_home(buckets, hash) {
        if let Some(slot) = bucket.position(address, tag) {
            return Some((bucket, slot));
        }
        if !bucket.may_have_spilled() {
            break;
        }
    }
    None
}

/// Puts an entry that is not there into the first free slot from its home on. There is one: a third
/// of all slots is.
fn add<A, B: Bucket<A>>(buckets: &[B], hash: u64, entry: Slot<A>) {
    for bucket in from_home(buckets, hash) {
        if let Some(slot) = bucket.free(hash) {
            bucket.put(slot, entry);
            return;
        }
        bucket.spill();
    }
}

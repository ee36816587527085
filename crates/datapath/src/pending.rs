//! Datagrams that wait for a LAN neighbour to be found.
//!
//! # Why it exists
//! It is the only place where a VM's datagram rests between two batches. So it lies in the state
//! memory: when the base dies, the successor finds it and goes on (rule 7).
//!
//! # Theory of operation
//! ```text
//! lookup: Resolving  --push--> slot in the state memory
//! event Resolved     --next--> sent              --done--> slot is free
//! event Unreachable  --next_of--> counted, answered --done-->  "
//! port, network gone --next_owned, next_on--> counted --done--> "
//! ```
//! The octets are in the slots; this index of them is the base's own, and is built anew from the
//! slots by [`Pending::adopt`]; of those that were damaged the datagram is dropped by name. The slot of a datagram that was taken out is free only when
//! [`Pending::done`] says that it has met its fate: a base that dies between the two repeats a
//! datagram and loses none. A successor asks again for all [`Pending::hops`].
//!
//! # Who gives way
//! Each owner has at most [`PER_OWNER`] slots, and [`PER_HOP`] for one neighbour. Beyond that its own
//! oldest goes: that for the same neighbour, else for any. When all slots are in use, the oldest of
//! whoever has most goes, so that many who wait cannot keep out one who does not.
//!
//! What a predecessor had let wait counts for no share: the last of it may lie in its owner's ring
//! too, and come once more; that must not drive out what lies here alone.
//!
//! # Invariants
//! - A datagram that is pushed comes out once: taken out, or as the owner named by `push`.
//! - Datagrams for one neighbour come out in the order in which they came.

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::counters::{Counter, Counters};
use crate::names::{NetworkId, Owner};
use crate::offload::Offload;
use crate::state::pending::{ROOM, Record, Slot, copy, fill, free, look, mend_used, used};
use crate::state::{PENDING_SLOTS, Place, StateMemory};

/// Datagrams of one owner that may wait.
pub const PER_OWNER: usize = 256;
/// Datagrams of one owner that may wait for one neighbour.
pub const PER_HOP: usize = 64;

/// A datagram that has waited, taken out. It goes to [`Pending::done`] when its fate is met.
#[derive(Debug)]
#[must_use = "its slot is free only after `Pending::done`"]
pub struct Waiting {
    slot: usize,
    record: Record,
    bytes: Vec<u8>,
}

impl Waiting {
    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.record.owner
    }

    /// Where it lies.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// What is left to do with it.
    pub fn offload(&self) -> Offload {
        self.record.offload
    }

    /// The datagram.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// All datagrams that waited at some time, and none that has come since.
#[derive(Clone, Copy, Debug)]
pub struct Until(u64);

/// The datagrams that wait, of all networks.
#[derive(Debug)]
pub struct Pending {
    state: StateMemory,
    /// The first datagram that this base has let wait: those before were a predecessor's.
    first: u64,
    /// What waits in each slot.
    records: Vec<Option<Record>>,
    /// The slots of each owner and for each neighbour, oldest first.
    owners: HashMap<Owner, VecDeque<usize>>,
    hops: HashMap<(NetworkId, IpAddr), VecDeque<usize>>,
    /// Free slots; the lowest come last, and are used first.
    free: Vec<usize>,
    sequence: u64,
    /// The buffer of the last datagram that was done with.
    spare: Vec<u8>,
}

impl Pending {
    /// The queue in this state memory: empty in a new one, else what a predecessor left.
    pub fn adopt(state: StateMemory) -> Self {
        let mut pending = Self {
            records: vec![None; PENDING_SLOTS],
            owners: HashMap::new(),
            hops: HashMap::new(),
            free: Vec::with_capacity(PENDING_SLOTS),
            first: 0,
            sequence: 0,
            spare: Vec::with_capacity(ROOM),
            state,
        };
        let mut found = Vec::new();
        let mut damaged = 0usize;
        if mend_used(&pending.state) {
            let what = "how many slots there are of datagrams that wait is lost: all are looked at";
            pending.state.note(Place::Instance, what.to_owned());
        }
        for slot in 0..used(&pending.state) {
            match look(&pending.state, slot) {
                Slot::Free => {}
                Slot::Waiting(record) => found.push((slot, record)),
                Slot::Broken(owner) => {
                    // Whose it was may be lost: then it counts at the first network.
                    let owner = owner.unwrap_or(Owner::Uplink(NetworkId(0)));
                    Counters::of(&pending.state, owner).add(Counter::DropStateDamaged, 1);
                    free(&pending.state, slot);
                    damaged = damaged.saturating_add(1);
                }
            }
        }
        if damaged > 0 {
            let what = format!(
                "{damaged} of the datagrams that waited for a neighbour were damaged and are dropped"
            );
            pending.state.note(Place::Instance, what);
        }
        found.sort_unstable_by_key(|(_, record)| record.sequence);
        for (slot, record) in found {
            pending.sequence = record.sequence.wrapping_add(1);
            pending.remember(slot, record);
        }
        pending.first = pending.sequence;
        let is_free = |(slot, record): (usize, &Option<Record>)| record.is_none().then_some(slot);
        pending.free.extend(pending.records.iter().enumerate().rev().filter_map(is_free));
        pending
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// How many of this owner's wait.
    pub fn len_of(&self, owner: Owner) -> usize {
        self.owners.get(&owner).map_or(0, VecDeque::len)
    }

    /// The neighbours that are waited for, each with the owner that has waited longest.
    pub fn hops(&self) -> impl Iterator<Item = (NetworkId, IpAddr, Owner)> {
        self.hops.iter().filter_map(|((network, hop), slots)| {
            let oldest = self.records.get(*slots.front()?)?.as_ref()?;
            Some((*network, *hop, oldest.owner))
        })
    }

    /// Lets a datagram wait. If one had to go for it, or this one itself found no room, tells whose
    /// it was, to be counted there.
    pub fn push(
        &mut self,
        network: NetworkId,
        owner: Owner,
        hop: IpAddr,
        offload: &Offload,
        datagram: &[u8],
    ) -> Option<Owner> {
        let evicted = self.make_room(network, owner, hop);
        let Some(slot) = self.free.pop() else { return Some(owner) };
        let (sequence, len) = (self.sequence, datagram.len());
        let record = Record { network, owner, hop, offload: *offload, sequence, len };
        if fill(&self.state, slot, &record, datagram).is_none() {
            self.free.push(slot);
            return Some(owner);
        }
        self.sequence = sequence.wrapping_add(1);
        self.remember(slot, record);
        evicted
    }

    /// Takes out the oldest that waits for this neighbour.
    pub fn next(&mut self, network: NetworkId, hop: IpAddr) -> Option<Waiting> {
        let slot = *self.hops.get(&(network, hop))?.front()?;
        self.take(slot)
    }

    /// What waits now.
    pub fn until_now(&self) -> Until {
        Until(self.sequence)
    }

    /// Takes out the oldest that waits for this neighbour, if it did then.
    pub fn next_of(&mut self, network: NetworkId, hop: IpAddr, then: Until) -> Option<Waiting> {
        let slot = *self.hops.get(&(network, hop))?.front()?;
        let came = self.records.get(slot)?.as_ref()?.sequence;
        // The first to come since has this number: what is behind it by less than half of all came before.
        let since = came.wrapping_sub(then.0) < 1 << 63;
        if since { None } else { self.take(slot) }
    }

    /// Takes out the oldest of an owner that goes away.
    pub fn next_owned(&mut self, owner: Owner) -> Option<Waiting> {
        let slot = *self.owners.get(&owner)?.front()?;
        self.take(slot)
    }

    /// Takes out one of a network that goes away.
    pub fn next_on(&mut self, network: NetworkId) -> Option<Waiting> {
        let (_, slots) = self.hops.iter().find(|((n, _), _)| *n == network)?;
        let slot = *slots.front()?;
        self.take(slot)
    }

    /// The fate of a datagram that was taken out is met: its slot is free.
    pub fn done(&mut self, waiting: Waiting) {
        free(&self.state, waiting.slot);
        self.free.push(waiting.slot);
        self.spare = waiting.bytes;
    }

    fn take(&mut self, slot: usize) -> Option<Waiting> {
        let record = self.forget(slot)?;
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        bytes.resize(record.len, 0);
        copy(&self.state, slot, &mut bytes)?;
        Some(Waiting { slot, record, bytes })
    }

    fn remember(&mut self, slot: usize, record: Record) {
        if let Some(place) = self.records.get_mut(slot) {
            *place = Some(record);
        }
        self.owners.entry(record.owner).or_default().push_back(slot);
        self.hops.entry((record.network, record.hop)).or_default().push_back(slot);
    }

    /// Takes a slot out of the index; its octets stay.
    fn forget(&mut self, slot: usize) -> Option<Record> {
        let record = self.records.get_mut(slot)?.take()?;
        strike(&mut self.owners, &record.owner, slot);
        strike(&mut self.hops, &(record.network, record.hop), slot);
        Some(record)
    }

    /// Frees a slot for a newcomer, if need be, and tells whose it was.
    fn make_room(&mut self, network: NetworkId, owner: Owner, hop: IpAddr) -> Option<Owner> {
        let slot = self.victim(network, owner, hop)?;
        let record = self.forget(slot)?;
        free(&self.state, slot);
        self.free.push(slot);
        Some(record.owner)
    }

    /// Who gives way to this newcomer, if anybody must.
    fn victim(&self, network: NetworkId, owner: Owner, hop: IpAddr) -> Option<usize> {
        if let Some(own) = self.owners.get(&owner) {
            let record = |slot: &usize| self.records.get(*slot).and_then(Option::as_ref);
            let counts = |slot: &&usize| record(slot).is_some_and(|r| r.sequence >= self.first);
            let same_hop =
                |slot: &&usize| record(slot).is_some_and(|r| r.network == network && r.hop == hop);
            let own = || own.iter().filter(counts);
            if own().filter(same_hop).count() >= PER_HOP {
                return own().find(same_hop).copied();
            }
            if own().count() >= PER_OWNER {
                return own().next().copied();
            }
        }
        if !self.free.is_empty() {
            return None;
        }
        let fullest = self.owners.values().max_by_key(|queue| queue.len());
        fullest.and_then(|queue| queue.front().copied())
    }
}

/// Takes `slot` out of the queue of `key`, and the queue out of the map when it is empty.
fn strike<K: Eq + Hash>(queues: &mut HashMap<K, VecDeque<usize>>, key: &K, slot: usize) {
    let Some(queue) = queues.get_mut(key) else { return };
    if let Some(at) = queue.iter().position(|s| *s == slot) {
        queue.remove(at);
    }
    if queue.is_empty() {
        queues.remove(key);
    }
}

#[cfg(test)]
mod tests;

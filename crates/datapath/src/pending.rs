//! Datagrams that wait for a LAN neighbour to be found.
//!
//! # Why it exists
//! It is the only place where a VM's datagram rests between two batches. So it lies in the state
//! memory: when the base dies, the successor finds it and goes on (rule 7).
//!
//! # Theory of operation
//! ```text
//! lookup: Resolving  --push--> slot in the state memory
//! event Resolved     --take--> sent      --release--> slot is free
//! event Unreachable  --take--> counted, answered      "
//! port removed       --take_owned--> counted          "
//! ```
//! The octets are in the slots; this index of them is the base's own and is built anew from the
//! slots by [`Pending::open`]. A slot that was taken is given back by [`Pending::release`], when what
//! was taken has met its fate: a base that dies between the two repeats a datagram and loses none.
//!
//! # Who gives way
//! Each owner has at most [`PER_OWNER`] slots, and [`PER_HOP`] for one neighbour. Beyond that its own
//! oldest goes: that of the same neighbour, else of any. When all slots are in use, the oldest of
//! whoever has most goes, so that many who wait cannot keep out one who does not.
//!
//! # Invariants
//! - A datagram that is pushed comes out once: by `take`, or as the owner named by `push`.
//! - Datagrams for one neighbour come out in the order in which they came.

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::counters::Counter;
use crate::names::{NetworkId, Owner};
use crate::state::pending::{ROOM, Slot, copy, fill, free, look, used};
use crate::state::{PENDING_SLOTS, StateMemory};

pub use crate::state::pending::Waiting;

/// Datagrams of one owner that may wait.
pub const PER_OWNER: usize = 64;
/// Datagrams of one owner that may wait for one neighbour.
pub const PER_HOP: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Entry {
    waiting: Waiting,
    sequence: u64,
    len: usize,
}

/// The datagrams that wait, of all networks.
#[derive(Debug)]
pub struct Pending {
    state: StateMemory,
    /// What waits in each slot.
    entries: Vec<Option<Entry>>,
    /// The slots of each owner, oldest first.
    queues: HashMap<Owner, VecDeque<usize>>,
    /// Free slots; the lowest are last, and used first.
    free: Vec<usize>,
    /// Slots taken and not yet given back.
    taken: Vec<usize>,
    sequence: u64,
    /// The datagram that is shown to a callback.
    shown: Vec<u8>,
}

impl Pending {
    /// The queue in this state memory: empty in a new one, else what a predecessor left. Also tells
    /// how many slots held nothing that can be sent; they are free now.
    pub fn open(state: StateMemory) -> (Self, usize) {
        let mut broken: usize = 0;
        let mut found = Vec::new();
        let mut entries = vec![None; PENDING_SLOTS];
        for (slot, entry) in entries.iter_mut().enumerate().take(used(&state)) {
            match look(&state, slot) {
                Slot::Free => {}
                Slot::Broken => {
                    broken = broken.saturating_add(1);
                    free(&state, slot);
                }
                Slot::Waiting { waiting, sequence, len } => {
                    found.push((sequence, slot, waiting.owner));
                    *entry = Some(Entry { waiting, sequence, len });
                }
            }
        }
        found.sort_unstable_by_key(|(sequence, ..)| *sequence);
        let sequence = found.last().map_or(0, |(last, ..)| last.wrapping_add(1));
        let mut queues: HashMap<Owner, VecDeque<usize>> = HashMap::new();
        for (_, slot, owner) in found {
            queues.entry(owner).or_default().push_back(slot);
        }
        let free = entries
            .iter()
            .enumerate()
            .rev()
            .filter_map(|(slot, entry)| entry.is_none().then_some(slot))
            .collect();
        let (taken, shown) = (Vec::new(), vec![0; ROOM]);
        (Self { state, entries, queues, free, taken, sequence, shown }, broken)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queues.values().fold(0, |n, queue| n.saturating_add(queue.len()))
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// How many of this owner's wait.
    pub fn len_of(&self, owner: Owner) -> usize {
        self.queues.get(&owner).map_or(0, VecDeque::len)
    }

    /// All that wait, in no order: a successor asks for their neighbours again.
    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.entries.iter().flatten().map(|entry| &entry.waiting)
    }

    /// Lets a datagram wait. If another had to go for it, tells whose it was: it is to be counted
    /// there ([`Counter::DropNeighborQueueFull`]).
    pub fn push(&mut self, waiting: &Waiting, datagram: &[u8]) -> Result<Option<Owner>, Counter> {
        if datagram.len() > ROOM {
            return Err(Counter::DropFrameLength);
        }
        let evicted = self.make_room(waiting);
        let slot = self.free.pop().ok_or(Counter::DropNeighborQueueFull)?;
        let sequence = self.sequence;
        if fill(&self.state, slot, waiting, sequence, datagram).is_none() {
            self.free.push(slot);
            return Err(Counter::DropNeighborQueueFull);
        }
        self.sequence = sequence.wrapping_add(1);
        let entry = Entry { waiting: *waiting, sequence, len: datagram.len() };
        if let Some(place) = self.entries.get_mut(slot) {
            *place = Some(entry);
        }
        self.queues.entry(waiting.owner).or_default().push_back(slot);
        Ok(evicted)
    }

    /// Takes all that wait for a neighbour, oldest first: `each` sees them one by one, with a copy of
    /// their octets. Their slots stay in use until [`Pending::release`]. Tells how many there were.
    pub fn take(
        &mut self,
        network: NetworkId,
        hop: IpAddr,
        each: impl FnMut(&Waiting, &mut [u8]),
    ) -> usize {
        self.take_those(|w| w.network == network && w.hop == hop, each)
    }

    /// As [`Pending::take`], all of an owner that goes away.
    pub fn take_owned(&mut self, owner: Owner, each: impl FnMut(&Waiting, &mut [u8])) -> usize {
        self.take_those(|w| w.owner == owner, each)
    }

    /// As [`Pending::take`], all of a network that goes away.
    pub fn take_network(
        &mut self,
        network: NetworkId,
        each: impl FnMut(&Waiting, &mut [u8]),
    ) -> usize {
        self.take_those(|w| w.network == network, each)
    }

    /// As [`Pending::take`], all that came before `time`, in milliseconds of the machine's monotonic
    /// clock: nobody is to wait longer than a neighbour can be asked for.
    pub fn take_older(&mut self, time: u64, each: impl FnMut(&Waiting, &mut [u8])) -> usize {
        self.take_those(|w| w.since < time, each)
    }

    /// Gives back the slots of all that was taken.
    pub fn release(&mut self) {
        for slot in self.taken.drain(..) {
            free(&self.state, slot);
            self.free.push(slot);
        }
    }

    fn take_those(
        &mut self,
        these: impl Fn(&Waiting) -> bool,
        mut each: impl FnMut(&Waiting, &mut [u8]),
    ) -> usize {
        if self.queues.is_empty() {
            return 0;
        }
        let matching = self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let entry = entry.as_ref().filter(|e| these(&e.waiting))?;
            Some((entry.sequence, slot))
        });
        let mut slots: Vec<_> = matching.collect();
        slots.sort_unstable();
        for (_, slot) in &slots {
            let Some(entry) = self.forget(*slot) else { continue };
            self.taken.push(*slot);
            if let Some(shown) = self.shown.get_mut(..entry.len)
                && copy(&self.state, *slot, shown).is_some()
            {
                each(&entry.waiting, shown);
            }
        }
        slots.len()
    }

    /// Takes a slot out of the index; its octets stay.
    fn forget(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(slot)?.take()?;
        let owner = entry.waiting.owner;
        if let Some(queue) = self.queues.get_mut(&owner) {
            queue.retain(|s| *s != slot);
            if queue.is_empty() {
                self.queues.remove(&owner);
            }
        }
        Some(entry)
    }

    /// Frees a slot for this newcomer, if need be, and tells whose it was.
    fn make_room(&mut self, newcomer: &Waiting) -> Option<Owner> {
        let slot = self.victim(newcomer)?;
        let entry = self.forget(slot)?;
        free(&self.state, slot);
        self.free.push(slot);
        Some(entry.waiting.owner)
    }

    /// Who gives way to this newcomer, if anybody must.
    fn victim(&self, newcomer: &Waiting) -> Option<usize> {
        let own = self.queues.get(&newcomer.owner);
        if let Some(own) = own {
            let same_hop = |slot: &&usize| {
                let entry = self.entries.get(**slot).and_then(Option::as_ref);
                entry.is_some_and(|e| {
                    e.waiting.network == newcomer.network && e.waiting.hop == newcomer.hop
                })
            };
            if own.iter().filter(same_hop).count() >= PER_HOP {
                return own.iter().find(same_hop).copied();
            }
            if own.len() >= PER_OWNER {
                return own.front().copied();
            }
        }
        if !self.free.is_empty() {
            return None;
        }
        let fullest = self.queues.values().max_by_key(|queue| queue.len());
        fullest.and_then(|queue| queue.front().copied())
    }
}

#[cfg(test)]
mod tests;

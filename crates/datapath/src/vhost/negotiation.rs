//! What a front end's requests do: features, memory, rings.
//!
//! # Theory of operation
//! The numbers of a negotiation are in the port's record and nowhere else; here is what numbers
//! cannot hold. A ring runs when all it needs is there:
//!
//! ```text
//! memory, size, addresses, a kick (or the word that there is none), enabled, no fault
//!    |
//!  settle ---- all there, not running ----> owner.start      (the worker has it)
//!    |
//!    '-------- running, something gone ---> owner.stop       (the worker has let go)
//! ```
//! in whatever order it came: QEMU 7.2 enables rings before it acknowledges features, others last
//! of all. Without VHOST_USER_F_PROTOCOL_FEATURES there is no enabling and every ring counts as
//! enabled. A request that changes something a running ring stands on stops it, changes it, and
//! starts it again.
//!
//! The index in SET_VRING_BASE is not believed: where a split ring goes on is found in the ring. A packed
//! ring has no such index: where that goes on, says [`super::place`]. While the port is quarantined its
//! front end is served as ever, but no ring starts.
//!
//! # Invariants
//! - A refused request has changed nothing; [`Refusal::RingOutside`] alone is found out late.
//! - A ring that runs is marked so in the record before the owner has it, and until the owner has
//!   let go of it. (One that is marked may have been broken in a predecessor's time.)
//! - Outside of a request, only words that the record's seal is not over change.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use virtqueue::{GuestAddress, GuestMemory, QueueLayout};

use super::bell::{self, Bells};
use super::event::PortEvent;
use super::features::{PROTOCOL_FEATURES, REPLY_ACK, RING_PACKED};
use super::keys::Keys;
use super::memory_table::MemoryTable;
use super::message::Request;
use super::owner::Ring;
use super::refusal::Refusal;
use super::surroundings::Surroundings;
use crate::names::{PortId, RingId};
use crate::state::port::{
    Kick, MAX_MEMORY_SLOTS, MemorySlot, PortRecord, RingAddresses, RingState,
};

/// Descriptors of the largest ring (virtio 1.2, sections 2.7 and 2.8).
const MAX_RING: u32 = 32768;
/// The flag of SET_VRING_ADDR that asks for a log of used entries.
const RING_LOG: u32 = 1;

/// What a request that was carried out is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing, unless the front end asked to be told.
    Done,
    /// A number.
    Number(u64),
    /// Where a ring stands: its next index, or two places of a packed ring.
    Base(RingId, u32),
}

/// One front end's negotiation.
#[derive(Debug)]
pub(super) struct Negotiation {
    pub(super) port: PortId,
    pub(super) record: PortRecord,
    pub(super) keys: Keys,
    pub(super) table: MemoryTable,
    /// The descriptors of rings that have some.
    pub(super) bells: BTreeMap<RingId, Bells>,
}

impl Negotiation {
    /// The beginning: nothing is negotiated.
    pub(super) fn new(port: PortId, record: PortRecord, keys: Keys) -> Self {
        Self { port, record, keys, table: MemoryTable::default(), bells: BTreeMap::new() }
    }

    /// Whether the front end may ask to be told how a request went.
    pub(super) fn acknowledges(&self) -> bool {
        self.record.protocol() & REPLY_ACK != 0
    }

    /// Carries a request out.
    pub(super) fn carry_out(
        &mut self,
        request: Request,
        around: &Surroundings,
    ) -> Result<Answer, Refusal> {
        let record = &self.record;
        match request {
            Request::GetFeatures => return Ok(Answer::Number(record.offered())),
            Request::GetProtocolFeatures => return Ok(Answer::Number(record.protocol_offered())),
            Request::GetQueueNum => return Ok(Answer::Number(record.pairs() as u64)),
            Request::GetMaxMemSlots => return Ok(Answer::Number(MAX_MEMORY_SLOTS as u64)),
            Request::GetRingBase(id) => return Ok(self.take_back(id, around)),
            // The base announces addresses by itself when a guest begins to speak.
            Request::SetOwner | Request::SendRarp => {}
            Request::ResetOwner => self.disable(around),
            Request::SetProtocolFeatures(asked) => {
                within(asked, record.protocol_offered())?;
                record.set_protocol(asked);
            }
            Request::SetFeatures(asked) => self.set_features(asked, around)?,
            Request::SetMemTable(regions) => self.set_memory(regions, around)?,
            Request::AddMemoryRegion(slot, fd) => {
                let table = self.table.with(slot, fd.as_fd())?;
                self.change_memory(table, vec![(slot, fd)], around)?;
            }
            Request::RemoveMemoryRegion(slot) => {
                let table = self.table.without(slot)?;
                self.change_memory(table, Vec::new(), around)?;
            }
            Request::SetRingSize(id, size) => {
                let size = ring_size(size, is_packed(record))?;
                self.change(id, around, |ring| ring.size = size)?;
            }
            Request::SetRingAddresses { ring: id, flags, addresses } => {
                if flags & RING_LOG != 0 {
                    return Err(Refusal::RingLog);
                }
                aligned(addresses)?;
                self.change(id, around, |ring| ring.addresses = Some(addresses))?;
            }
            Request::SetRingBase(id, base) => {
                #[cfg(feature = "fault-injection")]
                crate::faults::poison_message(base as u16);
                self.set_base(id, base, around)?;
            }
            Request::SetRingEnable(id, enabled) => {
                record.update_ring(id, |ring| ring.enabled = enabled);
                self.settle(id, around)?;
            }
            Request::SetKick(id, fd) => self.set_kick(id, fd, around)?,
            Request::SetCall(id, fd) => self.set_call(id, fd, around)?,
            Request::SetErr(id, fd) => self.set_err(id, fd, around)?,
        }
        Ok(Answer::Done)
    }

    fn set_features(&mut self, asked: u64, around: &Surroundings) -> Result<(), Refusal> {
        within(asked, self.record.offered())?;
        if asked != self.record.features() {
            self.stop_all(around);
            self.record.set_features(asked);
            // Where a ring of the other kind stood says nothing; one of the same kind was just told.
            // What an earlier connection left is for `place` to judge.
            for id in self.record.rings().filter(|id| self.record.is_placed(*id)) {
                self.record.forget_position(id);
            }
        }
        around.tell(self.port, PortEvent::Negotiated { features: asked });
        self.settle_all(around)
    }

    fn set_base(&mut self, id: RingId, base: u32, around: &Surroundings) -> Result<(), Refusal> {
        if !is_packed(&self.record) {
            self.record.update_ring(id, |ring| ring.base = base);
            return Ok(());
        }
        self.stop(id, around);
        if self.record.is_placed(id) {
            self.record.forget_position(id);
        }
        self.record.update_ring(id, |ring| ring.base = base);
        self.settle(id, around)
    }

    fn set_memory(
        &mut self,
        regions: Vec<(MemorySlot, OwnedFd)>,
        around: &Surroundings,
    ) -> Result<(), Refusal> {
        let numbered = regions.iter().enumerate().map(|(n, (slot, fd))| (n, *slot, fd));
        let table = MemoryTable::of(numbered)?;
        self.change_memory(table, regions, around)
    }

    /// Goes over to another memory. `fresh` are the descriptors of the regions that are new in it.
    fn change_memory(
        &mut self,
        table: MemoryTable,
        mut fresh: Vec<(MemorySlot, OwnedFd)>,
        around: &Surroundings,
    ) -> Result<(), Refusal> {
        self.stop_all(around);
        for index in 0..MAX_MEMORY_SLOTS {
            let (before, after) = (self.table.slot(index), table.slot(index));
            let key = self.keys.memory(index);
            let new = fresh.iter().position(|(slot, _)| Some(*slot) == after);
            match new.map(|at| fresh.swap_remove(at)) {
                Some((_, fd)) => around.keep(self.port, &key, fd.as_fd()),
                None if after.is_none() && before.is_some() => around.forget(self.port, &key),
                None => {}
            }
            self.record.set_slot(index, after);
        }
        self.table = table;
        self.settle_all(around)
    }

    fn set_kick(
        &mut self,
        id: RingId,
        fd: Option<OwnedFd>,
        around: &Surroundings,
    ) -> Result<(), Refusal> {
        let fd = fd.map(bell::check).transpose()?;
        self.stop(id, around);
        self.keep_bell(id, "kick", fd.as_deref(), around);
        let kick = if fd.is_some() { Kick::Descriptor } else { Kick::Polled };
        self.bells(id).kick = fd;
        self.change(id, around, |ring| ring.kick = kick)
    }

    fn set_call(
        &mut self,
        id: RingId,
        fd: Option<OwnedFd>,
        around: &Surroundings,
    ) -> Result<(), Refusal> {
        let fd = fd.map(bell::check).transpose()?;
        self.keep_bell(id, "call", fd.as_deref(), around);
        self.bells(id).call = fd.clone();
        self.record.update_ring(id, |ring| ring.call = fd.is_some());
        if self.bells(id).running {
            around.set_call(self.port, id, fd);
        }
        Ok(())
    }

    fn set_err(
        &mut self,
        id: RingId,
        fd: Option<OwnedFd>,
        around: &Surroundings,
    ) -> Result<(), Refusal> {
        let fd = fd.map(bell::check).transpose()?;
        self.keep_bell(id, "err", fd.as_deref(), around);
        let has = fd.is_some();
        self.bells(id).err = fd;
        self.change(id, around, |ring| ring.err = has)
    }

    fn keep_bell(&self, id: RingId, bell: &str, fd: Option<&OwnedFd>, around: &Surroundings) {
        let key = self.keys.bell(id, bell);
        match fd {
            Some(fd) => around.keep(self.port, &key, fd.as_fd()),
            None => around.forget(self.port, &key),
        }
    }

    fn bells(&mut self, id: RingId) -> &mut Bells {
        self.bells.entry(id).or_default()
    }

    /// Stops a ring for good, until it is kicked anew, and says where it is.
    fn take_back(&mut self, id: RingId, around: &Surroundings) -> Answer {
        let told = self.stop(id, around);
        self.keep_bell(id, "kick", None, around);
        self.bells(id).kick = None;
        self.record.update_ring(id, |ring| ring.kick = Kick::Unset);
        if told.is_none() && is_packed(&self.record) {
            // What it said at an earlier stop is of then.
            let state = self.record.ring(id);
            let layout = state
                .addresses
                .and_then(|addresses| layout(self.table.memory(), state.size, addresses).ok());
            let base = self.standing(id, layout).unwrap_or(state.base);
            self.record.update_ring(id, |ring| ring.base = base);
        }
        Answer::Base(id, self.record.ring(id).base)
    }

    /// What is left of RESET_OWNER: no ring runs until it is set up anew.
    fn disable(&mut self, around: &Surroundings) {
        for id in self.record.rings() {
            self.take_back(id, around);
            self.record.update_ring(id, |ring| ring.enabled = false);
        }
    }

    /// Changes what a ring stands on: it stops, and starts again if it can. A ring that was broken
    /// gets another chance.
    fn change(
        &mut self,
        id: RingId,
        around: &Surroundings,
        change: impl FnOnce(&mut RingState),
    ) -> Result<(), Refusal> {
        self.stop(id, around);
        self.record.set_fault(id, None);
        self.record.update_ring(id, change);
        self.settle(id, around)
    }

    /// Whether all is there that a ring needs to run.
    pub(super) fn wanted(&self, id: RingId) -> bool {
        let ring = self.record.ring(id);
        let enabled = ring.enabled || self.record.features() & PROTOCOL_FEATURES == 0;
        let complete = ring.size != 0 && ring.addresses.is_some() && ring.kick != Kick::Unset;
        let memory = !self.table.memory().regions().is_empty();
        let barred = self.record.suspicion().quarantine().is_some();
        complete && enabled && memory && !barred && self.record.fault(id).is_none()
    }

    /// Starts or stops a ring as it should be.
    fn settle(&mut self, id: RingId, around: &Surroundings) -> Result<(), Refusal> {
        match (self.bells(id).running, self.wanted(id)) {
            (false, true) => self.start(id, around),
            (true, false) => {
                self.stop(id, around);
                Ok(())
            }
            (false, false) if self.record.suspicion().quarantine().is_some() => {
                // Noted in time: outside of a request, when the port is freed, nothing that is
                // under the seal may change.
                self.record.update_ring(id, |ring| ring.started = true);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn settle_all(&mut self, around: &Surroundings) -> Result<(), Refusal> {
        let mut outcome = Ok(());
        for id in self.record.rings() {
            // All of them, whatever becomes of one.
            outcome = outcome.and(self.settle(id, around));
        }
        outcome
    }

    /// Gives a ring to the worker.
    pub(super) fn start(&mut self, id: RingId, around: &Surroundings) -> Result<(), Refusal> {
        let state = self.record.ring(id);
        let Some(addresses) = state.addresses else { return Ok(()) };
        let memory = Arc::clone(self.table.memory());
        let layout = layout(&memory, state.size, addresses)?;
        let Bells { kick, call, err, .. } = self.bells(id).clone();
        let polled = kick.is_none();
        if is_packed(&self.record) {
            self.place(id, layout, state.base);
        } else {
            self.record.forget_position(id);
        }
        self.record.update_ring(id, |ring| ring.started = true);
        self.bells(id).running = true;
        let features = self.record.features();
        around.start(self.port, id, Ring { memory, layout, features, kick, call, err });
        around.tell(self.port, PortEvent::Started { ring: id, size: state.size, polled });
        Ok(())
    }

    /// Takes a ring back from the worker; where it stands, if the worker had it and knows.
    fn stop(&mut self, id: RingId, around: &Surroundings) -> Option<u32> {
        if !std::mem::take(&mut self.bells(id).running) {
            return None;
        }
        let next = around.stop(self.port, id);
        self.record.update_ring(id, |ring| {
            ring.started = false;
            ring.base = next.unwrap_or(ring.base);
        });
        around.tell(self.port, PortEvent::Stopped { ring: id });
        next
    }

    /// Takes all rings back from the worker.
    pub(super) fn stop_all(&mut self, around: &Surroundings) {
        for id in self.record.rings() {
            self.stop(id, around);
        }
    }
}

fn within(asked: u64, offered: u64) -> Result<(), Refusal> {
    match asked & !offered {
        0 => Ok(()),
        extra => Err(Refusal::Features { asked, extra }),
    }
}

/// Whether the rings are packed.
pub(super) fn is_packed(record: &PortRecord) -> bool {
    record.features() & RING_PACKED != 0
}

/// A size that a ring can have.
pub(super) fn ring_size(size: u32, packed: bool) -> Result<u16, Refusal> {
    let fits = (1..=MAX_RING).contains(&size) && (packed || size.is_power_of_two());
    let small = u16::try_from(size).ok().filter(|_| fits);
    small.ok_or(Refusal::RingSize { size })
}

/// Checks that the parts of a ring are aligned as virtio demands.
pub(super) fn aligned(addresses: RingAddresses) -> Result<(), Refusal> {
    let RingAddresses { desc, avail, used } = addresses;
    for (address, alignment) in [(desc, 16), (avail, 2), (used, 4)] {
        if !address.is_multiple_of(alignment) {
            return Err(Refusal::RingAlignment { address, alignment });
        }
    }
    Ok(())
}

/// Where a ring lies, in the guest's addresses.
fn layout(
    memory: &GuestMemory,
    size: u16,
    addresses: RingAddresses,
) -> Result<QueueLayout, Refusal> {
    let find = |part: &'static str, address: u64| -> Result<GuestAddress, Refusal> {
        memory.guest_address(address).ok_or(Refusal::RingOutside { part, address })
    };
    Ok(QueueLayout {
        size,
        desc: find("descriptor table", addresses.desc)?,
        avail: find("available ring", addresses.avail)?,
        used: find("used ring", addresses.used)?,
    })
}

//! Taking over a predecessor's front end.
//!
//! # Theory of operation
//! The record says what was negotiated, the keeper has the descriptors; together they make up the
//! negotiation that the predecessor had. Nothing is believed for having been checked once: the record
//! must have its seal, and each part passes the same checks again, so a record that a dying base left
//! in disorder, or that was damaged, costs one connection, not the successor. (What kind a kept
//! descriptor is of cannot change, and is not asked again.) What lies unread in the socket is read
//! as if nothing had been.
//!
//! A front end that cannot be taken over, or of whose takeover the base has died twice, is shut out.
//! It connects again and negotiates anew, and nothing of its rings is lost: where packed ones go on, says
//! [`super::place`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::bell::{self, Bells};
use super::connection;
use super::door::Listener;
use super::keys::Keys;
use super::memory_table::MemoryTable;
use super::negotiation::{Negotiation, aligned, is_packed, ring_size};
use super::refusal::{Refusal, Renegotiate, RequestCode};
use super::surroundings::Surroundings;
use crate::names::{PortId, RingId};
use crate::state::StateMemory;
use crate::state::blame::LAST_ADOPTION;
use crate::state::port::{Kick, MAX_MEMORY_SLOTS, PortRecord};

/// A port's descriptors by key, as the keeper gives them to a successor.
pub type Kept = BTreeMap<String, OwnedFd>;

/// Shuts out, for good, what a predecessor had at a port that is no more: its front end, its door.
/// The record is emptied; the keeper is for the caller to tell. To be called before the port's
/// number is anybody else's.
pub fn dismiss(state: &StateMemory, port: Option<PortId>, name: &str, kept: &mut Kept) {
    let keys = Keys::of(name);
    if let Some(connection) = kept.remove(&keys.connection()) {
        connection::hang_up(&connection);
    }
    if let Some(listener) = kept.remove(&keys.listener()) {
        Listener::discard(&listener);
    }
    if let Some(port) = port {
        PortRecord::of(state, port).clear();
    }
}

/// A predecessor's negotiation and its connection, `None` if there was no front end.
pub(super) fn negotiation(
    port: PortId,
    record: &PortRecord,
    keys: &Keys,
    connection: Option<OwnedFd>,
    kept: &mut Kept,
) -> Result<Option<(OwnedFd, Negotiation)>, Renegotiate> {
    if let Some(part) = record.damage() {
        record.note(format!("{part} was damaged: it negotiates anew"));
        return Err(Renegotiate::Damaged(part));
    }
    if let Some(request) = record.request_open() {
        // Counted before, if the predecessor died of its own making (`state::blame`).
        let times = record.interruptions();
        return Err(Renegotiate::RequestOpen { request: RequestCode(request), times });
    }
    if !record.connected() {
        return Ok(None);
    }
    let times = record.suspicion().adoptions();
    if times >= LAST_ADOPTION.saturating_sub(1) {
        return Err(Renegotiate::Deadly { times });
    }
    let connection = connection.ok_or_else(|| Renegotiate::NotKept { key: keys.connection() })?;
    if record.features() & !record.offered() != 0 {
        return Err(Renegotiate::Record("features that were not offered"));
    }
    if record.protocol() & !record.protocol_offered() != 0 {
        return Err(Renegotiate::Record("protocol features that were not offered"));
    }
    let table = memory(record, keys, kept)?;
    let rings = record.rings().map(|id| Ok((id, bells(id, record, keys, kept)?)));
    let bells = rings.collect::<Result<_, Renegotiate>>()?;
    let (record, keys) = (record.clone(), keys.clone());
    Ok(Some((connection, Negotiation { port, record, keys, table, bells })))
}

fn memory(record: &PortRecord, keys: &Keys, kept: &mut Kept) -> Result<MemoryTable, Renegotiate> {
    let mut regions = Vec::new();
    for index in 0..MAX_MEMORY_SLOTS {
        if let Some(slot) = record.slot(index) {
            regions.push((index, slot, find(keys.memory(index), kept)?));
        }
    }
    Ok(MemoryTable::of(regions.iter().map(|(index, slot, fd)| (*index, *slot, fd)))?)
}

/// A ring's descriptors, after a look at its numbers.
fn bells(
    id: RingId,
    record: &PortRecord,
    keys: &Keys,
    kept: &mut Kept,
) -> Result<Bells, Renegotiate> {
    let ring = record.ring(id);
    if ring.size != 0 {
        ring_size(ring.size.into(), is_packed(record))?;
    }
    if let Some(addresses) = ring.addresses {
        aligned(addresses)?;
    }
    let mut bell = |name: &str, has: bool| -> Result<Option<Arc<OwnedFd>>, Renegotiate> {
        if !has {
            return Ok(None);
        }
        let fd = find(keys.bell(id, name), kept)?;
        Ok(Some(bell::kept(fd)?))
    };
    Ok(Bells {
        running: false,
        kick: bell("kick", ring.kick == Kick::Descriptor)?,
        call: bell("call", ring.call)?,
        err: bell("err", ring.err)?,
    })
}

fn find(key: String, kept: &mut Kept) -> Result<OwnedFd, Renegotiate> {
    kept.remove(&key).ok_or(Renegotiate::NotKept { key })
}

impl Negotiation {
    /// Gives the worker the rings that its predecessor had. A ring that was broken stays stopped.
    ///
    /// Nothing under the record's seal changes here: no request is open, so a base that died
    /// between a change and its seal would leave what looks damaged.
    pub(super) fn resume(&mut self, around: &Surroundings) -> Result<(), Refusal> {
        for id in self.record.rings() {
            if self.record.ring(id).started && self.wanted(id) {
                self.start(id, around)?;
            }
        }
        Ok(())
    }
}

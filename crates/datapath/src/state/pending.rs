//! The slots of datagrams that wait for a LAN neighbour, as they lie in the state memory.
//!
//! # Layout
//! ```text
//! 0    state: 0 free, 2 (paired) waiting; 1 in the first layout
//! 8    sequence
//! 16   network (2), owner's kind (1), family (1), owner (2), checksum's kind (1),
//!      segmentation's kind (1)
//! 24   length (4), checksum start (2), offset (2)
//! 32   segment size (2), transport (2), header length (2), CWR (2)
//! 40   hop (16)
//! 56   sum of the record (8 to 56) | sum of the datagram << 32
//! 120  in slot 0 only: how many slots were ever used (paired), so that a successor looks at no
//!      others
//! 128  the datagram
//! ```
//! Numbers are in the machine's byte order: nobody else reads them.
//!
//! # Invariants
//! - The state is written last when a slot is filled and first when it is emptied, so that whatever
//!   a successor finds waiting is whole, wherever the base died.
//! - What is read back is checked: a slot that was damaged is no datagram. Whose it was is believed
//!   if its record is whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::seal::{pair, sum, unpair};
use super::{
    MAX_NETWORKS, MAX_PORTS, PENDING_SLOTS, SLOT_HEADER, SLOT_LEN, StateMemory, pending_at,
};
use crate::names::{NetworkId, Owner, PortId};
use crate::offload::{Checksum, Kind, MIN_SEGMENT, Offload, Segmentation};

/// Octets of the longest datagram that fits a slot.
pub(crate) const ROOM: usize = SLOT_LEN - SLOT_HEADER;

const FREE: u64 = 0;
const WAITING: u64 = pair(2);
/// The same in the first layout.
const WAITING_OF_OLD: u64 = 1;
const STATE_LEN: usize = 8;
const RECORD_LEN: usize = 48;
const SUMS_AT: usize = 56;
const USED_AT: usize = 120;

/// What is kept of a waiting datagram beside its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// On whose LAN it waits.
    pub network: NetworkId,
    /// Whose it is.
    pub owner: Owner,
    /// The neighbour it waits for.
    pub hop: IpAddr,
    /// What is left to do with it.
    pub offload: Offload,
    /// Its place in the order of all.
    pub sequence: u64,
    /// How many octets it has.
    pub len: usize,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Free,
    /// Damaged: whose it was, if that is known.
    Broken(Option<Owner>),
    Waiting(Record),
}

fn used_at() -> usize {
    pending_at(0).saturating_add(USED_AT)
}

/// How many slots, from the first, a successor has to look at: all, if the number was damaged.
pub(crate) fn used(state: &StateMemory) -> usize {
    match state.get(used_at()) {
        0 => 0,
        word => usize::try_from(unpair(word).unwrap_or(u32::MAX)).unwrap_or(usize::MAX),
    }
    .min(PENDING_SLOTS)
}

/// Mends the number of used slots if it was damaged: all of them count as used. `true` if it was.
pub(crate) fn mend_used(state: &StateMemory) -> bool {
    let word = state.get(used_at());
    let damaged = word != 0 && unpair(word).is_none();
    if damaged {
        state.put(used_at(), pair(u32::try_from(PENDING_SLOTS).unwrap_or(u32::MAX)));
    }
    damaged
}

/// Fills a free slot. `None`, and the slot stays free, if the datagram does not fit.
pub(crate) fn fill(
    state: &StateMemory,
    slot: usize,
    record: &Record,
    datagram: &[u8],
) -> Option<()> {
    if datagram.len() > ROOM || datagram.len() != record.len {
        return None;
    }
    let at = pending_at(slot);
    if slot >= used(state) {
        state.put(used_at(), pair(u32::try_from(slot.checked_add(1)?).ok()?));
    }
    let record = encode(record)?;
    state.memory().write(at.checked_add(SLOT_HEADER)?, datagram)?;
    state.memory().write(at.checked_add(STATE_LEN)?, &record)?;
    state.put(at.checked_add(SUMS_AT)?, sums(at, &record, datagram));
    state.put(at, WAITING);
    Some(())
}

/// Empties a slot.
pub(crate) fn free(state: &StateMemory, slot: usize) {
    state.put(pending_at(slot), FREE);
}

fn sums(at: usize, record: &[u8], datagram: &[u8]) -> u64 {
    u64::from(sum(at, &[record])) | u64::from(sum(at, &[datagram])) << 32
}

/// Reads what a slot holds, all of it.
pub(crate) fn look(state: &StateMemory, slot: usize) -> Slot {
    let at = pending_at(slot);
    let word = state.get(at);
    if word == FREE {
        return Slot::Free;
    }
    let octets: [u8; RECORD_LEN] = state.octets(at.saturating_add(STATE_LEN));
    let found = state.get(at.saturating_add(SUMS_AT));
    if found as u32 != sum(at, &[&octets]) {
        return Slot::Broken(None);
    }
    let Some(record) = decode(&octets) else { return Slot::Broken(None) };
    let mut datagram = vec![0; record.len];
    let read = copy(state, slot, &mut datagram);
    let whole = read.is_some() && found == sums(at, &octets, &datagram);
    if word == WAITING && whole { Slot::Waiting(record) } else { Slot::Broken(Some(record.owner)) }
}

/// Brings all slots of the first layout to today's: that had no sums.
pub(super) fn bring_up(state: &StateMemory) {
    let used = state.get(used_at());
    if let Ok(number) = u32::try_from(used)
        && number != 0
    {
        state.put(used_at(), pair(number));
    }
    for slot in 0..self::used(state) {
        let at = pending_at(slot);
        if state.get(at) != WAITING_OF_OLD {
            continue;
        }
        let octets: [u8; RECORD_LEN] = state.octets(at.saturating_add(STATE_LEN));
        let mut datagram = vec![0; decode(&octets).map_or(0, |record| record.len)];
        // What cannot be decoded is found broken later.
        let _ = copy(state, slot, &mut datagram);
        state.put(at.saturating_add(SUMS_AT), sums(at, &octets, &datagram));
        state.put(at, WAITING);
    }
}

/// Copies the datagram of a slot.
pub(crate) fn copy(state: &StateMemory, slot: usize, into: &mut [u8]) -> Option<()> {
    if into.len() > ROOM {
        return None;
    }
    state.memory().read(pending_at(slot).checked_add(SLOT_HEADER)?, into)
}

fn encode(from: &Record) -> Option<[u8; RECORD_LEN]> {
    let (owner_kind, owner) = match from.owner {
        Owner::Port(port) => (0, port.0),
        Owner::Uplink(network) => (1, network.0),
        Owner::Host(network) => (2, network.0),
    };
    let (family, hop) = match from.hop {
        IpAddr::V4(hop) => (4, hop.to_ipv6_compatible()),
        IpAddr::V6(hop) => (6, hop),
    };
    let (checksum_kind, start, offset) = match from.offload.checksum {
        Checksum::None => (0, 0, 0),
        Checksum::Valid => (1, 0, 0),
        Checksum::Partial { start, offset } => (2, start, offset),
    };
    let large = from.offload.segmentation;
    let segmentation_kind = match large.map(|l| l.kind) {
        None => 0,
        Some(Kind::Tcp4) => 1,
        Some(Kind::Tcp6) => 2,
    };
    let words = large.map_or([0; 4], |l| [l.size, l.transport, l.header_len, l.ecn.into()]);
    let mut record = [0; RECORD_LEN];
    let mut rest = &mut record[..];
    let mut put = |bytes: &[u8]| {
        let (into, behind) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len())?;
        into.copy_from_slice(bytes);
        rest = behind;
        Some(())
    };
    put(&from.sequence.to_ne_bytes())?;
    put(&from.network.0.to_ne_bytes())?;
    put(&[owner_kind, family])?;
    put(&owner.to_ne_bytes())?;
    put(&[checksum_kind, segmentation_kind])?;
    put(&u32::try_from(from.len).ok()?.to_ne_bytes())?;
    for word in [start, offset].into_iter().chain(words) {
        put(&word.to_ne_bytes())?;
    }
    put(&hop.octets())?;
    Some(record)
}

fn decode(record: &[u8; RECORD_LEN]) -> Option<Record> {
    let (sequence, rest) = record.split_first_chunk::<8>()?;
    let (network, rest) = rest.split_first_chunk::<2>()?;
    let ([owner_kind, family], rest) = rest.split_first_chunk::<2>()?;
    let (owner, rest) = rest.split_first_chunk::<2>()?;
    let ([checksum_kind, segmentation_kind], rest) = rest.split_first_chunk::<2>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (words, rest) = rest.split_first_chunk::<12>()?;
    let hop = rest.first_chunk::<16>()?;

    let network = NetworkId(u16::from_ne_bytes(*network));
    let owner = u16::from_ne_bytes(*owner);
    let known_network = |id: u16| usize::from(id) < MAX_NETWORKS;
    let owner = match owner_kind {
        0 if usize::from(owner) < MAX_PORTS => Owner::Port(PortId(owner)),
        1 if known_network(owner) => Owner::Uplink(NetworkId(owner)),
        2 if known_network(owner) => Owner::Host(NetworkId(owner)),
        _ => return None,
    };
    let hop = Ipv6Addr::from(*hop);
    let hop = match family {
        4 => IpAddr::V4(hop.to_ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED)),
        6 => IpAddr::V6(hop),
        _ => return None,
    };
    let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
    let mut words = words.as_chunks::<2>().0.iter().map(|w| u16::from_ne_bytes(*w));
    let mut word = || words.next();
    let (start, offset) = (word()?, word()?);
    let (size, transport, header_len, ecn) = (word()?, word()?, word()?, word()?);
    let inside = |end: usize| end <= len;
    let checksum = match checksum_kind {
        0 => Checksum::None,
        1 => Checksum::Valid,
        2 if inside(usize::from(start).saturating_add(offset.into()).saturating_add(2)) => {
            Checksum::Partial { start, offset }
        }
        _ => return None,
    };
    let large = |kind| {
        let sensible = transport < header_len && inside(header_len.into()) && size >= MIN_SEGMENT;
        sensible.then_some(Segmentation { kind, size, transport, header_len, ecn: ecn == 1 })
    };
    let segmentation = match segmentation_kind {
        0 => None,
        1 => Some(large(Kind::Tcp4)?),
        2 => Some(large(Kind::Tcp6)?),
        _ => return None,
    };
    let offload = Offload { checksum, segmentation };
    let sequence = u64::from_ne_bytes(*sequence);
    (known_network(network.0) && len <= ROOM).then_some(Record {
        network,
        owner,
        hop,
        offload,
        sequence,
        len,
    })
}

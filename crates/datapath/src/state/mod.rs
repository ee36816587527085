//! The memory that outlives the base.
//!
//! # Theory of operation
//! One memfd, made once per instance and kept open by the holder. The base maps it and writes into
//! it what a successor cannot learn from rings and sockets: how far each front end's negotiation
//! went, the cursor in the card's receive ring, datagrams that wait for a neighbour, the counters.
//! When the base dies, the successor maps the same memory and goes on.
//!
//! ```text
//! 0            header: magic, layout version, number of takeovers
//! NETWORKS_AT  one record per network
//! PORTS_AT     one record per port: its vhost-user negotiation, progress mark
//! COUNTERS_AT  one block of counters per owner
//! PENDING_AT   slots of datagrams waiting for a neighbour
//! HOST_AT      one slot per network for the datagram just read from the host's TUN device
//! LAN_AT       one table per network of what was learned on its LAN
//! ```
//! The file is sparse: a record nobody uses costs nothing.
//!
//! # Invariants
//! - Offsets never depend on anything but the layout version.
//! - All of it is reached by bounds-checked calls: wrong contents give wrong values, never faults.

pub mod lan;
pub(crate) mod network;
pub mod network_name;
pub mod pending;
pub mod port;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtqueue::{Mapping, MappingError};

use crate::names::{NetworkId, Owner, PortId};

/// Ports one instance can have.
pub const MAX_PORTS: usize = 1024;
/// Networks one instance can have.
pub const MAX_NETWORKS: usize = 64;
/// Octets of one network's record.
pub const NETWORK_LEN: usize = 4096;
/// Octets of one port's record.
pub const PORT_LEN: usize = 8192;
/// Octets of one owner's counters.
pub const COUNTERS_LEN: usize = 2048;
/// Octets of one slot that holds a datagram: a header of [`SLOT_HEADER`] octets, then the datagram.
pub const SLOT_LEN: usize = 72 * 1024;
/// Octets before the datagram in a slot.
pub const SLOT_HEADER: usize = 128;
/// Slots for datagrams that wait for a neighbour.
pub const PENDING_SLOTS: usize = 1024;

const MAGIC: u64 = u64::from_le_bytes(*b"ipvisor\0");
const VERSION: u64 = 1;
/// The layouts that [`StateMemory::adopt`] reads.
pub const LAYOUTS: std::ops::RangeInclusive<u32> = VERSION as u32..=VERSION as u32;
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const TAKEOVERS_AT: usize = 16;

const NETWORKS_AT: usize = 4096;
const PORTS_AT: usize = NETWORKS_AT + MAX_NETWORKS * NETWORK_LEN;
const COUNTERS_AT: usize = PORTS_AT + MAX_PORTS * PORT_LEN;
const OWNERS: usize = MAX_PORTS + 2 * MAX_NETWORKS;
const PENDING_AT: usize = COUNTERS_AT + OWNERS * COUNTERS_LEN;
const HOST_AT: usize = PENDING_AT + PENDING_SLOTS * SLOT_LEN;
const LAN_AT: usize = HOST_AT + MAX_NETWORKS * SLOT_LEN;
const LEN: usize = LAN_AT + MAX_NETWORKS * lan::LEN;

/// Why a state memory could not be made or taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The memfd could not be made.
    #[error("cannot make the state memory")]
    Create(#[source] std::io::Error),
    /// It could not be mapped.
    #[error("cannot map the state memory")]
    Map(#[from] MappingError),
    /// Not a state memory, or one of another layout.
    #[error(
        "state memory has magic {magic:#x} and layout {version}, this base needs {MAGIC:#x} and {VERSION}"
    )]
    Foreign {
        /// First word found.
        magic: u64,
        /// Layout version found.
        version: u64,
    },
}

/// The mapped state memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateMemory(Arc<Mapping>);

impl StateMemory {
    /// Makes a new one: zeroes behind a header, sealed against shrinking. The descriptor goes to
    /// the holder.
    pub fn create() -> Result<(Self, OwnedFd), StateError> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
        let error = |e: rustix::io::Errno| StateError::Create(e.into());
        let fd = memfd_create("ipvisor-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(error)?;
        ftruncate(&fd, LEN as u64).map_err(error)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(error)?;
        let state = Self::map(fd.as_fd())?;
        state.put(VERSION_AT, VERSION);
        state.put(MAGIC_AT, MAGIC);
        Ok((state, fd))
    }

    /// Takes over what a predecessor left, and counts the takeover.
    pub fn adopt(fd: BorrowedFd<'_>) -> Result<Self, StateError> {
        let state = Self::map(fd)?;
        let (magic, version) = (state.get(MAGIC_AT), state.get(VERSION_AT));
        if (magic, version) != (MAGIC, VERSION) {
            return Err(StateError::Foreign { magic, version });
        }
        state.put(TAKEOVERS_AT, state.takeovers().saturating_add(1));
        Ok(state)
    }

    fn map(fd: BorrowedFd<'_>) -> Result<Self, MappingError> {
        Mapping::shared(fd, 0, LEN as u64).map(|m| Self(Arc::new(m)))
    }

    /// Looks at what belongs to another base, which works with it, and changes nothing.
    pub fn view(fd: BorrowedFd<'_>) -> Result<Self, StateError> {
        Ok(Self::map(fd)?)
    }

    /// How often a successor has taken over.
    pub fn takeovers(&self) -> u64 {
        self.get(TAKEOVERS_AT)
    }

    /// The raw memory, for the modules that own a part of it.
    pub(crate) fn memory(&self) -> &Mapping {
        &self.0
    }

    /// The 64-bit word at `offset`, 0 if there is none.
    pub(crate) fn get(&self, offset: usize) -> u64 {
        self.0.u64_at(offset).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Sets the 64-bit word at `offset`.
    pub(crate) fn put(&self, offset: usize, value: u64) {
        if let Some(word) = self.0.u64_at(offset) {
            word.store(value, Ordering::Release);
        }
    }
}

const fn record(at: usize, index: usize, count: usize, len: usize) -> usize {
    // An index beyond the table falls on its last record; the tables are sized so that none is.
    let index = if index < count { index } else { count.saturating_sub(1) };
    at.saturating_add(index.saturating_mul(len))
}

/// Where a network's record starts.
pub(crate) fn network_at(id: NetworkId) -> usize {
    record(NETWORKS_AT, id.0.into(), MAX_NETWORKS, NETWORK_LEN)
}

/// Where a port's record starts.
pub(crate) fn port_at(id: PortId) -> usize {
    record(PORTS_AT, id.0.into(), MAX_PORTS, PORT_LEN)
}

/// Where an owner's counters start.
pub(crate) fn counters_at(owner: Owner) -> usize {
    let index = match owner {
        Owner::Port(p) => usize::from(p.0).min(MAX_PORTS.saturating_sub(1)),
        Owner::Uplink(n) => MAX_PORTS.saturating_add(n.0.into()),
        Owner::Host(n) => MAX_PORTS.saturating_add(MAX_NETWORKS).saturating_add(n.0.into()),
    };
    record(COUNTERS_AT, index, OWNERS, COUNTERS_LEN)
}

/// Where a slot of the neighbour queue starts.
pub(crate) fn pending_at(slot: usize) -> usize {
    record(PENDING_AT, slot, PENDING_SLOTS, SLOT_LEN)
}

/// Where a network's slot for datagrams from the host starts.
pub(crate) fn host_at(id: NetworkId) -> usize {
    record(HOST_AT, id.0.into(), MAX_NETWORKS, SLOT_LEN)
}

/// Where the tables of a network's LAN start.
pub(crate) fn lan_at(id: NetworkId) -> usize {
    record(LAN_AT, id.0.into(), MAX_NETWORKS, lan::LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_finds_what_the_predecessor_wrote_and_counts_the_takeover() {
        let (first, fd) = StateMemory::create().unwrap();
        first.put(port_at(PortId(7)), 42);
        drop(first);
        let second = StateMemory::adopt(fd.as_fd()).unwrap();
        assert_eq!(second.get(port_at(PortId(7))), 42);
        assert_eq!(second.takeovers(), 1);
    }

    #[test]
    fn a_foreign_layout_is_refused_with_what_was_found() {
        let (state, fd) = StateMemory::create().unwrap();
        state.put(VERSION_AT, 99);
        match StateMemory::adopt(fd.as_fd()) {
            Err(StateError::Foreign { version: 99, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

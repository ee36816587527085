//! The memory that outlives the base.
//!
//! # Theory of operation
//! One memfd, made once per instance and kept open by the holder. The base maps it and writes into
//! it what a successor cannot learn from rings and sockets: how far each front end's negotiation
//! went, the cursor in the card's receive ring, datagrams that wait for a neighbour, the counters.
//! When the base dies, the successor maps the same memory and goes on.
//!
//! ```text
//! 0            header: magic, layout version, number of takeovers, marks (`marks`)
//! NETWORKS_AT  one record per network
//! PORTS_AT     one record per port: its vhost-user negotiation, what is held against it
//! COUNTERS_AT  one block of counters per owner
//! PENDING_AT   slots of datagrams waiting for a neighbour
//! HOST_AT      one slot per network for the datagram just read from the host's TUN device
//! LAN_AT       one table per network of what was learned on its LAN
//! ```
//! The file is sparse: a record nobody uses costs nothing.
//!
//! # Trust
//! A successor believes no part for having found it. What is written seldom is under a seal
//! ([`seal`]); a number that changes with every datagram carries its own check, or is such that a
//! wrong one does no harm. A part that does not pass is rebuilt and named ([`Damage`]):
//!
//! | part | how it is known | what a successor does without |
//! | --- | --- | --- |
//! | header | magic and version stand twice | a new state memory: all front ends negotiate anew |
//! | a port's name | seal | the record is nobody's; the VM's front end negotiates anew |
//! | a port's negotiation, its marks | seal, paired numbers | that front end negotiates anew |
//! | where a packed ring stands | counts with a check | that front end negotiates anew |
//! | a MAC address learned | a check in its word | learned from the next frame |
//! | a receive ring's layout | seal | a new socket on the card |
//! | the cursor in it | counts with a check | found again in the ring |
//! | a datagram that rests here | sums of its record and of itself | dropped as `drop.state_damaged` |
//! | what is known of a LAN | seal of each entry | asked or probed for again |
//! | counters, counts of deaths | nothing | a wrong number is shown, or a quarantine comes early |
//! | the marks of what is being done | what they name must be there | a death is held against another, or none |
//! | what is held against a port or card | paired numbers | nothing is held against it |
//! | a network's name | its length | its card's ring is made anew |
//!
//! A layout that is older is brought to today's when it is taken over (`older`); one that is newer or
//! not known is replaced.
//!
//! # Invariants
//! - Offsets never depend on anything but the layout version.
//! - All of it is reached by bounds-checked calls: wrong contents give wrong values, never faults,
//!   and nothing found here says how long a loop runs.
//! - Which VM has which address never comes from here.

pub mod blame;
mod damage;
mod header;
pub mod lan;
pub mod marks;
pub(crate) mod network;
pub mod network_name;
mod older;
pub mod pending;
pub mod port;
pub(crate) mod seal;
pub mod suspicion;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use damage::{Damage, Place};
pub use header::LAYOUTS;
use header::{OLDEST, VERSION};

use virtqueue::{Mapping, MappingError};

use crate::names::{NetworkId, Owner, PortId};

/// Ports one instance can have.
pub const MAX_PORTS: usize = 1024;
/// Networks one instance can have.
pub const MAX_NETWORKS: usize = 64;
/// Workers one instance can have.
pub const MAX_WORKERS: usize = 8;
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
    /// The kernel would not say what it is.
    #[error("cannot look at the state memory")]
    Examine(#[source] std::io::Error),
    /// Shorter than any layout.
    #[error("the state memory has {len:#x} octets, its layout needs {need:#x}")]
    TooShort {
        /// Octets it has.
        len: u64,
        /// Octets it should have.
        need: u64,
    },
    /// Of a layout that was made after this base.
    #[error(
        "the state memory has layout {version}, this base reads {OLDEST} to {VERSION}: a newer \
         base wrote it"
    )]
    Newer {
        /// Layout version found.
        version: u32,
    },
    /// Not a state memory, or its header is lost.
    #[error("not a state memory: it begins with {magic:#x} and {version:#x}")]
    Foreign {
        /// First word found.
        magic: u64,
        /// The word of the layout version.
        version: u64,
    },
}

/// The mapped state memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateMemory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mapping: Mapping,
    notes: damage::Notes,
}

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
        header::write(&state);
        Ok((state, fd))
    }

    /// Takes over what a predecessor left, and counts the takeover. One of an older layout is
    /// brought to today's.
    pub fn adopt(fd: BorrowedFd<'_>) -> Result<Self, StateError> {
        let found = header::look(fd)?;
        let state = Self::map(fd)?;
        if found.version < VERSION {
            older::bring_up(&state, found.version);
        }
        if let Some(part) = found.damaged {
            let what = format!("{part} was damaged and is mended from its copy");
            state.note(Place::Instance, what);
        }
        header::write(&state);
        let before = header::takeovers(&state).unwrap_or_else(|| {
            let what = "the number of takeovers was damaged and begins anew";
            state.note(Place::Instance, what.to_owned());
            0
        });
        header::set_takeovers(&state, before.saturating_add(1));
        Ok(state)
    }

    /// Takes over what a predecessor left, or, where that cannot be, makes a new one: its
    /// descriptor is for the keeper. `takeovers` is how many there were in that case.
    pub fn succeed(
        left: Option<BorrowedFd<'_>>,
        takeovers: u32,
    ) -> Result<(Self, Option<OwnedFd>), StateError> {
        let why = match left.map(Self::adopt) {
            Some(Ok(state)) => return Ok((state, None)),
            Some(Err(why)) => why.to_string(),
            None => "the predecessor left no state memory".to_owned(),
        };
        let (state, fd) = Self::create()?;
        header::set_takeovers(&state, takeovers);
        let what = format!(
            "{why}: a new one was made; all front ends negotiate anew, counters begin at 0, and \
             what was turned off on cards stays off"
        );
        state.note(Place::Instance, what);
        Ok((state, Some(fd)))
    }

    fn map(fd: BorrowedFd<'_>) -> Result<Self, MappingError> {
        let mapping = Mapping::shared(fd, 0, LEN as u64)?;
        Ok(Self(Arc::new(Inner { mapping, notes: damage::Notes::default() })))
    }

    /// Looks at what belongs to another base, which works with it, and changes nothing.
    pub fn view(fd: BorrowedFd<'_>) -> Result<Self, StateError> {
        header::look(fd)?;
        Ok(Self::map(fd)?)
    }

    /// The layout's version: an older one was brought to this when it was taken over.
    pub fn layout(&self) -> u32 {
        header::VERSION
    }

    /// How often a successor has taken over.
    pub fn takeovers(&self) -> u64 {
        header::takeovers(self).unwrap_or(0).into()
    }

    /// Notes that a part was damaged; see [`StateMemory::take_damage`].
    pub fn note(&self, place: Place, what: String) {
        self.0.notes.add(place, what);
    }

    /// What was found damaged since the last call, to be told.
    pub fn take_damage(&self) -> Vec<Damage> {
        self.0.notes.take()
    }

    /// The raw memory, for the modules that own a part of it.
    pub(crate) fn memory(&self) -> &Mapping {
        &self.0.mapping
    }

    /// The 64-bit word at `offset`, 0 if there is none.
    pub(crate) fn get(&self, offset: usize) -> u64 {
        self.memory().u64_at(offset).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Sets the 64-bit word at `offset`.
    pub(crate) fn put(&self, offset: usize, value: u64) {
        if let Some(word) = self.memory().u64_at(offset) {
            word.store(value, Ordering::Release);
        }
    }

    /// A copy of `N` octets at `offset`, zeroes where there are none.
    pub(crate) fn octets<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut octets = [0; N];
        self.memory().read(offset, &mut octets);
        octets
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

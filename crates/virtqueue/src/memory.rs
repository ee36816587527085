//! A guest's memory: the regions that its front end shared, found by guest address.
//!
//! # Theory of operation
//! A front end names each region three ways: by the guest's physical address (used in
//! descriptors), by its own virtual address (used in ring addresses, vhost-user only) and by a file
//! with an offset (what the base maps). [`GuestMemory`] translates the first two into a mapping and
//! an offset. A range must lie in one region: a guest that spans two gets a fault.

use std::sync::Arc;

use crate::mapping::Mapping;

/// A guest's physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestAddress(pub u64);

/// One region of guest memory.
#[derive(Clone, Debug)]
pub struct Region {
    /// Where the guest sees it.
    pub guest: GuestAddress,
    /// Where the front end sees it, in its own address space.
    pub user: u64,
    /// Octets.
    pub len: u64,
    /// Where the base sees it: at least `len` octets.
    pub mapping: Arc<Mapping>,
}

/// Why a set of regions was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Two regions share guest addresses.
    #[error("memory regions at guest addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// The lower region's guest address.
        first: u64,
        /// The higher region's guest address.
        second: u64,
    },
    /// A region wraps around the end of an address space, or is longer than what is mapped.
    #[error("memory region at guest address {guest:#x} of {len:#x} octets does not fit")]
    BadRegion {
        /// Guest address.
        guest: u64,
        /// Octets.
        len: u64,
    },
}

/// All regions of one guest, sorted by guest address.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Checks and takes the regions.
    pub fn new(mut regions: Vec<Region>) -> Result<Self, MemoryError> {
        regions.sort_by_key(|r| r.guest);
        for r in &regions {
            let fits = r.guest.0.checked_add(r.len).is_some()
                && r.user.checked_add(r.len).is_some()
                && r.len > 0
                && r.len <= r.mapping.len() as u64;
            if !fits {
                return Err(MemoryError::BadRegion { guest: r.guest.0, len: r.len });
            }
        }
        for pair in regions.windows(2) {
            if let [a, b] = pair
                && a.guest.0.saturating_add(a.len) > b.guest.0
            {
                return Err(MemoryError::Overlap { first: a.guest.0, second: b.guest.0 });
            }
        }
        Ok(Self { regions })
    }

    /// The regions, in the order of guest addresses.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The mapping, and the offset in it, of `len` octets at `at`; `None` unless all of them lie in
    /// one region.
    pub fn find(&self, at: GuestAddress, len: u64) -> Option<(&Mapping, usize)> {
        let region = self.region_of(at)?;
        let offset = at.0.checked_sub(region.guest.0)?;
        if offset.checked_add(len)? > region.len {
            return None;
        }
        Some((&region.mapping, usize::try_from(offset).ok()?))
    }

    /// The region that `at` lies in.
    pub(crate) fn region_of(&self, at: GuestAddress) -> Option<&Region> {
        let index = self.regions.partition_point(|r| r.guest <= at).checked_sub(1)?;
        self.regions.get(index)
    }

    /// The first region whose file was shrunk under the base, if there is one.
    pub fn torn(&self) -> Option<&Region> {
        self.regions.iter().find(|r| r.mapping.is_torn())
    }

    /// The guest address of what the front end sees at `user` (ring addresses of vhost-user).
    pub fn guest_address(&self, user: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|r| {
            let offset = user.checked_sub(r.user)?;
            if offset >= r.len {
                return None;
            }
            r.guest.0.checked_add(offset).map(GuestAddress)
        })
    }
}

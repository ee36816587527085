//! A guest's memory, made of memory files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::MemfdFlags;

use crate::mapping::Mapping;
use crate::memory::{GuestAddress, GuestMemory, Region};

/// One memory file and its place in the guest's addresses.
pub struct DriverRegion {
    /// Where the guest sees it.
    pub guest: GuestAddress,
    /// Octets.
    pub len: u64,
    file: OwnedFd,
    mapping: Arc<Mapping>,
    /// Octets handed out by `allocate`.
    taken: AtomicU64,
}

impl DriverRegion {
    /// The file: what a front end shares, from offset 0.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where the driver's process sees it: a front end's "user address".
    pub fn user(&self) -> u64 {
        self.mapping.piece(0, 0).unwrap().start().addr().get() as u64
    }
}

/// All memory of one pretended guest.
pub struct DriverMemory {
    regions: Vec<DriverRegion>,
}

impl DriverMemory {
    /// Makes a file for each `(guest address, length)`.
    pub fn new(regions: &[(u64, u64)]) -> io::Result<Arc<Self>> {
        let make = |&(guest, len): &(u64, u64)| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = rustix::fs::memfd_create("driver", flags)?;
            rustix::fs::ftruncate(&file, len)?;
            let mapping = Mapping::shared(file.as_fd(), 0, len).map_err(io::Error::other)?;
            let (guest, taken) = (GuestAddress(guest), AtomicU64::new(0));
            let mapping = Arc::new(mapping);
            Ok(DriverRegion { guest, len, file, mapping, taken })
        };
        Ok(Arc::new(Self { regions: regions.iter().map(make).collect::<io::Result<_>>()? }))
    }

    /// The regions, in the order they were given.
    pub fn regions(&self) -> &[DriverRegion] {
        &self.regions
    }

    /// Maps all of it once more, as the device does.
    pub fn share(&self) -> Arc<GuestMemory> {
        let share = |r: &DriverRegion| {
            let mapping = Arc::new(Mapping::shared(r.file(), 0, r.len).unwrap());
            Region { guest: r.guest, user: r.user(), len: r.len, mapping }
        };
        Arc::new(GuestMemory::new(self.regions.iter().map(share).collect()).unwrap())
    }

    /// The driver's own mappings, as the device's. ThreadSanitizer knows memory by its address: only
    /// so can it see both sides meet.
    pub fn share_same(&self) -> Arc<GuestMemory> {
        let share = |r: &DriverRegion| Region {
            guest: r.guest,
            user: r.user(),
            len: r.len,
            mapping: r.mapping.clone(),
        };
        Arc::new(GuestMemory::new(self.regions.iter().map(share).collect()).unwrap())
    }

    /// Shrinks (or grows) the file of one region. The driver's own view is torn too.
    pub fn resize(&self, region: usize, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.regions[region].file, len)?)
    }

    /// Sets aside `len` octets in the first region that has room. Never given back.
    pub fn allocate(&self, len: u64, align: u64) -> GuestAddress {
        let found = (0..self.regions.len()).find_map(|i| self.allocate_in(i, len, align));
        found.expect("the driver's memory is too small")
    }

    /// Sets aside `len` octets in one region; `None` if it has no room.
    pub fn allocate_in(&self, region: usize, len: u64, align: u64) -> Option<GuestAddress> {
        let r = &self.regions[region];
        let place = |taken: u64| (r.guest.0 + taken).next_multiple_of(align) - r.guest.0;
        let take = |taken| Some(place(taken) + len).filter(|&end| end <= r.len);
        let before = r.taken.try_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(GuestAddress(r.guest.0 + place(before)))
    }

    /// Sets aside the last `len` octets of a region, whatever lies there: beyond them is a guard
    /// page, if the region's length is a multiple of a page.
    pub fn last_of(&self, region: usize, len: u64) -> GuestAddress {
        let r = &self.regions[region];
        GuestAddress(r.guest.0 + r.len - len)
    }

    fn at(&self, at: GuestAddress, len: usize) -> (&Mapping, usize) {
        let holds = |r: &&DriverRegion| {
            at.0.checked_sub(r.guest.0).is_some_and(|offset| offset + len as u64 <= r.len)
        };
        let region = self.regions.iter().find(holds).expect("not in the driver's memory");
        (&region.mapping, (at.0 - region.guest.0) as usize)
    }

    /// Writes any octets anywhere.
    pub fn write(&self, at: GuestAddress, from: &[u8]) {
        let (mapping, offset) = self.at(at, from.len());
        mapping.write(offset, from).unwrap();
    }

    /// Reads octets.
    pub fn read(&self, at: GuestAddress, into: &mut [u8]) {
        let (mapping, offset) = self.at(at, into.len());
        mapping.read(offset, into).unwrap();
    }

    /// A 16-bit word, to be read or changed as both sides do.
    pub fn u16_at(&self, at: GuestAddress) -> &AtomicU16 {
        let (mapping, offset) = self.at(at, 2);
        mapping.u16_at(offset).expect("not aligned")
    }

    /// A 32-bit word.
    pub fn u32_at(&self, at: GuestAddress) -> &AtomicU32 {
        let (mapping, offset) = self.at(at, 4);
        mapping.u32_at(offset).expect("not aligned")
    }

    /// A 64-bit word.
    pub fn u64_at(&self, at: GuestAddress) -> &AtomicU64 {
        let (mapping, offset) = self.at(at, 8);
        mapping.u64_at(offset).expect("not aligned")
    }

    /// Many 32-bit words, found once: for who counts nanoseconds.
    pub fn u32s_at(&self, at: GuestAddress, count: usize) -> &[AtomicU32] {
        let (mapping, offset) = self.at(at, count * size_of::<u32>());
        mapping.u32s_at(offset, count).expect("not aligned")
    }

    /// Many 64-bit words.
    pub fn u64s_at(&self, at: GuestAddress, count: usize) -> &[AtomicU64] {
        let (mapping, offset) = self.at(at, count * size_of::<u64>());
        mapping.u64s_at(offset, count).expect("not aligned")
    }
}

//! A front end's memory: its regions by slot, mapped.
//!
//! # Theory of operation
//! A table never changes. A request that adds, removes or replaces regions makes a new table, which
//! shares the mappings of regions that stay; only when the new one has passed every check do the
//! rings stop, change over and start again. So a refused request has changed nothing.
//!
//! A region's file must be memory: of memfd, tmpfs or hugetlbfs. A file whose pages come from a disk
//! or from somebody else (FUSE, a network file system), or a device, would let a front end hold up
//! whoever touches the memory.
//!
//! The descriptor is needed for mapping only; it goes on to the keeper, under its slot's number.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, fstat, fstatfs};
use virtqueue::{GuestAddress, GuestMemory, Mapping, MemoryError, QueueLayout, Region};

use super::refusal::{Refusal, RegionError};
use crate::state::port::{MAX_MEMORY_SLOTS, MemorySlot};
use crate::state::seal;

/// File systems whose pages are this machine's memory: tmpfs (memfd as well), hugetlbfs.
const OF_MEMORY: [u32; 2] = [0x0102_1994, 0x9584_58f6];

/// A file, whoever has it open: device and inode.
type File = (u64, u64);

/// A region in its slot.
#[derive(Clone, Debug)]
struct Held {
    index: usize,
    slot: MemorySlot,
    file: File,
    region: Region,
}

/// The regions by slot, and the memory they make up.
#[derive(Debug, Default)]
pub(super) struct MemoryTable {
    slots: Vec<Held>,
    memory: Arc<GuestMemory>,
}

impl MemoryTable {
    fn new(slots: Vec<Held>) -> Result<Self, Refusal> {
        let regions = slots.iter().map(|held| held.region.clone()).collect();
        Ok(Self { memory: Arc::new(GuestMemory::new(regions)?), slots })
    }

    /// A table of these regions, each in the slot that it comes with.
    pub(super) fn of<'a>(
        regions: impl IntoIterator<Item = (usize, MemorySlot, &'a OwnedFd)>,
    ) -> Result<Self, Refusal> {
        let mapped = regions
            .into_iter()
            .map(|(index, slot, fd)| map(index, slot, fd.as_fd()))
            .collect::<Result<_, Refusal>>()?;
        Self::new(mapped)
    }

    /// This table and one region more, and the slot that it went to.
    pub(super) fn with(&self, slot: MemorySlot, fd: BorrowedFd<'_>) -> Result<Self, Refusal> {
        let free = (0..MAX_MEMORY_SLOTS).find(|&n| self.slots.iter().all(|held| held.index != n));
        let Some(index) = free else {
            let asked = self.slots.len().saturating_add(1);
            return Err(Refusal::TooManyRegions { asked, limit: MAX_MEMORY_SLOTS });
        };
        let mut slots = self.slots.clone();
        slots.push(map(index, slot, fd)?);
        Self::new(slots)
    }

    /// This table without one region. Where its file was mapped from does not matter.
    pub(super) fn without(&self, gone: MemorySlot) -> Result<Self, Refusal> {
        let named = |slot: &MemorySlot| {
            (slot.guest, slot.user, slot.len) == (gone.guest, gone.user, gone.len)
        };
        let mut slots = self.slots.clone();
        slots.retain(|held| !named(&held.slot));
        if slots.len() == self.slots.len() {
            return Err(Refusal::NoSuchRegion { guest: gone.guest, len: gone.len });
        }
        Self::new(slots)
    }

    /// What is in a slot.
    pub(super) fn slot(&self, index: usize) -> Option<MemorySlot> {
        self.slots.iter().find(|held| held.index == index).map(|held| held.slot)
    }

    /// What tells a packed ring from all others, whoever brings it and when: the files that its parts
    /// lie in, where in them, and its size.
    pub(super) fn identity(&self, layout: QueueLayout) -> u32 {
        let mut octets = layout.size.to_le_bytes().to_vec();
        for part in [layout.desc, layout.avail, layout.used] {
            let inside = |held: &&Held| {
                part.0.checked_sub(held.slot.guest).is_some_and(|offset| offset < held.slot.len)
            };
            let Some(Held { slot, file, .. }) = self.slots.iter().find(inside) else { continue };
            let place = part.0.wrapping_sub(slot.guest).wrapping_add(slot.offset);
            octets.extend([file.0, file.1, place].map(u64::to_le_bytes).as_flattened());
        }
        seal::sum(0, &[&octets])
    }

    /// The memory.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

fn map(index: usize, slot: MemorySlot, fd: BorrowedFd<'_>) -> Result<Held, Refusal> {
    let MemorySlot { guest, user, len, offset } = slot;
    // An empty region would pass for an empty slot in the record.
    if len == 0 {
        return Err(MemoryError::BadRegion { guest, len }.into());
    }
    let region = |why| Refusal::Region { guest, why };
    let file = check_kind(fd).map_err(region)?;
    let mapping = Mapping::shared(fd, offset, len).map_err(|e| region(e.into()))?;
    let region = Region { guest: GuestAddress(guest), user, len, mapping: Arc::new(mapping) };
    Ok(Held { index, slot, file, region })
}

fn check_kind(fd: BorrowedFd<'_>) -> Result<File, RegionError> {
    let stat = fstat(fd).map_err(RegionError::Examine)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(RegionError::Kind { kind: "no file of memfd, tmpfs or hugetlbfs" });
    }
    let file_system = fstatfs(fd).map_err(RegionError::Examine)?.f_type as u32;
    if !OF_MEMORY.contains(&file_system) {
        return Err(RegionError::Kind { kind: "on a disk or a foreign file system" });
    }
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn memory(len: u64) -> OwnedFd {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        fd
    }

    fn slot(guest: u64) -> MemorySlot {
        MemorySlot { guest, user: 0x7000_0000 | guest, len: 0x1000, offset: 0 }
    }

    #[test]
    fn regions_come_and_go_by_slot_and_the_lowest_free_slot_is_taken() {
        let fd = memory(0x1000);
        let table = MemoryTable::of([(0, slot(0), &fd), (1, slot(0x1000), &fd)]).unwrap();
        let fewer = table.without(slot(0)).unwrap();
        assert_eq!(fewer.slot(0), None);
        assert_eq!(fewer.memory().regions().len(), 1);
        let again = fewer.with(slot(0x5000), fd.as_fd()).unwrap();
        assert_eq!(again.slot(0), Some(slot(0x5000)));
        assert_eq!(again.slot(1), Some(slot(0x1000)));
        assert!(matches!(fewer.without(slot(0)), Err(Refusal::NoSuchRegion { .. })));
        assert_eq!(table.memory().regions().len(), 2);
    }

    #[test]
    fn what_could_block_the_base_is_no_memory() {
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        let zero = std::fs::File::open("/dev/zero").unwrap().into();
        let proc = std::fs::File::open("/proc/self/status").unwrap().into();
        for fd in [pipe, zero, proc] {
            let refused = MemoryTable::of([(0, slot(0), &fd)]);
            let kind =
                matches!(refused, Err(Refusal::Region { guest: 0, why: RegionError::Kind { .. } }));
            assert!(kind, "{refused:?}");
        }
    }

    #[test]
    fn empty_overlapping_and_overlong_regions_are_refused() {
        let fd = memory(0x1000);
        let empty = MemorySlot { len: 0, ..slot(0) };
        assert!(matches!(MemoryTable::of([(0, empty, &fd)]), Err(Refusal::Memory(_))));
        let twice = [(0, slot(0), &fd), (1, slot(0x800), &fd)];
        assert!(matches!(MemoryTable::of(twice), Err(Refusal::Memory(_))));
        for (len, offset) in [(0x1001, 0), (0x1000, 0x1000), (u64::MAX, 0), (1, u64::MAX)] {
            let long = MemorySlot { len, offset, ..slot(0) };
            let refused = MemoryTable::of([(0, long, &fd)]);
            assert!(matches!(refused, Err(Refusal::Region { .. })), "{refused:?}");
        }
    }

    #[test]
    fn there_are_only_so_many_slots() {
        let fd = memory(0x1000);
        let full = (0..MAX_MEMORY_SLOTS).map(|n| (n, slot((n as u64) << 12), &fd));
        let table = MemoryTable::of(full).unwrap();
        let more = table.with(slot(0x10_0000), fd.as_fd());
        assert!(matches!(more, Err(Refusal::TooManyRegions { asked: 33, limit: 32 })));
    }
}

//! How a ring can be broken: one variant per counter, with what was found and what was allowed.

/// Why a ring was stopped. The driver (or front end) wrote something that no device can follow; the
/// ring must not be touched further, and other rings go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The available index went back, or forward by more than the ring holds.
    #[error("available index {found}: last seen {seen}, used index {used}, ring of {size} entries")]
    AvailIndex {
        /// The index found.
        found: u16,
        /// The index found before.
        seen: u16,
        /// The used index published last.
        used: u16,
        /// Entries in the ring.
        size: u16,
    },
    /// The used index found when the ring started contradicts the available index.
    #[error(
        "used index {used} at start: available index {avail} is more than {size} entries ahead"
    )]
    UsedIndex {
        /// The used index found.
        used: u16,
        /// The available index found.
        avail: u16,
        /// Entries in the ring.
        size: u16,
    },
    /// An available entry names a descriptor beyond the table.
    #[error("available entry names descriptor {head} of a table of {size}")]
    HeadIndex {
        /// The descriptor named.
        head: u16,
        /// Entries in the table.
        size: u16,
    },
    /// A descriptor's `next` lies beyond its table.
    #[error("next descriptor {next} of a table of {size}")]
    NextIndex {
        /// The descriptor named.
        next: u16,
        /// Entries in the table: the ring's, or the indirect one.
        size: u32,
    },
    /// A chain longer than its table, or buffers of more descriptors than a ring can lawfully hold.
    #[error("chain of more than {limit} descriptors: a loop")]
    ChainLoop {
        /// Descriptors followed before giving up.
        limit: u32,
    },
    /// A descriptor of a chain in a packed ring that is not available, though the one before it leads
    /// there.
    #[error("descriptor {index} of a packed ring: not available, in the middle of a chain")]
    ChainFlags {
        /// Its place in the ring.
        index: u16,
    },
    /// What was being published when the last base died contradicts a packed ring.
    #[error("publication from {from:#06x} to {to:#06x}: not what stands in the packed ring")]
    Publication {
        /// The first place, as virtio writes it.
        from: u16,
        /// The place behind it all.
        to: u16,
    },
    /// A buffer does not lie in one region of the guest's memory.
    #[error("descriptor for {len:#x} octets at guest address {address:#x}: outside its memory")]
    DescriptorAddress {
        /// Guest address.
        address: u64,
        /// Octets.
        len: u32,
    },
    /// An indirect table that may not be, or cannot be followed.
    #[error("indirect table of {len:#x} octets at guest address {address:#x}: {defect}")]
    IndirectTable {
        /// Guest address.
        address: u64,
        /// Octets.
        len: u32,
        /// What is wrong with it.
        defect: IndirectDefect,
    },
    /// A buffer of the wrong direction for its queue.
    #[error("descriptor {index} is {}, in a queue of the other direction", direction(*.writable))]
    Direction {
        /// Its place in the table it was found in.
        index: u32,
        /// It was for the device to write (found in an output queue), or to read.
        writable: bool,
    },
    /// The ring's size or place is not one that a ring can have.
    #[error("ring layout: {part} {value:#x}: {defect}")]
    Layout {
        /// Which value.
        part: LayoutPart,
        /// The value.
        value: u64,
        /// What is wrong with it.
        defect: LayoutDefect,
    },
    /// The front end took away memory that it had shared.
    #[error("memory region at guest address {guest:#x} was shrunk by its owner")]
    MemoryTorn {
        /// Guest address of the region.
        guest: u64,
    },
    /// An output chain that does not even hold the virtio-net header.
    #[error("output chain of {len} octets, the virtio-net header alone has {need}")]
    ChainTooShort {
        /// Octets in the chain.
        len: u64,
        /// Octets of the header.
        need: usize,
    },
}

/// What is wrong with an indirect table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndirectDefect {
    /// The feature was not negotiated.
    #[error("not negotiated")]
    NotNegotiated,
    /// Inside another indirect table.
    #[error("inside an indirect table")]
    Nested,
    /// With a descriptor after it.
    #[error("with a next descriptor")]
    Chained,
    /// Empty, not a multiple of 16 octets, or longer than any chain.
    #[error("bad length")]
    BadLength,
    /// Not in one region of the guest's memory.
    #[error("outside the guest's memory")]
    Outside,
}

/// A value of the ring's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutPart {
    /// The number of entries.
    #[error("size")]
    Size,
    /// The descriptor table's address.
    #[error("descriptor table")]
    Desc,
    /// The available ring's address, or the driver's event suppression structure's.
    #[error("available ring")]
    Avail,
    /// The used ring's address.
    #[error("used ring")]
    Used,
    /// The place where a packed ring is to go on.
    #[error("base")]
    Base,
}

/// What is wrong with a value of the ring's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutDefect {
    /// Not a power of two from 1 to 32768.
    #[error("not a power of two from 1 to 32768")]
    NotASize,
    /// Not from 1 to 32768: the size of a packed ring.
    #[error("not from 1 to 32768")]
    NotAPackedSize,
    /// A place that a ring of this size does not have.
    #[error("beyond the ring")]
    Beyond,
    /// Not aligned as virtio demands.
    #[error("not aligned")]
    Misaligned,
    /// Not in one region of the guest's memory.
    #[error("outside the guest's memory")]
    Outside,
}

fn direction(writable: bool) -> &'static str {
    if writable { "to be written" } else { "to be read" }
}

//! One change to a valid chain: what it needs of the chain, how it is made, and what must follow.

use virtqueue::GuestAddress;
use virtqueue::driver::{DriverMemory, DriverQueue, Shape};

use crate::driver::features;
use crate::hostile::dice::Dice;
use crate::hostile::rig::{Build, REGIONS};

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
/// Octets of a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;
/// Entries that an indirect table may have, however small the ring is.
pub(super) const LONGEST_TABLE: u32 = 1024;
/// Octets of the longest frame that the base takes.
pub(super) const LONGEST_FRAME: u32 = 65_600;

/// What must be seen after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This break, and nothing of the changed frame.
    Break(&'static str),
    /// The frame is dropped by this name.
    Drop(&'static str),
    /// Nothing: the change does not matter.
    Harmless,
}

/// The chain that is changed, in a queue in which nothing was ever given back.
pub(super) struct Chain<'q> {
    pub(super) queue: &'q DriverQueue,
    pub(super) memory: &'q DriverMemory,
    pub(super) size: u16,
    pub(super) head: u16,
    /// Its place in the available ring.
    pub(super) position: u16,
    /// Plain descriptors with data.
    pub(super) plain: usize,
    /// Descriptors with data in an indirect table.
    pub(super) inner: usize,
}

impl Chain<'_> {
    pub(super) fn len(&self) -> usize {
        self.plain + self.inner
    }

    /// The ring's descriptor that names the table.
    pub(super) fn table_descriptor(&self) -> GuestAddress {
        self.queue.descriptor_at(self.head + self.plain as u16)
    }

    /// The `i`th descriptor with data.
    pub(super) fn descriptor(&self, i: usize) -> GuestAddress {
        match i.checked_sub(self.plain) {
            None => self.queue.descriptor_at(self.head + i as u16),
            Some(i) => {
                let table = self.queue.table_at(self.head).unwrap_or(GuestAddress(0));
                GuestAddress(table.0 + i as u64 * DESCRIPTOR)
            }
        }
    }

    pub(super) fn put(&self, at: GuestAddress, offset: u64, octets: &[u8]) {
        self.memory.write(GuestAddress(at.0 + offset), octets);
    }

    pub(super) fn set_address(&self, at: GuestAddress, value: u64) {
        self.put(at, 0, &value.to_le_bytes());
    }

    pub(super) fn set_len(&self, at: GuestAddress, value: u32) {
        self.put(at, 8, &value.to_le_bytes());
    }

    pub(super) fn len_of(&self, at: GuestAddress) -> u32 {
        let mut octets = [0; 4];
        self.memory.read(GuestAddress(at.0 + 8), &mut octets);
        u32::from_le_bytes(octets)
    }

    pub(super) fn flags_of(&self, at: GuestAddress) -> u16 {
        let mut octets = [0; 2];
        self.memory.read(GuestAddress(at.0 + 12), &mut octets);
        u16::from_le_bytes(octets)
    }

    pub(super) fn set_flags(&self, at: GuestAddress, value: u16) {
        self.put(at, 12, &value.to_le_bytes());
    }

    pub(super) fn set_next(&self, at: GuestAddress, value: u16) {
        self.put(at, 14, &value.to_le_bytes());
    }

    /// Any descriptor with data.
    pub(super) fn any(&self, d: &mut Dice) -> GuestAddress {
        self.descriptor(d.index(self.len()))
    }

    /// Any descriptor whose buffer is not empty.
    pub(super) fn full(&self, d: &mut Dice) -> GuestAddress {
        loop {
            let at = self.any(d);
            if self.len_of(at) > 0 {
                return at;
            }
        }
    }

    /// A descriptor that is not the last of its table, and the entries of that table.
    pub(super) fn linked(&self, d: &mut Dice) -> (GuestAddress, u16) {
        let in_table = self.inner >= 2 && (self.plain == 0 || d.once_in(2));
        if in_table {
            (self.descriptor(self.plain + d.index(self.inner - 1)), self.inner as u16)
        } else {
            let last = self.plain - usize::from(self.inner == 0);
            (self.descriptor(d.index(last)), self.size)
        }
    }
}

/// An address at which there are not `len` octets.
pub(super) fn nowhere(d: &mut Dice, len: u64) -> u64 {
    let end = |(start, octets): (u64, u64)| start + octets;
    let [_, touching, far] = REGIONS;
    match d.range(0, 7) {
        0 => d.range(0, 0x1000 - len.min(0xfff)),
        1 => end(touching) - d.range(0, len),
        2 => end(touching) + d.range(0, 1 << 20),
        3 => far.0 - d.range(1, 1 << 20),
        4 => end(far) - d.range(0, len),
        5 => u64::MAX - d.range(0, 1 << 20),
        _ => end(far) + (d.next() >> d.range(2, 24)),
    }
}

/// How a chain is cut, and what of it lies in an indirect table.
pub(super) struct Form {
    pub(super) cuts: Vec<usize>,
    pub(super) table: Option<usize>,
    /// Plain descriptors with data.
    pub(super) plain: usize,
    /// Descriptors with data in the table.
    pub(super) inner: usize,
}

impl Form {
    /// Any form that the driver may use; no piece but the last is of more than `largest` octets.
    pub(super) fn any(d: &mut Dice, build: Build, largest: u64) -> Self {
        let mut cuts: Vec<usize> =
            (0..d.range(0, 4)).map(|_| d.range(1, largest) as usize).collect();
        if cuts.len() >= 2 && d.once_in(4) {
            cuts[1] = 0;
        }
        let tables = build.features & features::INDIRECT_DESC != 0;
        let table = (tables && d.once_in(2)).then(|| d.index(cuts.len() + 1));
        let pieces = cuts.len() + 1;
        let plain = table.unwrap_or(pieces);
        Self { cuts, table, plain, inner: pieces - plain }
    }

    pub(super) fn pieces(&self) -> usize {
        self.plain + self.inner
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        Shape { cuts: &self.cuts, table: self.table }
    }
}

/// A change, and what it needs of the chain.
pub(super) struct Change {
    pub(super) name: &'static str,
    pub(super) fits: fn(&Form, Build) -> bool,
    pub(super) make: fn(&mut Dice, &Chain<'_>),
    pub(super) outcome: Outcome,
}

pub(super) fn any(_: &Form, _: Build) -> bool {
    true
}

pub(super) fn has_table(form: &Form, _: Build) -> bool {
    form.inner > 0
}

pub(super) fn is_linked(form: &Form, _: Build) -> bool {
    form.inner >= 2 || form.plain >= 2
}

pub(super) fn no_tables(_: &Form, build: Build) -> bool {
    build.features & features::INDIRECT_DESC == 0
}

/// Changes to a chain that neither side has seen yet.
pub(super) const CHANGES: &[Change] = &[
    Change {
        name: "a head beyond the table",
        fits: any,
        make: |d, c| {
            let entry = c.queue.avail_entry_at(c.position);
            let head = d.range(c.size.into(), 65_536) as u16;
            c.memory.write(entry, &head.to_le_bytes());
        },
        outcome: Outcome::Break("break.head_index"),
    },
    Change {
        name: "a next beyond the table",
        fits: is_linked,
        make: |d, c| {
            let (at, entries) = c.linked(d);
            c.set_next(at, d.range(entries.into(), 65_536) as u16);
        },
        outcome: Outcome::Break("break.next_index"),
    },
    Change {
        name: "a loop",
        fits: any,
        make: |d, c| {
            let i = d.index(c.len());
            let at = c.descriptor(i);
            let back = match i.checked_sub(c.plain) {
                None => c.head + d.index(i + 1) as u16,
                Some(i) => d.index(i + 1) as u16,
            };
            c.set_flags(at, c.flags_of(at) | NEXT);
            c.set_next(at, back);
        },
        outcome: Outcome::Break("break.chain_loop"),
    },
    Change {
        name: "an address of nowhere",
        fits: any,
        make: |d, c| {
            let at = c.full(d);
            c.set_address(at, nowhere(d, c.len_of(at).into()));
        },
        outcome: Outcome::Break("break.descriptor_address"),
    },
    Change {
        name: "a length beyond the region",
        fits: any,
        make: |d, c| {
            let at = c.any(d);
            // No region is that large, wherever the buffer begins.
            c.set_len(at, d.range(4 << 20, 1 << 32) as u32 | 1 << 23);
        },
        outcome: Outcome::Break("break.descriptor_address"),
    },
    Change {
        name: "the other direction",
        fits: any,
        make: |d, c| {
            let at = c.any(d);
            c.set_flags(at, c.flags_of(at) ^ WRITE);
        },
        outcome: Outcome::Break("break.descriptor_direction"),
    },
    Change {
        name: "a table that was not negotiated",
        fits: no_tables,
        make: |d, c| {
            let at = c.any(d);
            c.set_flags(at, c.flags_of(at) | INDIRECT);
        },
        outcome: Outcome::Break("break.indirect_table"),
    },
    Change {
        name: "a table in a table",
        fits: has_table,
        make: |d, c| {
            let at = c.descriptor(c.plain + d.index(c.inner));
            c.set_flags(at, c.flags_of(at) | INDIRECT);
        },
        outcome: Outcome::Break("break.indirect_table"),
    },
    Change {
        name: "a table with a next",
        fits: has_table,
        make: |d, c| {
            c.set_flags(c.table_descriptor(), INDIRECT | NEXT | d.pick(&[0, WRITE]));
        },
        outcome: Outcome::Break("break.indirect_table"),
    },
    Change {
        name: "a table of a bad length",
        fits: has_table,
        make: |d, c| {
            let len = match d.range(0, 4) {
                0 => 0,
                1 => d.range(1, 16) as u32,
                2 => c.inner as u32 * 16 + d.range(1, 16) as u32,
                _ => (LONGEST_TABLE + d.range(1, 1 << 20) as u32) * 16,
            };
            c.set_len(c.table_descriptor(), len);
        },
        outcome: Outcome::Break("break.indirect_table"),
    },
    Change {
        name: "a table nowhere",
        fits: has_table,
        make: |d, c| {
            c.set_address(c.table_descriptor(), nowhere(d, c.inner as u64 * DESCRIPTOR));
        },
        outcome: Outcome::Break("break.indirect_table"),
    },
    Change {
        name: "a next that nobody follows",
        fits: any,
        make: |d, c| c.set_next(c.descriptor(c.len() - 1), d.word()),
        outcome: Outcome::Harmless,
    },
    Change {
        name: "flags that mean nothing",
        fits: any,
        make: |d, c| {
            let at = c.any(d);
            c.set_flags(at, c.flags_of(at) | d.word() & !7);
        },
        outcome: Outcome::Harmless,
    },
    Change {
        name: "a direction of the table itself",
        fits: has_table,
        make: |_, c| c.set_flags(c.table_descriptor(), INDIRECT | WRITE),
        outcome: Outcome::Harmless,
    },
    Change {
        name: "what the device alone may write",
        fits: any,
        make: |d, c| {
            c.memory.write(c.queue.used_flags_at(), &d.octets(2));
            c.memory.write(c.queue.used_entry_at(c.position), &d.octets(8));
        },
        outcome: Outcome::Harmless,
    },
    Change {
        name: "when it wants to be notified",
        fits: any,
        make: |d, c| {
            c.memory.write(c.queue.avail_flags_at(), &d.octets(2));
            c.memory.write(c.queue.used_event_at(), &d.octets(2));
        },
        outcome: Outcome::Harmless,
    },
];

/// Changes to output chains only.
pub(super) const OUTPUT: &[Change] = &[
    Change {
        name: "a chain shorter than the header",
        fits: |f, _| f.pieces() == 1,
        make: |d, c| c.set_len(c.descriptor(0), d.range(0, 10) as u32),
        outcome: Outcome::Break("break.chain_too_short"),
    },
    Change {
        name: "an empty descriptor nowhere",
        fits: |f, _| f.cuts.get(1) == Some(&0),
        make: |d, c| c.set_address(c.descriptor(1), nowhere(d, 1)),
        outcome: Outcome::Harmless,
    },
    Change {
        name: "a frame longer than any",
        fits: |f, _| f.pieces() >= 2,
        make: |d, c| {
            let (at, [start, ..]) = (c.descriptor(c.len() - 1), [REGIONS[1].0]);
            c.set_address(at, start);
            c.set_len(at, d.range(LONGEST_FRAME.into(), 4 << 20) as u32);
        },
        outcome: Outcome::Drop("drop.frame_length"),
    },
];

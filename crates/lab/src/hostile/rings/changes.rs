//! One change to a valid chain: what it needs of the chain, how it is made, and what must follow.

use virtqueue::GuestAddress;
use virtqueue::driver::{AnyQueue, DriverMemory, DriverQueue, PackedQueue, Shape};

use crate::driver::features;
use crate::hostile::dice::Dice;
use crate::hostile::rig::{Build, REGIONS};

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;
/// The bits of a packed ring's descriptor that say whose it is.
pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;
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
    pub(super) queue: &'q AnyQueue,
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

    /// The split ring that it is in: no change that asks is made in another.
    pub(super) fn split(&self) -> &DriverQueue {
        match self.queue {
            AnyQueue::Split(queue) => queue,
            AnyQueue::Packed(_) => panic!("a change of split rings in a packed one"),
        }
    }

    /// The packed ring, likewise.
    pub(super) fn packed(&self) -> &PackedQueue {
        match self.queue {
            AnyQueue::Packed(queue) => queue,
            AnyQueue::Split(_) => panic!("a change of packed rings in a split one"),
        }
    }

    /// The ring's `i`th descriptor of the chain.
    fn own(&self, i: usize) -> GuestAddress {
        self.queue.descriptor_at(match self.queue {
            AnyQueue::Split(_) => self.head + i as u16,
            AnyQueue::Packed(queue) => (queue.slot_of(self.head) + i as u16) % self.size,
        })
    }

    /// The ring's descriptor that names the table.
    pub(super) fn table_descriptor(&self) -> GuestAddress {
        self.own(self.plain)
    }

    /// The `i`th descriptor with data.
    pub(super) fn descriptor(&self, i: usize) -> GuestAddress {
        match i.checked_sub(self.plain) {
            None => self.own(i),
            Some(i) => {
                let table = self.queue.table_at(self.head).unwrap_or(GuestAddress(0));
                GuestAddress(table.0 + i as u64 * DESCRIPTOR)
            }
        }
    }

    /// The slot of a packed ring whose descriptor lies there.
    fn slot(&self, at: GuestAddress) -> Option<(&PackedQueue, u16)> {
        let AnyQueue::Packed(queue) = self.queue else { return None };
        let offset = at.0.checked_sub(queue.layout().desc.0)?;
        let slot = u16::try_from(offset / DESCRIPTOR).ok()?;
        (slot < self.size).then_some((queue, slot))
    }

    /// The second half of a descriptor: its length, and two words.
    fn second_half(&self, at: GuestAddress) -> [u8; 8] {
        let mut octets = [0; 8];
        match self.slot(at) {
            Some((queue, slot)) => queue.second_half(slot).to_le_bytes(),
            None => {
                self.memory.read(GuestAddress(at.0 + 8), &mut octets);
                octets
            }
        }
    }

    fn put_second_half(&self, at: GuestAddress, octets: [u8; 8]) {
        match self.slot(at) {
            Some((queue, slot)) => queue.set_second_half(slot, u64::from_le_bytes(octets)),
            None => self.memory.write(GuestAddress(at.0 + 8), &octets),
        }
    }

    /// Where in a second half the flags stand.
    fn flags_in(&self) -> usize {
        match self.queue {
            AnyQueue::Split(_) => 4,
            AnyQueue::Packed(_) => 6,
        }
    }

    pub(super) fn set_address(&self, at: GuestAddress, value: u64) {
        self.memory.write(at, &value.to_le_bytes());
    }

    pub(super) fn set_len(&self, at: GuestAddress, value: u32) {
        let [_, _, _, _, rest @ ..] = self.second_half(at);
        let [a, b, c, d] = value.to_le_bytes();
        let [e, f, g, h] = rest;
        self.put_second_half(at, [a, b, c, d, e, f, g, h]);
    }

    pub(super) fn len_of(&self, at: GuestAddress) -> u32 {
        let [a, b, c, d, ..] = self.second_half(at);
        u32::from_le_bytes([a, b, c, d])
    }

    pub(super) fn flags_of(&self, at: GuestAddress) -> u16 {
        let (octets, flags) = (self.second_half(at), self.flags_in());
        u16::from_le_bytes([octets[flags], octets[flags + 1]])
    }

    pub(super) fn set_flags(&self, at: GuestAddress, value: u16) {
        let (mut octets, flags) = (self.second_half(at), self.flags_in());
        octets[flags..flags + 2].copy_from_slice(&value.to_le_bytes());
        self.put_second_half(at, octets);
    }

    pub(super) fn set_next(&self, at: GuestAddress, value: u16) {
        self.memory.write(GuestAddress(at.0 + 14), &value.to_le_bytes());
    }

    /// The driver's name for a buffer, in a packed ring.
    pub(super) fn set_id(&self, at: GuestAddress, value: u16) {
        let mut octets = self.second_half(at);
        octets[4..6].copy_from_slice(&value.to_le_bytes());
        self.put_second_half(at, octets);
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

/// Changes to a chain that neither side has seen yet, whatever the ring's layout.
pub(super) const CHANGES: &[Change] = &[
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
            let at = c.table_descriptor();
            c.set_flags(at, c.flags_of(at) & !WRITE | INDIRECT | NEXT | d.pick(&[0, WRITE]));
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
        name: "a direction of the table itself",
        fits: has_table,
        make: |_, c| {
            let at = c.table_descriptor();
            c.set_flags(at, c.flags_of(at) | WRITE);
        },
        outcome: Outcome::Harmless,
    },
];

/// Those of split rings alone.
pub(super) const SPLIT: &[Change] = &[
    Change {
        name: "a head beyond the table",
        fits: any,
        make: |d, c| {
            let entry = c.split().avail_entry_at(c.position);
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
        name: "what the device alone may write",
        fits: any,
        make: |d, c| {
            c.memory.write(c.split().used_flags_at(), &d.octets(2));
            c.memory.write(c.split().used_entry_at(c.position), &d.octets(8));
        },
        outcome: Outcome::Harmless,
    },
    Change {
        name: "when it wants to be notified",
        fits: any,
        make: |d, c| {
            c.memory.write(c.split().avail_flags_at(), &d.octets(2));
            c.memory.write(c.split().used_event_at(), &d.octets(2));
        },
        outcome: Outcome::Harmless,
    },
];

/// Those of packed rings alone.
pub(super) const PACKED: &[Change] = &[
    Change {
        name: "an end that leads on",
        fits: |form, _| form.inner == 0,
        make: |_, c| {
            let at = c.descriptor(c.len() - 1);
            c.set_flags(at, c.flags_of(at) | NEXT);
        },
        outcome: Outcome::Break("break.chain_flags"),
    },
    Change {
        name: "a gap in the chain",
        fits: |form, _| form.plain >= 2,
        make: |d, c| {
            let at = c.descriptor(1 + d.index(c.plain - 1));
            c.set_flags(at, c.flags_of(at) ^ d.pick(&[AVAIL, USED, AVAIL | USED]));
        },
        outcome: Outcome::Break("break.chain_flags"),
    },
    Change {
        name: "a name before the end",
        fits: |form, _| form.plain >= 2 && form.inner == 0,
        make: |d, c| c.set_id(c.descriptor(d.index(c.plain - 1)), d.word()),
        outcome: Outcome::Harmless,
    },
    Change {
        name: "flags that mean nothing",
        fits: any,
        make: |d, c| {
            let at = c.any(d);
            c.set_flags(at, c.flags_of(at) | d.word() & !(7 | AVAIL | USED));
        },
        outcome: Outcome::Harmless,
    },
    Change {
        name: "what the device alone may write",
        fits: any,
        make: |d, c| c.memory.write(c.packed().device_event_at(), &d.octets(4)),
        outcome: Outcome::Harmless,
    },
    Change {
        name: "when it wants to be notified",
        fits: any,
        make: |d, c| c.memory.write(c.packed().driver_event_at(), &d.octets(4)),
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

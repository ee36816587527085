//! What a hostile driver does to its rings: one change to a valid ring, chain or memory file, and
//! the break it must be called by.

use virtqueue::driver::{DriverMemory, DriverQueue, Shape};
use virtqueue::{GuestAddress, NetHeader};

use super::cast::{BASE_MAC, Who};
use super::dice::Dice;
use super::expect::Tally;
use super::rig::{Build, REGIONS, Rig};
use super::stage::{Stage, wait_for_break};
use crate::driver::features;
use crate::error::{Attempt, LabError, Result};
use crate::frames::{self, protocol};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Octets of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Entries that an indirect table may have, however small the ring is.
const LONGEST_TABLE: u32 = 1024;
/// Octets of the longest frame that the base takes.
const LONGEST_FRAME: u32 = 65_600;

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
struct Chain<'q> {
    queue: &'q DriverQueue,
    memory: &'q DriverMemory,
    size: u16,
    head: u16,
    /// Its place in the available ring.
    position: u16,
    /// Plain descriptors with data.
    plain: usize,
    /// Descriptors with data in an indirect table.
    inner: usize,
}

impl Chain<'_> {
    fn len(&self) -> usize {
        self.plain + self.inner
    }

    /// The ring's descriptor that names the table.
    fn table_descriptor(&self) -> GuestAddress {
        self.queue.descriptor_at(self.head + self.plain as u16)
    }

    /// The `i`th descriptor with data.
    fn descriptor(&self, i: usize) -> GuestAddress {
        match i.checked_sub(self.plain) {
            None => self.queue.descriptor_at(self.head + i as u16),
            Some(i) => {
                let table = self.queue.table_at(self.head).unwrap_or(GuestAddress(0));
                GuestAddress(table.0 + i as u64 * DESCRIPTOR)
            }
        }
    }

    fn put(&self, at: GuestAddress, offset: u64, octets: &[u8]) {
        self.memory.write(GuestAddress(at.0 + offset), octets);
    }

    fn set_address(&self, at: GuestAddress, value: u64) {
        self.put(at, 0, &value.to_le_bytes());
    }

    fn set_len(&self, at: GuestAddress, value: u32) {
        self.put(at, 8, &value.to_le_bytes());
    }

    fn len_of(&self, at: GuestAddress) -> u32 {
        let mut octets = [0; 4];
        self.memory.read(GuestAddress(at.0 + 8), &mut octets);
        u32::from_le_bytes(octets)
    }

    fn flags_of(&self, at: GuestAddress) -> u16 {
        let mut octets = [0; 2];
        self.memory.read(GuestAddress(at.0 + 12), &mut octets);
        u16::from_le_bytes(octets)
    }

    fn set_flags(&self, at: GuestAddress, value: u16) {
        self.put(at, 12, &value.to_le_bytes());
    }

    fn set_next(&self, at: GuestAddress, value: u16) {
        self.put(at, 14, &value.to_le_bytes());
    }

    /// Any descriptor with data.
    fn any(&self, d: &mut Dice) -> GuestAddress {
        self.descriptor(d.index(self.len()))
    }

    /// Any descriptor whose buffer is not empty.
    fn full(&self, d: &mut Dice) -> GuestAddress {
        loop {
            let at = self.any(d);
            if self.len_of(at) > 0 {
                return at;
            }
        }
    }

    /// A descriptor that is not the last of its table, and the entries of that table.
    fn linked(&self, d: &mut Dice) -> (GuestAddress, u16) {
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
fn nowhere(d: &mut Dice, len: u64) -> u64 {
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
struct Form {
    cuts: Vec<usize>,
    table: Option<usize>,
    /// Plain descriptors with data.
    plain: usize,
    /// Descriptors with data in the table.
    inner: usize,
}

impl Form {
    /// Any form that the driver may use; no piece but the last is of more than `largest` octets.
    fn any(d: &mut Dice, build: Build, largest: u64) -> Self {
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

    fn pieces(&self) -> usize {
        self.plain + self.inner
    }

    fn shape(&self) -> Shape<'_> {
        Shape { cuts: &self.cuts, table: self.table }
    }
}

/// A change, and what it needs of the chain.
struct Change {
    name: &'static str,
    fits: fn(&Form, Build) -> bool,
    make: fn(&mut Dice, &Chain<'_>),
    outcome: Outcome,
}

fn any(_: &Form, _: Build) -> bool {
    true
}

fn has_table(form: &Form, _: Build) -> bool {
    form.inner > 0
}

fn is_linked(form: &Form, _: Build) -> bool {
    form.inner >= 2 || form.plain >= 2
}

fn no_tables(_: &Form, build: Build) -> bool {
    build.features & features::INDIRECT_DESC == 0
}

/// Changes to a chain that neither side has seen yet.
const CHANGES: &[Change] = &[
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
const OUTPUT: &[Change] = &[
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

/// What a round has done, and what must be found of it.
#[derive(Debug)]
pub struct Blow {
    /// What was changed.
    pub name: &'static str,
    /// What must be counted for the hostile VM; a torn memory's frames may be counted as anything.
    pub counted: Tally,
    /// Whether the counters may say more than that.
    pub torn: bool,
    /// Datagrams that must have reached the receiver of all offloads.
    pub arrived: Vec<Vec<u8>>,
}

/// A driver as small as can be, of any kind.
fn small(d: &mut Dice, ring: u16) -> Build {
    let mut features = features::PROTOCOL | features::OFFLOADS;
    for feature in [
        features::VERSION_1,
        features::EVENT_IDX,
        features::INDIRECT_DESC,
        features::MRG_RXBUF,
        features::IN_ORDER,
    ] {
        if d.once_in(2) {
            features |= feature;
        }
    }
    Build { features, ring, tx_room: 2048, rx_buffer: 2048, start: d.word() }
}

/// Longer than all that it is ever cut into but the last piece.
fn datagram(d: &mut Dice) -> Vec<u8> {
    let (from, to) = (Who::Hostile.ip(true), Who::Rich.ip(true));
    let message = frames::udp(from, to, (4000, 4001), &frames::pattern(d.range(200, 900) as usize));
    frames::datagram(from, to, protocol::UDP, message)
}

/// The base answers this with a frame of the same length.
fn echo_request(payload: usize) -> Vec<u8> {
    let (from, to) = (Who::Hostile.ip(true), [169, 254, 0, 1].into());
    let rest = [vec![0, 1, 0, 2], frames::pattern(payload)].concat();
    frames::datagram(from, to, protocol::ICMP, frames::icmp(from, to, 8, 0, &rest))
}

fn carried(datagram: &[u8]) -> Vec<u8> {
    frames::carry(BASE_MAC, Who::Hostile.mac(), datagram)
}

/// Changes of one outcome, and a chain that one of them fits.
fn choose(
    d: &mut Dice,
    build: Build,
    outcome: Outcome,
    changes: &[&'static [Change]],
    largest: u64,
) -> (&'static Change, Form) {
    let of: Vec<&'static Change> =
        changes.iter().flat_map(|c| c.iter()).filter(|c| c.outcome == outcome).collect();
    loop {
        let form = Form::any(d, build, largest);
        let change = of[d.index(of.len())];
        if (change.fits)(&form, build) {
            return (change, form);
        }
    }
}

fn after(name: &str, error: LabError) -> LabError {
    LabError::Unexpected(format!("{error}, after {name:?}"))
}

fn one(name: &str) -> Tally {
    let mut tally = Tally::default();
    tally.add(name, 1);
    tally
}

/// Outcomes of changes to chains of either direction.
const EITHER: [Outcome; 7] = [
    Outcome::Break("break.head_index"),
    Outcome::Break("break.next_index"),
    Outcome::Break("break.chain_loop"),
    Outcome::Break("break.descriptor_address"),
    Outcome::Break("break.descriptor_direction"),
    Outcome::Break("break.indirect_table"),
    Outcome::Harmless,
];

/// Plays one round; every outcome is as frequent as any other.
pub fn strike(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    match d.index(EITHER.len() + 6) {
        0 => output_chain(stage, d, Outcome::Break("break.chain_too_short")),
        1 => output_chain(stage, d, Outcome::Drop("drop.frame_length")),
        2 => available_index(stage, d),
        3 => used_index(stage, d),
        4 => layout(stage, d),
        5 => torn(stage, d),
        n if d.once_in(2) => output_chain(stage, d, EITHER[n - 6]),
        n => input_chain(stage, d, EITHER[n - 6]),
    }
}

/// Some datagrams in order, then one in a chain that was changed.
fn output_chain(stage: &mut dyn Stage, d: &mut Dice, outcome: Outcome) -> Result<Blow> {
    let ring = d.pick(&[16, 32, 64]);
    let build = small(d, ring);
    let mut rig = Rig::filled(build)?;
    stage.attach(Who::Hostile, &rig, rig.rings())?;
    let broken = stage.breaks(Who::Hostile)?;
    let mut arrived: Vec<Vec<u8>> = (0..d.range(0, 4)).map(|_| datagram(d)).collect();
    for datagram in &arrived {
        rig.add(&NetHeader::default(), &carried(datagram), Shape::default());
    }
    let before = arrived.len() as u16;
    let (change, form) = choose(d, build, outcome, &[CHANGES, OUTPUT], 60);
    let last = datagram(d);
    let head = rig.tx.send(&NetHeader::default(), &carried(&last), form.shape());
    let chain = Chain {
        queue: &rig.tx.queue,
        memory: &rig.memory,
        size: build.ring,
        head: head.unwrap_or_default(),
        position: build.start.wrapping_add(before),
        plain: form.plain,
        inner: form.inner,
    };
    (change.make)(d, &chain);
    rig.expose();
    rig.kick(1);
    let mut counted = Tally::default();
    match change.outcome {
        Outcome::Break(name) => {
            wait_for_break(stage, Who::Hostile, broken).map_err(|e| after(change.name, e))?;
            counted.add(name, 1);
        }
        Outcome::Drop(name) => {
            rig.wait_taken()?;
            counted.add(name, 1);
            counted.add("taken", 1);
        }
        Outcome::Harmless => {
            rig.wait_taken()?;
            arrived.push(last);
        }
    }
    counted.add("taken", arrived.len() as u64);
    counted.add("to_vm", arrived.len() as u64);
    Ok(Blow { name: change.name, counted, torn: false, arrived })
}

/// The base answers a question into a chain that was changed.
fn input_chain(stage: &mut dyn Stage, d: &mut Dice, outcome: Outcome) -> Result<Blow> {
    let build = small(d, 16);
    let mut rig = Rig::new(build)?;
    // For the advertisement that greets every driver.
    rig.rx.post(2048, Shape::default());
    rig.rx.queue.expose();
    stage.attach(Who::Hostile, &rig, rig.rings())?;
    let broken = stage.breaks(Who::Hostile)?;
    let (change, form) = choose(d, build, outcome, &[CHANGES], 25);
    // Smaller than the answer, so that all of it is looked at, though a loop be followed.
    let small = form.cuts.iter().sum::<usize>() + d.range(1, 25) as usize;
    let len = if outcome == Outcome::Harmless { 2048 } else { small };
    let head = rig.rx.post(len, form.shape());
    let chain = Chain {
        queue: &rig.rx.queue,
        memory: &rig.memory,
        size: build.ring,
        head: head.unwrap_or_default(),
        position: build.start.wrapping_add(1),
        plain: form.plain,
        inner: form.inner,
    };
    (change.make)(d, &chain);
    rig.rx.queue.expose();
    rig.add(&NetHeader::default(), &carried(&echo_request(1000)), Shape::default());
    rig.expose();
    rig.kick(1);
    let mut counted = Tally::default();
    counted.add("taken", 1);
    counted.add("answered", 1);
    match change.outcome {
        Outcome::Break(name) => {
            wait_for_break(stage, Who::Hostile, broken).map_err(|e| after(change.name, e))?;
            counted.add(name, 1);
        }
        Outcome::Drop(_) | Outcome::Harmless => rig.wait_taken()?,
    }
    Ok(Blow { name: change.name, counted, torn: false, arrived: Vec::new() })
}

/// An available index that cannot be.
fn available_index(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    let name = "an available index that cannot be";
    let build = small(d, 32);
    let mut rig = Rig::new(build)?;
    let output = d.once_in(2);
    rig.rx.post(2048, Shape::default());
    rig.rx.queue.expose();
    stage.attach(Who::Hostile, &rig, rig.rings())?;
    let broken = stage.breaks(Who::Hostile)?;
    // Neither as few as the ring has entries, nor as many as are given back meanwhile.
    let jump = d.range(u64::from(build.ring) + 2, 65_530) as u16;
    let index = build.start.wrapping_add(jump).to_le_bytes();
    let mut counted = one("break.avail_index");
    if output {
        rig.memory.write(rig.tx.queue.avail_index_at(), &index);
    } else {
        rig.memory.write(rig.rx.queue.avail_index_at(), &index);
        rig.add(&NetHeader::default(), &carried(&echo_request(100)), Shape::default());
        rig.expose();
        counted.add("taken", 1);
        counted.add("answered", 1);
    }
    rig.kick(1);
    wait_for_break(stage, Who::Hostile, broken).map_err(|e| after(name, e))?;
    Ok(Blow { name, counted, torn: false, arrived: Vec::new() })
}

/// A used index that lies when the ring starts.
fn used_index(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    let name = "a used index that lies at the start";
    let build = small(d, 32);
    let rig = Rig::filled(build)?;
    let output = d.once_in(2);
    let (queue, avail) = match output {
        true => (&rig.tx.queue, build.start),
        false => (&rig.rx.queue, build.start.wrapping_add(build.ring)),
    };
    // More than the ring has entries before the available index, or after it.
    let back = d.range(u64::from(build.ring) + 1, 65_536) as u16;
    let used = avail.wrapping_sub(back);
    rig.memory.write(queue.used_index_at(), &used.to_le_bytes());
    let broken = stage.breaks(Who::Hostile)?;
    stage.attach(Who::Hostile, &rig, rig.rings())?;
    wait_for_break(stage, Who::Hostile, broken).map_err(|e| after(name, e))?;
    let counted = one("break.used_index");
    Ok(Blow { name, counted, torn: false, arrived: Vec::new() })
}

/// A ring that lies where none can.
fn layout(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    let name = "a ring where none can be";
    let build = small(d, 32);
    let rig = Rig::filled(build)?;
    let mut rings = rig.rings();
    let ring = &mut rings[d.index(2)];
    let skew = |d: &mut Dice, at: GuestAddress, align: u64| GuestAddress(at.0 + d.range(1, align));
    // Beyond the end of all memory by some octets.
    let over = |d: &mut Dice| GuestAddress(REGIONS[2].0 + REGIONS[2].1 - d.range(1, 4) * 16);
    // A base that is asked in messages refuses the first three before they come to be rings.
    match d.range(if stage.is_wired() { 3 } else { 0 }, 6) {
        0 => ring.desc = skew(d, ring.desc, 16),
        1 => ring.avail = skew(d, ring.avail, 2),
        2 => ring.used = skew(d, ring.used, 4),
        3 => ring.desc = over(d),
        4 => ring.avail = over(d),
        _ => ring.used = over(d),
    }
    let broken = stage.breaks(Who::Hostile)?;
    stage.attach(Who::Hostile, &rig, rings)?;
    wait_for_break(stage, Who::Hostile, broken).map_err(|e| after(name, e))?;
    Ok(Blow { name, counted: one("break.layout"), torn: false, arrived: Vec::new() })
}

/// A memory file that is cut while the base uses it.
fn torn(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    let name = "a memory file cut short";
    let build = small(d, 32);
    let mut rig = Rig::filled(build)?;
    stage.attach(Who::Hostile, &rig, rig.rings())?;
    let broken = stage.breaks(Who::Hostile)?;
    let shrink =
        |rig: &Rig, region| rig.memory.resize(region, 0).attempt(|| "cut a memory file".to_owned());
    if d.once_in(2) {
        // The rings themselves.
        shrink(&rig, 0)?;
    } else {
        // Only what a descriptor leads to: the second piece of a chain lies in the second region.
        let frame = carried(&datagram(d));
        rig.add(&NetHeader::default(), &frame, Shape { cuts: &[12], table: None });
        shrink(&rig, 1)?;
        rig.expose();
    }
    rig.kick(1);
    wait_for_break(stage, Who::Hostile, broken).map_err(|e| after(name, e))?;
    Ok(Blow { name, counted: one("break.memory_torn"), torn: true, arrived: Vec::new() })
}

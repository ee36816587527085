//! What a hostile driver does to its rings: one change to a valid ring, chain or memory file, and
//! the break it must be called by.

mod changes;

use virtqueue::driver::{AnyQueue, DriverQueue, DriverRing, Shape};
use virtqueue::{GuestAddress, NetHeader};

use changes::*;

use super::cast::{BASE_MAC, Who};
use super::dice::Dice;
use super::expect::Tally;
use super::rig::{Build, REGIONS, Rig};
use super::stage::{Stage, wait_for_break};
use crate::driver::{Rings, features};
use crate::error::{Attempt, LabError, Result};
use crate::frames::{self, protocol};

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

/// The same of packed rings.
const EITHER_PACKED: [Outcome; 5] = [
    Outcome::Break("break.chain_flags"),
    Outcome::Break("break.descriptor_address"),
    Outcome::Break("break.descriptor_direction"),
    Outcome::Break("break.indirect_table"),
    Outcome::Harmless,
];

/// Plays one round; every outcome is as frequent as any other.
pub fn strike(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    if Rings::chosen() == Rings::Packed {
        return strike_packed(stage, d);
    }
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

/// The same, where rings are packed.
fn strike_packed(stage: &mut dyn Stage, d: &mut Dice) -> Result<Blow> {
    match d.index(EITHER_PACKED.len() + 4) {
        0 => output_chain(stage, d, Outcome::Break("break.chain_too_short")),
        1 => output_chain(stage, d, Outcome::Drop("drop.frame_length")),
        2 => layout(stage, d),
        3 => torn(stage, d),
        n if d.once_in(2) => output_chain(stage, d, EITHER_PACKED[n - 4]),
        n => input_chain(stage, d, EITHER_PACKED[n - 4]),
    }
}

/// Breaks the output ring of a rig that has sent nothing.
pub fn spoil(rig: &Rig) {
    match &rig.tx.queue {
        AnyQueue::Split(queue) => {
            let wild = rig.build.start.wrapping_add(30_000).to_le_bytes();
            rig.memory.write(queue.avail_index_at(), &wild);
        }
        AnyQueue::Packed(queue) => {
            // Available, and leads on to one that is not.
            let begin = queue.base();
            let lap = if begin & 0x8000 == 0 { USED } else { AVAIL };
            queue.set_second_half(begin & 0x7fff, u64::from(lap | NEXT) << 48);
        }
    }
}

/// The split ring that a rig is to have here.
fn split(queue: &AnyQueue) -> Result<&DriverQueue> {
    match queue {
        AnyQueue::Split(queue) => Ok(queue),
        AnyQueue::Packed(_) => Err(LabError::Unexpected("a packed ring".to_owned())),
    }
}

/// The changes that fit rings of the chosen layout.
fn of_layout() -> &'static [Change] {
    match Rings::chosen() {
        Rings::Split => SPLIT,
        Rings::Packed => PACKED,
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
    let (change, form) = choose(d, build, outcome, &[CHANGES, of_layout(), OUTPUT], 60);
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
    let (change, form) = choose(d, build, outcome, &[CHANGES, of_layout()], 25);
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
        rig.memory.write(split(&rig.tx.queue)?.avail_index_at(), &index);
    } else {
        rig.memory.write(split(&rig.rx.queue)?.avail_index_at(), &index);
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
    rig.memory.write(split(queue)?.used_index_at(), &used.to_le_bytes());
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
    let packed = Rings::chosen() == Rings::Packed;
    // A base that is asked in messages refuses the first three before they come to be rings. The two
    // small parts of a packed ring are four octets: one fits nowhere so that it reaches beyond the end,
    // but where it is not aligned.
    match d.range(if stage.is_wired() { 3 } else { 0 }, if packed { 5 } else { 6 }) {
        0 => ring.desc = skew(d, ring.desc, 16),
        1 => ring.avail = skew(d, ring.avail, if packed { 4 } else { 2 }),
        2 => ring.used = skew(d, ring.used, 4),
        3 => ring.desc = over(d),
        4 if packed => ring.avail = GuestAddress(REGIONS[2].0 + REGIONS[2].1 - 2),
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

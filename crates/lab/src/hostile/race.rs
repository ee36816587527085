//! A driver that rewrites its buffers and rings while the base reads them.
//!
//! A thread writes into frames, headers and, if it is to, descriptors and indices, as fast as it
//! can, in values that make a difference to whoever looks twice. What becomes of a frame cannot be
//! foretold; what arrives must be whole: a datagram that was checked, behind a header that fits it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use virtqueue::GuestAddress;
use virtqueue::driver::{AnyQueue, DriverMemory, DriverRing, Shape};

use super::cast::Who;
use super::dice::Dice;
use super::rig::{Build, Rig};
use super::speech::{SAYINGS, Shot};
use super::stage::{PATIENCE, Stage};
use crate::driver::features;
use crate::error::{Attempt, LabError, Result};

/// Frames under way at once.
const FLIGHT: u64 = 32;
/// How long rings that are rewritten are served.
const MOMENT: Duration = Duration::from_micros(500);

/// What the scribbler may write, and where.
struct Places {
    memory: Arc<DriverMemory>,
    /// Address and length of buffers.
    buffers: Vec<(u64, usize)>,
    /// Address and length of parts of the ring.
    ring: Vec<(u64, usize)>,
}

impl Places {
    fn of(rig: &Rig, rings: bool) -> Self {
        let queue = &rig.tx.queue;
        let layout = queue.layout();
        let mut buffers = Vec::new();
        for index in 0..layout.size {
            let mut descriptor = [0; 16];
            rig.memory.read(queue.descriptor_at(index), &mut descriptor);
            let [address, rest] = [0, 8].map(|at: usize| {
                descriptor
                    .get(at..)
                    .and_then(|d| d.first_chunk())
                    .map_or(0, |w| u64::from_le_bytes(*w))
            });
            let len = (rest as u32 as usize).min(120);
            if address != 0 && len > 0 {
                buffers.push((address, len));
            }
        }
        let mut ring = Vec::new();
        if rings {
            let size = usize::from(layout.size);
            ring.push((layout.desc.0, size * 16));
            let (avail, used) = match queue {
                AnyQueue::Split(_) => (size * 2 + 6, size * 8 + 6),
                AnyQueue::Packed(_) => (4, 4),
            };
            ring.push((layout.avail.0, avail));
            ring.push((layout.used.0, used));
        }
        Self { memory: Arc::clone(&rig.memory), buffers, ring }
    }

    /// One change, and back again: most of a frame is right at any moment, and something is not.
    fn scribble(&self, d: &mut Dice) {
        let of = match self.ring.is_empty() || !d.once_in(3) {
            true => &self.buffers,
            false => &self.ring,
        };
        let Some(&(address, len)) = of.get(d.index(of.len().max(1))) else { return };
        let at = GuestAddress(address + d.index(len) as u64);
        let value = match d.range(0, 4) {
            // Flags, lengths, protocols and versions that mean something else each.
            0 => d.pick(&[0, 1, 3, 4, 6, 17, 20, 34, 54, 58, 0x45, 0x60, 0x80, 0xff]),
            1 => Who::Rich.ip4().octets()[3],
            2 => Who::Plain.ip4().octets()[3],
            _ => d.octet(),
        };
        let mut was = [0];
        self.memory.read(at, &mut was);
        self.memory.write(at, &[value]);
        for _ in 0..d.range(0, 64) {
            std::hint::spin_loop();
        }
        self.memory.write(at, &was);
    }
}

/// Plays `rounds` rounds; `rings`: rings are rewritten as well, not only buffers. `arrived` is given
/// every frame that has come to the receivers after each flight.
pub fn rounds(
    stage: &mut dyn Stage,
    d: &mut Dice,
    rounds: u64,
    rings: bool,
    mut arrived: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut left = rounds;
    while left > 0 {
        let build = Build { features: features::ALL, ring: 64, ..Build::SPEAKER };
        let mut rig = Rig::filled(build)?;
        stage.attach(Who::Hostile, &rig, rig.rings())?;
        let broken = stage.breaks(Who::Hostile)?;
        let mut alive = true;
        // New rings after some flights, whole or not.
        for _ in 0..16 {
            let flight = left.min(FLIGHT);
            if flight == 0 || !alive {
                break;
            }
            alive = fly(stage, d, &mut rig, flight, rings, broken)?;
            left -= flight;
            arrived()?;
        }
    }
    Ok(())
}

/// One flight; false if the rings are broken after it.
fn fly(
    stage: &mut dyn Stage,
    d: &mut Dice,
    rig: &mut Rig,
    flight: u64,
    rings: bool,
    broken: u64,
) -> Result<bool> {
    for _ in 0..flight {
        let (_, saying) = SAYINGS[d.index(SAYINGS.len())];
        let Shot { header, frame, .. } = saying(d);
        rig.add(&header, &frame, Shape::default());
    }
    let places = Places::of(rig, rings);
    let stop = AtomicBool::new(false);
    let seed = d.next();
    std::thread::scope(|scope| {
        let (stop, places) = (&stop, &places);
        let scribbler = std::thread::Builder::new().name("scribbler".to_owned());
        scribbler
            .spawn_scoped(scope, move || {
                let mut d = Dice::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    places.scribble(&mut d);
                }
            })
            .attempt(|| "start a thread".to_owned())?;
        rig.expose();
        rig.kick(1);
        let taken = wait(stage, rig, rings, broken);
        stop.store(true, Ordering::Relaxed);
        taken
    })
}

/// Waits until all frames of the flight are taken, or the rings are broken: false. Rings that were
/// rewritten tell nothing: they get a moment, and are given up.
fn wait(stage: &mut dyn Stage, rig: &mut Rig, rings: bool, broken: u64) -> Result<bool> {
    let begun = Instant::now();
    loop {
        if stage.breaks(Who::Hostile)? > broken {
            return if rings { Ok(false) } else { Err(broke()) };
        }
        if rings {
            if begun.elapsed() > MOMENT {
                return Ok(false);
            }
        } else {
            rig.tx.reclaim();
            if rig.tx.queue.outstanding() == 0 {
                return Ok(true);
            }
        }
        if begun.elapsed() > PATIENCE {
            let what = "an end of a flight that was rewritten".to_owned();
            return Err(LabError::Timeout { what, limit: PATIENCE });
        }
        std::thread::yield_now();
    }
}

fn broke() -> LabError {
    LabError::Unexpected("rings broke though only buffers were rewritten".to_owned())
}

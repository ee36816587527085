//! A guest's side of one port: memory, two rings whose descriptors are set up once, a front end.
//!
//! ```text
//!  [ rx: table, rings, buffers ][ tx: table, rings, buffers ]     one memory file
//!  buffer n of a ring is descriptor n, and available entry n names it, for ever
//! ```
//! So to send is to write buffer `n mod size` and to show a higher index, and to give buffers back
//! is to show a higher index: what a driver spends on its own book-keeping is left out, for all
//! contenders alike. It relies on a device that completes in order; the receiver checks that.
//!
//! In a packed ring, where a used descriptor takes the place of an available one, the second half of each
//! is written anew whenever it is shown (`words`), as any driver must.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lab::driver::{FrontEnd, REPLY_ACK, Region, features};
use lab::error::Attempt;
use lab::{LabError, Result};
use rustix::event::{EventfdFlags, eventfd};
use virtqueue::driver::{Buffer, DriverMemory, DriverQueue, DriverRing, PackedQueue};
use virtqueue::{GuestAddress, QueueFeatures, QueueLayout, TxQueue};

use super::words::{AVAILABLE, USED};

/// Octets of the virtio-net header.
pub const HEADER: usize = 12;
/// Octets of a memory page: how large sends are scattered.
const PAGE: usize = 4096;

/// How a ring's buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Entries of the ring.
    pub entries: u16,
    /// Octets of each buffer.
    pub buffer: usize,
}

/// One ring and its buffers.
#[derive(Debug)]
pub struct Ring {
    /// How its buffers are.
    pub shape: Shape,
    /// Where it lies.
    pub layout: QueueLayout,
    /// Where its first buffer lies.
    pub buffers: GuestAddress,
    /// Octets from one buffer to the next.
    pub stride: usize,
    /// Of a packed ring, the second half of its first descriptor in no lap.
    pub half: Option<u64>,
    /// Where its driver says whether it wants interrupts.
    events: GuestAddress,
}

impl Ring {
    /// Lays out a ring. Its chains are `len` octets of each buffer; without `writable`, what is
    /// longer than a page is a table of pages, as guests send. Receive buffers are the device's from
    /// the start.
    fn new(
        memory: &Arc<DriverMemory>,
        shape: Shape,
        len: usize,
        writable: bool,
        packed: bool,
    ) -> Self {
        let (memory_of, entries, features) =
            (memory.clone(), shape.entries, queue_features(packed));
        if !packed {
            let mut queue = DriverQueue::new(memory_of, entries, features, 0);
            let (buffers, stride) = Self::fill(&mut queue, memory, shape, len, writable);
            if writable {
                queue.expose();
            }
            let layout = queue.layout();
            return Self { shape, layout, buffers, stride, half: None, events: layout.avail };
        }
        let mut queue = PackedQueue::new(memory_of, entries, features, PACKED_START);
        let (buffers, stride) = Self::fill(&mut queue, memory, shape, len, writable);
        let half = Some(queue.second_half(0) & !(AVAILABLE | USED));
        if writable {
            queue.expose();
        } else {
            // Nothing is available before it is sent.
            (0..entries).for_each(|slot| queue.set_second_half(slot, 0));
        }
        let layout = queue.layout();
        let events = GuestAddress(layout.avail.0 + 2);
        Self { shape, layout, buffers, stride, half, events }
    }

    /// Sets up all descriptors; where the first buffer lies, and octets from one to the next.
    fn fill(
        queue: &mut impl DriverRing,
        memory: &DriverMemory,
        shape: Shape,
        len: usize,
        writable: bool,
    ) -> (GuestAddress, usize) {
        let stride = shape.buffer.next_multiple_of(64);
        let octets = stride * usize::from(shape.entries);
        let buffers = memory.allocate(octets as u64, PAGE as u64);
        for n in 0..u64::from(shape.entries) {
            let start = buffers.0 + n * stride as u64;
            let step = if writable { len } else { PAGE };
            let pieces: Vec<_> = (0..len)
                .step_by(step)
                .map(|at| Buffer {
                    address: GuestAddress(start + at as u64),
                    len: step.min(len - at) as u32,
                })
                .collect();
            let table = (pieces.len() > 1).then_some(0);
            // A fresh ring has its descriptors in order.
            queue.add(&pieces, writable, table).expect("an entry for each buffer");
        }
        (buffers, stride)
    }

    fn octets(shape: Shape) -> u64 {
        // Table, both rings, indirect tables; buffers, aligned.
        let entry = 16 + 2 + 8 + 16 * (shape.buffer / PAGE + 1) + shape.buffer.next_multiple_of(64);
        (entry * usize::from(shape.entries) + 4 * PAGE) as u64
    }
}

/// How the rings are walked.
fn queue_features(packed: bool) -> QueueFeatures {
    QueueFeatures {
        event_idx: false,
        indirect: true,
        header_len: virtqueue::HeaderLen::Full,
        mergeable: true,
        packed,
    }
}
/// Where a packed ring begins: at its first descriptor, with the wrap counter set.
const PACKED_START: u16 = 0x8000;
/// Numbers of the rings.
const RX: u32 = 0;
const TX: u32 = 1;

/// How a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its receive ring.
    pub rx: Shape,
    /// Its output ring.
    pub tx: Shape,
    /// Octets of each frame it sends.
    pub frame: usize,
    /// Whether checksums and segmentation are left to others.
    pub offloads: bool,
    /// Whether its rings are packed.
    pub packed: bool,
}

impl Plan {
    fn features(&self) -> u64 {
        let offloads = if self.offloads { features::OFFLOADS } else { 0 };
        let packed = if self.packed { features::RING_PACKED } else { 0 };
        packed
            | features::VERSION_1
            | features::MRG_RXBUF
            | features::INDIRECT_DESC
            | features::PROTOCOL
            | offloads
    }
}

/// A guest, attached to nothing yet.
pub struct Guest {
    /// Its memory.
    pub memory: Arc<DriverMemory>,
    /// Input ring, output ring.
    pub rings: [Ring; 2],
    /// Wakes the device at the output ring.
    pub kick: OwnedFd,
    /// Woken by the device when something has arrived, if it wants to be.
    pub call: OwnedFd,
    /// The connection and what else is passed over it, kept as long as the guest.
    _link: Option<(FrontEnd, [OwnedFd; 2])>,
}

impl Guest {
    /// Makes the memory and lays out the rings.
    pub fn new(plan: &Plan) -> Result<Self> {
        let octets = Ring::octets(plan.rx) + Ring::octets(plan.tx);
        let octets = octets.next_multiple_of(2 << 20);
        let memory =
            DriverMemory::new(&[(0, octets)]).attempt(|| "make a memory file".to_owned())?;
        let rings = [
            Ring::new(&memory, plan.rx, plan.rx.buffer, true, plan.packed),
            Ring::new(&memory, plan.tx, HEADER + plan.frame, false, plan.packed),
        ];
        for ring in &rings {
            // No interrupts.
            memory.u16_at(ring.events).store(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(Self { memory, rings, kick: event()?, call: event()?, _link: None })
    }

    /// Wants to be interrupted when something arrives, as a guest that waits does.
    pub fn want_interrupts(&self) {
        let flags = self.memory.u16_at(self.rings[0].events);
        flags.store(0, std::sync::atomic::Ordering::Relaxed);
    }

    /// The device's side of its output ring, for a switch in this process that polls.
    pub fn output(&self) -> Result<TxQueue> {
        let (memory, layout) = (self.memory.share(), self.rings[1].layout);
        let refused = |fault| LabError::Unexpected(format!("the guest's output ring: {fault}"));
        let features = queue_features(self.rings[1].half.is_some());
        let mut queue = TxQueue::resume(memory, layout, features).map_err(refused)?;
        // A switch that polls wants no notification.
        queue.disarm();
        Ok(queue)
    }

    /// Connects to a back end that listens at `socket`, and starts the rings.
    pub fn attach(&mut self, socket: &Path, plan: &Plan) -> Result<()> {
        let mut front_end = FrontEnd::connect(socket, Duration::from_secs(10))?;
        let others = [event()?, event()?];
        front_end.set_owner()?;
        let (wanted, offered) = (plan.features(), front_end.features()?);
        if wanted & !offered != 0 {
            let lacks = format!("{} offers {offered:#x}: not {wanted:#x}", socket.display());
            return Err(LabError::Unexpected(lacks));
        }
        front_end.negotiate_protocol(REPLY_ACK)?;
        front_end.set_features(wanted)?;
        let region = &self.memory.regions()[0];
        let user = region.user();
        let announced = Region { guest: region.guest.0, len: region.len, user, offset: 0 };
        front_end.set_memory(&[(announced, region.file())])?;
        for (number, ring) in [(RX, &self.rings[0]), (TX, &self.rings[1])] {
            let at = |address: GuestAddress| user + address.0;
            let layout = ring.layout;
            front_end.set_ring_size(number, layout.size)?;
            front_end.set_ring_base(number, if plan.packed { PACKED_START } else { 0 })?;
            let (desc, used, avail) = (at(layout.desc), at(layout.used), at(layout.avail));
            front_end.set_ring_addresses(number, desc, used, avail)?;
            let [kick, call] = match number {
                TX => [&self.kick, &others[0]],
                _ => [&others[1], &self.call],
            };
            front_end.set_ring_call(number, Some(call.as_fd()))?;
            front_end.set_ring_kick(number, Some(kick.as_fd()))?;
        }
        front_end.enable_ring(RX, true)?;
        front_end.enable_ring(TX, true)?;
        self._link = Some((front_end, others));
        Ok(())
    }
}

fn event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .attempt(|| "make an event descriptor".to_owned())
}

#[cfg(test)]
mod tests {
    use bench::frames::Kind;
    use virtqueue::{Delivered, NetHeader, RxQueue};

    use super::*;
    use crate::contender::ends;
    use crate::generator::{Generator, Template};
    use crate::slice::Slice;
    use crate::stage::SHORT;

    #[test]
    fn what_is_sent_arrives_lap_after_lap_over_rings_of_both_layouts() {
        for packed in [false, true] {
            let plan = Plan { packed, ..SHORT };
            let [from, to] = [Guest::new(&plan).unwrap(), Guest::new(&plan).unwrap()];
            let template = Template::new(Kind::Udp, ends(), SHORT.frame);
            let mut generator = Generator::new(&from, &to, &template);
            let (memory, layout) = (to.memory.share(), to.rings[0].layout);
            let mut output = from.output().unwrap();
            let mut input = RxQueue::resume(memory, layout, queue_features(packed)).unwrap();
            let (mut seen, mut room) = (Slice::default(), [0; 100]);
            // The buffers' count begins anew, too.
            for carried in 0..70_000 {
                if carried % 48 == 0 {
                    input.publish().unwrap();
                    output.complete().unwrap();
                    generator.turn(&mut seen);
                    generator.turn(&mut seen);
                }
                let taken = output.copy_next(&mut room).unwrap().unwrap();
                let frame = &room[..taken.len];
                let delivered = input.deliver(&NetHeader::default(), &[frame]);
                assert_eq!(delivered, Ok(Delivered::Written), "{packed}: {carried}");
            }
            input.publish().unwrap();
            // The last ones are no batch: they are seen when nothing more has come for a while.
            for _ in 0..200 {
                generator.turn(&mut seen);
            }
            assert_eq!([seen.received, seen.lost, seen.wrong, seen.dry], [70_000, 0, 0, 0]);
            // More is sent than carried: in the end there is no room.
            assert!(seen.full > 0, "{seen:?}");
        }
    }

    #[test]
    fn a_guest_with_packed_rings_that_sent_nothing_has_nothing_to_be_taken() {
        let guest = Guest::new(&Plan { packed: true, ..SHORT }).unwrap();
        assert_eq!(guest.output().unwrap().available(), Ok(0));
    }
}

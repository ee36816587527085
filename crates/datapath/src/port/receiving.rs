//! The half of a port that every worker uses which has something for it, one at a time: an input ring.
//! A port with several queue pairs has as many of these.
//!
//! ```text
//! rx ring <- put()     <- storage      one call per datagram,
//!            publish()                 one index and at most one notification per batch
//! ```

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtqueue::{Delivered, NetHeader, QueueFeatures, RingFault, RxQueue};

use super::{EFFORT, ETHERNET, signal};
use crate::counters::{Counter, Counters};
use crate::envelope::Envelope;
use crate::faults::{self, Point};
use crate::names::{Mac, Pair, RingId, Side};
use crate::offload::{Abilities, Handover, Offload};
use crate::segment::Segments;
use crate::state::marks::Receiver;
use crate::state::port::RingJournal;
use crate::state::suspicion::PortSuspicion;
use crate::storage::{HEADERS, MAX_FRAME, Storage};
use crate::vhost::Ring;

/// The input side: what the guest receives.
struct RxEnd {
    queue: RxQueue,
    /// The buffer that is to be left out, by its index.
    skip: Option<u16>,
    abilities: Abilities,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
    /// Descriptors that are looked at for one batch, about.
    most: u32,
}

/// What is used to deliver to a port.
#[derive(Default)]
pub struct Receiving {
    /// Where its frames go on the last inch, as far as it is known.
    pub mac: Option<Mac>,
    /// Its rings stand still until it is reset, and what comes for it is dropped.
    pub quarantined: bool,
    rx: Option<RxEnd>,
    /// A ring that broke, until this was told.
    fallen: Option<RxEnd>,
    /// What is held against a buffer of the rx ring, until the ring has passed it.
    suspected: Option<u16>,
    /// A ring broke, and none was brought anew.
    pub(super) broken: bool,
    scratch: Vec<u8>,
}

impl Receiving {
    /// That of a port without rings.
    pub(super) fn new(mac: Option<Mac>) -> Self {
        Self { mac, ..Self::default() }
    }

    /// Another of the same port, whose ring never ran.
    pub(super) fn beside(&self) -> Self {
        let Self { mac, quarantined, broken, .. } = *self;
        Self { mac, quarantined, broken, ..Self::default() }
    }

    /// Takes the rx ring into use, as [`super::Port::start`] says.
    pub(super) fn start(&mut self, ring: Ring, journal: RingJournal) -> Result<(), RingFault> {
        let features = QueueFeatures::from_bits(ring.features);
        let (memory, layout) = (ring.memory, ring.layout);
        let queue = if features.packed {
            RxQueue::resume_packed(memory, layout, features, Box::new(journal))?
        } else {
            RxQueue::resume(memory, layout, features)?
        };
        signal(ring.call.as_ref());
        let abilities = abilities(ring.features);
        let (call, err) = (ring.call, ring.err);
        self.rx = Some(RxEnd { queue, skip: None, abilities, call, err, most: EFFORT });
        Ok(())
    }

    /// Takes into account what is held against the pair's ring that was just started.
    pub(super) fn beware(&mut self, pair: Pair, suspicion: &PortSuspicion) {
        let Some(rx) = &mut self.rx else { return };
        rx.skip = suspicion.skip(RingId { pair, side: Side::Rx });
        self.suspected = rx.skip.or(suspicion.receiving(pair));
    }

    /// Stops using the ring: where it stands, as GET_VRING_BASE tells it.
    pub(super) fn stop(&mut self) -> Option<u32> {
        self.rx.take().map(|rx| rx.queue.base())
    }

    /// Interrupts the driver by this descriptor from now on; the one before, to be closed by whoever
    /// has nothing locked.
    pub(super) fn set_call(&mut self, call: Option<Arc<OwnedFd>>) -> Option<Arc<OwnedFd>> {
        self.rx.as_mut().and_then(|rx| std::mem::replace(&mut rx.call, call))
    }

    /// The index of the next buffer of the rx ring, for the mark.
    #[inline]
    pub fn position(&self) -> u16 {
        self.rx.as_ref().map_or(0, |rx| rx.queue.position())
    }

    /// Whether the rx ring has just passed the buffer that was suspected.
    #[inline]
    pub fn is_cleared(&mut self) -> bool {
        let Some(index) = self.suspected else { return false };
        let Some(rx) = &self.rx else { return false };
        // Behind it by less than half of all indices.
        let passed = (1..0x8000).contains(&rx.queue.next_index().wrapping_sub(index));
        if passed {
            self.suspected = None;
        }
        passed
    }

    /// Whether the rx ring is in use.
    pub fn receives(&self) -> bool {
        self.rx.is_some()
    }

    /// Looks at no more descriptors for one batch than about so many.
    pub(super) fn limit_effort(&mut self, most: u32) {
        if let Some(rx) = &mut self.rx {
            rx.most = most;
        }
    }

    /// Asks for the descriptors of the rx ring's next `n` buffers.
    #[inline]
    pub fn foresee_chains(&mut self, n: u16) {
        if let Some(rx) = &mut self.rx {
            // A fault is met again, and named, by what comes to write there.
            let _ = rx.queue.foresee_chains(n);
        }
    }

    /// Asks for those buffers.
    #[inline]
    pub fn foresee_buffers(&mut self, n: u16) {
        if let Some(rx) = &mut self.rx {
            rx.queue.foresee_buffers(n);
        }
    }

    /// The headers with which a datagram goes to the guest; `Err`: why none does.
    pub fn envelope(&self) -> Result<Envelope, Counter> {
        let Some(rx) = &self.rx else { return Err(self.down()) };
        let mac = self.mac.ok_or(Counter::RxMacUnknown)?;
        Ok(Envelope::to(mac, rx.abilities))
    }

    /// Copies the datagrams of a run into the rx ring, as long as they go behind common headers and
    /// the next buffer is of the common kind. How many, and their octets; the next one is to be
    /// [put](Receiving::put) there by itself.
    #[inline]
    pub fn put_stretch(
        &mut self,
        mark: &Receiver<'_>,
        envelope: &Envelope,
        storage: &Storage,
        run: Range<u16>,
    ) -> (u16, usize) {
        let Some(rx) = &mut self.rx else { return (0, 0) };
        if rx.skip.is_some() || rx.queue.effort() >= rx.most {
            return (0, 0);
        }
        let frames = storage.run(run);
        let frames = frames.map_while(|(style, datagram)| Some((envelope.of(style)?, datagram)));
        rx.queue.deliver_stretch(frames, |index| mark.at(index))
    }

    /// Copies a datagram into the rx ring, completing what the guest's driver cannot. `whole` is the
    /// room for its headers, and the datagram. `Ok(Err(reason))` is a drop; `Err` a broken ring.
    pub fn put(
        &mut self,
        offload: &Offload,
        envelope: &Envelope,
        whole: &mut [u8],
        counters: Counters<'_>,
    ) -> Result<Result<(), Counter>, RingFault> {
        let Some(rx) = &mut self.rx else { return Ok(Err(self.down())) };
        envelope.put_on(whole);
        let Some((headers, datagram)) = whole.split_first_chunk_mut::<HEADERS>() else {
            return Ok(Err(Counter::DropFrameLength));
        };
        match offload.header_for(rx.abilities, ETHERNET as u16) {
            Handover::Whole(header) => {
                let header = NetHeader { num_buffers: 1, ..header };
                if let Some(place) = headers.first_chunk_mut::<{ NetHeader::LEN }>() {
                    *place = header.to_bytes();
                }
                rx.write_whole(whole)
            }
            Handover::CompleteChecksum { start, offset } => {
                let _ = crate::offload::complete_checksum(datagram, start, offset);
                rx.write_whole(whole)
            }
            Handover::Segment(segmentation) => {
                counters.add(Counter::Segmented, 1);
                let Some(segments) = Segments::of(datagram, &segmentation) else {
                    return Ok(Err(Counter::DropOffloadSegmentation));
                };
                let ethernet = headers.last_chunk::<ETHERNET>().unwrap_or(&[0; ETHERNET]);
                self.scratch.resize(MAX_FRAME, 0);
                for i in 0..segments.count() {
                    let Some(len) = segments.write(i, &mut self.scratch) else { break };
                    let segment = self.scratch.get(..len).unwrap_or_default();
                    match rx.write(&NetHeader::default(), &[ethernet, segment])? {
                        Ok(()) => {}
                        refused => return Ok(refused),
                    }
                }
                Ok(Ok(()))
            }
        }
    }

    /// Copies a frame of the base's own (an answer) into the rx ring.
    pub fn put_frame(&mut self, frame: &[u8]) -> Result<Result<(), Counter>, RingFault> {
        let Some(rx) = &mut self.rx else { return Ok(Err(self.down())) };
        rx.write(&NetHeader::default(), &[frame])
    }

    /// Publishes what was put, and notifies the guest if it wants to know.
    pub fn publish(&mut self) -> Result<(), RingFault> {
        let Some(rx) = &mut self.rx else { return Ok(()) };
        faults::pass(Point::Written);
        let notify = rx.queue.publish()?;
        faults::pass(Point::Published);
        if notify {
            signal(rx.call.as_ref());
        }
        Ok(())
    }

    /// The ring broke: nothing touches it from now on.
    pub fn fall(&mut self) {
        self.fallen = self.rx.take();
        self.broken = true;
    }

    /// Whether it broke, and nobody was told.
    pub(super) fn has_fallen(&self) -> bool {
        self.fallen.is_some()
    }

    /// Lets go of the ring, and tells the front end that it is broken.
    pub(super) fn break_ring(&mut self) {
        self.broken = true;
        signal(self.rx.take().or(self.fallen.take()).and_then(|rx| rx.err).as_ref());
    }

    fn down(&self) -> Counter {
        match (self.quarantined, self.broken) {
            (true, _) => Counter::RxPortQuarantined,
            (false, true) => Counter::RxPortBroken,
            (false, false) => Counter::RxPortDown,
        }
    }
}

impl RxEnd {
    /// Whether another frame may be written; leaves out a buffer that is to be left out.
    fn goes_on(&mut self) -> Result<bool, RingFault> {
        if self.queue.effort() >= self.most {
            return Ok(false);
        }
        if self.skip == Some(self.queue.position()) && self.queue.skip_next()? {
            self.skip = None;
        }
        Ok(true)
    }

    fn write(
        &mut self,
        header: &NetHeader,
        parts: &[&[u8]],
    ) -> Result<Result<(), Counter>, RingFault> {
        if !self.goes_on()? {
            return Ok(Err(Counter::RxEffort));
        }
        Ok(fate(self.queue.deliver(header, parts)?))
    }

    /// A frame in one piece behind its virtio-net header.
    fn write_whole(&mut self, octets: &[u8]) -> Result<Result<(), Counter>, RingFault> {
        if !self.goes_on()? {
            return Ok(Err(Counter::RxEffort));
        }
        Ok(fate(self.queue.deliver_whole(octets)?))
    }
}

fn fate(delivered: Delivered) -> Result<(), Counter> {
    match delivered {
        Delivered::Written => Ok(()),
        Delivered::NoBuffer => Err(Counter::RxNoBuffer),
        Delivered::TooSmall => Err(Counter::RxBufferTooSmall),
    }
}

/// What the driver takes unfinished in what it receives.
fn abilities(features: u64) -> Abilities {
    let has = |bit: u32| features.wrapping_shr(bit) & 1 == 1;
    Abilities { checksum: has(1), tso4: has(7), tso6: has(8), ecn: has(9) }
}

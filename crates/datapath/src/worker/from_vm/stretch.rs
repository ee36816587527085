//! Many short frames of one port at a time: the way that nearly every datagram takes.
//!
//! # Theory of operation
//! ```text
//! foresee   how many there are; descriptors and octets of all are asked for     (virtqueue/src/tx.rs)
//! copy      all of them into storage, before anything is decided about one
//! look      each: is it a common datagram?                                      (datagram/plain.rs)
//! find      may its sender say it, and does it go to another VM, or outside?    (owned.rs, admit.rs)
//! note      such ones at their receivers, or for the card; all others are decided one by one, at their
//!           turn
//! ```
//! What the guest wrote lies in another core's cache. Asked for one by one, each datagram would wait
//! for its lines; so all are asked for before the first is copied. A frame of another kind (in many
//! pieces, a long one) ends the stretch, and is taken by itself; a short large send is its last.
//!
//! Datagrams that stand one behind the other and go to the same VM are a run, which is noted at its
//! receiver as a whole. If the receiver has several rings, it is cut by them.
//!
//! # Invariants
//! - The datagrams of one port are decided in the order of its ring.
//! - Nothing is refused here: what is not plain is decided by [`Batch::decide`], which has the names.

use std::net::IpAddr;
use std::ops::Range;

use virtqueue::{NetHeader, RingFault};

use super::{Batch, Destination, Tally};
use crate::admit::Way;
use crate::datagram::{self, Kind, Plain};
use crate::envelope::Style;
use crate::fib::{BATCH, Target};
use crate::names::{Lane, PortId};
use crate::offload::Abilities;
use crate::owned::Owned;
use crate::port::{ETHERNET, Port, Sending};
use crate::spread;

/// Frames whose lines are on their way at the same time: more would push each other out of a small
/// cache again. As many destinations are looked up at once.
const STRETCH: usize = BATCH;

impl Batch<'_, '_> {
    /// Takes and decides the next frames of a port as far as they are of the common kind; how many,
    /// `None` if there are no frames at all.
    pub(super) fn take_stretch(
        &mut self,
        port: &mut Sending,
        tally: &mut Tally,
        most: u64,
    ) -> Result<Option<usize>, RingFault> {
        let most = most.min(self.storage.short_frames().min(STRETCH) as u64);
        let n = port.foresee(u16::try_from(most).unwrap_or(u16::MAX).max(1))?;
        if n == 0 {
            return Ok(None);
        }
        self.marks.datagram(self.from, tally.index, tally.with(n));
        let first = self.storage.len() as u16;
        let (taken, octets) = port.take_stretch(n, self.storage)?;
        tally.took(taken, octets.saturating_sub(taken.saturating_mul(ETHERNET)));
        let frames = first..first.wrapping_add(taken as u16);
        let (mut looks, mut ways) = ([Plain::OTHER; STRETCH], [None; STRETCH]);
        self.look(frames.clone(), port.allowed(), &mut looks);
        // The first frame of a card whose address is not known tells it.
        if port.inch.guest_mac.is_some() {
            self.find(&mut port.owned, frames.clone(), &looks, &mut ways);
        }
        self.note_stretch(port, tally, first, ways.get(..taken).unwrap_or_default(), &looks);
        Ok(Some(taken))
    }

    // The steps are functions by themselves: each loop has the registers for itself.

    /// Looks at each frame, and cuts off the padding of those that are common datagrams.
    #[inline(never)]
    fn look(&mut self, frames: Range<u16>, allowed: Abilities, looks: &mut [Plain; STRETCH]) {
        let (mtu, mut looks) = (self.network.mtu, looks.iter_mut());
        self.storage.look(frames, |header, frame| {
            #[cfg(feature = "fault-injection")]
            crate::faults::poison("vm", frame);
            let look = datagram::plain(frame);
            let style = match look.octets() <= mtu {
                true => Style::sent(header, frame, look, allowed),
                false => Style::Other,
            };
            if let Some(place) = looks.next()
                && style != Style::Other
            {
                *place = look;
            }
            (look.octets(), style)
        });
    }

    /// Finds where each common datagram goes, if it may.
    #[inline(never)]
    fn find(
        &self,
        owned: &mut Owned,
        frames: Range<u16>,
        looks: &[Plain; STRETCH],
        ways: &mut [Option<Way>; STRETCH],
    ) {
        let admission = &self.network.admission;
        owned.renew(admission, self.port);
        if admission.is_large() {
            self.find_in_large(owned, frames, looks, ways);
        } else {
            self.admit::<false>(owned, frames, looks, ways, &[]);
        }
    }

    #[inline(never)]
    fn find_in_large(
        &self,
        owned: &mut Owned,
        frames: Range<u16>,
        looks: &[Plain; STRETCH],
        ways: &mut [Option<Way>; STRETCH],
    ) {
        let owners = self.look_up(looks, frames.clone());
        self.admit::<true>(owned, frames, looks, ways, &owners);
    }

    /// The same; whose the destinations are is `KNOWN`, or is asked of a small list here.
    #[inline(always)]
    fn admit<const KNOWN: bool>(
        &self,
        owned: &mut Owned,
        frames: Range<u16>,
        looks: &[Plain; STRETCH],
        ways: &mut [Option<Way>; STRETCH],
        owners: &[Option<Target>],
    ) {
        let (admission, port) = (&self.network.admission, self.port);
        let mut owners = owners.iter();
        for ((look, way), index) in looks.iter().zip(ways).zip(frames) {
            let owner = if KNOWN { owners.next().copied().flatten() } else { None };
            *way = match look.kind() {
                Kind::Other => None,
                Kind::Four => {
                    let (source, destination) = (look.source4(), look.destination4());
                    if !owned.has4(admission, port, source) {
                        continue;
                    }
                    let owner = || if KNOWN { owner } else { admission.owner4(destination) };
                    admission.way4(port, destination, owner)
                }
                Kind::Six => {
                    let frame = self.storage.frame(index);
                    let Some((source, destination)) = datagram::plain_addresses6(frame) else {
                        continue;
                    };
                    if !owned.has6(admission, port, source) {
                        continue;
                    }
                    let owner = || if KNOWN { owner } else { admission.owner6(destination) };
                    admission.way6(port, destination, owner)
                }
            };
        }
    }

    /// Looks all destinations up in a large list: one by one, each would wait for memory.
    #[inline(never)]
    fn look_up(&self, looks: &[Plain; STRETCH], frames: Range<u16>) -> [Option<Target>; STRETCH] {
        let mut batch = self.network.admission.batch();
        for (n, (look, index)) in (0u8..).zip(looks.iter().zip(frames)) {
            match look.kind() {
                Kind::Other => {}
                Kind::Four => batch.ask4(n, look.destination4()),
                Kind::Six => {
                    let frame = self.storage.frame(index);
                    if let Some((_, destination)) = datagram::plain_addresses6(frame) {
                        batch.ask6(n, destination);
                    }
                }
            }
        }
        let mut owners = [None; STRETCH];
        batch.answer(|n, owner| {
            if let Some(place) = owners.get_mut(usize::from(n)) {
                *place = owner;
            }
        });
        owners
    }

    /// Notes each common datagram at its receiver, and decides about the others. `ways` is what was
    /// found for the frames from `first` on.
    #[inline(never)]
    fn note_stretch(
        &mut self,
        port: &mut Sending,
        tally: &mut Tally,
        mut first: u16,
        mut ways: &[Option<Way>],
        looks: &[Plain],
    ) {
        let mut looks = looks.iter();
        while let Some((way, others)) = ways.split_first() {
            let look = looks.next();
            let n = match *way {
                Some(Way::Port(to)) => {
                    let more = others.iter().take_while(|other| *other == way).count();
                    let run = first..first.wrapping_add(more as u16).wrapping_add(1);
                    self.note(port, to, run, tally);
                    looks = looks.as_slice().get(more..).unwrap_or_default().iter();
                    more
                }
                Some(Way::Outside) => {
                    self.leave(port, first, look.copied().unwrap_or(Plain::OTHER));
                    0
                }
                Some(Way::Host) | None => {
                    self.settle(port, first);
                    0
                }
            };
            ways = others.get(n..).unwrap_or_default();
            first = first.wrapping_add(n as u16).wrapping_add(1);
        }
    }

    /// Notes a run for its receiver.
    #[inline]
    fn note(&mut self, port: &mut Sending, to: PortId, run: Range<u16>, tally: &mut Tally) {
        let datagrams = run.end.wrapping_sub(run.start);
        #[cfg(feature = "fault-injection")]
        if self.is_spoilt(&run) {
            return;
        }
        match self.world.ports.get(to.0) {
            Some(receiver) => {
                if receiver.is_spread() {
                    self.spread(port, receiver, run);
                } else {
                    self.inboxes.note_run(receiver.lane(|| 0), self.storage, run.start, datagrams);
                }
                tally.to_vm = tally.to_vm.wrapping_add(datagrams.into());
            }
            None => run.for_each(|index| self.settle(port, index)),
        }
    }

    /// Notes a run for a receiver with several rings: those of one ring that stand one behind the other
    /// are a run of their own.
    #[inline(never)]
    fn spread(&mut self, port: &mut Sending, receiver: &Port, mut run: Range<u16>) {
        let mut begun: Option<(Lane, Range<u16>)> = None;
        while let Some(index) = run.next() {
            let flow = || spread::flow(self.storage.datagram(index), &mut port.trail);
            let to = receiver.lane(flow);
            match &mut begun {
                Some((lane, some)) if *lane == to => some.end = run.start,
                _ => {
                    let next = Some((to, index..run.start));
                    if let Some((lane, some)) = std::mem::replace(&mut begun, next) {
                        self.inboxes.note_run(lane, self.storage, some.start, some.len() as u16);
                    }
                }
            }
        }
        if let Some((lane, some)) = begun {
            self.inboxes.note_run(lane, self.storage, some.start, some.len() as u16);
        }
    }

    /// Routes a common datagram to the LAN, if it fits the card.
    fn leave(&mut self, port: &mut Sending, index: u16, look: Plain) {
        let uplink = super::outside(&mut self.outside, self.network).uplink.as_ref();
        let fits = uplink.is_some_and(|u| u.facts.up && look.octets() <= u.facts.mtu);
        let addresses: Option<(IpAddr, IpAddr)> = match look.kind() {
            Kind::Four => Some((look.source4().into(), look.destination4().into())),
            Kind::Six => datagram::plain_addresses6(self.storage.frame(index))
                .map(|(source, destination)| (source.into(), destination.into())),
            Kind::Other => None,
        };
        match addresses {
            Some((source, destination)) if fits => {
                let to = Destination { way: Way::Outside, source, destination };
                let fate = self.route(port, index, to);
                self.count(fate);
            }
            _ => self.settle(port, index),
        }
    }

    /// Whether the datagrams of a run are to vanish.
    #[cfg(feature = "fault-injection")]
    fn is_spoilt(&mut self, run: &Range<u16>) -> bool {
        let mut gone = false;
        for index in run.clone() {
            gone |= crate::faults::spoil("vm-to-vm", self.storage.datagram_mut(index));
        }
        gone
    }

    /// The general way, for a frame of a stretch.
    #[inline(never)]
    fn settle(&mut self, port: &mut Sending, index: u16) {
        let mut one = self.storage.sent(index..index.wrapping_add(1));
        let Some((header, _)) = one.next() else { return };
        let header = NetHeader::from_bytes(*header);
        drop(one);
        let fate = self.decide(port, &header, index);
        self.count(fate);
    }
}

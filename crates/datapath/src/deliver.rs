//! Delivery: the decided batch goes into receive rings, onto the card and to the host.
//!
//! # Theory of operation
//! While a batch is decided, each datagram is only *noted*: at its receiver's inbox (a list linked
//! through the storage), or at its network's way out. Then each receiver is visited once: all its
//! datagrams are copied into its ring, the index is published, one notification sent. The card and
//! the host get theirs in one go as well.
//!
//! ```text
//! batch:   d0 d1 d2 d3 d4
//! inboxes: port 2: d0 -> d3      port 7: d1      uplink: (d2, mac), (d4, mac)
//! ```
//! A port with several input rings has an inbox for each.
//!
//! A datagram of a VM counts as `to_vm` at its sender once it is noted for a port; what then goes
//! wrong (no buffer, no driver) counts at the receiver.
//!
//! Runs on a worker. Several may have something for one receiver: its ring is locked for the visit.

use std::ops::Range;

use virtqueue::{NetHeader, RingFault};

use crate::counters::{Counter, Counters};
use crate::faults::{self, Point};
use crate::names::{Lane, MAX_PAIRS, Mac, Owner, Pair};
use crate::neighbor::Outbox;
use crate::offload::{Abilities, Checksum, Handover, Offload};
use crate::port::{ETHERNET, Port, Receiving, header};
use crate::state::marks::Marks;
#[cfg(feature = "fault-injection")]
use crate::state::marks::Receiver;
use crate::state::{MAX_PORTS, StateMemory};
use crate::storage::Storage;
use crate::uplink::{HostPath, Outgoing, PacketUplink, Refusal};

/// Frames handed to the kernel in one call.
const CHUNK: usize = 32;

/// What the current batch has for one receiver.
#[derive(Clone, Copy, Debug)]
pub struct Inbox {
    /// Where its first run begins, and its last.
    first: u16,
    last: u16,
    /// How many.
    pub datagrams: u16,
}

/// The receivers that a worker's current batch has something for.
pub struct Inboxes {
    touched: Vec<Lane>,
    /// By pair and port: those of all first pairs lie together.
    inboxes: Box<[Option<Inbox>; LANES]>,
}

/// Input rings that there can be.
const LANES: usize = MAX_PORTS * MAX_PAIRS;

#[inline]
fn place(lane: Lane) -> usize {
    usize::from(lane.pair.number()).wrapping_mul(MAX_PORTS).wrapping_add(lane.port.0.into())
}

impl Default for Inboxes {
    fn default() -> Self {
        Self { touched: Vec::new(), inboxes: Box::new([None; LANES]) }
    }
}

impl Inboxes {
    /// Notes datagram `index` for a pair of a port.
    #[inline]
    pub fn note(&mut self, to: Lane, storage: &mut Storage, index: u16) {
        storage.set_style(index);
        self.note_run(to, storage, index, 1);
    }

    /// Notes `datagrams` datagrams, one behind the other in storage, for a pair of a port.
    #[inline]
    pub fn note_run(&mut self, to: Lane, storage: &mut Storage, first: u16, datagrams: u16) {
        if let Some(item) = storage.item_mut(first) {
            item.run = datagrams;
        }
        match self.inboxes.get_mut(place(to)) {
            Some(Some(inbox)) => {
                if let Some(item) = storage.item_mut(inbox.last) {
                    item.next = Some(first);
                }
                inbox.last = first;
                inbox.datagrams = inbox.datagrams.saturating_add(datagrams);
            }
            Some(empty) => {
                *empty = Some(Inbox { first, last: first, datagrams });
                self.touched.push(to);
            }
            // There are no such ports.
            None => {}
        }
    }

    /// The next receiver, each once, and what there is for it; forgets it.
    pub fn take(&mut self) -> Option<(Lane, Inbox)> {
        let to = self.touched.pop()?;
        let inbox = self.inboxes.get_mut(place(to))?.take()?;
        Some((to, inbox))
    }
}

/// Copies all that is noted for a pair of a port into its ring, which is `port`, and publishes it.
pub fn to_port(
    to: &Port,
    pair: Pair,
    port: &mut Receiving,
    inbox: Inbox,
    storage: &mut Storage,
    state: &StateMemory,
    marks: &Marks,
) -> Result<(), RingFault> {
    let counters = Counters::of(state, Owner::Port(to.id));
    let envelope = match port.envelope() {
        Ok(envelope) => envelope,
        Err(reason) => {
            counters.add(reason, inbox.datagrams.into());
            return Ok(());
        }
    };
    let mark = marks.receiver(Lane { port: to.id, pair });
    let mut next = Some(inbox.first);
    let (mut datagrams, mut octets) = (0u64, 0u64);
    let mut fault = None;
    while let Some(first) = next {
        let Some(item) = storage.item(first) else { break };
        next = item.next;
        let mut run = first..first.saturating_add(item.run);
        while !run.is_empty() {
            if fault.is_some() {
                counters.add(Counter::RxPortBroken, run.len() as u64);
                break;
            }
            #[cfg(feature = "fault-injection")]
            poison(to, port, storage, &mark, run.start);
            let (n, len) = port.put_stretch(&mark, &envelope, storage, stretch_of(&run));
            run.start = run.start.saturating_add(n);
            datagrams = datagrams.saturating_add(n.into());
            octets = octets.saturating_add(len as u64);
            if n > 0 {
                continue;
            }
            let Some((item, whole)) = storage.whole_mut(run.start) else { break };
            run.start = run.start.saturating_add(1);
            mark.at(port.position());
            match port.put(&item.offload, &envelope, whole, counters) {
                Ok(Ok(())) => {
                    datagrams = datagrams.saturating_add(1);
                    octets = octets.saturating_add(item.octets() as u64);
                }
                Ok(Err(reason)) => counters.add(reason, 1),
                Err(broken) => {
                    counters.add(Counter::RxPortBroken, 1);
                    fault = Some(broken);
                }
            }
        }
    }
    let published = match fault {
        Some(fault) => Err(fault),
        None => port.publish(),
    };
    if published.is_ok() {
        counters.add(Counter::Delivered, datagrams);
        counters.add(Counter::DeliveredBytes, octets);
    } else {
        // The guest never saw what was copied before the ring broke.
        counters.add(Counter::RxPortBroken, datagrams);
    }
    published
}

/// What of a run is delivered in one go: all of it.
#[cfg(not(feature = "fault-injection"))]
fn stretch_of(run: &Range<u16>) -> Range<u16> {
    run.clone()
}

/// All of it, but one where each is to be the one at which the base may die.
#[cfg(feature = "fault-injection")]
fn stretch_of(run: &Range<u16>) -> Range<u16> {
    match crate::faults::is("poison") {
        true => run.start..run.start.saturating_add(1),
        false => run.clone(),
    }
}

#[cfg(feature = "fault-injection")]
fn poison(to: &Port, port: &Receiving, storage: &Storage, mark: &Receiver<'_>, index: u16) {
    mark.at(port.position());
    crate::faults::poison("delivery", storage.datagram(index));
    crate::faults::poison_buffer(&to.name, port.position());
}

/// Fills in the checksum that the sender left to offload: fragments of a datagram cannot carry it.
pub fn complete(offload: &Offload, datagram: &mut [u8]) {
    if let Checksum::Partial { start, offset } = offload.checksum {
        let _ = crate::offload::complete_checksum(datagram, start, offset);
    }
}

/// The virtio-net header with which the kernel takes a datagram; completes in place what even the
/// kernel cannot.
fn for_kernel(offload: &Offload, datagram: &mut [u8], l2: u16) -> NetHeader {
    match offload.header_for(Abilities::ALL, l2) {
        Handover::Whole(header) => header,
        Handover::CompleteChecksum { start, offset } => {
            let _ = crate::offload::complete_checksum(datagram, start, offset);
            NetHeader::default()
        }
        // The kernel takes every kind of segmentation that is ever admitted.
        Handover::Segment(_) => NetHeader::default(),
    }
}

/// Sends `(datagram, next hop)` pairs on the card and counts each at its owner.
pub fn to_uplink(
    card: &mut PacketUplink,
    mac: Mac,
    uplink: Owner,
    batch: &mut Vec<(u16, Mac)>,
    storage: &mut Storage,
    state: &StateMemory,
    from: Owner,
) {
    for chunk in batch.chunks(CHUNK) {
        let mut headers = [NetHeader::default(); CHUNK];
        for ((index, _), slot) in chunk.iter().zip(&mut headers) {
            let Some(offload) = storage.item(*index).map(|i| i.offload) else { continue };
            *slot = for_kernel(&offload, storage.datagram_mut(*index), ETHERNET as u16);
        }
        let nothing = Outgoing { header: NetHeader::default(), ethernet: [0; 14], datagram: &[] };
        let mut frames = [nothing; CHUNK];
        for (((index, to), slot), h) in chunk.iter().zip(&mut frames).zip(headers) {
            let datagram = storage.datagram(*index);
            *slot = Outgoing { header: h, ethernet: header(*to, mac, datagram), datagram };
        }
        let frames = frames.get(..chunk.len()).unwrap_or_default();
        let octets = frames.iter().fold(0usize, |sum, f| sum.saturating_add(f.datagram.len()));
        if !card.may_put(from, frames.len(), octets) {
            Counters::of(state, from).add(Counter::DropUplinkSend, frames.len() as u64);
            continue;
        }
        let (mut gone, mut octets) = (0u64, 0u64);
        send(card, frames, |frame, fate| match fate {
            Ok(()) => {
                gone = gone.saturating_add(1);
                octets = octets.saturating_add(frame.datagram.len() as u64);
            }
            Err(refusal) => Counters::of(state, from).add(refusal.uplink_counter(), 1),
        });
        Counters::of(state, from).add(Counter::ToUplink, gone);
        let uplink = Counters::of(state, uplink);
        uplink.add(Counter::Delivered, gone);
        uplink.add(Counter::DeliveredBytes, octets);
    }
    batch.clear();
}

/// Sends frames in order; a refused one is skipped and the rest still tried.
fn send<'a>(
    card: &mut PacketUplink,
    mut frames: &[Outgoing<'a>],
    mut fate: impl FnMut(&Outgoing<'a>, Result<(), Refusal>),
) {
    while !frames.is_empty() {
        let sent = card.send(frames);
        faults::pass(Point::CardSent);
        let (gone, rest) = frames.split_at_checked(sent.count).unwrap_or((frames, &[]));
        for frame in gone {
            fate(frame, Ok(()));
        }
        frames = rest;
        if let Some((first, later)) = rest.split_first() {
            fate(first, Err(sent.refused.unwrap_or(Refusal::Busy)));
            frames = later;
        }
    }
}

/// Sends frames of the base's own (ARP, neighbour discovery) on the card.
pub fn own_frames(card: &mut PacketUplink, outbox: &Outbox) {
    for (ethernet, datagram) in outbox.frames() {
        let header = NetHeader::default();
        // A lost question is asked again by its timer, a lost answer by the other side.
        let _ = card.send(&[Outgoing { header, ethernet: *ethernet, datagram }]);
    }
}

/// Gives datagrams to the host's stack and counts each at its owner.
pub fn to_host(
    path: &mut HostPath,
    host: Owner,
    batch: &mut Vec<u16>,
    storage: &mut Storage,
    state: &StateMemory,
    from: Owner,
) {
    for index in batch.drain(..) {
        let Some(offload) = storage.item(index).map(|i| i.offload) else { continue };
        let header = for_kernel(&offload, storage.datagram_mut(index), 0);
        let datagram = storage.datagram(index);
        match path.send(header, datagram) {
            Ok(()) => {
                Counters::of(state, from).add(Counter::ToHost, 1);
                let host = Counters::of(state, host);
                host.add(Counter::Delivered, 1);
                host.add(Counter::DeliveredBytes, datagram.len() as u64);
            }
            Err(_) => Counters::of(state, from).add(Counter::DropHostSend, 1),
        }
    }
}

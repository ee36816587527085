//! One batch of one VM's output buffers, from its tx ring to wherever it goes.
//!
//! # Theory of operation
//! ```text
//! take -> storage -> datagram -> answer -> admit + fib -> fit -> inbox | uplink | host | waiting
//!   ^                   |          |           |           |                      |
//!   |                   '----------+-----------+-----------'--> counted by name   |
//!   '---- give back <---- deliver all inboxes, send, publish <--------------------'
//! ```
//! The buffers go back to the guest last, when every datagram of the batch has met its fate: a base
//! that dies before has lost nothing, its successor finds them in the ring (rule 7).
//!
//! Meanwhile the marks say how far the batch is, and to whom it is being delivered: if something of
//! it kills the base, its successor knows where to look (`state::blame`).

mod ask;
mod stretch;

use std::net::IpAddr;
use std::sync::MutexGuard;
use std::time::Instant;

use virtqueue::{NetHeader, RingFault};

use super::network::{Network, Outside};
use super::turn::Turn;
use super::world::World;
use crate::admit::Way;
use crate::answer::{self, Answer, LastInch, Replies, Unreachable};
use crate::counters::{Counter, Counters};
use crate::datagram::{self, Ip4, Payload};
use crate::deliver::{self, Inbox, Inboxes};
use crate::event::Event;
use crate::faults::{self, Point};
use crate::fit::{Fit, mtu16};
use crate::fragment::Fragments;
use crate::names::{Lane, Mac, Owner, Pair, PortId};
use crate::neighbor::{Asker, Lookup};
use crate::offload::{Offload, Sender};
use crate::port::{ETHERNET, Frame, Port, Receiving, Sending, behind_ethernet};
use crate::spread;
use crate::state::StateMemory;
use crate::state::marks::Marks;
use crate::state::port::PortRecord;
use crate::storage::{MAX_FRAME, Storage};
use crate::sync::lock;

/// A frame of so many octets costs about as much for them as for being one.
const OCTETS_OF_A_FRAME: u64 = 4096;

/// Receivers whose rings are in hand at the same time.
const HELD: usize = 16;

/// All that one batch touches beside the port it comes from.
struct Batch<'a, 'w> {
    port: PortId,
    /// The port with the pair whose ring it is.
    from: Lane,
    network: &'w Network,
    /// The network's way out, from the first datagram on that goes there.
    outside: Option<MutexGuard<'w, Outside>>,
    world: &'w World,
    state: &'w StateMemory,
    storage: &'a mut Storage,
    replies: &'a mut Replies,
    inboxes: &'a mut Inboxes,
    to_uplink: &'a mut Vec<(u16, Mac)>,
    to_host: &'a mut Vec<u16>,
    marks: &'a Marks,
    now: Instant,
}

/// A receiver of the batch, its ring in hand.
struct Receiver<'w> {
    port: &'w Port,
    pair: Pair,
    inbox: Inbox,
    ring: MutexGuard<'w, Receiving>,
}

impl Turn<'_> {
    /// Serves one batch of a port; how much there was to do, in ordinary frames. `None` if the visit is
    /// over: the port was moved, or its ring stopped.
    pub(super) fn serve_port(&mut self, id: PortId, visit: u64, now: Instant) -> Option<u32> {
        let world = self.world;
        let port = world.ports.get(id.0)?;
        let mut sending = port.sending();
        if sending.visit != visit {
            return None;
        }
        // Most looks of one who polls find nothing.
        if sending.is_silent() {
            return Some(0);
        }
        let network = world.networks.get(port.network.0).filter(|network| !network.ending);
        let Some(network) = network else { return Some(0) };
        let own = &mut *self.own;
        own.storage.clear();
        let mac_known = sending.inch.guest_mac.is_some();
        let mut batch = Batch {
            port: id,
            from: Lane { port: id, pair: sending.pair() },
            network,
            outside: None,
            world,
            state: &world.state,
            storage: &mut own.storage,
            replies: &mut own.replies,
            inboxes: &mut own.inboxes,
            to_uplink: &mut own.to_uplink,
            to_host: &mut own.to_host,
            marks: &own.marks,
            now,
        };
        let (tally, mut fault) = batch.take(&mut sending);
        let outside = batch.outside;
        let mut has_events = false;
        let learned = (!mac_known).then_some(sending.inch.guest_mac).flatten();
        if let Some(mac) = learned {
            // Before the frame that told it is given back: it may be the only one for long.
            PortRecord::of(&world.state, id).set_mac(mac);
            port.set_mac(mac);
        }
        if tally.taken > 0 {
            faults::pass(Point::Copied);
            if let Some(mut outside) = outside {
                self.send_out(network, &mut outside, Owner::Port(id));
                // A question for a neighbour, perhaps.
                has_events = self.has_lan_events(network, &mut outside);
            }
            self.deliver();
            self.send_replies(id);
            faults::pass(Point::Delivered);
            if fault.is_none() {
                fault = sending.give_back().err();
                self.gone_on(id, &mut sending);
            }
        }
        self.own.marks.done();
        if let Some(fault) = fault {
            sending.fall();
            self.broken(id, fault);
        }
        drop(sending);
        if has_events {
            self.lan_events(network, &mut network.outside());
            self.lan_rest(now);
        }
        if let Some(mac) = learned {
            self.crew.emit(Event::MacLearned { port: id, mac });
        }
        Some(tally.work())
    }

    /// Delivers everything that the decided batch has noted for ports.
    pub(super) fn deliver(&mut self) {
        let world = self.world;
        let mut held = [const { None::<Receiver<'_>> }; HELD];
        loop {
            // All these receivers' lines are on their way before the first is written to. With one of
            // them in hand nobody waits for another.
            for place in &mut held {
                while let Some((to, inbox)) = self.own.inboxes.take() {
                    let Some(port) = world.ports.get(to.port.0) else { continue };
                    if let Some(mut ring) = port.receiving_if_free(to.pair) {
                        ring.foresee_chains(inbox.datagrams);
                        *place = Some(Receiver { port, pair: to.pair, inbox, ring });
                        break;
                    }
                    self.own.busy.push((to, inbox));
                }
            }
            for receiver in held.iter_mut().flatten() {
                receiver.ring.foresee_buffers(receiver.inbox.datagrams);
            }
            let mut some = false;
            for receiver in held.iter_mut().filter_map(Option::take) {
                some = true;
                self.hand_over(receiver);
            }
            if !some {
                break;
            }
        }
        while let Some((to, inbox)) = self.own.busy.pop() {
            if let Some(port) = world.ports.get(to.port.0) {
                let ring = port.receiving(to.pair);
                self.hand_over(Receiver { port, pair: to.pair, inbox, ring });
            }
        }
    }

    /// Delivers what there is for one ring.
    fn hand_over(&mut self, mut receiver: Receiver<'_>) {
        let Receiver { port, pair, inbox, ref mut ring } = receiver;
        let (storage, marks) = (&mut self.own.storage, &self.own.marks);
        let delivered =
            deliver::to_port(port, pair, ring, inbox, storage, &self.world.state, marks);
        marks.delivered();
        self.received(Lane { port: port.id, pair }, ring);
        self.own.receiver = Some(port.id);
        if let Err(fault) = delivered {
            ring.fall();
            self.broken(port.id, fault);
        }
    }

    /// Sends what the decided batch has noted for the card and the host.
    pub(super) fn send_out(&mut self, network: &Network, outside: &mut Outside, from: Owner) {
        let own = &mut *self.own;
        let (storage, state) = (&mut own.storage, &self.world.state);
        if let Some(uplink) = &mut outside.uplink {
            let owner = Owner::Uplink(network.id);
            let (mac, batch) = (uplink.facts.mac, &mut own.to_uplink);
            if let Some(xdp) = uplink.xdp.as_mut().filter(|_| uplink.facts.up) {
                xdp.send(mac, owner, batch, storage, state, from);
            }
            deliver::to_uplink(&mut uplink.card, mac, owner, batch, storage, state, from);
        }
        if let Some(host) = &mut outside.host {
            let owner = Owner::Host(network.id);
            deliver::to_host(host, owner, &mut own.to_host, storage, state, from);
        }
    }

    /// Puts the base's own answers into the first ring of the port that asked.
    pub(super) fn send_replies(&mut self, id: PortId) {
        if self.own.replies.is_empty() {
            return;
        }
        let world = self.world;
        if let Some(port) = world.ports.get(id.0) {
            let counters = Counters::of(&world.state, Owner::Port(id));
            let to = Lane::first(id);
            let mut receiving = port.receiving(to.pair);
            let mut fault = None;
            for frame in self.own.replies.iter() {
                self.own.marks.delivering(to, receiving.position());
                match receiving.put_frame(frame) {
                    Ok(Ok(())) => {}
                    Ok(Err(reason)) => counters.add(reason, 1),
                    Err(broken) => {
                        fault = Some(broken);
                        break;
                    }
                }
            }
            if fault.is_none() {
                fault = receiving.publish().err();
            }
            self.own.marks.delivered();
            self.received(to, &mut receiving);
            if let Some(fault) = fault {
                receiving.fall();
                self.broken(id, fault);
            }
        }
        self.own.replies.clear();
    }
}

impl Batch<'_, '_> {
    /// Takes the batch and decides each datagram; what it came to, and what broke.
    fn take(&mut self, port: &mut Sending) -> (Tally, Option<RingFault>) {
        let counters = Counters::of(self.state, Owner::Port(self.port));
        let mut tally = Tally { index: port.index(), ..Tally::default() };
        let most = port.care.most();
        let fault = loop {
            if tally.taken >= most || !self.storage.has_room() || port.is_exhausted() {
                break None;
            }
            self.marks.datagram(self.from, tally.index, tally.with(1));
            if port.care.skip {
                match port.leave_out() {
                    Ok(true) => {
                        counters.add(Counter::DropPoison, 1);
                        tally.taken = tally.taken.saturating_add(1);
                        continue;
                    }
                    Ok(false) => break None,
                    Err(fault) => break Some(fault),
                }
            }
            let left = most.saturating_sub(tally.taken);
            match self.take_stretch(port, &mut tally, left) {
                Ok(Some(0)) => {}
                Ok(Some(_)) => continue,
                Ok(None) => break None,
                Err(fault) => break Some(fault),
            }
            let frame = match port.take(self.storage) {
                Ok(Some(frame)) => frame,
                Ok(None) => break None,
                Err(fault) => break Some(fault),
            };
            self.storage.looked_at(frame.len);
            tally.took(1, frame.len.saturating_sub(ETHERNET));
            let fate = self.decide_frame(port, &frame);
            self.count(fate);
        };
        // The last mark was for one that was not there.
        self.marks.datagram(self.from, tally.index, tally.with(0));
        tally.count(counters);
        (tally, fault)
    }

    /// Counts what was decided.
    fn count(&self, fate: Result<Fate, Counter>) {
        match fate {
            Ok(Fate::Met(counter)) | Err(counter) => {
                Counters::of(self.state, Owner::Port(self.port)).add(counter, 1);
            }
            Ok(Fate::Noted) => {}
        }
    }

    /// What becomes of the frame in storage's room.
    fn decide_frame(&mut self, port: &mut Sending, frame: &Frame) -> Result<Fate, Counter> {
        if !(ETHERNET..=MAX_FRAME).contains(&frame.len) {
            return Err(Counter::DropFrameLength);
        }
        let index = self.storage.push(behind_ethernet(frame.len.saturating_sub(ETHERNET)));
        self.decide(port, &frame.header, index)
    }

    /// What becomes of a frame in storage. `Err` is a drop.
    fn decide(
        &mut self,
        port: &mut Sending,
        header: &NetHeader,
        index: u16,
    ) -> Result<Fate, Counter> {
        let bytes = self.storage.frame(index);
        #[cfg(feature = "fault-injection")]
        crate::faults::poison("vm", bytes);
        let (ethernet, payload) = datagram::parse(bytes)?;
        port.learn_mac(ethernet.source);
        let unfinished = header.flags & NetHeader::F_NEEDS_CSUM != 0;
        match answer::answer(&port.inch, &ethernet, &payload, unfinished, self.replies) {
            Answer::NotForBase => {}
            Answer::Replied => return Ok(Fate::Met(Counter::Answered)),
            Answer::Silent => return Ok(Fate::Met(Counter::Silent)),
            Answer::Resolve => return self.ask(port, header, index),
            Answer::Drop(reason) => return Err(reason),
        }
        let Some((source, destination)) = addresses(&payload) else {
            return Err(Counter::DropLastInch);
        };
        let offload = Offload::check(header, ETHERNET, &payload, Sender::Guest(port.allowed()))?;
        datagram::last_inch_only(&payload)?;
        let way = self.network.admission.from_vm(self.port, source, destination);
        #[cfg(feature = "fault-injection")]
        let way = crate::faults::forgive(way);
        let way = way?;
        let mtu = match way {
            Way::Port(_) | Way::Host => self.network.mtu,
            Way::Outside => match &outside(&mut self.outside, self.network).uplink {
                Some(uplink) if uplink.facts.up => uplink.facts.mtu,
                Some(_) => return Err(Counter::DropUplinkDown),
                None => {
                    complain(
                        self.port,
                        port,
                        self.state,
                        self.now,
                        self.replies,
                        |inch, replies| {
                            answer::unreachable(inch, &payload, Unreachable::Network, replies)
                        },
                    );
                    return Err(Counter::DropNoUplink);
                }
            },
        };
        let fit = Fit::of(&offload, &payload, mtu);
        if let Fit::Refused(reason) = fit {
            complain(self.port, port, self.state, self.now, self.replies, |inch, replies| {
                answer::too_big(inch, &payload, mtu16(mtu), replies)
            });
            return Err(reason);
        }
        let len = payload.bytes().len();
        self.storage.trim(index, u32::try_from(len).unwrap_or(u32::MAX));
        let to = Destination { way, source, destination };
        if matches!(fit, Fit::InFragments) {
            deliver::complete(&offload, self.storage.datagram_mut(index));
            return self.fragment(port, index, mtu, to);
        }
        self.storage.set_offload(index, offload);
        self.route(port, index, to)
    }

    /// Notes a datagram for its way.
    fn route(&mut self, port: &mut Sending, index: u16, to: Destination) -> Result<Fate, Counter> {
        #[cfg(feature = "fault-injection")]
        if crate::faults::spoil(crate::faults::from_vm(to.way), self.storage.datagram_mut(index)) {
            return Ok(Fate::Noted);
        }
        match to.way {
            Way::Port(id) => {
                match self.world.ports.get(id.0) {
                    Some(to) => {
                        let datagram =
                            || spread::flow(self.storage.datagram(index), &mut port.trail);
                        let to = to.lane(datagram);
                        self.inboxes.note(to, self.storage, index);
                    }
                    None => Counters::of(self.state, Owner::Port(id)).add(Counter::RxPortDown, 1),
                }
                Ok(Fate::Met(Counter::ToVm))
            }
            Way::Host if outside(&mut self.outside, self.network).host.is_some() => {
                self.to_host.push(index);
                Ok(Fate::Noted)
            }
            Way::Host => Err(Counter::DropNoHostPath),
            Way::Outside => self.outside(port, index, to),
        }
    }

    /// Finds the next hop on the LAN; waits for it if it is not known.
    fn outside(
        &mut self,
        port: &mut Sending,
        index: u16,
        to: Destination,
    ) -> Result<Fate, Counter> {
        let outside = outside(&mut self.outside, self.network);
        let Some(uplink) = &mut outside.uplink else { return Err(Counter::DropNoUplink) };
        let hop = match uplink.lan.next_hop(to.destination) {
            Ok(hop) => hop,
            Err(reason) => {
                self.unreachable(port, index, Unreachable::Network);
                return Err(reason);
            }
        };
        let owner = Owner::Port(self.port);
        let asker = Asker { owner, address: Some(to.source) };
        match uplink.lan.lookup(self.now, hop, asker, &mut uplink.outbox) {
            Lookup::Known(mac) => {
                self.to_uplink.push((index, mac));
                Ok(Fate::Noted)
            }
            Lookup::Resolving => {
                let offload = self.storage.item(index).map_or(Offload::default(), |i| i.offload);
                let network = self.network.id;
                let datagram = self.storage.datagram(index);
                let pending = &self.world.pending;
                let evicted = lock(pending).push(network, owner, hop, &offload, datagram);
                if let Some(evicted) = evicted {
                    let counters = Counters::of(self.state, evicted);
                    counters.add(Counter::DropNeighborQueueFull, 1);
                }
                faults::pass(Point::Waiting);
                Ok(Fate::Met(Counter::Waited))
            }
            Lookup::Unreachable => {
                self.unreachable(port, index, Unreachable::Host);
                Err(Counter::DropNeighborUnreachable)
            }
        }
    }

    /// Cuts a datagram into fragments and routes each.
    fn fragment(
        &mut self,
        port: &mut Sending,
        index: u16,
        mtu: u32,
        to: Destination,
    ) -> Result<Fate, Counter> {
        let counters = Counters::of(self.state, Owner::Port(self.port));
        let mut piece = 0;
        while let Some(len) = write_fragment(self.storage, index, mtu, piece) {
            let cut = self.storage.push(0..len);
            match self.route(port, cut, to) {
                Ok(Fate::Met(fate)) | Err(fate) => counters.add(fate, 1),
                Ok(Fate::Noted) => {}
            }
            piece = piece.saturating_add(1);
        }
        let Some(more) = piece.checked_sub(1) else { return Err(Counter::DropTooBig) };
        counters.add(Counter::Fragmented, 1);
        counters.add(Counter::Fragments, more as u64);
        Ok(Fate::Noted)
    }

    fn unreachable(&mut self, port: &mut Sending, index: u16, why: Unreachable) {
        let Ok(payload) = datagram::parse_ip(self.storage.datagram(index)) else { return };
        complain(self.port, port, self.state, self.now, self.replies, |inch, replies| {
            answer::unreachable(inch, &payload, why, replies)
        });
    }
}

/// A network's way out, for the rest of the batch.
fn outside<'o, 'a>(
    held: &'o mut Option<MutexGuard<'a, Outside>>,
    network: &'a Network,
) -> &'o mut Outside {
    held.get_or_insert_with(|| network.outside())
}

/// Writes fragment `piece` of a datagram into storage's room; its length, `None` after the last.
pub(super) fn write_fragment(
    storage: &mut Storage,
    index: u16,
    mtu: u32,
    piece: usize,
) -> Option<usize> {
    let (whole, room) = storage.datagram_and_room(index);
    let ip = Ip4::parse(whole).ok()?;
    Fragments::of(&ip, usize::try_from(mtu).ok()?)?.write(piece, room)
}

/// What a batch has come to so far: counted once, at its end.
#[derive(Default)]
struct Tally {
    /// Where in the ring it began.
    index: u16,
    /// Frames taken.
    taken: u64,
    /// Octets of their datagrams.
    octets: u64,
    /// Those that went straight to another VM.
    to_vm: u64,
}

impl Tally {
    /// Frames were taken, with so many octets of datagrams.
    fn took(&mut self, frames: usize, octets: usize) {
        self.taken = self.taken.saturating_add(frames as u64);
        self.octets = self.octets.saturating_add(octets as u64);
    }

    /// How many the batch has with `n` more, for the mark.
    fn with(&self, n: u16) -> u16 {
        u16::try_from(self.taken).unwrap_or(u16::MAX).saturating_add(n)
    }

    /// All of it, in ordinary frames.
    fn work(&self) -> u32 {
        let large = self.octets.wrapping_div(OCTETS_OF_A_FRAME);
        u32::try_from(self.taken.saturating_add(large)).unwrap_or(u32::MAX)
    }

    fn count(&self, counters: Counters<'_>) {
        if self.taken > 0 {
            counters.add(Counter::Taken, self.taken);
            counters.add(Counter::TakenBytes, self.octets);
            counters.add(Counter::ToVm, self.to_vm);
        }
    }
}

/// What became of a datagram for now.
enum Fate {
    /// It is decided, and counts as this.
    Met(Counter),
    /// It is noted for the card or the host and counts when they have taken it, or its fragments
    /// have been counted.
    Noted,
}

/// Where an admitted datagram goes.
#[derive(Clone, Copy)]
struct Destination {
    way: Way,
    source: IpAddr,
    destination: IpAddr,
}

/// Source and destination of an IP datagram.
pub(super) fn addresses(payload: &Payload<'_>) -> Option<(IpAddr, IpAddr)> {
    match payload {
        Payload::Arp(_) => None,
        Payload::Ip4(ip) => Some((ip.source().into(), ip.destination().into())),
        Payload::Ip6(ip) => Some((ip.source().into(), ip.destination().into())),
    }
}

/// Adds an ICMP error to what goes back to the guest, if it has not caused too many.
pub(super) fn complain(
    id: PortId,
    port: &mut Sending,
    state: &StateMemory,
    now: Instant,
    replies: &mut Replies,
    write: impl FnOnce(&LastInch, &mut Replies) -> bool,
) {
    let counters = Counters::of(state, Owner::Port(id));
    if !port.limiter.allow(now) {
        counters.add(Counter::IcmpLimited, 1);
    } else if write(&port.inch, replies) {
        counters.add(Counter::IcmpErrors, 1);
    }
}

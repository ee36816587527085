//! A card that is used by AF_XDP besides its packet socket: given, taken away, sent by.
//!
//! # Theory of operation
//! What comes in by it is served like what comes in by the packet socket (`from_uplink`). What VMs send
//! goes out by it: the datagrams are copied into frames, with their checksums filled in and large
//! sends cut, since nobody behind does that. What does not fit a frame is left to the packet socket.
//!
//! When it is given, what waits at the packet socket is served first. When it is taken away, the
//! program goes first: from then on frames take the other way, and what lies in the receive rings is
//! served before those; then the transmit ring is emptied. So none is lost, and none overtaken. Both
//! take time, which is not everybody's: the card is looked at again and again for a moment, and taken
//! away when nothing is left. In between it is *ending* ([`super::network::Network::ending`]), and
//! stands still but for what lies in these rings: its packet socket and what its VMs send wait.
//!
//! What the card's driver throws away in the course of a batch is its sender's drop. What it throws away
//! later, or keeps for ever because it is gone, was counted as sent: it is the card's (`rx_card_lost`).
//!
//! # Invariants
//! - A datagram goes out whole or, where there is no room for all of its segments, not at all.
//! - The kernel is called once for a batch, and again only for frames that it has left lying.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::Token;
use super::change::Change;
use super::handle::{Gone, WorkerHandle};
use super::poison::care_of_card;
use crate::counters::{Counter, Counters};
use crate::faults::{self, Point};
use crate::names::{Inlet, Mac, NetworkId, Owner};
use crate::offload::{Abilities, Handover, Segmentation, complete_checksum};
use crate::port::{ETHERNET, header};
use crate::segment::Segments;
use crate::state::StateMemory;
use crate::state::suspicion::Care;
use crate::storage::Storage;
use crate::uplink::XdpUplink;

/// Batches that are served with everybody at rest.
const AT_REST: usize = 4;
/// How often so many of the packet socket are served before AF_XDP begins: more than its ring holds,
/// unless the LAN goes on and on with what is nobody's here.
const MOST_ROUNDS: usize = 128;
/// When the kernel is asked again for frames that it has left lying.
const AGAIN: Duration = Duration::from_millis(2);
/// How often it is asked at the end, and how long whoever ends it waits in between.
const LAST_TRIES: u32 = 20;
const LAST_WAIT: Duration = Duration::from_millis(1);

/// The sockets, and how they are served.
pub struct XdpSide {
    pub card: XdpUplink,
    cares: Vec<Care>,
    /// For a queue that is not there.
    nobody: Care,
    /// Where segments are made.
    segment: Vec<u8>,
    /// When the kernel is to be asked again to send.
    pub unsent_due: Option<Instant>,
    /// Frames that will never leave, not counted yet.
    lost: u64,
    /// The card is gone, and what is in the transmit ring with it.
    gone: bool,
}

/// What became of a datagram that was to be put into frames.
enum Put {
    Done,
    NoRoom,
    TooLong,
}

impl XdpSide {
    fn new(card: XdpUplink, cares: Vec<Care>) -> Self {
        let segment = vec![0; card.largest_mtu() as usize];
        let (nobody, unsent_due, lost, gone) = (Care::default(), None, 0, false);
        let mut side = Self { card, cares, nobody, segment, unsent_due, lost, gone };
        // What a predecessor has left in the transmit ring wakes nobody.
        side.look_soon(Instant::now());
        side
    }

    /// What lies in the transmit ring is sent as soon as possible: a link that comes up does not.
    pub fn look_soon(&mut self, now: Instant) {
        if self.card.unsent() > 0 {
            self.unsent_due = Some(now);
        }
    }

    /// Its sockets.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        (0..self.card.queues()).filter_map(|queue| self.card.socket(queue))
    }

    /// How a queue's ring is served after a death.
    pub fn care_mut(&mut self, queue: usize) -> &mut Care {
        self.cares.get_mut(queue).unwrap_or(&mut self.nobody)
    }

    /// Sends `(datagram, next hop)` pairs and counts each at its owner. What does not fit a frame is
    /// left in the batch, and so is everything once the card is gone.
    pub fn send(
        &mut self,
        mac: Mac,
        uplink: Owner,
        batch: &mut Vec<(u16, Mac)>,
        storage: &mut Storage,
        state: &StateMemory,
        from: Owner,
    ) {
        if batch.is_empty() || self.gone {
            return;
        }
        let counters = Counters::of(state, from);
        let items = batch.iter().filter_map(|(index, _)| storage.item(*index));
        let frames = items.fold(0usize, |sum, item| {
            let (segments, octets) = match item.offload.segmentation {
                None => (1, item.octets()),
                Some(large) => (large.segments(item.octets()), longest(&large)),
            };
            sum.saturating_add(segments.saturating_mul(self.card.places(octets)))
        });
        if !self.card.may_put(from, frames) {
            counters.add(Counter::DropUplinkSend, batch.len() as u64);
            batch.clear();
            return;
        }
        let (mut put, mut refused, mut cut, mut carried) = (0u64, 0u64, 0u64, 0u64);
        batch.retain(|(index, to)| {
            let large = storage.item(*index).is_some_and(|i| i.offload.segmentation.is_some());
            match self.put(*index, *to, mac, storage) {
                Put::TooLong => return true,
                Put::NoRoom => refused = refused.saturating_add(1),
                Put::Done => {
                    put = put.saturating_add(1);
                    cut = cut.saturating_add(large.into());
                    carried = carried.saturating_add(storage.datagram(*index).len() as u64);
                }
            }
            false
        });
        self.hand_over();
        faults::pass(Point::CardSent);
        let all_lost = std::mem::take(&mut self.lost);
        let lost = all_lost.min(put);
        let octets_lost = carried.checked_div(put).unwrap_or(0).saturating_mul(lost);
        let sent = put.saturating_sub(lost);
        counters.add(Counter::ToUplink, sent);
        counters.add(Counter::DropUplinkSend, refused);
        let reason = if self.gone { Counter::DropUplinkDown } else { Counter::DropUplinkSend };
        counters.add(reason, lost);
        let card = Counters::of(state, uplink);
        card.add(Counter::Delivered, sent);
        card.add(Counter::DeliveredBytes, carried.saturating_sub(octets_lost));
        card.add(Counter::Segmented, cut);
        card.add(Counter::RxCardLost, all_lost.saturating_sub(lost));
    }

    /// Puts a datagram into as many frames as it needs.
    fn put(&mut self, index: u16, to: Mac, mac: Mac, storage: &mut Storage) -> Put {
        let Some(offload) = storage.item(index).map(|item| item.offload) else {
            return Put::NoRoom;
        };
        // Before anything is filled in: the packet socket gets it as it is.
        let whole = offload.segmentation.is_none();
        if whole && storage.datagram(index).len() > self.card.largest_mtu() as usize {
            return Put::TooLong;
        }
        // It goes on like this to a receiver that can do nothing by itself.
        match offload.header_for(Abilities::default(), ETHERNET as u16) {
            Handover::Whole(_) => {}
            Handover::CompleteChecksum { start, offset } => {
                let _ = complete_checksum(storage.datagram_mut(index), start, offset);
            }
            Handover::Segment(large) => {
                let datagram = storage.datagram(index);
                let ethernet = header(to, mac, datagram);
                let Some(segments) = Segments::of(datagram, &large) else { return Put::NoRoom };
                let longest = longest(&large);
                if longest > self.segment.len() {
                    return Put::TooLong;
                }
                let places = self.card.places(longest);
                if !self.make_room(segments.count().saturating_mul(places)) {
                    return Put::NoRoom;
                }
                for n in 0..segments.count() {
                    let Some(len) = segments.write(n, &mut self.segment) else { break };
                    let segment = self.segment.get(..len).unwrap_or_default();
                    if self.card.put(&ethernet, segment).is_none() {
                        break;
                    }
                }
                return Put::Done;
            }
        }
        let datagram = storage.datagram(index);
        let room = self.make_room(self.card.places(datagram.len()));
        match room.then(|| self.card.put(&header(to, mac, datagram), datagram)).flatten() {
            Some(()) => Put::Done,
            None => Put::NoRoom,
        }
    }

    /// Whether so many frames can be put, at the latest after what was put has gone.
    fn make_room(&mut self, frames: usize) -> bool {
        if self.card.free() < frames {
            self.hand_over();
        }
        self.card.free() >= frames
    }

    /// Gives what was put to the kernel, and notes how many frames will never leave.
    fn hand_over(&mut self) {
        let woken = self.card.send();
        self.lost = self.lost.saturating_add(woken.lost.into());
        if woken.gone && !self.gone {
            self.gone = true;
            self.lost = self.lost.saturating_add(self.card.unsent_frames().into());
        }
        if self.card.unsent() > 0 && !self.gone && self.unsent_due.is_none() {
            self.unsent_due = Instant::now().checked_add(AGAIN);
        }
    }

    /// Asks the kernel again for what it has left lying, if it is time and the link is up. What is lost
    /// is counted at the card.
    pub fn go_on(&mut self, now: Instant, up: bool, card: Counters<'_>) {
        if self.unsent_due.is_some_and(|due| due <= now) {
            self.unsent_due = None;
            if up {
                self.hand_over();
                card.add(Counter::RxCardLost, std::mem::take(&mut self.lost));
            }
        }
    }

    /// Whether the card has everything, after it was asked once more; there is nothing to wait for
    /// where its link is down.
    fn has_sent_all(&mut self, up: bool) -> bool {
        if !up {
            return true;
        }
        self.hand_over();
        self.gone || self.card.all_gone()
    }

    /// What is lost at the end is counted at the card.
    fn finish(&mut self, card: Counters<'_>) {
        let left = if self.gone { 0 } else { self.card.unsent_frames() };
        card.add(Counter::RxCardLost, self.lost.saturating_add(left.into()));
        self.lost = 0;
    }
}

/// Octets of the longest segment of a large send.
fn longest(large: &Segmentation) -> usize {
    usize::from(large.header_len).saturating_add(large.size.into())
}

impl WorkerHandle {
    /// The network's card, which it has been given, is used by AF_XDP from now on. What cannot be
    /// watched is refused.
    pub fn set_xdp(&self, id: NetworkId, card: XdpUplink) -> Result<io::Result<()>, Gone> {
        for _ in 0..MOST_ROUNDS {
            if self.call(move |change| change.serve_rest(id, Inlet::PACKET))? {
                break;
            }
        }
        self.call(move |change| change.set_xdp(id, card))
    }

    /// It is not used by AF_XDP any more. The worker must be serving: what lies in the receive rings
    /// reaches the ports.
    pub fn end_xdp(&self, id: NetworkId) -> Result<(), Gone> {
        // To take a program off a card and to close a socket takes the kernel its time: it is not the
        // worker's.
        let Some(control) = self.with_xdp(id, |card| card.control())? else { return Ok(()) };
        if let Ok(control) = control {
            // It fails if the card is gone, and the program with it.
            let _ = control.detach();
        }
        for _ in 0..LAST_TRIES {
            if self.call(move |change| change.xdp_ends(id))? {
                break;
            }
            std::thread::sleep(LAST_WAIT);
        }
        drop(self.call(move |change| change.end_xdp(id))?);
        Ok(())
    }

    /// Runs `change` on the network's card, if it is used by AF_XDP.
    pub fn with_xdp<R: Send + 'static>(
        &self,
        id: NetworkId,
        change: impl FnOnce(&mut XdpUplink) -> R + Send + 'static,
    ) -> Result<Option<R>, Gone> {
        self.call(move |at_rest| {
            let uplink = at_rest.world.uplink(id)?;
            uplink.xdp.as_mut().map(|xdp| change(&mut xdp.card))
        })
    }
}

impl Change<'_> {
    fn set_xdp(&mut self, id: NetworkId, card: XdpUplink) -> io::Result<()> {
        // What came by the packet socket before the program was there comes first.
        self.serve_rest(id, Inlet::PACKET);
        let Some(home) = self.world.networks.get(id.0).map(|n| n.home) else { return Ok(()) };
        let (count, desk) = (card.queues(), self.crew.desk(home));
        for queue in 0..count {
            let Some(socket) = card.socket(queue) else { continue };
            if let Err(error) = desk.watch(socket, Token::Card(id, Inlet::queue(queue)), false) {
                // To close the others is not enough: the keeper has duplicates.
                let watched = (0..queue).filter_map(|queue| card.socket(queue));
                watched.for_each(|socket| desk.unwatch(socket));
                return Err(error);
            }
        }
        let care = |queue| {
            let inlet = Inlet::queue(queue);
            care_of_card(&self.world.state, id, inlet, card.position(queue).into())
        };
        let cares = (0..count).map(care).collect();
        let side = XdpSide::new(card, cares);
        if let Some(uplink) = self.world.uplink(id) {
            uplink.xdp = Some(side);
        }
        Ok(())
    }

    /// Serves some of what lies in a ring of the card; whether that is all.
    fn serve_rest(&mut self, id: NetworkId, inlet: Inlet) -> bool {
        if !self.world.serving {
            return true;
        }
        (0..AT_REST).any(|_| self.turn().serve_card(id, inlet, Instant::now()) == 0)
    }

    /// Its program is off the card. Whether nothing is left in the rings, as far as can be known.
    fn xdp_ends(&mut self, id: NetworkId) -> bool {
        let Some(uplink) = self.world.uplink(id) else { return true };
        let up = uplink.facts.up;
        let Some(xdp) = &mut uplink.xdp else { return true };
        let sent = xdp.has_sent_all(up);
        let queues = xdp.card.queues();
        if let Some(network) = self.world.networks.get_mut(id.0) {
            network.ending = true;
        }
        // All of them, however many have something.
        let left = (0..queues).filter(|queue| !self.serve_rest(id, Inlet::queue(*queue))).count();
        left == 0 && sent
    }

    /// The same, and nobody waits any longer for what is left.
    fn end_xdp(&mut self, id: NetworkId) -> Option<XdpSide> {
        let network = self.world.networks.get_mut(id.0)?;
        network.ending = false;
        let home = network.home;
        let xdp = self.world.uplink(id)?.xdp.as_ref()?;
        let (queues, most) = (xdp.card.queues(), xdp.card.inward());
        for queue in 0..queues {
            // No more frames come, and each batch has one at least.
            for _ in 0..most {
                if self.turn().serve_card(id, Inlet::queue(queue), Instant::now()) == 0 {
                    break;
                }
            }
        }
        let state = self.world.state.clone();
        let uplink = self.world.uplink(id)?;
        let counters = Counters::of(&state, Owner::Uplink(id));
        uplink.count_drops(counters);
        let mut xdp = uplink.xdp.take()?;
        xdp.finish(counters);
        let desk = self.crew.desk(home);
        xdp.sockets().for_each(|socket| desk.unwatch(socket));
        Some(xdp)
    }
}

#[cfg(test)]
mod tests;

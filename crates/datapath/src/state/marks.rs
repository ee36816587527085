//! What the base is about, in a few words that outlive it: a successor reads from them what killed
//! its predecessor.
//!
//! # Theory of operation
//! Each word is written before the work it names and cleared after; `blame` reads them when a base
//! has died of its own making.
//!
//! ```text
//! header page
//! 256  worker 0: whose datagrams it is working on: kind | port, network or slot | where | how many
//! 264  worker 0: the port it is delivering to, and the index of the buffer in its input ring
//! 272  doors:    the port whose front end is being taken over
//! 280  main:     the network whose card and host path are being taken over
//! 288  a suspicion: the waiting datagram at which a base died
//! 320  worker 1: the same two words as worker 0's; and so on, 64 octets apart
//! ```
//! A port's number stands beside that of its queue pair. *Where* is an index of an output ring or the number of a frame of the card's ring, modulo 65536;
//! *how many* counts the datagrams of the batch so far, the one at hand included. Frames, host
//! datagrams and waiting datagrams have no ring that a guest could bring: for them the word says
//! all there is. A card can have several rings: which, stands beside the network's number.
//!
//! # Cost
//! One plain store per stretch of datagrams when they are taken, and one per datagram when it is put
//! into an input ring, to a cache line that is always hot. The memory is shared: what a process has
//! stored there stays when it dies.
//!
//! # Invariants
//! - Each word has one writer: the thread that does the work.
//! - A word that makes no sense says nothing.

use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use super::{MAX_PORTS, MAX_WORKERS, StateMemory};
use crate::names::{Inlet, Lane, NetworkId, Pair, PortId};

const WORKERS_AT: usize = 256;
/// Octets from a worker's words to the next one's: they share no cache line.
const WORKER_LEN: usize = 64;
/// Behind a worker's first word.
const RECEIVER: usize = 8;
const DOOR_AT: usize = 272;
const NETWORK_AT: usize = 280;
/// Where in a word the index stands.
const INDEX_BIT: u32 = 16;
/// Where in a network's number the ring of its card stands: there are at most 64 networks.
const INLET_BIT: u32 = 8;
/// Where in a port's number its pair stands.
const PAIR_BIT: u32 = 12;
const _: () = assert!(MAX_PORTS <= 1 << PAIR_BIT);
/// Where `suspicion` keeps what it knows of waiting datagrams.
pub(super) const WAITING_AT: usize = 288;

const PORT: u64 = 1;
const FRAME: u64 = 2;
const HOST: u64 = 3;
const WAITING: u64 = 4;

/// Datagrams from one place of a ring on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Index or frame number of the first, modulo 65536.
    pub at: u16,
    /// How many: at least one.
    pub len: u16,
}

impl Stretch {
    /// Whether a place of the same ring lies in it.
    pub fn contains(self, place: u16) -> bool {
        place.wrapping_sub(self.at) < self.len
    }

    /// The place behind it.
    pub fn end(self) -> u16 {
        self.at.wrapping_add(self.len)
    }
}

/// Whose datagrams the worker was working on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A batch of a port, from this pair's output ring.
    Port(Lane, Stretch),
    /// Frames of a network's card, from this ring of it.
    Card(NetworkId, Inlet, Stretch),
    /// The datagram just read from the host.
    Host(NetworkId),
    /// What waited in a slot of the neighbour queue.
    Waiting(u16),
}

/// What one worker's marks said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Whose datagrams were under way.
    pub origin: Option<Origin>,
    /// The port and pair they were being delivered to, and the index of the buffer in its input ring.
    pub receiver: Option<(Lane, u16)>,
}

/// What the marks said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What each worker was about.
    pub workers: [Work; MAX_WORKERS],
    /// The port whose front end was being taken over.
    pub door: Option<PortId>,
    /// The network that was being taken over.
    pub network: Option<NetworkId>,
}

/// The mark of one receiver, found once for all that is delivered to it.
pub struct Receiver<'a> {
    place: Option<&'a AtomicU64>,
    /// What it says of index 0.
    word: u64,
}

impl Receiver<'_> {
    /// The worker is at the buffer at `index` of the input ring.
    #[inline]
    pub fn at(&self, index: u16) {
        if let Some(place) = self.place {
            place.store(self.word | u64::from(index) << INDEX_BIT, Ordering::Release);
            compiler_fence(Ordering::SeqCst);
        }
    }
}

/// The marks as one thread writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Marks {
    state: StateMemory,
    /// Where this worker's words are.
    at: usize,
}

fn word(kind: u64, id: u16, at: u16, len: u16) -> u64 {
    kind << 48 | u64::from(id) << 32 | u64::from(at) << INDEX_BIT | u64::from(len)
}

fn parts(word: u64) -> (u64, u16, u16, u16) {
    (word >> 48, (word >> 32) as u16, (word >> 16) as u16, word as u16)
}

#[inline]
fn lane_word(lane: Lane, at: u16, len: u16) -> u64 {
    word(PORT, lane.port.0 | u16::from(lane.pair.number()) << PAIR_BIT, at, len)
}

fn lane(id: u16) -> Option<Lane> {
    let port = PortId(id & ((1 << PAIR_BIT) - 1));
    Some(Lane { port, pair: Pair::new(u32::from(id >> PAIR_BIT))? })
}

impl Marks {
    /// The marks in this state memory; a worker's words are the first one's.
    pub fn of(state: &StateMemory) -> Self {
        Self::of_worker(state, 0)
    }

    /// The marks with a worker's words, of which there are [`MAX_WORKERS`].
    pub fn of_worker(state: &StateMemory, worker: usize) -> Self {
        let worker = worker.min(MAX_WORKERS.saturating_sub(1));
        Self { state: state.clone(), at: words_at(worker) }
    }

    #[inline]
    fn receiver_at(&self) -> usize {
        self.at.wrapping_add(RECEIVER)
    }

    #[inline]
    fn note(&self, at: usize, word: u64) {
        self.state.put(at, word);
        // A release store keeps what came before it from coming later; what comes after must not
        // come earlier either.
        compiler_fence(Ordering::SeqCst);
    }

    /// The worker is at the first `nth` datagrams (one at least) of the batch of an output ring that
    /// began at `index`.
    #[inline]
    pub fn datagram(&self, from: Lane, index: u16, nth: u16) {
        self.note(self.at, lane_word(from, index, nth.max(1)));
    }

    /// The worker is at the `nth` frame (from one) after `number` of a ring of a network's card.
    #[inline]
    pub fn frame(&self, network: NetworkId, inlet: Inlet, number: u64, nth: u16) {
        let whose = network.0 & 0xff | u16::from(inlet.0) << INLET_BIT;
        self.note(self.at, word(FRAME, whose, number as u16, nth.max(1)));
    }

    /// The worker is at a datagram from the host.
    #[inline]
    pub fn host(&self, network: NetworkId) {
        self.note(self.at, word(HOST, network.0, 0, 0));
    }

    /// The worker is at what waited in a slot.
    pub fn waiting(&self, slot: usize) {
        self.note(self.at, word(WAITING, u16::try_from(slot).unwrap_or(u16::MAX), 0, 0));
    }

    /// Those datagrams have met their fate.
    #[inline]
    pub fn done(&self) {
        self.note(self.at, 0);
    }

    /// The worker is at the buffer at `index` of an input ring.
    #[inline]
    pub fn delivering(&self, to: Lane, index: u16) {
        self.note(self.receiver_at(), lane_word(to, index, 1));
    }

    /// To say again and again what [`Marks::delivering`] says.
    #[inline]
    pub fn receiver(&self, to: Lane) -> Receiver<'_> {
        Receiver {
            place: self.state.memory().u64_at(self.receiver_at()),
            word: lane_word(to, 0, 1),
        }
    }

    /// It is at no input ring.
    #[inline]
    pub fn delivered(&self) {
        self.note(self.receiver_at(), 0);
    }

    /// The front end of this port is being taken over, or of none.
    pub fn set_door(&self, port: Option<PortId>) {
        self.note(DOOR_AT, port.map_or(0, |p| word(PORT, p.0, 0, 0)));
    }

    /// This network is being taken over, or none.
    pub fn set_network(&self, network: Option<NetworkId>) {
        self.note(NETWORK_AT, network.map_or(0, |n| word(PORT, n.0, 0, 0)));
    }

    /// What the marks say.
    pub fn found(&self) -> Found {
        let read = |at| parts(self.state.get(at));
        let marked = |at| match read(at) {
            (PORT, id, index, _) => Some((id, index)),
            _ => None,
        };
        let work = |worker| {
            let at = words_at(worker);
            let origin = match read(at) {
                (PORT, id, at, len) if len > 0 => {
                    lane(id).map(|from| Origin::Port(from, Stretch { at, len }))
                }
                (FRAME, id, at, len) if len > 0 => {
                    let [network, inlet] = id.to_le_bytes();
                    let frames = Stretch { at, len };
                    Some(Origin::Card(NetworkId(network.into()), Inlet(inlet), frames))
                }
                (HOST, id, ..) => Some(Origin::Host(NetworkId(id))),
                (WAITING, slot, ..) => Some(Origin::Waiting(slot)),
                _ => None,
            };
            let receiver = marked(at.wrapping_add(RECEIVER));
            Work { origin, receiver: receiver.and_then(|(id, index)| Some((lane(id)?, index))) }
        };
        Found {
            workers: std::array::from_fn(work),
            door: marked(DOOR_AT).map(|(id, _)| PortId(id)),
            network: marked(NETWORK_AT).map(|(id, _)| NetworkId(id)),
        }
    }

    /// Clears them all: what they said is known.
    pub fn clear(&self) {
        for worker in 0..MAX_WORKERS {
            let at = words_at(worker);
            self.note(at, 0);
            self.note(at.wrapping_add(RECEIVER), 0);
        }
        self.note(DOOR_AT, 0);
        self.note(NETWORK_AT, 0);
    }
}

/// Where a worker's words are.
fn words_at(worker: usize) -> usize {
    WORKERS_AT.wrapping_add(worker.wrapping_mul(WORKER_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        Marks::of(&StateMemory::create().unwrap().0)
    }

    /// What the first worker was about, and no other was about anything.
    fn first(marks: &Marks) -> Work {
        let [first, others @ ..] = marks.found().workers;
        assert_eq!(others, [Work::default(); MAX_WORKERS - 1]);
        first
    }

    #[test]
    fn each_worker_says_what_it_is_about_and_nothing_of_the_others() {
        let state = StateMemory::create().unwrap().0;
        let port = |worker: usize| {
            let pair = Pair::new(worker as u32).unwrap();
            Lane { port: PortId(1016 + worker as u16), pair }
        };
        for worker in 0..MAX_WORKERS {
            let marks = Marks::of_worker(&state, worker);
            marks.datagram(port(worker), 5, 1);
            marks.receiver(port(worker)).at(7);
        }
        let marks = Marks::of(&state);
        for (worker, work) in marks.found().workers.into_iter().enumerate() {
            let origin = Origin::Port(port(worker), Stretch { at: 5, len: 1 });
            let receiver = Some((port(worker), 7));
            assert_eq!(work, Work { origin: Some(origin), receiver });
        }
        Marks::of_worker(&state, 3).done();
        let left = marks.found().workers.iter().filter(|work| work.origin.is_some()).count();
        assert_eq!(left, MAX_WORKERS - 1);
        marks.clear();
        assert_eq!(marks.found(), Found::default());
    }

    #[test]
    fn marks_say_what_was_noted_until_it_is_done() {
        let marks = marks();
        assert_eq!(marks.found(), Found::default());
        marks.datagram(Lane::first(PortId(7)), 65_535, 3);
        marks.delivering(Lane::first(PortId(9)), 12);
        let batch = Origin::Port(Lane::first(PortId(7)), Stretch { at: 65_535, len: 3 });
        let work = Work { origin: Some(batch), receiver: Some((Lane::first(PortId(9)), 12)) };
        assert_eq!(first(&marks), work);
        marks.delivered();
        for inlet in [Inlet::PACKET, Inlet::queue(0), Inlet::queue(254)] {
            marks.frame(NetworkId(2), inlet, 0x1_0005, 1);
            let frame = Origin::Card(NetworkId(2), inlet, Stretch { at: 5, len: 1 });
            assert_eq!(first(&marks), Work { origin: Some(frame), receiver: None });
        }
        marks.host(NetworkId(0));
        assert_eq!(first(&marks).origin, Some(Origin::Host(NetworkId(0))));
        marks.waiting(1023);
        assert_eq!(first(&marks).origin, Some(Origin::Waiting(1023)));
        marks.done();
        marks.set_door(Some(PortId(0)));
        marks.set_network(Some(NetworkId(0)));
        let found = marks.found();
        assert_eq!((found.door, found.network), (Some(PortId(0)), Some(NetworkId(0))));
        marks.clear();
        assert_eq!(marks.found(), Found::default());
    }

    #[test]
    fn a_stretch_goes_on_where_indices_begin_anew() {
        let stretch = Stretch { at: 65_534, len: 4 };
        let inside: Vec<u16> = [65_533, 65_534, 65_535, 0, 1, 2]
            .into_iter()
            .filter(|place| stretch.contains(*place))
            .collect();
        assert_eq!((inside, stretch.end()), (vec![65_534, 65_535, 0, 1], 2));
    }

    #[test]
    fn no_word_in_the_marks_makes_the_reader_fail() {
        for word in [u64::MAX, 1, PORT << 48, 5 << 48, FRAME << 48 | 9 << 16] {
            let marks = marks();
            for at in (WORKERS_AT..WORKERS_AT + MAX_WORKERS * WORKER_LEN).step_by(8) {
                marks.state.put(at, word);
            }
            let found = marks.found();
            assert!(found.workers.iter().all(|work| work.origin.is_none()), "{word:#x}");
        }
    }
}

//! What is held against whom: places at which a base has died, what is to be left out, and ports that
//! are quarantined.
//!
//! # Theory of operation
//! `blame` decides after a death of the base's own making, and writes its decision here; the worker
//! and the doors act on it, and clear what progress has refuted.
//!
//! ```text
//! port record
//! 176  quarantine: why, and where          208  buffer of the input ring to be left out
//! 184  batch in which a base died          216  when a receiver was quarantined for this sender
//! 192  buffer of which a base died         224  deaths in a row while its front end was taken over
//! 200  datagram to be left out
//! in the block of a ring of another pair than the first
//! 104  batch or buffer of which a base died   112  what is to be left out
//!
//! network record
//! 1024  frames among which a base died     1048  the host's datagram is to be left out
//! 1032  frame to be left out               1056  when a receiver was quarantined for card or host
//! 1040  a base died of the host's datagram 1064  deaths in a row while it was taken over
//!                                         1072  the card's ring that 1024 and 1032 speak of
//! ```
//!
//! # Invariants
//! - Each word holds 32 bits and their complement: a damaged one says nothing. At worst something
//!   kills twice more before it is known again; nobody is quarantined by an accident.

use std::fmt;

use super::marks::{Stretch, WAITING_AT};
use super::port::{PortRecord, pairs_at};
use super::{StateMemory, network_at, port_at};
use crate::names::{Inlet, NetworkId, Pair, PortId, RingId, Side};
use crate::vhost::RequestCode;

const QUARANTINE: usize = 176;
const SENT: usize = 184;
const RECEIVING: usize = 192;
const SKIP_TX: usize = 200;
const SKIP_RX: usize = 208;
const COST: usize = 216;
const ADOPTIONS: usize = 224;
const OF_RING: usize = 104;
const SKIP_OF_RING: usize = 112;

const FRAMES: usize = 1024;
const SKIP_FRAME: usize = 1032;
const HOST: usize = 1040;
const SKIP_HOST: usize = 1048;
const NETWORK_COST: usize = 1056;
const NETWORK_ADOPTIONS: usize = 1064;
const INLET: usize = 1072;

/// Seconds for which it is remembered that a receiver was quarantined for a sender.
const REMEMBERED: u32 = 3600;

/// Why a port stands still until somebody resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// What lies at this index of an output ring kills.
    Sending(Pair, u16),
    /// Delivering to this index of an input ring kills.
    Receiving(Pair, u16),
    /// This request of its front end kills; its number in the protocol.
    Request(u16),
    /// Taking over its front end kills.
    Adoption,
}

impl Quarantine {
    /// Whether its front end is shut out as well: it is what kills. Otherwise it stays, and only
    /// its rings stand still.
    pub fn shuts_out(self) -> bool {
        matches!(self, Self::Request(_) | Self::Adoption)
    }

    fn value(self) -> u32 {
        let (kind, place, pair) = match self {
            Self::Sending(pair, index) => (1u32, index, pair),
            Self::Receiving(pair, index) => (2, index, pair),
            Self::Request(request) => (3, request, Pair::FIRST),
            Self::Adoption => (4, 0, Pair::FIRST),
        };
        u32::from(pair.number()) << 24 | kind << 16 | u32::from(place)
    }

    fn of(value: u32) -> Option<Self> {
        let (place, pair) = (value as u16, Pair::new(value >> 24)?);
        match value >> 16 & 0xff {
            1 => Some(Self::Sending(pair, place)),
            2 => Some(Self::Receiving(pair, place)),
            3 => Some(Self::Request(place)),
            4 => Some(Self::Adoption),
            _ => None,
        }
    }
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sending(pair, index) => {
                let ring = RingId { pair: *pair, side: Side::Tx };
                write!(f, "the base died twice of what it sent at index {index} of its {ring} ring")
            }
            Self::Receiving(pair, index) => {
                let ring = RingId { pair: *pair, side: Side::Rx };
                write!(
                    f,
                    "the base died twice while it delivered to index {index} of its {ring} ring"
                )
            }
            Self::Request(request) => {
                let request = RequestCode((*request).into());
                write!(f, "the base died twice of the request {request} of its front end")
            }
            Self::Adoption => f.write_str("the base died three times while it took it over"),
        }
    }
}

/// The words of one record.
#[derive(Clone, Debug)]
struct Words {
    state: StateMemory,
    at: usize,
}

impl Words {
    fn get(&self, offset: usize) -> Option<u32> {
        let word = self.state.get(self.at.saturating_add(offset));
        let value = word as u32;
        (word >> 32 == u64::from(!value)).then_some(value)
    }

    fn put(&self, offset: usize, value: Option<u32>) {
        let word = value.map_or(0, |v| u64::from(!v) << 32 | u64::from(v));
        self.state.put(self.at.saturating_add(offset), word);
    }

    fn place(&self, offset: usize) -> Option<u16> {
        self.get(offset).map(|value| value as u16)
    }

    fn set_place(&self, offset: usize, place: Option<u16>) {
        self.put(offset, place.map(u32::from));
    }

    fn stretch(&self, offset: usize) -> Option<Stretch> {
        let value = self.get(offset)?;
        Some(Stretch { at: (value >> 16) as u16, len: value as u16 })
    }

    fn set_stretch(&self, offset: usize, stretch: Option<Stretch>) {
        self.put(offset, stretch.map(|s| u32::from(s.at) << 16 | u32::from(s.len)));
    }

    fn count(&self, offset: usize) -> u32 {
        let times = self.get(offset).unwrap_or(0).saturating_add(1);
        self.put(offset, Some(times));
        times
    }

    fn recently(&self, offset: usize, now: u32) -> bool {
        self.get(offset).is_some_and(|at| now.saturating_sub(at) <= REMEMBERED)
    }
}

/// What is held against a port.
#[derive(Clone, Debug)]
pub struct PortSuspicion(Words);

impl PortSuspicion {
    /// Of this port.
    pub fn of(state: &StateMemory, port: PortId) -> Self {
        Self::at(state, port_at(port))
    }

    /// In the record that starts at `at`.
    pub(super) fn at(state: &StateMemory, at: usize) -> Self {
        Self(Words { state: state.clone(), at })
    }

    /// Why it is quarantined, if it is.
    pub fn quarantine(&self) -> Option<Quarantine> {
        self.0.get(QUARANTINE).and_then(Quarantine::of)
    }

    /// Quarantines it.
    pub fn set_quarantine(&self, why: Quarantine) {
        self.0.put(QUARANTINE, Some(why.value()));
    }

    /// The batch of a pair's output ring in which a base died, if nothing has refuted it.
    pub fn sent(&self, pair: Pair) -> Option<Stretch> {
        self.0.stretch(Self::suspected_at(RingId { pair, side: Side::Tx }))
    }

    /// Notes that batch, or that there is none any more.
    pub fn set_sent(&self, pair: Pair, batch: Option<Stretch>) {
        self.0.set_stretch(Self::suspected_at(RingId { pair, side: Side::Tx }), batch);
    }

    /// The index of the buffer of a pair's input ring at which a base died, likewise.
    pub fn receiving(&self, pair: Pair) -> Option<u16> {
        self.0.place(Self::suspected_at(RingId { pair, side: Side::Rx }))
    }

    /// Notes that index, or that there is none any more.
    pub fn set_receiving(&self, pair: Pair, index: Option<u16>) {
        self.0.set_place(Self::suspected_at(RingId { pair, side: Side::Rx }), index);
    }

    /// What of a ring is to be left out when the ring starts there.
    pub fn skip(&self, ring: RingId) -> Option<u16> {
        self.0.place(Self::skip_at(ring))
    }

    /// Notes it, or that it is done.
    pub fn set_skip(&self, ring: RingId, index: Option<u16>) {
        self.0.set_place(Self::skip_at(ring), index);
    }

    /// Holds nothing against a ring any more.
    pub fn forget(&self, ring: RingId) {
        self.0.put(Self::suspected_at(ring), None);
        self.0.put(Self::skip_at(ring), None);
    }

    fn suspected_at(ring: RingId) -> usize {
        match (ring.pair, ring.side) {
            (Pair::FIRST, Side::Tx) => SENT,
            (Pair::FIRST, Side::Rx) => RECEIVING,
            _ => PortRecord::ring_at(ring, OF_RING),
        }
    }

    fn skip_at(ring: RingId) -> usize {
        match (ring.pair, ring.side) {
            (Pair::FIRST, Side::Tx) => SKIP_TX,
            (Pair::FIRST, Side::Rx) => SKIP_RX,
            _ => PortRecord::ring_at(ring, SKIP_OF_RING),
        }
    }

    /// The rings of its front end, or of the last one.
    fn rings(&self) -> impl Iterator<Item = RingId> + use<> {
        RingId::all(pairs_at(&self.0.state, self.0.at))
    }

    /// Whether a receiver was quarantined for this sender lately. Seconds of any clock that goes on.
    pub fn has_cost_a_receiver(&self, now: u32) -> bool {
        self.0.recently(COST, now)
    }

    /// Notes that one was.
    pub fn set_cost_a_receiver(&self, now: u32) {
        self.0.put(COST, Some(now));
    }

    /// Deaths in a row while its front end was taken over.
    pub fn adoptions(&self) -> u32 {
        self.0.get(ADOPTIONS).unwrap_or(0)
    }

    /// Counts one more, and gives their number.
    pub fn count_adoption(&self) -> u32 {
        self.0.count(ADOPTIONS)
    }

    /// It was taken over.
    pub fn clear_adoptions(&self) {
        if self.0.get(ADOPTIONS).is_some() {
            self.0.put(ADOPTIONS, None);
        }
    }

    /// Lets the port go on, without what it was quarantined for. Gives what that was.
    pub fn release(&self) -> Option<Quarantine> {
        let why = self.quarantine()?;
        // What is to be left out comes first: a base that dies in between leaves the quarantine.
        match why {
            Quarantine::Sending(pair, index) => {
                self.set_skip(RingId { pair, side: Side::Tx }, Some(index));
            }
            Quarantine::Receiving(pair, index) => {
                self.set_skip(RingId { pair, side: Side::Rx }, Some(index));
            }
            Quarantine::Request(_) | Quarantine::Adoption => {}
        }
        for ring in self.rings() {
            self.0.put(Self::suspected_at(ring), None);
        }
        for at in [COST, ADOPTIONS, QUARANTINE] {
            self.0.put(at, None);
        }
        Some(why)
    }

    /// Holds nothing against it any more: the record is nobody's.
    pub fn clear(&self) {
        self.rings().for_each(|ring| self.forget(ring));
        for at in [QUARANTINE, COST, ADOPTIONS] {
            self.0.put(at, None);
        }
    }
}

/// What is held against a network's card and host.
#[derive(Clone, Debug)]
pub struct NetworkSuspicion(Words);

impl NetworkSuspicion {
    /// Of this network.
    pub fn of(state: &StateMemory, network: NetworkId) -> Self {
        Self::at(state, network_at(network))
    }

    /// In the record that starts at `at`.
    pub(super) fn at(state: &StateMemory, at: usize) -> Self {
        Self(Words { state: state.clone(), at })
    }

    /// The ring of the card that is spoken of. Who has written nothing spoke of the packet socket's.
    fn inlet(&self) -> Inlet {
        Inlet(self.0.get(INLET).and_then(|n| u8::try_from(n).ok()).unwrap_or(0))
    }

    /// The frames of this ring among which a base died, if nothing has refuted it.
    pub fn frames(&self, inlet: Inlet) -> Option<Stretch> {
        self.0.stretch(FRAMES).filter(|_| self.inlet() == inlet)
    }

    /// Notes those frames. Of another ring nothing is known any more.
    pub fn set_frames(&self, inlet: Inlet, frames: Stretch) {
        if self.inlet() != inlet {
            self.forget_all_frames();
            self.0.put(INLET, Some(inlet.0.into()));
        }
        self.0.set_stretch(FRAMES, Some(frames));
    }

    /// The number of a frame of this ring that is to be left out, modulo 65536.
    pub fn skip_frame(&self, inlet: Inlet) -> Option<u16> {
        self.0.place(SKIP_FRAME).filter(|_| self.inlet() == inlet)
    }

    /// Notes it: one of those that [`NetworkSuspicion::set_frames`] has noted.
    pub fn set_skip_frame(&self, number: u16) {
        self.0.set_place(SKIP_FRAME, Some(number));
    }

    /// It was left out.
    pub fn skipped_frame(&self, inlet: Inlet) {
        if self.inlet() == inlet {
            self.0.set_place(SKIP_FRAME, None);
        }
    }

    /// Whether a base died of the datagram that was just read from the host.
    pub fn host(&self) -> bool {
        self.0.get(HOST).is_some()
    }

    /// Notes it, or that something else is there now.
    pub fn set_host(&self, died: bool) {
        self.0.put(HOST, died.then_some(1));
    }

    /// Whether that datagram is to be left out.
    pub fn skip_host(&self) -> bool {
        self.0.get(SKIP_HOST).is_some()
    }

    /// Notes it, or that it is done.
    pub fn set_skip_host(&self, skip: bool) {
        self.0.put(SKIP_HOST, skip.then_some(1));
    }

    /// Whether a receiver was quarantined lately for what came from the card or the host.
    pub fn has_cost_a_receiver(&self, now: u32) -> bool {
        self.0.recently(NETWORK_COST, now)
    }

    /// Notes that one was.
    pub fn set_cost_a_receiver(&self, now: u32) {
        self.0.put(NETWORK_COST, Some(now));
    }

    /// Deaths in a row while it was taken over.
    pub fn adoptions(&self) -> u32 {
        self.0.get(NETWORK_ADOPTIONS).unwrap_or(0)
    }

    /// Counts one more, and gives their number.
    pub fn count_adoption(&self) -> u32 {
        self.0.count(NETWORK_ADOPTIONS)
    }

    /// It was taken over.
    pub fn clear_adoptions(&self) {
        if self.0.get(NETWORK_ADOPTIONS).is_some() {
            self.0.put(NETWORK_ADOPTIONS, None);
        }
    }

    /// This ring of the card is a new one, or goes on: nothing is held against its frames.
    pub fn forget_frames(&self, inlet: Inlet) {
        if self.inlet() == inlet {
            self.forget_all_frames();
        }
    }

    fn forget_all_frames(&self) {
        self.0.set_stretch(FRAMES, None);
        self.0.set_place(SKIP_FRAME, None);
    }
}

/// The slot of the waiting datagram of which a base died.
pub(super) fn waiting(state: &StateMemory) -> Option<u16> {
    Words { state: state.clone(), at: 0 }.place(WAITING_AT)
}

/// Notes that slot, or that there is none any more.
pub(super) fn set_waiting(state: &StateMemory, slot: Option<u16>) {
    Words { state: state.clone(), at: 0 }.set_place(WAITING_AT, slot);
}

/// How a ring is served after a death: the worker's own memory of what the record says.
///
/// Where a base died in a batch, its successor serves that stretch one datagram at a time. If it
/// dies again, exactly one datagram was under way; if it does not, nobody is suspected any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// Where the stretch ends that is served one by one.
    until: Option<u16>,
    /// The next of this ring is to be left out.
    pub skip: bool,
}

impl Care {
    /// For a ring that stands at `place`. What concerns another place concerns another ring.
    pub fn at(place: u16, suspected: Option<Stretch>, skip: Option<u16>) -> Self {
        let within = suspected.filter(|stretch| stretch.contains(place));
        Self { until: within.map(Stretch::end), skip: skip == Some(place) }
    }

    /// How many may be taken at once.
    #[inline]
    pub fn most(self) -> u64 {
        if self.until.is_some() || self.skip { 1 } else { u64::MAX }
    }

    /// The ring has come to `place`: true if the stretch is behind it now. (It may be by more than one
    /// place, where a frame takes several.)
    #[inline]
    pub fn passed(&mut self, place: u16) -> bool {
        let passed = self.until.is_some_and(|until| place.wrapping_sub(until) < 1 << 15);
        if passed {
            self.until = None;
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> PortSuspicion {
        let record = PortRecord::of(&StateMemory::create().unwrap().0, PortId(3));
        record.set_offered(0, 0, 8);
        record.suspicion()
    }

    #[test]
    fn a_port_comes_free_without_what_it_was_quarantined_for() {
        let port = port();
        assert_eq!(port.release(), None);
        for pair in Pair::first(8) {
            let cases = [
                (Quarantine::Sending(pair, 65_535), Some(65_535), None),
                (Quarantine::Receiving(pair, 0), None, Some(0)),
                (Quarantine::Request(10), None, None),
                (Quarantine::Adoption, None, None),
            ];
            let [rx, tx] = [Side::Rx, Side::Tx].map(|side| RingId { pair, side });
            for (why, sent, received) in cases {
                port.set_sent(pair, Some(Stretch { at: 1, len: 2 }));
                port.set_receiving(pair, Some(0));
                port.set_cost_a_receiver(5);
                port.count_adoption();
                port.set_quarantine(why);
                assert_eq!(port.quarantine(), Some(why));
                assert_eq!(port.release(), Some(why));
                assert_eq!((port.skip(tx), port.skip(rx)), (sent, received), "{why:?}");
                let others = port.rings().filter(|ring| port.skip(*ring).is_some());
                assert_eq!(others.count(), usize::from(sent.or(received).is_some()), "{why:?}");
                assert_eq!(port.quarantine(), None);
                assert_eq!((port.sent(pair), port.receiving(pair)), (None, None));
                assert!(!port.has_cost_a_receiver(5) && port.adoptions() == 0);
                port.clear();
                assert_eq!((port.skip(tx), port.skip(rx)), (None, None));
            }
        }
    }

    #[test]
    fn a_damaged_word_holds_nothing_against_anybody() {
        let port = port();
        port.set_quarantine(Quarantine::Receiving(Pair::FIRST, 7));
        let whole = port.0.state.get(port.0.at + QUARANTINE);
        for bit in 0..64 {
            port.0.state.put(port.0.at + QUARANTINE, whole ^ 1 << bit);
            assert_eq!(port.quarantine(), None, "bit {bit}");
        }
        for bit in 0..64 {
            port.0.state.put(port.0.at + QUARANTINE, 1 << bit);
            assert_eq!(port.quarantine(), None, "bit {bit} of nothing");
        }
    }

    #[test]
    fn it_is_forgotten_that_a_receiver_was_quarantined_for_a_sender() {
        let port = port();
        assert!(!port.has_cost_a_receiver(0));
        port.set_cost_a_receiver(100);
        assert!(port.has_cost_a_receiver(100) && port.has_cost_a_receiver(3700));
        assert!(!port.has_cost_a_receiver(3701));
    }

    #[test]
    fn a_stretch_is_served_one_by_one_to_its_end() {
        let stretch = Some(Stretch { at: 65_534, len: 4 });
        let mut care = Care::at(65_534, stretch, None);
        let mut place = 65_534u16;
        while care.most() == 1 {
            place = place.wrapping_add(1);
            assert_eq!(care.passed(place), place == 2);
        }
        assert_eq!(place, 2);
        // A frame in three pieces takes three places at once.
        let mut care = Care::at(65_534, Some(Stretch { at: 65_534, len: 1 }), None);
        assert!(!care.passed(65_534));
        assert!(care.passed(1));
        assert_eq!(care.most(), u64::MAX);
        assert_eq!(Care::at(2, stretch, Some(3)), Care::default(), "another place, another ring");
        assert_eq!(Care::at(3, None, Some(3)).most(), 1);
    }
}

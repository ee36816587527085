//! How many queue pairs a port's record speaks of.
//!
//! It is what the front end was offered when it came, or the last one if there is none: the port's
//! configuration may say something else by now. Of other pairs nothing is read. What stands there is of
//! no meaning, and where there are few the second page of the record is never touched.
//!
//! The word is under the seal of the negotiation. Nought is one pair, as in the layouts that knew of no
//! other.

use super::*;

/// The queue pairs that the record at `at` speaks of.
pub(in crate::state) fn pairs_at(state: &StateMemory, at: usize) -> usize {
    let more = usize::try_from(state.get(at.saturating_add(MORE_PAIRS_AT))).unwrap_or(usize::MAX);
    more.saturating_add(1).min(MAX_PAIRS)
}

impl PortRecord {
    /// Queue pairs that this front end was offered, or the last one if there is none: at least one, at
    /// most [`MAX_PAIRS`].
    pub fn pairs(&self) -> usize {
        pairs_at(&self.state, self.at)
    }

    /// The rings of those pairs.
    pub fn rings(&self) -> impl Iterator<Item = RingId> + Clone + use<> {
        RingId::all(self.pairs())
    }

    /// Notes what the front end that just came is offered: features, and at least one queue pair.
    pub fn set_offered(&self, features: u64, protocol: u64, pairs: usize) {
        // Those that are not offered any more leave nothing behind, and nobody knows what stands in
        // those that were not offered before.
        let before = self.pairs();
        for ring in RingId::all(before.max(pairs)).skip(before.min(pairs).saturating_mul(2)) {
            self.begin(ring);
            self.forget_position(ring);
            self.suspicion().forget(ring);
        }
        self.put(MORE_PAIRS_AT, pairs.clamp(1, MAX_PAIRS).saturating_sub(1) as u64);
        self.put(OFFERED_AT, features);
        self.put(PROTOCOL_OFFERED_AT, protocol);
    }

    /// What a ring has before anything is said of it.
    pub(super) fn begin(&self, ring: RingId) {
        self.set_ring(ring, RingState::default());
        self.set_fault(ring, None);
        self.displace(ring);
    }
}

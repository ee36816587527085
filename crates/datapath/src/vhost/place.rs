//! Where a packed ring goes on.
//!
//! # Why it exists
//! A front end whose connection was cut cannot say it. QEMU, above all, names the place at which the
//! ring stood when it was told last; a ring that went on there would stand still for good, with its
//! driver waiting at another place. So when a front end comes back with the ring that it had, the
//! base's own record says where that stood, as far as the ring bears it out.
//!
//! # Theory of operation
//! Within a connection SET_VRING_BASE places a ring, and from then on its journal does
//! (`state/port/position.rs`). In a new one, at the ring's first start:
//!
//! ```text
//! the same ring as before (file, place in it, size), and used by a device since it was set up?
//!    yes --> the journal is whole?
//!               yes --> it says, together with the ring: nothing is lost
//!               no ---> the ring says, where it can; else the front end    (port_renegotiated)
//!    no ---> the ring contradicts the front end?
//!               no ---> the front end says
//!               yes --> the ring says, where it can; else the front end    (port_renegotiated)
//! ```
//! A guest that booted meanwhile has set its ring up anew, perhaps at the same place: then nothing in it
//! was ever used, and what the journal knows is of no meaning. A ring looks like that, too, when it has
//! just come to the end of every second lap, and so back to its beginning: then the journal says the
//! same.
//!
//! # A beginning without its wrap counter
//! A ring begins with the wrap counter 1 (virtio 1.2, section 2.8.1), so SET_VRING_BASE has to say 0x8000.
//! To one that says 0, because it knows of split rings alone, DPDK listens, and the ring stands still for
//! good. Here the ring is asked: at the place 0 with the wrap counter 0 a lap has just ended whose buffers
//! were used with the other one, and that is seen in the ring however long its chains are. A ring in
//! which nothing was ever used is at its beginning. Any other place is as the front end says.

use std::sync::Arc;

use virtqueue::{Intent, Journal, QueueFeatures, QueueLayout, RxQueue, Traces, TxQueue};

use super::negotiation::Negotiation;
use crate::names::{RingId, Side};
use crate::state::port::Remembered;

impl Negotiation {
    /// Places a packed ring that no request of this connection has placed yet. `base` is what the front
    /// end says.
    pub(super) fn place(&self, id: RingId, layout: QueueLayout, base: u32) {
        if self.record.is_placed(id) {
            return;
        }
        let ring = self.table.identity(layout);
        let mut told = Intent::at_base(base, layout.size);
        let Ok(traces) = Traces::of(self.table.memory(), layout) else {
            // It will turn out broken.
            return self.record.place(id, ring, told);
        };
        let fresh = traces.is_fresh();
        if fresh && told.from == 0 {
            told = Intent::fresh();
        }
        let by_ring = || traces.place().map_or(told, |place| Intent::resting(place, 0));
        match self.record.remembered(id, ring) {
            Remembered::Whole if !fresh || self.is_at_start(id) => {
                return self.record.keep_place(id);
            }
            Remembered::Damaged => self.record.place(id, ring, by_ring()),
            _ if !fresh && traces.contradict(told.from) => {
                self.record.place(id, ring, by_ring());
            }
            _ => return self.record.place(id, ring, told),
        }
        // At its beginning a ring is not told wrongly: nothing can have been lost.
        if !fresh {
            self.record.count_renegotiated();
        }
    }

    /// Whether the journal ends where a ring begins.
    fn is_at_start(&self, id: RingId) -> bool {
        self.record.journal(id).last().is_some_and(|last| last.to == Intent::fresh().to)
    }

    /// Where a packed ring stands that the worker does not have, as GET_VRING_BASE tells it: by ring
    /// and journal or, if the ring cannot be followed, by the journal alone. `None` if it has no place.
    pub(super) fn standing(&self, id: RingId, layout: Option<QueueLayout>) -> Option<u32> {
        if !self.record.is_placed(id) {
            return None;
        }
        let journal = self.record.journal(id);
        let last = journal.last()?;
        let features = QueueFeatures::from_bits(self.record.features());
        let memory = Arc::clone(self.table.memory());
        let found = layout.and_then(|layout| match id.side {
            Side::Rx => RxQueue::resume_packed(memory, layout, features, Box::new(journal))
                .map(|queue| queue.base())
                .ok(),
            Side::Tx => TxQueue::resume_packed(memory, layout, features, Box::new(journal))
                .map(|queue| queue.base())
                .ok(),
        });
        let place = u32::from(last.to);
        Some(found.unwrap_or(place | place << 16))
    }
}

//! State memory of an older layout, brought to today's when it is taken over.
//!
//! # Theory of operation
//! The first layout (version 1) is today's without seals: numbers stand alone, and the words that
//! hold seals today are zero. What it says cannot be proved, so it is believed once, as its own base
//! would have, and sealed. Only records in use are touched.
//!
//! The second layout is today's without the positions of packed rings, which its base did not serve:
//! those words are nought, and nothing is to be done.
//!
//! The third layout is today's with one queue pair for each port: the words of the others are nought,
//! and so is their number, which says that there is one. What is noted of a first pair, its seal
//! included, is the same. Nothing is to be done. Its base published what a guest receives by packed
//! rings frame by frame, each under a note of its own, and would take the note of many for done as soon
//! as the first of them is: so it must not read today's.
//!
//! ```text
//! ports      numbers paired, name and negotiation sealed
//! networks   the cursor's numbers checked, the ring's layout sealed, what was learned sealed
//! datagrams  that rest here: their sums
//! header     takeovers paired; the version comes last, in `header::write`
//! ```
//!
//! # Invariants
//! - A successor that dies in the middle leaves the old version; whoever does it again finds each
//!   word either old or done.

use super::lan::LanRecord;
use super::network::{HostSlot, NetworkRecord};
use super::port::PortRecord;
use super::{MAX_NETWORKS, MAX_PORTS, StateMemory, header, pending};
use crate::names::{NetworkId, PortId};

/// Brings all of it from an older layout to today's, but for the version.
pub(super) fn bring_up(state: &StateMemory, version: u32) {
    if version == 1 {
        from_first(state);
    }
}

fn from_first(state: &StateMemory) {
    for id in (0..).map(PortId).take(MAX_PORTS) {
        PortRecord::of(state, id).bring_up();
    }
    for id in (0..).map(NetworkId).take(MAX_NETWORKS) {
        if NetworkRecord::of(state, id).bring_up() {
            LanRecord::of(state, id).bring_up();
        }
        HostSlot::of(state, id).bring_up();
    }
    pending::bring_up(state);
    if let Ok(takeovers) = u32::try_from(state.get(header::TAKEOVERS_AT)) {
        header::set_takeovers(state, takeovers);
    }
}

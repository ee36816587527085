//! Whether what the list has said about a port still holds.
//!
//! # Theory of operation
//! Who keeps the list's answers keeps the port's version beside them, and forgets them when it is another.
//! A change for one port leaves the others' versions: a list that changes all the time costs those
//! nothing whom it does not concern. Versions are numbers that the process uses once, whatever the
//! list, so that an answer of a list that is gone is never taken for one of its successor.

use std::sync::atomic::{AtomicU64, Ordering};

use super::target::Target;
use crate::names::PortId;

/// The versions of one list.
pub(super) struct Versions {
    all: u64,
    /// By port; of those that have lost an address by themselves.
    ports: Vec<u64>,
}

fn next() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

impl Default for Versions {
    fn default() -> Self {
        Self { all: next(), ports: Vec::new() }
    }
}

impl Versions {
    /// Never zero.
    #[inline]
    pub(super) fn of(&self, port: PortId) -> u64 {
        // Numbers only grow: the larger one is that of the last change.
        self.ports.get(usize::from(port.0)).map_or(self.all, |own| self.all.max(*own))
    }

    /// An address of this owner may have gone.
    pub(super) fn changed(&mut self, owner: Target) {
        let Target::Port(PortId(port)) = owner else { return };
        let port = usize::from(port);
        if self.ports.len() <= port {
            self.ports.resize(port.saturating_add(1), 0);
        }
        if let Some(version) = self.ports.get_mut(port) {
            *version = next();
        }
    }

    /// An address of anybody's may have gone.
    pub(super) fn all_changed(&mut self) {
        self.all = next();
    }
}

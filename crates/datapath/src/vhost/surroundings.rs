//! Whom the dispatcher works with: the keeper of descriptors, the owner of rings, the listener to
//! events, and the epoll instance.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll;
use rustix::io::Errno;

use super::event::{EventSink, PortEvent};
use super::keys::Keys;
use super::owner::{Ring, RingOwner};
use super::token::Token;
use crate::budget::Budget;
use crate::keeper::Keeper;
use crate::names::{PortId, RingId};

pub(super) struct Surroundings {
    pub keeper: Arc<dyn Keeper>,
    pub owner: Box<dyn RingOwner>,
    pub events: EventSink,
    pub epoll: OwnedFd,
    pub budgets: RefCell<BTreeMap<PortId, Budget>>,
    /// How many rings were started and stopped since [`Surroundings::take_changes`].
    pub changes: Cell<u32>,
}

impl Surroundings {
    pub(super) fn tell(&self, port: PortId, event: PortEvent) {
        let spent = self.budgets.borrow_mut().entry(port).or_default().spend(Instant::now());
        let Some(untold) = spent else { return };
        if untold > 0 {
            (self.events)(port, PortEvent::Untold { events: untold });
        }
        (self.events)(port, event);
    }

    /// Gives a ring to its owner.
    pub(super) fn start(&self, port: PortId, id: RingId, ring: Ring) {
        self.count_change();
        self.owner.start(port, id, ring);
    }

    /// Takes a ring back from its owner: where it stands, if it had it and knows.
    pub(super) fn stop(&self, port: PortId, id: RingId) -> Option<u32> {
        self.count_change();
        self.owner.stop(port, id)
    }

    /// Interrupts a ring's driver by another descriptor from now on.
    pub(super) fn set_call(&self, port: PortId, id: RingId, call: Option<Arc<OwnedFd>>) {
        if self.owner.set_call(port, id, call) {
            self.count_change();
        }
    }

    fn count_change(&self) {
        self.changes.set(self.changes.get().saturating_add(1));
    }

    /// How many rings were started and stopped since the last call.
    pub(super) fn take_changes(&self) -> u32 {
        self.changes.take()
    }

    /// Watches a socket: one event for whatever comes, be it an octet or a hang-up.
    pub(super) fn watch(&self, socket: BorrowedFd<'_>, token: Token) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, token.into(), flags)
    }

    /// Ends that. Closing would not: the keeper has a duplicate.
    pub(super) fn unwatch(&self, socket: &impl AsFd) {
        // It fails if watching had failed.
        let _ = epoll::delete(&self.epoll, socket);
    }

    pub(super) fn keep(&self, port: PortId, key: &str, fd: BorrowedFd<'_>) {
        self.report(port, key, self.keeper.keep(key, fd));
    }

    pub(super) fn forget(&self, port: PortId, key: &str) {
        self.report(port, key, self.keeper.forget(key));
    }

    /// Lets go of everything that belongs to one connection.
    pub(super) fn forget_connection(&self, port: PortId, keys: &Keys) {
        for prefix in keys.of_connection() {
            self.forget_all(port, &prefix);
        }
    }

    pub(super) fn forget_all(&self, port: PortId, prefix: &str) {
        self.report(port, prefix, self.keeper.forget_all(prefix));
    }

    fn report(&self, port: PortId, key: &str, outcome: std::io::Result<()>) {
        if let Err(source) = outcome {
            self.tell(port, PortEvent::NotKept { key: key.to_owned(), source });
        }
    }
}

//! Whom the dispatcher works with: the keeper of descriptors, the owner of rings, the listener to
//! events, and the epoll instance.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll;
use rustix::io::Errno;

use super::event::{EventSink, PortEvent};
use super::keys::Keys;
use super::owner::RingOwner;
use super::token::Token;
use crate::budget::Budget;
use crate::keeper::Keeper;
use crate::names::PortId;

pub(super) struct Surroundings {
    pub keeper: Arc<dyn Keeper>,
    pub owner: Box<dyn RingOwner>,
    pub events: EventSink,
    pub epoll: OwnedFd,
    pub budgets: RefCell<BTreeMap<PortId, Budget>>,
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

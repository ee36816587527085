//! What all workers share: the world they serve, and how they reach each other.
//!
//! # Theory of operation
//! The world lies behind one lock that has two sides. A worker holds the reading side for one *turn*,
//! a batch of each of its active ports, and lets go of it before it sleeps. A *change* takes the
//! writing side: then every worker is between two batches, and stays there until the change is made.
//! Who waits for the writing side is let in before new readers, and a turn ends after the batch at hand
//! as soon as somebody waits or is about to ([`Crew::is_awaited`]): so a change waits for one batch of
//! each worker, however many ports are active. What waits for a neighbour that was found goes out in one
//! go, and may take as long as some batches.
//!
//! Inside a turn there are locks for what several workers may want at a time. They are taken in this
//! order, so that nobody waits for somebody who waits for them:
//!
//! ```text
//! a port's sending half      its own worker, for a batch; another for an ICMP error; a call that changes
//! a network's way out        for what of a batch goes there
//! what waits for neighbours  for one datagram
//! a port's receiving half    for all that a batch has for it; several, as far as nobody else has them
//! ```
//! A front end can change its calls as often as it likes, so that is no change of the world: the thread
//! that meets front ends does it on the reading side, with the one half locked.
//!
//! What is found out in a turn and needs a change (a broken ring, an address lost) is noted as
//! [`Later`], and done by whoever takes the writing side next: before any other change.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::event::{EventfdFlags, epoll, eventfd};
use virtqueue::RingFault;

use super::Token;
use super::network::{Network, UplinkSide};
use super::resolver::Askers;
use super::table::Table;
use crate::event::Event;
use crate::names::{Mac, NetworkId, PortId};
use crate::pending::Pending;
use crate::port::Port;
use crate::state::StateMemory;
use crate::sync::{lock, read, write};

/// What is served.
pub(super) struct World {
    pub(super) state: StateMemory,
    pub(super) ports: Table<Port>,
    pub(super) networks: Table<Network>,
    pub(super) pending: Mutex<Pending>,
    /// The last visit of any port that was ever taken from its worker: a port that is made anew under
    /// the number of one that has gone counts on from here, because a worker may still have that one in
    /// its list.
    pub(super) last_visit: u64,
    /// How many ports were ever made.
    pub(super) generations: u32,
    /// Who answers DNS.
    pub(super) resolver: Askers,
    /// Nothing is served before everything is in place: a datagram for a port that a successor has
    /// not taken over yet would be lost.
    pub(super) serving: bool,
    pub(super) stopped: bool,
}

impl World {
    /// A network's card, while everything is at rest.
    pub(super) fn uplink(&mut self, id: NetworkId) -> Option<&mut UplinkSide> {
        self.networks.get_mut(id.0)?.outside_mut().uplink.as_mut()
    }
}

/// Found out in a turn, to be done as a change.
pub(super) enum Later {
    /// A ring of a port broke, and has fallen.
    Broken(PortId, RingFault),
    /// Somebody on the LAN has an address of ours.
    Conflict(NetworkId, IpAddr, Mac),
    /// Somebody removed the device of a network's path to the host.
    HostLost(NetworkId),
}

/// Where a worker is reached.
pub(super) struct Desk {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    /// Ports that it is to look at.
    mail: Mutex<Vec<PortId>>,
}

impl Desk {
    fn new() -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let desk = Self { epoll, wake, mail: Mutex::default() };
        desk.watch(desk.wake.as_fd(), Token::Desk, false)?;
        Ok(desk)
    }

    /// Wakes the worker.
    pub(super) fn ring(&self) {
        // An eventfd at its limit wakes all the same.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The worker is to serve this port, if it has something or not. Any thread may say so.
    pub(super) fn send(&self, port: PortId) {
        lock(&self.mail).push(port);
        self.ring();
    }

    /// The worker itself: what there is for it. Rung after this, it is woken again.
    pub(super) fn read(&self) -> Vec<PortId> {
        let mut count = [0u8; 8];
        // Not blocking: an empty counter means that another turn has read everything already.
        let _ = rustix::io::read(&self.wake, &mut count);
        std::mem::take(&mut *lock(&self.mail))
    }

    /// What the worker waits at.
    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// The descriptor that [`Desk::ring`] writes to.
    pub(super) fn wake(&self) -> &Arc<OwnedFd> {
        &self.wake
    }

    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: Token, edge: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::IN;
        if edge {
            flags |= epoll::EventFlags::ET;
        }
        epoll::add(&self.epoll, fd, token.data(), flags).map_err(Into::into)
    }

    pub(super) fn unwatch(&self, fd: impl AsFd) {
        // It may never have been watched; then there is nothing to undo.
        let _ = epoll::delete(&self.epoll, fd);
    }
}

/// The workers of one base.
pub(super) struct Crew {
    world: RwLock<World>,
    first: Desk,
    others: Vec<Desk>,
    later: Mutex<Vec<Later>>,
    /// How many changes are asked for or wait for the writing side.
    awaited: AtomicUsize,
    /// One works at a time: of what the last base died is not known yet.
    one_by_one: AtomicBool,
    events: Box<dyn Fn(Event) + Send + Sync>,
}

impl Crew {
    /// A crew of `workers`, at least one, over this state memory.
    pub(super) fn new(
        state: StateMemory,
        workers: usize,
        one_by_one: bool,
        events: Box<dyn Fn(Event) + Send + Sync>,
    ) -> io::Result<Self> {
        let world = World {
            pending: Mutex::new(Pending::adopt(state.clone())),
            state,
            ports: Table::default(),
            networks: Table::default(),
            last_visit: 0,
            generations: 0,
            resolver: Askers::default(),
            serving: false,
            stopped: false,
        };
        let others = (1..workers).map(|_| Desk::new()).collect::<io::Result<_>>()?;
        Ok(Self {
            world: RwLock::new(world),
            first: Desk::new()?,
            others,
            later: Mutex::default(),
            awaited: AtomicUsize::new(0),
            one_by_one: AtomicBool::new(one_by_one && workers > 1),
            events,
        })
    }

    /// How many workers there are.
    pub(super) fn len(&self) -> usize {
        self.others.len().saturating_add(1)
    }

    /// Where a worker is reached; the first, if there is no such worker.
    #[inline]
    pub(super) fn desk(&self, worker: usize) -> &Desk {
        let other = worker.checked_sub(1).and_then(|other| self.others.get(other));
        other.unwrap_or(&self.first)
    }

    /// Wakes all.
    pub(super) fn ring_all(&self) {
        self.first.ring();
        self.others.iter().for_each(Desk::ring);
    }

    /// For a turn.
    #[inline]
    pub(super) fn read(&self) -> RwLockReadGuard<'_, World> {
        read(&self.world)
    }

    /// For a change.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, World> {
        self.await_change();
        let world = write(&self.world);
        self.change_begins();
        world
    }

    /// A change will be made: turns are to be short until [`Crew::change_begins`].
    pub(super) fn await_change(&self) {
        self.awaited.fetch_add(1, Ordering::Relaxed);
    }

    /// A change that was awaited is being made, or will not be.
    pub(super) fn change_begins(&self) {
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether somebody waits for the writing side, or will in a moment: a turn is to end after the batch
    /// at hand.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// Whether one works at a time.
    #[inline]
    pub(super) fn is_one_by_one(&self) -> bool {
        self.one_by_one.load(Ordering::Relaxed)
    }

    /// From now on all work at the same time.
    pub(super) fn work_together(&self) {
        self.one_by_one.store(false, Ordering::Relaxed);
    }

    /// Notes what is to be done as a change.
    pub(super) fn do_later(&self, later: Later) {
        lock(&self.later).push(later);
    }

    /// What is to be done, once.
    pub(super) fn take_later(&self) -> Vec<Later> {
        std::mem::take(&mut *lock(&self.later))
    }

    pub(super) fn emit(&self, event: Event) {
        (self.events)(event);
    }
}

//! The loop: poll what is busy, sleep in epoll when nothing is.
//!
//! # Theory of operation
//! A worker is a thread that owns ports, the networks they belong to, the cards and the host's TUN
//! devices: all of it plain `&mut`, no locks. One turn of the loop:
//!
//! ```text
//! commands   changes asked for by others, between two batches
//! ports      each active port: one batch (from_vm)
//! epoll      kicks make a port active; cards (from_uplink) and TUNs (from_host) that have something
//! timers     neighbours, advertisements
//! ```
//! While ports are active, epoll is asked every [`LOOK_ROUND`] as long as it has nothing but kicks; when
//! they have had nothing for [`LOOK_AROUND`], as often as that: who answers may be a port that sleeps.
//!
//! A port is *active* from its kick until it has been empty for a moment, or until all are empty and
//! nothing can be expected soon (`patience`). Then it is armed: the guest is asked to kick, the ring
//! is looked at once more (so that no kick is lost), and the port leaves the active list. With no
//! port active the loop sleeps in epoll until the next timer: idle VMs cost nothing, however many
//! there are (rule 9).
//!
//! # Invariants
//! - Between two turns nothing of a VM's traffic is here but what waits for a neighbour, and that
//!   lies in the state memory (rule 7).
//! - A batch is bounded, and active ports take turns: one that floods cannot keep another from its
//!   share.

mod from_host;
mod from_uplink;
mod from_vm;
mod handle;
mod lan;
mod network;
mod patience;
mod poison;
mod setup;
mod table;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::event::epoll;

pub use handle::{Gone, WorkerHandle, spawn};
pub use network::UplinkFacts;
pub use setup::{NetworkSetup, PortSetup, UplinkSetup};

use crate::answer::{ADVERTISE_EVERY, Replies};
use crate::deliver::Inboxes;
use crate::event::Event;
use crate::names::{NetworkId, PortId};
use crate::pending::Pending;
use crate::port::Port;
use crate::state::StateMemory;
use crate::state::marks::Marks;
use crate::storage::Storage;
use network::Network;
use patience::Patience;
use table::Table;

/// How often epoll is asked while ports are polled and it has nothing to say: the call costs as much as
/// many datagrams.
const LOOK_ROUND: Duration = Duration::from_micros(20);
/// The same while the ports have nothing.
const LOOK_AROUND: Duration = Duration::from_micros(2);

/// A change, run on the worker's thread between two batches.
type Command = Box<dyn FnOnce(&mut Worker) + Send>;

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Commands,
    Port(PortId),
    Card(NetworkId),
    Host(NetworkId),
}

impl Token {
    fn data(self) -> epoll::EventData {
        let (kind, id) = match self {
            Self::Commands => (0u64, 0),
            Self::Port(PortId(id)) => (1, id),
            Self::Card(NetworkId(id)) => (2, id),
            Self::Host(NetworkId(id)) => (3, id),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(id))
    }

    fn from_data(data: epoll::EventData) -> Option<Self> {
        let word = data.u64();
        let id = u16::try_from(word & 0xffff_ffff).ok()?;
        Some(match word >> 32 {
            0 => Self::Commands,
            1 => Self::Port(PortId(id)),
            2 => Self::Card(NetworkId(id)),
            3 => Self::Host(NetworkId(id)),
            _ => return None,
        })
    }
}

/// An active port: since when it has had nothing.
struct Active {
    port: PortId,
    last: Instant,
}

/// The datapath's thread.
pub struct Worker {
    state: StateMemory,
    marks: Marks,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    events: Box<dyn Fn(Event) + Send>,
    ports: Table<Port>,
    networks: Table<Network>,
    active: Vec<Active>,
    /// Who received last.
    receiver: Option<PortId>,
    patience: Patience,
    storage: Storage,
    replies: Replies,
    inboxes: Inboxes,
    pending: Pending,
    advertise_at: Instant,
    /// Nothing is served before everything is in place: a datagram for a port that a successor has
    /// not taken over yet would be lost.
    serving: bool,
    stopped: bool,
}

impl Worker {
    fn run(mut self) {
        while !self.serving && !self.stopped {
            match self.commands.recv() {
                Ok(command) => command(&mut self),
                Err(_) => return,
            }
        }
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(64);
        let (mut looked, mut quiet) = (Instant::now(), false);
        while !self.stopped {
            let now = Instant::now();
            self.serve_active(now);
            let idle = self.patience.idle(now) >= LOOK_AROUND;
            let round = if idle { LOOK_AROUND } else { LOOK_ROUND };
            let soon = now.saturating_duration_since(looked) < round;
            if soon && quiet && !self.active.is_empty() {
                continue;
            }
            looked = now;
            let timeout = self.timeout(now);
            ready.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Any other error means the epoll descriptor itself is wrong: nothing can be served.
                Err(_) => return,
            }
            // A kick is served with the ports; a card or TUN may have more, and so may epoll.
            let more = ready.iter().any(|event| {
                matches!(Token::from_data(event.data), Some(Token::Card(_) | Token::Host(_)))
            });
            quiet = !more && ready.len() < ready.capacity();
            let now = Instant::now();
            for event in &ready {
                match Token::from_data(event.data) {
                    Some(Token::Commands) => self.run_commands(),
                    Some(Token::Port(id)) => self.activate(id, now),
                    Some(Token::Card(id)) => self.serve_card(id, now),
                    Some(Token::Host(id)) => self.serve_host(id, now),
                    None => {}
                }
            }
            self.timers(now);
        }
    }

    /// One batch for each active port; those that have been empty for long enough fall asleep.
    fn serve_active(&mut self, now: Instant) {
        if self.active.is_empty() {
            return;
        }
        let mut active = std::mem::take(&mut self.active);
        let linger = self.patience.linger();
        let mut datagrams = 0u32;
        active.retain_mut(|entry| {
            let taken = self.serve_port(entry.port, now);
            if taken > 0 {
                entry.last = now;
                datagrams = datagrams.saturating_add(taken);
                return true;
            }
            if now.saturating_duration_since(entry.last) < linger {
                return true;
            }
            !self.fall_asleep(entry.port)
        });
        // Ports that became active meanwhile (none can today) would have been pushed here.
        active.append(&mut self.active);
        if datagrams > 0 {
            if self.patience.work(now, datagrams)
                && let Some(port) = self.receiver
            {
                self.activate(port, now);
                active.append(&mut self.active);
            }
        } else if !self.patience.goes_on(now) {
            active.retain(|entry| !self.fall_asleep(entry.port));
        }
        self.active = active;
    }

    /// Asks the guest for a kick; false if the port must stay active.
    fn fall_asleep(&mut self, id: PortId) -> bool {
        let Some(port) = self.ports.get_mut(id.0) else { return true };
        if port.must_be_polled() {
            return false;
        }
        match port.arm() {
            Ok(true) => {
                port.disarm();
                false
            }
            Ok(false) => {
                port.active = false;
                true
            }
            Err(fault) => {
                self.break_port(id, &fault);
                true
            }
        }
    }

    fn activate(&mut self, id: PortId, now: Instant) {
        let Some(port) = self.ports.get_mut(id.0) else { return };
        if !port.active && port.sends() {
            port.active = true;
            port.disarm();
            self.active.push(Active { port: id, last: now });
        }
    }

    /// How long the loop may sleep: not at all while a port is active.
    fn timeout(&self, now: Instant) -> Option<rustix::fs::Timespec> {
        if !self.active.is_empty() {
            return Some(rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let until = self
            .networks
            .iter()
            .filter_map(Network::deadline)
            .chain([self.advertise_at])
            .min()?
            .saturating_duration_since(now);
        rustix::fs::Timespec::try_from(until).ok()
    }

    fn run_commands(&mut self) {
        let mut count = [0u8; 8];
        // Not blocking: an empty counter means that another turn has seen these commands already.
        let _ = rustix::io::read(&self.wake, &mut count);
        while let Ok(command) = self.commands.try_recv() {
            command(self);
        }
    }

    fn timers(&mut self, now: Instant) {
        if now >= self.advertise_at {
            self.advertise_at = now.checked_add(ADVERTISE_EVERY).unwrap_or(now);
            for id in self.ports.ids() {
                self.advertise(PortId(id));
            }
        }
        for id in 0..self.networks.len() {
            let due = self
                .networks
                .get(id)
                .and_then(Network::deadline)
                .is_some_and(|deadline| deadline <= now);
            if due {
                self.poll_lan(NetworkId(id), now);
            }
        }
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token, edge: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::IN;
        if edge {
            flags |= epoll::EventFlags::ET;
        }
        epoll::add(&self.epoll, fd, token.data(), flags).map_err(Into::into)
    }

    fn unwatch(&self, fd: impl AsFd) {
        // It may never have been watched; then there is nothing to undo.
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn emit(&self, event: Event) {
        (self.events)(event);
    }
}

//! The loop: poll what is busy, sleep in epoll when nothing is.
//!
//! # Theory of operation
//! A worker is a thread that serves ports. The networks with their cards and TUN devices are served by
//! one worker each, their *home*; every port belongs to one worker, and can be moved to another. One
//! round of the loop:
//!
//! ```text
//! turn       each active port: one batch (from_vm)
//! epoll      kicks make a port active; cards (from_uplink) and TUNs (from_host) that have something
//! turn       what epoll has told; timers: neighbours, advertisements
//! change     what others have asked for: everybody at rest between two batches   (the first worker)
//! ```
//! While ports are active, epoll is asked every [`LOOK_ROUND`] as long as it has nothing but kicks.
//! What is shared, who may touch it when, and the order of the locks: `world`.
//!
//! A port is *active* from its kick until it has been empty for a moment, or until all ports of its
//! worker are empty and nothing can be expected soon (`patience`). Then it is armed: the guest is asked to
//! kick, the ring is looked at once more (so that no kick is lost), and the port leaves the active
//! list. With no port active the worker sleeps in epoll until the next timer: idle VMs cost nothing,
//! however many there are (rule 9).
//!
//! # Moving a port
//! A change takes the kick out of one worker's epoll and puts it into the other's, and leaves the other
//! a note to look at the port (`change`). A kick before it is in the ring that the new worker looks at;
//! one after it comes to the new worker. What the old one still has in hand (an entry of its active
//! list, an event that epoll has told) is of an earlier visit, or not its port: it is passed over.
//!
//! # Invariants
//! - Between two turns nothing of a VM's traffic is here but what waits for a neighbour, and that
//!   lies in the state memory (rule 7).
//! - A batch is bounded, and active ports take turns: one that floods cannot keep another from its
//!   share.
//! - A turn ends after the batch at hand if somebody waits to make a change.
//! - What a port sends goes through one worker at a time, in the order of its ring.

mod change;
mod from_host;
mod from_uplink;
mod from_vm;
mod handle;
mod lan;
#[cfg(test)]
mod model;
mod moving;
mod network;
mod patience;
mod poison;
mod resolver;
mod setup;
mod table;
#[cfg(test)]
mod tests;
mod turn;
mod world;
mod xdp;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll};

pub use handle::{Gone, WorkerHandle, Workers, spawn, spawn_several};
pub use moving::NotMoved;
pub use network::UplinkFacts;
pub use setup::{NetworkSetup, PortSetup, UplinkSetup};

use crate::names::{Inlet, NetworkId, PortId};
use change::Change;
use turn::{Own, Turn};
use world::Crew;

/// How often epoll is asked while ports are polled and it has nothing to say: the call costs as much as
/// many datagrams.
const LOOK_ROUND: Duration = Duration::from_micros(20);
/// The same while the ports have nothing.
const LOOK_AROUND: Duration = Duration::from_micros(2);
/// For how long one worker works at a time after a death of the base's own making: longer than it takes
/// until all front ends are taken over and their rings have gone on.
const ONE_BY_ONE: Duration = Duration::from_secs(10);

/// A change, run on the first worker's thread while all are between two batches.
type Command = Box<dyn FnOnce(&mut Change<'_>) + Send>;

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// The worker itself is called.
    Desk,
    Port(PortId),
    Card(NetworkId, Inlet),
    Host(NetworkId),
    Resolver,
}

impl Token {
    fn data(self) -> epoll::EventData {
        let (kind, id) = match self {
            Self::Desk => (0u64, 0),
            Self::Port(PortId(id)) => (1, id.into()),
            Self::Card(NetworkId(id), inlet) => (2, u32::from(id) | u32::from(inlet.0) << 16),
            Self::Host(NetworkId(id)) => (3, id.into()),
            Self::Resolver => (4, 0),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(id))
    }

    fn from_data(data: epoll::EventData) -> Option<Self> {
        let word = data.u64();
        let (id, inlet) = (word as u16, Inlet((word >> 16) as u8));
        Some(match word >> 32 {
            0 => Self::Desk,
            1 => Self::Port(PortId(id)),
            2 => Self::Card(NetworkId(id), inlet),
            3 => Self::Host(NetworkId(id)),
            4 => Self::Resolver,
            _ => return None,
        })
    }
}

/// What comes after a turn.
enum Next {
    /// Another.
    Turn,
    /// A look at epoll, for so long at most.
    Look(Option<rustix::fs::Timespec>),
    /// Nothing: the worker is to end.
    End,
}

/// One of the datapath's threads.
struct Worker {
    crew: Arc<Crew>,
    own: Own,
    /// What others ask for: the first worker has it.
    commands: Option<Receiver<Command>>,
}

impl Worker {
    fn run(mut self) {
        if !self.wait_for_service() {
            return;
        }
        let together_at = Instant::now().checked_add(ONE_BY_ONE);
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(64);
        let (mut looked, mut quiet) = (Instant::now(), false);
        loop {
            let now = Instant::now();
            let since_look = now.saturating_duration_since(looked);
            let next = self.turn(|turn| {
                if turn.world.stopped {
                    return Next::End;
                }
                turn.serve_active(now);
                let idle = turn.own.patience.idle(now) >= LOOK_AROUND;
                let soon = since_look < if idle { LOOK_AROUND } else { LOOK_ROUND };
                if soon && quiet && !turn.own.active.is_empty() && !turn.crew.is_awaited() {
                    return Next::Turn;
                }
                Next::Look(turn.timeout(now))
            });
            let timeout = match next {
                Next::Turn => continue,
                Next::Look(timeout) => timeout,
                Next::End => return,
            };
            looked = now;
            ready.clear();
            match epoll::wait(
                self.crew.desk(self.own.index).epoll(),
                rustix::buffer::spare_capacity(&mut ready),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Any other error means the epoll descriptor itself is wrong: nothing can be served.
                Err(_) => {
                    self.crew.write().stopped = true;
                    self.crew.ring_all();
                    return;
                }
            }
            // A kick is served with the ports; a card or TUN may have more, and so may epoll.
            let more = ready.iter().any(|event| {
                let token = Token::from_data(event.data);
                matches!(token, Some(Token::Card(..) | Token::Host(_) | Token::Resolver))
            });
            quiet = !more && ready.len() < ready.capacity();
            let now = Instant::now();
            let mut rest = ready.as_slice();
            loop {
                let (come_to, called) = self.turn(|turn| turn.serve_events(rest, now));
                if called {
                    self.run_commands();
                }
                rest = rest.get(come_to..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
            }
            if self.crew.is_one_by_one() && together_at.is_none_or(|at| at <= now) {
                self.crew.work_together();
            }
        }
    }

    /// Runs what has to be in place before anything is served; false if the worker is to end.
    fn wait_for_service(&mut self) -> bool {
        loop {
            {
                let world = self.crew.read();
                if world.stopped {
                    return false;
                }
                if world.serving {
                    return true;
                }
            }
            let Some(commands) = &self.commands else {
                // Its mail stays where it is.
                let crew = self.crew.clone();
                let mut wake = [PollFd::new(crew.desk(self.own.index).wake(), PollFlags::IN)];
                let _ = rustix::event::poll(&mut wake, None);
                self.own.look_at(&crew.desk(self.own.index).read());
                continue;
            };
            match commands.recv() {
                Ok(command) => self.carry_out(command),
                // Nobody is left who could ask for anything: the others are to end, too.
                Err(_) => {
                    self.crew.write().stopped = true;
                    self.crew.ring_all();
                    return false;
                }
            }
        }
    }

    /// Does some work beside the other workers, and then what of it has to be a change.
    fn turn<R>(&mut self, work: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let Self { crew, own, .. } = self;
        let done = if crew.is_one_by_one() {
            let world = crew.write();
            work(&mut Turn { world: &world, own, crew })
        } else {
            let world = crew.read();
            work(&mut Turn { world: &world, own, crew })
        };
        if std::mem::take(&mut self.own.has_later) {
            self.change(Box::new(|_| ()));
        }
        done
    }

    /// Makes a change while everybody rests.
    fn change(&mut self, change: Command) {
        let Self { crew, own, .. } = self;
        let mut world = crew.write();
        let mut at_rest = Change { world: &mut world, own, crew };
        at_rest.do_what_was_noted();
        change(&mut at_rest);
        at_rest.do_what_was_noted();
    }

    fn run_commands(&mut self) {
        while let Some(command) = self.commands.as_ref().and_then(|c| c.try_recv().ok()) {
            self.carry_out(command);
        }
    }

    /// Makes a change that somebody else asked for.
    fn carry_out(&mut self, command: Command) {
        self.change(command);
        // Not before: `write` takes turns that were already short, and they stay so.
        self.crew.change_begins();
    }
}

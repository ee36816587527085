//! The thread that meets all front ends: one epoll instance, and nothing it ever waits for but
//! that and the ring owner.
//!
//! # Theory of operation
//! ```text
//! commands (add, remove, reset, free ...) --.
//! listeners: somebody connects --------------+--> epoll --> the port's entry
//! connections: octets, or a hang-up ---------'
//! ports to connect or accept again: the shortest deadline is epoll's time-out
//! ports with more requests than a turn's worth: the next round, without sleeping
//! ports whose front end is faster than its pace: when it may go on, by the same deadline
//! ```
//! Shutting down leaves everything as it is, in the record and with the keeper: a successor takes
//! over. To close a port for good, remove it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use super::adopt::Kept;
use super::door::{DoorError, PortDoor};
use super::entry::Entry;
use super::event::EventSink;
use super::owner::RingOwner;
use super::surroundings::Surroundings;
use super::token::Token;
use crate::keeper::Keeper;
use crate::names::PortId;
use crate::state::StateMemory;

/// Events taken from epoll at once.
const EVENTS: usize = 64;

type Answer<T> = std::sync::mpsc::SyncSender<T>;

enum Command {
    Add(Vec<(PortDoor, Kept)>, Answer<Vec<Result<(), DoorError>>>),
    Remove(PortId, Answer<bool>),
    Reset(PortId, Answer<bool>),
    Free(PortId, Answer<Result<(), DoorError>>),
    Ping(Answer<()>),
    Shutdown,
}

/// The dispatcher's thread, from outside. Calls wait for that thread, so they may not be made from
/// a [`RingOwner`] or an [`EventSink`].
#[derive(Debug)]
pub struct DispatcherHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl DispatcherHandle {
    fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        // A full eventfd wakes just as well.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        sent
    }

    fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Option<T> {
        let (answer, wait) = sync_channel(1);
        self.send(command(answer));
        wait.recv().ok()
    }

    /// Opens a port's door: [`DispatcherHandle::add_ports`] with one.
    pub fn add_port(&self, door: PortDoor, kept: Kept) -> Result<(), DoorError> {
        self.add_ports(vec![(door, kept)]).pop().unwrap_or(Err(DoorError::Gone))
    }

    /// Opens ports' doors. Beside each is what the keeper has under `port/<name>/`: with it, and
    /// the port's record, a predecessor's front end is taken over. Returns when that is done, or
    /// decided against, for all of them: one answer for each, in their order, or none at all if the
    /// thread is gone.
    pub fn add_ports(&self, doors: Vec<(PortDoor, Kept)>) -> Vec<Result<(), DoorError>> {
        self.ask(|answer| Command::Add(doors, answer)).unwrap_or_default()
    }

    /// Shuts the port's front end out and closes its door for good: the socket file goes, the
    /// record is emptied, the keeper forgets. Returns when the worker has let go of the rings.
    /// `false` if there is no such port.
    pub fn remove_port(&self, port: PortId) -> bool {
        self.ask(|answer| Command::Remove(port, answer)).unwrap_or(false)
    }

    /// Shuts the port's front end out; it may come again and negotiate anew. `false` if there was
    /// none.
    pub fn reset_port(&self, port: PortId) -> bool {
        self.ask(|answer| Command::Reset(port, answer)).unwrap_or(false)
    }

    /// Carries on with a port that was quarantined and is not any more: opens its door again if it
    /// was shut, and starts the rings that its front end has set up. What hinders a ring is told as
    /// an event.
    pub fn free_port(&self, port: PortId) -> Result<(), DoorError> {
        self.ask(|answer| Command::Free(port, answer)).unwrap_or(Err(DoorError::Gone))
    }

    /// Whether the thread is alive and comes round within that time.
    pub fn answers_within(&self, time: Duration) -> bool {
        let (answer, wait) = sync_channel(1);
        self.send(Command::Ping(answer)) && wait.recv_timeout(time).is_ok()
    }

    /// Ends the thread. Connections, rings and records stay as they are, for a successor.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

impl Drop for DispatcherHandle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

/// The dispatcher of all ports.
pub struct Dispatcher {
    state: StateMemory,
    around: Surroundings,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    entries: BTreeMap<PortId, Entry>,
    /// The names of all of them.
    names: BTreeSet<String>,
    /// Connections with more requests than their turn's worth.
    again: VecDeque<(PortId, u32)>,
}

impl Dispatcher {
    /// Starts the thread, without any port yet.
    pub fn spawn(
        state: StateMemory,
        keeper: Arc<dyn Keeper>,
        owner: Box<dyn RingOwner>,
        events: EventSink,
    ) -> io::Result<DispatcherHandle> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, Token::Wake.into(), epoll::EventFlags::IN)?;
        let (commands, receiver) = channel();
        let mut dispatcher = Self {
            state,
            around: Surroundings {
                keeper,
                owner,
                events,
                epoll,
                budgets: RefCell::default(),
                changes: Cell::default(),
            },
            commands: receiver,
            wake: Arc::clone(&wake),
            entries: BTreeMap::new(),
            names: BTreeSet::new(),
            again: VecDeque::new(),
        };
        let thread =
            std::thread::Builder::new().name("ports".to_owned()).spawn(move || dispatcher.run())?;
        Ok(DispatcherHandle { commands, wake, thread: Some(thread) })
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let time_out = self.time_out();
            match epoll::wait(&self.around.epoll, spare_capacity(&mut events), time_out.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // The epoll instance is ours and lives: there is nothing else to go on with.
                Err(_) => return,
            }
            for event in &events {
                match Token::from(event.data) {
                    Token::Wake => {
                        if !self.carry_out_commands() {
                            return;
                        }
                    }
                    Token::Listener(port) => {
                        if let Some(entry) = self.entries.get_mut(&port) {
                            entry.accept(&self.around);
                        }
                    }
                    Token::Connection(port, generation) => {
                        self.on_connection(port, generation, event.flags);
                    }
                }
            }
            for _ in 0..self.again.len() {
                if let Some((port, generation)) = self.again.pop_front() {
                    self.turn(port, generation);
                }
            }
            let now = Instant::now();
            for (port, entry) in &mut self.entries {
                entry.on_time(now, &self.around);
                self.again.extend(entry.goes_on(now).map(|generation| (*port, generation)));
            }
        }
    }

    fn on_connection(&mut self, port: PortId, generation: u32, flags: epoll::EventFlags) {
        let gone = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if flags.intersects(gone)
            && let Some(entry) = self.entries.get_mut(&port)
        {
            entry.on_hang_up(generation);
        }
        if !self.again.contains(&(port, generation)) {
            self.turn(port, generation);
        }
    }

    fn turn(&mut self, port: PortId, generation: u32) {
        let Some(entry) = self.entries.get_mut(&port) else { return };
        if entry.on_requests(generation, &self.around) {
            self.again.push_back((port, generation));
        }
    }

    /// How long nothing needs to be done by itself. `None`: for ever.
    fn time_out(&self) -> Option<Timespec> {
        let wait = if self.again.is_empty() {
            let deadline = self.entries.values().filter_map(Entry::deadline).min()?;
            deadline.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        // Rounded up to the millisecond that epoll counts in.
        let wait = wait.saturating_add(Duration::from_micros(999));
        Timespec::try_from(wait).ok()
    }

    /// Carries out all commands that wait. `false` if the thread is to end.
    fn carry_out_commands(&mut self) -> bool {
        let mut count = [0; 8];
        // Only a number; the queue says what there is to do.
        let _ = rustix::io::read(&*self.wake, &mut count);
        while let Ok(command) = self.commands.try_recv() {
            // An asker that is gone needs no answer.
            match command {
                Command::Add(doors, answer) => {
                    let opened = doors.into_iter().map(|(door, kept)| self.add(door, kept));
                    let _ = answer.send(opened.collect());
                }
                Command::Remove(port, answer) => {
                    let _ = answer.send(self.remove(port));
                }
                Command::Reset(port, answer) => {
                    let entry = self.entries.get_mut(&port);
                    let _ = answer.send(entry.is_some_and(|e| e.reset(&self.around)));
                }
                Command::Free(port, answer) => {
                    let entry = self.entries.get_mut(&port);
                    let _ = answer.send(entry.map_or(Ok(()), |e| e.free(&self.around)));
                }
                Command::Ping(answer) => {
                    let _ = answer.send(());
                }
                Command::Shutdown => return false,
            }
        }
        true
    }

    fn add(&mut self, door: PortDoor, kept: Kept) -> Result<(), DoorError> {
        let id = door.id;
        if self.entries.contains_key(&id) || self.names.contains(&door.name) {
            return Err(DoorError::Taken { id, name: door.name });
        }
        let name = door.name.clone();
        let entry = Entry::open(door, kept, &self.state, &self.around)?;
        self.entries.insert(id, entry);
        self.names.insert(name);
        Ok(())
    }

    fn remove(&mut self, port: PortId) -> bool {
        let Some(entry) = self.entries.remove(&port) else { return false };
        self.names.remove(entry.name());
        entry.close(&self.around);
        self.around.budgets.borrow_mut().remove(&port);
        true
    }
}

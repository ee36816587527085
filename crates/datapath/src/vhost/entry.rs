//! One port at the dispatcher: its door, and the front end that came through it.
//!
//! # Theory of operation
//! ```text
//!  listening ----accept----> attached ----farewell----> listening
//!  waiting ------connect---> attached ----farewell----> waiting (50 ms, doubled up to 500 ms)
//! ```
//! One front end at a time. While it lives, another that comes is turned away; if it is found dead,
//! its place is free at once.
//!
//! # Quarantine
//! A port that is quarantined for what goes through its rings keeps its front end, which is served
//! but for its rings: a guest can reboot and a front end leave as ever. One that is quarantined for
//! what its front end says has a shut door: nobody listens, so that a front end that comes again is
//! refused at once and does not wait for answers. [`Entry::free`] ends both.
//!
//! # Invariants
//! - Attaching is marked in the record like a request: a base that dies in it leaves a mark, and
//!   the successor shuts the connection out.
//! - What ends a connection, whatever it is, stops its rings, empties the record and lets go of
//!   the descriptors. The listener stays.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::adopt::{self, Kept};
use super::connection::{self, Session};
use super::door::{self, DoorError, Listener, PortDoor, Socket};
use super::event::PortEvent;
use super::features::offered;
use super::keys::Keys;
use super::negotiation::Negotiation;
use super::pace::Pace;
use super::refusal::{Farewell, Renegotiate, RequestCode};
use super::surroundings::Surroundings;
use super::token::Token;
use super::wire;
use crate::state::StateMemory;
use crate::state::marks::Marks;
use crate::state::port::PortRecord;
use crate::state::suspicion::Quarantine;

/// Requests of one front end that are carried out before the others get a turn.
const REQUESTS_A_TURN: u32 = 16;
/// Front ends that are met at one port before the others get a turn.
const FRONT_ENDS_A_TURN: u32 = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// One port at the dispatcher.
#[derive(Debug)]
pub(super) struct Entry {
    door: PortDoor,
    record: PortRecord,
    keys: Keys,
    /// Nobody is met until the port is freed.
    shut: bool,
    listener: Option<Listener>,
    session: Option<Session>,
    /// When to accept or to connect again.
    retry_at: Option<Instant>,
    pause: Duration,
    generation: u32,
    pace: Pace,
    /// When its front end's requests are looked at again, which lie there meanwhile.
    go_on_at: Option<Instant>,
}

impl Entry {
    /// Opens a port's door, and takes over what a predecessor left there.
    pub(super) fn open(
        door: PortDoor,
        mut kept: Kept,
        state: &StateMemory,
        around: &Surroundings,
    ) -> Result<Self, DoorError> {
        let record = PortRecord::of(state, door.id);
        let known = record.name().as_deref() == Some(&door.name);
        if !known {
            if record.name_is_damaged() {
                record.note("the name in its record was damaged: its front end negotiates anew");
            }
            record.clear();
            if door.name.contains('/') || !record.set_name(&door.name) {
                return Err(DoorError::Name { name: door.name });
            }
        }
        let keys = Keys::of(&door.name);
        let left = kept.remove(&keys.listener());
        let connection = kept.remove(&keys.connection());
        let mut entry = Self {
            door,
            record,
            keys,
            shut: false,
            listener: None,
            session: None,
            retry_at: None,
            pause: FIRST_PAUSE,
            generation: 0,
            pace: Pace::default(),
            go_on_at: None,
        };
        let suspicion = entry.record.suspicion();
        if suspicion.quarantine().is_some_and(Quarantine::shuts_out) {
            entry.shut(left, connection.as_ref(), around);
            return Ok(entry);
        }
        let marks = Marks::of(state);
        marks.set_door(Some(entry.door.id));
        let prepared = entry.prepare(left, around);
        match prepared {
            Ok(()) if known || connection.is_none() => {
                entry.take_over(connection, &mut kept, around);
            }
            Ok(()) => {
                entry.shut_out(connection.as_ref(), around);
                around.tell(entry.door.id, PortEvent::Renegotiate { why: Renegotiate::NoRecord });
            }
            Err(_) => entry.shut_out(connection.as_ref(), around),
        }
        marks.set_door(None);
        suspicion.clear_adoptions();
        prepared.map(|()| entry)
    }

    /// Meets nobody, and lets go of whom a predecessor had met.
    fn shut(
        &mut self,
        listener: Option<OwnedFd>,
        connection: Option<&OwnedFd>,
        around: &Surroundings,
    ) {
        self.shut = true;
        self.shut_out(connection, around);
        if let Some(fd) = listener {
            Listener::discard(&fd);
            around.forget(self.door.id, &self.keys.listener());
        }
    }

    /// The port is not quarantined any more: opens its door, and starts its rings.
    pub(super) fn free(&mut self, around: &Surroundings) -> Result<(), DoorError> {
        if std::mem::take(&mut self.shut) {
            self.pause = FIRST_PAUSE;
            return self.prepare(None, around);
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let settled = session.negotiation.settle_all(around);
        if let Err(why) = settled {
            around.tell(self.door.id, PortEvent::Renegotiate { why: why.into() });
            self.detach(Farewell::Asked, around);
        }
        Ok(())
    }

    /// Gets ready to meet front ends: with the predecessor's listener if it is the right one.
    fn prepare(&mut self, left: Option<OwnedFd>, around: &Surroundings) -> Result<(), DoorError> {
        let key = self.keys.listener();
        let path = match &self.door.socket {
            Socket::Listen(path) => path,
            Socket::Connect(path) => {
                self.retry_at = Some(Instant::now());
                door::address(path)?;
                if let Some(fd) = left {
                    Listener::discard(&fd);
                    around.forget(self.door.id, &key);
                }
                return Ok(());
            }
        };
        let listener = match left.map(|fd| Listener::adopt(fd, path)) {
            Some(Ok(listener)) => listener,
            other => {
                if let Some(Err(fd)) = other {
                    Listener::discard(&fd);
                    around.forget(self.door.id, &key);
                }
                let listener = Listener::open(path)?;
                around.keep(self.door.id, &key, listener.fd.as_fd());
                listener
            }
        };
        around.watch(listener.fd.as_fd(), Token::Listener(self.door.id)).map_err(|e| {
            let (path, source) = (path.clone(), e.into());
            DoorError::Kernel { action: "watch the socket", path, source }
        })?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Takes over a predecessor's front end, or shuts it out.
    fn take_over(&mut self, connection: Option<OwnedFd>, kept: &mut Kept, around: &Surroundings) {
        let again = connection.as_ref().and_then(|fd| fd.try_clone().ok());
        let found = adopt::negotiation(self.door.id, &self.record, &self.keys, connection, kept);
        let adopted = match found {
            Ok(Some((socket, negotiation))) => self.resume(socket, negotiation, around),
            Ok(None) => return self.shut_out(again.as_ref(), around),
            Err(why) => Err(why),
        };
        match adopted {
            Ok(()) => around.tell(self.door.id, PortEvent::Adopted),
            Err(why) => {
                self.shut_out(again.as_ref(), around);
                around.tell(self.door.id, PortEvent::Renegotiate { why });
            }
        }
    }

    fn resume(
        &mut self,
        socket: OwnedFd,
        negotiation: Negotiation,
        around: &Surroundings,
    ) -> Result<(), Renegotiate> {
        let session = self.session.insert(Session::new(socket, self.generation, negotiation));
        session.negotiation.resume(around)?;
        let token = Token::Connection(self.door.id, session.generation);
        around.watch(session.socket.as_fd(), token).map_err(Renegotiate::Socket)
    }

    /// Undoes what a predecessor left of a front end.
    fn shut_out(&mut self, connection: Option<&OwnedFd>, around: &Surroundings) {
        if let Some(session) = self.session.take() {
            return session.end(around);
        }
        self.record.forget_negotiation();
        if let Some(fd) = connection {
            connection::hang_up(fd);
        }
        around.forget_connection(self.door.id, &self.keys);
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.door.name
    }

    /// When this port wants to be looked at without anything having happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry().into_iter().chain(self.go_on_at).min()
    }

    fn retry(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.session.is_none() || self.listener.is_some())
    }

    /// Whether requests that lie there may be carried out now: then of which connection.
    pub(super) fn goes_on(&mut self, now: Instant) -> Option<u32> {
        self.go_on_at.take_if(|at| *at <= now)?;
        self.session.as_ref().map(|session| session.generation)
    }

    /// Accepts or connects if it is time to.
    pub(super) fn on_time(&mut self, now: Instant, around: &Surroundings) {
        if self.retry().is_none_or(|at| at > now) {
            return;
        }
        self.retry_at = None;
        match &self.door.socket {
            Socket::Listen(_) => self.accept(around),
            Socket::Connect(path) => match door::connect_to(path) {
                Ok(socket) => self.attach(socket, around),
                Err(_) => self.wait(),
            },
        }
    }

    /// Tries again after a pause, and pauses longer the next time.
    fn wait(&mut self) {
        self.retry_at = Instant::now().checked_add(self.pause);
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }

    /// Takes in who waits at the listener.
    pub(super) fn accept(&mut self, around: &Surroundings) {
        for _ in 0..FRONT_ENDS_A_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(None) => return,
                Ok(Some(socket)) => self.newcomer(socket, around),
                Err(e) => {
                    // Mostly too many open files. It was an edge that said somebody waits, so look
                    // again by the clock.
                    around.tell(self.door.id, PortEvent::AcceptFailed { source: e.into() });
                    self.retry_at = Instant::now().checked_add(LONGEST_PAUSE);
                    return;
                }
            }
        }
        self.retry_at = Some(Instant::now());
    }

    fn newcomer(&mut self, socket: OwnedFd, around: &Surroundings) {
        if let Some(session) = &mut self.session
            && !wire::hung_up(session.socket.as_fd())
        {
            if !session.newcomer_refused {
                session.newcomer_refused = true;
                around.tell(self.door.id, PortEvent::NewcomerRefused);
            }
            return;
        }
        self.detach(Farewell::HungUp, around);
        self.attach(socket, around);
    }

    fn attach(&mut self, socket: OwnedFd, around: &Surroundings) {
        self.record.forget_negotiation();
        self.record.open_request(RequestCode::ATTACH.0);
        let pairs = self.door.pairs;
        let (features, protocol) = offered(pairs);
        self.record.set_offered(features & self.door.features_mask, protocol, pairs);
        self.record.set_connected();
        around.keep(self.door.id, &self.keys.connection(), socket.as_fd());
        self.generation = self.generation.wrapping_add(1);
        let negotiation = Negotiation::new(self.door.id, self.record.clone(), self.keys.clone());
        let session = self.session.insert(Session::new(socket, self.generation, negotiation));
        let token = Token::Connection(self.door.id, session.generation);
        let watched = around.watch(session.socket.as_fd(), token);
        self.record.close_request();
        around.tell(self.door.id, PortEvent::Attached);
        if let Err(e) = watched {
            self.detach(Farewell::Socket(e), around);
        }
    }

    /// Ends the connection, if there is one.
    fn detach(&mut self, why: Farewell, around: &Surroundings) {
        let Some(session) = self.session.take() else { return };
        if session.spoke {
            self.pause = FIRST_PAUSE;
        }
        session.end(around);
        around.tell(self.door.id, PortEvent::Detached { why });
        if self.listener.is_none() {
            self.wait();
        }
    }

    /// Notes that the front end hung up, if the event is this connection's.
    pub(super) fn on_hang_up(&mut self, generation: u32) {
        if let Some(session) = self.session.as_mut().filter(|s| s.generation == generation) {
            session.hung_up = true;
        }
    }

    /// Carries out what the front end asks, if the event is this connection's. `true` if there may
    /// be more.
    pub(super) fn on_requests(&mut self, generation: u32, around: &Surroundings) -> bool {
        for _ in 0..REQUESTS_A_TURN {
            let Some(session) = self.session.as_mut().filter(|s| s.generation == generation) else {
                return false;
            };
            let now = Instant::now();
            self.go_on_at = self.pace.next_at(now);
            if self.go_on_at.is_some() {
                return false;
            }
            around.take_changes();
            let more = session.turn(around);
            let more = more.unwrap_or_else(|why| {
                self.detach(why, around);
                false
            });
            self.pace.spend(around.take_changes(), now);
            if !more {
                return false;
            }
        }
        true
    }

    /// Shuts the front end out; it may come again. `false` if there was none.
    pub(super) fn reset(&mut self, around: &Surroundings) -> bool {
        let attached = self.session.is_some();
        self.detach(Farewell::Asked, around);
        attached
    }

    /// Closes the door for good.
    pub(super) fn close(mut self, around: &Surroundings) {
        self.detach(Farewell::Asked, around);
        if let Some(listener) = self.listener.take() {
            around.unwatch(&listener.fd);
            listener.close();
        }
        around.forget_all(self.door.id, self.keys.all());
        self.record.clear();
    }
}

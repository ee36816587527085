//! One attached front end: its socket, one message after another.
//!
//! # Theory of operation
//! ```text
//! look: is a whole message there? --no--> wait for the next octet
//!   | yes
//! mark the request as open in the record
//! take -> parse -> carry out (which gives descriptors to the keeper) -> reply
//!   | anything that cannot be answered: a farewell, the connection ends
//! close the mark
//! ```
//! A refused request is answered where the front end asked for it, and the connection goes on. A
//! front end that did not ask would build on what is not there: that one is shut out, so that it
//! begins anew and its operator sees why.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{Shutdown, shutdown};

use super::event::PortEvent;
use super::message::{self, Request};
use super::negotiation::{Answer, Negotiation};
use super::refusal::{Farewell, Refusal};
use super::surroundings::Surroundings;
use super::wire::{self, Header};
use crate::faults::{self, Point};
use crate::names::RingId;

/// The body of an acknowledgement: carried out, or not.
const DONE: u64 = 0;
const REFUSED: u64 = 1;

/// One attached front end.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) socket: OwnedFd,
    /// Tells this connection's events from those of the port's earlier ones.
    pub(super) generation: u32,
    pub(super) negotiation: Negotiation,
    /// The other end was seen to hang up; what it said before is still read.
    pub(super) hung_up: bool,
    /// A second front end was turned away.
    pub(super) newcomer_refused: bool,
    /// Whether any request was carried out.
    pub(super) spoke: bool,
}

impl Session {
    pub(super) fn new(socket: OwnedFd, generation: u32, negotiation: Negotiation) -> Self {
        Self {
            socket,
            generation,
            negotiation,
            hung_up: false,
            newcomer_refused: false,
            spoke: false,
        }
    }

    /// Carries out the next request, if one lies whole in the socket. `false` if none does.
    pub(super) fn turn(&mut self, around: &Surroundings) -> Result<bool, Farewell> {
        let Some(header) = wire::look(self.socket.as_fd())? else {
            return if self.hung_up { Err(Farewell::HungUp) } else { Ok(false) };
        };
        self.negotiation.record.open_request(header.request);
        let message = wire::take(self.socket.as_fd(), header)?;
        faults::pass(Point::VhostReceived);
        let told = header.need_reply && self.negotiation.acknowledges();
        let outcome = Request::parse(message, self.negotiation.record.pairs())
            .and_then(|request| self.negotiation.carry_out(request, around));
        faults::pass(Point::VhostDone);
        match outcome {
            Ok(answer) => self.answer(header, answer, told)?,
            Err(why) => self.refuse(header, why, told, around)?,
        }
        faults::pass(Point::VhostAnswered);
        self.negotiation.record.close_request();
        self.spoke = true;
        Ok(true)
    }

    fn answer(&self, header: Header, answer: Answer, told: bool) -> Result<(), Farewell> {
        let number = match answer {
            Answer::Done if told => DONE,
            Answer::Done => return Ok(()),
            Answer::Number(number) => number,
            Answer::Base(ring, base) => return self.answer_base(header, ring, base),
        };
        wire::reply(self.socket.as_fd(), header.request, &number.to_ne_bytes())
    }

    fn answer_base(&self, header: Header, ring: RingId, base: u32) -> Result<(), Farewell> {
        let [q0, q1, q2, q3] = u32::from(ring.number()).to_ne_bytes();
        let [b0, b1, b2, b3] = base.to_ne_bytes();
        wire::reply(self.socket.as_fd(), header.request, &[q0, q1, q2, q3, b0, b1, b2, b3])
    }

    fn refuse(
        &self,
        header: Header,
        why: Refusal,
        told: bool,
        around: &Surroundings,
    ) -> Result<(), Farewell> {
        let request = header.code();
        if message::has_answer(header) || (why.misleads() && !told) {
            return Err(Farewell::Refused { request, why });
        }
        around.tell(self.negotiation.port, PortEvent::Refused { request, why });
        if told {
            wire::reply(self.socket.as_fd(), header.request, &REFUSED.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Takes the rings back, ends the connection (the keeper's duplicate would hold it open) and
    /// forgets it.
    pub(super) fn end(mut self, around: &Surroundings) {
        let Negotiation { port, .. } = self.negotiation;
        // Before anything else of the record changes: no request is open that would say so.
        self.negotiation.record.set_disconnected();
        self.negotiation.stop_all(around);
        self.negotiation.record.forget_negotiation();
        around.unwatch(&self.socket);
        hang_up(&self.socket);
        around.forget_connection(port, &self.negotiation.keys);
    }
}

/// Ends a connection for everybody who holds it, and takes out what was not read: the last one to
/// close it would close the descriptors in there, too, whatever they are.
pub(super) fn hang_up(socket: &OwnedFd) {
    // It fails where the other end is gone already.
    let _ = shutdown(socket, Shutdown::Both);
    wire::empty(socket.as_fd());
}

//! The way to the resolver, the process that answers DNS, and back.
//!
//! # Theory of operation
//! ```text
//! batch of a port --- ask --> socket of its worker ==> resolver
//! port's input ring <-- serve_resolver (told by epoll) <== resolver
//! ```
//! 1. A question has passed the checks of the last inch before it comes here. It is sent with one system
//!    call, which does not wait; a port has a budget of them (`limiter`).
//! 2. While no resolver runs, or if it does not keep up, questions are dropped, each by its name.
//! 3. An answer is for the port whose tag it has, as far as that port still is the one that asked, and
//!    only what `answer::pass_on` lets through.
//!
//! A resolver that ends leaves its sockets behind until others are set: they are watched no more.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use super::Token;
use super::change::Change;
use super::handle::{Gone, WorkerHandle};
use super::turn::Turn;
use crate::answer;
use crate::counters::{Counter, Counters};
use crate::names::Owner;
use crate::resolver::Tag;

/// Answers taken in one turn.
const TURN: usize = 64;

/// The sockets to the resolver, one of each worker; none while it does not run.
#[derive(Default)]
pub struct Askers(Vec<OwnedFd>);

impl Askers {
    /// Hands a question over.
    pub fn ask(&self, worker: usize, tag: Tag, datagram: &[u8]) -> Result<(), Counter> {
        let Some(socket) = self.0.get(worker) else { return Err(Counter::DropResolverAway) };
        let head = tag.to_bytes();
        let message = [IoSlice::new(&head), IoSlice::new(datagram)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(socket, &message, &mut SendAncillaryBuffer::default(), flags) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Err(Counter::DropResolverFull),
            Err(_) => Err(Counter::DropResolverAway),
        }
    }
}

impl WorkerHandle {
    /// Asks the resolver at the other ends of these sockets from now on, one for each worker; with none
    /// of them there is no resolver.
    pub fn set_resolver(&self, sockets: Vec<OwnedFd>) -> Result<io::Result<()>, Gone> {
        self.call(move |change| change.set_resolver(sockets))
    }
}

impl Change<'_> {
    fn set_resolver(&mut self, sockets: Vec<OwnedFd>) -> io::Result<()> {
        for (worker, old) in self.world.resolver.0.drain(..).enumerate() {
            self.crew.desk(worker).unwatch(old);
        }
        for (worker, socket) in sockets.iter().enumerate().take(self.crew.len()) {
            self.crew.desk(worker).watch(socket.as_fd(), Token::Resolver, false)?;
        }
        self.world.resolver = Askers(sockets);
        Ok(())
    }
}

impl Turn<'_> {
    /// Takes what the resolver has answered, a bounded number of datagrams.
    pub(super) fn serve_resolver(&mut self) {
        let world = self.world;
        let Some(socket) = world.resolver.0.get(self.own.index) else { return };
        for _ in 0..TURN {
            self.own.storage.clear();
            let room = self.own.storage.room();
            let len = match recv(socket, &mut *room, RecvFlags::DONTWAIT) {
                Ok((len @ 1.., _)) => len,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok(_) | Err(_) => {
                    // It has ended. Epoll would say so for ever.
                    self.crew.desk(self.own.index).unwatch(socket);
                    return;
                }
            };
            self.answered(len);
        }
    }

    /// Delivers the answer that lies in storage's room.
    fn answered(&mut self, len: usize) {
        let world = self.world;
        let message = self.own.storage.room().get(..len).unwrap_or_default();
        let Some((tag, datagram)) = Tag::split(message) else { return };
        let Some(port) = world.ports.get(tag.port.0) else { return };
        let counters = Counters::of(&world.state, Owner::Port(port.id));
        // A port that was moved since it asked may be in another worker's hands: that one is not waited
        // for, and the guest asks again.
        let sending = if port.worker == self.own.index {
            Some(port.sending())
        } else {
            port.sending_if_free()
        };
        let passed = match sending {
            Some(sending) if port.generation == tag.generation => {
                answer::pass_on(&sending.inch, datagram, &mut self.own.replies)
            }
            _ => Err(Counter::RxResolver),
        };
        match passed {
            Ok(()) => self.send_replies(tag.port),
            Err(reason) => counters.add(reason, 1),
        }
    }
}

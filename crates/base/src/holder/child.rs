//! A base: its process, its socket, what it is still to be told, when it last spoke.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};

use super::channel::{self, Wait};
use super::process::{self, Program};
use super::protocol::{Ended, Hello, MAX_DESCRIPTORS, ToBase, ToHolder};
use super::registry::Registry;
use super::say;

/// One thing to send.
enum Outgoing {
    Message(Vec<u8>),
    /// The registry from this place on.
    Pieces(u64),
}

/// Ticks that a killed base has to end. One that has not by then is held in the kernel, by a file
/// system or a disk that does not answer.
const BURIAL: u32 = 3;

/// Whether all was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It was, or nobody is there to send it to.
    Done,
    /// The socket takes no more for now.
    Full,
    /// The kernel carries too many descriptors for this user: to be tried again soon.
    Later,
}

/// A base and the holder's end of its socket.
pub struct BaseChild {
    /// Its process: not reaped yet, so the number is its own.
    pub pid: Pid,
    /// Ticks since it said that it serves; `None` before.
    pub served: Option<u32>,
    /// Whether the holder killed it for its silence.
    pub killed: bool,
    /// Ticks it has lived.
    pub ticks: u32,
    /// A base that is somebody else's child: its process, readable when it has ended.
    stranger: Option<OwnedFd>,
    socket: OwnedFd,
    closed: bool,
    outgoing: VecDeque<Outgoing>,
    silent: u32,
    beaten: bool,
    /// Ticks since it was killed.
    unburied: u32,
}

impl BaseChild {
    /// Starts one, and tells it nothing yet.
    pub fn start(program: &Program) -> io::Result<Self> {
        let (socket, theirs) = channel::pair()?;
        let pid = process::start_base(program, theirs)?;
        Ok(Self::of(pid, socket, None))
    }

    /// One that runs already, and is not this process's child.
    pub fn found(pid: Pid, process: OwnedFd, socket: OwnedFd) -> Self {
        Self::of(pid, socket, Some(process))
    }

    fn of(pid: Pid, socket: OwnedFd, stranger: Option<OwnedFd>) -> Self {
        Self {
            pid,
            served: None,
            killed: false,
            ticks: 0,
            stranger,
            socket,
            closed: false,
            outgoing: VecDeque::new(),
            silent: 0,
            beaten: false,
            unburied: 0,
        }
    }

    /// Tells it to prepare, and lets it look at what is kept, with the next [`Self::flush`].
    pub fn prepare(&mut self) {
        self.say(&ToBase::Prepare);
        self.outgoing.push_back(Outgoing::Pieces(0));
        self.say(&ToBase::Complete);
    }

    /// Hands everything over to it, with the next [`Self::flush`].
    pub fn hand_over(&mut self, hello: Hello, unsettled: impl Iterator<Item = (u32, Ended)>) {
        (self.ticks, self.silent) = (0, 0);
        self.say(&ToBase::Hello(hello));
        self.outgoing.push_back(Outgoing::Pieces(0));
        unsettled.for_each(|(pid, ended)| self.say(&ToBase::Reaped { pid, ended }));
        self.say(&ToBase::Complete);
    }

    /// Tells it something, after what it is to be told already.
    pub fn say(&mut self, message: &ToBase) {
        // Keys were checked when they came in, so every message can be written.
        if let Ok(bytes) = message.encode() {
            self.outgoing.push_back(Outgoing::Message(bytes));
        }
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self, registry: &Registry) -> Flush {
        let socket = self.socket.as_fd();
        while let Some(next) = self.outgoing.front_mut() {
            let sent = match next {
                Outgoing::Message(bytes) => channel::send(socket, bytes, &[], Wait::No),
                Outgoing::Pieces(from) => {
                    let piece = registry.piece(*from, MAX_DESCRIPTORS);
                    match (piece.next, ToBase::Piece(piece.keys).encode()) {
                        (Some(next), Ok(bytes)) => {
                            let sent = channel::send(socket, &bytes, &piece.descriptors, Wait::No);
                            if sent.is_ok() {
                                *from = next;
                                continue;
                            }
                            sent
                        }
                        _ => Ok(()),
                    }
                }
            };
            match sent.map_err(|e| Errno::from_io_error(&e)) {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(Some(Errno::AGAIN)) => return Flush::Full,
                Err(Some(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)) => {
                    return Flush::Later;
                }
                // It is dying: SIGCHLD follows.
                Err(_) => self.outgoing.clear(),
            }
        }
        Flush::Done
    }

    /// The next message it sent that can be understood, with the descriptor that came along.
    pub fn receive(&mut self) -> Option<(ToHolder, Option<OwnedFd>)> {
        while !self.closed {
            match channel::receive(&self.socket, Wait::No) {
                Ok(Some(received)) => match ToHolder::decode(&received.bytes) {
                    Ok(message) => return Some((message, received.descriptors.into_iter().next())),
                    Err(error) => {
                        say(&format!("the base sent what the holder does not understand: {error}"))
                    }
                },
                Ok(None) => self.closed = true,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    say(&format!("the base sent what the holder does not understand: {e}"));
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// What to poll for its messages; nothing once it has closed its end.
    pub fn open_socket(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed).then(|| self.socket.as_fd())
    }

    /// What to poll for its end, if nobody will say that a child has ended.
    pub fn stranger(&self) -> Option<BorrowedFd<'_>> {
        self.stranger.as_ref().map(OwnedFd::as_fd)
    }

    /// Whether it was somebody else's child, and has ended.
    pub fn ended_elsewhere(&self) -> bool {
        self.stranger.as_ref().is_some_and(|p| process::wait_for_end(p, Duration::ZERO))
    }

    /// Kills it.
    pub fn kill(&mut self) -> bool {
        let killed = match &self.stranger {
            Some(process) => pidfd_send_signal(process, Signal::KILL),
            None => kill_process(self.pid, Signal::KILL),
        };
        killed.is_ok()
    }

    /// It serves.
    pub fn ready(&mut self) {
        self.served.get_or_insert(0);
    }

    /// It is alive.
    pub fn beat(&mut self) {
        self.beaten = true;
        self.silent = 0;
    }

    /// A tick has passed; too many without a word, and it is killed.
    pub fn tick(&mut self, silent_ticks: u32, start_ticks: u32) {
        self.ticks = self.ticks.saturating_add(1);
        self.silent = self.silent.saturating_add(1);
        self.served = self.served.map(|ticks| ticks.saturating_add(1));
        self.unburied = self.unburied.saturating_add(u32::from(self.killed));
        let limit = if self.beaten { silent_ticks } else { start_ticks };
        if self.silent > limit && !self.killed {
            say(&format!("the base (process {}) has been silent for {limit} s", self.pid));
            self.killed = self.kill();
        }
    }

    /// It was killed and does not end. It carries nothing any more, so nobody needs to wait for it.
    pub fn lingers(&self) -> bool {
        self.unburied >= BURIAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_is_killed_and_does_not_end_is_waited_for_some_ticks_only() {
        let sleeper = Program {
            path: "/bin/sleep".into(),
            arguments: vec!["60".into()],
            environment: Vec::new(),
        };
        let mut base = BaseChild::start(&sleeper).unwrap();
        base.tick(10, 1);
        assert!(!base.killed);
        base.tick(10, 1);
        assert!(base.killed && !base.lingers());
        // Nobody reaps it here, so to its parent it has not ended.
        for _ in 0..BURIAL {
            assert!(!base.lingers());
            base.tick(10, 1);
        }
        assert!(base.lingers());
        let _ = rustix::process::waitpid(Some(base.pid), rustix::process::WaitOptions::empty());
    }
}

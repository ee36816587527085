//! The resolver's process: its beginning, and its loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use datapath::resolver::{LONGEST, Tag};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::answering::Answering;
use super::carry::{self, Carried};
use super::control::{Told, Word, tell};
use super::outside::Outside;
use super::stacks::{Stacks, Turned};
use super::{Act, Asker, Back, Settings, Ticket, confine};
use crate::words;

/// Tokens of epoll: the base's socket, those of the workers, and from here on the tickets.
const CONTROL: u64 = 0;
const LINKS: u64 = 1;
const TICKETS: u64 = 1 << 32;
/// Datagrams taken from one socket in one turn.
const TURN: usize = 64;

/// Is the resolver: standard input is the base's socket. Returns the exit status when the base has ended.
pub fn run(base: u32) -> u8 {
    std::panic::set_hook(Box::new(|info| {
        words::say(&format!("resolver: {info}\n"));
        std::process::abort();
    }));
    match begin(base) {
        Ok(()) => 0,
        Err(error) => {
            words::say(&format!("resolver: {error}\n"));
            1
        }
    }
}

fn begin(base: u32) -> io::Result<()> {
    // Opens what it will say its last words by, while files can be opened.
    words::say("");
    confine::begin(base)?;
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let links = match Told::next(control.as_fd(), true)? {
        Some(Told { word: Word::Sockets, descriptors }) => descriptors,
        Some(_) => return Err(io::Error::other("the base said something else than its sockets")),
        None => return Ok(()),
    };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    confine::lock_in().map_err(io::Error::other)?;
    Process::new(epoll, control, links)?.serve()
}

struct Process {
    epoll: OwnedFd,
    control: OwnedFd,
    links: Vec<OwnedFd>,
    answering: Answering,
    stacks: Stacks,
    outside: Outside,
    acts: Vec<Act>,
    turned: Turned,
    /// By which of the links a port was heard last.
    heard_by: std::collections::HashMap<Tag, usize>,
}

impl Process {
    fn new(epoll: OwnedFd, control: OwnedFd, links: Vec<OwnedFd>) -> io::Result<Self> {
        epoll::add(&epoll, &control, EventData::new_u64(CONTROL), EventFlags::IN)?;
        for (token, link) in (LINKS..).zip(&links) {
            epoll::add(&epoll, link, EventData::new_u64(token), EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            control,
            links,
            answering: Answering::default(),
            stacks: Stacks::new(Instant::now()),
            outside: Outside::default(),
            acts: Vec::new(),
            turned: Turned::default(),
            heard_by: Default::default(),
        })
    }

    /// The loop, until the base has ended.
    fn serve(mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(64);
        loop {
            ready.clear();
            let timeout = self.timeout(Instant::now());
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            for event in &ready {
                let epoll::Event { data, .. } = *event;
                match data.u64() {
                    CONTROL => {
                        if !self.hear_base()? {
                            return Ok(());
                        }
                    }
                    token @ TICKETS.. => self.hear_outside(token, now),
                    link => self.hear_guests(link.saturating_sub(LINKS), now),
                }
                self.carry_out(now);
            }
            self.answering.poll(now, &mut self.acts);
            self.stacks.poll(now, &mut self.turned);
            self.carry_out(now);
        }
    }

    fn timeout(&self, now: Instant) -> Option<Timespec> {
        let due = self.answering.deadline().into_iter().chain(self.stacks.deadline()).min()?;
        let until = due.saturating_duration_since(now);
        // Not a moment too early, or it would look for nothing.
        let until = until.saturating_add(Duration::from_micros(100));
        Timespec::try_from(until).ok()
    }

    /// Hears the base; false if it has ended.
    fn hear_base(&mut self) -> io::Result<bool> {
        loop {
            let told = match Told::next(self.control.as_fd(), false) {
                Ok(Some(told)) => told,
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            match (told.word, told.descriptors.into_iter().next()) {
                (Word::Beat, _) => {
                    // A base that does not listen has other worries.
                    let _ = tell(self.control.as_fd(), Word::Alive, &[]);
                }
                (Word::Settings, Some(memfd)) => {
                    self.answering.set(Settings::from_memfd(memfd)?, &mut self.acts);
                }
                _ => return Err(io::Error::other("the base said something unexpected")),
            }
        }
    }

    /// Takes datagrams of the guests from one of the workers.
    fn hear_guests(&mut self, link: u64, now: Instant) {
        let Ok(number) = usize::try_from(link) else { return };
        let mut room = vec![0; LONGEST.saturating_add(Tag::LEN)];
        for _ in 0..TURN {
            let Some(socket) = self.links.get(number) else { return };
            let len = match recv(socket, &mut *room, RecvFlags::DONTWAIT) {
                Ok((len @ 1.., _)) => len,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok(_) | Err(_) => {
                    // The base has let go of it; it will say more, or end.
                    let _ = epoll::delete(&self.epoll, socket);
                    return;
                }
            };
            if let Some((tag, datagram)) = Tag::split(room.get(..len).unwrap_or_default()) {
                self.hear_guest(number, tag, datagram, now);
                self.carry_out(now);
            }
        }
    }

    fn hear_guest(&mut self, link: usize, tag: Tag, datagram: &[u8], now: Instant) {
        let Some(mtu) = self.answering.mtu(tag.port.0) else { return };
        // No more than there are ports, and one generation of each.
        if self.heard_by.insert(tag, link).is_none() {
            self.heard_by.retain(|other, _| other.port != tag.port || *other == tag);
        }
        match carry::read(datagram) {
            Some(Carried::Udp { source, destination, payload }) => {
                let most = carry::room(mtu, source.ip());
                let back = Back::Udp { to: source, from: destination, most };
                self.answering.ask(Asker { tag, back }, payload, now, &mut self.acts);
            }
            Some(Carried::Tcp) => self.stacks.take(tag, datagram, mtu, now, &mut self.turned),
            None => {}
        }
    }

    fn hear_outside(&mut self, token: u64, now: Instant) {
        let ticket = Ticket(token.saturating_sub(TICKETS));
        match self.outside.happened(&self.epoll, (ticket, EventData::new_u64(token))) {
            Ok(Some(message)) => self.answering.heard(ticket, &message, now, &mut self.acts),
            Ok(None) => {}
            Err(_) => self.answering.failed(ticket, now, &mut self.acts),
        }
    }

    /// Does what is to be done, until nothing is left.
    fn carry_out(&mut self, now: Instant) {
        while !self.acts.is_empty() || !self.turned.questions.is_empty() {
            for (tag, connection, question) in std::mem::take(&mut self.turned.questions) {
                let asker = Asker { tag, back: Back::Tcp(connection) };
                self.answering.ask(asker, &question, now, &mut self.acts);
            }
            for act in std::mem::take(&mut self.acts) {
                self.act(act, now);
            }
        }
        for (tag, datagram) in std::mem::take(&mut self.turned.datagrams) {
            self.send(tag, &datagram);
        }
    }

    fn act(&mut self, act: Act, now: Instant) {
        match act {
            Act::Answer { asker, message } => match asker.back {
                Back::Udp { to, from, .. } => {
                    self.send(asker.tag, &carry::write(from, to, &message));
                }
                Back::Tcp(connection) => {
                    self.stacks.answer(asker.tag, connection, &message, now, &mut self.turned);
                }
            },
            Act::Ask { ticket, server, carrier, message } => {
                let token = TICKETS.saturating_add(ticket.0);
                let data = EventData::new_u64(token);
                let to = (server, carrier);
                if self.outside.ask(&self.epoll, (ticket, data), to, &message).is_err() {
                    self.answering.failed(ticket, now, &mut self.acts);
                }
            }
            Act::Close(ticket) => self.outside.close(ticket),
        }
    }

    /// Sends a datagram to a port's guest; one that the worker does not take at once is lost.
    fn send(&self, tag: Tag, datagram: &[u8]) {
        let link = self.heard_by.get(&tag).and_then(|link| self.links.get(*link));
        if let Some(link) = link.filter(|_| !datagram.is_empty()) {
            let message = [&tag.to_bytes()[..], datagram].concat();
            let _ = send(link, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

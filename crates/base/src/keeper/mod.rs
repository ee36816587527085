//! The base's side of the holder: registering descriptors, taking over a predecessor's, hearing
//! what the holder has to say.
//!
//! # Theory of operation
//! The holder gives a base its end of their socket as standard input. [`receive`] reads the
//! handover from it, waiting; from then on the socket has two users:
//! ```text
//! HolderKeeper (any thread)  --keep, forget, ready, beat-->  holder
//! HolderLink (main thread)   <--stop, yield, reaped, ...---  holder
//! ```
//! A base that is to take over from one that still serves is told to prepare first ([`open`]).
//! A keep is one `sendmsg` under a mutex, waiting when the holder is behind. It is in the kernel's
//! hands when the call returns, so it survives the base: the holder reads what a dead base had sent
//! before it starts a successor.
//!
//! A holder that is gone is reported once, by the link. To the keeper it is no error: there is
//! nobody to keep anything, and the base carries on. The keeper has a list of its own of all that
//! is kept, duplicates like the holder's: with it another holder is given the same
//! ([`HolderKeeper::move_to`]).

mod inheritance;
mod link;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use datapath::faults::{self, Point};
use datapath::keeper::Keeper;

use crate::holder::channel::{self, Wait};
use crate::holder::protocol::ToHolder;

pub use crate::holder::protocol::{Arrival, Death, Ended, Hello};
pub use inheritance::{HandoverError, Inheritance, Opening, open, receive};
pub use link::{HolderEvent, HolderLink};

/// Tells the holder what to keep. Shared between threads.
#[derive(Debug)]
pub struct HolderKeeper(Mutex<Line>);

/// The way to the holder, and what it was told to keep.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    kept: BTreeMap<String, OwnedFd>,
}

impl HolderKeeper {
    /// Speaks on `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(Line { socket, kept: BTreeMap::new() }))
    }

    /// Notes what the holder keeps already.
    pub fn inherit(&self, inheritance: &Inheritance) -> io::Result<()> {
        self.line().kept = inheritance.duplicates()?;
        Ok(())
    }

    /// Another holder is at the other end of `socket`: it is told which base speaks, its program
    /// beside that, and everything that is kept. From here on it is the holder.
    pub fn move_to(
        &self,
        socket: OwnedFd,
        program: &File,
        generation: u32,
        seconds: u64,
        words: &[OsString],
    ) -> io::Result<()> {
        let mut line = self.line();
        line.socket = socket;
        let words = words.to_vec();
        let inherit = ToHolder::Inherit { generation, seconds, words };
        line.send(&inherit, &[program.as_fd()], Wait::Yes)?;
        for (key, fd) in &line.kept {
            line.send(&ToHolder::Keep(key.clone()), &[fd.as_fd()], Wait::Yes)?;
        }
        line.send(&ToHolder::Ready, &[], Wait::Yes)
    }

    /// Asks for a base of these words in the place of this one, of `program` or else of the same.
    pub fn switch(
        &self,
        layout: u32,
        words: &[OsString],
        program: Option<&File>,
    ) -> io::Result<()> {
        let beside: Vec<_> = program.iter().map(|file| file.as_fd()).collect();
        self.send(&ToHolder::Switch { layout, words: words.to_vec() }, &beside, Wait::Yes)
    }

    /// Says that this base can take over, and which layouts of the state memory it reads.
    pub fn prepared(&self, layouts: std::ops::RangeInclusive<u32>) -> io::Result<()> {
        let (oldest, newest) = layouts.into_inner();
        self.send(&ToHolder::Prepared { oldest, newest }, &[], Wait::Yes)
    }

    /// Says that this base cannot take over, and why. It ends after that.
    pub fn cannot(&self, why: &str) -> io::Result<()> {
        self.send(&ToHolder::Cannot(why.to_owned()), &[], Wait::No)
    }

    /// Says that this base rests, since `at`, and touches nothing any more. It ends after that.
    pub fn yielded(&self, at: u64) -> io::Result<()> {
        self.send(&ToHolder::Yielded { at }, &[], Wait::Yes)
    }

    /// Says that this base serves: from now on its death is followed by a successor.
    pub fn ready(&self) -> io::Result<()> {
        self.send(&ToHolder::Ready, &[], Wait::Yes)
    }

    /// Says that this base is alive. To be called once a second, by what can tell that the base
    /// does its work. Never waits: a holder that is behind has older beats to read.
    pub fn beat(&self) -> io::Result<()> {
        match self.send(&ToHolder::Beat, &[], Wait::No) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Asks the holder to end the instance, as SIGTERM would: it answers with
    /// [`HolderEvent::Stop`].
    pub fn ask_stop(&self) -> io::Result<()> {
        self.send(&ToHolder::Stop, &[], Wait::Yes)
    }

    /// Says that all that follows from the end of process `pid` is done. Until then each successor
    /// hears of it again.
    pub fn settled(&self, pid: u32) -> io::Result<()> {
        self.send(&ToHolder::Settled(pid), &[], Wait::Yes)
    }

    fn send(&self, message: &ToHolder, beside: &[BorrowedFd<'_>], wait: Wait) -> io::Result<()> {
        self.line().send(message, beside, wait)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn send(&self, message: &ToHolder, beside: &[BorrowedFd<'_>], wait: Wait) -> io::Result<()> {
        let bytes = message.encode().map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
        match channel::send(self.socket.as_fd(), &bytes, beside, wait) {
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            result => result,
        }
    }
}

impl Keeper for HolderKeeper {
    fn keep(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let duplicate = fd.try_clone_to_owned();
        let mut line = self.line();
        let duplicate = match duplicate {
            Ok(fd) => fd,
            Err(error) => {
                // Better nothing under it than what was there before.
                line.kept.remove(key);
                line.send(&ToHolder::Forget(key.to_owned()), &[], Wait::Yes)?;
                return Err(error);
            }
        };
        let sent = line.send(&ToHolder::Keep(key.to_owned()), &[fd], Wait::Yes);
        line.kept.insert(key.to_owned(), duplicate);
        drop(line);
        faults::pass(Point::Kept);
        sent
    }

    fn forget(&self, key: &str) -> io::Result<()> {
        let mut line = self.line();
        line.kept.remove(key);
        line.send(&ToHolder::Forget(key.to_owned()), &[], Wait::Yes)
    }

    fn forget_all(&self, prefix: &str) -> io::Result<()> {
        let mut line = self.line();
        line.kept.retain(|key, _| !key.starts_with(prefix));
        line.send(&ToHolder::ForgetAll(prefix.to_owned()), &[], Wait::Yes)
    }
}

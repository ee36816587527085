//! The base's side of the holder: registering descriptors, taking over a predecessor's, hearing
//! what the holder has to say.
//!
//! # Theory of operation
//! The holder gives a base its end of their socket as standard input. [`receive`] reads the
//! handover from it, waiting; from then on the socket has two users:
//! ```text
//! HolderKeeper (any thread)  --keep, forget, ready, beat-->  holder
//! HolderLink (main thread)   <--stop, reaped, not kept-----  holder
//! ```
//! A keep is one `sendmsg` under a mutex, waiting when the holder is behind. It is in the kernel's
//! hands when the call returns, so it survives the base: the holder reads what a dead base had sent
//! before it starts a successor.
//!
//! A holder that is gone is reported once, by the link. To the keeper it is no error: there is
//! nobody to keep anything, and the base carries on.

mod inheritance;
mod link;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use datapath::faults::{self, Point};
use datapath::keeper::Keeper;

use crate::holder::channel::{self, Wait};
use crate::holder::protocol::ToHolder;

pub use crate::holder::protocol::{Death, Ended, Hello};
pub use inheritance::{HandoverError, Inheritance, receive};
pub use link::{HolderEvent, HolderLink};

/// Tells the holder what to keep. Shared between threads.
#[derive(Debug)]
pub struct HolderKeeper(Mutex<OwnedFd>);

impl HolderKeeper {
    /// Speaks on `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
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
        let bytes = message.encode().map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match channel::send(socket.as_fd(), &bytes, beside, wait) {
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            result => result,
        }
    }
}

impl Keeper for HolderKeeper {
    fn keep(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let sent = self.send(&ToHolder::Keep(key.to_owned()), &[fd], Wait::Yes);
        faults::pass(Point::Kept);
        sent
    }

    fn forget(&self, key: &str) -> io::Result<()> {
        self.send(&ToHolder::Forget(key.to_owned()), &[], Wait::Yes)
    }

    fn forget_all(&self, prefix: &str) -> io::Result<()> {
        self.send(&ToHolder::ForgetAll(prefix.to_owned()), &[], Wait::Yes)
    }
}

//! Signals as sockets that `poll` can watch.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::Signal;

/// The signals the holder heeds. Children start without them: handlers do not survive `exec`.
#[derive(Debug)]
pub struct Signals {
    /// SIGTERM and SIGINT; in the foreground SIGHUP too.
    end: UnixStream,
    /// SIGCHLD.
    child: UnixStream,
}

impl Signals {
    /// Catches them. A `detached` holder ignores SIGHUP: it has no terminal to lose.
    pub fn catch(detached: bool) -> io::Result<Self> {
        let (end, end_writer) = UnixStream::pair()?;
        let (child, child_writer) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        child.set_nonblocking(true)?;
        for signal in [Signal::TERM, Signal::INT] {
            signal_hook::low_level::pipe::register(signal.as_raw(), end_writer.try_clone()?)?;
        }
        if detached {
            let heard_by_nobody = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(Signal::HUP.as_raw(), heard_by_nobody)?;
        } else {
            signal_hook::low_level::pipe::register(Signal::HUP.as_raw(), end_writer)?;
        }
        signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), child_writer)?;
        Ok(Self { end, child })
    }

    /// What to poll for the two kinds.
    pub fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.end.as_fd(), self.child.as_fd()]
    }

    /// How often the holder was told to end since the last call.
    pub fn take_end(&self) -> usize {
        take(&self.end)
    }

    /// Forgets what children did: they are reaped after this.
    pub fn take_child(&self) {
        take(&self.child);
    }
}

fn take(mut stream: &UnixStream) -> usize {
    let mut octets = [0; 64];
    let mut taken = 0usize;
    while let Ok(n @ 1..) = stream.read(&mut octets) {
        taken = taken.saturating_add(n);
    }
    taken
}

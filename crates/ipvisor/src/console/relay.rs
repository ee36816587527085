//! Between a terminal and a console: what was typed goes into the socket, what is shown comes out of
//! the log.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::escape::Escape;
use super::keyboard::Keyboard;
use crate::tail::{LOOK, Tail};

/// The terminal in raw mode; as it was when this goes.
pub struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if standard input is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// How it came to an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The key that leaves was typed.
    Left,
    /// The VM, or whoever has its console, closed it.
    Closed,
}

/// The ends of a console that this process has.
pub struct Ends {
    /// Where what is typed goes. `None`: this one only watches.
    pub socket: Option<UnixStream>,
    /// The right to type.
    pub keyboard: Option<Keyboard>,
    /// Where what is shown comes from. `None`: from the socket.
    pub tail: Option<Tail>,
    /// The key that leaves, if this is a keyboard: octets from a file pass as they are.
    pub escape: Option<Escape>,
}

/// Pieces of the log that are shown before somebody else has a turn.
const PIECES: usize = 16;

/// What there is to do.
#[derive(Default)]
struct Ready {
    socket: bool,
    input: bool,
    log: bool,
}

impl Ends {
    /// Relays until one side ends. `taken` is told when somebody else has taken the keyboard.
    pub fn relay(mut self, taken: impl Fn()) -> io::Result<Ended> {
        // Unbuffered on purpose: what was read here and not passed on would be lost.
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let mut output = io::stdout().lock();
        let mut octets = [0; 4096];
        let (mut reading_input, mut more) = (true, false);
        loop {
            let ready = self.wait(reading_input.then(|| input.as_fd()), more)?;
            let open = !ready.socket || self.receive(&mut octets, &mut output)?;
            more = self.show(ready.log, &mut output)?;
            if !open {
                while self.show(false, &mut output)? {}
                return Ok(Ended::Closed);
            }
            if ready.input {
                let n = rustix::io::read(&input, &mut octets)?;
                if n == 0 && self.escape.is_some() {
                    // The terminal is gone: nobody is there who could leave, or see anything.
                    return Ok(Ended::Left);
                }
                let typed = octets.get(..n).unwrap_or_default();
                let before = self.escape.and_then(|escape| escape.before(typed));
                if let Some(mut socket) = self.socket.as_ref() {
                    socket.write_all(before.unwrap_or(typed))?;
                }
                if before.is_some() {
                    return Ok(Ended::Left);
                }
                // The end of a file is not the end of the console: its answers are still to come.
                reading_input = n > 0;
            }
            if self.keyboard.as_ref().is_some_and(Keyboard::is_wanted) {
                // The socket first: the other may connect as soon as it has the keyboard.
                (self.socket, self.keyboard) = (None, None);
                taken();
            }
        }
    }

    /// Waits until something is ready; with a log or a keyboard, only for a moment, and with `more` not
    /// at all.
    fn wait(&self, input: Option<BorrowedFd<'_>>, more: bool) -> io::Result<Ready> {
        let mut sources = Vec::new();
        let mut place = |fd| {
            sources.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            sources.len() - 1
        };
        let input = input.map(&mut place);
        let socket = self.socket.as_ref().map(|socket| place(socket.as_fd()));
        let log = self.tail.as_ref().and_then(Tail::woken).map(&mut place);
        let look = Timespec::try_from(if more { Duration::ZERO } else { LOOK }).ok();
        let limit = look.filter(|_| self.tail.is_some() || self.keyboard.is_some());
        match poll(&mut sources, limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |place: Option<usize>| {
            let source = place.and_then(|at| sources.get(at));
            source.is_some_and(|source| !source.revents().is_empty())
        };
        Ok(Ready { socket: is_ready(socket), input: is_ready(input), log: is_ready(log) })
    }

    /// Takes what comes from the socket, and shows it where there is no log. Says whether there is more
    /// to come.
    fn receive(&self, octets: &mut [u8], output: &mut impl Write) -> io::Result<bool> {
        let Some(mut socket) = self.socket.as_ref() else { return Ok(true) };
        match socket.read(octets) {
            Ok(0) => Ok(false),
            Ok(n) => {
                if self.tail.is_none() {
                    output.write_all(octets.get(..n).unwrap_or_default())?;
                    output.flush()?;
                }
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Shows what is new in the log. Says whether there may be more.
    fn show(&mut self, heard: bool, output: &mut impl Write) -> io::Result<bool> {
        let Some(tail) = &mut self.tail else { return Ok(false) };
        if heard {
            tail.heard();
        }
        for _ in 0..PIECES {
            let piece = tail.read()?;
            if piece.is_empty() {
                return Ok(false);
            }
            output.write_all(&piece)?;
            output.flush()?;
        }
        Ok(true)
    }
}

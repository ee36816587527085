//! `console`: the terminal is the VM's serial line until Ctrl-] is typed.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Failure, tell};

/// Ctrl-]
const LEAVE: u8 = 0x1d;

/// The terminal in raw mode; as it was when this goes.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> io::Result<Option<Self>> {
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

/// Connects terminal and console until one side ends.
pub fn attach(vm: &str, socket: &Path) -> Result<(), Failure> {
    let stream = UnixStream::connect(socket).map_err(|e| {
        Failure::new(format!("cannot connect to the console of {vm}: {e}"))
            .hint(format!("does {vm} run? `ipvisor ps` says so"))
    })?;
    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        tell(&format!("console of {vm}: Ctrl-] leaves\r"));
    }
    let result = relay(&stream, terminal.is_some());
    drop(terminal);
    let ended = result?;
    tell(match ended {
        Ended::Left => "\nleft the console",
        Ended::Closed => "\nthe console was closed",
    });
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    /// Ctrl-] was typed.
    Left,
    /// The VM, or whoever has its console, closed it.
    Closed,
}

fn relay(mut stream: &UnixStream, typed: bool) -> io::Result<Ended> {
    // Unbuffered on purpose: what was read here and not passed on would be lost.
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let mut output = io::stdout().lock();
    let mut octets = [0; 4096];
    let mut reading_input = true;
    loop {
        let mut sources = vec![PollFd::new(&stream, PollFlags::IN)];
        if reading_input {
            sources.push(PollFd::new(&input, PollFlags::IN));
        }
        match poll(&mut sources, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready = |n: usize| sources.get(n).is_some_and(|s| !s.revents().is_empty());
        let (from_vm, from_input) = (ready(0), ready(1));
        if from_vm {
            match stream.read(&mut octets) {
                Ok(0) => return Ok(Ended::Closed),
                Ok(n) => {
                    output.write_all(octets.get(..n).unwrap_or_default())?;
                    output.flush()?;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Ended::Closed),
                Err(e) => return Err(e),
            }
        }
        if from_input {
            let n = rustix::io::read(&input, &mut octets)?;
            let taken = octets.get(..n).unwrap_or_default();
            // Ctrl-] means something at a keyboard only: bytes from a file pass as they are.
            let leave = taken.iter().position(|&o| typed && o == LEAVE);
            let passed = taken.get(..leave.unwrap_or(n)).unwrap_or_default();
            stream.write_all(passed)?;
            if leave.is_some() {
                return Ok(Ended::Left);
            }
            // The end of a file is not the end of the console: its answers are still to come.
            reading_input = n > 0;
        }
    }
}

//! `console`: the terminal is the VM's serial line until Ctrl-] is typed.
//!
//! # Theory of operation
//! ```text
//! guest ── QEMU ──┬── NAME.console.log ──> everybody who looks: the end of it first, then what is new
//!                 └── NAME.console <────── the one who types, and has the lock NAME.keyboard
//! ```
//! The base only says where these are. What is shown is read from the log that QEMU writes, by the one who
//! types as well: history and what follows are one stream, without a seam. An instance of an
//! older version names no log: then there is no history, what is shown comes from the socket, and
//! nobody else can watch.
//!
//! # Limits
//! A serial line carries octets and nothing else: the guest does not learn how large the terminal is.
//! Who attaches is told what to type in the guest for that.

pub mod escape;
mod keyboard;
mod relay;

use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use base::control::Console;
use rustix::termios::tcgetwinsize;

use self::escape::Escape;
use self::keyboard::{Keyboard, Outcome};
use self::relay::{Ended, Ends};
use crate::failure::{Failure, tell};
use crate::tail::Tail;

pub use self::relay::RawTerminal;

/// Octets of what was shown before that are shown to one who comes.
const HISTORY: u64 = 64 << 10;

/// How to attach.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Only to watch.
    pub watch: bool,
    /// To take the keyboard from whoever has it.
    pub take: bool,
    /// The key that leaves.
    pub escape: Escape,
}

/// Connects terminal and console until one side ends.
pub fn attach(vm: &str, place: &Console, manner: Manner) -> Result<(), Failure> {
    let outcome = match (&place.keyboard, manner.watch) {
        (_, true) | (None, false) => None,
        (Some(lock), false) => Some(
            Keyboard::want(lock, manner.take)
                .map_err(|e| Failure::new(format!("cannot have the keyboard of {vm}: {e}")))?,
        ),
    };
    let (keyboard, others) = match outcome {
        Some(Outcome::Ours(keyboard)) => (Some(keyboard), None),
        Some(Outcome::Theirs(process)) => (None, Some(process)),
        None => (None, None),
    };
    let types = !manner.watch && others.is_none();
    if !types && place.log.is_none() {
        return Err(Failure::new(format!("the console of {vm} cannot be watched")).hint(
            "the running instance is of an older version: `ipvisor upgrade` makes it this one",
        ));
    }
    if let Some(process) = others
        && !io::stdin().is_terminal()
    {
        // What a script wants to type must not vanish.
        return Err(Failure::new(format!("{} has the keyboard of {vm}", who(process)))
            .hint("`--take` takes it, `--watch` does without"));
    }
    let socket = types.then(|| connect(vm, &place.socket)).transpose()?;
    let terminal = RawTerminal::enter()?;
    let typed = terminal.is_some();
    if typed {
        tell(&format!("{}\r", greeting(vm, types, others, manner.escape)));
    }
    // A script has asked for nothing that was said before it came.
    let wants_history = typed || manner.watch;
    let tail = place.log.as_deref().map(|log| begin(log, wants_history)).transpose()?;
    let escape = typed.then_some(manner.escape);
    let taken = || tell("\r\nsomebody else has taken the keyboard: you watch from now on\r");
    let result = Ends { socket, keyboard, tail, escape }.relay(taken);
    drop(terminal);
    tell(match result? {
        Ended::Left => "\nleft the console",
        Ended::Closed => "\nthe console was closed",
    });
    Ok(())
}

fn connect(vm: &str, socket: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(socket).map_err(|e| {
        Failure::new(format!("cannot connect to the console of {vm}: {e}"))
            .hint(format!("does {vm} run? `ipvisor ps` says so; `ipvisor logs {vm}` what it said"))
    })
}

/// Shows the end of the log, if that is wanted; gives the place behind it.
fn begin(log: &Path, wants_history: bool) -> io::Result<Tail> {
    if !wants_history {
        return Tail::at_end(log);
    }
    let (history, tail) = Tail::with_history(log, HISTORY)?;
    let mut output = io::stdout().lock();
    output.write_all(&history)?;
    output.flush()?;
    Ok(tail)
}

fn who(process: Option<u32>) -> String {
    process.map_or("somebody else".to_owned(), |pid| format!("process {pid}"))
}

/// What a person is told who attaches.
fn greeting(vm: &str, types: bool, others: Option<Option<u32>>, escape: Escape) -> String {
    let mut text = format!("console of {vm}: {escape} leaves");
    if let Some(process) = others {
        let who = who(process);
        text.push_str(&format!("; {who} has the keyboard, you watch (`--take` takes it)"));
    }
    if types && let Ok(size) = tcgetwinsize(io::stdout()) {
        let (rows, columns) = (size.ws_row, size.ws_col);
        text.push_str(&format!(
            "; for programs that fill the screen: stty rows {rows} cols {columns}"
        ));
    }
    text
}

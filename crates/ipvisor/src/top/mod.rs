//! `top`: what the VMs do, on the whole screen, a look a second.
//!
//! # Theory of operation
//! `model` knows, `screen` draws, here is the terminal: raw mode and the other screen, both as they were
//! when this ends; keys; and how large it is, which is asked for again and again, so that a signal
//! needs no handler. The base is asked once a second. One that dies, or is replaced, is asked for
//! again; until then what was known stays.
//!
//! Drawn by hand: one table needs no library, and what is sent is text, two clearings and six colours.

#[cfg(test)]
mod example;
mod model;
mod screen;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use base::control::{Client, Ps};
use base::entry::causes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;

use self::model::{Model, Sort};
use self::screen::{Size, View};
use crate::console::RawTerminal;
use crate::failure::Failure;

/// Between two looks at the instance.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at the terminal's size.
const GLANCE: Duration = Duration::from_millis(200);
/// How long an instance may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The other screen of a terminal, its cursor hidden; as it was when this goes.
struct Screen {
    colours: bool,
    _raw: RawTerminal,
}

impl Screen {
    fn enter() -> Result<Self, Failure> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let raw = match io::stdout().is_terminal() && !dumb {
            true => RawTerminal::enter()?,
            false => None,
        };
        let _raw = raw.ok_or_else(|| {
            Failure::new("`top` needs a terminal, to write all over it and to hear keys")
                .hint("`ipvisor ps` shows the same once, `ipvisor ps --json` gives it to programs")
        })?;
        let colours = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Self { colours, _raw })
    }

    fn size() -> Size {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => Size { columns: 80, rows: 24 },
        }
    }

    /// Draws a whole screen in one piece.
    fn draw(&self, model: &Model, view: View, size: Size) -> io::Result<()> {
        let lines = screen::render(model, view, size);
        let lines: Vec<String> =
            lines.iter().map(|line| line.paint(size.columns, self.colours)).collect();
        let mut out = io::stdout().lock();
        write!(out, "\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Sort(Sort),
    Reverse,
    /// Lines down; up if negative.
    Scroll(isize),
    /// Screens down.
    Page(isize),
}

/// The keys among what was typed.
fn keys(typed: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = typed;
    while let Some((first, others)) = rest.split_first() {
        let sequences: [(&[u8], Key); 6] = [
            (b"\x1b[A", Key::Scroll(-1)),
            (b"\x1b[B", Key::Scroll(1)),
            (b"\x1bOA", Key::Scroll(-1)),
            (b"\x1bOB", Key::Scroll(1)),
            (b"\x1b[5~", Key::Page(-1)),
            (b"\x1b[6~", Key::Page(1)),
        ];
        if let Some((sequence, key)) = sequences.iter().find(|(s, _)| rest.starts_with(s)) {
            keys.push(*key);
            rest = rest.get(sequence.len()..).unwrap_or_default();
            continue;
        }
        rest = others;
        keys.push(match first {
            b'q' | b'Q' | 3 => Key::Quit,
            b'n' => Key::Sort(Sort::Name),
            b'c' => Key::Sort(Sort::Cpu),
            b'm' => Key::Sort(Sort::Memory),
            b'o' => Key::Sort(Sort::Sent),
            b'i' => Key::Sort(Sort::Received),
            b'd' => Key::Sort(Sort::Dropped),
            b'r' => Key::Reverse,
            b'j' => Key::Scroll(1),
            b'k' => Key::Scroll(-1),
            b' ' => Key::Page(1),
            // Of another sequence nothing is taken for a key.
            0x1b => return keys,
            _ => continue,
        });
    }
    keys
}

/// Follows a key. Says whether to go on.
fn follow(key: Key, view: &mut View, room: usize, all: usize) -> bool {
    let most = all.saturating_sub(room);
    match key {
        Key::Quit => return false,
        Key::Sort(sort) => *view = View { sort, ..View::default() },
        Key::Reverse => view.reverse = !view.reverse,
        Key::Scroll(lines) => view.skipped = view.skipped.saturating_add_signed(lines),
        Key::Page(pages) => {
            let lines = pages.saturating_mul(room.try_into().unwrap_or(isize::MAX));
            view.skipped = view.skipped.saturating_add_signed(lines);
        }
    }
    view.skipped = view.skipped.min(most);
    true
}

/// Asks the instance, by a new connection if there is none.
fn ask(dir: &Path, client: &mut Option<Client>) -> Result<Ps, String> {
    let asked = match client.take() {
        Some(client) => Ok(client),
        None => connect(dir),
    };
    let answered = asked.and_then(|mut asked| {
        let ps = asked.ps()?;
        *client = Some(asked);
        Ok(ps)
    });
    answered.map_err(|error| format!("no answer: {}", causes(&error)))
}

fn connect(dir: &Path) -> Result<Client, base::control::ClientError> {
    let mut client = Client::connect(dir)?;
    client.set_patience(PATIENCE)?;
    Ok(client)
}

/// Shows it until `q` is typed.
pub fn top(dir: &Path) -> Result<(), Failure> {
    // Whoever has no instance is told so where it stays to be read.
    let mut client = Some(connect(dir)?);
    let screen = Screen::enter()?;
    let (mut model, mut view) = (Model::default(), View::default());
    let mut size = Screen::size();
    let (mut asked, mut seen): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let due = asked.is_none_or(|at| at.elapsed() >= LOOK);
        if due {
            asked = Some(Instant::now());
            match ask(dir, &mut client) {
                Ok(ps) => {
                    let before = seen.replace(Instant::now());
                    model.look(ps, before.map_or(Duration::ZERO, |at| at.elapsed()));
                }
                Err(why) => model.trouble = Some(why),
            }
        }
        let typed = hear(if due { Duration::ZERO } else { GLANCE })?;
        let all = model.last().map_or(0, |ps| ps.vms.len());
        for key in keys(&typed) {
            if !follow(key, &mut view, screen::fitting(size), all) {
                drop(screen);
                return Ok(());
            }
        }
        let now = Screen::size();
        if due || !typed.is_empty() || now != size {
            size = now;
            screen.draw(&model, view, size)?;
        }
    }
}

/// What is typed within this time.
fn hear(limit: Duration) -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    let mut sources = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut sources, Timespec::try_from(limit).ok().as_ref()) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut octets = [0; 256];
    match rustix::io::read(&stdin, &mut octets)? {
        // The terminal is gone.
        0 => Ok(vec![b'q']),
        n => Ok(octets.get(..n).unwrap_or_default().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_the_sequences_of_arrows_are_told_apart() {
        let typed = b"c\x1b[B\x1b[6~x\x1bOAr";
        let expected =
            [Key::Sort(Sort::Cpu), Key::Scroll(1), Key::Page(1), Key::Scroll(-1), Key::Reverse];
        assert_eq!(keys(typed), expected);
        assert_eq!(keys(b"\x03"), [Key::Quit]);
        // A mouse, a function key: nothing of them is a letter that was typed.
        assert!(keys(b"\x1b[1;5Dqqq").is_empty());
    }

    #[test]
    fn nobody_scrolls_beyond_the_last_row() {
        let mut view = View::default();
        assert!(follow(Key::Page(5), &mut view, 10, 25));
        assert_eq!(view.skipped, 15);
        assert!(follow(Key::Scroll(-1), &mut view, 10, 25));
        assert_eq!(view.skipped, 14);
        assert!(follow(Key::Page(-5), &mut view, 10, 25));
        assert_eq!(view.skipped, 0);
        assert!(follow(Key::Reverse, &mut view, 10, 25) && view.reverse);
        assert!(follow(Key::Sort(Sort::Name), &mut view, 10, 25) && !view.reverse);
        assert!(!follow(Key::Quit, &mut view, 10, 25));
    }
}

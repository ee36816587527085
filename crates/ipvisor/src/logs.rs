//! `logs`: what a VM's console has shown, or what the instance has to say; and what follows.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use base::control::Client;
use base::state_dir::{StateDir, older_log};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Failure;
use crate::plain::Plain;
use crate::tail::{LOOK, Tail};

/// Shows a log: of `vm`, or of the instance; the last `lines` of it, or all; with `follow` what is
/// added, without end.
pub fn logs(
    dir: &Path,
    vm: Option<&str>,
    lines: Option<usize>,
    follow: bool,
) -> Result<(), Failure> {
    let state_dir = StateDir::at(dir);
    let log = match vm {
        Some(vm) => state_dir.vm_console_log(vm),
        None => state_dir.log_file(),
    };
    // A log needs no base to be read: one that is there is shown, whatever has become of that.
    if !log.exists() && !older_log(&log).exists() {
        missing(dir, vm)?;
    }
    let (text, mut tail) = Tail::with_history(&log, u64::MAX)?;
    let mut output = Output::new();
    output.show(lines.map_or(text.as_slice(), |n| last_lines(&text, n)))?;
    if !follow {
        return Ok(());
    }
    loop {
        let piece = tail.read()?;
        if piece.is_empty() {
            wait(&tail)?;
            continue;
        }
        output.show(&piece)?;
    }
}

/// Standard output. A terminal gets text only, everything else the octets as they are.
struct Output {
    out: io::StdoutLock<'static>,
    plain: Option<Plain>,
}

impl Output {
    fn new() -> Self {
        let out = io::stdout().lock();
        let plain = out.is_terminal().then(Plain::default);
        Self { out, plain }
    }

    fn show(&mut self, piece: &[u8]) -> io::Result<()> {
        match &mut self.plain {
            Some(plain) => self.out.write_all(&plain.of(piece))?,
            None => self.out.write_all(piece)?,
        }
        self.out.flush()
    }
}

/// There is no such file: says why, if that is an error.
fn missing(dir: &Path, vm: Option<&str>) -> Result<(), Failure> {
    let mut client = Client::connect(dir)?;
    match vm {
        // A VM that is there and has not been started yet has shown nothing.
        Some(vm) => Ok(client.console(vm).map(drop)?),
        None => Err(Failure::new("this instance has no log of its own").hint(
            "`up` without --detach says what happens where it was started; `ipvisor events`",
        )),
    }
}

/// The end of a text: so many lines, the last one whole or not.
fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, octet)| **octet == b'\n');
    match lines.checked_sub(1).map(|more| ends.map(|(at, _)| at).nth(more)) {
        None => &[],
        Some(None) => text,
        Some(Some(end)) => text.get(end + 1..).unwrap_or_default(),
    }
}

/// Waits until something may be new.
fn wait(tail: &Tail) -> io::Result<()> {
    let mut sources: Vec<PollFd<'_>> =
        tail.woken().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).into_iter().collect();
    match poll(&mut sources, Timespec::try_from(LOOK).ok().as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    tail.heard();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_the_end_and_the_last_may_be_unfinished() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(last_lines(text.as_bytes(), lines), expected.as_bytes(), "{text:?} {lines}");
        }
    }
}

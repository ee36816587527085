//! A guest's serial console, driven by a program: commands in, output and exit status out.
//!
//! # Theory of operation
//! ```text
//!  Ctrl-C, `agent NONCE` ──> shell ──> agent ──> @agent NONCE
//!          `7 ip addr`   ────────────> agent ──> @begin 7 | output | @end 7 0
//! ```
//! The guest's shell is interactive, for people. To drive it, the console starts `agent` (see
//! `guest/agent`) in it, which neither echoes nor prompts and brackets each command's output. A
//! fresh nonce tells this agent's greeting from whatever lay in the line before, so it does not
//! matter what state the console was left in, nor whether the guest has booted yet: the greeting is
//! asked for again until it comes. A command that takes too long is ended by Ctrl-C.
//!
//! Any Unix stream socket that carries the console's octets will do: QEMU's own, or the base's.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::wait_until;
use crate::error::{Attempt, LabError, Result};

/// How often an agent that has not answered is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(700);
const CTRL_C: u8 = 3;

/// What a command in the guest said, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status of the shell that ran it.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub text: String,
}

impl Output {
    /// The text of a command that succeeded; an error that quotes it otherwise.
    pub fn ok(self) -> Result<String> {
        match self.status {
            0 => Ok(self.text),
            n => Err(LabError::Unexpected(format!("in the guest: status {n}: {}", self.text))),
        }
    }
}

/// The console of one guest.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    /// What came and was not taken yet.
    received: Vec<u8>,
    log_path: PathBuf,
    log: File,
    number: u64,
    /// The agent is there and waits for a command.
    ready: bool,
}

impl Console {
    /// Connects to the console's socket, which must come to exist within `limit`. Everything that
    /// passes is written to `log`, too.
    pub fn connect(socket: &Path, log: &Path, limit: Duration) -> Result<Self> {
        let stream = wait_until(
            limit,
            || format!("a console at {}", socket.display()),
            || Ok(UnixStream::connect(socket).ok()),
        )?;
        let file = OpenOptions::new().create(true).append(true).open(log);
        let log_file = file.attempt(|| format!("open {}", log.display()))?;
        let (received, log_path) = (Vec::new(), log.to_path_buf());
        Ok(Self { stream, received, log_path, log: log_file, number: 0, ready: false })
    }

    /// Waits until the guest's shell answers.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let nonce = format!("{:x}-{}", std::process::id(), self.number);
        self.number += 1;
        let greeting = format!("\n@agent {nonce}\n");
        // A Ctrl-C while the guest boots would hit nobody; typed once more it hits what runs.
        self.send(&[CTRL_C, b'\n'])?;
        while !self.ready {
            self.send(format!("agent {nonce}\n").as_bytes())?;
            match self.read_past(&greeting, Instant::now() + ASK_AGAIN)? {
                Some(_) => self.ready = true,
                None if Instant::now() >= end => {
                    return Err(self.late("a shell on the guest's console", limit));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Runs a shell command line in the guest.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Output> {
        if command.contains('\n') || command.len() > 4000 {
            return Err(LabError::Unexpected(format!("not one short line: {command:?}")));
        }
        let end = Instant::now() + limit;
        if !self.ready {
            self.wait_ready(limit)?;
        }
        self.number += 1;
        let number = self.number;
        self.send(format!("{number} {command}\n").as_bytes())?;
        let found = match self.read_past(&format!("\n@begin {number}\n"), end)? {
            Some(_) => self.read_past(&format!("\n@end {number} "), end)?,
            None => None,
        };
        let status = match found {
            Some(_) => self.read_past("\n", end)?,
            None => None,
        };
        let (Some(text), Some(status)) = (found, status) else {
            self.ready = false;
            self.send(&[CTRL_C])?;
            return Err(self.late(&format!("the end of `{command}` in the guest"), limit));
        };
        let status = status
            .parse()
            .map_err(|_| LabError::Unexpected(format!("`{command}` ended with {status:?}")))?;
        Ok(Output { status, text })
    }

    /// Waits for a text on the console and gives what came before it.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let found = self.read_past(text, Instant::now() + limit)?;
        found.ok_or_else(|| self.late(&format!("{text:?} on the guest's console"), limit))
    }

    /// Types octets.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let _ = self.log.write_all(bytes);
        self.stream.write_all(bytes).attempt(|| "write to a guest's console".to_owned())
    }

    fn late(&self, what: &str, limit: Duration) -> LabError {
        let shown = String::from_utf8_lossy(&self.received);
        let tail: Vec<_> = shown.lines().rev().take(5).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        let log = self.log_path.display();
        let what = format!("{what} (whole console: {log}; its end: {:?})", tail.join(" | "));
        LabError::Timeout { what, limit }
    }

    /// Takes what came up to and including `marker` and gives what was before it; `None` when it
    /// does not come before `end`. Carriage returns are left out.
    fn read_past(&mut self, marker: &str, end: Instant) -> Result<Option<String>> {
        let marker = marker.as_bytes();
        let mut searched = 0usize;
        loop {
            let tail = self.received.get(searched..).unwrap_or_default();
            if let Some(at) = tail.windows(marker.len()).position(|w| w == marker) {
                let at = searched + at;
                let text = String::from_utf8_lossy(&self.received[..at]).into_owned();
                self.received.drain(..at + marker.len());
                return Ok(Some(text));
            }
            searched = self.received.len().saturating_sub(marker.len());
            let now = Instant::now();
            if now >= end || !self.fill(end - now)? {
                return Ok(None);
            }
        }
    }

    /// Reads what there is, waiting at most `limit` for it.
    fn fill(&mut self, limit: Duration) -> Result<bool> {
        let what = || "read a guest's console".to_owned();
        self.stream.set_read_timeout(Some(limit.max(Duration::from_millis(1)))).attempt(what)?;
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(LabError::Unexpected(format!(
                "the guest's console was closed (whole console: {})",
                self.log_path.display()
            ))),
            Ok(n) => {
                let _ = self.log.write_all(&bytes[..n]);
                self.received.extend(bytes[..n].iter().filter(|&&b| b != b'\r'));
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e).attempt(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    /// Plays a guest whose shell comes late and echoes, then an agent that answers `true` and
    /// `false`, and nothing else ever.
    fn guest(listener: &UnixListener) {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"booting @agent 0\r\nguest: ready\r\n~ # ").unwrap();
        let mut asked = 0;
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(|l| l.ok()) {
            let line = line.trim_start_matches('\u{3}').to_owned();
            if let Some(nonce) = line.strip_prefix("agent ") {
                asked += 1;
                if asked > 1 {
                    write!(stream, "agent {nonce}\r\n\r\n@agent {nonce}\r\n").unwrap();
                }
            } else if let Some((number, command)) = line.split_once(' ') {
                let status = match command {
                    "true" => 0,
                    "false" => 1,
                    _ => continue,
                };
                write!(stream, "\r\n@begin {number}\r\nsaid\r\n\r\n@end {number} {status}\r\n")
                    .unwrap();
            }
        }
    }

    #[test]
    fn commands_give_text_and_status_and_silence_is_reported_with_the_consoles_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("console");
        let listener = UnixListener::bind(&socket).unwrap();
        let guest = std::thread::spawn(move || guest(&listener));
        let limit = Duration::from_secs(5);
        let mut console = Console::connect(&socket, &dir.path().join("log"), limit).unwrap();
        let said = |status| Output { status, text: "said\n".to_owned() };
        assert_eq!(console.run("true", limit).unwrap(), said(0));
        assert_eq!(console.run("false", limit).unwrap(), said(1));
        let error = console.run("sleep", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("the end of `sleep`"), "{error}");
        // The agent is asked for anew, and the next command works.
        assert_eq!(console.run("true", limit).unwrap(), said(0));
        drop(console);
        guest.join().unwrap();
    }
}

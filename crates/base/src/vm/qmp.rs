//! QEMU's monitor protocol (QMP): the few words of it that the base needs.
//!
//! # Theory of operation
//! One JSON object a line. The monitor greets, the base asks for its capabilities, and from then on
//! the base sends commands without waiting, and reads answers and events as they come:
//! ```text
//! <- {"QMP": ...}                               greeting
//! -> {"execute": "qmp_capabilities"}            the monitor may send events from now on
//! <- {"return": {}}
//! -> {"execute": "system_powerdown"}
//! <- {"event": "SHUTDOWN", "data": {...}}
//! ```
//! The monitor talks with one client at a time; the socket of a dead base is closed by the kernel,
//! so the successor's turn comes at once.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Octets of the longest line that is read: what the base asks for has short answers.
const LONGEST: usize = 64 * 1024;
/// Lines in a row before others have their turn. The monitor's process may have been taken over by
/// its guest, and send without end.
const TURN: u32 = 64;
/// Time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// One line of the monitor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// The greeting.
    Greeting,
    /// A command was carried out.
    Done,
    /// A command was refused, in QEMU's words.
    Refused(String),
    /// Something happened.
    Event {
        /// Its name, as in `SHUTDOWN`.
        name: String,
        /// What belongs to it.
        data: Value,
    },
}

impl Message {
    /// Reads one line; what the base does not know is an error, for nothing else is ever sent.
    fn parse(line: &[u8]) -> io::Result<Self> {
        let strange = || {
            let line = String::from_utf8_lossy(line.get(..line.len().min(80)).unwrap_or_default());
            io::Error::other(format!("the monitor said what nobody understands: {line}"))
        };
        let mut value: Value = serde_json::from_slice(line).map_err(|_| strange())?;
        if value.get("QMP").is_some() {
            Ok(Self::Greeting)
        } else if value.get("return").is_some() {
            Ok(Self::Done)
        } else if let Some(error) = value.get("error") {
            let text = error.get("desc").and_then(Value::as_str).unwrap_or("without a reason");
            Ok(Self::Refused(text.to_owned()))
        } else if let Some(name) = value.get("event").and_then(Value::as_str).map(str::to_owned) {
            let data = value.get_mut("data").map(Value::take).unwrap_or_default();
            Ok(Self::Event { name, data })
        } else {
            Err(strange())
        }
    }
}

/// A connection to a monitor that has greeted.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: UnixStream,
    read: Vec<u8>,
    /// Where in it the next line begins.
    next: usize,
    /// Lines taken since others had their turn.
    taken: u32,
}

impl Monitor {
    /// Connects, again and again until the monitor is there and greets.
    pub(super) async fn connect(path: &Path) -> Self {
        loop {
            if let Ok(monitor) = Self::try_connect(path).await {
                return monitor;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn on(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), next: 0, taken: 0 }
    }

    async fn try_connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let mut monitor = Self::on(stream);
        while monitor.next().await? != Message::Greeting {}
        monitor.command("qmp_capabilities").await?;
        Ok(monitor)
    }

    /// Sends a command that needs no arguments. Its answer comes by [`Monitor::next`].
    pub(super) async fn command(&mut self, name: &str) -> io::Result<()> {
        let line = serde_json::json!({ "execute": name }).to_string() + "\n";
        self.stream.write_all(line.as_bytes()).await
    }

    /// The next line. Cancel safe: what was read of a line is kept.
    pub(super) async fn next(&mut self) -> io::Result<Message> {
        if self.taken >= TURN {
            self.taken = 0;
            tokio::task::yield_now().await;
        }
        loop {
            let rest = self.read.get(self.next..).unwrap_or_default();
            if let Some(len) = rest.iter().position(|o| *o == b'\n') {
                let message = Message::parse(rest.get(..len).unwrap_or_default());
                self.next = self.next.saturating_add(len).saturating_add(1);
                self.taken = self.taken.saturating_add(1);
                return message;
            }
            self.read.drain(..self.next.min(self.read.len()));
            self.next = 0;
            if self.read.len() > LONGEST {
                return Err(io::Error::other("the monitor's line has no end"));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_told_apart() {
        let parse = |line: &str| Message::parse(line.as_bytes()).ok();
        let greeting = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
        assert_eq!(parse(greeting), Some(Message::Greeting));
        assert_eq!(parse(r#"{"return": {}}"#), Some(Message::Done));
        let refused = r#"{"error": {"class": "CommandNotFound", "desc": "no such command"}}"#;
        assert_eq!(parse(refused), Some(Message::Refused("no such command".into())));
        let event = r#"{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {}}"#;
        let data = serde_json::json!({ "guest": true });
        assert_eq!(parse(event), Some(Message::Event { name: "SHUTDOWN".into(), data }));
        for strange in ["", "{}", "[]", "hello", r#"{"event": 1}"#] {
            assert_eq!(parse(strange), None, "{strange}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_in_pieces_is_read_whole_although_reading_is_given_up_between() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::on(ours);
        for piece in ["{\"ret", "urn\"", ": {}}\n{\"return\": {}}"] {
            let short = Duration::from_millis(5);
            assert!(tokio::time::timeout(short, monitor.next()).await.is_err());
            theirs.write_all(piece.as_bytes()).await.unwrap();
        }
        assert_eq!(monitor.next().await.unwrap(), Message::Done);
        theirs.write_all(b"\n").await.unwrap();
        assert_eq!(monitor.next().await.unwrap(), Message::Done);
        drop(theirs);
        assert_eq!(monitor.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_monitor_that_never_stops_talking_leaves_others_their_turn() {
        const LINES: usize = 20_000;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let talking = tokio::spawn(async move {
            let long = [&vec![b' '; LONGEST - 100][..], b"{\"return\": {}}\n"].concat();
            theirs.write_all(&long).await.unwrap();
            theirs.write_all(&b"{\"return\":{}}\n".repeat(LINES)).await.unwrap();
        });
        let other = tokio::spawn(async {
            let mut turns = 0;
            loop {
                turns += 1;
                tokio::task::yield_now().await;
                if turns > LINES / 100 {
                    return;
                }
            }
        });
        let mut monitor = Monitor::on(ours);
        for _ in 0..=LINES {
            assert_eq!(monitor.next().await.unwrap(), Message::Done);
        }
        assert!(monitor.read.capacity() <= 4 * LONGEST);
        assert!(other.is_finished(), "the other task had few turns");
        talking.await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_without_end_is_given_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let talking = tokio::spawn(async move { theirs.write_all(&[b' '; 1 << 20]).await });
        assert!(Monitor::on(ours).next().await.is_err());
        assert!(talking.await.unwrap().is_err());
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in any::<Vec<u8>>()) {
            let _ = Message::parse(&line);
        }
    }
}

//! Numbered streams between several ends at once, kept going by one thread.
//!
//! # Theory of operation
//! An [`End`] takes datagrams and gives datagrams: a VM's driver, a tap on the LAN, something that
//! a test makes. An [`Exchange`] holds ends and the [`Stream`]s between them. In each turn every
//! stream sends a few datagrams, as far as its window lets it, and every end is emptied; what comes
//! is credited to the stream it belongs to, and anything else is handed to the test.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::capture::Tap;
use crate::driver::DriverPort;
use crate::error::{Attempt, LabError, Result};
use crate::frames::{self, Mac};
use crate::interrupt;
use crate::netns::Netns;
use crate::numbered::{Flow, Stream};

/// Datagrams that a stream sends in one turn.
const TURN: usize = 32;
/// How long to rest when a turn moved nothing: the other side may need this core.
const REST: Duration = Duration::from_micros(50);

/// Somewhere datagrams go in and come out.
pub trait End {
    /// Takes a datagram to be sent.
    fn put(&mut self, datagram: &[u8]) -> Result<()>;
    /// The next datagram that has come, if one has.
    fn get(&mut self) -> Result<Option<Vec<u8>>>;
}

/// A VM's driver.
pub struct DriverEnd {
    /// The driver.
    pub port: DriverPort,
    /// The MAC address of the VM's card.
    pub own: Mac,
    /// Where its frames go: the base's MAC address on the last inch.
    pub base: Mac,
}

impl End for DriverEnd {
    fn put(&mut self, datagram: &[u8]) -> Result<()> {
        self.port.send_plain(&frames::carry(self.base, self.own, datagram))
    }

    fn get(&mut self) -> Result<Option<Vec<u8>>> {
        let came = self.port.receive(Duration::ZERO)?;
        Ok(came.map(|(_, frame)| frames::datagram_of(&frame).to_vec()))
    }
}

/// Somebody on the LAN who uses no stack.
pub struct TapEnd {
    /// On the LAN's end of the cable.
    pub tap: Tap,
    /// The MAC address of that end.
    pub own: Mac,
    /// Where frames go: the card's MAC address.
    pub card: Mac,
}

impl End for TapEnd {
    fn put(&mut self, datagram: &[u8]) -> Result<()> {
        self.tap.send(&frames::carry(self.card, self.own, datagram))
    }

    fn get(&mut self) -> Result<Option<Vec<u8>>> {
        while let Some(frame) = self.tap.receive(Duration::ZERO)? {
            if !frame.outgoing {
                return Ok(Some(frames::datagram_of(&frame.bytes).to_vec()));
            }
        }
        Ok(None)
    }
}

/// Somebody who sends and receives by a kernel's stack. What he receives is data alone, so the
/// stream's flow must be [`Flow::by_data`].
pub struct SocketEnd {
    socket: UdpSocket,
    flow: Flow,
}

impl SocketEnd {
    /// A socket in a namespace, at `own`, that talks to `other` only. `flow` is what it sends.
    pub fn new(space: &Netns, own: SocketAddr, other: SocketAddr, flow: &Flow) -> Result<Self> {
        let open = || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind(own)?;
            socket.connect(other)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = space.enter(open)?.attempt(|| format!("a socket at {own} to {other}"))?;
        Ok(Self { socket, flow: flow.clone() })
    }
}

impl End for SocketEnd {
    fn put(&mut self, datagram: &[u8]) -> Result<()> {
        let sent = self.socket.send(self.flow.data(datagram));
        sent.map(drop).attempt(|| "send by a socket".to_owned())
    }

    fn get(&mut self) -> Result<Option<Vec<u8>>> {
        let mut octets = vec![0; 2048];
        match self.socket.recv(&mut octets) {
            Ok(length) => {
                octets.truncate(length);
                Ok(Some(octets))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).attempt(|| "receive by a socket".to_owned()),
        }
    }
}

/// Streams between ends.
#[derive(Default)]
pub struct Exchange {
    ends: Vec<Box<dyn End>>,
    streams: Vec<(usize, usize, Stream)>,
}

impl Exchange {
    /// Adds an end; its number.
    pub fn end(&mut self, end: impl End + 'static) -> usize {
        self.ends.push(Box::new(end));
        self.ends.len() - 1
    }

    /// Adds a stream from one end to another; its number.
    pub fn stream(&mut self, from: usize, to: usize, stream: Stream) -> usize {
        self.streams.push((from, to, stream));
        self.streams.len() - 1
    }

    /// A stream as it stands.
    pub fn of(&mut self, stream: usize) -> &mut Stream {
        &mut self.streams[stream].2
    }

    /// The end of this number.
    pub fn at(&mut self, end: usize) -> &mut dyn End {
        &mut *self.ends[end]
    }

    /// One turn; `other` gets what belongs to no stream, with the end it came to.
    fn turn(&mut self, send: bool, other: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        let mut moved = false;
        for (from, _, stream) in &mut self.streams {
            for _ in 0..if send { TURN } else { 0 } {
                let Some(datagram) = stream.next_frame() else { break };
                self.ends[*from].put(&datagram)?;
                moved = true;
            }
        }
        for (number, end) in self.ends.iter_mut().enumerate() {
            while let Some(datagram) = end.get()? {
                moved = true;
                let here = self.streams.iter_mut().filter(|(_, to, _)| *to == number);
                if !here.into_iter().any(|(_, _, stream)| stream.take(&datagram)) {
                    other(number, &datagram);
                }
            }
        }
        if !moved {
            interrupt::check()?;
            std::thread::sleep(REST);
        }
        Ok(())
    }

    /// From now on it is measured for how long nothing comes.
    pub fn begin(&mut self) {
        for (_, _, stream) in &mut self.streams {
            stream.tally.begin();
        }
    }

    /// Keeps all streams going until `ended`.
    pub fn run(&mut self, mut ended: impl FnMut() -> bool) -> Result<()> {
        self.run_watching(&mut ended, &mut |_, _| {})
    }

    /// The same, handing on what belongs to no stream.
    pub fn run_watching(
        &mut self,
        ended: &mut dyn FnMut() -> bool,
        other: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<()> {
        while !ended() {
            self.turn(true, other)?;
        }
        Ok(())
    }

    /// Keeps all streams going for so long.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        self.run(|| Instant::now() >= end)
    }

    /// Waits, without sending, until everything has come that was sent, and a little longer for
    /// what comes twice. That something is missing at last is for the tallies to tell.
    pub fn settle(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.streams.iter().any(|(_, _, s)| s.on_the_way() > 0) && Instant::now() < end {
            self.turn(false, &mut |_, _| {})?;
        }
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            self.turn(false, &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Runs until each stream has sent this many more.
    pub fn run_until_sent(&mut self, more: u64, limit: Duration) -> Result<()> {
        let goals: Vec<_> = self.streams.iter().map(|(_, _, s)| s.sent + more).collect();
        let end = Instant::now() + limit;
        loop {
            if self.streams.iter().zip(&goals).all(|((_, _, s), goal)| s.sent >= *goal) {
                return Ok(());
            }
            if Instant::now() >= end {
                let what = format!("{more} datagrams more on each stream");
                return Err(LabError::Timeout { what, limit });
            }
            self.turn(true, &mut |_, _| {})?;
        }
    }
}

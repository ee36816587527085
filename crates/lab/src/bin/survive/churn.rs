//! A VM that comes and goes: connects, negotiates, sends, hangs up, all the time, with the same memory
//! and rings.
//!
//! # Theory of operation
//! So the base is always in the middle of something when it dies there. A request that a death cut
//! off costs the connection; then this front end connects and negotiates anew, as the protocol wants
//! it to. What it had put into its rings must arrive all the same, whatever became of the connection.
//!
//! When asked to hold still it stays away until it is let go: so that descriptors can be counted
//! while nothing changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::driver::{DriverPort, FrontEnd, Rings, Settings};
use lab::error::{Attempt, LabError};
use lab::numbered::Flow;
use lab::{Result, frames};
use virtqueue::NetHeader;
use virtqueue::driver::{DriverRing, Shape};

use crate::stage::{CHURN_MAC, churned_flow};

/// How long it may take until a negotiation succeeds, whatever dies meanwhile.
const LIMIT: Duration = Duration::from_secs(20);
/// Datagrams in the ring at most: fewer than the receiver always has buffers for.
const MOST: u64 = 200;

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    hold: AtomicBool,
    held: AtomicBool,
    met: AtomicU64,
    cut: AtomicU64,
}

/// The VM, on a thread of its own.
pub struct Churn {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Churn {
    /// Begins to come and go at `socket`, with such rings; `sent` tells how much was sent.
    pub fn start(
        socket: PathBuf,
        rings: Rings,
        base_mac: frames::Mac,
        sent: Arc<AtomicU64>,
        chance: Chance,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let work = move || {
            let settings =
                Settings { ring: 256, buffer: 2048, room: 2048, rings, ..Settings::plain() };
            let port = DriverPort::connect(&socket, &settings)?;
            let flow = churned_flow();
            Visitor { socket, base_mac, flow, port, sent, chance, shared: told }.run()
        };
        let thread = std::thread::Builder::new().name("churn".to_owned());
        let thread = thread.spawn(work).attempt(|| "start a thread".to_owned())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether it has failed.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Negotiations that came to their end, and those that were cut off.
    pub fn negotiations(&self) -> (u64, u64) {
        (self.shared.met.load(Ordering::Relaxed), self.shared.cut.load(Ordering::Relaxed))
    }

    /// Runs `work` while it stays away.
    pub fn held<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        self.shared.hold.store(true, Ordering::Release);
        let held = lab::command::wait_until(
            LIMIT,
            || "the VM that comes and goes to stay away".to_owned(),
            || Ok(self.shared.held.load(Ordering::Acquire).then_some(())),
        );
        let result = held.map(|()| work());
        self.shared.hold.store(false, Ordering::Release);
        result
    }

    /// Ends it, when all that it has sent was taken.
    pub fn end(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        let lost = || LabError::Unexpected("the thread of the VM that comes and goes".to_owned());
        joined.unwrap_or_else(|| Ok(Err(lost()))).unwrap_or_else(|_| Err(lost()))
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Visitor {
    socket: PathBuf,
    base_mac: frames::Mac,
    flow: Flow,
    port: DriverPort,
    sent: Arc<AtomicU64>,
    chance: Chance,
    shared: Arc<Shared>,
}

impl Visitor {
    fn run(&mut self) -> Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let count = self.chance.below(48);
            self.send(count)?;
            if self.chance.below(2) == 0 {
                // Some of it is left in the ring otherwise.
                self.wait_taken(Duration::from_millis(10));
            }
            if self.chance.below(3) == 0 {
                // A front end that goes in order; a base that has just died answers later or never.
                let _ = self.port.stop();
            }
            self.hang_up();
            sleep(self.chance.time(Duration::from_millis(2), Duration::from_millis(20)));
            self.hold();
            self.come_back()?;
        }
        let emptied = self.wait_taken(LIMIT);
        if emptied {
            Ok(())
        } else {
            Err(LabError::Unexpected("c's ring is not served".to_owned()))
        }
    }

    fn send(&mut self, count: u64) -> Result<()> {
        let tx = &mut self.port.tx;
        tx.reclaim();
        for _ in 0..count.min(MOST.saturating_sub(tx.queue.outstanding() as u64)) {
            let number = self.sent.load(Ordering::Relaxed);
            let frame = frames::carry(self.base_mac, CHURN_MAC, &self.flow.datagram(number));
            if tx.send(&NetHeader::default(), &frame, Shape::default()).is_none() {
                break;
            }
            self.sent.store(number + 1, Ordering::Release);
        }
        if tx.queue.expose() {
            let one = 1u64.to_ne_bytes();
            let kicked = rustix::io::write(&self.port.kick[1], &one);
            kicked.map(drop).attempt(|| "kick".to_owned())?;
        }
        Ok(())
    }

    /// Whether everything that was sent was given back within `limit`.
    fn wait_taken(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            self.port.tx.reclaim();
            if self.port.tx.queue.outstanding() == 0 {
                return true;
            }
            sleep(Duration::from_micros(300));
        }
        false
    }

    fn hang_up(&self) {
        // It may have been hung up by the other side.
        let _ = self.port.front_end.stream().shutdown(std::net::Shutdown::Both);
    }

    fn hold(&self) {
        while self.shared.hold.load(Ordering::Acquire) {
            self.shared.held.store(true, Ordering::Release);
            sleep(Duration::from_millis(1));
        }
        self.shared.held.store(false, Ordering::Release);
    }

    /// Negotiates, as often as it takes.
    fn come_back(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.meet() {
                Ok(()) => {
                    self.shared.met.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {
                    self.shared.cut.fetch_add(1, Ordering::Relaxed);
                    self.hang_up();
                    sleep(Duration::from_millis(2));
                }
            }
        }
    }

    fn meet(&mut self) -> Result<()> {
        let front_end = FrontEnd::connect(Path::new(&self.socket), LIMIT)?;
        self.port.come_back(front_end)
    }
}

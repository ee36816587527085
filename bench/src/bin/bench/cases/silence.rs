//! How long a datagram takes there and back after a second in which nobody said anything, if both
//! ends sleep until something comes.
//!
//! # Theory of operation
//! ```text
//!  asker ══ port ══ base ══ port ══ echo      both in poll until the base interrupts them
//!  asker ── tap ── the kernel ── tap ── echo  both in poll until the device has something
//! ```
//! As in a machine whose guests have nothing to do: each end is a thread that sleeps in `poll` and
//! sends back what came, for both contenders alike. So what is measured is mostly who has to be woken
//! how often. The asker is on the generating core. ipvisor's other end is there too, because the base
//! has the switching core; the kernel switches in the sender's time, so its other end has the
//! switching core.
//!
//! Both wait at the same time, and are asked in turns, half a second apart: each has had a second of
//! silence, and the machine half of one. Datagrams are few: of a round, what 99 of 100 do not exceed
//! is the worst. Switches that always poll do not belong here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::frames::Kind;
use lab::error::Attempt;
use lab::tap_device::TapDevice;
use lab::{LabError, Result, interrupt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::trips::templates;
use crate::contender::{GENERATING, Kernel, SWITCHING, Switch, Way, pin};
use crate::generator::{Guest, Receiver, Sender, Template};
use crate::results::{Measured, median, percentile};
use crate::slice::Slice;
use crate::stage::{SHORT, Stage, attach, detach};

/// From one datagram to the next, which is the other contender's.
const APART: Duration = Duration::from_millis(500);
/// A datagram that has not come back by then never will.
const LOST: Duration = Duration::from_secs(1);
/// How often an end looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// What a round's times are worth.
type Value = fn(&[f64]) -> f64;

/// One end of a way: sends a datagram, sleeps until one comes.
trait End: Send {
    fn send(&mut self) -> Result<()>;
    /// Whether one has come within `limit`.
    fn wait(&mut self, limit: Duration) -> Result<bool>;
}

/// Sleeps until something can be read.
fn sleep(on: BorrowedFd<'_>, limit: Duration) -> Result<()> {
    let limit = Timespec::try_from(limit).ok();
    match poll(&mut [PollFd::from_borrowed_fd(on, PollFlags::IN)], limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e).attempt(|| "wait for a datagram".to_owned()),
    }
}

/// A guest's end.
struct Port<'m> {
    sender: Sender<'m>,
    receiver: Receiver<'m>,
    call: &'m OwnedFd,
}

impl<'m> Port<'m> {
    /// It sends what is in the first template, and receives what is in the other.
    fn new(guest: &'m Guest, [sends, receives]: [&'m Template; 2]) -> Self {
        guest.want_interrupts();
        let (sender, receiver) = (Sender::new(guest, sends), Receiver::new(guest, receives));
        Self { sender, receiver, call: &guest.call }
    }
}

impl End for Port<'_> {
    fn send(&mut self) -> Result<()> {
        self.sender.send(1);
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let (mut seen, end) = (Slice::default(), Instant::now() + limit);
        loop {
            self.receiver.receive(u64::MAX, &mut seen, |_| {});
            let left = end.saturating_duration_since(Instant::now());
            if seen.received > 0 || left.is_zero() {
                return Ok(seen.received > 0);
            }
            sleep(self.call.as_fd(), left)?;
            // What was signalled is looked at next; if nothing was, that says so too.
            let _ = rustix::io::read(self.call, &mut [0; 8]);
        }
    }
}

/// A device's end.
struct Tap<'d> {
    device: &'d TapDevice,
    octets: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'d> Tap<'d> {
    fn new(device: &'d TapDevice, template: &Template) -> Self {
        let octets = template.octets().to_vec();
        Self { device, buffer: vec![0; octets.len() + 1], octets }
    }
}

impl End for Tap<'_> {
    fn send(&mut self) -> Result<()> {
        let taken = self.device.send(&self.octets)?;
        let full = || LabError::Unexpected("a device that is full".to_owned());
        taken.then_some(()).ok_or_else(full)
    }

    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        loop {
            while let Some(len) = self.device.receive(&mut self.buffer)? {
                // The kernel's own words have another length.
                if len == self.octets.len() {
                    return Ok(true);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            sleep(self.device.as_fd(), left)?;
        }
    }
}

/// Sends back whatever comes, on this core, until it is over.
fn echo(end: &mut dyn End, core: usize, over: &AtomicBool) -> Result<()> {
    pin(None, core)?;
    while !over.load(Ordering::Relaxed) {
        if end.wait(LOOK)? {
            end.send()?;
        }
    }
    Ok(())
}

/// Sends one and waits until it is back; in microseconds.
fn ask(end: &mut dyn End, name: &str) -> Result<f64> {
    let begun = Instant::now();
    end.send()?;
    match end.wait(LOST)? {
        true => Ok(begun.elapsed().as_secs_f64() * 1e6),
        false => Err(LabError::Unexpected(format!("{name}: a datagram did not come back"))),
    }
}

/// Asks both, round by round.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { ours, effort, progress, .. } = stage;
    let guests = attach(ours, &SHORT)?;
    let kernel = Kernel::new(Way::Routed, Kind::Udp, SHORT.frame)?;
    let [there, back] = &templates();
    let [near, far] = kernel.devices();
    let mut askers: [(&str, Box<dyn End + '_>); 2] = [
        (ours.name(), Box::new(Port::new(&guests[0], [there, back]))),
        (kernel.name(), Box::new(Tap::new(near, there))),
    ];
    let mut port = Port::new(&guests[1], [back, there]);
    let mut tap = Tap::new(far, back);
    ours.resume()?;
    let over = AtomicBool::new(false);
    let mut times = [Vec::new(), Vec::new()];
    std::thread::scope(|scope| {
        let echoes = [
            scope.spawn(|| echo(&mut port, GENERATING, &over)),
            scope.spawn(|| echo(&mut tap, SWITCHING, &over)),
        ];
        let mut rounds = || -> Result<()> {
            for round in 0..effort.rounds {
                progress.say(format!("silence: round {} of {}", round + 1, effort.rounds));
                times.iter_mut().for_each(|rounds| rounds.push(Vec::new()));
                for _ in 0..effort.silences {
                    for ((name, end), rounds) in askers.iter_mut().zip(&mut times) {
                        interrupt::check()?;
                        std::thread::sleep(APART);
                        let time = ask(&mut **end, name)?;
                        rounds.last_mut().into_iter().for_each(|round| round.push(time));
                    }
                }
            }
            Ok(())
        };
        let asked = rounds();
        over.store(true, Ordering::Relaxed);
        let ended = echoes.into_iter().map(|echo| match echo.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let ended: Result<Vec<()>> = ended.collect();
        asked.and(ended.map(drop))
    })?;
    let mut measured = Vec::new();
    let values: [(&str, Value); 2] = [
        ("round trip after 1 s", median),
        ("round trip after 1 s, p99", |times| percentile(times, 99)),
    ];
    for (case, value) in values {
        for ((name, _), rounds) in askers.iter().zip(&times) {
            let rounds = rounds.iter().map(|times| value(times)).collect();
            measured.push(Measured::new(case, name, "µs", rounds));
        }
    }
    drop(askers);
    ours.pause()?;
    detach(&[&*ours], guests)?;
    Ok(measured)
}

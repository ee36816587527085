//! Those who are compared: switches between two vhost-user ports, and ways from one to a card.
//!
//! # Theory of operation
//! All of them run at the same time, each on the switching core; those that wait are stopped as a
//! whole ([`Processes::pause`]), so that they use nothing of it.

mod copies;
mod forwarder;
mod kernel;
mod ours;
mod ovs;
mod testpmd;
mod thread;
mod xdp;

use std::path::Path;

use lab::Result;
use lab::error::Attempt;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

pub use copies::Copies;
pub use forwarder::Forwarder;
pub use kernel::{Kernel, Way};
pub use ours::{MACS, MANY, Ours, Vm, ends, numbered};
pub use ovs::{Ovs, Route};
pub use testpmd::Io;
pub use xdp::XdpForwarder;

use crate::generator::{Guest, Plan};

/// The core that switches.
pub const SWITCHING: usize = 0;
/// The core that generates.
pub const GENERATING: usize = 1;

/// A switch, and what is done to it while it is measured.
pub trait Switch {
    /// Its name in tables.
    fn name(&self) -> &'static str;
    /// Stops all of it.
    fn pause(&self) -> Result<()>;
    /// Lets it go on.
    fn resume(&self) -> Result<()>;
}

/// A switch between two guests.
pub trait Between: Switch {
    /// Joins two guests: the sender's and the receiver's.
    fn attach(&mut self, guests: &mut [Guest; 2], plan: &Plan) -> Result<()>;
}

/// A switch that is a program with two vhost-user ports.
pub trait Program {
    /// Its name in tables.
    const NAME: &'static str;
    /// Where the ports listen: the sender's, the receiver's.
    fn sockets(&self) -> [&Path; 2];
    /// Its processes.
    fn processes(&self) -> &Processes;
}

impl<P: Program> Switch for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn pause(&self) -> Result<()> {
        self.processes().pause()
    }

    fn resume(&self) -> Result<()> {
        self.processes().resume()
    }
}

impl<P: Program> Between for P {
    fn attach(&mut self, guests: &mut [Guest; 2], plan: &Plan) -> Result<()> {
        for (guest, socket) in guests.iter_mut().zip(self.sockets()) {
            guest.attach(socket, plan)?;
        }
        Ok(())
    }
}

/// The processes of one contender.
#[derive(Debug)]
pub struct Processes(Vec<Pid>);

impl Processes {
    /// These; numbers that are none are left out.
    pub fn new(numbers: impl IntoIterator<Item = i32>) -> Self {
        Self(numbers.into_iter().filter_map(Pid::from_raw).collect())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let send = |&pid| kill_process(pid, signal);
        self.0.iter().try_for_each(send).attempt(|| format!("send {signal:?} to a contender"))
    }

    /// Stops all threads.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Keeps all threads that there are to the switching core.
    pub fn pin(&self) -> Result<()> {
        for pid in &self.0 {
            let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
            for task in std::fs::read_dir(&tasks).attempt(|| format!("read {tasks}"))? {
                let name = task.attempt(|| format!("read {tasks}"))?.file_name();
                let thread = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
                pin(thread, SWITCHING)?;
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // What is stopped cannot be ended in good order.
        let _ = self.resume();
    }
}

/// Keeps a thread (this one by default) to one core.
pub fn pin(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set).attempt(|| format!("keep a thread to core {core}"))
}

/// A directory for sockets.
fn directory() -> Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir();
    dir.attempt(|| "create a temporary directory".to_owned())
}

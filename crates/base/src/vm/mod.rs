//! The VMs that the base forms, each with its life: started, stopped, watched, started again.
//!
//! # Theory of operation
//! ```text
//! Vms --wishes--> driver, one task per VM ---> lifecycle   what is to be done (no clock, no I/O)
//!  ^                 |  |  |                   form        ledger, memory, disks, vessel
//!  '----status-------'  |  '-----------------> vessel      the process: its end, signals
//!                       '--------------------> link, qmp   the monitor: power button, events
//! ```
//! A vessel outlives the base. What a successor needs is spread over three places, each true by
//! itself: the vessel's lock says that it lives and which process it is (`engine::spawn`); the
//! record says what was wanted of it (`record`); the holder keeps its memory and its pidfd, is its
//! parent once the base is dead, and says how it ended ([`Vms::exited`]).
//!
//! When the holder is dead as well, nobody has memory and pidfd, and the next instance finds the
//! vessel by lock and record alone; one that is in its configuration no longer is ended (`stray`).
//!
//! # Who calls
//! All of it runs on the base's main thread. Futures that [`Vms`] hands out borrow nothing, so that
//! the main loop can go on while a VM takes its time.
//!
//! # Files, all in `vm/` of the state directory
//! `NAME.console`, `NAME.monitor` sockets; `NAME.keyboard` the lock of whoever types at the console;
//! `NAME.console.log` all that the console showed since the start, and `.1` before it; `NAME.log`
//! what the vessel complains of; `NAME.pid` its lock; `NAME.json` its record.
//!
//! # Consoles
//! QEMU writes the console's log itself, and listens at its socket: between guest and log is
//! nobody who could die, be replaced, or be slow. So history and watching are reading that
//! file, and only whoever types needs the socket. A base in between would have to hand its history to
//! its successor, and what the guest says between two bases would be lost. The price: a guest that
//! writes without end fills the file between two looks of its driver ([`form`]), which cuts it.

mod driver;
mod form;
mod lifecycle;
mod link;
mod order;
mod qmp;
mod record;
mod stopping;
mod stray;
mod vessel;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datapath::keeper::Keeper;
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::Accel;
use crate::engine::spawn::Process;
use crate::ledger::Ledger;
use crate::state_dir::{StateDir, StateDirError};

pub use form::{FormError, Plan};
pub use lifecycle::{Ending, Refused, State};
pub use order::{Go, Standing, StartOrder};
pub use stray::{Stray, strays};

use driver::{Driver, Request};
use form::Paths;
use lifecycle::Input;

/// What all VMs of an instance share.
pub struct Shared {
    /// Where their files are.
    pub state_dir: StateDir,
    /// Where they keep what must outlast them. `None`: nobody knows a place.
    pub data_dir: Option<PathBuf>,
    /// Who keeps descriptors for a successor.
    pub keeper: Arc<dyn Keeper>,
    /// Who has what.
    pub ledger: Mutex<Ledger>,
    /// Who executes the guests' instructions.
    pub accel: Accel,
    /// QEMU's file. `None`: found in PATH whenever it is needed.
    pub qemu: Option<PathBuf>,
    /// Takes what happens. Called on the base's main thread; must not wait.
    pub events: Box<dyn Fn(Event) + Send + Sync>,
    /// Told when everything that follows from the end of a process, of which [`Vms::exited`] was
    /// told, is done.
    pub settle: Box<dyn Fn(u32) + Send + Sync>,
}

impl Shared {
    /// The ledger. It is consistent whatever happened: each change is one step.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

/// Something that happened to a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub vm: String,
    /// What happened.
    pub what: Happening,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It came into another state.
    State {
        /// Which.
        state: State,
        /// Why, if it did not come there by wish.
        note: Option<String>,
        /// After which time it is started again, if that is so; whole seconds.
        again_in: Option<Duration>,
    },
    /// The guest reset its machine.
    Rebooted,
    /// The guest's kernel panicked.
    Panicked,
    /// Something is not as it should be, and the VM goes on.
    Trouble(String),
}

/// What a VM is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// Why it is in that state, if it did not come there by wish.
    pub note: Option<String>,
    /// Its vessel's process.
    pub pid: Option<u32>,
    /// How often a vessel was started for it.
    pub starts: u64,
    /// When this vessel was started: milliseconds since 1970 (UTC).
    pub started_at: Option<u64>,
    /// Failures since it last ran steadily.
    pub failures: u32,
}

impl Default for Status {
    fn default() -> Self {
        let state = State::Stopped;
        Self { state, note: None, pid: None, starts: 0, started_at: None, failures: 0 }
    }
}

/// Why a wish was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// There is no VM of that name that the base forms.
    #[error("there is no VM `{0}` that the base forms")]
    Unknown(String),
    /// It makes no sense in its present state.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be formed.
    #[error(transparent)]
    Form(#[from] FormError),
    /// It was started, but its end could not be noticed.
    #[error("VM `{vm}`: cannot watch its vessel")]
    Unwatched {
        /// The VM.
        vm: String,
    },
    /// A path in the state directory is too long.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The base is ending.
    #[error("the base is ending")]
    Ending,
}

/// Where a VM's console is: QEMU itself listens and writes, so nothing of it ends with the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// The Unix socket: bytes both ways, one client at a time.
    pub socket: PathBuf,
    /// All that it shows, whether there is a client or not.
    pub log: PathBuf,
    /// Held by the client that types, so that a second one knows that it would not be heard.
    pub keyboard: PathBuf,
}

/// The way to one VM's driver.
#[derive(Clone, Debug)]
struct Remote {
    requests: mpsc::UnboundedSender<Request>,
    status: watch::Receiver<Status>,
}

impl Remote {
    /// Puts a wish to it, at once; the future is for the answer.
    fn wish(&self, input: Input) -> impl Future<Output = Result<(), VmError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send(Request::Wish(input, answer));
        async move {
            sent.map_err(|_| VmError::Ending)?;
            answered.await.unwrap_or(Err(VmError::Ending))
        }
    }

    /// Ready when the VM has no vessel and waits for none.
    async fn at_rest(mut self) {
        let rests = |s: &Status| matches!(s.state, State::Stopped | State::Failed);
        // An error says that the base is ending: nobody will know better.
        let _ = self.status.wait_for(rests).await;
    }
}

/// One VM, from outside.
#[derive(Debug)]
struct Handle {
    remote: Remote,
    console: Console,
    autostart: bool,
    /// The VMs that it is started after, and stopped before.
    after: Vec<String>,
    /// Whether a predecessor of this base had it already.
    known: bool,
    driver: tokio::task::JoinHandle<()>,
}

/// All VMs that the base forms. Dropping it leaves their vessels running.
#[derive(Debug)]
pub struct Vms {
    shared: Arc<Shared>,
    vms: BTreeMap<String, Handle>,
}

impl Vms {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, vms: BTreeMap::new() }
    }

    /// Adds a VM, in the state in which a predecessor of this base left it; a vessel that lives is
    /// taken over. `pidfd` is what the holder kept under `vm/NAME/pidfd`. Starts nothing that did
    /// not run. Needs a tokio runtime.
    pub fn add(&mut self, plan: Plan, pidfd: Option<OwnedFd>) -> Result<(), VmError> {
        let (name, autostart) = (plan.name.clone(), plan.machine.autostart);
        let after = plan.machine.after.clone();
        let paths = Paths::of(&self.shared.state_dir, &name)?;
        let (socket, log) = (paths.console.clone(), paths.console_log.clone());
        let console = Console { socket, log, keyboard: paths.keyboard.clone() };
        let (requests, received) = mpsc::unbounded_channel();
        let kept = pidfd.and_then(Process::from_pidfd);
        let (driver, known) = Driver::new(plan, paths, self.shared.clone(), kept, received);
        let remote = Remote { requests, status: driver.status() };
        let driver = tokio::spawn(driver.run());
        self.vms.insert(name, Handle { remote, console, autostart, after, known, driver });
        Ok(())
    }

    /// Ends all drivers, each when it has written down what it is about. Their vessels go on, and
    /// their monitors are free for others.
    pub async fn rest(self, limit: Duration) {
        let until = tokio::time::Instant::now().checked_add(limit);
        let until = until.unwrap_or_else(tokio::time::Instant::now);
        let drivers: Vec<_> = self.vms.into_values().map(|vm| vm.driver).collect();
        for mut driver in drivers {
            if tokio::time::timeout_at(until, &mut driver).await.is_err() {
                driver.abort();
            }
        }
    }

    /// The VMs that `up` starts and that no base has started yet, each with those that run first.
    pub fn to_start(&self) -> Vec<(String, Vec<String>)> {
        let due = self.vms.iter().filter(|(_, vm)| vm.autostart && !vm.known);
        due.map(|(name, vm)| (name.clone(), vm.after.clone())).collect()
    }

    /// Leaves a VM stopped that would have been started later: a successor does not start it either.
    pub fn leave_stopped(&self, vm: &str) {
        if let Some(handle) = self.vms.get(vm) {
            // Nobody listens any more only when the base is ending.
            let _ = handle.remote.requests.send(Request::Note);
        }
    }

    /// Starts a VM. Ready when its vessel was started, or could not be.
    pub fn start(&self, vm: &str) -> impl Future<Output = Result<(), VmError>> + Send + use<> {
        self.wish(vm, Input::Start)
    }

    /// Stops a VM: by its power button, and by force when that takes longer than its
    /// `stop_timeout`; with `force` at once. Ready when that was begun; [`Vms::at_rest`] says when
    /// it is done.
    pub fn stop(
        &self,
        vm: &str,
        force: bool,
    ) -> impl Future<Output = Result<(), VmError>> + Send + use<> {
        self.wish(vm, Input::Stop { force })
    }

    /// Stops a VM and starts it again; with `force` its guest is not asked. Ready when that was
    /// begun; [`Vms::no_longer_stopping`] says what came of it.
    pub fn restart(
        &self,
        vm: &str,
        force: bool,
    ) -> impl Future<Output = Result<(), VmError>> + Send + use<> {
        self.wish(vm, Input::Restart { force })
    }

    fn wish(
        &self,
        vm: &str,
        input: Input,
    ) -> impl Future<Output = Result<(), VmError>> + Send + use<> {
        let asked = self.vms.get(vm).map(|handle| handle.remote.wish(input));
        let unknown = VmError::Unknown(vm.to_owned());
        async move {
            match asked {
                Some(asked) => asked.await,
                None => Err(unknown),
            }
        }
    }

    /// Ready when the VM has no vessel and waits for none.
    pub fn at_rest(&self, vm: &str) -> impl Future<Output = ()> + Send + use<> {
        let remote = self.vms.get(vm).map(|handle| handle.remote.clone());
        async move {
            if let Some(remote) = remote {
                remote.at_rest().await;
            }
        }
    }

    /// Ready when the VM is not being stopped, with what it does then; `None` if there is no such
    /// VM, or the base is ending.
    pub fn no_longer_stopping(
        &self,
        vm: &str,
    ) -> impl Future<Output = Option<Status>> + Send + use<> {
        let status = self.vms.get(vm).map(|handle| handle.remote.status.clone());
        async move {
            let mut status = status?;
            let now = status.wait_for(|s| s.state != State::Stopping).await.ok()?;
            Some(now.clone())
        }
    }

    /// Stops all VMs: each when those that are after it have ended; with `force` all at once. Ready
    /// when none has a vessel. Needs a tokio runtime.
    pub fn stop_all(&self, force: bool) -> impl Future<Output = ()> + Send + use<> {
        let parts = self.vms.iter().map(|(name, vm)| stopping::Part {
            name: name.clone(),
            after: if force { Vec::new() } else { vm.after.clone() },
            remote: vm.remote.clone(),
        });
        stopping::all(parts.collect(), force)
    }

    /// Takes what the holder says about a process that it has reaped.
    pub fn exited(&self, pid: u32, ending: Ending) {
        let theirs = self.vms.values().find(|vm| vm.remote.status.borrow().pid == Some(pid));
        let request = Request::Exited(pid, ending);
        if theirs.is_none_or(|vm| vm.remote.requests.send(request).is_err()) {
            (self.shared.settle)(pid);
        }
    }

    /// What a VM is doing.
    pub fn status(&self, vm: &str) -> Option<Status> {
        self.vms.get(vm).map(|handle| handle.remote.status.borrow().clone())
    }

    /// Where a VM's console is.
    pub fn console(&self, vm: &str) -> Option<&Console> {
        self.vms.get(vm).map(|handle| &handle.console)
    }
}

#[cfg(test)]
mod tests;

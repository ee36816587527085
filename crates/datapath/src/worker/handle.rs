//! How other threads reach the workers: changes that run on the first one's thread, while all are
//! between two batches. A call alone is changed beside them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::thread::CpuSet;

use super::change::Change;
use super::turn::Own;
use super::world::Crew;
use super::{Command, Worker};
use crate::event::Event;
use crate::names::{NetworkId, PortId, RingId};
use crate::state::{MAX_WORKERS, StateMemory};
use crate::vhost::{Ring, RingOwner};

/// How often a port that its worker has just now is tried, before everybody is made to rest for it.
const TRIES: usize = 64;

/// The workers' threads have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datapath's thread has ended")]
pub struct Gone;

/// Which workers there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One for each, at least one and at most [`MAX_WORKERS`]: the core that it keeps to, if any.
    pub cores: Vec<Option<usize>>,
    /// A predecessor died of its own making: one works at a time for a while.
    pub one_by_one: bool,
}

impl Default for Workers {
    /// One, wherever the kernel puts it.
    fn default() -> Self {
        Self { cores: vec![None], one_by_one: false }
    }
}

/// Reaches the workers from any thread. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    /// Theirs alone: it ends with the last of them.
    crew: Weak<Crew>,
}

/// Starts one worker without ports. It carries nothing before [`WorkerHandle::serve`]. What waits for
/// a neighbour in `state` is found again; `events` is called on the worker's thread and must not
/// block.
pub fn spawn(
    state: StateMemory,
    events: Box<dyn Fn(Event) + Send + Sync>,
) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
    spawn_several(state, &Workers::default(), events)
}

/// Starts several workers; the thread that is returned ends after the others. A core that the kernel
/// does not give is an error.
pub fn spawn_several(
    state: StateMemory,
    workers: &Workers,
    events: Box<dyn Fn(Event) + Send + Sync>,
) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
    let count = workers.cores.len().clamp(1, MAX_WORKERS);
    let crew = Arc::new(Crew::new(state.clone(), count, workers.one_by_one, events)?);
    let (sender, commands) = channel();
    let core = |worker: usize| workers.cores.get(worker).copied().flatten();
    let others = (1..count)
        .map(|index| start(&crew, &state, index, core(index), None, Vec::new()))
        .collect::<io::Result<Vec<_>>>();
    let first = others.and_then(|others| start(&crew, &state, 0, core(0), Some(commands), others));
    match first {
        Ok(thread) => Ok((WorkerHandle::of(sender, &crew), thread)),
        Err(error) => {
            // Those that run already end by themselves.
            crew.write().stopped = true;
            crew.ring_all();
            Err(error)
        }
    }
}

fn start(
    crew: &Arc<Crew>,
    state: &StateMemory,
    index: usize,
    core: Option<usize>,
    commands: Option<Receiver<Command>>,
    others: Vec<JoinHandle<()>>,
) -> io::Result<JoinHandle<()>> {
    let own = Own::new(state, index);
    let worker = Worker { crew: crew.clone(), own, commands };
    let name = if index == 0 { "worker".to_owned() } else { format!("worker {index}") };
    let (told, pinned) = sync_channel(1);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let here = core.map_or(Ok(()), keep_to);
        let goes = here.is_ok();
        // Whoever starts it waits below.
        let _ = told.send(here);
        if goes {
            worker.run();
        }
        for other in others {
            // One that panicked has said so.
            let _ = other.join();
        }
    })?;
    pinned.recv().unwrap_or(Ok(()))?;
    Ok(thread)
}

/// Keeps the calling thread to one core.
fn keep_to(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).map_err(Into::into)
}

impl WorkerHandle {
    pub(super) fn of(commands: Sender<Command>, crew: &Arc<Crew>) -> Self {
        Self { commands, crew: Arc::downgrade(crew) }
    }

    /// Runs `change` while every worker is between two batches, and waits for its result.
    pub(super) fn call<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Change<'_>) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (sender, receiver) = sync_channel(1);
        let crew = self.crew.upgrade().ok_or(Gone)?;
        crew.await_change();
        let command = move |world: &mut Change<'_>| {
            // The caller waits below; if it does not, nobody wants the result.
            let _ = sender.send(change(world));
        };
        if self.commands.send(Box::new(command)).is_err() {
            crew.change_begins();
            return Err(Gone);
        }
        crew.desk(0).ring();
        drop(crew);
        receiver.recv().map_err(|_| Gone)
    }

    /// Begins to carry datagrams: networks, ports and the rings of a predecessor are in place.
    pub fn serve(&self) -> Result<(), Gone> {
        self.call(|change| {
            change.world.serving = true;
            for id in change.world.networks.ids() {
                // What a predecessor read from the host and did not finish makes no event.
                change.turn().serve_host(NetworkId(id), Instant::now());
            }
            change.turn().ask_again();
            change.crew.ring_all();
        })
    }

    /// Returns when every worker has come round once: never, if one hangs.
    pub fn comes_round(&self) -> Result<(), Gone> {
        self.call(|_| ())
    }

    /// Ends the workers' threads after the batches they are in. Rings stay as they are.
    pub fn shut_down(&self) {
        let _ = self.call(|change| {
            change.world.stopped = true;
            change.crew.ring_all();
        });
    }
}

impl RingOwner for WorkerHandle {
    fn start(&self, port: PortId, id: RingId, ring: Ring) {
        let _ = self.call(move |change| change.start_ring(port, id, ring));
    }

    fn stop(&self, port: PortId, id: RingId) -> Option<u32> {
        self.call(move |change| change.stop_ring(port, id)).ok().flatten()
    }

    fn set_call(&self, port: PortId, id: RingId, call: Option<Arc<OwnedFd>>) -> bool {
        let Some(crew) = self.crew.upgrade() else { return false };
        for _ in 0..TRIES {
            if crew.read().ports.get(port.0).is_none_or(|port| port.try_set_call(id, &call)) {
                return false;
            }
            std::hint::spin_loop();
        }
        drop(crew);
        let _ = self.call(move |change| {
            change.world.ports.get(port.0).is_none_or(|port| port.try_set_call(id, &call))
        });
        true
    }
}

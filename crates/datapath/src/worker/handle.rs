//! How other threads reach the worker: commands that run on its thread, between two batches.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::patience::Patience;
use super::{Command, Token, Worker};
use crate::answer::Replies;
use crate::deliver::Inboxes;
use crate::event::Event;
use crate::names::{NetworkId, PortId, Side};
use crate::pending::Pending;
use crate::state::StateMemory;
use crate::state::marks::Marks;
use crate::storage::Storage;
use crate::vhost::{Ring, RingOwner};

/// The worker's thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datapath's thread has ended")]
pub struct Gone;

/// Reaches the worker from any thread. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

/// Starts a worker without ports. It carries nothing before [`WorkerHandle::serve`]. What waits for
/// a neighbour in `state` is found again; `events` is called on the worker's thread and must not
/// block.
pub fn spawn(
    state: StateMemory,
    events: Box<dyn Fn(Event) + Send>,
) -> io::Result<(WorkerHandle, JoinHandle<()>)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (sender, commands) = channel();
    let worker = Worker {
        pending: Pending::adopt(state.clone()),
        marks: Marks::of(&state),
        state,
        epoll,
        wake: wake.clone(),
        commands,
        events,
        ports: Default::default(),
        networks: Default::default(),
        active: Vec::new(),
        receiver: None,
        patience: Patience::default(),
        storage: Storage::default(),
        replies: Replies::default(),
        inboxes: Inboxes::default(),
        advertise_at: Instant::now(),
        serving: false,
        stopped: false,
    };
    worker.watch(wake.as_fd(), Token::Commands, false)?;
    let thread = std::thread::Builder::new().name("worker".into()).spawn(move || worker.run())?;
    Ok((WorkerHandle { commands: sender, wake }, thread))
}

impl WorkerHandle {
    /// Runs `change` on the worker's thread between two batches, and waits for its result.
    pub(super) fn call<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Worker) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (sender, receiver) = sync_channel(1);
        self.commands
            .send(Box::new(move |worker| {
                // The caller waits below; if it does not, nobody wants the result.
                let _ = sender.send(change(worker));
            }))
            .map_err(|_| Gone)?;
        // An eventfd at its limit wakes all the same.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        receiver.recv().map_err(|_| Gone)
    }

    /// Begins to carry datagrams: networks, ports and the rings of a predecessor are in place.
    pub fn serve(&self) -> Result<(), Gone> {
        self.call(|worker| {
            worker.serving = true;
            for id in worker.networks.ids() {
                // What a predecessor read from the host and did not finish makes no event.
                worker.serve_host(NetworkId(id), Instant::now());
            }
            worker.ask_again();
        })
    }

    /// Returns when the worker has come round once: never, if it hangs.
    pub fn comes_round(&self) -> Result<(), Gone> {
        self.call(|_| ())
    }

    /// Ends the worker's thread after the batch it is in. Rings stay as they are.
    pub fn shut_down(&self) {
        let _ = self.call(|worker| worker.stopped = true);
    }
}

impl RingOwner for WorkerHandle {
    fn start(&self, port: PortId, side: Side, ring: Ring) {
        let _ = self.call(move |worker| worker.start_ring(port, side, ring));
    }

    fn stop(&self, port: PortId, side: Side) -> Option<u16> {
        self.call(move |worker| worker.stop_ring(port, side)).ok().flatten()
    }

    fn set_call(&self, port: PortId, side: Side, call: Option<Arc<OwnedFd>>) {
        let _ = self.call(move |worker| worker.set_call(port, side, call));
    }
}

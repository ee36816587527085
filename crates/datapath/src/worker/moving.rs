//! Which worker a port belongs to, and its way to another.

use super::change::Change;
use super::handle::{Gone, WorkerHandle};
use crate::names::PortId;

/// Why a port was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMoved {
    /// There is no such port.
    #[error("there is no such port")]
    NoPort,
    /// There is no such worker.
    #[error("there is no worker {worker}: they are 0 to {last}")]
    NoWorker {
        /// Which was asked for.
        worker: usize,
        /// The last there is.
        last: usize,
    },
}

impl WorkerHandle {
    /// Has a port served by another worker, from its next datagram on.
    pub fn move_port(&self, id: PortId, worker: usize) -> Result<Result<(), NotMoved>, Gone> {
        self.call(move |change| change.move_port(id, worker))
    }

    /// The worker of each port, in the order of their numbers.
    pub fn placed(&self) -> Result<Vec<(PortId, usize)>, Gone> {
        self.call(|change| change.world.ports.iter().map(|p| (p.id, p.worker)).collect())
    }
}

impl Change<'_> {
    /// The worker with the fewest ports, the first of those.
    pub(super) fn least_laden(&self) -> usize {
        let ports = |worker: usize| self.world.ports.iter().filter(|p| p.worker == worker).count();
        (0..self.crew.len()).min_by_key(|worker| ports(*worker)).unwrap_or(0)
    }

    fn move_port(&mut self, id: PortId, worker: usize) -> Result<(), NotMoved> {
        let last = self.crew.len().saturating_sub(1);
        if worker > last {
            return Err(NotMoved::NoWorker { worker, last });
        }
        let port = self.world.ports.get(id.0).ok_or(NotMoved::NoPort)?;
        if port.worker == worker {
            return Ok(());
        }
        self.recall(id);
        if let Some(port) = self.world.ports.get_mut(id.0) {
            port.worker = worker;
        }
        self.call_worker(id);
        Ok(())
    }
}

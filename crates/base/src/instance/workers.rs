//! The datapath's threads: on which cores they run, and which has which port.

use std::collections::BTreeMap;

use datapath::names::PortId;
use datapath::worker::Workers;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::Instance;
use crate::config::Config;
use crate::control::{Refusal, RefusalKind, VmStatus};
use crate::entry::causes;

/// The workers of this base. A successor does without a core that has gone: what it kept to is any.
pub(super) fn of(config: &Config, one_by_one: bool) -> Workers {
    let given = given();
    let there = |core: &usize| has(given.as_ref(), *core);
    let cores = config.workers.0.iter().map(|core| core.filter(there)).collect();
    Workers { cores, one_by_one }
}

/// The cores that this process may use; `None` if the kernel does not say.
fn given() -> Option<CpuSet> {
    sched_getaffinity(None).ok()
}

fn has(given: Option<&CpuSet>, core: usize) -> bool {
    core < CpuSet::MAX_CPU && given.is_none_or(|given| given.is_set(core))
}

impl Instance {
    /// All VMs, with the workers of their ports if there are several.
    pub(super) fn vm_statuses(&self) -> Vec<VmStatus> {
        let several = self.config.workers.0.len() > 1;
        let placed: BTreeMap<PortId, usize> = match several.then(|| self.worker.placed()) {
            Some(Ok(placed)) => placed.into_iter().collect(),
            // Threads that have ended are told of elsewhere.
            Some(Err(_)) | None => BTreeMap::new(),
        };
        let vms = self.config.vms.keys().filter_map(|name| self.vm_status(name));
        vms.map(|vm| VmStatus { worker: placed.get(&self.ids.port(&vm.name)).copied(), ..vm })
            .collect()
    }

    /// Has a VM's port served by another worker.
    pub(super) fn move_port(&self, vm: &str, worker: usize) -> Result<(), Refusal> {
        if !self.config.vms.contains_key(vm) {
            return Err(Refusal::unknown_vm(vm, self.config.vms.keys().map(String::as_str)));
        }
        let failed = |error: &dyn std::error::Error| {
            let text = format!("the port of `{vm}` cannot be moved: {}", causes(error));
            Refusal::new(RefusalKind::Failed, text)
        };
        let moved = self.worker.move_port(self.ids.port(vm), worker).map_err(|e| failed(&e))?;
        moved.map_err(|e| failed(&e))
    }
}

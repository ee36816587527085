//! The VMs of the instance: what is asked of them, and what they tell.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use datapath::keeper::Keeper;
use datapath::state::port::PortRecord;
use tokio::sync::mpsc::UnboundedSender;

use super::{Instance, Said};
use crate::config::{Config, Engine};
use crate::control::{
    Answer, EventLevel, EventLog, Refusal, RefusalKind, VmState, VmStatus, VmUsage,
};
use crate::data_dir;
use crate::engine::{Accel, Choice};
use crate::entry::{Failure, causes};
use crate::keeper::{Ended, HolderKeeper, Inheritance};
use crate::ledger::{Capacity, Ledger};
use crate::state_dir::StateDir;
use crate::vm::{self, Ending, Event, Happening, Plan, Shared, State, Status, Stray, VmError, Vms};

/// A wish that was put to a VM, to be waited for beside the main loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Start,
    Stop { force: bool },
    Restart { force: bool },
}

/// What VMs are given of this machine.
pub(super) struct Machine {
    capacity: Capacity,
    accel: Accel,
}

impl Machine {
    /// Looks at it.
    pub fn look() -> Result<Self, Failure> {
        let accel = Choice::of_this_machine().accel;
        Ok(Self { capacity: Capacity::of_this_machine()?, accel })
    }
}

/// Room for the VMs, without any yet.
pub(super) fn none_yet(
    config: &Config,
    state_dir: &StateDir,
    keeper: &Arc<HolderKeeper>,
    machine: &Machine,
    said: UnboundedSender<Said>,
) -> Vms {
    let kept: Arc<dyn Keeper> = keeper.clone();
    let settle = keeper.clone();
    Vms::new(Arc::new(Shared {
        state_dir: state_dir.clone(),
        data_dir: config.host.data_dir.clone().or_else(data_dir::default_path),
        keeper: kept,
        ledger: Mutex::new(Ledger::new(machine.capacity, config.host.overcommit)),
        accel: machine.accel,
        qemu: None,
        events: Box::new(move |event| {
            // Nobody listens any more only when the base is ending.
            let _ = said.send(Said::Vm(event));
        }),
        settle: Box::new(move |pid| {
            if let Err(error) = settle.settled(pid) {
                tracing::warn!(pid, %error, "cannot tell the holder that a process is settled");
            }
        }),
    }))
}

/// Ends a VM that is in the configuration no longer, beside everything else.
fn end_stray(stray: Stray, keeper: Arc<HolderKeeper>, events: EventLog) {
    let (name, pid) = (stray.name.clone(), stray.pid());
    let subject = format!("vm/{name}");
    let text = format!("it runs (process {pid}) and is not in the configuration: it is ended");
    events.push(EventLevel::Warning, "stray", &subject, text);
    tokio::spawn(async move {
        stray.end().await;
        // The holder may know it from a configuration in which it was.
        let _ = keeper.forget_all(&format!("vm/{name}/"));
        events.push(EventLevel::Info, "stray", &subject, "it has ended");
    });
}

/// How the holder says a process ended, as a VM's life understands it.
pub(super) fn ending(ended: Ended) -> Ending {
    match ended {
        Ended::Exited(code) => Ending::Code(code),
        Ended::Signaled(signal) => Ending::Signal(signal),
    }
}

impl Instance {
    /// Takes over the VMs that run, and prepares the others. Those that run and are in the
    /// configuration no longer are ended. The datapath does without all this.
    pub(super) fn open_vms(&mut self, inheritance: &mut Inheritance) -> Result<(), Failure> {
        let (config, state_dir) = (&self.config, &self.state_dir);
        let formed =
            |name: &str| matches!(config.vms.get(name).map(|vm| &vm.engine), Some(Engine::Qemu(_)));
        // An instance that begins has no VMs but those that live.
        let takeover = self.hello.generation > 0;
        let known = |name: &str| takeover && formed(name);
        for stray in vm::strays(state_dir, known, formed) {
            end_stray(stray, self.keeper.clone(), self.events.clone());
        }
        for (name, vm) in &config.vms {
            let mtu = self.networks.get(&vm.network).map(|n| n.facts.mtu);
            let mtu = mtu.and_then(|mtu| u16::try_from(mtu).ok());
            let port = state_dir.port_socket(name)?;
            let Some(plan) = Plan::new(name, vm, port, mtu) else { continue };
            let pidfd = inheritance.take(&format!("vm/{name}/pidfd"));
            self.vms.add(plan, pidfd)?;
        }
        for (pid, ended) in inheritance.take_reaped() {
            self.vms.exited(pid, ending(ended));
        }
        Ok(())
    }

    /// Puts a wish to a VM; the answer comes when it is fulfilled.
    pub(super) fn wish(&mut self, vm: &str, wish: Wish, answer: Answer<()>) {
        let may = self.formed(vm).and_then(|()| self.may_still(wish));
        if let Err(refusal) = may {
            let _ = answer.send(Err(refusal));
            return;
        }
        if self.decided(vm, wish) {
            let _ = answer.send(Ok(()));
            return;
        }
        match wish {
            Wish::Start => fulfil(self.vms.start(vm), ready(Ok(())), answer),
            Wish::Stop { force } => {
                let rest = self.vms.at_rest(vm);
                let stopped = async move {
                    rest.await;
                    Ok(())
                };
                fulfil(self.vms.stop(vm, force), stopped, answer);
            }
            Wish::Restart { force } => {
                let stopped = self.vms.no_longer_stopping(vm);
                let again = async move {
                    match stopped.await {
                        Some(Status { state: State::Stopped | State::Failed, note, .. }) => {
                            let why = note.map(|n| format!(": {n}")).unwrap_or_default();
                            let text = format!("it stopped, and does not run again{why}");
                            Err(Refusal::new(RefusalKind::Failed, text))
                        }
                        _ => Ok(()),
                    }
                };
                fulfil(self.vms.restart(vm, force), again, answer);
            }
        }
    }

    /// Whether the base itself forms this VM.
    pub(super) fn formed(&self, vm: &str) -> Result<(), Refusal> {
        match self.config.vms.get(vm).map(|v| &v.engine) {
            Some(Engine::Qemu(_)) => Ok(()),
            Some(Engine::External(_)) => {
                let text = format!("`{vm}` is run by somebody else (engine = \"external\")");
                Err(Refusal::new(RefusalKind::NotSupported, text)
                    .hint("start and stop it, and look at it, where its front end runs"))
            }
            None => Err(Refusal::unknown_vm(vm, self.config.vms.keys().map(String::as_str))),
        }
    }

    pub(super) fn on_vm(&mut self, event: &Event) {
        self.order.heard(&event.vm);
        let subject = format!("vm/{}", event.vm);
        let (level, kind, text) = match &event.what {
            Happening::State { state, note, again_in } => {
                let level = match state {
                    State::Failed => EventLevel::Error,
                    State::BackingOff => EventLevel::Warning,
                    _ => EventLevel::Info,
                };
                let why = note.as_ref().map(|n| format!(": {n}")).unwrap_or_default();
                let again = again_in.map(|wait| format!("; started again in {} s", wait.as_secs()));
                (level, "state", format!("{state}{why}{}", again.unwrap_or_default()))
            }
            Happening::Rebooted => (EventLevel::Info, "rebooted", "the guest rebooted".to_owned()),
            Happening::Panicked => {
                (EventLevel::Error, "panicked", "the guest's kernel panicked".to_owned())
            }
            Happening::Trouble(text) => (EventLevel::Warning, "trouble", text.clone()),
        };
        self.events.push(level, kind, &subject, text);
        self.go_on_starting();
    }

    pub(super) fn vm_status(&self, name: &str) -> Option<VmStatus> {
        let vm = self.config.vms.get(name)?;
        let port = self.ids.port(name);
        let mac = vm.mac.or_else(|| PortRecord::of(&self.state, port).mac());
        let mut status = VmStatus {
            name: name.to_owned(),
            state: VmState::External,
            note: None,
            engine: "external".to_owned(),
            pid: None,
            cpus: None,
            memory: None,
            network: vm.network.clone(),
            addresses: vm.addresses.iter().map(|a| a.addr()).collect(),
            user: None,
            mac: mac.map(|m| m.to_string()),
            attached: self.is_attached(port),
            worker: None,
            quarantine: super::poison::quarantine(&self.state, port),
            seconds: 0,
            restarts: 0,
            usage: VmUsage::default(),
        };
        if let (Engine::Qemu(machine), Some(now)) = (&vm.engine, self.vms.status(name)) {
            status.engine = "qemu".to_owned();
            status.state = match now.state {
                State::Stopped => VmState::Stopped,
                State::Starting => VmState::Starting,
                State::Running => VmState::Running,
                State::Stopping => VmState::Stopping,
                State::BackingOff => VmState::Waiting,
                State::Failed => VmState::Failed,
            };
            status.note = now.note;
            status.pid = now.pid;
            status.cpus = Some(machine.cpus);
            status.memory = Some(machine.memory);
            status.user = machine.seed.as_ref().and_then(|seed| seed.user.clone());
            status.seconds = now.started_at.map_or(0, seconds_since);
            if let Some(note) = self.waits_note(name) {
                status.state = VmState::Waiting;
                status.note = Some(note);
            }
            status.restarts = u32::try_from(now.starts.saturating_sub(1)).unwrap_or(u32::MAX);
        }
        status.usage = super::usage::of(&self.state, port, status.pid);
        Some(status)
    }
}

/// Waits for a wish beside the main loop, then for what it leads to, and answers.
fn fulfil(
    wish: impl Future<Output = Result<(), VmError>> + Send + 'static,
    then: impl Future<Output = Result<(), Refusal>> + Send + 'static,
    answer: Answer<()>,
) {
    tokio::spawn(async move {
        let mut result = wish.await.map_err(|error| {
            let kind = match error {
                VmError::Refused(_) => RefusalKind::WrongState,
                VmError::Unknown(_) => RefusalKind::Unknown,
                VmError::Ending => RefusalKind::Stopping,
                _ => RefusalKind::Failed,
            };
            Refusal::new(kind, causes(&error))
        });
        if result.is_ok() {
            result = then.await;
        }
        // That the one who asked has gone meanwhile is nobody's loss.
        let _ = answer.send(result);
    });
}

fn seconds_since(milliseconds: u64) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    now.saturating_sub(milliseconds) / 1000
}

//! Who is started when, and that all are stopped in reverse: `after`, at `up` and `down`.
//!
//! The order itself is in [`StartOrder`]; here is how the VMs stand, and what is told.

use std::time::Instant;

use super::Instance;
use super::vms::Wish;
use crate::config::Engine;
use crate::control::{EventLevel, Refusal, RefusalKind};
use crate::entry::causes;
use crate::vm::{Go, Standing, StartOrder, State};

impl Instance {
    /// Starts what `up` starts and no base has started yet, each when it is its turn.
    pub(super) fn begin_order(&mut self) {
        self.order = StartOrder::new(self.vms.to_start());
        self.go_on_starting();
    }

    /// Starts those whose turn it is by now. One that cannot be started is told, and the others go
    /// on.
    pub(super) fn go_on_starting(&mut self) {
        if self.order.is_empty() {
            return;
        }
        let mut order = std::mem::take(&mut self.order);
        let go = order.next(Instant::now(), |vm| self.standing(vm));
        self.order = order;
        for Go { vm, without } in go {
            let subject = format!("vm/{vm}");
            if !without.is_empty() {
                let text = format!(
                    "it is started although {} not run yet: waited for a minute",
                    match without.as_slice() {
                        [one] => format!("{one} does"),
                        many => format!("{} do", many.join(", ")),
                    }
                );
                self.events.push(EventLevel::Warning, "start_order", &subject, text);
            }
            let started = self.vms.start(&vm);
            let events = self.events.clone();
            tokio::spawn(async move {
                if let Err(error) = started.await {
                    let text = format!("cannot be started: {}", causes(&error));
                    events.push(EventLevel::Error, "start_failed", &subject, text);
                }
            });
        }
    }

    /// How a VM stands that others may wait for.
    fn standing(&self, vm: &str) -> Standing {
        let Some(config) = self.config.vms.get(vm) else { return Standing::Rests };
        let attached = self.is_attached(self.ids.port(vm));
        let state = match &config.engine {
            Engine::Qemu(_) => self.vms.status(vm).map(|status| status.state),
            Engine::External(_) => Some(State::Running),
        };
        match state {
            Some(State::Running) if attached => Standing::Runs,
            Some(State::Running | State::Starting | State::BackingOff) => Standing::Coming,
            Some(State::Stopping | State::Stopped | State::Failed) | None => Standing::Rests,
        }
    }

    /// What `ps` says of a VM that has not been started yet.
    pub(super) fn waits_note(&self, vm: &str) -> Option<String> {
        let others = self.order.waits_for(vm, |other| self.standing(other))?;
        match others.as_slice() {
            [] => None,
            [one] => Some(format!("it is started when {one} runs")),
            many => Some(format!("it is started when these run: {}", many.join(", "))),
        }
    }

    /// Whether a wish can still be fulfilled.
    pub(super) fn may_still(&self, wish: Wish) -> Result<(), Refusal> {
        match wish {
            Wish::Start | Wish::Restart { .. } if self.ending => {
                Err(Refusal::new(RefusalKind::Stopping, "the instance is ending"))
            }
            _ => Ok(()),
        }
    }

    /// Somebody has decided about a VM, so it does not wait for its turn any more. Says whether all is
    /// done with that: one that was to be started, and is to be stopped.
    pub(super) fn decided(&mut self, vm: &str, wish: Wish) -> bool {
        let waited = self.order.forget(vm);
        let stop = matches!(wish, Wish::Stop { .. });
        if waited && stop {
            self.vms.leave_stopped(vm);
        }
        self.go_on_starting();
        waited && stop
    }

    /// Stops all VMs, each when those that are after it have ended, with `force` all at once; and
    /// starts none any more.
    pub(super) fn stop_all(&mut self, force: bool) -> impl Future<Output = ()> + Send + use<> {
        for vm in self.order.forget_all() {
            self.vms.leave_stopped(&vm);
        }
        self.ending = true;
        self.vms.stop_all(force)
    }
}

//! What the base has died of: told to people, and undone when they say so.
//!
//! What it was, and what follows from it, is decided by `datapath::state::blame` before anything is
//! taken over. A quarantine stands in the state memory and is told by every successor anew: the log
//! of events ends with each base.

use std::sync::Arc;

use datapath::keeper::Keeper;
use datapath::names::{Owner, PortId};
use datapath::state::StateMemory;
use datapath::state::blame::{self, LAST_ADOPTION, Verdict};
use datapath::state::marks::Origin;
use datapath::state::suspicion::{NetworkSuspicion, PortSuspicion};
use rustix::time::{ClockId, clock_gettime};

use super::Instance;
use super::network::{Around, NetworkSide};
use crate::control::{EventLevel, PortReset, Refusal, RefusalKind};
use crate::entry::causes;
use crate::keeper::{Death, HolderKeeper, Inheritance};

/// Holds the predecessor's death against what it was about, if the death was of its own making.
pub(super) fn judge(state: &StateMemory, predecessor: Option<Death>) -> Vec<Verdict> {
    let now = u32::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(u32::MAX);
    blame::judge(state, predecessor.is_some_and(Death::own_making), now)
}

/// Why the port stands still, if it does.
pub(super) fn quarantine(state: &StateMemory, port: PortId) -> Option<String> {
    PortSuspicion::of(state, port).quarantine().map(|why| why.to_string())
}

impl Instance {
    /// Tells what was decided, and which ports stand still since before.
    pub(super) fn tell_verdicts(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            match *verdict {
                Verdict::Quarantined(..) => {}
                Verdict::FrameLeftOut(network, number) => {
                    let text = format!(
                        "frame number {number} (modulo 65536) from the card is dropped: the base \
                         died of it twice"
                    );
                    self.about_network(EventLevel::Error, "poison", network, text);
                }
                Verdict::HostLeftOut(network) => {
                    let text = "a datagram from the host is dropped: the base died of it twice";
                    self.about_network(EventLevel::Error, "poison", network, text.to_owned());
                }
                Verdict::WaitingDropped(owner) => {
                    let text = "a datagram that waited for a neighbour was dropped: the base died \
                                of it twice"
                        .to_owned();
                    match owner {
                        Owner::Port(port) => {
                            self.about_vm(EventLevel::Error, "poison", port, text);
                        }
                        Owner::Uplink(network) | Owner::Host(network) => {
                            self.about_network(EventLevel::Error, "poison", network, text);
                        }
                    }
                }
                Verdict::Suspected(origin) => self.tell_suspicion(origin),
            }
        }
        for vm in self.config.vms.keys() {
            let port = self.ids.port(vm);
            if let Some(why) = quarantine(&self.state, port) {
                let text = format!(
                    "its port is quarantined: {why}; what comes for it is dropped until \
                     `ipvisor port reset {vm}`"
                );
                self.about_vm(EventLevel::Error, "quarantined", port, text);
            }
        }
    }

    fn tell_suspicion(&self, origin: Origin) {
        let text = |whose: &str| {
            format!("the base died while it carried what came from {whose}: once is an accident")
        };
        match origin {
            Origin::Port(from, _) => {
                self.about_vm(EventLevel::Warning, "suspected", from.port, text("this VM"));
            }
            Origin::Card(network, ..) => {
                self.about_network(EventLevel::Warning, "suspected", network, text("the card"));
            }
            Origin::Host(network) => {
                self.about_network(EventLevel::Warning, "suspected", network, text("the host"));
            }
            Origin::Waiting(_) => {}
        }
    }

    /// Lets a quarantined port go on, without what it was quarantined for.
    pub(super) fn reset_port(&self, vm: &str) -> Result<PortReset, Refusal> {
        if !self.config.vms.contains_key(vm) {
            return Err(Refusal::unknown_vm(vm, self.config.vms.keys().map(String::as_str)));
        }
        let port = self.ids.port(vm);
        let suspicion = PortSuspicion::of(&self.state, port);
        let Some(why) = suspicion.quarantine() else { return Ok(PortReset { was: None }) };
        let failed = |error: &dyn std::error::Error| {
            let text = format!("the port of `{vm}` cannot go on: {}", causes(error));
            Refusal::new(RefusalKind::Failed, text)
        };
        suspicion.release();
        self.worker.release_port(port).map_err(|e| failed(&e))?;
        if let Err(error) = self.doors.free_port(port) {
            // Its door is still shut: that is how it shall look.
            suspicion.set_quarantine(why);
            return Err(failed(&error));
        }
        let text = "its port was reset: it is not quarantined any more".to_owned();
        self.about_vm(EventLevel::Info, "port_reset", port, text);
        Ok(PortReset { was: Some(why.to_string()) })
    }
}

impl NetworkSide {
    /// Looks whether bases have died of taking this network over: then it is made anew, and if that
    /// kills as well, it has to do without its card.
    pub(super) fn beware(&mut self, around: &Around<'_>, inheritance: &mut Inheritance) {
        let times = NetworkSuspicion::of(around.state, self.id).adoptions();
        if times < LAST_ADOPTION.saturating_sub(1) {
            return;
        }
        let prefix = format!("network/{}/", self.name);
        drop(inheritance.take_prefix(&prefix));
        let keeper: &Arc<HolderKeeper> = around.keeper;
        let _ = keeper.forget_all(&prefix);
        self.barred = times >= LAST_ADOPTION;
        let text = format!(
            "the base died {times} times in a row while it took this network over: {}",
            match self.barred {
                true => "it has no card until the instance is started anew",
                false => "its card and its path to the host are opened anew",
            }
        );
        let subject = format!("network/{}", self.name);
        around.events.push(EventLevel::Error, "card_lost", &subject, text);
    }

    /// It was taken over.
    pub(super) fn taken_over(&self, around: &Around<'_>) {
        if !self.barred {
            NetworkSuspicion::of(around.state, self.id).clear_adoptions();
        }
    }
}

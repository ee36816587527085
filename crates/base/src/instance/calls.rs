//! Answers to what is asked over the control socket.

use datapath::counters::Counters;
use datapath::names::Owner;

use super::Instance;
use super::vms::Wish;
use crate::control::{
    Call, Console, CounterOwner, InstanceStatus, NetworkStatus, OwnerCounters, Ps, Refusal,
    RefusalKind, UplinkStatus,
};
use crate::vm;

impl Instance {
    /// Carries out one call. That the one who asked has gone meanwhile is nobody's loss.
    pub(super) fn call(&mut self, call: Call) {
        match call {
            Call::Ps(answer) => {
                let _ = answer.send(Ok(self.ps()));
            }
            Call::Counters(owner, answer) => {
                let _ = answer.send(self.counters(owner.as_ref()));
            }
            Call::Start(vm, answer) => self.wish(&vm, Wish::Start, answer),
            Call::Stop { vm, force, answer } => self.wish(&vm, Wish::Stop { force }, answer),
            Call::Restart { vm, force, answer } => self.wish(&vm, Wish::Restart { force }, answer),
            Call::Console(vm, answer) => {
                let _ = answer.send(self.console(&vm));
            }
            Call::PortMove { vm, worker, answer } => {
                let _ = answer.send(self.move_port(&vm, worker));
            }
            Call::PortReset(vm, answer) => {
                let _ = answer.send(self.reset_port(&vm));
            }
            Call::Switch(wish, answer) => self.switch(wish, answer),
            Call::Difference { path, text, answer } => {
                let _ = answer.send(self.difference(&path, &text).map(|(_, _, changes)| changes));
            }
            Call::Down(answer) => {
                let asked = self.keeper.ask_stop().map_err(|e| {
                    Refusal::new(RefusalKind::Failed, format!("cannot ask the holder to end: {e}"))
                });
                let _ = answer.send(asked);
            }
        }
    }

    fn console(&self, vm: &str) -> Result<Console, Refusal> {
        self.formed(vm)?;
        let console = self.vms.console(vm).cloned().ok_or_else(|| {
            Refusal::new(RefusalKind::WrongState, format!("`{vm}` has no console yet"))
        })?;
        let vm::Console { socket, log, keyboard } = console;
        Ok(Console { socket, log: Some(log), keyboard: Some(keyboard) })
    }

    fn ps(&self) -> Ps {
        Ps {
            instance: InstanceStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                holder: self.hello.holder,
                base: std::process::id(),
                takeovers: self.state.takeovers(),
                up_seconds: super::now_seconds().saturating_sub(self.started),
                config: self.release.config.clone(),
                takeover: self.takeover.clone(),
                state_dir: self.state_dir.path().to_owned(),
            },
            networks: self.networks.values().map(|n| self.network_status(n)).collect(),
            vms: self.vm_statuses(),
        }
    }

    fn network_status(&self, side: &super::NetworkSide) -> NetworkStatus {
        let gateways = [side.facts.gateway4.map(Into::into), side.facts.gateway6.map(Into::into)];
        NetworkStatus {
            name: side.name.clone(),
            uplink: side.link.as_ref().map(|link| UplinkStatus {
                device: link.name.clone(),
                mac: link.mac.map(|m| m.to_string()),
                link_up: link.up && link.carrier,
                mtu: link.mtu,
                gateways: gateways.into_iter().flatten().collect(),
            }),
            host_device: side.host.as_ref().map(|h| h.device.clone()),
            no_host_path: side.no_host.clone(),
        }
    }

    fn counters(&self, owner: Option<&CounterOwner>) -> Result<Vec<OwnerCounters>, Refusal> {
        let all = self.owners();
        let chosen: Vec<_> =
            all.into_iter().filter(|(name, _)| owner.is_none_or(|o| o == name)).collect();
        if chosen.is_empty()
            && let Some(owner) = owner
        {
            return Err(match owner {
                CounterOwner::Vm(vm) => {
                    Refusal::unknown_vm(vm, self.config.vms.keys().map(String::as_str))
                }
                other => {
                    Refusal::new(RefusalKind::Unknown, format!("there are no counters of {other}"))
                }
            });
        }
        let read = |(name, owner)| OwnerCounters {
            owner: name,
            counters: Counters::of(&self.state, owner)
                .all()
                .map(|(counter, n)| (counter.name().to_owned(), n))
                .collect(),
        };
        Ok(chosen.into_iter().map(read).collect())
    }

    fn owners(&self) -> Vec<(CounterOwner, Owner)> {
        let vms = self
            .config
            .vms
            .keys()
            .map(|name| (CounterOwner::Vm(name.clone()), Owner::Port(self.ids.port(name))));
        let cards = self
            .networks
            .values()
            .filter(|n| n.card.is_some())
            .map(|n| (CounterOwner::Uplink(n.name.clone()), Owner::Uplink(n.id)));
        let hosts = self
            .networks
            .values()
            .filter(|n| n.host.is_some())
            .map(|n| (CounterOwner::Host(n.name.clone()), Owner::Host(n.id)));
        vms.chain(cards).chain(hosts).collect()
    }
}

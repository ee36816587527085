//! Answers to what is asked over the control socket.

use datapath::counters::Counters;
use datapath::names::Owner;

use super::Instance;
use crate::config::Engine;
use crate::control::{
    Call, Console, CounterOwner, InstanceStatus, NetworkStatus, OwnerCounters, Ps, Refusal,
    RefusalKind, UplinkStatus, VmState, VmStatus,
};

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
            Call::Start(vm, answer)
            | Call::Stop { vm, answer, .. }
            | Call::Restart { vm, answer, .. } => {
                let _ = answer.send(Err(self.not_ours(&vm)));
            }
            Call::Console(vm, answer) => {
                let _ = answer.send(self.console(&vm));
            }
            Call::Down(answer) => {
                let asked = self.keeper.ask_stop().map_err(|e| {
                    Refusal::new(RefusalKind::Failed, format!("cannot ask the holder to end: {e}"))
                });
                let _ = answer.send(asked);
            }
        }
    }

    fn not_ours(&self, vm: &str) -> Refusal {
        if self.config.vms.contains_key(vm) {
            let text = format!("`{vm}` is run by somebody else (engine = \"external\")");
            Refusal::new(RefusalKind::NotSupported, text)
                .hint("start and stop it where its front end runs")
        } else {
            Refusal::unknown_vm(vm, self.config.vms.keys().map(String::as_str))
        }
    }

    fn console(&self, vm: &str) -> Result<Console, Refusal> {
        match self.config.vms.get(vm).map(|v| &v.engine) {
            Some(Engine::Qemu(_)) => {
                let socket = self
                    .state_dir
                    .vm_socket(vm, "console")
                    .map_err(|e| Refusal::new(RefusalKind::Failed, e.to_string()))?;
                Ok(Console { socket })
            }
            _ => Err(self.not_ours(vm)),
        }
    }

    fn ps(&self) -> Ps {
        Ps {
            instance: InstanceStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                holder: self.hello.holder,
                base: std::process::id(),
                takeovers: self.state.takeovers(),
                up_seconds: super::now_seconds().saturating_sub(self.started),
                config: self.config_path.clone(),
                state_dir: self.state_dir.path().to_owned(),
            },
            networks: self.networks.values().map(|n| self.network_status(n)).collect(),
            vms: self.config.vms.keys().filter_map(|name| self.vm_status(name)).collect(),
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

    fn vm_status(&self, name: &str) -> Option<VmStatus> {
        let vm = self.config.vms.get(name)?;
        let port = self.ids.port(name);
        let mac = vm.mac.or_else(|| self.macs.get(&port).copied());
        Some(VmStatus {
            name: name.to_owned(),
            state: VmState::External,
            note: None,
            engine: "external".to_owned(),
            pid: None,
            cpus: None,
            memory: None,
            network: vm.network.clone(),
            addresses: vm.addresses.iter().map(|a| a.addr()).collect(),
            mac: mac.map(|m| m.to_string()),
            attached: self.running.get(&port).is_some_and(|sides| sides.len() == 2),
            seconds: 0,
            restarts: 0,
        })
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

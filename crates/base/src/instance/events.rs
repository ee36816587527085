//! What worker and doors have to say, told to people, and what follows from it.

use datapath::event::Event;
use datapath::names::PortId;
use datapath::vhost::PortEvent;
use datapath::worker::Gone;

use super::Instance;
use crate::control::EventLevel;

impl Instance {
    pub(super) fn on_worker(&mut self, event: Event) -> Result<(), Gone> {
        match event {
            Event::RingBroken { port, fault } => {
                let text = format!("its rings are broken and stand still: {fault}");
                self.about_vm(EventLevel::Error, "ring_broken", port, text);
            }
            Event::MacLearned { port, mac } => {
                let text = format!("its card's MAC address is {mac}");
                self.about_vm(EventLevel::Info, "mac_learned", port, text);
            }
            Event::AddressClaimed { network, address } => {
                let text = format!("{address} is ours on the LAN and was announced");
                self.about_network(EventLevel::Info, "address_claimed", network, text);
            }
            Event::AddressConflict { network, address, mac } => {
                let text = format!(
                    "{address} is refused: {mac} has it on the LAN; give the VM another address, \
                     or take it from that machine; then `ipvisor reload`"
                );
                self.about_network(EventLevel::Error, "address_conflict", network, text);
                self.refuse(network, address)?;
            }
            Event::HostPathLost { network } => {
                let name = self.ids.network_name(network).map(str::to_owned);
                if let Some(mut side) = name.and_then(|n| self.networks.remove(&n)) {
                    side.lose_host(&self.around());
                    self.networks.insert(side.name.clone(), side);
                }
            }
            Event::AddressDefended { network, address, mac } => {
                let text = format!("{mac} on the LAN uses {address}, which is ours: defended");
                self.about_network(EventLevel::Warning, "address_defended", network, text);
            }
        }
        Ok(())
    }

    /// Somebody on the LAN has the address: it leaves routes and guard as it has left the list.
    fn refuse(
        &mut self,
        network: datapath::names::NetworkId,
        address: std::net::IpAddr,
    ) -> Result<(), Gone> {
        let name = self.ids.network_name(network).map(str::to_owned);
        if let Some(side) = name.as_ref().and_then(|n| self.networks.get_mut(n)) {
            side.refuse(address);
        }
        let refused = self.networks.iter().map(|(n, s)| (n.clone(), s.refused.clone())).collect();
        if let Err(error) = self.state_dir.note_refused(&refused) {
            let text = format!("cannot note that {address} is refused: {error}");
            self.about_network(EventLevel::Error, "not_noted", network, text);
        }
        self.host_changed()?;
        if let Some(side) = name.as_ref().and_then(|n| self.networks.get(n)) {
            side.withdraw(&self.around());
        }
        Ok(())
    }

    pub(super) fn on_door(&self, port: PortId, event: &PortEvent) {
        let (level, kind, text) = match event {
            PortEvent::Attached => {
                (EventLevel::Info, "attached", "a front end is attached".to_owned())
            }
            PortEvent::Detached { why } => {
                (EventLevel::Info, "detached", format!("its front end is gone: {why}"))
            }
            PortEvent::NewcomerRefused => {
                let text = "a second front end was turned away: this port has one".to_owned();
                (EventLevel::Warning, "newcomer_refused", text)
            }
            PortEvent::Negotiated { features } => {
                tracing::debug!(port = port.0, features = format!("{features:#x}"), "negotiated");
                return;
            }
            PortEvent::Started { .. } | PortEvent::Stopped { .. } => return,
            PortEvent::Refused { request, why } => {
                let text = format!("request {request} of its front end was refused: {why}");
                (EventLevel::Warning, "request_refused", text)
            }
            PortEvent::Adopted => {
                (EventLevel::Info, "adopted", "its front end was taken over".to_owned())
            }
            PortEvent::Renegotiate { why } => {
                let text = format!("its front end has to negotiate anew: {why}");
                (EventLevel::Warning, "renegotiate", text)
            }
            PortEvent::NotKept { key, source } => {
                let text = format!("{key} could not be given to the holder: {source}");
                (EventLevel::Error, "not_kept", text)
            }
            PortEvent::AcceptFailed { source } => {
                let text = format!("no front end can be accepted for now: {source}");
                (EventLevel::Warning, "accept_failed", text)
            }
            other => (EventLevel::Info, "door", format!("{other:?}")),
        };
        self.about_vm(level, kind, port, text);
    }

    pub(super) fn about_vm(&self, level: EventLevel, kind: &str, port: PortId, text: String) {
        let name = self.ids.vm(port).unwrap_or("?");
        self.events.push(level, kind, &format!("vm/{name}"), text);
    }

    pub(super) fn about_network(
        &self,
        level: EventLevel,
        kind: &str,
        network: datapath::names::NetworkId,
        text: String,
    ) {
        let name = self.ids.network_name(network).unwrap_or("?");
        self.events.push(level, kind, &format!("network/{name}"), text);
    }
}

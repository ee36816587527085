//! What a predecessor had and this configuration has not: shut, undone and forgotten.
//!
//! # Theory of operation
//! A successor may run another configuration than its predecessor. The records in the state memory
//! and the keys of what was kept say what there was; what is still in the configuration is taken
//! over by whoever has to do with it, the rest here, before anything is given its place:
//!
//! ```text
//! a port      its front end is hung up on, its door closed
//! a network   its card given back, its device for the host closed, what waits on it dropped
//! a card      that a network does not use any more: the same for the card alone
//! a VM        whose vessel does not live: its record goes, so that it would start as a new one
//! ```
//! Nothing here is fatal: what cannot be undone is told.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use datapath::counters::Counters;
use datapath::keeper::Keeper;
use datapath::names::{NetworkId, Owner, PortId};
use datapath::netlink::Netlink;
use datapath::state::StateMemory;
use datapath::state::lan::LanRecord;
use datapath::state::network_name::NetworkName;
use datapath::vhost;
use datapath::worker::{Gone, WorkerHandle};

use super::card::Card;
use super::host_facts::HostFacts;
use super::ids::Ids;
use crate::config::Config;
use crate::control::{EventLevel, EventLog};
use crate::entry::causes;
use crate::keeper::{HolderKeeper, Inheritance};

/// What belongs to a card, under keys of its network.
const CARD_KEYS: [&str; 5] = ["uplink", "vm4", "vm6", "host4", "host6"];

/// Whom to tell, and where things are.
pub(super) struct Departing<'a> {
    pub config: &'a Config,
    pub state: &'a StateMemory,
    pub keeper: &'a HolderKeeper,
    pub worker: &'a WorkerHandle,
    pub events: &'a EventLog,
    pub host: &'a HostFacts,
    /// Names this instance among all of the machine.
    pub label: &'a str,
}

impl Departing<'_> {
    /// Lets go of everything that is in the configuration no longer.
    pub fn depart(&self, inheritance: &mut Inheritance, netlink: &mut Netlink) -> Result<(), Gone> {
        let mut ports: BTreeMap<String, Option<PortId>> = BTreeMap::new();
        let named = |prefix: &str, inheritance: &Inheritance| -> BTreeSet<String> {
            let rest = inheritance.keys().filter_map(|key| key.strip_prefix(prefix));
            rest.filter_map(|rest| Some(rest.split_once('/')?.0.to_owned())).collect()
        };
        for name in named("port/", inheritance) {
            if !self.config.vms.contains_key(&name) {
                ports.insert(name, None);
            }
        }
        for (name, id) in Ids::ports_gone(self.config, self.state) {
            ports.insert(name, Some(id));
        }
        for (name, id) in ports {
            self.port(&name, id, inheritance)?;
        }
        let mut networks: BTreeMap<String, Option<NetworkId>> =
            named("network/", inheritance).into_iter().map(|name| (name, None)).collect();
        for (name, id) in Ids::networks_known(self.state) {
            networks.insert(name, Some(id));
        }
        for (name, id) in networks {
            match (self.config.networks.get(&name), id) {
                (None, id) => self.network(&name, id, inheritance, netlink)?,
                (Some(network), Some(id)) => {
                    let card = NetworkName::of(self.state, id).card();
                    if card.is_some() && card != network.uplink {
                        self.card(&name, id, inheritance, netlink);
                    }
                }
                (Some(_), None) => {}
            }
        }
        Ok(())
    }

    fn port(
        &self,
        name: &str,
        id: Option<PortId>,
        inheritance: &mut Inheritance,
    ) -> Result<(), Gone> {
        let prefix = format!("port/{name}/");
        let kept = inheritance.take_prefix(&prefix).into_iter();
        let mut kept = kept.map(|(key, fd)| (format!("{prefix}{key}"), fd)).collect();
        vhost::dismiss(self.state, id, name, &mut kept);
        self.forget_all(&prefix);
        if let Some(id) = id {
            self.worker.remove_port(id)?;
            Counters::of(self.state, Owner::Port(id)).reset();
        }
        self.tell(&format!("vm/{name}"), "its port is shut");
        Ok(())
    }

    fn network(
        &self,
        name: &str,
        id: Option<NetworkId>,
        inheritance: &mut Inheritance,
        netlink: &mut Netlink,
    ) -> Result<(), Gone> {
        if let Some(id) = id {
            self.card(name, id, inheritance, netlink);
            self.worker.remove_network(id)?;
            NetworkName::of(self.state, id).clear();
            for owner in [Owner::Uplink(id), Owner::Host(id)] {
                Counters::of(self.state, owner).reset();
            }
        }
        let prefix = format!("network/{name}/");
        // The device for the host goes with its last descriptor, and its routes with it.
        drop(inheritance.take_prefix(&prefix));
        self.forget_all(&prefix);
        self.tell(&format!("network/{name}"), "its card and its path to the host are given back");
        Ok(())
    }

    /// Gives a network's card back.
    fn card(
        &self,
        network: &str,
        id: NetworkId,
        inheritance: &mut Inheritance,
        netlink: &mut Netlink,
    ) {
        let mut take = |part: &str| -> Option<OwnedFd> {
            let key = format!("network/{network}/{part}");
            self.report(&key, self.keeper.forget(&key));
            inheritance.take(&key)
        };
        let [socket, ..] = CARD_KEYS.map(&mut take);
        let prefix = super::driver::prefix(network);
        self.forget_all(&prefix);
        drop(inheritance.take_prefix(&prefix));
        let Some(card) = NetworkName::of(self.state, id).card() else { return };
        let label = format!("{} {network}", self.label);
        let links = &self.host.links;
        if let Err(error) = Card::leave(&card, &label, socket, self.state, id, links, netlink) {
            let text = format!("the card {card} is not as it was: {}", causes(&error));
            let subject = format!("network/{network}");
            self.events.push(EventLevel::Warning, "card_close", &subject, text);
        }
        LanRecord::of(self.state, id).clear();
    }

    fn forget_all(&self, prefix: &str) {
        self.report(prefix, self.keeper.forget_all(prefix));
    }

    fn report(&self, key: &str, outcome: std::io::Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(key, %error, "the holder cannot be told to forget");
        }
    }

    fn tell(&self, subject: &str, what: &str) {
        let text = format!("it is not in the configuration any more: {what}");
        self.events.push(EventLevel::Info, "departed", subject, text);
    }
}

//! One network of the instance: its card, its path to the host, and what changes about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use datapath::fib::without;
use datapath::keeper::Keeper;
use datapath::names::{Mac, NetworkId, PortId};
use datapath::neighbor::{Lan, Settings};
use datapath::netlink::{Link, Netlink};
use datapath::state::StateMemory;
use datapath::state::lan::LanRecord;
use datapath::worker::{Gone, NetworkSetup, UplinkSetup, WorkerHandle};
use ipnet::IpNet;

use super::card::{Card, CardError, CardSetup};
use super::driver;
use super::host_facts::HostFacts;
use super::host_path::{HostPathError, HostSide};
use super::ids::Ids;
use super::last_inch::{self, Facts};
use crate::config::{Config, Gateway, Network};
use crate::control::{EventLevel, EventLog};
use crate::entry::causes;
use crate::keeper::{HolderKeeper, Inheritance};

/// MTU of a network without a card, unless configured.
const PRIVATE_MTU: u32 = 1500;
/// Shortest IPv4 prefix of a VM whose addresses are claimed on the LAN one by one.
const CLAIMED_PREFIX: u8 = 24;

/// What all networks are opened with.
pub struct Around<'a> {
    pub state: &'a StateMemory,
    pub keeper: &'a Arc<HolderKeeper>,
    pub worker: &'a WorkerHandle,
    pub events: &'a EventLog,
    /// Names this instance among all of the machine.
    pub label: &'a str,
}

/// One network.
pub struct NetworkSide {
    pub id: NetworkId,
    pub name: String,
    pub config: Network,
    pub facts: Facts,
    pub card: Option<Card>,
    pub link: Option<Link>,
    pub host: Option<HostSide>,
    pub no_host: Option<String>,
    /// Addresses that somebody on the LAN has.
    pub refused: Vec<IpAddr>,
    /// The VMs' addresses and prefixes.
    prefixes: BTreeMap<IpNet, PortId>,
    /// The host's own addresses that the guard knows.
    guarded: BTreeSet<IpAddr>,
    /// Bases died of its card: it has to do without.
    pub barred: bool,
}

impl NetworkSide {
    /// The network before anything of it is open. Its card must be there, but for a successor: the
    /// VMs go on without, and the card may come back.
    pub fn new(
        ids: &Ids,
        name: &str,
        config: &Config,
        refused: Vec<IpAddr>,
        host: &HostFacts,
        takeover: bool,
    ) -> Result<Self, CardError> {
        let network = config.networks.get(name).cloned();
        let Some(network) = network else {
            return Err(CardError::Missing {
                network: name.to_owned(),
                name: String::new(),
                known: String::new(),
            });
        };
        let link = match &network.uplink {
            None => None,
            Some(card) if takeover => host.link(card).cloned(),
            Some(card) => Some(find(name, card, host)?),
        };
        let prefixes = config
            .vms
            .iter()
            .filter(|(_, vm)| vm.network == name)
            .flat_map(|(vm, of)| of.addresses.iter().map(|a| (*a, ids.port(vm))))
            .collect();
        let mut side = Self {
            id: ids.network(name),
            name: name.to_owned(),
            config: network,
            facts: Facts::default(),
            card: None,
            link,
            host: None,
            no_host: None,
            refused,
            prefixes,
            guarded: BTreeSet::new(),
            barred: false,
        };
        side.facts = side.facts_of(host);
        Ok(side)
    }

    /// What is to be known now, with the host as it is.
    fn facts_of(&self, host: &HostFacts) -> Facts {
        let card_mtu = self.link.as_ref().map(|l| l.mtu);
        let mtu = self.config.mtu.map(u32::from).or(card_mtu).unwrap_or(PRIVATE_MTU);
        let index = self.link.as_ref().map(|l| l.index);
        let (gateway4, gateway6) = match self.config.gateway {
            Gateway::Fixed { v4, v6 } => (v4, v6),
            Gateway::Auto => {
                (index.and_then(|i| host.gateway4(i)), index.and_then(|i| host.gateway6(i)))
            }
        };
        Facts {
            gateway4,
            gateway6,
            host4: index.and_then(|i| host.first4(i)),
            host6: index.and_then(|i| host.first6(i)),
            link_local: index.and_then(|i| host.link_local(i)),
            mtu,
        }
    }

    /// Makes the network known to the worker; ports can be added then.
    pub fn announce(&self, worker: &WorkerHandle) -> Result<(), Gone> {
        worker.add_network(NetworkSetup {
            id: self.id,
            mtu: self.facts.mtu,
            on_link: last_inch::on_link(&self.config),
            outward: last_inch::outward(&self.config, &self.facts),
        })
    }

    /// Opens the card, or takes it over, and claims the VMs' addresses on the LAN.
    pub fn open_card(
        &mut self,
        around: &Around<'_>,
        inheritance: &mut Inheritance,
        host: &HostFacts,
        netlink: &mut Netlink,
    ) -> Result<(), CardOpen> {
        let Some(link) = self.link.clone().filter(|_| !self.barred) else { return Ok(()) };
        let own: Vec<IpAddr> = self.guarded_addresses(host).into_iter().collect();
        let vms: Vec<IpNet> = self.listed().map(|(prefix, _)| prefix).collect();
        let label = format!("{} {}", around.label, self.name);
        let setup = CardSetup {
            network: &self.name,
            id: self.id,
            link: &link,
            coalesce: self.config.coalesce,
            frames: self.config.receive_ring,
            label: &label,
            host: &own,
            vms: &vms,
        };
        let facts = Card::facts(&link).ok_or_else(|| CardError::NotEthernet {
            network: self.name.clone(),
            name: link.name.clone(),
        })?;
        let keeper: &dyn Keeper = &**around.keeper;
        let (card, socket, xdp) = Card::open(&setup, inheritance, around.state, keeper, netlink)?;
        let lan = Lan::new(self.lan_settings(facts.mac));
        self.card = Some(card);
        self.guarded = own.into_iter().collect();
        around
            .worker
            .set_uplink(self.id, Some(UplinkSetup { card: socket, facts, lan }))?
            .map_err(CardOpen::Watch)?;
        if let Some(xdp) = xdp {
            let given = around.worker.set_xdp(self.id, xdp)?;
            if let Err(why) = given {
                let _ = keeper.forget_all(&driver::prefix(&self.name));
                return Err(CardOpen::Watch(why));
            }
        }
        if self.card.as_ref().is_some_and(|card| card.settled) {
            self.choose_driver(around)?;
        }
        // What a predecessor found to be ours stays so; everything else is probed for. What is in
        // the list no longer is let go of, and its group left.
        let record = LanRecord::of(around.state, self.id);
        let known: BTreeSet<IpAddr> = record.held().into_iter().collect();
        let claims: BTreeMap<IpAddr, PortId> = self.claims().collect();
        let gone: Vec<_> = known.iter().copied().filter(|a| !claims.contains_key(a)).collect();
        gone.iter().for_each(|address| record.set_held(*address, false));
        let (held, wanted): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|(address, _)| known.contains(address));
        around.worker.with_lan(self.id, move |lan, now, out| {
            lan.restore_claimed(held, out);
            for address in gone {
                lan.restore_claimed([(address, PortId(0))], out);
                lan.release(now, address, out);
            }
            for (address, port) in wanted {
                lan.claim(now, address, port, out);
            }
        })?;
        Ok(())
    }

    /// The card that a predecessor left attached is brought to how it would be attached now.
    fn settle_card(
        &mut self,
        around: &Around<'_>,
        host: &HostFacts,
        netlink: &mut Netlink,
    ) -> Result<(), Gone> {
        let own: Vec<IpAddr> = self.guarded_addresses(host).into_iter().collect();
        let vms: Vec<IpNet> = self.listed().map(|(prefix, _)| prefix).collect();
        let unsettled = self.card.as_mut().filter(|card| !card.settled);
        let Some(card) = unsettled else { return Ok(()) };
        if let Err(error) = card.settle(self.id, &own, &vms, around, netlink) {
            let subject = format!("network/{}", self.name);
            around.events.push(EventLevel::Error, "card_unsettled", &subject, causes(&error));
        }
        self.guarded = own.into_iter().collect();
        self.choose_driver(around)
    }

    /// Opens the card if this base has none yet: it was not there, or could not be taken over.
    fn look_for_card(
        &mut self,
        around: &Around<'_>,
        host: &HostFacts,
        netlink: &mut Netlink,
    ) -> Result<(), Gone> {
        let wanted = self.card.is_none() && !self.barred;
        let configured = self.config.uplink.as_ref().filter(|_| wanted);
        let Some(link) = configured.and_then(|name| host.link(name)) else { return Ok(()) };
        self.link = Some(link.clone());
        match self.open_card(around, &mut Inheritance::default(), host, netlink) {
            Ok(()) => Ok(()),
            Err(CardOpen::Gone(gone)) => Err(gone),
            Err(error) => {
                self.without_card(around, &error);
                Ok(())
            }
        }
    }

    /// Tells that the network has to do without its card for now.
    pub fn without_card(&self, around: &Around<'_>, why: &CardOpen) {
        let subject = format!("network/{}", self.name);
        around.events.push(EventLevel::Error, "card_lost", &subject, causes(why));
    }

    /// Opens the path to the host, or takes it over. That there is none is told, not fatal.
    pub fn open_host(
        &mut self,
        around: &Around<'_>,
        inheritance: &mut Inheritance,
        host: &HostFacts,
        netlink: &mut Netlink,
        taken: &BTreeSet<IpNet>,
    ) -> Result<(), Gone> {
        if let Some(twice) = self.prefixes.keys().find(|p| taken.contains(p)) {
            self.without_host(around, format!("another network has {twice} too"));
            return Ok(());
        }
        let kept = inheritance.take(&format!("network/{}/host", self.name));
        let keeper: &dyn Keeper = &**around.keeper;
        let opened = HostSide::open(
            self.id,
            &self.name,
            self.facts.mtu,
            kept,
            around.state,
            keeper,
            around.worker,
            netlink,
            &host.links,
        );
        match opened {
            Ok(side) => self.host = Some(side),
            Err(HostPathError::Gone(gone)) => return Err(gone),
            Err(error) => self.without_host(around, causes(&error)),
        }
        Ok(())
    }

    /// Somebody removed the device of the path to the host.
    pub fn lose_host(&mut self, around: &Around<'_>) {
        if let Some(side) = self.host.take() {
            // A successor finds out by itself what the holder still has.
            let _ = around.keeper.forget(&format!("network/{}/host", self.name));
            self.without_host(around, format!("somebody removed the device {}", side.device));
        }
    }

    fn without_host(&mut self, around: &Around<'_>, why: String) {
        let subject = format!("network/{}", self.name);
        let text = format!("the host and the VMs of this network cannot reach each other: {why}");
        around.events.push(EventLevel::Warning, "no_host_path", &subject, text);
        self.no_host = Some(why);
    }

    /// The VMs' prefixes as configured, whatever was refused of them.
    pub fn configured(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.prefixes.keys().copied()
    }

    /// What is in the list, with whose it is: the VMs' prefixes without the addresses refused.
    pub fn listed(&self) -> impl Iterator<Item = (IpNet, PortId)> + '_ {
        self.prefixes
            .iter()
            .flat_map(|(prefix, port)| self.left_of(*prefix).into_iter().map(|p| (p, *port)))
    }

    /// What of a VM's prefix is in the list: all but the addresses refused.
    pub fn left_of(&self, prefix: IpNet) -> Vec<IpNet> {
        let mut left = vec![prefix];
        for address in &self.refused {
            left = left.into_iter().flat_map(|p| without(p, *address)).collect();
        }
        left
    }

    /// Brings everything that depends on the host to how the host is now.
    pub fn refresh(
        &mut self,
        around: &Around<'_>,
        host: &HostFacts,
        netlink: &mut Netlink,
    ) -> Result<(), Gone> {
        self.look_for_card(around, host, netlink)?;
        self.settle_card(around, host, netlink)?;
        self.follow_link(around, host, netlink)?;
        let facts = self.facts_of(host);
        let own = self.own_addresses(host);
        if facts != self.facts {
            self.facts = facts;
            self.tell_lan(around)?;
            let outward = last_inch::outward(&self.config, &self.facts);
            around.worker.update_network(self.id, self.facts.mtu, outward)?;
            if let Some(side) = &self.host {
                side.set_mtu(self.facts.mtu, netlink);
            }
        }
        self.guard(around, self.guarded_addresses(host));
        let listed = self.listed().map(|(prefix, _)| prefix).collect();
        if let Some(side) = &mut self.host {
            side.list(&own, around.worker)?;
            for error in side.route(&listed, &self.facts, netlink) {
                let text = format!("host path: {}", causes(&error));
                let subject = format!("network/{}", self.name);
                around.events.push(EventLevel::Warning, "route_refused", &subject, text);
            }
        }
        Ok(())
    }

    /// Puts the host's own addresses into the list: what must be there before anything is carried.
    pub fn list_host(&mut self, around: &Around<'_>, host: &HostFacts) -> Result<(), Gone> {
        let own = self.own_addresses(host);
        match &mut self.host {
            Some(side) => side.list(&own, around.worker),
            None => Ok(()),
        }
    }

    /// The host's own addresses, but for those that are VMs' here.
    fn own_addresses(&self, host: &HostFacts) -> BTreeSet<IpAddr> {
        host.addresses()
            .into_iter()
            .filter(|a| !self.prefixes.contains_key(&IpNet::from(*a)))
            .collect()
    }

    /// The same and the host's link-local address on the card: what the base must not get.
    fn guarded_addresses(&self, host: &HostFacts) -> BTreeSet<IpAddr> {
        let mut addresses = self.own_addresses(host);
        addresses.extend(self.facts.link_local.map(IpAddr::V6));
        addresses
    }

    fn guard(&mut self, around: &Around<'_>, own: BTreeSet<IpAddr>) {
        let Some(card) = &self.card else { return };
        let gone = self.guarded.difference(&own).map(|a| (*a, false));
        let come = own.difference(&self.guarded).map(|a| (*a, true));
        for (address, has) in gone.chain(come).collect::<Vec<_>>() {
            if let Err(error) = card.host_address(address, has) {
                let subject = format!("network/{}", self.name);
                let text = causes(&error);
                around.events.push(EventLevel::Warning, "guard", &subject, text);
            }
        }
        self.guarded = own;
    }

    /// Follows the card: its link, MAC, MTU, and its coming back under another index.
    fn follow_link(
        &mut self,
        around: &Around<'_>,
        host: &HostFacts,
        netlink: &mut Netlink,
    ) -> Result<(), Gone> {
        let (Some(card), Some(before)) = (&mut self.card, &self.link) else { return Ok(()) };
        let subject = format!("network/{}", self.name);
        let Some(link) = host.link(&card.name) else {
            let mut gone = before.clone();
            if gone.up {
                let text = format!("the card {} is gone", card.name);
                around.events.push(EventLevel::Warning, "card_gone", &subject, text);
            }
            gone.up = false;
            if let Some(facts) = Card::facts(&gone) {
                around.worker.set_facts(self.id, facts)?;
            }
            self.link = Some(gone);
            return Ok(());
        };
        if link == before {
            return Ok(());
        }
        let moved = link.index != card.index || !before.up && link.up;
        if moved {
            let moved = card.moved(link, around.state, self.id, netlink);
            let rebound = around.worker.rebind(self.id, link.index)?;
            match moved.and(rebound) {
                Ok(()) => {
                    let text = format!("the card {} is back", card.name);
                    around.events.push(EventLevel::Info, "card_back", &subject, text);
                }
                Err(error) => {
                    let text = causes(&error);
                    around.events.push(EventLevel::Error, "card_lost", &subject, text);
                    // Not as the card is, so that the next change finds a difference and tries
                    // again.
                    let lost = Link { up: false, ..link.clone() };
                    if let Some(facts) = Card::facts(&lost) {
                        around.worker.set_facts(self.id, facts)?;
                    }
                    self.link = Some(lost);
                    return Ok(());
                }
            }
        }
        let mac_changed = link.mac != before.mac;
        let driver_may_change = mac_changed || link.mtu != before.mtu || moved;
        if let Some(facts) = Card::facts(link) {
            around.worker.set_facts(self.id, facts)?;
        }
        self.link = Some(link.clone());
        if driver_may_change {
            self.choose_driver(around)?;
        }
        if mac_changed { self.tell_lan(around) } else { Ok(()) }
    }

    fn tell_lan(&self, around: &Around<'_>) -> Result<(), Gone> {
        let Some(mac) = self.link.as_ref().and_then(|l| l.mac) else { return Ok(()) };
        let settings = self.lan_settings(mac);
        around.worker.with_lan(self.id, move |lan, now, _| lan.reconfigure(now, settings))
    }

    fn lan_settings(&self, mac: Mac) -> Settings {
        Settings {
            mac,
            prefixes: self.config.prefixes.clone(),
            on_link: self.config.on_link,
            gateway4: self.facts.gateway4,
            gateway6: self.facts.gateway6,
            host4: self.facts.host4,
            host6: self.facts.host6,
            link_local: self.facts.link_local,
        }
    }

    /// The addresses to be claimed on the LAN: every single one, and each of a small IPv4 prefix.
    /// Larger prefixes are routed to this host by whoever gave them.
    fn claims(&self) -> impl Iterator<Item = (IpAddr, PortId)> + '_ {
        let all = self.prefixes.iter().flat_map(|(prefix, port)| {
            let addresses: Vec<IpAddr> = match prefix {
                IpNet::V4(p) if p.prefix_len() >= CLAIMED_PREFIX => {
                    let (first, last) = (u32::from(p.network()), u32::from(p.broadcast()));
                    (first..=last).map(|a| IpAddr::V4(a.into())).collect()
                }
                IpNet::V6(p) if p.prefix_len() == 128 => vec![IpAddr::V6(p.addr())],
                _ => Vec::new(),
            };
            addresses.into_iter().map(|address| (address, *port))
        });
        all.filter(|(address, _)| !self.refused.contains(address))
    }

    /// Somebody on the LAN has `address`: it is not in the list any more, and has no route when the
    /// network is refreshed.
    pub fn refuse(&mut self, address: IpAddr) {
        if !self.refused.contains(&address) {
            self.refused.push(address);
            self.refused.sort_unstable();
        }
    }

    /// The host's stack gets datagrams to an address that was refused again: last, when nothing
    /// leads here any more.
    pub fn withdraw(&self, around: &Around<'_>) {
        let listed: Vec<_> = self.listed().map(|(prefix, _)| prefix).collect();
        if let Some(card) = &self.card
            && let Err(error) = card.guard_vms(&listed)
        {
            let subject = format!("network/{}", self.name);
            around.events.push(EventLevel::Warning, "guard", &subject, causes(&error));
        }
    }

    /// Undoes everything: filters, settings, device and routes.
    pub fn close(self, around: &Around<'_>, netlink: &mut Netlink) {
        // The program goes now, not when the last of its descriptors does.
        let _ = around.worker.end_xdp(self.id);
        let _ = around.worker.set_uplink(self.id, None);
        if let Some(side) = self.host {
            side.close(around.worker);
        }
        if let Some(card) = self.card
            && let Err(error) = card.close(around.state, self.id, netlink)
        {
            let subject = format!("network/{}", self.name);
            let text = causes(&error);
            around.events.push(EventLevel::Warning, "card_close", &subject, text);
        }
    }
}

/// Why a network's card could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum CardOpen {
    /// The card itself.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The worker cannot watch its socket.
    #[error("cannot watch the card's socket")]
    Watch(#[source] std::io::Error),
    /// The datapath has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
}

fn find(network: &str, card: &str, host: &HostFacts) -> Result<Link, CardError> {
    let link = host.link(card).ok_or_else(|| CardError::Missing {
        network: network.to_owned(),
        name: card.to_owned(),
        known: host.links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    Ok(link.clone())
}

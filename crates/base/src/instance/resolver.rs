//! The resolver's process: started, told what it answers, looked after, started again.
//!
//! # Theory of operation
//! Once a second, with the base's own beat:
//! ```text
//! none runs, and one is wanted ---> start it, unless it is too soon after the last
//! it has ended, or says nothing --> tell it (event `resolver`), begin again after 1 s, 2 s, 4 s ... 32 s
//! names or servers are others ----> tell it the settings
//! it runs ------------------------> a beat; "alive" is to come back
//! ```
//! Nothing here waits for it: what its socket does not take at once ends it. It is this base's own child
//! and ends with it; a successor starts another. Between two of them the workers drop questions by name.
//!
//! Settings come from the configuration, from what the networks have found out (addresses refused, MTU),
//! and from the host's /etc/resolv.conf, which is read again when it has become another.

mod host_servers;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};

use datapath::answer::{BASE4, BASE6, DNS_PORT};
use datapath::worker::{Gone, WorkerHandle};
use ipnet::IpNet;

use self::host_servers::HostServers;
use super::Instance;
use super::network::NetworkSide;
use crate::config::{Vm, is_single};
use crate::control::EventLevel;
use crate::entry::{Failure, causes};
use crate::holder::channel;
use crate::holder::process::Program;
use crate::resolver::{self, Network, Settings, Told, Word};

/// Beats without a word after which it is taken for dead.
const SILENT: u32 = 5;
/// Beats after which it counts as good: the next one that ends is started at once.
const GOOD: u32 = 60;
/// Beats from one start to the next, at most.
const LONGEST_WAIT: u32 = 32;

/// The resolver, as the base sees it.
#[derive(Debug, Default)]
pub(super) struct ResolverSide {
    running: Option<Running>,
    /// Those that were ended, until the kernel has done with them: nobody waits for that.
    ended: Vec<Child>,
    host: HostServers,
    /// Of what the settings were made.
    made_of: Vec<(usize, u32, Option<u32>)>,
    settings: Settings,
    /// Beats until it is started again.
    wait: u32,
    /// Times that it has ended one soon after the other.
    failures: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    control: OwnedFd,
    beats: u32,
    silent: u32,
}

impl Running {
    fn start(worker: &WorkerHandle, workers: usize, settings: &Settings) -> Result<Self, Failure> {
        let (ours, theirs) = datapath::resolver::sockets(workers)?;
        let (control, end) = channel::pair()?;
        let base = std::process::id().to_string();
        let program = Program::this(["__resolver", "--base", base.as_str()]);
        let mut command = program.command();
        command.stdin(Stdio::from(end)).stdout(Stdio::null()).process_group(0);
        let links: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        // They lie in its socket until it is there to read them.
        resolver::tell(control.as_fd(), Word::Sockets, &links)?;
        let settings = settings.to_memfd()?;
        resolver::tell(control.as_fd(), Word::Settings, &[settings.as_fd()])?;
        worker.set_resolver(ours)??;
        Ok(Self { child: command.spawn()?, control, beats: 0, silent: 0 })
    }

    fn set(&self, settings: &Settings) -> std::io::Result<()> {
        let memfd = settings.to_memfd()?;
        resolver::tell(self.control.as_fd(), Word::Settings, &[memfd.as_fd()])
    }

    /// Why it is to be started again, if it is.
    fn beat(&mut self) -> Option<String> {
        self.beats = self.beats.saturating_add(1);
        self.silent = self.silent.saturating_add(1);
        match self.child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Some(format!("it has ended ({status})")),
            Err(error) => return Some(format!("it cannot be looked after: {error}")),
        }
        // One a second is what it is to say; it is not waited for until it has no more to say.
        for _ in 0..16 {
            match Told::next(self.control.as_fd(), false) {
                Ok(Some(Told { word: Word::Alive, .. })) => self.silent = 0,
                _ => break,
            }
        }
        if self.silent > SILENT {
            return Some(format!("it has been silent for {SILENT} s"));
        }
        let told = resolver::tell(self.control.as_fd(), Word::Beat, &[]);
        told.err().map(|error| format!("it does not listen: {error}"))
    }
}

impl Instance {
    /// Looks after the resolver: once a second.
    pub(super) fn tend_resolver(&mut self) -> Result<(), Gone> {
        let index = |side: &NetworkSide| side.link.as_ref().map(|link| link.index);
        let made_of = self.networks.values();
        let made_of =
            made_of.map(|side| (side.refused.len(), side.facts.mtu, index(side))).collect();
        let index_of = |name: &str| self.host.link(name).map(|link| link.index);
        let others = self.resolver.host.look(index_of);
        let mut news = false;
        if others || made_of != self.resolver.made_of {
            self.resolver.made_of = made_of;
            let settings = self.resolver_settings();
            news = settings != self.resolver.settings;
            self.resolver.settings = settings;
        }
        let side = &mut self.resolver;
        side.ended.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if side.settings.networks.is_empty() {
            return Ok(());
        }
        let mut why = None;
        if let Some(running) = &mut side.running {
            why = running.beat();
            if why.is_none() && news {
                why = running.set(&side.settings).err().map(|e| format!("it does not listen: {e}"));
            }
            if running.beats >= GOOD {
                side.failures = 0;
            }
        } else if side.wait > 0 {
            side.wait = side.wait.saturating_sub(1);
        } else {
            let workers = self.config.workers.0.len();
            match Running::start(&self.worker, workers, &side.settings) {
                Ok(running) => side.running = Some(running),
                Err(failure) => why = Some(format!("it cannot be started: {}", failure.message)),
            }
        }
        let Some(why) = why else { return Ok(()) };
        if let Some(Running { mut child, .. }) = side.running.take() {
            // It may have ended already.
            let _ = child.kill();
            side.ended.push(child);
        }
        let wait = 1u32.checked_shl(side.failures).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        side.wait = wait.saturating_sub(1);
        side.failures = side.failures.saturating_add(1);
        let text = format!(
            "the resolver answers no DNS: {why}; another is started within {} s",
            side.wait.saturating_add(1)
        );
        self.events.push(EventLevel::Warning, "resolver", "base", text);
        if let Err(error) = self.worker.set_resolver(Vec::new())? {
            tracing::warn!(error = causes(&error), "cannot let go of the resolver's sockets");
        }
        Ok(())
    }

    /// What it is to answer.
    fn resolver_settings(&self) -> Settings {
        let served = self.networks.values().filter(|side| side.config.resolver);
        let networks = served.map(|side| self.resolver_network(side)).collect::<Vec<_>>();
        let networks = networks.into_iter().filter(|network| !network.ports.is_empty());
        Settings { networks: networks.collect() }
    }

    fn resolver_network(&self, side: &NetworkSide) -> Network {
        let vms = || self.config.vms.iter().filter(|(_, vm)| vm.network == side.name);
        let own = vms().filter_map(|(_, vm)| vm.mtu.map(u32::from)).min();
        let mtu = own.map_or(side.facts.mtu, |own| own.min(side.facts.mtu));
        let is_public = side.config.uplink.is_some();
        let configured = !side.config.dns.is_empty();
        let index = side.link.as_ref().map(|link| link.index);
        let servers = match (configured, is_public) {
            (true, _) => servers(&side.config.dns, index),
            (false, true) => self.resolver.host.servers().to_vec(),
            (false, false) => Vec::new(),
        };
        Network {
            name: side.name.clone(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            forwards: configured || is_public,
            servers,
            ports: vms().map(|(name, _)| self.ids.port(name).0).collect(),
            names: vms().map(|(name, vm)| (name.clone(), addresses(vm, &side.refused))).collect(),
        }
    }
}

/// A VM's single addresses, without those that somebody else has.
fn addresses(vm: &Vm, refused: &[IpAddr]) -> Vec<IpAddr> {
    let single = vm.addresses.iter().filter(|net| is_single(net));
    single.map(IpNet::addr).filter(|address| !refused.contains(address)).collect()
}

/// Where name servers are reached that are not the base itself; a link-local one on the network's card.
fn servers(addresses: &[IpAddr], card: Option<u32>) -> Vec<SocketAddr> {
    let server = |address: &IpAddr| match *address {
        IpAddr::V4(BASE4) => None,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            card.map(|index| SocketAddrV6::new(v6, DNS_PORT, 0, index).into())
        }
        other => Some(SocketAddr::new(other, DNS_PORT)),
    };
    addresses.iter().filter_map(server).collect()
}

/// Whether asking there is asking ourselves.
fn is_base(address: IpAddr) -> bool {
    address == IpAddr::V4(BASE4) || address == IpAddr::V6(BASE6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_server_is_reached_by_the_card_and_the_base_never_asks_itself() {
        let list = ["203.0.113.53", "169.254.0.1", "fe80::1", "2001:db8::53"];
        let list = list.map(|a| a.parse().unwrap());
        let text =
            |servers: Vec<SocketAddr>| servers.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let expected = ["203.0.113.53:53", "[fe80::1%7]:53", "[2001:db8::53]:53"];
        assert_eq!(text(servers(&list, Some(7))), expected);
        assert_eq!(text(servers(&list, None)), [expected[0], expected[2]]);
    }
}

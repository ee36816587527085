//! The instance: all networks and VMs of one configuration, run by one base.
//!
//! # Theory of operation
//! ```text
//! configuration -> ledger -> state memory -> worker -> networks -> ports -> host paths -> VMs
//! ```
//! A successor goes the same way, and takes at each step what its predecessor left: descriptors
//! from the holder, the rest from the state memory. What has time until datagrams are carried again
//! is done after that: routes, filters, settings of cards work on as they were. Then one loop waits
//! for whatever comes: calls from the control socket, events of worker and doors, changes of cards
//! and addresses, VMs that end, the holder's word to stop or to yield.
//!
//! # Threads
//! This is the base's main thread. It may wait for the worker and for the doors' dispatcher; they
//! never wait for it: what they have to say ([`Said`]) goes through a queue without a bound that
//! they fill only for events, never for datagrams.

mod calls;
mod card;
mod changes;
mod depart;
mod driver;
mod events;
pub(crate) mod host_facts;
mod host_path;
mod ids;
mod last_inch;
mod memory;
mod network;
mod order;
mod poison;
mod resolver;
mod switch;
mod usage;
mod vms;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::process::Child;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use datapath::event::Event;
use datapath::faults::{self, Point};
use datapath::keeper::Keeper;
use datapath::names::{PortId, RingId};
use datapath::netlink::{Monitor, Netlink};
use datapath::state::marks::Marks;
use datapath::state::network_name::NetworkName;
use datapath::state::port::PortRecord;
use datapath::state::{LAYOUTS, StateMemory};
use datapath::uplink::PacketUplink;
use datapath::vhost::{Dispatcher, DispatcherHandle, DoorError, Kept, PortDoor, PortEvent, Socket};
use datapath::worker::{self, Gone, PortSetup, WorkerHandle};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::config::{self, Config, Engine};
use crate::control::{self, Call, EventLevel, EventLog, TakeoverStatus};
use crate::entry::{Failure, ReleaseArguments, Start, causes};
use crate::keeper::{Death, Hello, HolderEvent, HolderKeeper, HolderLink, Inheritance};
use crate::readable::Readable;
use crate::state_dir::StateDir;
use crate::vm::{self, StartOrder, Vms};
pub use changes::beginning;
use depart::Departing;
use host_facts::HostFacts;
use ids::Ids;
use network::{Around, CardOpen, NetworkSide};
use vms::Machine;

/// How often the holder hears that the main loop is alive.
const BEAT: Duration = Duration::from_secs(1);

/// How long the doors' dispatcher may take to come round.
const SLOW_DOORS: Duration = Duration::from_millis(500);

/// Beats after which nobody goes back to an earlier configuration: several times as many as a
/// release has to serve for until it counts as good.
const SETTLED: u32 = 60;

/// What other threads of the base have to say.
enum Said {
    Worker(Event),
    Door(PortId, PortEvent),
    Vm(vm::Event),
}

/// All that runs.
pub struct Instance {
    config: Config,
    release: ReleaseArguments,
    state_dir: StateDir,
    hello: Hello,
    keeper: Arc<HolderKeeper>,
    state: StateMemory,
    worker: WorkerHandle,
    /// The worker's thread.
    carrier: JoinHandle<()>,
    doors: DispatcherHandle,
    ids: Ids,
    networks: BTreeMap<String, NetworkSide>,
    vms: Vms,
    /// The VMs that `up` has still to start.
    order: StartOrder,
    /// All VMs are being stopped: none is started any more.
    ending: bool,
    resolver: resolver::ResolverSide,
    netlink: Netlink,
    host: HostFacts,
    label: String,
    events: EventLog,
    /// Seconds since 1970 when `up` was typed.
    started: u64,
    /// The host has changed since it was read, and could not be read then.
    host_unread: bool,
    /// How it came to this base.
    takeover: TakeoverStatus,
    beats: u32,
    /// What serves the control socket.
    server: AbortHandle,
    /// The upgrade or reload that is under way.
    asked: Option<switch::Asked>,
    /// There is no holder.
    holderless: bool,
    /// A holder that this base has started, and the way to it until it has the lock.
    heir: Option<Child>,
    heir_socket: Option<OwnedFd>,
}

/// Why the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All VMs have stopped: everything is undone.
    Stopped,
    /// Another base is about to take over.
    Yield,
    /// Another instance has the lock: VMs and card are left to it.
    Leave,
}

/// Runs an instance until it is told to stop.
pub async fn run(mut start: Start) -> Result<(), Failure> {
    let text = start.config_text()?;
    let config = accept(&start, &text)?;
    let (said, inbox) = mpsc::unbounded_channel();
    let monitor = Monitor::open()?;
    let mut netlink = Netlink::open()?;
    let host = HostFacts::read_patiently(&mut netlink)?;
    let machine = Machine::look()?;
    virtqueue::sigbus::install()?;
    look_ahead(&start.preview);
    start.take_over(LAYOUTS)?;
    let mut instance = Instance::open(&mut start, config, (netlink, host, machine), said)?;
    let listener = match instance.prepare(&mut start) {
        Ok(listener) => listener,
        Err(failure) => {
            if !start.is_takeover() {
                // Nobody is started after a base that never served: what it has changed on the
                // machine is undone now or never.
                instance.close();
            }
            return Err(failure);
        }
    };
    // What nobody took over must not live on here.
    start.preview = Inheritance::default();
    PacketUplink::forget_ahead();
    let (calls, called) = mpsc::channel(64);
    let server = tokio::spawn(control::serve(listener, calls, instance.events.clone()));
    instance.server = server.abort_handle();
    instance.tell_takeover();
    instance.begin_order();
    let result = instance.serve(start.link, called, inbox, monitor).await;
    match result {
        Ok(End::Stopped) => {
            server.abort();
            instance.close();
            Ok(())
        }
        Ok(End::Yield) => instance.rest().await,
        Ok(End::Leave) => Ok(()),
        // A base that fails leaves everything as it is: its successor takes it over.
        Err(failure) => Err(failure),
    }
}

/// Does what takes time about the cards of a base that still serves, and changes nothing.
fn look_ahead(preview: &Inheritance) {
    let Some(Ok(view)) = preview.get("state").map(StateMemory::view) else { return };
    for (name, id) in Ids::networks_known(&view) {
        if let Some(socket) = preview.get(&format!("network/{name}/uplink")) {
            PacketUplink::map_ahead(socket, &view, id);
        }
    }
}

/// The configuration, if it can be run. A successor runs what its predecessor ran: files that were
/// there then may have gone, and what was given out stays given.
fn accept(start: &Start, text: &str) -> Result<Config, Failure> {
    let wrong = |errors: config::ConfigErrors| Failure::configuration(errors.to_string());
    let release = &start.release;
    if start.is_takeover() {
        return config::check_accepted(text, &release.config).map_err(wrong);
    }
    let (copy, config) = config::check(text, &release.config).map_err(wrong)?;
    start.state_dir.accept_config(&release.accepted, &copy)?;
    Ok(config)
}

impl Instance {
    fn open(
        start: &mut Start,
        config: Config,
        (mut netlink, host, machine): (Netlink, HostFacts, Machine),
        said: mpsc::UnboundedSender<Said>,
    ) -> Result<Self, Failure> {
        let takeover = start.is_takeover();
        let keeper: Arc<dyn Keeper> = start.keeper.clone();
        let state = memory::open(start, &*keeper)?;
        let verdicts =
            if takeover { poison::judge(&state, start.hello.predecessor) } else { Vec::new() };
        let (from_worker, from_vms) = (said.clone(), said.clone());
        let own_making = start.hello.predecessor.is_some_and(Death::own_making);
        let (worker, carrier) = worker::spawn_several(
            state.clone(),
            &workers::of(&config, takeover && own_making),
            Box::new(move |event| {
                // Nobody listens any more only when the base is ending.
                let _ = from_worker.send(Said::Worker(event));
            }),
        )?;
        let doors = Dispatcher::spawn(
            state.clone(),
            keeper,
            Box::new(worker.clone()),
            Box::new(move |port, event| {
                let _ = said.send(Said::Door(port, event));
            }),
        )?;
        let (events, label) = (EventLog::new(), start.state_dir.path().display().to_string());
        if takeover {
            let departing = Departing {
                config: &config,
                state: &state,
                keeper: &start.keeper,
                worker: &worker,
                events: &events,
                host: &host,
                label: &label,
            };
            departing.depart(&mut start.inheritance, &mut netlink)?;
        }
        let ids = Ids::assign(&config, &state);
        let mut networks = BTreeMap::new();
        let mut refused = start.state_dir.refused();
        for name in config.networks.keys() {
            let refused = refused.remove(name).unwrap_or_default();
            let side = NetworkSide::new(&ids, name, &config, refused, &host, takeover)?;
            NetworkName::of(&state, side.id).set(name, side.config.uplink.as_deref());
            side.announce(&worker)?;
            networks.insert(name.clone(), side);
        }
        let vms = vms::none_yet(&config, &start.state_dir, &start.keeper, &machine, from_vms);
        let instance = Self {
            config,
            release: start.release.clone(),
            state_dir: start.state_dir.clone(),
            hello: start.hello,
            keeper: start.keeper.clone(),
            state,
            worker,
            carrier,
            doors,
            ids,
            networks,
            vms,
            order: StartOrder::default(),
            ending: false,
            resolver: Default::default(),
            netlink,
            host,
            label,
            events,
            started: now_seconds().saturating_sub(start.hello.seconds),
            host_unread: false,
            takeover: TakeoverStatus::default(),
            beats: 0,
            // Nothing yet.
            server: tokio::spawn(async {}).abort_handle(),
            asked: None,
            holderless: false,
            heir: None,
            heir_socket: None,
        };
        instance.tell_verdicts(&verdicts);
        Ok(instance)
    }

    /// Opens everything, and says so.
    fn prepare(&mut self, start: &mut Start) -> Result<UnixListener, Failure> {
        let opened = self.open_networks(&mut start.inheritance);
        self.tell_damage();
        opened?;
        self.open_vms(&mut start.inheritance)?;
        let listener = control::listen(&start.state_dir, &mut start.inheritance, &*start.keeper)?;
        start.keeper.ready()?;
        Ok(listener)
    }

    /// Networks, their ports, their cards and paths to the host: in this order, so that a datagram
    /// that comes in finds its receiver.
    ///
    /// At `up` everything must be right. A successor does without a card or a door that it cannot
    /// have, and says so: the others go on.
    fn open_networks(&mut self, inheritance: &mut Inheritance) -> Result<(), Failure> {
        let takeover = self.state.takeovers() > 0;
        let ports = self.config.vms.iter().filter_map(|(name, vm)| self.port(name, vm)).collect();
        self.worker.add_ports(ports)??;
        let (mut taken, marks) = (BTreeSet::new(), Marks::of(&self.state));
        for side in self.networks.values_mut() {
            let around = Around {
                state: &self.state,
                keeper: &self.keeper,
                worker: &self.worker,
                events: &self.events,
                label: &self.label,
            };
            marks.set_network(Some(side.id));
            side.beware(&around, inheritance);
            side.open_host(&around, inheritance, &self.host, &mut self.netlink, &taken)?;
            let card = side.open_card(&around, inheritance, &self.host, &mut self.netlink);
            match card {
                Err(error) if takeover && !matches!(error, CardOpen::Gone(_)) => {
                    side.without_card(&around, &error);
                }
                card => card?,
            }
            if takeover {
                side.list_host(&around, &self.host)?;
            } else {
                side.refresh(&around, &self.host, &mut self.netlink)?;
            }
            marks.set_network(None);
            side.taken_over(&around);
            if side.host.is_some() {
                taken.extend(side.configured());
            }
        }
        self.open_doors(inheritance, takeover)?;
        if takeover {
            faults::pass(Point::TakenOver);
        }
        self.worker.serve()?;
        self.takeover = switch::takeover(&self.hello);
        Ok(())
    }

    /// What the worker is to know of a VM's port.
    fn port(&self, name: &str, vm: &config::Vm) -> Option<PortSetup> {
        let (id, side) = (self.ids.port(name), self.networks.get(&vm.network)?);
        let inch = last_inch::of(vm, &side.config, &side.facts, &side.refused);
        let prefixes = vm.addresses.iter().flat_map(|address| side.left_of(*address)).collect();
        Some(PortSetup { id, network: side.id, name: name.to_owned(), inch, prefixes })
    }

    /// All at once: between threads, a thousand calls take longer than what they are for.
    fn open_doors(&self, inheritance: &mut Inheritance, takeover: bool) -> Result<(), Failure> {
        let (mut names, mut doors) = (Vec::new(), Vec::new());
        let lost = |name: &str, failure: Failure| {
            if !takeover {
                return Err(failure);
            }
            let subject = format!("vm/{name}");
            self.events.push(EventLevel::Error, "door_lost", &subject, failure.message);
            Ok(())
        };
        for (name, vm) in &self.config.vms {
            match self.door(name, vm, inheritance) {
                Ok(door) => {
                    names.push(name);
                    doors.push(door);
                }
                Err(failure) => lost(name, failure)?,
            }
        }
        let opened = self.doors.add_ports(doors);
        if opened.len() != names.len() {
            return Err(DoorError::Gone.into());
        }
        for (name, result) in names.into_iter().zip(opened) {
            result.or_else(|error| lost(name, error.into()))?;
        }
        Ok(())
    }

    /// A VM's door, and what a predecessor left there.
    fn door(
        &self,
        name: &str,
        vm: &config::Vm,
        inheritance: &mut Inheritance,
    ) -> Result<(PortDoor, Kept), Failure> {
        let socket = match &vm.engine {
            Engine::Qemu(_) => Socket::Listen(self.state_dir.port_socket(name)?),
            Engine::External(config::Socket::Listen(path)) => Socket::Listen(path.clone()),
            Engine::External(config::Socket::Connect(path)) => Socket::Connect(path.clone()),
        };
        let prefix = format!("port/{name}/");
        let kept = inheritance
            .take_prefix(&prefix)
            .into_iter()
            .map(|(key, fd)| (format!("{prefix}{key}"), fd))
            .collect();
        let (id, name, pairs) = (self.ids.port(name), name.to_owned(), vm.queues);
        Ok((PortDoor { id, name, socket, features_mask: u64::MAX, pairs }, kept))
    }

    /// The loop: whatever comes next.
    async fn serve(
        &mut self,
        mut link: HolderLink,
        mut calls: mpsc::Receiver<Call>,
        mut inbox: mpsc::UnboundedReceiver<Said>,
        mut monitor: Monitor,
    ) -> Result<End, Failure> {
        if self.hello.generation > 0 {
            // What had time until now.
            self.host_changed()?;
        }
        let changes = Readable::new(monitor.as_fd().try_clone_to_owned()?)?;
        let mut beat = tokio::time::interval(BEAT);
        let mut stopping: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
        loop {
            let stopped = async {
                match &mut stopping {
                    Some(stop) => stop.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = beat.tick() => {
                    self.beat()?;
                    self.go_on_starting();
                    if self.holderless && self.heir_failed() {
                        self.find_heir(&mut link);
                    }
                }
                Some(call) = calls.recv() => self.call(call),
                Some(said) = inbox.recv() => match said {
                    Said::Worker(event) => self.on_worker(event)?,
                    Said::Door(port, event) => {
                        self.on_door(port, &event);
                        self.go_on_starting();
                    }
                    Said::Vm(event) => self.on_vm(&event),
                },
                changed = changes.read(|_| monitor_changed(&mut monitor)) => {
                    changed?;
                    self.host_changed()?;
                }
                event = link.next() => match event {
                    HolderEvent::Stop { now } => stopping = Some(Box::pin(self.stop_all(now))),
                    HolderEvent::Reaped { pid, ended } => {
                        self.vms.exited(pid, vms::ending(ended));
                    }
                    HolderEvent::NotKept(key) => tracing::warn!(key, "the holder cannot keep this"),
                    HolderEvent::Yield => return Ok(End::Yield),
                    HolderEvent::NotSwitched(why) => self.not_switched(&why),
                    HolderEvent::Gone => {
                        // Its VMs and its datagrams go on.
                        tracing::warn!("the holder is gone");
                        if !std::mem::replace(&mut self.holderless, true) {
                            self.find_heir(&mut link);
                        }
                    }
                    HolderEvent::Heir(pid) => self.inherited_by(pid)?,
                    HolderEvent::Leave => return Ok(End::Leave),
                },
                () = stopped => return Ok(End::Stopped),
            }
        }
    }

    /// Tells the holder that this base lives: all three threads of it. A worker that hangs makes
    /// this wait for ever, and the holder starts a successor.
    fn beat(&mut self) -> Result<(), Failure> {
        if self.host_unread {
            self.host_changed()?;
        }
        self.tell_damage();
        self.tend_resolver()?;
        self.beats = self.beats.saturating_add(1);
        if self.beats == SETTLED {
            self.state_dir.forget_accepted_before(&self.release.accepted);
        }
        self.worker.comes_round()?;
        if self.doors.answers_within(SLOW_DOORS) {
            self.keeper.beat()?;
        }
        Ok(())
    }

    fn around(&self) -> Around<'_> {
        Around {
            state: &self.state,
            keeper: &self.keeper,
            worker: &self.worker,
            events: &self.events,
            label: &self.label,
        }
    }

    /// Something about links, addresses or gateways of the host has changed. What cannot be read,
    /// because it is changing too fast, is read again at the next beat.
    fn host_changed(&mut self) -> Result<(), Gone> {
        self.host_unread = false;
        match HostFacts::read(&mut self.netlink) {
            Ok(host) => self.host = host,
            Err(error) => {
                self.host_unread = true;
                let text =
                    format!("cannot read the host's links and addresses: {}", causes(&error));
                self.events.push(EventLevel::Warning, "host_unread", "host", text);
                return Ok(());
            }
        }
        let around = Around {
            state: &self.state,
            keeper: &self.keeper,
            worker: &self.worker,
            events: &self.events,
            label: &self.label,
        };
        for side in self.networks.values_mut() {
            let before = side.facts.clone();
            side.refresh(&around, &self.host, &mut self.netlink)?;
            if side.facts != before {
                last_inch::tell(&self.config, &self.ids, side, &self.worker)?;
            }
        }
        Ok(())
    }

    /// Whether a VM's port has a front end, whatever became of its rings.
    fn is_connected(&self, vm: &str) -> bool {
        PortRecord::of(&self.state, self.ids.port(vm)).connected()
    }

    /// Whether a port's front end has the rings running that every port has.
    fn is_attached(&self, port: PortId) -> bool {
        let record = PortRecord::of(&self.state, port);
        RingId::FIRST.into_iter().all(|id| {
            let ring = record.ring(id);
            ring.started && ring.enabled && record.fault(id).is_none()
        })
    }

    /// Takes everything apart that would outlive the base.
    fn close(mut self) {
        for name in self.config.vms.keys() {
            self.doors.remove_port(self.ids.port(name));
        }
        let networks = std::mem::take(&mut self.networks);
        if let Ok(mut netlink) = Netlink::open() {
            for side in networks.into_values() {
                side.close(&self.around(), &mut netlink);
            }
        }
        self.doors.shutdown();
        self.worker.shut_down();
    }
}

/// Seconds since 1970.
fn now_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Whether anything was heard. What it was does not matter: all is read afresh.
fn monitor_changed(monitor: &mut Monitor) -> std::io::Result<()> {
    let mut heard = false;
    while monitor.next().map_err(std::io::Error::other)?.is_some() {
        heard = true;
    }
    if heard { Ok(()) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
}

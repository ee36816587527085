//! The instance: all networks and VMs of one configuration, run by one base.
//!
//! # Theory of operation
//! ```text
//! configuration -> ledger -> state memory -> worker -> networks -> ports -> host paths -> VMs
//! ```
//! A successor goes the same way, and takes at each step what its predecessor left: descriptors
//! from the holder, the rest from the state memory. Then one loop waits for whatever comes: calls
//! from the control socket, events of worker and doors, changes of cards and addresses, VMs that
//! end, the holder's word to stop.
//!
//! # Threads
//! This is the base's main thread. It may wait for the worker and for the doors' dispatcher; they
//! never wait for it: what they have to say goes through [`Inbox`], a queue without a bound that
//! they fill only for events, never for datagrams.

mod card;
mod calls;
mod events;
mod host_facts;
mod host_path;
mod ids;
mod last_inch;
mod network;
mod vms;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use datapath::event::Event;
use datapath::keeper::Keeper;
use datapath::names::PortId;
use datapath::netlink::{Monitor, Netlink};
use datapath::state::{StateError, StateMemory};
use datapath::vhost::{Dispatcher, DispatcherHandle, PortDoor, PortEvent};
use datapath::worker::{self, PortSetup, WorkerHandle};
use tokio::sync::mpsc;

use crate::config::{self, Config};
use crate::control::{self, EventLevel, EventLog};
use crate::entry::{Failure, Start};
use crate::keeper::{HolderEvent, HolderKeeper};
use crate::ledger::{Ledger, Machine};
use crate::readable::Readable;
use crate::state_dir::StateDir;
use host_facts::HostFacts;
use ids::Ids;
use network::NetworkSide;
use vms::Vms;

/// How often the holder hears that the main loop is alive.
const BEAT: Duration = Duration::from_secs(1);

/// What other threads of the base have to say.
enum Said {
    Worker(Event),
    Door(PortId, PortEvent),
}

/// All that runs.
pub struct Instance {
    started: Instant,
    config: Config,
    config_path: std::path::PathBuf,
    state_dir: StateDir,
    hello: crate::keeper::Hello,
    keeper: Arc<HolderKeeper>,
    state: StateMemory,
    worker: WorkerHandle,
    doors: DispatcherHandle,
    ids: Ids,
    networks: BTreeMap<String, NetworkSide>,
    vms: Vms,
    netlink: Option<Netlink>,
    host: HostFacts,
    events: EventLog,
    threads: Vec<JoinHandle<()>>,
}

/// Runs an instance until it is told to stop.
pub async fn run(mut start: Start) -> Result<(), Failure> {
    let text = start.config_text()?;
    let config = config::check(&text, &start.config)
        .map_err(|errors| Failure::configuration(errors.to_string()))?;
    let machine = Machine::read()?;
    Ledger::allot(&config, &machine).map_err(|e| Failure::configuration(e.to_string()))?;
    start.state_dir.accept_config(&text)?;

    let (said, inbox) = mpsc::unbounded_channel();
    let monitor = Monitor::open().and_then(|m| Ok((m, Netlink::open()?)));
    let mut instance = Instance::open(&mut start, config, said, monitor.is_ok()).await?;
    let listener = control::listen(&start.state_dir, &mut start.inheritance, &*start.keeper)?;
    let (calls, called) = mpsc::channel(64);
    let events = instance.events.clone();
    tokio::task::spawn_local(control::serve(listener, calls, events));
    start.keeper.ready()?;
    let monitor = match monitor {
        Ok((monitor, _)) => Some(Readable::new(monitor.as_fd().try_clone_to_owned()?)?)
            .map(|readable| (readable, monitor)),
        Err(_) => None,
    };
    instance.serve(start.link, called, inbox, monitor).await;
    instance.close().await;
    Ok(())
}

//! The worker alone, in this process: no sockets, no control side. For many rounds, and for
//! sanitizers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use datapath::answer::{LastInch, Lease4};
use datapath::counters::{Counter, Counters};
use datapath::event::Event;
use datapath::names::{Mac, NetworkId, Owner, PortId, RingId};
use datapath::state::StateMemory;
use datapath::state::port::PortRecord;
use datapath::vhost::{Ring, RingOwner};
use datapath::worker::{self, NetworkSetup, PortSetup, WorkerHandle, Workers};
use virtqueue::driver::DriverMemory;
use virtqueue::{Intent, QueueLayout};

use super::cast::Who;
use super::expect::Tally;
use super::rig::Rig;
use super::speech::MTU;
use super::stage::Stage;
use crate::driver::features;
use crate::error::{Attempt, LabError, Result};
use crate::instance::workers;

const NETWORK: NetworkId = NetworkId(0);

/// The worker, with all ports and no card.
pub struct Inside {
    state: StateMemory,
    worker: WorkerHandle,
    thread: Option<JoinHandle<()>>,
    /// Events about broken rings.
    told: Arc<AtomicU64>,
    /// What the device maps of each port's memory.
    shared: BTreeMap<Who, Arc<DriverMemory>>,
}

fn port(who: Who) -> PortId {
    PortId(who.number().into())
}

fn gone(_: worker::Gone) -> LabError {
    LabError::Unexpected("the worker has ended".to_owned())
}

/// Breaks that may be waiting to be told of with the next one.
const STILL_UNTOLD: u64 = 500;

/// How many breaks, not told themselves, an event tells of beside its own.
fn untold_before(fault: &str) -> u64 {
    let number = |(_, rest): (&str, &str)| rest.split_once(' ')?.0.parse().ok();
    fault.split_once("(and ").and_then(number).unwrap_or(0)
}

impl Inside {
    /// Starts the worker.
    pub fn start() -> Result<Self> {
        virtqueue::sigbus::install().attempt(|| "install the handler of SIGBUS".to_owned())?;
        let (state, _) = StateMemory::create().map_err(|e| LabError::Unexpected(e.to_string()))?;
        let told = Arc::new(AtomicU64::new(0));
        let tell = Arc::clone(&told);
        let events = Box::new(move |event| {
            if let Event::RingBroken { fault, .. } = event {
                tell.fetch_add(1 + untold_before(&fault), Ordering::Relaxed);
            }
        });
        let workers = Workers { cores: vec![None; workers()?], one_by_one: false };
        let (worker, thread) = worker::spawn_several(state.clone(), &workers, events)
            .attempt(|| "start the workers".to_owned())?;
        let parse = |text: &str| text.parse().map_err(|e| LabError::Unexpected(format!("{e}")));
        let on_link = vec![parse("203.0.113.0/24")?, parse("2001:db8:1::/64")?];
        let setup = NetworkSetup {
            id: NETWORK,
            mtu: MTU as u32,
            on_link,
            outward: LastInch::silent(MTU as u16),
        };
        worker.add_network(setup).map_err(gone)?;
        for address in
            [IpAddr::from([203, 0, 113, 2]), IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, 2])]
        {
            let added = worker.add_host_address(NETWORK, address).map_err(gone)?;
            added.map_err(|e| LabError::Unexpected(e.to_string()))?;
        }
        for who in Who::ALL {
            let lease =
                Lease4 { address: who.ip4(), prefix_len: 24, router: [203, 0, 113, 1].into() };
            let inch = LastInch {
                guest_mac: (who != Who::Unknown).then_some(Mac(who.mac())),
                addresses4: vec![lease],
                addresses6: vec![who.ip6()],
                ..LastInch::silent(MTU as u16)
            };
            let prefixes = vec![who.ip(true).into(), who.ip(false).into()];
            let name = who.name().to_owned();
            let setup = PortSetup { id: port(who), network: NETWORK, name, inch, prefixes };
            let added = worker.add_port(setup).map_err(gone)?;
            added.map_err(|e| LabError::Unexpected(e.to_string()))?;
        }
        worker.serve().map_err(gone)?;
        Ok(Self { state, worker, thread: Some(thread), told, shared: BTreeMap::new() })
    }
}

impl Stage for Inside {
    fn attach(&mut self, who: Who, rig: &Rig, rings: [QueueLayout; 2]) -> Result<()> {
        self.detach(who)?;
        let memory = rig.memory.share();
        for (side, layout) in RingId::FIRST.into_iter().zip(rings) {
            let n = usize::from(side.number());
            let ring = Ring {
                memory: memory.clone(),
                layout,
                features: rig.build.features,
                kick: Some(Arc::clone(&rig.kicks[n])),
                call: Some(Arc::clone(&rig.calls[n])),
                err: None,
            };
            if ring.features & features::RING_PACKED != 0 {
                // What the dispatcher does in a base.
                let begins = Intent::at_base(rig.bases()[n].into(), layout.size);
                PortRecord::of(&self.state, port(who)).place(side, 0, begins);
            }
            self.worker.start(port(who), side, ring);
        }
        self.shared.insert(who, Arc::clone(&rig.memory));
        Ok(())
    }

    fn detach(&mut self, who: Who) -> Result<()> {
        for side in RingId::FIRST {
            self.worker.stop(port(who), side);
        }
        self.shared.remove(&who);
        Ok(())
    }

    fn counters(&mut self) -> Result<BTreeMap<Who, Tally>> {
        let of = |who| {
            let counters = Counters::of(&self.state, Owner::Port(port(who)));
            let some = counters.all().filter(|(_, n)| *n > 0);
            (who, Tally(some.map(|(counter, n)| (counter.name().to_owned(), n)).collect()))
        };
        Ok(Who::ALL.into_iter().map(of).collect())
    }

    fn breaks(&mut self, who: Who) -> Result<u64> {
        let counters = Counters::of(&self.state, Owner::Port(port(who)));
        let breaks = Counter::ALL.iter().filter(|c| **c >= Counter::BreakAvailIndex);
        Ok(breaks.filter(|c| c.name().starts_with("break.")).map(|c| counters.get(*c)).sum())
    }

    fn uplink(&mut self) -> Result<Tally> {
        Ok(Tally::default())
    }

    fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(LabError::Unexpected("the worker has ended".to_owned()));
        }
        let breaks: u64 = self.counters()?.values().map(Tally::breaks).sum();
        let told = self.told.load(Ordering::Relaxed);
        // Of breaks in quick succession one is told at a time, with the number of those before it.
        if told + STILL_UNTOLD < breaks {
            let text = format!("{breaks} breaks were counted and {told} told");
            return Err(LabError::Unexpected(text));
        }
        Ok(())
    }

    fn is_wired(&self) -> bool {
        false
    }

    fn slow_card(&mut self, _slow: bool) -> Result<()> {
        Err(LabError::Unexpected("there is no card".to_owned()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.worker.shut_down();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

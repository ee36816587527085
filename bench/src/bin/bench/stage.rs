//! What all cases use: the contenders that run from beginning to end, guests for them, effort.

use std::time::Duration;

use lab::Result;

use crate::contender::{Between, Copies, GENERATING, Io, Ours, Ovs, Switch, Vm, pin};
use crate::generator::{Guest, Plan, Shape};
use crate::progress::Progress;
use crate::race::Effort;

/// How long a switch has to notice that guests have come or gone.
pub const SETTLE: Duration = Duration::from_millis(300);
/// Rings of ordinary frames: some megabytes, which do not fit a core's own caches.
const ORDINARY: Shape = Shape { entries: 1024, buffer: 2048 };

/// Guests that send short datagrams, all done by themselves.
pub const SHORT: Plan =
    Plan { rx: ORDINARY, tx: ORDINARY, frame: 64, offloads: false, packed: false };

/// The contenders and what is common to all cases.
pub struct Stage<'p> {
    /// ipvisor with two ports.
    pub ours: Ours,
    /// Another build of it, if one is to take part.
    pub beside: Option<Ours>,
    /// testpmd.
    pub io: Io,
    /// Open vSwitch.
    pub ovs: Ovs,
    /// Two copies.
    pub copies: Copies,
    /// Rounds and so on.
    pub effort: Effort,
    /// What is told meanwhile.
    pub progress: &'p Progress,
}

impl<'p> Stage<'p> {
    /// Starts all contenders and stops them. From then on this thread is on the generating core.
    pub fn set(effort: Effort, progress: &'p Progress) -> Result<Self> {
        progress.say("starting the contenders".to_owned());
        let (ours, io, ovs) = (Ours::start(&[], &Vm::pair())?, Io::start()?, Ovs::start()?);
        let beside = std::env::var_os("BESIDE").filter(|path| !path.is_empty());
        let beside = beside.map(|path| Ours::start_build(path.as_ref())).transpose()?;
        let stage = Self { ours, beside, io, ovs, copies: Copies::default(), effort, progress };
        stage.pause()?;
        pin(None, GENERATING)?;
        Ok(stage)
    }

    /// Stops all of them, whatever a case has left.
    pub fn pause(&self) -> Result<()> {
        let all: [&dyn Switch; 4] = [&self.ours, &self.io, &self.ovs, &self.copies];
        all.iter().try_for_each(|switch| switch.pause())?;
        self.beside.iter().try_for_each(Switch::pause)
    }
}

/// Gives a switch two fresh guests, and stops it.
pub fn attach(switch: &mut dyn Between, plan: &Plan) -> Result<[Guest; 2]> {
    switch.resume()?;
    let mut guests = [Guest::new(plan)?, Guest::new(plan)?];
    switch.attach(&mut guests, plan)?;
    std::thread::sleep(SETTLE);
    switch.pause()?;
    Ok(guests)
}

/// Takes guests away from their switches.
pub fn detach<G>(switches: &[&dyn Switch], guests: G) -> Result<()> {
    switches.iter().try_for_each(|switch| switch.resume())?;
    drop(guests);
    std::thread::sleep(SETTLE);
    switches.iter().try_for_each(|switch| switch.pause())
}

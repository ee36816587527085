//! Where a campaign is played.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use virtqueue::QueueLayout;

use super::cast::Who;
use super::expect::Tally;
use super::rig::Rig;
use crate::error::{LabError, Result};

/// How long the base may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A base, or the part of one that carries datagrams.
pub trait Stage {
    /// Starts both rings of a port, input and output, at these places; what ran there before ends.
    /// Returns when the base has them, or has refused them.
    fn attach(&mut self, who: Who, rig: &Rig, rings: [QueueLayout; 2]) -> Result<()>;

    /// Takes both rings of a port away. Returns when the base has let go of them.
    fn detach(&mut self, who: Who) -> Result<()>;

    /// What was counted for each port until now.
    fn counters(&mut self) -> Result<BTreeMap<Who, Tally>>;

    /// How many breaks were counted for a port until now.
    fn breaks(&mut self, who: Who) -> Result<u64>;

    /// What was counted for the network card until now.
    fn uplink(&mut self) -> Result<Tally>;

    /// Fails if the base is not what it was: another process, not answering, or a port broken that
    /// should not be.
    fn check(&mut self) -> Result<()>;

    /// Whether there is a network card, with a LAN behind it.
    fn is_wired(&self) -> bool;

    /// Makes the card slow, or as fast again as it was. What it has not sent yet is lost then.
    fn slow_card(&mut self, slow: bool) -> Result<()>;
}

/// Waits until more than `before` breaks were counted for a port.
pub fn wait_for_break(stage: &mut dyn Stage, who: Who, before: u64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while stage.breaks(who)? <= before {
        if Instant::now() > end {
            let counted = stage.counters()?.remove(&who).unwrap_or_default();
            let what = format!("a break of the port of {}: {:?}", who.name(), counted.0);
            return Err(LabError::Timeout { what, limit: PATIENCE });
        }
        std::thread::yield_now();
    }
    Ok(())
}

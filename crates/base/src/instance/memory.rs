//! The state memory: taken over, made, or made anew; and what was damaged in it, told.
//!
//! A successor goes on with whatever it can trust. What it cannot, it has rebuilt by the time this
//! tells of it: an event `state_damaged` names the VM, the network or the base, and what follows.

use std::os::fd::AsFd;

use datapath::faults::{self, Point};
use datapath::keeper::Keeper;
use datapath::state::{Place, StateMemory};

use super::Instance;
use crate::control::EventLevel;
use crate::entry::{Failure, Start};

/// The state memory that the predecessor left, or a new one where there is none that can be read.
pub fn open(start: &mut Start, keeper: &dyn Keeper) -> Result<StateMemory, Failure> {
    if !start.is_takeover() {
        let (state, fd) = StateMemory::create()?;
        keeper.keep("state", fd.as_fd())?;
        return Ok(state);
    }
    let left = start.inheritance.take("state");
    let bases = start.hello.generation;
    let (state, made) = StateMemory::succeed(left.as_ref().map(AsFd::as_fd), bases)?;
    faults::pass(Point::TakingOver);
    if let Some(fd) = made {
        keeper.keep("state", fd.as_fd())?;
    }
    Ok(state)
}

impl Instance {
    /// Tells what was found damaged since the last time.
    pub(super) fn tell_damage(&self) {
        for damage in self.state.take_damage() {
            let subject = match damage.place {
                Place::Instance => "base".to_owned(),
                Place::Port(id) => format!("vm/{}", self.ids.vm(id).unwrap_or("?")),
                Place::Network(id) => {
                    format!("network/{}", self.ids.network_name(id).unwrap_or("?"))
                }
            };
            let text = format!("state memory: {damage}");
            self.events.push(EventLevel::Error, "state_damaged", &subject, text);
        }
    }
}

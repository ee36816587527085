//! What the base has for itself: the memory that no machine with fewer ports would need.
//!
//! # Theory of operation
//! The kernel tells of each mapping of a process what lies there (`/proc/PID/smaps`). Counted is what
//! is anonymous in private mappings, in memory or swapped out: heap, stacks, arena, relocated data.
//! Not counted is what is shared, because it is somebody else's or has a size of its own: guests'
//! memory, the cards' rings, the program's text. The state memory is shared, too, because
//! it outlives the base: as far as it was ever written it counts, and is shown beside. What the kernel itself keeps for a process (page tables, sockets) it does not
//! tell.

use std::time::Duration;

use bench::frames::Kind;
use lab::error::Attempt;
use lab::{LabError, Result};

use crate::contender::{Ours, Switch, ends};
use crate::generator::{Generator, Template};
use crate::results::Measured;
use crate::stage::{SHORT, Stage, attach, detach};

/// How the state memory is called where mappings are shown.
const STATE: &str = "memfd:ipvisor-state";
/// So that everything was used once.
const USED: Duration = Duration::from_millis(200);

/// Of one process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Anonymous and private.
    pub own: f64,
    /// The state memory, as far as it was ever written.
    pub state: f64,
}

impl Memory {
    /// Both.
    pub fn all(&self) -> f64 {
        self.own + self.state
    }
}

/// What a base has.
pub fn of(ours: &Ours) -> Result<Memory> {
    let path = format!("/proc/{}/smaps", ours.instance.base_process()?);
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    read(&text).ok_or_else(|| LabError::Unexpected(format!("{path} is not as expected")))
}

fn read(text: &str) -> Option<Memory> {
    let mut memory = Memory::default();
    let (mut private, mut state) = (None, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        match first.strip_suffix(':') {
            // `7f12a000-7f12b000 rw-p 00000000 00:01 1024   /memfd:state (deleted)`
            None => {
                let permissions = words.next().filter(|p| p.len() == 4)?;
                (private, state) = (Some(permissions.ends_with('p')), line.contains(STATE));
            }
            Some(name @ ("Anonymous" | "Swap" | "Rss")) => {
                let kib: f64 = words.next()?.parse().ok()?;
                memory.own += if private? && name != "Rss" { kib } else { 0.0 };
                memory.state += if state && name == "Rss" { kib } else { 0.0 };
            }
            Some(_) => {}
        }
    }
    private.map(|_| memory)
}

/// With two ports that have carried something.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let ours = &mut stage.ours;
    let guests = attach(ours, &SHORT)?;
    ours.resume()?;
    let template = Template::new(Kind::Udp, ends(), SHORT.frame);
    let carried = Generator::new(&guests[0], &guests[1], &template).flood(USED);
    if carried.received == 0 {
        return Err(LabError::Unexpected(format!("nothing was carried: {carried:?}")));
    }
    let memory = of(ours)?;
    detach(&[&*ours], guests)?;
    let row = |case, kib| Measured::new(case, ours.name(), "MiB", vec![kib / 1024.0]);
    Ok(vec![row("memory", memory.all()), row("memory, state", memory.state)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_anonymous_in_private_mappings_is_the_processs_own() {
        let text = "55d0-55e0 r-xp 00000000 08:01 77  /usr/bin/ipvisor\n\
                    Rss:  9000 kB\nAnonymous: 8 kB\nSwap: 0 kB\nVmFlags: rd ex\n\
                    7f00-7f10 rw-p 00000000 00:00 0 \n\
                    Rss:  100 kB\nAnonymous: 100 kB\nAnonHugePages: 64 kB\nSwap: 20 kB\nSwapPss: 20 kB\n\
                    7f20-7f30 rw-s 00000000 00:01 5  /memfd:driver (deleted)\n\
                    Rss:  4000 kB\nAnonymous: 4000 kB\nSwap: 0 kB\n\
                    7f40-7f50 rw-s 00000000 00:01 6  /memfd:ipvisor-state (deleted)\n\
                    Rss:  300 kB\nAnonymous: 0 kB\nSwap: 0 kB\n";
        assert_eq!(read(text), Some(Memory { own: 128.0, state: 300.0 }));
    }

    #[test]
    fn what_does_not_look_like_mappings_is_not_measured() {
        assert_eq!(read(""), None);
        assert_eq!(read("Anonymous: 8 kB\n"), None);
    }
}

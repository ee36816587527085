//! Orders to die at a [`Point`], given from outside and while the base runs.
//!
//! # Why it exists
//! A base must be able to die between any two of its steps. A SIGKILL at a random moment nearly
//! always meets it asleep; so there are named points between the steps, and whoever tests chooses
//! one and how often it may still be passed.
//!
//! # Theory of operation
//! The environment variable `IPVISOR_FAULT_POINTS` names a file of at least [`FILE_LEN`] octets,
//! made by whoever tests and mapped by every base of the instance, so it outlives them. Each point
//! has a slot of 64 octets, in the order of [`Point`]:
//!
//! ```text
//!  0  its name, padded with zeroes: written by the base, so that nobody else keeps a list
//! 40  the order: times to pass (low 32 bits, 0 = no order) | what to do then << 32
//! 48  how often it was passed
//! 56  the process that did what was ordered, written before it does it
//! ```
//! The one who brings the count from 1 to 0 does what is ordered: 1 SIGKILL, 2 abort, 3 panic,
//! 4 nothing any more, for ever (the thread hangs).

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use virtqueue::Mapping;

use super::Point;

/// Octets of the file.
const FILE_LEN: u64 = 4096;
const SLOT: usize = 64;
const NAME: usize = 40;
const ORDER_AT: usize = 40;
const PASSES_AT: usize = 48;
const WHO_AT: usize = 56;

static FILE: LazyLock<Option<Mapping>> = LazyLock::new(|| {
    let path = std::env::var_os("IPVISOR_FAULT_POINTS")?;
    let file = File::options().read(true).write(true).open(path).ok()?;
    let mapping = Mapping::shared(file.as_fd(), 0, FILE_LEN).ok()?;
    for (index, name) in Point::NAMES.iter().enumerate() {
        let mut octets = [0; NAME];
        for (to, from) in octets.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        mapping.write(index.checked_mul(SLOT)?, &octets)?;
    }
    Some(mapping)
});

/// Passes a point, or ends there.
pub fn pass(point: Point) {
    let Some(file) = &*FILE else { return };
    let at = (point as usize).saturating_mul(SLOT);
    let word = |offset| file.u64_at(at.saturating_add(offset));
    let words = (word(ORDER_AT), word(PASSES_AT), word(WHO_AT));
    let (Some(order), Some(passes), Some(who)) = words else { return };
    passes.fetch_add(1, Ordering::Relaxed);
    let count = |order: u64| order & u64::from(u32::MAX);
    let less = |order: u64| (count(order) > 0).then(|| order.wrapping_sub(1));
    let Ok(before) = order.fetch_update(Ordering::AcqRel, Ordering::Acquire, less) else { return };
    if count(before) == 1 {
        who.store(u64::from(std::process::id()), Ordering::Release);
        end(before >> 32);
    }
}

fn end(how: u64) {
    match how {
        1 => {
            let _ = kill_process(getpid(), Signal::KILL);
        }
        2 => std::process::abort(),
        #[expect(clippy::panic, reason = "what was ordered")]
        3 => panic!("told to panic here"),
        4 => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => {}
    }
}

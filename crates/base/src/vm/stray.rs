//! VMs that an instance finds in its state directory and that are not its own: ended in order, or,
//! if they are dead, forgotten.
//!
//! # Why it exists
//! A VM outlives base and holder. Whoever comes after them has a configuration of his own: the VMs in
//! it are found again by their drivers; the others would run for ever, with nobody to carry their
//! datagrams.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;

use super::form::Paths;
use super::link::{Link, News};
use super::vessel::Vessel;
use crate::engine::spawn::{Lock, Process, Vacancy};
use crate::state_dir::StateDir;

/// How long a monitor may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a guest has, after its power button was pressed: as one of the configuration by default.
const BUTTON: Duration = Duration::from_secs(30);
/// How long a vessel may take to end when asked.
const ASKED: Duration = Duration::from_secs(5);

/// A VM that runs and that nobody wants.
#[derive(Debug)]
pub struct Stray {
    /// Its name.
    pub name: String,
    process: Process,
    paths: Paths,
}

/// Looks through the VMs' records: forgets those of VMs that are dead, but for `known` ones, and
/// gives those that live and are not `wanted`.
pub fn strays(
    state_dir: &StateDir,
    known: impl Fn(&str) -> bool,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Stray> {
    let mut found = Vec::new();
    for name in names(&state_dir.vm_directory()) {
        let Ok(paths) = Paths::of(state_dir, &name) else { continue };
        if known(&name) {
            continue;
        }
        match Lock::take(&paths.lock) {
            Ok(Vacancy::Taken(process)) if !wanted(&name) => {
                found.push(Stray { name, process, paths });
            }
            Ok(Vacancy::Free(_)) => paths.forget(),
            // Wanted; or it cannot be told whether it lives, so nothing is done to it.
            Ok(Vacancy::Taken(_)) | Err(_) => {}
        }
    }
    found
}

/// The VMs that have a record or a lock.
fn names(directory: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let name = |file: fs::DirEntry| {
        let file = file.file_name().into_string().ok()?;
        file.strip_suffix(".json").or(file.strip_suffix(".pid")).map(str::to_owned)
    };
    files.filter_map(name).collect()
}

impl Stray {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Ends it: by its power button, and by force when that takes too long.
    pub async fn end(self) {
        let Ok(mut vessel) = Vessel::new(self.process) else { return };
        let mut link = Link::connect(self.paths.monitor.clone());
        let mut pressed = false;
        if matches!(timeout(ANSWER, link.next()).await, Ok(News::Up)) {
            pressed = link.command("system_powerdown").await;
        }
        let mut ended = pressed && timeout(BUTTON, vessel.ended()).await.is_ok();
        if !ended {
            vessel.signal(Signal::TERM);
            ended = timeout(ASKED, vessel.ended()).await.is_ok();
        }
        if !ended {
            vessel.signal(Signal::KILL);
            let _ = timeout(ASKED, vessel.ended()).await;
        }
        self.paths.forget();
    }
}

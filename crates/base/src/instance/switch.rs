//! Another base in the place of this one: another program, another configuration, or both.
//!
//! # Theory of operation
//! ```text
//! upgrade, reload --> checked here: the text, what may not change, the program's file
//!                     copy of the configuration --> holder: start the next base beside me
//!                     not switched: whoever asked is told why, and all goes on
//!                     yield: come to rest
//! ```
//! Coming to rest is in this order: no calls are taken any more; each VM's driver writes down what it
//! was about; the doors' dispatcher stops between two messages, the worker between two batches, and
//! both threads have ended when the holder is told. From the moment the worker is asked to stop
//! until the successor serves nobody carries datagrams; they wait in the rings. When that moment
//! was goes along, so that the successor can say how long it took.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use datapath::faults::{self, Point};
use datapath::state::LAYOUTS;
use rustix::time::{ClockId, clock_gettime};

use super::changes::{self, Busy};
use super::{Instance, now_seconds};
use crate::config::{self, Config, Engine};
use crate::control::{
    Answer, Change, ChangeKind, EventLevel, KeyChange, Refusal, RefusalKind, SwitchWish, Switching,
    TakeoverHow, TakeoverStatus,
};
use crate::entry::{Failure, ReleaseArguments, start_heir};
use crate::keeper::{Arrival, Hello, HolderLink};
use crate::vm::State;

/// How long the VMs' drivers may take to write down what they are about.
const DRIVERS: Duration = Duration::from_millis(500);
/// Turns that those who wait for an answer get to be told.
const TURNS: usize = 32;

/// A switch that the holder was asked for.
pub(super) struct Asked {
    answer: Answer<Switching>,
    /// The copy that was written for it.
    copy: Option<String>,
}

/// Nanoseconds of the monotonic clock.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// How it came to this base, which serves from now on.
pub(super) fn takeover(hello: &Hello) -> TakeoverStatus {
    let how = match hello.arrival {
        Arrival::First => TakeoverHow::First,
        Arrival::Death => TakeoverHow::Death,
        Arrival::Switch => TakeoverHow::Switch,
        Arrival::Back => TakeoverHow::Back,
    };
    let gap = (hello.rest_at > 0).then(|| monotonic().saturating_sub(hello.rest_at) / 1000);
    let why = hello.predecessor.map(|death| death.to_string());
    TakeoverStatus { how, gap_microseconds: gap, why }
}

impl Instance {
    /// Says how it came to this base, if it is not the first.
    pub(super) fn tell_takeover(&self) {
        match self.takeover.how {
            TakeoverHow::First | TakeoverHow::Death => {}
            TakeoverHow::Switch => {
                let gap = self.takeover.gap_microseconds;
                let gap = gap.map_or(String::new(), |g| {
                    let (whole, part) = (g / 1000, g % 1000 / 100);
                    format!("; nobody served for {whole}.{part} ms")
                });
                let text = format!("took over from a base that yielded{gap}");
                self.events.push(EventLevel::Info, "switched", "base", text);
            }
            TakeoverHow::Back => {
                let why = match &self.takeover.why {
                    Some(why) => format!("the base of the newer release {why}"),
                    None => "the base of the newer release did not come up".to_owned(),
                };
                let text = format!(
                    "configuration rolled back: {why}; {} runs as it was accepted before ({})",
                    self.release.config.display(),
                    self.release.accepted
                );
                self.events.push(EventLevel::Error, "rolled_back", "base", text);
            }
        }
    }

    /// Somebody wants another program or configuration.
    pub(super) fn switch(&mut self, wish: SwitchWish, answer: Answer<Switching>) {
        match self.ask_for_switch(wish) {
            Ok(Some(copy)) => self.asked = Some(Asked { answer, copy }),
            // That the one who asked has gone meanwhile is nobody's loss.
            Ok(None) => drop(answer.send(Ok(Switching::Unchanged))),
            Err(refusal) => drop(answer.send(Err(refusal))),
        }
    }

    /// Asks the holder; `None` if there is nothing to do.
    fn ask_for_switch(&mut self, wish: SwitchWish) -> Result<Option<Option<String>>, Refusal> {
        if self.asked.is_some() {
            let text = "another upgrade or reload is under way";
            return Err(
                Refusal::new(RefusalKind::WrongState, text).hint("ask again when it is done")
            );
        }
        if self.holderless {
            let text = "the holder is gone, and there is no other yet";
            return Err(Refusal::new(RefusalKind::WrongState, text).hint("ask again in a moment"));
        }
        let program = wish.binary.as_deref().map(program).transpose()?;
        let mut release = self.release.clone();
        let mut copy = None;
        if let Some((path, text)) = wish.config {
            let (text, config, changes) = self.difference(&path, &text)?;
            let in_the_way: Vec<String> = changes.iter().filter_map(Change::obstacle).collect();
            if !in_the_way.is_empty() {
                let text = format!("nothing was changed: {}", in_the_way.join("; "));
                return Err(Refusal::new(RefusalKind::WrongState, text));
            }
            if changes.is_empty() && config == self.config && program.is_none() {
                return Ok(None);
            }
            let name = self.state_dir.next_accepted();
            let failed = |e| {
                let text = format!("cannot write a copy of the configuration: {e}");
                Refusal::new(RefusalKind::Failed, text)
            };
            self.state_dir.accept_config(&name, &text).map_err(failed)?;
            faults::pass(Point::Accepted);
            copy = Some(name.clone());
            release = ReleaseArguments { config: path, accepted: name };
        }
        let asked = self.keeper.switch(*LAYOUTS.end(), &release.words(), program.as_ref());
        asked.map_err(|e| {
            Refusal::new(RefusalKind::Failed, format!("cannot ask the holder to switch: {e}"))
        })?;
        Ok(Some(copy))
    }

    /// A configuration in which nothing is wrong, the text of it that needs nothing else, and what
    /// would change if it took the place of the one that runs.
    pub(super) fn difference(
        &self,
        path: &Path,
        text: &str,
    ) -> Result<(String, Config, Vec<Change>), Refusal> {
        let (copy, config) = config::check(text, path)
            .map_err(|errors| Refusal::new(RefusalKind::Configuration, errors.to_string()))?;
        let mut changes = Vec::new();
        let file = |path: &Path| Some(path.display().to_string());
        if path != self.release.config {
            let (from, to) = (file(&self.release.config), file(path));
            let key = KeyChange { key: "file".to_owned(), from, to, fixed: false };
            changes.push(of("instance", ChangeKind::Change, vec![key]));
        }
        if config != self.config {
            changes.extend(changes::difference(&self.config, &config, |vm| self.busy(vm)));
        }
        let there = |name: &str| config.networks.contains_key(name);
        let refused = self.networks.values().filter(|s| !s.refused.is_empty() && there(&s.name));
        changes.extend(
            refused.map(|s| of(&format!("network/{}", s.name), ChangeKind::Retry, Vec::new())),
        );
        Ok((copy, config, changes))
    }

    fn busy(&self, vm: &str) -> Busy {
        match self.config.vms.get(vm).map(|v| &v.engine) {
            Some(Engine::Qemu(_)) => match self.vms.status(vm) {
                Some(status) if status.state.has_vessel() => Busy::Runs,
                Some(status) if status.starts > 0 || status.state != State::Stopped => Busy::No,
                _ => Busy::Fresh,
            },
            Some(Engine::External(_)) if self.is_connected(vm) => Busy::Attached,
            _ => Busy::No,
        }
    }

    /// The holder says that the next base does not take over.
    pub(super) fn not_switched(&mut self, why: &str) {
        let text = format!("the next base cannot take over, and this one goes on: {why}");
        self.events.push(EventLevel::Error, "not_switched", "base", text);
        let Some(asked) = self.asked.take() else { return };
        if let Some(copy) = asked.copy {
            self.state_dir.forget_accepted_copy(&copy);
        }
        let text = format!("the next base cannot take over, and nothing has changed: {why}");
        let _ = asked.answer.send(Err(Refusal::new(RefusalKind::Failed, text)));
    }

    /// Comes to rest, and says so to the holder. Nothing of what a successor takes over is undone.
    pub(super) async fn rest(mut self) -> Result<(), Failure> {
        if let Some(asked) = self.asked.take() {
            if asked.copy.is_some() {
                // Who asked for another configuration may have seen to it that they are free.
                let _ = self.state_dir.note_refused(&Default::default());
            }
            let begun = Switching::Begun { base: std::process::id() };
            let _ = asked.answer.send(Ok(begun));
        }
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        self.server.abort();
        let Self { vms, doors, worker, carrier, keeper, .. } = self;
        vms.rest(DRIVERS).await;
        doors.shutdown();
        let at = monotonic();
        worker.shut_down();
        // A thread that panicked would have ended this process.
        let _ = carrier.join();
        faults::pass(Point::Resting);
        keeper.yielded(at)?;
        Ok(())
    }

    /// Whether the holder that was started last has ended.
    pub(super) fn heir_failed(&mut self) -> bool {
        self.heir.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// The holder is gone: another one is started, which has the lock before it says a word.
    pub(super) fn find_heir(&mut self, link: &mut HolderLink) {
        let started = start_heir(self.state_dir.path()).and_then(|(child, socket)| {
            self.heir_socket = Some(socket.try_clone()?);
            self.heir = Some(child);
            link.move_to(socket)
        });
        if let Err(error) = started {
            tracing::error!(%error, "cannot start another holder");
        }
    }

    /// Another holder has the lock: it gets everything, and is asked for a base of its own.
    pub(super) fn inherited_by(&mut self, holder: u32) -> Result<(), Failure> {
        let Some(socket) = self.heir_socket.take() else { return Ok(()) };
        let program = File::open("/proc/self/exe")?;
        let age = now_seconds().saturating_sub(self.started);
        let (generation, words) = (self.hello.generation.saturating_add(1), self.release.words());
        self.keeper.move_to(socket, &program, generation, age, &words)?;
        self.holderless = false;
        self.hello.holder = holder;
        let text = format!("the holder died; process {holder} has taken its place");
        self.events.push(EventLevel::Warning, "holder_replaced", "base", text);
        self.keeper.beat()?;
        // Its child is reaped and watched without a detour.
        self.keeper.switch(*LAYOUTS.end(), &words, None)?;
        Ok(())
    }
}

fn of(subject: &str, what: ChangeKind, keys: Vec<KeyChange>) -> Change {
    Change { subject: subject.to_owned(), what, keys, in_the_way: None }
}

/// The file of a program, if it can be started.
fn program(path: &Path) -> Result<File, Refusal> {
    let failed = |why: String| {
        let text = format!("cannot use {} as the next base: {why}", path.display());
        Refusal::new(RefusalKind::Failed, text)
    };
    let file = File::open(path).map_err(|e| failed(e.to_string()))?;
    let meta = file.metadata().map_err(|e| failed(e.to_string()))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(failed("it is not a program".to_owned()));
    }
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::empty(),
    )
    .map_err(|e| failed(e.to_string()))?;
    Ok(file)
}

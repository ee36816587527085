//! What holder and bases tell in the log while the campaign runs: deaths that nobody ordered, panics,
//! and events that a death must not cause.
//!
//! # Theory of operation
//! The log is read piece by piece, because the holder puts it aside when it is long. A death is told
//! with its process ([`lab::deaths`]), so those that were not ordered are found however short the base
//! lived, and those that were ordered and are not told show that this reads what is written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use lab::Result;
use lab::deaths::{Death, is_panic};
use lab::error::Attempt;
use lab::instance::Instance;

/// Events by which a front end notices a death: nobody may, but one that was in the middle of a
/// request.
const NOTICED: [&str; 4] = ["renegotiate", "detached", "ring_broken", "request_refused"];
/// Events that nobody may have: something is damaged, lost, or held against somebody.
const NEVER: [&str; 5] = ["state_damaged", "quarantined", "poison", "card_lost", "door_lost"];
/// The event of a death of its own making.
const SUSPECTED: &str = "suspected";
/// The event of two such deaths soon after the configuration was changed.
const ROLLED_BACK: &str = "rolled_back";
/// How such an event names a death from outside.
const KILLED: &str = "was killed by signal 9";
/// Words of the log that mean the same.
const WORDS: [&str; 4] = [
    " ERROR ",
    "the holder cannot keep this",
    "no room for another descriptor",
    "cannot take over",
];
/// Lines that are shown.
const SHOWN: usize = 5;
/// One in so many deaths may be told in the moment in which the log is put aside, and be lost.
const UNTOLD: usize = 20;

/// What was ordered.
#[derive(Clone, Debug, Default)]
pub struct Ordered {
    /// Bases that were killed, or told to die.
    pub processes: BTreeSet<i32>,
    /// Those of them that died while another took their place in order: that may be told or not.
    pub replaced: BTreeSet<i32>,
    /// Panics.
    pub panics: usize,
    /// Deaths of their own making, panics too.
    pub own_making: usize,
    /// Workers of a base: at a death each of them may be about something.
    pub workers: usize,
}

/// What was told so far.
#[derive(Debug)]
pub struct Told {
    log: PathBuf,
    old: PathBuf,
    /// Octets of the log that were read.
    read: u64,
    /// What was read of a line that has not ended.
    rest: String,
    deaths: BTreeSet<i32>,
    panics: usize,
    suspicions: usize,
    rollbacks: usize,
    /// Lines that should not be there.
    wrong: Vec<String>,
}

impl Told {
    /// Of this instance; nothing is read yet.
    pub fn of(instance: &Instance) -> Self {
        let dir = instance.state_dir();
        Self::read_from(dir.join("log"), dir.join("log.1"))
    }

    fn read_from(log: PathBuf, old: PathBuf) -> Self {
        let (rest, wrong) = (String::new(), Vec::new());
        let (deaths, panics, suspicions, rollbacks) = (BTreeSet::new(), 0, 0, 0);
        Self { log, old, read: 0, rest, deaths, panics, suspicions, rollbacks, wrong }
    }

    /// Reads what was told since the last call.
    pub fn read(&mut self) -> Result<()> {
        let length = self.log.metadata().attempt(|| format!("look at {}", self.log.display()))?;
        if length.len() < self.read {
            let before = part(&self.old, self.read)?;
            self.take(&before);
            self.read = 0;
        }
        let more = part(&self.log, self.read)?;
        self.read += more.len() as u64;
        self.take(&more);
        Ok(())
    }

    fn take(&mut self, more: &[u8]) {
        let text = std::mem::take(&mut self.rest) + &String::from_utf8_lossy(more);
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        text[..end].lines().for_each(|line| self.line(line));
        self.rest = text[end..].to_owned();
    }

    fn line(&mut self, line: &str) {
        let kind = |kind: &&str| line.contains(&format!("kind=\"{kind}\""));
        let own = ["a", "b"].iter().any(|vm| line.contains(&format!("subject=\"vm/{vm}\"")));
        if let Some(death) = Death::of(line) {
            self.deaths.insert(death.process);
            if !death.at_once {
                self.wrong.push(line.to_owned());
            }
        } else if is_panic(line) {
            self.panics += 1;
        } else if kind(&SUSPECTED) {
            self.suspicions += 1;
        } else if kind(&ROLLED_BACK) {
            // A base that is killed before it ever served is followed by the last good release,
            // whoever killed it.
            self.rollbacks += usize::from(!line.contains(KILLED));
        } else if (own && NOTICED.iter().any(kind))
            || NEVER.iter().any(kind)
            || WORDS.iter().any(|word| line.contains(word))
        {
            self.wrong.push(line.to_owned());
        }
    }

    /// What is not as it must be, after these orders.
    pub fn judge(&self, ordered: &Ordered) -> Vec<String> {
        let mut wrong: Vec<_> = self.wrong.iter().take(SHOWN).cloned().collect();
        if let Some(more @ 1..) = self.wrong.len().checked_sub(SHOWN) {
            wrong.push(format!("and {more} lines of the log like these"));
        }
        let unordered: Vec<_> = self.deaths.difference(&ordered.processes).collect();
        if !unordered.is_empty() {
            wrong.push(format!("bases died that nobody had told to: processes {unordered:?}"));
        }
        let sure = ordered.processes.difference(&ordered.replaced);
        let (all, untold) = sure.fold((0, 0), |(all, untold), process| {
            (all + 1, untold + usize::from(!self.deaths.contains(process)))
        });
        if untold * UNTOLD > all {
            wrong.push(format!("{untold} of {all} deaths are not in the log"));
        }
        if self.panics > ordered.panics {
            wrong.push(format!("{} panics, {} were ordered", self.panics, ordered.panics));
        }
        let (own, workers) = (ordered.own_making, ordered.workers.max(1));
        if self.suspicions > own * workers {
            wrong.push(format!(
                "{} times somebody was suspected, {own} deaths were a base's own, of {workers} workers",
                self.suspicions
            ));
        }
        if self.rollbacks > ordered.own_making / 2 {
            let (told, most) = (self.rollbacks, ordered.own_making);
            wrong.push(format!("rolled back {told} times, {most} deaths were a base's own"));
        }
        wrong
    }
}

/// A file from an offset on.
fn part(path: &Path, from: u64) -> Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut octets = Vec::new();
        file.read_to_end(&mut octets)?;
        Ok(octets)
    };
    read().attempt(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEATH: &str = "ipvisor: the base (process 7) was killed: the next is started at once\n";

    fn told(lines: &[&str]) -> Told {
        let mut told = Told::read_from(PathBuf::new(), PathBuf::new());
        lines.iter().for_each(|line| told.take(line.as_bytes()));
        told
    }

    fn ordered(processes: &[i32]) -> Ordered {
        Ordered { processes: processes.iter().copied().collect(), ..Ordered::default() }
    }

    #[test]
    fn a_death_that_nobody_ordered_and_one_that_is_not_told_are_wrong() {
        let cut = told(&[&DEATH[..20], &DEATH[20..]]);
        assert!(cut.judge(&ordered(&[7])).is_empty());
        assert_eq!(cut.judge(&ordered(&[])).len(), 1);
        let untold = cut.judge(&ordered(&[7, 8]));
        assert_eq!(untold, ["1 of 2 deaths are not in the log"]);
        let replaced = BTreeSet::from([8]);
        assert!(cut.judge(&Ordered { replaced, ..ordered(&[7, 8]) }).is_empty());
        let waits = DEATH.replace("at once", "in 2 s");
        assert_eq!(told(&[&waits]).judge(&ordered(&[7])), [waits.trim_end()]);
    }

    #[test]
    fn what_a_death_must_not_cause_is_wrong_and_what_was_ordered_is_not() {
        let event =
            |vm: &str, kind: &str| format!(" WARN subject=\"vm/{vm}\" kind=\"{kind}\": x\n");
        for (vm, kind, count) in [
            ("a", "renegotiate", 1),
            ("c", "renegotiate", 0),
            ("c", "state_damaged", 1),
            ("b", "adopted", 0),
            ("b", "suspected", 1),
            ("b", "rolled_back", 1),
        ] {
            assert_eq!(told(&[&event(vm, kind)]).judge(&ordered(&[])).len(), count, "{vm} {kind}");
        }
        let panic = "thread 'worker' panicked at x.rs:1:1:\n";
        assert_eq!(told(&[panic]).judge(&ordered(&[])), ["1 panics, 0 were ordered"]);
        let made = Ordered { panics: 1, own_making: 1, ..ordered(&[]) };
        assert!(told(&[panic, &event("b", "suspected")]).judge(&made).is_empty());
    }

    #[test]
    fn a_release_that_is_left_after_a_kill_from_outside_is_not_held_against_it() {
        let left = |how: &str| {
            format!(" ERROR subject=\"base\" kind=\"rolled_back\": the base of it {how}\n")
        };
        assert!(told(&[&left(KILLED)]).judge(&ordered(&[])).is_empty());
        let own = told(&[&left("was killed by signal 6")]).judge(&ordered(&[]));
        assert_eq!(own, ["rolled back 1 times, 0 deaths were a base's own"]);
    }

    #[test]
    fn a_log_that_was_put_aside_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let [log, old] = ["log", "log.1"].map(|name| dir.path().join(name));
        std::fs::write(&log, DEATH.repeat(2)).unwrap();
        let mut told = Told::read_from(log.clone(), old.clone());
        told.read().unwrap();
        std::fs::write(&old, DEATH.repeat(2) + &DEATH.replace('7', "8")).unwrap();
        std::fs::write(&log, DEATH.replace('7', "9")).unwrap();
        told.read().unwrap();
        assert_eq!(told.deaths, BTreeSet::from([7, 8, 9]));
    }
}

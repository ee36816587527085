//! `make bench`: ipvisor beside its peers, in one run, on the same cores, with the same generator.
//!
//! # Theory of operation
//! ```text
//!  core 1  this program: generator, sender and receiver in one thread
//!  core 0  one switch at a time: ipvisor, OVS-DPDK, testpmd, two copies, a bare
//!          forwarder; the others are stopped
//!          (the kernel's taps switch in the sender's time, on core 1)
//! ```
//! Each case (`cases`) gives every contender fresh guests (`generator`) and races them (`race`), or
//! looks at what else counts: processor time, memory, round trips. What is used by every case is on
//! the `stage`. Rounds go to `target/bench/results.json`; promises (`bars`) are judged from them
//! round by round. A case that cannot be measured says why, is counted, and its promises are shown
//! as not measured; the others go on. The exit status says whether everything could be measured, not
//! whether promises hold.
//!
//! `QUICK=1` takes fewer rounds. `ONLY=` names the cases that are wanted (`ONLY=64B,rates`), `ONLY=?`
//! tells which there are. `BESIDE=PATH` lets another build of ipvisor take part in the cases by size:
//! whether a change pays is seen by slices that are a fraction of a second apart. A run without any of
//! these, in which nothing is missing, draws its pictures into `docs/`, others beside the results.
//!
//! # Limits
//! Needs root, two cores that nobody else uses, and huge pages, which are given back.

mod bars;
mod cases;
mod contender;
mod generator;
mod machine;
mod plots;
mod progress;
mod race;
mod results;
mod slice;
mod stage;
mod table;

use std::process::ExitCode;

use lab::error::Attempt;
use lab::{LabError, Result, interrupt};

use cases::CASES;
use machine::HugePages;
use progress::Progress;
use race::Effort;
use results::Results;
use stage::Stage;

/// How long it takes, by default and with `QUICK=1`.
const WHOLE: Effort = Effort { rounds: 10, slices: 20, silences: 20 };
const QUICK: Effort = Effort { rounds: 3, slices: 20, silences: 10 };

fn main() -> ExitCode {
    let progress = Progress::new();
    let outcome = interrupt::watch().and_then(|()| bench(&progress));
    progress.end();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: FAILED: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Which cases `ONLY` names; all of them if it is empty.
fn wanted(only: &str) -> Result<Vec<&'static cases::Case>> {
    let short = |name: &str| name.replace([' ', ','], "");
    let names: Vec<String> = CASES.iter().map(|case| short(case.name)).collect();
    let asked: Vec<String> = only.split(',').map(short).filter(|o| !o.is_empty()).collect();
    if let Some(unknown) = asked.iter().find(|o| !names.contains(o)) {
        let names = names.join(", ");
        return Err(LabError::Unexpected(format!("ONLY: no case `{unknown}`; there are {names}")));
    }
    let is_asked = |name: &String| asked.is_empty() || asked.contains(name);
    Ok(CASES.iter().zip(&names).filter(|(_, name)| is_asked(name)).map(|(case, _)| case).collect())
}

fn bench(progress: &Progress) -> Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = wanted(&only)?;
    let _alone = lab::paths::alone()?;
    let _pages = HugePages::take()?;
    let effort = if is_set("QUICK") { QUICK } else { WHOLE };
    let mut stage = Stage::set(effort, progress)?;
    let (mut measured, mut lacking) = (Vec::new(), Vec::new());
    for case in wanted {
        progress.say(format!("{}: getting ready", case.name));
        match (case.run)(&mut stage) {
            Ok(found) => measured.extend(found),
            Err(error) => {
                interrupt::check()?;
                progress.note(format!("{}: not measured: {error:?}", case.name));
                lacking.push(case.name.to_owned());
                stage.pause()?;
            }
        }
    }
    drop(stage);
    progress.end();
    let judged = bars::PROMISES.iter().map(|promise| bars::judge(promise, &measured));
    let judged: Vec<_> = judged.filter(|bar| only.is_empty() || bar.is_measured()).collect();
    println!("{}\n{}", table::cases(&measured), table::bars(&judged));
    let results = Results { machine: machine::describe(), cases: measured, bars: judged };
    let whole = ["QUICK", "ONLY", "BESIDE"].into_iter().all(|name| !is_set(name));
    let without = results.cases.iter().filter(|m| m.median.is_nan());
    lacking.extend(without.map(|m| format!("{} of {}", m.case, m.contender)));
    write(&results, whole && lacking.is_empty())?;
    match lacking.len() {
        0 => Ok(()),
        n => Err(LabError::Unexpected(format!("{n} not measured: {}", lacking.join(", ")))),
    }
}

/// Whether a switch of the environment is on.
fn is_set(name: &str) -> bool {
    !matches!(std::env::var(name).as_deref(), Err(_) | Ok("" | "0"))
}

/// Writes the file and draws the pictures.
fn write(results: &Results, publish: bool) -> Result<()> {
    let dir = lab::paths::workspace().join("target/bench");
    std::fs::create_dir_all(&dir).attempt(|| format!("create {}", dir.display()))?;
    let path = dir.join("results.json");
    let text = serde_json::to_string_pretty(results)
        .map_err(|e| LabError::Unexpected(format!("results that cannot be written: {e}")))?;
    std::fs::write(&path, text).attempt(|| format!("write {}", path.display()))?;
    println!("written to {}", path.display());
    let pictures = if publish { lab::paths::workspace().join("docs") } else { dir };
    for picture in plots::draw(&pictures, &results.cases)? {
        println!("drawn: {picture}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_asked_for_by_name_with_or_without_blanks() {
        let names = |only| wanted(only).map(|w| w.iter().map(|c| c.name).collect::<Vec<_>>());
        assert_eq!(names("64B, trips").unwrap(), ["64 B", "trips"]);
        assert_eq!(names("").unwrap().len(), CASES.len());
        assert!(format!("{:?}", names("?").unwrap_err()).contains("64KiB"));
    }
}

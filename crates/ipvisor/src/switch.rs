//! `upgrade`, `reload`, and `up` where an instance runs: asks for another base, and waits for it.
//!
//! # Theory of operation
//! ```text
//! what would change? ------> shown; with --dry-run that is all
//!   |
//!   v
//! ask the base that runs --> refused: said, nothing has changed
//!   | begun, or the connection ended: it is about to yield
//!   v
//! ask whoever answers now: the same process, wait; another: how did it come to you?
//! ```
//! The control socket outlives bases, so asking waits for the next one by itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::config;
use base::control::{Change, Client, ClientError, Ps, Switching, TakeoverHow};
use base::entry::exit;
use base::state_dir;
use serde::Serialize;

use crate::difference::{self, Manner};
use crate::failure::{Failure, tell};
use crate::show;

/// How long the next base may take to answer.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of it, for programs.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether there was anything to do.
    changed: bool,
    /// Version of the program that runs now.
    version: String,
    /// Process of the base that runs now.
    base: u32,
    /// The configuration that runs now.
    config: PathBuf,
    /// For how long nobody carried datagrams.
    gap_microseconds: Option<u64>,
    /// What is different now, as far as the base that ran could say.
    changes: Option<Vec<Change>>,
}

/// Goes on with another program, by default with this one.
pub fn upgrade(dir: &Path, binary: Option<&Path>, manner: Manner) -> Result<(), Failure> {
    let mut client = Client::connect(dir)?;
    let binary = match binary {
        Some(path) => absolute(path)?,
        None => this_program()?,
    };
    let before = client.ps()?;
    let version = version_of(&binary)?;
    tell(&format!(
        "{} -> {version}: the next base is started beside the one that runs",
        before.instance.version
    ));
    let asked = client.upgrade(&binary);
    finish(dir, &before, asked, Done { word: "upgraded", changes: Some(Vec::new()) }, manner)
}

/// Goes on with another configuration, by default with what is in the same file now.
pub fn reload(dir: &Path, file: Option<&Path>, manner: Manner) -> Result<(), Failure> {
    let before = Client::connect(dir)?.ps()?;
    let path = match file {
        Some(path) => absolute(path)?,
        None => before.instance.config.clone(),
    };
    // The machine is the instance's to ask; the files and the environment are those of here.
    let loaded = config::load_for_any_machine(&path);
    let (text, _) = loaded.map_err(|errors| Failure::configuration(errors.to_string()))?;
    let changes = difference::of_running(dir, &path, &text, manner)?;
    if manner.dry_run {
        return difference::show_dry(&path, changes, manner);
    }
    tell("the next base is started beside the one that runs");
    let asked = Client::connect(dir)?.reload(&path, &text, None);
    finish(dir, &before, asked, Done { word: "reloaded", changes }, manner)
}

/// `up` where an instance runs already, whose holder is process `holder`. `None` if it turns out that
/// none does: what was left of one has ended meanwhile.
pub fn up_again(
    dir: &Path,
    file: &Path,
    holder: u32,
    manner: Manner,
) -> Result<Option<u8>, Failure> {
    // Said here as `up` says it, whether the instance answers or not.
    let loaded = config::load(file);
    let (text, _) = loaded.map_err(|errors| Failure::configuration(errors.to_string()))?;
    let path = absolute(file)?;
    let Some(mut client) = patiently(dir)? else { return Ok(None) };
    let before = client.ps()?;
    if !manner.json {
        let state_dir = before.instance.state_dir.display();
        let goes = if manner.dry_run { "would go" } else { "goes" };
        show::done(&format!(
            "runs already (process {holder}, state in {state_dir}): it {goes} on with this \
             configuration and this program"
        ))?;
    }
    let changes = difference::of_running(dir, &path, &text, manner)?;
    if manner.dry_run {
        difference::show_dry(&path, changes, manner)?;
        return Ok(Some(exit::CLEAN));
    }
    let asked = Client::connect(dir)?.reload(&path, &text, Some(&this_program()?));
    finish(dir, &before, asked, Done { word: "reloaded", changes }, manner)?;
    Ok(Some(exit::CLEAN))
}

/// Says for programs what an instance that has just begun consists of.
pub fn show_begun(dir: &Path, file: &Path) -> Result<(), Failure> {
    let instance = Client::connect(dir)?.ps()?.instance;
    let changes = difference::of_file(file).ok();
    let (version, base, config) = (instance.version, instance.base, instance.config);
    let gap_microseconds = None;
    show::json(&Report { changed: true, version, base, config, gap_microseconds, changes })?;
    Ok(())
}

/// A client of an instance that may be about to begin, or to end: `None` when it has.
fn patiently(dir: &Path) -> Result<Option<Client>, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Client::connect(dir) {
            Err(ClientError::NotRunning { .. }) if Instant::now() < end => {
                if state_dir::holder_process(dir).ok().flatten().is_none() {
                    return Ok(None);
                }
                std::thread::sleep(PAUSE);
            }
            other => return Ok(Some(other?)),
        }
    }
}

/// What will have been done.
struct Done {
    word: &'static str,
    changes: Option<Vec<Change>>,
}

/// Waits for the next base, and says what came of it.
fn finish(
    dir: &Path,
    before: &Ps,
    asked: Result<Switching, ClientError>,
    done: Done,
    manner: Manner,
) -> Result<(), Failure> {
    let changed = match asked {
        Ok(Switching::Unchanged) => false,
        // A base that rests in a hurry may not have said it.
        Ok(Switching::Begun { .. }) | Err(ClientError::Ended) => true,
        Err(error) => return Err(error.into()),
    };
    let now = if changed { wait(dir, before.instance.base)? } else { before.clone() };
    let instance = now.instance;
    let takeover = &instance.takeover;
    if changed && takeover.how == TakeoverHow::Back {
        let why = takeover.why.as_ref().map_or(String::new(), |why| format!(": it {why}"));
        let text = format!(
            "the next base did not come up{why}; the last good release runs again (process {})",
            instance.base
        );
        return Err(Failure::new(text).hint("`ipvisor events` and the log say more"));
    }
    let gap_microseconds = takeover.gap_microseconds.filter(|_| changed);
    if manner.json {
        let (version, base, config) = (instance.version, instance.base, instance.config);
        let changes = done.changes;
        show::json(&Report { changed, version, base, config, gap_microseconds, changes })?;
    } else if changed {
        let gap = gap_microseconds.map_or(String::new(), |gap| {
            format!("; nobody served for {}.{} ms", gap / 1000, gap % 1000 / 100)
        });
        let (version, base) = (&instance.version, instance.base);
        let word = done.word;
        show::done(&format!("{word}: version {version}, base is process {base}{gap}"))?;
    } else {
        show::done("nothing to change")?;
    }
    Ok(())
}

/// Waits until a base other than `before` answers.
fn wait(dir: &Path, before: u32) -> Result<Ps, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        let asked = Client::connect(dir).and_then(|mut client| {
            client.set_patience(end.saturating_duration_since(Instant::now()).max(PAUSE))?;
            client.ps()
        });
        match asked {
            Ok(ps) if ps.instance.base != before => return Ok(ps),
            Err(error @ ClientError::NotAllowed { .. }) => return Err(error.into()),
            _ if Instant::now() >= end => {
                return Err(Failure::new("no base answers since then").hint("see the log"));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path);
    path.map_err(|e| Failure::new(format!("cannot find the working directory: {e}")))
}

/// The file of the program that runs.
fn this_program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()
        .map_err(|e| Failure::new(format!("cannot find this program's file: {e}")))?;
    if path.exists() {
        return Ok(path);
    }
    let text = format!("this program's file, {}, is there no longer", path.display());
    Err(Failure::new(text).hint("name the new one: `ipvisor upgrade FILE`"))
}

/// What a program says that it is, if it is one of ours.
fn version_of(binary: &Path) -> Result<String, Failure> {
    let shown = binary.display();
    let output = std::process::Command::new(binary)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| Failure::new(format!("cannot run {shown}: {e}")))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("ipvisor ") {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => Err(Failure::new(format!("{shown} does not say that it is ipvisor"))
            .hint("`FILE --version` must answer `ipvisor` and a version")),
    }
}

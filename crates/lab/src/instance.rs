//! A running `ipvisor`, as its operator has it: started with a file, asked, ended.
//!
//! # Theory of operation
//! Everything goes through the command itself (`up --detach`, `ps --json`, `counters --json`,
//! `down`), run inside the namespace that plays the host, so that what is tested is what people
//! type. Only a VM's console is asked for over the control socket: the command of that name is for
//! people.
//!
//! When an [`Instance`] is dropped it is ended by `down`; what does not end then goes with the
//! namespace.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{Finished, finish, output, wait_until};
use crate::error::{Attempt, LabError, Result};
use crate::faults::FAULT;
use crate::guest::Guest;
use crate::netns::Netns;
use crate::paths;

/// How many workers an instance has whose configuration does not say: a number.
pub const WORKERS: &str = "IPVISOR_TEST_WORKERS";

/// What [`WORKERS`] says; one, if it says nothing.
pub fn workers() -> Result<usize> {
    match std::env::var(WORKERS) {
        Ok(number) if !number.is_empty() => number
            .parse()
            .map_err(|_| LabError::Unexpected(format!("{WORKERS} is {number:?}, not a number"))),
        _ => Ok(1),
    }
}

/// The configuration with so many workers, if it says nothing of them itself.
fn with_workers(config: &str) -> Result<String> {
    if config.lines().any(|line| line.starts_with("workers")) {
        return Ok(config.to_owned());
    }
    // Above all tables.
    Ok(match workers()? {
        1 => config.to_owned(),
        several => format!("workers = {several}\n{config}"),
    })
}

/// A running instance.
#[derive(Debug)]
pub struct Instance {
    program: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    space: String,
    dir: TempDir,
    running: bool,
}

/// All counters by owner (`vm/NAME`, `uplink/NETWORK`, `host/NETWORK`) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<String, BTreeMap<String, u64>>);

impl Counters {
    /// One counter; zero if the owner has none of that name.
    pub fn get(&self, owner: &str, name: &str) -> u64 {
        self.0.get(owner).and_then(|c| c.get(name)).copied().unwrap_or(0)
    }

    /// What was added since `before`, without zeroes.
    pub fn since(&self, before: &Self) -> Self {
        let mut grown: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (owner, counters) in &self.0 {
            for (name, value) in counters {
                let more = value.saturating_sub(before.get(owner, name));
                if more > 0 {
                    grown.entry(owner.clone()).or_default().insert(name.clone(), more);
                }
            }
        }
        Self(grown)
    }
}

impl Instance {
    /// Starts an instance inside `space` with this configuration; gives it back when the command
    /// says that it runs.
    pub fn up(space: &Netns, config: &str) -> Result<Self> {
        Self::up_by(&paths::ipvisor()?, space, config, Vec::new())
    }

    /// The same with the program that does wrong where it is told to, and this fault.
    pub fn up_with_fault(space: &Netns, config: &str, fault: &str) -> Result<Self> {
        Self::up_by(&paths::ipvisor_with_faults()?, space, config, vec![(FAULT, fault.into())])
    }

    /// The same with the optimised program, for tests that carry millions.
    pub fn up_fast(space: &Netns, config: &str) -> Result<Self> {
        Self::up_by(&paths::ipvisor_with_faults()?, space, config, Vec::new())
    }

    /// The same with any program and these variables in its environment.
    pub fn up_by(
        program: &Path,
        space: &Netns,
        config: &str,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ipv-").tempdir();
        let dir = dir.attempt(|| "create a temporary directory".to_owned())?;
        let (program, space) = (program.to_owned(), space.name().to_owned());
        let made = Self { program, environment, space, dir, running: true };
        let file = made.config_path();
        let config = with_workers(config)?;
        std::fs::write(&file, config).attempt(|| format!("write {}", file.display()))?;
        let mut command = made.command("up");
        output(command.arg(&file).arg("--detach")).map_err(|error| {
            LabError::Unexpected(format!("{error}\nits messages:\n{}", made.messages()))
        })?;
        Ok(made)
    }

    /// The command with its state directory, inside the namespace.
    pub fn command(&self, what: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(&self.program).arg(what);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("--state-dir").arg(self.state_dir());
        command
    }

    /// Runs the command with these words, whatever comes of it.
    pub fn finish(&self, words: &[&str]) -> Result<Finished> {
        let (what, rest) = words.split_first().unwrap_or((&"", &[]));
        finish(self.command(what).args(rest))
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The configuration's file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// A directory for files that live as long as the instance.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the instance wrote to its log.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.state_dir().join("log")).unwrap_or_default()
    }

    fn json(&self, what: &str) -> Result<Value> {
        let text = output(self.command(what).arg("--json"))?;
        serde_json::from_str(&text)
            .map_err(|e| LabError::Unexpected(format!("`ipvisor {what} --json`: {e} in {text}")))
    }

    /// What `ps` shows.
    pub fn ps(&self) -> Result<Value> {
        self.json("ps")
    }

    /// The base's process, which changes when a successor takes over.
    pub fn base_process(&self) -> Result<i32> {
        let ps = self.ps()?;
        let number = ps.pointer("/instance/base").and_then(Value::as_i64);
        number
            .and_then(|n| i32::try_from(n).ok())
            .ok_or_else(|| LabError::Unexpected(format!("no process of the base in {ps}")))
    }

    /// Kills the base (SIGKILL) at once; its holder starts a successor.
    pub fn kill_base(&self) -> Result<i32> {
        let number = self.base_process()?;
        Pid::from_raw(number)
            .ok_or(rustix::io::Errno::INVAL)
            .and_then(|pid| kill_process(pid, Signal::KILL))
            .attempt(|| format!("kill the base, process {number}"))?;
        Ok(number)
    }

    /// Waits until a base other than `before` answers; gives its process.
    pub fn wait_successor(&self, before: i32, limit: Duration) -> Result<i32> {
        wait_until(
            limit,
            || format!("a successor of the base {before}"),
            || Ok(self.base_process().ok().filter(|&now| now != before)),
        )
    }

    /// The process of the holder.
    pub fn holder_process(&self) -> Result<i32> {
        let ps = self.ps()?;
        let number = ps.pointer("/instance/holder").and_then(Value::as_i64);
        number
            .and_then(|n| i32::try_from(n).ok())
            .ok_or_else(|| LabError::Unexpected(format!("no process of the holder in {ps}")))
    }

    /// Waits for an event of this kind about this subject (`vm/web`, `network/lan`), in whose text
    /// `word` occurs.
    pub fn wait_event(&self, kind: &str, subject: &str, word: &str) -> Result<Value> {
        let is = |event: &Value, name: &str, wanted: &str| {
            event.get(name).and_then(Value::as_str) == Some(wanted)
        };
        let fits = |event: &Value| {
            let text = event.get("text").and_then(Value::as_str).unwrap_or_default();
            is(event, "kind", kind) && is(event, "subject", subject) && text.contains(word)
        };
        let limit = Duration::from_secs(10);
        wait_until(
            limit,
            || format!("event {kind} about {subject} with `{word}`, among {:?}", self.events()),
            || Ok(self.events()?.into_iter().find(|e| fits(e))),
        )
    }

    /// All counters.
    pub fn counters(&self) -> Result<Counters> {
        Self::read_counters(&self.json("counters")?)
    }

    /// The same without a process: where a test asks a thousand times.
    pub fn counters_at_once(&self) -> Result<Counters> {
        Self::read_counters(&self.ask(&json!({"do": "counters"}))?)
    }

    fn read_counters(shown: &Value) -> Result<Counters> {
        let read = || -> Option<Counters> {
            let mut found = Counters::default();
            for owner in shown.as_array()? {
                let name = owner.get("owner")?.as_str()?.to_owned();
                let counters = owner.get("counters")?.as_object()?;
                let values = counters.iter().map(|(k, v)| Some((k.clone(), v.as_u64()?)));
                found.0.insert(name, values.collect::<Option<_>>()?);
            }
            Some(found)
        };
        read().ok_or_else(|| LabError::Unexpected(format!("not counters: {shown}")))
    }

    /// Events so far, oldest first.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = output(self.command("events").arg("--json"))?;
        let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        values
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| LabError::Unexpected(format!("`ipvisor events --json`: {e} in {text}")))
    }

    /// Asks over the control socket.
    pub fn ask(&self, request: &Value) -> Result<Value> {
        let socket = self.state_dir().join("control.sock");
        let what = || format!("ask {request} at {}", socket.display());
        let mut stream = UnixStream::connect(&socket).attempt(what)?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).attempt(what)?;
        writeln!(stream, "{request}").attempt(what)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).attempt(what)?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|e| LabError::Unexpected(format!("{}: {e} in {line:?}", what())))?;
        match answer.get("ok") {
            Some(ok) => Ok(ok.clone()),
            None => Err(LabError::Unexpected(format!("{}: {answer}", what()))),
        }
    }

    /// Attaches to the console of a VM and waits for its shell.
    pub fn guest(&self, vm: &str, limit: Duration) -> Result<Guest> {
        let answer = self.ask(&json!({"do": "console", "vm": vm}))?;
        let socket = answer
            .get("socket")
            .and_then(Value::as_str)
            .ok_or_else(|| LabError::Unexpected(format!("no console of {vm}: {answer}")))?;
        let logs = paths::cache().join("logs");
        std::fs::create_dir_all(&logs).attempt(|| format!("create {}", logs.display()))?;
        let log = logs.join(format!("{}-{vm}.console", self.space));
        Guest::attach(vm, Path::new(socket), &log, limit)
    }

    /// Where the port of an external VM listens, if its configuration says so by `name`.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// Ends the instance; it must do so in good order.
    pub fn down(mut self) -> Result<()> {
        self.running = false;
        output(&mut self.command("down")).map(drop)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.running {
            let _ = finish(&mut self.command("down"));
        }
    }
}

/// Processor time that all threads of a process have used.
pub fn processor_time(process: i32) -> Result<Duration> {
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let what = || format!("read {}", tasks.display());
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(&tasks).attempt(what)? {
        let path = task.attempt(what)?.path().join("schedstat");
        // A thread that has ended meanwhile has nothing to add.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let used = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        nanoseconds += used.unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_leaves_out_what_stayed() {
        let counters = |a, b| {
            let inner = [("taken", a), ("to_vm", b)].map(|(n, v)| (n.to_owned(), v)).into();
            Counters([("vm/web".to_owned(), inner)].into())
        };
        let grown = counters(5, 7).since(&counters(5, 3));
        assert_eq!(grown.0["vm/web"], [("to_vm".to_owned(), 4)].into());
        assert_eq!(grown.get("vm/web", "taken"), 0);
    }
}

//! Runs programs: to their end with their output, or in the background until dropped.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Attempt, LabError, Result};
use crate::interrupt;

/// How a command is shown to people.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let text = argument.to_string_lossy();
        line.push(' ');
        if text.is_empty() || text.contains([' ', '\n', '"', '\'']) {
            line.push_str(&format!("{text:?}"));
        } else {
            line.push_str(&text);
        }
    }
    line
}

/// What a program said on its standard output, and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end, whatever that is.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let out = command.stdin(Stdio::null()).output().attempt(|| shown(command))?;
    Ok(Finished {
        status: out.status,
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// Runs a program that must succeed, and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let end = finish(command)?;
    if end.status.success() {
        return Ok(end.stdout);
    }
    Err(LabError::Command {
        command: shown(command),
        status: end.status.to_string(),
        output: format!("{}{}", end.stdout, end.stderr).trim().to_owned(),
    })
}

/// A command line given as one string, split at blanks (no quoting).
pub fn words(line: &str) -> Command {
    let mut parts = line.split_whitespace();
    let mut command = Command::new(parts.next().unwrap_or_default());
    command.args(parts);
    command
}

/// Runs a command line that must succeed (split at blanks, no quoting).
pub fn run(line: &str) -> Result<String> {
    output(&mut words(line))
}

/// Polls until `ready` gives something, the time is over, or the program is asked to end.
pub fn wait_until<T>(
    limit: Duration,
    what: impl FnOnce() -> String,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        interrupt::check()?;
        if let Some(found) = ready()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(LabError::Timeout { what: what(), limit });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program in the background; killed and reaped when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    shown: String,
}

impl Background {
    /// Starts a program. What it says goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).attempt(|| format!("create {}", log.display()))?;
        let again = file.try_clone().attempt(|| format!("duplicate {}", log.display()))?;
        command.stdout(file).stderr(again);
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// Starts a program with the standard streams that the command has.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let shown = shown(command);
        let child = command.spawn().attempt(|| shown.clone())?;
        Ok(Self { child, shown })
    }

    /// Process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().attempt(|| format!("wait for `{}`", self.shown))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .attempt(|| format!("signal `{}`", self.shown))
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let shown = self.shown.clone();
        wait_until(limit, || format!("the end of `{shown}`"), || self.ended())
    }

    /// Asks it to end (SIGTERM) and waits; kills it when it does not.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(rustix::process::Signal::TERM)?;
        self.wait(limit)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no"), "{text}");
    }

    #[test]
    fn a_program_in_the_background_ends_with_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let program = Background::start(&mut words("sleep 1000"), &dir.path().join("log")).unwrap();
        let id = program.id();
        drop(program);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}

//! Steps of something long, shown as they are done, each with its time; and the programs they run.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use base::engine::spawn::find_program;

use crate::failure::Failure;

/// Octets of what a program said that are passed on when it failed.
const LAST_WORDS: usize = 4096;

/// The steps of one piece of work.
pub struct Steps(Instant);

impl Steps {
    /// The work begins.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Does one step, and says how long it took.
    pub fn run<T>(
        &self,
        what: &str,
        step: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut out = anstream::stderr();
        // Whoever closed our standard error does not want to know.
        let _ = write!(out, "{what:<22}").and_then(|()| out.flush());
        let began = Instant::now();
        let done = step();
        let word = if done.is_ok() { "" } else { "  failed" };
        let _ = writeln!(out, "{:>7.1} s{word}", began.elapsed().as_secs_f64());
        done
    }

    /// Time since the beginning, for people.
    pub fn elapsed(&self) -> String {
        format!("{:.0} s", self.0.elapsed().as_secs_f64())
    }
}

/// Sees to it that programs are there, each named with its Debian package.
pub fn need(tools: &[(&str, &str)]) -> Result<(), Failure> {
    let missing = tools.iter().filter(|(program, _)| find_program(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let packages = packages.join(" ");
    Err(Failure::new(format!("not installed: {packages}"))
        .hint(format!("Debian: apt install {packages}")))
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) -> Result<(), Failure> {
    output(command).map(drop)
}

/// The same, with this text to read.
pub fn feed(command: &mut Command, text: &str) -> Result<(), Failure> {
    let name = command_name(command);
    let failed = |e| cannot_start(&name, &e);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says why when it ends.
        let _ = stdin.write_all(text.as_bytes());
    }
    let ended = child.wait_with_output().map_err(failed)?;
    judge(&name, &ended).map(drop)
}

/// The same, with what it wrote.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let ended = command.stdin(Stdio::null()).output();
    let name = command_name(command);
    judge(&name, &ended.map_err(|e| cannot_start(&name, &e))?)
}

fn command_name(command: &Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    // A wrapper's name says nothing.
    let args = command.get_args().map(|a| a.to_string_lossy());
    let wrapped = args.skip_while(|a| a != "--").nth(1);
    wrapped.filter(|_| name == "unshare").map_or(name, |w| w.into_owned())
}

fn cannot_start(name: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot run {name}: {error}"))
}

fn judge(name: &str, ended: &std::process::Output) -> Result<String, Failure> {
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let from = said.len().saturating_sub(LAST_WORDS);
    let from = (from..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(0);
    Err(Failure::new(format!("{name} failed ({}):\n{}", ended.status, said[from..].trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_named_with_its_last_words() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "mmdebstrap", "--x"]);
        assert_eq!(command_name(&command), "mmdebstrap");
        let script = "read line; echo \"$line, and no more\" >&2; exit 3";
        let failed = feed(Command::new("sh").args(["-c", script]), "so far\n").unwrap_err();
        let text = format!("{failed:?}");
        assert!(
            text.contains("sh failed (exit status: 3)") && text.contains("so far, and no more")
        );
        assert_eq!(output(Command::new("sh").args(["-c", "echo yes"])).unwrap(), "yes\n");
    }

    #[test]
    fn what_is_not_installed_is_said_with_its_package() {
        need(&[("sh", "dash")]).unwrap();
        let missing = need(&[("sh", "dash"), ("no-such-program", "its-package")]).unwrap_err();
        assert!(format!("{missing:?}").contains("apt install its-package"));
    }
}

//! Runs this program under callgrind and reads how many instructions its worker spent.

use std::io;
use std::process::Command;

use crate::cases::Case;

/// Valgrind shows every program the same processor but for AVX2, which it has where the machine has
/// it. Without what follows the C library would copy by 32 octets on one machine and by 16 on
/// another.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX512VL,-AVX_Fast_Unaligned_Load,-ERMS,-SSSE3:\
                        glibc.cpu.x86_non_temporal_threshold=0x1000000";

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started, or a file not be read.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A run failed.
    #[error("`{command}` ended with {status}:\n{said}")]
    Run {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// Callgrind wrote something else than expected.
    #[error("no sum in callgrind's file about the worker's thread")]
    NoSum,
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// The compiler, by its own word.
pub fn compiler() -> Result<String, Error> {
    let name = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let said = Command::new(&name).arg("--version").output().map_err(failed(name))?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Instructions of the base for one datagram of a case.
pub fn count(case: &Case) -> Result<u64, Error> {
    let [short, long] = case.runs;
    let difference = run(case, long)?.saturating_sub(run(case, short)?);
    let datagrams = u64::from(long - short);
    Ok((difference + datagrams / 2) / datagrams)
}

/// Instructions of the worker's thread in a run with so many datagrams.
fn run(case: &Case, datagrams: u16) -> Result<u64, Error> {
    let dir = tempfile::tempdir().map_err(failed("a temporary directory"))?;
    let file = dir.path().join("out");
    let own = std::env::current_exe().map_err(failed("this program's file"))?;
    let mut command = match case.needs_card() {
        true => {
            let mut command = Command::new("unshare");
            command.args(["--net", "valgrind"]);
            command
        }
        false => Command::new("valgrind"),
    };
    command.args(["-q", "--tool=callgrind", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(own).args(["run", case.name, &datagrams.to_string()]);
    command.env("GLIBC_TUNABLES", TUNABLES);
    let end = command.output().map_err(failed(format!("{command:?}")))?;
    if !end.status.success() {
        let said = String::from_utf8_lossy(&end.stderr).trim().to_owned();
        return Err(Error::Run { command: format!("{command:?}"), status: end.status, said });
    }
    // Threads are numbered as they are started: the second is the worker's.
    let file = dir.path().join("out-02");
    let text = std::fs::read_to_string(&file).map_err(failed(file.display().to_string()))?;
    sum(&text).ok_or(Error::NoSum)
}

fn sum(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_found_where_callgrind_writes_it() {
        assert_eq!(sum("thread: 2\n\nevents: Ir\nsummary: 325511\n\nfn=(1)\n0 5\n"), Some(325_511));
        assert_eq!(sum("thread: 2\n\nevents: Ir\n"), None);
    }
}

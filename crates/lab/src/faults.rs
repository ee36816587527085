//! Tests run against a base that does wrong on purpose: they must fail.
//!
//! # Theory of operation
//! `scripts/faults` builds the base with the feature `fault-injection`. A test program runs one of
//! its own tests again, as a process with an environment that names that base and a fault
//! ([`run_test`]). What a fault does: `crates/datapath/src/faults/spoil.rs`.

use std::process::Command;

use crate::command::finish;
use crate::error::{Attempt, Result};
use crate::paths;

/// Names the fault to the base.
pub const FAULT: &str = "IPVISOR_FAULT";

/// How a test ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// It passed.
    pub passed: bool,
    /// It ran and failed: not that it could not be run.
    pub failed: bool,
    /// What it said.
    pub text: String,
}

/// Makes `command` use the base with this fault; with none the base is right, in the same build.
pub fn break_base<'a>(command: &'a mut Command, fault: &str) -> Result<&'a mut Command> {
    Ok(command.env(paths::INSTEAD, paths::ipvisor_with_faults()?).env(FAULT, fault))
}

/// Runs one test of the running test program with this fault.
pub fn run_test(name: &str, fault: &str) -> Result<Ended> {
    let program = std::env::current_exe().attempt(|| "find the running program".to_owned())?;
    let mut command = Command::new(program);
    command.args(["--exact", name, "--test-threads=1"]).env("RUST_BACKTRACE", "0");
    let end = finish(break_base(&mut command, fault)?)?;
    let text = end.stdout + &end.stderr;
    let passed = end.status.success() && text.contains("test result: ok. 1 passed; 0 failed");
    let failed = text.contains("test result: FAILED. 0 passed; 1 failed");
    Ok(Ended { passed, failed, text })
}

/// Checks that tests pass as long as the base is right, and that each fails with its fault. Both
/// parts of the table are needed: a test that fails anyway shows nothing.
pub fn assert_noticed(table: &[(&str, &str)]) -> Result<()> {
    let mut tests: Vec<_> = table.iter().map(|(_, test)| *test).collect();
    tests.sort_unstable();
    tests.dedup();
    for test in tests {
        let ended = run_test(test, "")?;
        assert!(ended.passed, "{test} without a fault:\n{}", ended.text);
    }
    for (fault, test) in table {
        let ended = run_test(test, fault)?;
        assert!(ended.failed, "{test} with the fault `{fault}`:\n{}", ended.text);
    }
    Ok(())
}

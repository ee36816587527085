//! `ipvisor`: the command that people type, and all processes of an instance.
//!
//! # Theory of operation
//! `args` says what can be typed. `up` becomes the holder of a new instance; all other commands
//! talk to a running one through its control socket and show the answer: `show` for people, as JSON
//! for programs. The hidden commands are how holder and base start each other.
//!
//! # Exit status
//! 0: done. 1: it failed, or the instance refused. 2: the configuration or the command line is
//! wrong, and nothing was started.

mod args;
mod commands;
mod console;
mod difference;
mod doctor;
mod down;
mod failure;
mod image;
mod logs;
mod plain;
mod rates;
mod show;
mod ssh;
mod switch;
mod tail;
mod top;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.show();
            ExitCode::from(failure.status)
        }
    }
}

//! Writes the manual pages and the completions for shells.
//!
//! `cargo run -p ipvisor --example generate -- DIRECTORY` makes them out of what there is anyway: the
//! command line's one definition (`src/args.rs`) and the one list of the configuration's keys. So the
//! program itself carries nothing that only packages need, and nothing can be described that is not.
//!
//! ```text
//! DIRECTORY/man1/ipvisor.1, ipvisor-up.1, ...     one page a command
//! DIRECTORY/man5/ipvisor.toml.5                   the configuration
//! DIRECTORY/bash/ipvisor  fish/ipvisor.fish  zsh/_ipvisor
//! ```

#[path = "../../src/args.rs"]
#[allow(dead_code, reason = "what is typed is only described here")]
mod args;
mod configuration;
#[path = "."]
mod console {
    #[path = "../../src/console/escape.rs"]
    #[allow(dead_code, reason = "its default is described, no key is pressed")]
    pub mod escape;
}

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: generate DIRECTORY");
        return ExitCode::from(2);
    };
    match write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let place = |name: &str| -> io::Result<PathBuf> {
        let place = directory.join(name);
        fs::create_dir_all(&place)?;
        Ok(place)
    };
    clap_mangen::generate_to(args::Args::command(), place("man1")?)?;
    fs::write(place("man5")?.join("ipvisor.toml.5"), configuration::page()?)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let place = place(&shell.to_string())?;
        generate_to(shell, &mut args::Args::command(), "ipvisor", &place)?;
    }
    // Where bash looks for a command's completion, it has the command's name.
    let bash = directory.join("bash");
    fs::rename(bash.join("ipvisor.bash"), bash.join("ipvisor"))
}

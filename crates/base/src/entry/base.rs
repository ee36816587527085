//! The base's first steps: take over from a predecessor, then run the instance.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, exit};
use crate::keeper::{self, Hello, HolderKeeper, HolderLink, Inheritance};
use crate::state_dir::StateDir;
use crate::words;

/// What the holder tells a base on its command line.
#[derive(Clone, Debug)]
pub struct BaseArguments {
    /// The locked state directory.
    pub state_dir: PathBuf,
    /// The configuration file that `up` named, absolute.
    pub config: PathBuf,
}

/// All that an instance starts from.
#[derive(Debug)]
pub struct Start {
    /// Where its sockets go.
    pub state_dir: StateDir,
    /// The configuration file that `up` named: what messages call it, and what relative paths in
    /// it are relative to (its directory).
    pub config: PathBuf,
    /// Which base this is, and why there was no end to the one before.
    pub hello: Hello,
    /// What the one before left.
    pub inheritance: Inheritance,
    /// Where to register descriptors, and to say ready and alive.
    pub keeper: Arc<HolderKeeper>,
    /// What the holder has to say.
    pub link: HolderLink,
}

impl Start {
    /// Whether there was a base before this one that served.
    pub fn is_takeover(&self) -> bool {
        self.hello.generation > 0
    }

    /// The text of the configuration to run: for a successor the copy that was accepted, whatever
    /// has become of the file since.
    pub fn config_text(&self) -> Result<String, Failure> {
        let accepted = self.state_dir.accepted_config();
        let path = if accepted.exists() { &accepted } else { &self.config };
        std::fs::read_to_string(path).map_err(|e| {
            Failure::configuration(format!("cannot read the configuration {}: {e}", path.display()))
        })
    }
}

/// Is the base: takes over, then runs `instance` until it ends. Returns the exit status.
pub fn base<F>(arguments: BaseArguments, instance: impl FnOnce(Start) -> F) -> u8
where
    F: Future<Output = Result<(), Failure>>,
{
    die_of_panics();
    log_to_stderr();
    match run(arguments, instance) {
        Ok(()) => exit::CLEAN,
        Err(failure) => {
            let word = if failure.is_report() { "" } else { "error: " };
            words::say(&format!("{word}{}\n", failure.message.trim_end()));
            failure.status
        }
    }
}

fn run<F>(arguments: BaseArguments, instance: impl FnOnce(Start) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let socket = take_stdin()?;
    let (hello, inheritance) = keeper::receive(&socket)?;
    let keeper = Arc::new(HolderKeeper::new(socket.try_clone()?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let link = HolderLink::new(socket)?;
        let state_dir = StateDir::at(arguments.state_dir);
        let config = arguments.config;
        instance(Start { state_dir, config, hello, inheritance, keeper, link }).await
    })
}

/// The holder's socket, out of the way of whatever reads standard input.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// A panic in any thread ends the whole base: a successor takes over whole, half a base does not.
fn die_of_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => trace.to_string(),
            _ => String::new(),
        };
        words::say(&format!("thread '{}' {info}\n{trace}", thread.name().unwrap_or("?")));
        std::process::abort();
    }));
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("IPVISOR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(words::Writer::default)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .try_init();
}

//! The base's first steps: take over from a predecessor, then run the instance.
//!
//! A base that is started beside one that serves does first whatever can be done without anything
//! of the other's, says so, and waits to be handed all of it ([`Start::take_over`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, exit};
use crate::keeper::{self, Hello, HolderKeeper, HolderLink, Inheritance, Opening};
use crate::state_dir::StateDir;
use crate::words;

/// What the holder tells a base on its command line.
#[derive(Clone, Debug)]
pub struct BaseArguments {
    /// The locked state directory.
    pub state_dir: PathBuf,
    /// What its release says.
    pub release: ReleaseArguments,
}

/// The words of a release: what one base is told and another is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseArguments {
    /// The configuration file that was named last, absolute.
    pub config: PathBuf,
    /// The copy of what was in it when it was accepted: its name in the state directory.
    pub accepted: String,
}

impl ReleaseArguments {
    /// As they stand on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let Self { config, accepted } = self;
        vec!["--config".into(), config.into(), "--accepted".into(), accepted.into()]
    }
}

/// All that an instance starts from.
#[derive(Debug)]
pub struct Start {
    /// Where its sockets go.
    pub state_dir: StateDir,
    /// The configuration: where it was read, which messages call it by and relative paths in it
    /// are relative to, and the copy of it that was accepted.
    pub release: ReleaseArguments,
    /// Which base this is, and why there was no end to the one before.
    pub hello: Hello,
    /// What the one before left.
    pub inheritance: Inheritance,
    /// What one that still serves has, to be looked at and not to be touched.
    pub preview: Inheritance,
    /// Where to register descriptors, and to say ready and alive.
    pub keeper: Arc<HolderKeeper>,
    /// What the holder has to say.
    pub link: HolderLink,
    /// The holder's socket, as long as another base serves and all is still to be handed over.
    beside: Option<OwnedFd>,
}

impl Start {
    /// Whether there was a base before this one that served.
    pub fn is_takeover(&self) -> bool {
        self.beside.is_some() || self.hello.generation > 0
    }

    /// The text of the configuration to run: for a successor the copy that was accepted, whatever
    /// has become of the file since.
    pub fn config_text(&self) -> Result<String, Failure> {
        let accepted = self.state_dir.accepted_config(&self.release.accepted);
        let path = if self.is_takeover() { &accepted } else { &self.release.config };
        std::fs::read_to_string(path).map_err(|e| {
            Failure::configuration(format!("cannot read the configuration {}: {e}", path.display()))
        })
    }

    /// Everything is prepared that can be: of a base that still serves, if there is one, this asks
    /// for all that is its, and waits for it. It can read these `layouts` of the state memory.
    pub fn take_over(&mut self, layouts: RangeInclusive<u32>) -> Result<(), Failure> {
        if let Some(socket) = self.beside.take() {
            self.keeper.prepared(layouts)?;
            (self.hello, self.inheritance) = keeper::receive(&socket)?;
            self.keeper.inherit(&self.inheritance)?;
        }
        Ok(())
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
    let opening = keeper::open(&socket)?;
    let keeper = Arc::new(HolderKeeper::new(socket.try_clone()?));
    let (hello, inheritance, preview) = match opening {
        Opening::TakeOver(hello, inheritance) => (Some(hello), inheritance, None),
        Opening::Prepare(preview) => (None, Inheritance::default(), Some(preview)),
    };
    let beside = if hello.is_none() { Some(socket.try_clone()?) } else { None };
    let (hello, preview) = (hello.unwrap_or_default(), preview.unwrap_or_default());
    keeper.inherit(&inheritance)?;
    let was_beside = beside.is_some();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let link = HolderLink::new(socket)?;
        let state_dir = StateDir::at(arguments.state_dir);
        let (release, keeper) = (arguments.release, keeper.clone());
        let start = Start { state_dir, release, hello, inheritance, preview, keeper, link, beside };
        instance(start).await
    });
    if let Err(failure) = &result
        && was_beside
    {
        // Whoever asked for this base is told; if it serves already, this means nothing.
        let _ = keeper.cannot(&failure.message);
    }
    result
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

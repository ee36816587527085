//! `up`: take the lock, then be the holder or start one that outlives the terminal.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Failure, ReleaseArguments, exit};
use crate::holder::process::Program;
use crate::holder::{self, Options};
use crate::state_dir::{Lock, StateDir};

/// Octet by which a detached holder says that the instance serves.
const SERVES: u8 = 0x06;

/// What `up` was asked.
#[derive(Clone, Debug)]
pub struct UpArguments {
    /// The configuration file.
    pub config: PathBuf,
    /// Where its state is to be; made if it does not exist.
    pub state_dir: PathBuf,
}

/// What a detached holder is told on its command line. Its standard input is the lock, its standard
/// output is where it says that it serves, its standard error is the log.
#[derive(Clone, Debug)]
pub struct HolderArguments {
    /// The configuration file, absolute.
    pub config: PathBuf,
    /// The locked state directory.
    pub state_dir: PathBuf,
    /// Whether the directory was made by `up`.
    pub made_directory: bool,
}

/// A detached instance that serves.
#[derive(Clone, Debug)]
pub struct Detached {
    /// Process of its holder.
    pub holder: u32,
    /// Its state directory.
    pub state_dir: PathBuf,
}

/// Becomes the holder of a new instance, in the foreground. Returns the exit status when the
/// instance has ended.
pub fn up(arguments: &UpArguments) -> Result<u8, Failure> {
    let config = find(&arguments.config)?;
    let (dir, lock) = StateDir::lock(&arguments.state_dir)?;
    Ok(holder::run(&dir, lock, options(&dir, config)))
}

/// Starts a new instance that goes on when this process ends, and waits until it serves.
pub fn up_detached(arguments: &UpArguments) -> Result<Detached, Failure> {
    let config = find(&arguments.config)?;
    let (dir, lock) = StateDir::lock(&arguments.state_dir)?;
    let made = if lock.made_directory() { "yes" } else { "no" };
    let holder = Program::this([
        "__holder".into(),
        OsString::from("--config"),
        config.into(),
        "--state-dir".into(),
        dir.path().into(),
        "--made-directory".into(),
        made.into(),
    ]);
    start_detached(&holder, &dir, lock)
}

/// Starts `holder` with the lock and waits for its word.
pub fn start_detached(holder: &Program, dir: &StateDir, lock: Lock) -> Result<Detached, Failure> {
    let (mut log, log_start) = match open_log(dir) {
        Ok(log) => log,
        Err(error) => {
            dir.remove(lock, true);
            return Err(error);
        }
    };
    let mut child = holder
        .command()
        .stdin(Stdio::from(lock.into_fd()))
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .spawn()?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        let mut octets = [0; 256];
        while !said.contains(&SERVES) {
            match stdout.read(&mut octets) {
                Ok(n @ 1..) => said.extend_from_slice(octets.get(..n).unwrap_or_default()),
                _ => break,
            }
        }
    }
    if said.contains(&SERVES) {
        return Ok(Detached { holder: child.id(), state_dir: dir.path().to_owned() });
    }
    let ended = child.wait()?;
    // The holder has removed the file by now; this descriptor still reads it.
    let mut message = String::new();
    log.seek(SeekFrom::Start(log_start))?;
    log.read_to_string(&mut message)?;
    let status = ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED);
    Err(Failure { status, message })
}

/// Is the holder of a detached instance: `start_detached` has started this process. Returns the
/// exit status when the instance has ended.
pub fn detached_holder(arguments: &HolderArguments) -> Result<u8, Failure> {
    let dir = StateDir::at(&arguments.state_dir);
    let options = options(&dir, arguments.config.clone());
    be_detached_holder(&dir, arguments.made_directory, options)
}

/// The same with other options.
pub fn be_detached_holder(
    dir: &StateDir,
    made_directory: bool,
    options: Options,
) -> Result<u8, Failure> {
    let lock = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    let lock = Lock::from_parent(lock, made_directory);
    Ok(holder::run(dir, lock, Options { detached: true, on_ready: say_serves, ..options }))
}

fn say_serves() {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(&[SERVES]).and_then(|()| stdout.flush());
    // Who waits for the end of our output waits no longer.
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

/// The log and where it ends now.
fn open_log(dir: &StateDir) -> Result<(File, u64), Failure> {
    let path = dir.log_file();
    let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
    open.and_then(|mut log| log.seek(SeekFrom::End(0)).map(|end| (log, end)))
        .map_err(|e| Failure::failed(format!("cannot open the log {}: {e}", path.display())))
}

fn options(dir: &StateDir, config: PathBuf) -> Options {
    let release = ReleaseArguments { config, accepted: StateDir::FIRST_ACCEPTED.to_owned() };
    Options { words: release.words(), ..Options::new(base_program(dir.path())) }
}

/// How every base is started, whatever its release says besides.
pub(super) fn base_program(state_dir: &Path) -> Program {
    Program::this(["__base".into(), OsString::from("--state-dir"), state_dir.into()])
}

/// The file's absolute path, because the holder does not stay in this directory.
fn find(config: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    if path.is_file() {
        return Ok(path);
    }
    // Not there, or not a file: said in the words of all that can be wrong with it.
    match crate::config::load(config) {
        Ok(_) => Ok(path),
        Err(errors) => Err(Failure::configuration(errors.to_string())),
    }
}

//! A state directory, a holder in it, and the trace that its bases write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use base::holder::process::Program;
use base::state_dir::StateDir;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// This program in the role `role`, with a base that plays `play`.
pub fn program(role: &str, play: &str, state: &Path) -> Program {
    let variables = [
        ("IPVISOR_TEST_ROLE", role.to_owned()),
        ("IPVISOR_TEST_PLAY", play.to_owned()),
        ("IPVISOR_TEST_STATE", state.display().to_string()),
    ];
    let exe = std::env::current_exe().unwrap();
    let own = ["actors::role", "--exact", "--nocapture", "--test-threads=1"].map(Into::into);
    // What the test's own frame prints is no part of the play: a base's goes to its messages.
    let (path, arguments) = match role {
        "base" => {
            let shell = ["-c".into(), "exec \"$0\" \"$@\" > /dev/null".into(), exe.into()];
            ("/bin/sh".into(), [&shell[..], &own].concat())
        }
        _ => (exe, own.to_vec()),
    };
    Program { path, arguments, environment: variables.map(|(k, v)| (k.into(), v.into())).to_vec() }
}

/// Where bases write what they live through: beside the state directory, which goes.
pub fn trace_file(state: &Path) -> PathBuf {
    state.with_file_name("trace")
}

/// One instance under test. Ends it when dropped.
pub struct World {
    temp: tempfile::TempDir,
    holder: Option<Child>,
}

impl World {
    /// Starts a holder in the foreground.
    pub fn start(play: &str) -> Self {
        Self::start_saying(play, Stdio::piped())
    }

    /// The same, whose messages go there.
    pub fn start_saying(play: &str, stderr: Stdio) -> Self {
        let mut world = Self::empty();
        let mut command = program("holder", play, &world.state()).command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        world.holder = Some(command.spawn().unwrap());
        world
    }

    /// Only the directories.
    pub fn empty() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), holder: None }
    }

    pub fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    pub fn trace(&self) -> String {
        fs::read_to_string(trace_file(&self.state())).unwrap_or_default()
    }

    /// Waits until the trace has a line that starts with `start`, and returns what follows it.
    pub fn wait_for(&mut self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let trace = self.trace();
            if let Some(rest) = trace.lines().find_map(|line| line.strip_prefix(start)) {
                return rest.trim().to_owned();
            }
            if Instant::now() > deadline {
                let holder = self.holder.as_mut().map(|h| (h.id(), h.try_wait()));
                panic!("no line `{start}` in the trace; holder {holder:?}; trace:\n{trace}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn holder(&self) -> Pid {
        Pid::from_child(self.holder.as_ref().unwrap())
    }

    /// The base that runs, by what the holder noted.
    pub fn base(&self) -> Pid {
        let text = fs::read_to_string(self.state().join("base")).unwrap();
        pid(text.split(' ').next().unwrap())
    }

    /// Waits until the holder ends: its status and messages.
    pub fn wait_for_end(&mut self) -> Output {
        let mut holder = self.holder.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while holder.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the holder does not end; trace:\n{}", self.trace());
            std::thread::sleep(Duration::from_millis(10));
        }
        holder.wait_with_output().unwrap()
    }

    /// Kills the holder alone: the base stays.
    pub fn kill_holder(&mut self) {
        let mut holder = self.holder.take().unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    /// Tells the holder to end in order, and shows that it does and leaves nothing.
    pub fn end_in_order(mut self) -> String {
        kill(self.holder(), Signal::TERM);
        let output = self.wait_for_end();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!self.state().exists(), "the state directory is left over");
        said
    }

    /// Takes the lock as a second instance would.
    pub fn second(&self) -> Result<StateDir, base::state_dir::StateDirError> {
        StateDir::lock(&self.state()).map(|(dir, _)| dir)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            // Three demands: in order, at once, by force.
            for _ in 0..3 {
                let _ = kill_process(Pid::from_child(&holder), Signal::CONT);
                let _ = kill_process(Pid::from_child(&holder), Signal::TERM);
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = holder.wait();
        }
    }
}

pub fn kill(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap();
}

pub fn pid(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

/// Whether the process exists and is not a zombie.
pub fn lives(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// Waits until the process is gone.
pub fn wait_until_gone(pid: Pid) {
    let deadline = Instant::now() + PATIENCE;
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the process has met all signals that were sent to it: two of a kind that are under way
/// are one.
pub fn wait_until_heard(pid: Pid) {
    let deadline = Instant::now() + PATIENCE;
    let pending = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let of = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        [of("SigPnd:"), of("ShdPnd:")] != [Some("0000000000000000"); 2]
    };
    while pending() {
        assert!(Instant::now() < deadline, "process {pid} does not hear");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A command's output, for processes that are not holders.
pub fn run(program: &Program) -> Output {
    let mut command: Command = program.command();
    command.stdin(Stdio::null()).output().unwrap()
}

//! The parts this program plays when it is started again by a test.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base::entry::{self, BaseArguments, Failure, ReleaseArguments, Start};
use base::holder::{self, Options};
use base::keeper::HolderEvent;
use base::state_dir::StateDir;
use datapath::keeper::Keeper;
use rustix::process::{Pid, Signal, kill_process};

use crate::switching;
use crate::world::{program, trace_file};

pub const TICK: Duration = Duration::from_millis(50);

/// Not a test: where a process started by a test begins. Without the variables it does nothing.
#[test]
fn role() {
    let Ok(role) = std::env::var("IPVISOR_TEST_ROLE") else { return };
    let play = std::env::var("IPVISOR_TEST_PLAY").unwrap();
    let state = PathBuf::from(std::env::var("IPVISOR_TEST_STATE").unwrap());
    let options = Options {
        tick: TICK,
        silent_ticks: 40,
        start_ticks: 100,
        prepare_ticks: 20,
        force_ticks: 5,
        words: vec!["first".into()],
        ..Options::new(program("base", &play, &state))
    };
    let result = match role.as_str() {
        "holder" => match StateDir::lock(&state) {
            Ok((dir, lock)) => Ok(holder::run(&dir, lock, options)),
            Err(error) => Err(error.into()),
        },
        "detached" => entry::be_detached_holder(&StateDir::at(&state), true, options),
        "base" => {
            // The words of a release look like more tests to run: there are none of that name.
            let release = std::env::args().next_back().unwrap();
            let release = ReleaseArguments { config: "none".into(), accepted: release };
            let arguments = BaseArguments { state_dir: state.clone(), release };
            Ok(entry::base(arguments, |start| perform(play, state, start)))
        }
        "heir" => entry::be_heir(&state, options),
        other => panic!("no role {other}"),
    };
    std::process::exit(match result {
        Ok(status) => status.into(),
        Err(failure) => {
            eprintln!("{}", failure.message);
            failure.status.into()
        }
    });
}

pub fn note(state: &Path, line: &str) {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(trace_file(state)).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

pub fn memory_with(text: &str) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(text.as_bytes()).unwrap();
    file.into()
}

pub fn text_in(fd: OwnedFd) -> String {
    let mut file = File::from(fd);
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

pub fn die(signal: Signal) -> ! {
    kill_process(rustix::process::getpid(), signal).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A process as a VM has: outlives the base, ends by itself.
#[allow(clippy::zombie_processes, reason = "the holder reaps it: that is what is tested")]
fn start_vm(state: &Path, script: &str) {
    let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
    note(state, &format!("vm {}", child.id()));
}

async fn perform(play: String, state: PathBuf, mut start: Start) -> Result<(), Failure> {
    if play.starts_with("switch") || play == "heir" {
        return switching::perform(&play, &state, start).await;
    }
    let generation = start.hello.generation;
    note(&state, &format!("base {generation} after {:?}", start.hello.predecessor));
    match (play.as_str(), generation) {
        ("plain", _) => {}
        ("wrong-configuration", _) => {
            return Err(Failure::configuration("vm.toml:3:5: `cpus` must be a number"));
        }
        ("crash-at-start", _) => die(Signal::ABORT),
        ("keep-600", 0) => {
            for n in 0..600 {
                let text = format!("contents of {n}");
                start.keeper.keep(&format!("many/{n}"), memory_with(&text).as_fd())?;
            }
            start.keeper.keep("many/7", memory_with("replaced").as_fd())?;
            start.keeper.forget("many/8")?;
            start.keeper.keep("port/a/kick", memory_with("").as_fd())?;
            start.keeper.forget_all("port/")?;
        }
        ("keep-600", _) => {
            let kept = start.inheritance.take_prefix("many/");
            let right = kept.into_iter().map(|(key, fd)| {
                let expected =
                    if key == "7" { "replaced".into() } else { format!("contents of {key}") };
                text_in(fd) == expected
            });
            let right = right.filter(|&right| right).count();
            let rest = start.inheritance.keys().count();
            note(&state, &format!("inherited {right} right, {rest} other"));
        }
        ("last-words", 0) => {
            start.keeper.ready()?;
            // The holder is kept from reading, so all this lies in the socket when the base dies.
            kill_process(Pid::from_raw(start.hello.holder as i32).unwrap(), Signal::STOP)?;
            for n in 0..8 {
                start.keeper.keep(&format!("late/{n}"), memory_with("late").as_fd())?;
            }
            note(&state, "spoken");
            die(Signal::KILL);
        }
        ("last-words", _) => {
            let late = start.inheritance.take_prefix("late/").len();
            note(&state, &format!("inherited {late} late"));
        }
        ("vm-outlives-base", 0) => {
            start_vm(&state, "sleep 0.4; exit 7");
            start.keeper.ready()?;
            die(Signal::KILL);
        }
        ("vm-ends-between", 0) => {
            start_vm(&state, "exit 9");
            start.keeper.ready()?;
            die(Signal::KILL);
        }
        ("vm-ends-between", 1) => {
            // Hears of it in one way or the other, does nothing about it, and dies.
            let mut heard = start.inheritance.take_reaped().len();
            while heard == 0 {
                heard += usize::from(matches!(start.link.next().await, HolderEvent::Reaped { .. }));
            }
            die(Signal::KILL);
        }
        ("vm-ends-between", _) => {
            for (pid, ended) in start.inheritance.take_reaped() {
                note(&state, &format!("told of {pid} {ended:?}"));
                start.keeper.settled(pid)?;
            }
            if generation == 2 {
                die(Signal::KILL);
            }
        }
        ("silent", 0) => {
            start.keeper.ready()?;
            start.keeper.beat()?;
            std::thread::sleep(Duration::from_secs(60));
        }
        ("panic", 0) => {
            start.keeper.ready()?;
            let _ = std::thread::spawn(|| panic!("on purpose")).join();
        }
        ("deaf", _) => {
            start_vm(&state, "trap '' TERM; sleep 60");
            start.keeper.ready()?;
            note(&state, &format!("serving {generation}"));
            let keeper = start.keeper.clone();
            loop {
                keeper.beat()?;
                tokio::time::sleep(TICK).await;
            }
        }
        ("die-while-stopping", 0) => {
            start.keeper.ready()?;
            note(&state, "serving 0");
            while !matches!(start.link.next().await, HolderEvent::Stop { .. }) {}
            die(Signal::KILL);
        }
        _ => {}
    }
    start.keeper.ready()?;
    note(&state, &format!("serving {generation}"));
    serve(&state, &mut start).await
}

/// Beats until told to stop.
async fn serve(state: &Path, start: &mut Start) -> Result<(), Failure> {
    let mut beat = tokio::time::interval(TICK);
    for (pid, ended) in start.inheritance.take_reaped() {
        note(state, &format!("told of {pid} {ended:?}"));
    }
    loop {
        tokio::select! {
            _ = beat.tick() => start.keeper.beat()?,
            event = start.link.next() => match event {
                HolderEvent::Stop { now } => {
                    note(state, &format!("stop now={now}"));
                    return Ok(());
                }
                HolderEvent::Reaped { pid, ended } => {
                    note(state, &format!("told of {pid} {ended:?}"));
                    start.keeper.settled(pid)?;
                }
                HolderEvent::NotKept(key) => note(state, &format!("not kept {key}")),
                HolderEvent::Gone => note(state, "holder gone"),
                HolderEvent::Leave => {
                    note(state, "left");
                    return Ok(());
                }
                other => note(state, &format!("heard {other:?}")),
            },
        }
    }
}

//! `top` as people see it: on a terminal (tmux), at two sizes, beside an instance made for the purpose.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use base::control::Reply;

#[path = "../src/top/example.rs"]
mod example;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipvisor");

/// How long a screen may take to show something, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of memory that each VM has in use.
const RESIDENT: u64 = 200 << 20;

/// What an instance answers the `n`th time: `web` sends and computes more each time, `db` nothing.
fn answer(n: u64) -> String {
    let vms = vec![
        example::vm("db", 0, 0, RESIDENT),
        example::vm("web", n * 500, n * 1_000_000, RESIDENT),
    ];
    serde_json::to_string(&Reply::Ok(example::instance(vms))).unwrap()
}

/// An instance that answers whatever it is asked, as long as it is to.
struct Instance {
    dir: tempfile::TempDir,
    answers: Arc<AtomicBool>,
}

impl Instance {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let (answers, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let goes_on = answers.clone();
        spawn(move || {
            for connection in listener.incoming() {
                let (goes_on, asked) = (goes_on.clone(), asked.clone());
                spawn(move || serve(connection.unwrap(), &goes_on, &asked));
            }
        });
        Self { dir, answers }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn serve(connection: UnixStream, goes_on: &AtomicBool, asked: &AtomicU64) {
    let mut requests = BufReader::new(&connection).lines();
    while let Some(Ok(_)) = requests.next() {
        if !goes_on.load(Ordering::SeqCst) {
            return;
        }
        let line = answer(asked.fetch_add(1, Ordering::SeqCst));
        if writeln!(&connection, "{line}").is_err() {
            return;
        }
    }
}

/// A terminal of a tmux server of its own.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Starts `line` in a terminal of this size.
    fn start(dir: &Path, (columns, rows): (usize, usize), line: &str) -> Self {
        let terminal = Self { socket: dir.join(format!("tmux-{columns}")) };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let size = ["-x", &columns, "-y", &rows];
        let words = ["-f", "/dev/null", "new-session", "-d"].into_iter().chain(size).chain([line]);
        let started = terminal.tmux(&words.collect::<Vec<_>>());
        assert!(started.status.success(), "{started:?}");
        terminal
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.socket).args(words).stdin(Stdio::null());
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").output().unwrap()
    }

    /// What is on the screen, colours with it if `-e` is among `more`.
    fn screen(&self, more: &[&str]) -> String {
        let shown = self.tmux(&[&["capture-pane", "-p"], more].concat());
        String::from_utf8(shown.stdout).unwrap()
    }

    fn wait(&self, what: &str, shows: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.screen(&[]);
            if shows(&screen) {
                return screen;
            }
            assert!(begin.elapsed() < PATIENCE, "{what}:\n{screen}");
            sleep(Duration::from_millis(50));
        }
    }

    fn keys(&self, keys: &str) {
        assert!(self.tmux(&["send-keys", keys]).status.success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// The command line, which says afterwards what became of it and of the terminal.
fn line(state_dir: &Path, before: &str) -> String {
    let dir = state_dir.display();
    format!("{before} {PROGRAM} top --state-dir {dir}; echo status $?; stty -a; sleep 600")
}

#[test]
fn it_fits_small_and_large_terminals_and_leaves_them_as_they_were() {
    let instance = Instance::new();
    for (columns, rows) in [(80, 24), (200, 50)] {
        let terminal =
            Terminal::start(instance.path(), (columns, rows), &line(instance.path(), ""));
        // The busy one first, its trend beside it.
        let screen = terminal.wait("the busy one first", |screen| {
            let row = screen.lines().nth(4).unwrap_or_default();
            row.starts_with("web") && row.contains('█')
        });
        let lines: Vec<&str> = screen.lines().collect();
        assert!(lines[0].starts_with("ipvisor 0.1.0, up 3 min   2 VMs: 2 running"), "{screen}");
        assert!(lines[3].starts_with("VM") && lines[3].contains("CPU▼"), "{screen}");
        assert!(lines[5].starts_with("db"), "{screen}");
        assert!(lines[rows - 1].starts_with("q quit"), "{screen}");
        assert!(lines.iter().all(|line| line.chars().count() <= columns), "{screen}");
        assert_eq!(lines[3].contains("ADDRESS"), columns == 200, "{screen}");
        assert!(terminal.screen(&["-e"]).contains("\x1b[32m"), "no colours");

        terminal.keys("n");
        let by_name = |screen: &str| screen.lines().nth(4).is_some_and(|row| row.starts_with("db"));
        terminal.wait("sorted by name", by_name);
        terminal.keys("r");
        terminal.wait("the other way round", |screen| screen.contains("VM▲"));

        terminal.keys("q");
        // The terminal's modes are shown behind it.
        let over = |screen: &str| screen.contains("status 0") && screen.contains("opost");
        let left = terminal.wait("the end", over);
        let modes: Vec<_> = left.split_whitespace().collect();
        let restored = ["isig", "icanon", "echo", "opost"].iter().all(|mode| modes.contains(mode));
        assert!(restored && !left.contains("q quit"), "{left}");
    }
}

#[test]
fn it_is_drawn_anew_when_the_terminal_changes_and_says_when_nobody_answers() {
    let instance = Instance::new();
    let line = line(instance.path(), "NO_COLOR=1");
    let terminal = Terminal::start(instance.path(), (80, 24), &line);
    terminal.wait("a row", |screen| screen.contains("web"));
    assert!(!terminal.screen(&["-e"]).contains("\x1b[32m"), "colours, and none were wanted");
    assert!(terminal.tmux(&["resize-window", "-x", "130", "-y", "30"]).status.success());
    let resized = |screen: &str| {
        let keys = screen.lines().nth(29).is_some_and(|line| line.starts_with("q quit"));
        keys && screen.contains("ADDRESS")
    };
    terminal.wait("a larger screen", resized);
    instance.answers.store(false, Ordering::SeqCst);
    let silent = terminal.wait("the trouble", |screen| screen.contains("no answer"));
    assert!(silent.contains("web"), "{silent}");
    instance.answers.store(true, Ordering::SeqCst);
    terminal.wait("all is well again", |screen| !screen.contains("no answer"));
    terminal.keys("C-c");
    terminal.wait("the end", |screen| screen.contains("status 0"));
}

#[test]
fn without_a_terminal_it_says_what_to_type_instead() {
    let instance = Instance::new();
    let mut command = Command::new(PROGRAM);
    command.args(["top", "--state-dir"]).arg(instance.path()).stdin(Stdio::null());
    let answer = command.output().unwrap();
    assert_eq!(answer.status.code(), Some(1));
    assert!(answer.stdout.is_empty(), "{answer:?}");
    let said = String::from_utf8(answer.stderr).unwrap();
    assert!(said.starts_with("error: `top` needs a terminal"), "{said}");
    assert!(said.contains("`ipvisor ps`"), "{said}");
}

//! Consoles and logs as people and scripts use them, beside an instance and a guest made for the
//! purpose: what the guest shows is in a log, what is typed comes to its socket.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipvisor");
const PATIENCE: Duration = Duration::from_secs(60);

/// A VM `web` that shows what it is told to show.
struct Guest {
    dir: tempfile::TempDir,
    log: File,
    /// What was typed, by each who came to the socket: one at a time, as in QEMU.
    typed: Receiver<Vec<u8>>,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("vm")).unwrap();
        let vm = |what: &str| dir.path().join("vm").join(format!("web.{what}"));
        let (socket, log, keyboard) = (vm("console"), vm("console.log"), vm("keyboard"));
        let reply = format!(
            "{{\"ok\":{{\"socket\":{socket:?},\"log\":{log:?},\"keyboard\":{keyboard:?}}}}}"
        );
        let control = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        spawn(move || {
            for connection in control.incoming() {
                let connection = connection.unwrap();
                let mut request = String::new();
                BufReader::new(&connection).read_line(&mut request).unwrap();
                let _ = writeln!(&connection, "{reply}");
            }
        });
        let console = UnixListener::bind(&socket).unwrap();
        let (to, typed) = channel();
        spawn(move || {
            for connection in console.incoming() {
                let mut connection: UnixStream = connection.unwrap();
                let mut octets = [0; 64];
                while let Ok(n @ 1..) = connection.read(&mut octets) {
                    if to.send(octets[..n].to_vec()).is_err() {
                        return;
                    }
                }
            }
        });
        let log = OpenOptions::new().append(true).create(true).open(log).unwrap();
        Self { dir, log, typed }
    }

    fn shows(&mut self, text: &str) {
        self.log.write_all(text.as_bytes()).unwrap();
    }

    fn hears(&self, expected: &str) {
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            let more = self.typed.recv_timeout(PATIENCE);
            heard.extend(more.unwrap_or_else(|e| panic!("{e}: {expected:?}, not {heard:?}")));
        }
        assert_eq!(String::from_utf8_lossy(&heard), expected);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("vm").join(name)
    }

    fn line(&self, words: &str) -> String {
        format!("{PROGRAM} {words} --state-dir {}", self.dir.path().display())
    }

    /// Runs the command at a terminal.
    fn at_a_terminal(&self, words: &str) -> Seat {
        let line = self.line(words);
        Seat::of(Command::new("script").args([
            "--quiet",
            "--return",
            "--command",
            &line,
            "/dev/null",
        ]))
    }

    /// Runs it without one.
    fn in_a_pipe(&self, words: &str) -> Seat {
        Seat::of(Command::new("sh").args(["-c", &format!("exec {}", self.line(words))]))
    }
}

/// A process with somebody before it.
struct Seat {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Seat {
    fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (keyboard, mut out) = (child.stdin.take(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = screen.clone();
        spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut octets) {
                shown.lock().unwrap().extend_from_slice(&octets[..n]);
            }
        });
        Self { child, keyboard, screen }
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    fn shows(&self, text: &str) -> String {
        let begin = Instant::now();
        while !self.screen().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "no {text:?} in {:?}", self.screen());
            sleep(Duration::from_millis(10));
        }
        self.screen()
    }

    fn types(&mut self, text: &str) {
        self.keyboard.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn ends(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn who_comes_sees_the_last_64_kib_and_then_what_follows_and_types() {
    let mut guest = Guest::new();
    guest.shows(&format!("too old{}login: ", "x".repeat(64 << 10)));
    let mut seat = guest.at_a_terminal("console web");
    let screen = seat.shows("login: ");
    assert!(screen.contains("console of web: Ctrl-] leaves; "), "no greeting");
    assert!(!screen.contains("too old"), "more than was asked for");
    seat.types("root\r\x03");
    guest.hears("root\r\x03");
    guest.shows("Password: ");
    assert_eq!(seat.shows("Password: ").matches("login: ").count(), 1, "shown twice");
    seat.types("\x1d");
    seat.shows("left the console");
    assert_eq!(seat.ends(), 0);
}

#[test]
fn a_second_watches_until_it_takes_the_keyboard() {
    let mut guest = Guest::new();
    guest.shows("login: ");
    let mut first = guest.at_a_terminal("console web");
    first.shows("login: ");
    let mut second = guest.at_a_terminal("console web");
    second.shows("has the keyboard, you watch (`--take` takes it)");
    second.shows("login: ");
    // What a watcher types is nobody's business.
    second.types("nonsense");
    first.types("first");
    guest.hears("first");
    guest.shows("both see this");
    first.shows("both see this");
    second.shows("both see this");
    second.types("\x1d");
    second.shows("left the console");

    let mut third = guest.at_a_terminal("console web --take");
    first.shows("somebody else has taken the keyboard");
    third.shows("login: ");
    third.types("third");
    first.types("again");
    guest.hears("third");
    guest.shows("still seen by both");
    first.shows("still seen by both");
    third.shows("still seen by both");
    for mut seat in [first, third] {
        seat.types("\x1d");
        seat.shows("left the console");
        assert_eq!(seat.ends(), 0);
    }
    // Nobody has it now.
    let mut fourth = guest.at_a_terminal("console web");
    fourth.shows("leaves");
    fourth.types("fourth");
    guest.hears("fourth");
}

#[test]
fn the_key_that_leaves_is_a_matter_of_taste() {
    let guest = Guest::new();
    let mut seat = guest.at_a_terminal("console web --escape ^a");
    seat.shows("Ctrl-A leaves");
    seat.types("\x1d");
    guest.hears("\x1d");
    seat.types("\x01");
    seat.shows("left the console");
    let refused = guest.in_a_pipe("console web --escape ]");
    assert_eq!(refused.ends(), 2);
}

#[test]
fn one_who_only_watches_takes_no_keyboard_and_goes_on_when_the_vm_is_started_anew() {
    let mut guest = Guest::new();
    guest.shows("first run\n");
    let watcher = guest.in_a_pipe("console web --watch");
    watcher.shows("first run");
    let mut typist = guest.at_a_terminal("console web");
    typist.shows("leaves");
    typist.types("typed");
    guest.hears("typed");
    fs::rename(guest.path("web.console.log"), guest.path("web.console.log.1")).unwrap();
    let log = guest.path("web.console.log");
    guest.log = OpenOptions::new().append(true).create(true).open(log).unwrap();
    guest.shows("second run\n");
    watcher.shows("second run");
}

#[test]
fn a_script_sees_nothing_from_before_it_came() {
    let mut guest = Guest::new();
    guest.shows("from before\n");
    let mut script = guest.in_a_pipe("console web");
    script.types("\x1dls\n");
    guest.hears("\x1dls\n");
    guest.shows("its answer\n");
    assert_eq!(script.shows("its answer\n"), "its answer\n");
}

#[test]
fn a_script_that_would_not_be_heard_is_told_so() {
    let guest = Guest::new();
    let person = guest.at_a_terminal("console web");
    person.shows("leaves");
    let mut refused = Command::new("sh");
    refused.args(["-c", &guest.line("console web")]).stdin(Stdio::null());
    let refused = refused.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("has the keyboard of web") && said.contains("--take"), "{said}");
    let mut script = guest.in_a_pipe("console web --take");
    person.shows("somebody else has taken the keyboard");
    script.types("heard");
    guest.hears("heard");
}

#[test]
fn what_is_shown_in_a_burst_is_shown_at_once() {
    let mut guest = Guest::new();
    let mut person = guest.at_a_terminal("console web");
    person.shows("leaves");
    // At a piece a look this would take more than a minute.
    guest.shows(&format!("{}the end", "x".repeat(9 << 20)));
    person.shows("the end");
    person.types("\x1d");
    person.shows("left the console");
}

#[test]
fn logs_show_what_was_shown_and_go_on_when_asked() {
    let mut guest = Guest::new();
    fs::write(guest.path("web.console.log.1"), "before\n").unwrap();
    guest.shows("one\ntwo\nthree\n");
    let all = guest.in_a_pipe("logs web");
    all.shows("three\n");
    assert_eq!(all.screen(), "before\none\ntwo\nthree\n");
    assert_eq!(all.ends(), 0);
    let last = guest.in_a_pipe("logs web --lines 2 --follow");
    last.shows("three\n");
    guest.shows("four\n");
    last.shows("four\n");
    assert_eq!(last.screen(), "two\nthree\nfour\n");
}

#[test]
fn the_instance_has_a_log_if_it_runs_in_the_background() {
    let guest = Guest::new();
    let none = guest.in_a_pipe("logs");
    assert_eq!(none.ends(), 1);
    fs::write(guest.dir.path().join("log"), "takes over\n").unwrap();
    let log = guest.in_a_pipe("logs");
    assert_eq!(log.shows("takes over\n"), "takes over\n");
    assert_eq!(log.ends(), 0);
}

#[test]
fn one_whose_terminal_is_gone_ends() {
    let guest = Guest::new();
    let directory = guest.dir.path().display().to_string();
    // `script` holds the terminal, and has the directory in its words as well.
    let consoles = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let words = processes.filter_map(|p| fs::read_to_string(p.path().join("cmdline")).ok());
        words.filter(|w| w.starts_with(PROGRAM) && w.contains(&directory)).count()
    };
    // One that nobody tells, as below `nohup`.
    let line = format!("trap '' HUP; exec {}", guest.line("console web --watch"));
    let words = ["--quiet", "--return", "--command", &line, "/dev/null"];
    let mut seat = Seat::of(Command::new("script").args(words));
    seat.shows("console of web");
    assert_eq!(consoles(), 1);
    seat.child.kill().unwrap();
    let since = Instant::now();
    while consoles() > 0 {
        assert!(since.elapsed() < PATIENCE, "it is still there");
        sleep(Duration::from_millis(20));
    }
}

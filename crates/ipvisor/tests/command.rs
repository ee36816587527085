//! The command as people and scripts see it: what it prints, and its exit status.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{JoinHandle, spawn};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipvisor");

const RIGHT: &str = "\
[network.lab]
prefixes = [\"198.51.100.0/24\", \"2001:db8:1::/64\"]

[vm.web]
engine = \"external\"
socket = \"web.sock\"
addresses = [\"198.51.100.10\", \"2001:db8:1::10\"]
";

const WRONG: &str = "\
[network.lab]
prefixes = [\"198.51.100.0/24\"]

[vm.web]
engine = \"external\"
socket = \"web.sock\"
addresses = [\"203.0.113.10\"]
";

/// A directory with a configuration and room for a state directory.
struct Place(tempfile::TempDir);

impl Place {
    fn with(config: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("net.toml"), config).unwrap();
        Self(temp)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--state-dir").arg(self.state());
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        self.command(arguments).output().unwrap().into()
    }

    /// The same in a network namespace of its own, where this user is root.
    fn run_apart(&self, script: &str) -> Answer {
        let script = format!("ip link set lo up || exit 9\n{script}");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]);
        command.env("IPVISOR", PROGRAM).env("STATE", self.state());
        command.current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap().into()
    }
}

#[derive(Debug)]
struct Answer {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            status: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// An instance that answers one request with this line. Gives the request.
fn answers_once(state: &Path, reply: String) -> JoinHandle<String> {
    fs::create_dir(state).unwrap();
    let listener = UnixListener::bind(state.join("control.sock")).unwrap();
    spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        (&stream).write_all(format!("{reply}\n").as_bytes()).unwrap();
        request
    })
}

#[test]
fn a_right_configuration_is_said_to_be_right() {
    let place = Place::with(RIGHT);
    let answer = place.run(&["check", "net.toml"]);
    assert_eq!(answer.status, 0, "{answer:?}");
    assert_eq!(answer.out, "ipvisor: net.toml: right, with 1 network and 1 VM\n");
    let answer = place.run(&["check", "net.toml", "--json"]);
    assert!(answer.out.contains(r#""right":true"#), "{answer:?}");
}

#[test]
fn a_wrong_configuration_is_status_2_with_line_and_remedy_and_nothing_is_started() {
    let place = Place::with(WRONG);
    for command in [&["check", "net.toml"][..], &["up", "net.toml"], &["up", "net.toml", "-d"]] {
        let answer = place.run(command);
        assert_eq!(answer.status, 2, "{command:?}: {answer:?}");
        assert!(answer.err.contains("net.toml:7:14"), "{command:?}: {answer:?}");
        assert!(answer.err.contains("addresses = [\"203.0.113.10\"]"), "{command:?}: {answer:?}");
        assert_eq!(answer.err.matches("error").count(), 1, "{command:?}: {answer:?}");
        assert!(!answer.err.contains('\x1b'), "colours in a pipe: {answer:?}");
        assert!(!place.state().exists());
    }
    let answer = place.run(&["check", "net.toml", "--json"]);
    assert_eq!(answer.status, 2, "{answer:?}");
    assert!(answer.out.contains(r#""line":7,"column":14"#), "{answer:?}");
}

#[test]
fn a_file_that_is_not_there_and_a_command_nobody_knows_are_status_2() {
    let place = Place::with(RIGHT);
    for command in [&["up", "other.toml"][..], &["check", "other.toml"], &["fly"], &["console"]] {
        let answer = place.run(command);
        assert_eq!(answer.status, 2, "{command:?}: {answer:?}");
        assert!(answer.err.starts_with("error"), "{command:?}: {answer:?}");
        assert!(!place.state().exists());
    }
}

#[test]
fn without_an_instance_every_command_says_so_and_how_to_start_one() {
    let place = Place::with(RIGHT);
    let commands: [&[&str]; 7] = [
        &["ps"],
        &["counters"],
        &["events"],
        &["down"],
        &["start", "web"],
        &["stop", "web"],
        &["console", "web"],
    ];
    for command in commands {
        let answer = place.run(command);
        assert_eq!(answer.status, 1, "{command:?}: {answer:?}");
        assert!(answer.err.contains("no instance runs"), "{command:?}: {answer:?}");
        assert!(answer.err.contains("help: start one by `ipvisor up FILE`"), "{answer:?}");
    }
}

#[test]
fn the_whole_life_of_a_detached_instance() {
    let place = Place::with(RIGHT);
    let answer = place.run_apart(
        r#"
        i() { "$IPVISOR" --state-dir "$STATE" "$@"; }
        i up net.toml --detach || exit 10
        i ps || exit 11
        i ps --json || exit 12
        i counters web --all || exit 13
        i counters db && exit 14
        i up net.toml || exit 15
        kill -9 "$(cut -d' ' -f1 "$STATE/base")"
        # The socket outlives the base: this waits for the successor.
        i ps || exit 16
        i down || exit 17
        i ps && exit 18
        ip -o link; ip route; ip -6 route show dev lo
        exit 0
        "#,
    );
    assert_eq!(answer.status, 0, "{answer:?}");
    for part in [
        "ipvisor: runs (process",
        "web  external",
        "2001:db8:1::10",
        r#""name":"web""#,
        "drop.source_not_own",
        "ipvisor: runs already (process",
        "ipvisor: reloaded: version",
        "2 takeovers",
        "ipvisor: down",
    ] {
        assert!(answer.out.contains(part), "no `{part}`: {answer:?}");
    }
    for part in ["there is no VM `db`", "the VMs of this instance: web"] {
        assert!(answer.err.contains(part), "no `{part}`: {answer:?}");
    }
    let (_, left) = answer.out.split_once("ipvisor: down\n").unwrap();
    assert!(!left.contains("198.51.100") && !left.contains("ipv0"), "left over: {left}");
    assert!(!place.state().exists());
    assert!(!place.0.path().join("web.sock").exists());
}

#[test]
fn an_instance_in_the_foreground_ends_in_order_when_interrupted() {
    let place = Place::with(RIGHT);
    let answer = place.run_apart(
        r#"
        "$IPVISOR" up net.toml --state-dir "$STATE" & pid=$!
        n=0
        until "$IPVISOR" ps --state-dir "$STATE" >/dev/null 2>&1; do
            n=$((n + 1)); [ $n -lt 200 ] || exit 10; sleep 0.05
        done
        kill -TERM $pid; wait $pid
        "#,
    );
    assert_eq!(answer.status, 0, "{answer:?}");
    assert!(!place.state().exists());
}

#[test]
fn a_vm_is_asked_for_by_name_and_a_refusal_is_status_1() {
    let place = Place::with(RIGHT);
    let refused = r#"{"refused":{"kind":"wrong_state","message":"web runs already","hint":"ps"}}"#;
    let instance = answers_once(&place.state(), refused.to_owned());
    let answer = place.run(&["stop", "web", "--force"]);
    assert_eq!(instance.join().unwrap(), "{\"do\":\"stop\",\"vm\":\"web\",\"force\":true}\n");
    assert_eq!(answer.status, 1);
    assert_eq!(answer.err, "error: web runs already\nhelp: ps\n");
}

#[test]
fn events_are_lines_for_people_and_json_for_programs() {
    let event = r#"{"sequence":1,"at":1709164800000,"level":"error","kind":"port_broken","subject":"vm/web","text":"ring"}"#;
    for (flag, expected) in [
        (None, "2024-02-29 00:00:00Z  error    vm/web  port_broken: ring\n".to_owned()),
        (Some("--json"), format!("{event}\n")),
    ] {
        let place = Place::with(RIGHT);
        let instance = answers_once(&place.state(), format!("{{\"ok\":[{event}]}}"));
        let arguments: Vec<_> = ["events"].into_iter().chain(flag).collect();
        let answer = place.run(&arguments);
        instance.join().unwrap();
        assert_eq!(answer.out, expected, "{answer:?}");
    }
}

/// A console that says hello, and gives what was typed until the other side ends.
fn console(place: &Place) -> JoinHandle<Vec<u8>> {
    let path = place.0.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let reply = format!("{{\"ok\":{{\"socket\":\"{}\"}}}}", path.display());
    let control = answers_once(&place.state(), reply);
    spawn(move || {
        control.join().unwrap();
        let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
        stream.write_all(b"login: ").unwrap();
        let mut typed = Vec::new();
        let mut octets = [0; 64];
        // `exit` is what ends this guest.
        while !typed.ends_with(b"exit\n") {
            match stream.read(&mut octets) {
                Ok(n @ 1..) => typed.extend_from_slice(&octets[..n]),
                _ => break,
            }
        }
        typed
    })
}

#[test]
fn a_script_can_use_a_console_and_any_byte_passes() {
    let place = Place::with(RIGHT);
    let guest = console(&place);
    let mut command = place.command(&["console", "web"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"root\n\x1d\x03exit\n").unwrap();
    let answer = Answer::from(child.wait_with_output().unwrap());
    assert_eq!(answer.status, 0, "{answer:?}");
    assert_eq!(answer.out, "login: ");
    assert_eq!(guest.join().unwrap(), b"root\n\x1d\x03exit\n");
}

#[test]
fn at_a_terminal_the_escape_key_leaves_and_control_c_goes_to_the_guest() {
    let place = Place::with(RIGHT);
    let guest = console(&place);
    let line = format!(
        "stty -echo; {PROGRAM} console web --state-dir {}; echo status $?; stty -a",
        place.state().display()
    );
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut screen = BufReader::new(child.stdout.take().unwrap());
    let mut keyboard = child.stdin.take().unwrap();
    // Typed only when the terminal is raw: before that, Ctrl-C would end the command.
    let mut seen = Vec::new();
    while !seen.ends_with(b"login: ") {
        let mut octet = [0];
        screen.read_exact(&mut octet).unwrap();
        seen.push(octet[0]);
    }
    keyboard.write_all(b"ab\x03c\x1d").unwrap();
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    child.wait().unwrap();
    assert_eq!(guest.join().unwrap(), b"ab\x03c");
    assert!(rest.contains("left the console"), "{rest}");
    assert!(rest.contains("status 0"), "{rest}");
    let modes: Vec<_> = rest.split_whitespace().collect();
    let restored = ["isig", "icanon", "opost"].iter().all(|mode| modes.contains(mode));
    assert!(restored, "the terminal was not restored: {rest}");
}

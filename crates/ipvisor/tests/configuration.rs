//! Configurations as people keep them: of several files, with variables, for this machine and others;
//! and what is told of a change before it is made.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipvisor");

const MAIN: &str = "\
include = \"vm.d/*.toml\"

[vars]
net = \"198.51.100\"

[network.lab]
prefixes = [\"${net}.0/24\"]
";

/// A VM that somebody else runs.
fn vm(name: &str, last: u8) -> String {
    format!(
        "[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\n\
         addresses = [\"${{net}}.{last}\"]\nhostname = \"${{env.PREFIX}}-{name}\"\n"
    )
}

/// A directory with a main file and one VM beside it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("vm.d")).unwrap();
    fs::write(dir.path().join("net.toml"), MAIN).unwrap();
    fs::write(dir.path().join("vm.d/web.toml"), vm("web", 10)).unwrap();
    dir
}

/// Runs a script in a network namespace of its own, where `i` is the program.
fn apart(dir: &Path, script: &str) -> (i32, String, String) {
    let script = format!(
        "ip link set lo up || exit 90\n\
         i() {{ \"$IPVISOR\" --state-dir \"$PWD/state\" \"$@\"; }}\n{script}"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]);
    command.env("IPVISOR", PROGRAM).env("PREFIX", "lab").env_remove("NOBODY").current_dir(dir);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[test]
fn the_schema_is_the_one_in_the_documents() {
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ipvisor.schema.json");
    let output = Command::new(PROGRAM).arg("schema").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), fs::read_to_string(copy).unwrap());
}

#[test]
fn what_this_machine_lacks_is_wrong_here_and_right_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[network.lan]\nuplink = \"eth1\"\nprefixes = [\"203.0.113.0/24\"]\n\
                [vm.web]\naddresses = [\"203.0.113.2\"]\ndisk = \"web.raw\"\nmemory = \"9T\"\n";
    fs::write(dir.path().join("net.toml"), text).unwrap();
    let (status, out, err) = apart(
        dir.path(),
        r#"
        i check --elsewhere net.toml || exit 10
        truncate -s 1M web.raw
        i check net.toml && exit 11
        ip link add eth1 type veth peer name lan0
        ip addr add 203.0.113.2/24 dev eth1
        i up net.toml --detach; [ $? = 2 ] || exit 12
        [ ! -e state ] || [ ! -e state/lock ] || exit 13
        exit 0
        "#,
    );
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains("net.toml: right, with 1 network and 1 VM"), "{out}");
    for part in [
        "error: there is no adapter `eth1` here",
        "net.toml:2:10",
        "error: 203.0.113.2 is this host's own address (on eth1)",
        "net.toml:5:14",
        "error: VM `web` needs 9437184M of memory; this machine has",
        "net.toml:7:10",
    ] {
        assert!(err.contains(part), "no `{part}` in {err}");
    }
}

#[test]
fn a_configuration_of_several_files_runs_on_when_they_are_gone() {
    let dir = place();
    let more = vm("db", 11);
    let (status, out, err) = apart(
        dir.path(),
        &format!(
            r#"
            i up net.toml --dry-run --json || exit 8
            [ ! -e state ] || exit 9
            i up net.toml --detach || exit 10
            printf '%s' '{more}' > vm.d/db.toml
            i reload --dry-run || exit 11
            i reload || exit 12
            mkdir gone && mv net.toml vm.d gone
            unset PREFIX
            kill -9 "$(cut -d' ' -f1 state/base)"
            i ps || exit 13
            i down || exit 14
            exit 0
            "#
        ),
    );
    assert_eq!(status, 0, "{out}{err}");
    assert!(
        out.contains(r#""possible":true,"changes":[{"subject":"network/lab","what":"add"}"#),
        "{out}"
    );
    assert_eq!(out.matches("  + vm/db gets its port\n").count(), 2, "{out}");
    assert!(out.contains("198.51.100.11") && out.contains("198.51.100.10"), "{out}");
}

#[test]
fn a_mistake_is_told_with_the_file_it_is_in() {
    let dir = place();
    let wrong = vm("db", 11).replace("env.PREFIX", "env.NOBODY");
    fs::write(dir.path().join("vm.d/db.toml"), wrong).unwrap();
    let (status, out, err) = apart(
        dir.path(),
        r#"
        i check net.toml --json && exit 10
        i check net.toml
        "#,
    );
    assert_eq!(status, 2, "{out}{err}");
    assert!(out.contains(r#"vm.d/db.toml","line":5,"column":13"#), "{out}");
    assert!(err.contains("error: the environment has no text `NOBODY`"), "{err}");
    assert!(err.contains("vm.d/db.toml:5:13"), "{err}");
}

//! What is installed beside the program: manual pages, completions, the service, and the Debian package
//! of it all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ipvisor");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn run(command: &mut Command) -> Output {
    let output = command.current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// A target directory with this program in the place of the one that is shipped, and what is generated.
fn target() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("release")).unwrap();
    fs::copy(PROGRAM, temp.path().join("release/ipvisor")).unwrap();
    let generate = Path::new(PROGRAM).parent().unwrap().join("examples/generate");
    // `cargo test` builds examples, but not where one test is named.
    assert!(generate.exists(), "run `cargo build -p ipvisor --example generate` first");
    run(Command::new(generate).arg(temp.path().join("generated")));
    temp
}

/// The names of the files below a directory.
fn files(dir: &Path) -> BTreeSet<String> {
    let found =
        text(run(Command::new("find").arg(dir).args(["-not", "-type", "d", "-printf", "%P\n"])));
    found.lines().map(str::to_owned).collect()
}

/// What the command's help lists.
fn commands() -> Vec<String> {
    let help = text(run(Command::new(PROGRAM).arg("--help")));
    let (_, after) = help.split_once("Commands:\n").unwrap();
    let lines = after.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_and_every_key_has_its_manual_page_without_a_mistake_in_it() {
    let target = target();
    let generated = target.path().join("generated");
    let names = commands();
    assert!(names.contains(&"doctor".to_owned()) && names.len() > 10, "{names:?}");
    for name in &names {
        let page = fs::read_to_string(generated.join(format!("man1/ipvisor-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") || page.contains(".SH DESCRIPTION"), "{page}");
    }
    for page in files(&generated).iter().filter(|name| name.starts_with("man")) {
        assert!(!page.contains("__"), "{page}: hidden");
        let mut groff = Command::new("groff");
        let shown =
            run(groff.args(["-K", "utf8", "-man", "-ww", "-Tutf8"]).arg(generated.join(page)));
        assert_eq!(String::from_utf8_lossy(&shown.stderr), "", "{page}");
    }
    let page = fs::read_to_string(generated.join("man5/ipvisor.toml.5")).unwrap();
    for key in base::config::KEYS {
        assert!(page.contains(&format!("\\fB{}\\fR = \\fI", key.name)), "{}: {page}", key.name);
    }
}

#[test]
fn shells_complete_every_command() {
    let target = target();
    let generated = target.path().join("generated");
    let script = generated.join("bash/ipvisor");
    run(Command::new("bash").arg("-n").arg(&script));
    let completes = format!(
        ". {}; COMP_WORDS=(ipvisor do); COMP_CWORD=1; _ipvisor ipvisor do ipvisor; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let reply = text(run(Command::new("bash").args(["--norc", "-c", &completes])));
    assert_eq!(reply.split_whitespace().collect::<Vec<_>>(), ["down", "doctor"], "{reply}");
    for file in ["fish/ipvisor.fish", "zsh/_ipvisor"] {
        let script = fs::read_to_string(generated.join(file)).unwrap();
        let missing: Vec<_> = commands().into_iter().filter(|c| !script.contains(c)).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
}

#[test]
fn what_was_installed_is_taken_away_and_nothing_else() {
    let target = target();
    let root = target.path().join("root");
    let script = |words: &[&str]| {
        let mut install = Command::new("scripts/install");
        install.args(words).env("CARGO_TARGET_DIR", target.path()).env("DESTDIR", &root);
        run(install.env("PREFIX", "/opt/ipvisor"));
    };
    script(&[]);
    let installed = files(&root);
    for file in [
        "bin/ipvisor",
        "share/man/man1/ipvisor-up.1",
        "share/man/man5/ipvisor.toml.5",
        "share/bash-completion/completions/ipvisor",
        "share/doc/ipvisor/docs/recipes/provider.md",
        "share/doc/ipvisor/examples/net.toml",
    ] {
        assert!(installed.contains(&format!("opt/ipvisor/{file}")), "{file}: {installed:?}");
    }
    let unit = root.join("opt/ipvisor/lib/systemd/system/ipvisor.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert_eq!(unit.matches("/opt/ipvisor/bin/ipvisor ").count(), 3, "{unit}");
    assert!(!unit.contains("/usr/local/bin"), "{unit}");
    let others = root.join("opt/ipvisor/share/man/man1/others.1");
    fs::write(&others, "").unwrap();
    script(&["remove"]);
    assert_eq!(files(&root), BTreeSet::from(["opt/ipvisor/share/man/man1/others.1".to_owned()]));
    assert!(!root.join("opt/ipvisor/share/doc/ipvisor").exists());
}

#[test]
fn the_debian_package_has_what_is_installed_and_the_fields_that_apt_reads() {
    let target = target();
    run(Command::new("scripts/deb").env("CARGO_TARGET_DIR", target.path()));
    let version = env!("CARGO_PKG_VERSION");
    let package = target.path().join(format!("deb/ipvisor_{version}_amd64.deb"));
    let list = text(run(Command::new("dpkg-deb").arg("-c").arg(&package)));
    for file in [
        "-rwxr-xr-x root/root ./usr/bin/ipvisor",
        "-rw-r--r-- root/root ./usr/lib/systemd/system/ipvisor.service",
        "-rw-r--r-- root/root ./usr/share/man/man1/ipvisor.1.gz",
        "-rw-r--r-- root/root ./usr/share/man/man1/ipvisor-doctor.1.gz",
        "-rw-r--r-- root/root ./usr/share/man/man5/ipvisor.toml.5.gz",
        "-rw-r--r-- root/root ./usr/share/bash-completion/completions/ipvisor",
        "-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_ipvisor",
        "-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/ipvisor.fish",
        "-rw-r--r-- root/root ./usr/share/doc/ipvisor/copyright",
        "-rw-r--r-- root/root ./usr/share/doc/ipvisor/examples/net.toml",
    ] {
        // Mode and owner, size and date, name.
        let found = list.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let named = [words.first(), words.get(1), words.last()];
            named.into_iter().flatten().copied().eq(file.split(' '))
        });
        assert!(found, "no {file} in\n{list}");
    }
    let field = |name: &str| {
        let mut query = Command::new("dpkg-deb");
        text(run(query.arg("-f").arg(&package).arg(name))).trim().to_owned()
    };
    assert_eq!(field("Package"), "ipvisor");
    assert_eq!(field("Version"), version);
    assert_eq!(field("Architecture"), "amd64");
    assert_eq!(field("Recommends"), "qemu-system-x86");
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    let control = text(run(Command::new("dpkg-deb").arg("-I").arg(&package)));
    for part in ["postinst", "prerm", "postrm", "md5sums"] {
        assert!(control.contains(part), "{control}");
        if part != "md5sums" {
            let script = text(run(Command::new("dpkg-deb").arg("-I").arg(&package).arg(part)));
            run(Command::new("sh").args(["-n", "-c", &script]));
        }
    }
    assert!(!list.contains("/etc/"), "configurations are the operator's: {list}");
}

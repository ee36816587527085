//! What the documents say is typed can be typed: every command block and every configuration in them.
//!
//! # Theory of operation
//! ```text
//! toml                              is right, says `ipvisor check`, given the files it names
//! toml  <!-- file: net.toml -->     the same, and lies there for the commands after it
//! sh                                is run, on a machine that is prepared for its page
//! sh    <!-- form: why -->          is only looked at: its syntax, the options of `ipvisor` in it
//! ```
//! The comment stands in the line before the block. Nothing else may stand in such a place, and a page
//! with commands to be run must have its machine in `machine`: no block is passed over in silence.

mod machine;
mod page;

use std::process::Command;

use lab::command::finish;
use lab::netns::{Netns, cable};
use lab::paths;

use page::{Block, Language, Mark, Page};

/// All of the documents that people type from.
fn pages() -> Vec<Page> {
    let root = paths::workspace();
    let mut names: Vec<String> = vec!["README.md".to_owned()];
    for dir in ["docs", "docs/recipes"] {
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                names.push(format!("{dir}/{name}"));
            }
        }
    }
    names.sort();
    names.iter().map(|name| Page::read(name).unwrap()).collect()
}

/// The cards that the documents' configurations name.
const CARDS: [&str; 3] = ["eth0", "eth1", "wlan0"];

/// The directories that they name.
const DIRECTORIES: [&str; 2] = ["vm.d", "run"];

/// Whether `ipvisor check` says that it is right, and what it says: on a machine that has
/// both.
fn check(config: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let (host, outside) = (Netns::new().unwrap(), Netns::new().unwrap());
    for card in CARDS {
        cable((&host, card), (&outside, card)).unwrap();
    }
    for directory in DIRECTORIES {
        std::fs::create_dir(dir.path().join(directory)).unwrap();
    }
    page::make_files(config, dir.path());
    // It is for larger machines than this one may be.
    let large = if config.contains("[host]") { "" } else { "[host]\novercommit = true\n" };
    std::fs::write(dir.path().join("net.toml"), format!("{config}\n{large}")).unwrap();
    let mut command = host.command("sh");
    command.args(["-c", machine::CHECK]).arg(paths::ipvisor().unwrap());
    let end = finish(command.current_dir(dir.path())).unwrap();
    (end.status.success(), end.stdout + &end.stderr)
}

/// What is wrong with the form of a block of commands.
fn malformed(block: &Block) -> Option<String> {
    let shell = finish(Command::new("sh").args(["-n", "-c", &block.text])).unwrap();
    if !shell.status.success() {
        return Some(shell.stderr);
    }
    block.text.lines().find_map(|line| {
        let words: Vec<_> = line.split('#').next()?.split_whitespace().collect();
        let end = match words.split_first()? {
            // The parser refuses what it does not know before it helps.
            (&"ipvisor", rest) => {
                let mut ipvisor = Command::new(paths::ipvisor().unwrap());
                finish(ipvisor.args(rest).arg("--help")).unwrap()
            }
            (&"make", rest) => {
                let mut make = Command::new("make");
                finish(make.arg("--dry-run").args(rest).current_dir(paths::workspace())).unwrap()
            }
            _ => return None,
        };
        (!end.status.success()).then(|| format!("{line}\n{}{}", end.stdout, end.stderr))
    })
}

#[test]
fn every_configuration_is_right() {
    let mut count = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|b| b.language == Language::Toml) {
            let (right, said) = check(&block.text);
            assert!(right, "{}:{}\n{}\n{said}", page.name, block.line, block.text);
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn the_configuration_that_is_installed_as_an_example_is_right() {
    let example = std::fs::read_to_string(paths::workspace().join("dist/net.toml")).unwrap();
    let (right, said) = check(&example);
    assert!(right, "{said}");
}

#[test]
fn every_command_that_is_not_run_has_its_form_and_its_reason() {
    for page in pages() {
        let commands = page.blocks.iter().filter(|b| b.language == Language::Commands);
        let (mut run, mut only) = (0, Vec::new());
        for block in commands {
            match &block.mark {
                Mark::Form(why) => only.push((block, why)),
                _ => run += 1,
            }
        }
        if run > 0 || !only.is_empty() {
            println!("{}: {run} blocks are run, {} looked at only:", page.name, only.len());
        }
        for (block, why) in only {
            println!("    line {}: {why}", block.line);
            let wrong = malformed(block);
            assert!(wrong.is_none(), "{}:{}: {}", page.name, block.line, wrong.unwrap());
        }
        assert!(run == 0 || machine::of(&page.name).is_some(), "no machine for {}", page.name);
    }
}

#[test]
fn every_other_command_does_what_its_page_says_on_the_machine_of_the_page() {
    let pages = pages();
    let prepared: Vec<_> =
        pages.iter().filter_map(|page| Some((page, machine::of(&page.name)?))).collect();
    assert!(prepared.len() >= 6, "{} pages", prepared.len());
    // All at once: a VM without a system does not hear its power button, and `down` waits for it.
    std::thread::scope(|scope| {
        for (page, machine) in &prepared {
            scope.spawn(move || {
                let said = machine.run(page).unwrap_or_else(|why| panic!("{}: {why}", page.name));
                for vm in page.vms() {
                    let named = |line: &str| line.split_whitespace().next() == Some(vm.as_str());
                    let shown = said.lines().any(named);
                    assert!(shown, "{}: `ps` shows no {vm}: {said}", page.name);
                }
                println!("{}: done", page.name);
            });
        }
    });
}

#[test]
fn what_the_readme_puts_in_place_of_a_kernel_is_right_too() {
    let readme = Page::read("README.md").unwrap();
    let first = readme.blocks.iter().find(|b| b.language == Language::Toml).unwrap();
    let with_disk: String = first
        .text
        .lines()
        .filter(|line| !line.starts_with("initramfs"))
        .map(|line| if line.starts_with("kernel") { "disk = [\"web.qcow2\"]" } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(readme.text.contains("disk = [\"web.qcow2\"]") && with_disk.contains("disk"));
    let (right, said) = check(&with_disk);
    assert!(right, "{with_disk}\n{said}");
    let (right, said) = check(&first.text.replace("addresses", "adresses"));
    assert!(!right && said.contains("addresses"), "{said}");
}

#[test]
fn a_block_that_fails_is_noticed_and_none_is_passed_over() {
    let parse = |text: &str| Page::parse("docs/quick-start.md", text);
    let failing = parse("```sh\ntrue\n```\n\n```sh\nipvisor ps\necho never\n```\n").unwrap();
    let why = machine::of(&failing.name).unwrap().run(&failing).unwrap_err();
    assert!(why.contains("line 5") && why.contains("no instance runs"), "{why}");
    assert!(!why.contains("never"), "{why}");
    for (text, wrong) in [
        ("<!-- skip: no time -->\n```sh\ntrue\n```\n", "line 2"),
        ("<!-- form: -->\n```sh\ntrue\n```\n", "line 2"),
        ("```fish\ntrue\n```\n", "line 1"),
        ("```sh\ntrue\n", "line 1"),
    ] {
        let why = parse(text).unwrap_err();
        assert!(why.contains(wrong), "{why}");
    }
    let form = |command: &str| {
        let text = format!("<!-- form: a test -->\n```sh\n{command}\n```\n");
        malformed(&parse(&text).unwrap().blocks[0])
    };
    assert_eq!(form("ipvisor up net.toml --detach   # says when it runs"), None);
    assert!(form("ipvisor up net.toml --detached").is_some());
    assert!(form("ipvisor fly").is_some());
    assert!(form("make no-such-target").is_some());
    assert!(form("if true").is_some());
}

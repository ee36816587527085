//! The demo itself: it ends well when everything works, and badly when a path is broken.

use std::process::{Command, Output};

use lab::netns::Snapshot;

fn demo(fault: &str) -> (Output, String) {
    let _alone = lab::paths::alone().unwrap();
    let before = Snapshot::of_machine().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_demo")).env("FAULT", fault).output().unwrap();
    let left = Snapshot::of_machine().unwrap().since(&before);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(left.is_empty(), "{left}\n{text}");
    (ended, text)
}

#[test]
fn every_path_works_and_nothing_is_left_behind() {
    let (ended, text) = demo("");
    assert!(ended.status.success(), "{text}");
    let last = text.lines().last().unwrap_or_default();
    let paths = last.strip_prefix("demo: all ").and_then(|l| l.strip_suffix(" paths work"));
    assert!(paths.is_some_and(|n| n.parse::<u32>().unwrap() >= 20), "{text}");
}

#[test]
fn without_the_lan_exactly_the_paths_over_it_fail_by_name() {
    let (ended, text) = demo("lan");
    assert_eq!(ended.status.code(), Some(1), "{text}");
    for path in ["VM to outside", "outside to VM"] {
        for family in ["IPv4", "IPv6"] {
            let wanted = format!("demo: FAILED: {path}, {family}, ping");
            assert!(text.lines().any(|l| l.starts_with(&wanted)), "{wanted}\n{text}");
        }
    }
    for path in ["VM to VM,", "host to VM,", "VM to host,"] {
        let unwanted = format!("demo: FAILED: {path}");
        assert!(!text.lines().any(|l| l.starts_with(&unwanted)), "{unwanted}\n{text}");
    }
}

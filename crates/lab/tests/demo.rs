//! The demo itself: it ends well when everything works, and badly when a path is broken.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lab::netns::Snapshot;

/// How long people may have to wait, once everything is built.
const LIMIT: Duration = Duration::from_secs(300);

fn demo(change: impl FnOnce(&mut Command)) -> (Output, String) {
    let _alone = lab::paths::alone().unwrap();
    let before = Snapshot::of_machine().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    change(&mut command);
    let start = Instant::now();
    let ended = command.output().unwrap();
    let took = start.elapsed();
    let left = Snapshot::of_machine().unwrap().since(&before);
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    println!("the demo took {took:?}");
    assert!(left.is_empty(), "{left}\n{text}");
    assert!(took < LIMIT, "{took:?}\n{text}");
    (ended, text)
}

#[test]
fn every_path_works_and_nothing_is_left_behind() {
    let (ended, text) = demo(|_| {});
    assert!(ended.status.success(), "{text}");
    let last = text.lines().last().unwrap_or_default();
    let paths = last.strip_prefix("demo: all ").and_then(|l| l.strip_suffix(" paths work"));
    assert!(paths.is_some_and(|n| n.parse::<u32>().unwrap() >= 20), "{text}");
}

#[cfg(feature = "long")]
#[test]
fn without_the_lan_exactly_the_paths_over_it_fail_by_name() {
    let (ended, text) = demo(|command| {
        command.env("FAULT", "lan");
    });
    fails_exactly(&ended, &text, &["VM to outside", "outside to VM"]);
}

#[cfg(feature = "long")]
#[test]
fn with_a_base_that_loses_one_way_exactly_the_paths_over_it_fail_by_name() {
    let (ended, text) = demo(|command| {
        lab::faults::break_base(command, "lose vm-to-vm").unwrap();
    });
    fails_exactly(&ended, &text, &["VM to VM"]);
}

#[cfg(feature = "long")]
/// The demo failed, and said so of these paths and of no others.
fn fails_exactly(ended: &Output, text: &str, paths: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{text}");
    let said = |what: &str| text.lines().any(|l| l.starts_with(&format!("demo: FAILED: {what}")));
    for path in ["VM to VM", "VM to outside", "outside to VM", "host to VM", "VM to host"] {
        for family in ["IPv4", "IPv6"] {
            let failed = said(&format!("{path}, {family}, ping"));
            assert_eq!(failed, paths.contains(&path), "{path}, {family}\n{text}");
        }
        assert_eq!(said(&format!("{path},")), paths.contains(&path), "{path}\n{text}");
    }
}

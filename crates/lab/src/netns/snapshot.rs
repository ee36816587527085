//! What a machine's network looks like, to be compared before and after.
//!
//! Taken as text from the usual tools (`ip`, `tc`, `nft`, `ethtool`), one set of lines per subject,
//! without what changes by itself (life times, counters). Kept in sets: a foreign rule that moved
//! is not a difference, one that came or went is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::process::Command;

use crate::command::output;
use crate::error::Result;
use crate::netns::Netns;

/// Programs that count as traces when they are still there afterwards.
const PROGRAMS: [&str; 7] =
    ["ipvisor", "qemu-system-x86", "dpdk-testpmd", "iperf3", "tcpdump", "ping", "dhcpcd"];

/// Subjects of which only what came counts: what went was somebody else's.
const COME_AND_GO: [&str; 2] = ["ip netns", "process"];

/// The state of one network namespace, or of the machine itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    subjects: BTreeMap<String, BTreeSet<String>>,
}

impl Snapshot {
    /// The machine: its own network, the namespaces there are, and processes.
    pub fn of_machine() -> Result<Self> {
        let mut taken = Self::default();
        taken.add("ip netns", output(Command::new("ip").args(["netns", "list"]))?);
        taken.network(&|words| output(Command::new(words[0]).args(&words[1..])))?;
        taken.add("process", processes().join("\n"));
        Ok(taken)
    }

    /// The network of a namespace.
    pub fn of(space: &Netns) -> Result<Self> {
        let mut taken = Self::default();
        taken.network(&|words| output(space.command(words[0]).args(&words[1..])))?;
        Ok(taken)
    }

    fn network(&mut self, run: &dyn Fn(&[&str]) -> Result<String>) -> Result<()> {
        let links = run(&["ip", "-o", "link", "show"])?;
        for (subject, line) in [
            ("ip addr", "ip -o addr show"),
            ("ip maddr", "ip -o maddr show"),
            ("ip rule", "ip rule show"),
            ("ip -6 rule", "ip -6 rule show"),
            ("ip route", "ip -4 route show table all"),
            ("ip -6 route", "ip -6 route show table all"),
            ("tc qdisc", "tc qdisc show"),
            ("nft", "nft -s list ruleset"),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            self.add(subject, run(&words)?);
        }
        for name in links.lines().filter_map(link_name) {
            for direction in ["ingress", "egress"] {
                // No such hook is no filter.
                let text = run(&["tc", "filter", "show", "dev", name, direction]);
                self.add(&format!("tc filter {name} {direction}"), text.unwrap_or_default());
            }
            let text = run(&["ethtool", "-k", name]).unwrap_or_default();
            self.add(&format!("ethtool -k {name}"), text);
        }
        self.add("ip link", links);
        Ok(())
    }

    fn add(&mut self, subject: &str, text: String) {
        let lines = text.lines().filter(|l| !l.ends_with("[fixed]")).map(steady);
        let lines = lines.filter(|l| !l.is_empty()).collect();
        self.subjects.insert(subject.to_owned(), lines);
    }

    /// What came (`+`) and went (`-`) since `before`, one line each; empty if nothing did.
    pub fn since(&self, before: &Self) -> Difference {
        let subjects: BTreeSet<_> = self.subjects.keys().chain(before.subjects.keys()).collect();
        let empty = BTreeSet::new();
        let mut lines = Vec::new();
        for subject in subjects {
            let old = before.subjects.get(subject).unwrap_or(&empty);
            let new = self.subjects.get(subject).unwrap_or(&empty);
            lines.extend(new.difference(old).map(|line| format!("+ {subject}: {line}")));
            if !COME_AND_GO.contains(&subject.as_str()) {
                lines.extend(old.difference(new).map(|line| format!("- {subject}: {line}")));
            }
        }
        Difference { lines }
    }
}

/// What changed between two snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// One line a change.
    pub lines: Vec<String>,
}

impl Difference {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// `2: eth0@if3: <UP> ...` -> `eth0`
fn link_name(line: &str) -> Option<&str> {
    line.split(": ").nth(1)?.split('@').next()
}

/// A line without what changes by itself.
fn steady(line: &str) -> String {
    let mut kept = Vec::new();
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "valid_lft" | "preferred_lft" | "expires" | "qlen" => drop(words.next()),
            "tentative" => {}
            other => kept.push(other),
        }
    }
    kept.join(" ")
}

/// Running programs of the kinds that tests start: number and name.
fn processes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'));
        if PROGRAMS.iter().any(|p| name.trim().starts_with(p)) && !zombie {
            found.push(format!("{} {}", entry.file_name().to_string_lossy(), name.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_came_and_what_went() {
        let taken = |routes: &str| {
            let mut s = Snapshot::default();
            s.add("ip route", routes.to_owned());
            s
        };
        let before = taken("a dev x expires 30sec\nb dev y");
        let after = taken("a dev x expires 29sec\nc dev z");
        assert_eq!(after.since(&before).lines, ["+ ip route: c dev z", "- ip route: b dev y"]);
        assert!(before.since(&before).is_empty());
    }
}

//! Wrong files, and word for word what people are told of each.
//!
//! The files of `wrong/` are the table: a line `=== NAME` begins a case, then comes a configuration,
//! and behind `--- says` what is said of it. A line `+++ PATH` in between begins another file, beside
//! the main one. To add a case, write all but what is said; with `IPVISOR_WRITE=1` in the environment
//! the test writes that, to be read before it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::ledger::{Capacity, DiskId};

const WRITE: &str = "IPVISOR_WRITE";
/// Where the main file seems to be.
const MAIN: &str = "/etc/ipvisor/net.toml";

/// The machine of the cases.
fn machine() -> Present {
    let cards = [("eth0", true), ("eth1", true), ("lo", true), ("tun0", false)];
    let own = [("203.0.113.2", "eth1"), ("2001:db8:1::2", "eth1")];
    Present {
        cards: cards.into_iter().map(|(name, is)| (name.to_owned(), is)).collect(),
        addresses: own.map(|(a, on)| (a.parse().unwrap(), on.to_owned())).into(),
        capacity: Capacity { cpus: 4, memory: 8 << 30 },
        cores: Some((0..4).collect()),
    }
}

/// Its files: those that are everywhere, two names of one disk, and what a case has beside its main
/// file.
#[derive(Default)]
struct Beside(BTreeMap<PathBuf, String>);

impl Files for Beside {
    fn look(&self, path: &Path) -> io::Result<Found> {
        Everywhere.look(path)
    }

    fn read(&self, path: &Path, _: usize) -> io::Result<Vec<u8>> {
        self.0.get(path).map(|text| text.clone().into()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let here = self.0.keys().filter(|path| path.parent() == Some(directory));
        let names: Vec<_> =
            here.filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn disk(&self, path: &Path) -> Option<DiskId> {
        let name = path.file_name()?.to_str()?;
        name.starts_with("link").then_some(DiskId::File { device: 1, inode: 7 })
    }
}

/// One case.
#[derive(Debug)]
struct Case {
    name: String,
    text: String,
    expected: String,
}

impl Case {
    /// The text of the main file, and those beside it.
    fn files(&self) -> (&str, Beside) {
        let (main, others) = match self.text.find("+++ ") {
            Some(at) => self.text.split_at(at),
            None => (self.text.as_str(), ""),
        };
        let directory = Path::new(MAIN).parent().unwrap();
        let file = |part: &str| {
            let (name, text) = part.split_once('\n').unwrap();
            (directory.join(name), text.to_owned())
        };
        (main, Beside(others.split("+++ ").skip(1).map(file).collect()))
    }

    fn errors(&self) -> Result<(String, Config), ConfigErrors> {
        let (machine, (text, files)) = (machine(), self.files());
        let environment = |name: &str| (name == "CARD").then(|| "eth1".to_owned());
        let against = Against { files: &files, present: Some(&machine), environment: &environment };
        check_with(text, Path::new(MAIN), &against)
    }

    fn said(&self) -> String {
        match self.errors() {
            Ok(_) => "nothing\n".to_owned(),
            Err(errors) => format!("{errors}\n"),
        }
    }

    fn written(&self, said: &str) -> String {
        format!("=== {}\n{}--- says\n{said}", self.name, self.text)
    }
}

/// The files of the table, and the cases in each.
fn table() -> Vec<(PathBuf, Vec<Case>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests/wrong");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| (path.clone(), cases(&fs::read_to_string(path).unwrap())))
        .collect()
}

fn cases(table: &str) -> Vec<Case> {
    let case = |case: &str| {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, expected) = rest.split_once("--- says\n").unwrap();
        Case { name: name.to_owned(), text: text.to_owned(), expected: expected.to_owned() }
    };
    let begun = table.strip_prefix("=== ").unwrap();
    begun.split("\n=== ").map(|one| case(&format!("{}\n", one.trim_end_matches('\n')))).collect()
}

#[test]
fn every_wrong_file_is_told_word_for_word_what_is_wrong_and_what_to_write() {
    let (mut wrong, mut names) = (Vec::new(), BTreeSet::new());
    for (path, cases) in table() {
        let mut written = String::new();
        for case in cases {
            let said = case.said();
            written.push_str(&case.written(&said));
            if said != case.expected {
                wrong.push(format!("{}\nexpected:\n{}said:\n{said}", case.name, case.expected));
            }
            assert!(names.insert(case.name.clone()), "two cases are called {}", case.name);
        }
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, written).unwrap();
        }
    }
    assert!(names.len() >= 40, "{}", names.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_mistake_has_its_place_and_its_remedy() {
    for case in table().into_iter().flat_map(|(_, cases)| cases) {
        let errors = case.errors().unwrap_err();
        for mistake in errors.mistakes() {
            assert!(mistake.help.is_some(), "{}: {mistake:?}", case.name);
            let whole = case.text.trim().is_empty();
            assert!(mistake.at.is_some() || whole, "{}: {mistake:?}", case.name);
        }
    }
}

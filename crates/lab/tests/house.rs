//! The repository itself: what its documents say about its files is true, and its files keep to
//! the rules of the house.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Lines of the longest source file.
const LONGEST: usize = 600;

fn read(path: &str) -> String {
    fs::read_to_string(lab::paths::workspace().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every Rust file under `bench`, `crates` and `fuzz`, as path in the repository and text.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // Build artefacts of the fuzz targets.
                if !path.ends_with("fuzz/target") {
                    walk(&path, into);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path.display().to_string());
            }
        }
    }
    let root = lab::paths::workspace();
    let mut files = Vec::new();
    for part in ["bench", "crates", "fuzz"] {
        walk(&root.join(part), &mut files);
    }
    files.sort();
    let prefix = format!("{}/", root.display());
    let named = files.iter().map(|f| f.strip_prefix(&prefix).unwrap().to_owned());
    named.map(|path| (path.clone(), read(&path))).collect()
}

/// Whether `word` stands anywhere but in a comment.
fn says(text: &str, word: &str) -> bool {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).any(|w| w == word)
}

/// What stands between backquotes at the beginning of a table's rows.
fn first_cells(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" |").next());
    let names = cells.flat_map(|cell| cell.split(", "));
    names.map(|name| name.trim_matches('`').to_owned()).collect()
}

/// The keys of one table of a `Cargo.toml`.
fn keys<'a>(manifest: &'a str, table: &str) -> BTreeSet<&'a str> {
    let from = manifest.lines().skip_while(|line| *line != format!("[{table}]")).skip(1);
    let lines = from.take_while(|line| !line.starts_with('['));
    let keys = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    keys.filter_map(|(key, _)| key.trim().split('.').next()).collect()
}

#[test]
fn every_file_begins_with_what_it_is_and_is_short_enough_to_read() {
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(_, text)| !text.trim().is_empty()) {
        let code = text.trim_start_matches("#![no_main]\n").trim_start();
        if !code.starts_with("//! ") {
            wrong.push(format!("{path} does not begin with `//! ` and what it is"));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{path} has {lines} lines: more than {LONGEST}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_with_unsafe_code_is_in_the_architectures_list() {
    // Taken apart, so that this file is not one of them.
    let word = concat!("un", "safe");
    let document = read("ARCHITECTURE.md");
    let (_, after) = document.split_once(&format!("## Where `{word}` lives")).unwrap();
    let (section, _) = after.split_once("\n## ").unwrap();
    let listed = first_cells(section);
    let found: BTreeSet<String> =
        sources().into_iter().filter(|(_, text)| says(text, word)).map(|(path, _)| path).collect();
    assert_eq!(found, listed);
}

/// The documents for people.
fn documents() -> Vec<String> {
    let root = lab::paths::workspace();
    let mut paths = Vec::new();
    for dir in ["", "docs/", "docs/recipes/"] {
        for entry in fs::read_dir(root.join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                paths.push(format!("{dir}{name}"));
            }
        }
    }
    paths
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut dead = Vec::new();
    for path in documents() {
        let text = read(&path);
        let dir = lab::paths::workspace().join(&path).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|part| part.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !file.is_empty() && !dir.join(file).exists() {
                dead.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn every_file_that_the_architecture_names_is_there() {
    // Named from the place that its section speaks of: some source file ends so, or lies in such a
    // directory; or it is a directory of a crate.
    let paths: Vec<String> = sources().into_iter().map(|(path, _)| format!("/{path}")).collect();
    let document = read("ARCHITECTURE.md");
    let words = document.split('`').skip(1).step_by(2);
    let files = words.filter(|w| w.ends_with(".rs") || w.ends_with('/') && w.len() > 1);
    let is_there = |name: &str| {
        let end = format!("/{name}");
        let in_a_crate = lab::paths::workspace().join("crates").join(name);
        paths.iter().any(|p| p.ends_with(&end) || name.ends_with('/') && p.contains(&end))
            || name.ends_with('/') && in_a_crate.is_dir()
    };
    let missing: Vec<_> = files.filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_dependency_has_its_reason_and_is_used() {
    let manifest = read("Cargo.toml");
    let ours = ["virtqueue", "datapath", "base"];
    let named = keys(&manifest, "workspace.dependencies");
    let explained = first_cells(&read("docs/dependencies.md"));
    for name in &named {
        let known = ours.contains(name) || explained.contains(*name);
        assert!(known, "docs/dependencies.md does not say why {name}");
    }
    for name in &explained {
        assert!(named.contains(name.as_str()), "docs/dependencies.md explains {name}: nobody's");
    }
    let all = sources();
    let mut used = BTreeSet::new();
    let crates = fs::read_dir(lab::paths::workspace().join("crates")).unwrap();
    let crates = crates.map(|e| format!("crates/{}", e.unwrap().file_name().to_str().unwrap()));
    for member in crates.chain(["bench".to_owned()]) {
        let manifest = read(&format!("{member}/Cargo.toml"));
        let texts: Vec<_> =
            all.iter().filter(|(path, _)| path.starts_with(&format!("{member}/"))).collect();
        for dependency in
            keys(&manifest, "dependencies").union(&keys(&manifest, "dev-dependencies"))
        {
            let word = dependency.replace('-', "_");
            let is_used = texts.iter().any(|(_, text)| says(text, &word));
            assert!(is_used, "{member} names {dependency} and does not use it");
            used.insert((*dependency).to_owned());
        }
    }
    for name in named {
        assert!(used.contains(name), "no crate uses {name} of the workspace's dependencies");
    }
}

#[test]
fn the_rules_see_what_breaks_them() {
    assert!(says("fn f() { danger { g() } }", "danger"));
    assert!(!says("// danger\nfn f() {} // danger\nlet dangerous = 1;", "danger"));
    let manifest = "[a]\nx = 1\n# y = 2\nz.workspace = true\n\n[b]\nw = 3\n";
    assert_eq!(keys(manifest, "a"), BTreeSet::from(["x", "z"]));
    let cells = first_cells("| `a`, `b` | c |\n| d | e |\n");
    assert_eq!(cells, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

//! `docs/claims.md` and the tests name the same things.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lab::paths::workspace;

fn page() -> String {
    fs::read_to_string(workspace().join("docs/claims.md")).unwrap()
}

/// All `FILE#FUNCTION` between backticks.
fn named(text: &str) -> BTreeSet<(String, String)> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter_map(|s| s.split_once(".rs#")).map(|(f, t)| (format!("{f}.rs"), t.into())).collect()
}

/// The test functions of a source file: those with a test attribute, and those of `proptest!`.
fn tests_in(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let declared = ["async fn ", "fn "].iter().find_map(|start| line.strip_prefix(start));
        if line.ends_with("test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) = declared {
            if std::mem::take(&mut is_test) {
                found.insert(name.split('(').next().unwrap_or_default().to_owned());
            }
        } else if !line.starts_with('#') && !line.starts_with("//") {
            is_test = false;
        }
    }
    found
}

/// Claims: each item of a list, with the lines that go on with it.
fn claims(page: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        if let Some(first) = line.strip_prefix("- ") {
            items.push(first.to_owned());
            open = true;
        } else if open && line.starts_with("  ") {
            items.last_mut().unwrap().push_str(line);
        } else {
            open = false;
        }
    }
    items
}

#[test]
fn every_claim_names_a_test_and_every_test_named_exists() {
    let page = page();
    let promised = page.split("## What is not claimed").next().unwrap();
    let claims = claims(promised);
    assert!(claims.len() > 50, "{}", claims.len());
    for claim in &claims {
        assert!(!named(claim).is_empty(), "no test: {claim}");
    }
    for (file, test) in named(&page) {
        let source = fs::read_to_string(workspace().join("crates").join(&file));
        let source = source.unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(tests_in(&source).contains(&test), "{file} has no test {test}");
    }
    // Each of the nine rules, by its number.
    for rule in 1..=9 {
        assert!(promised.contains(&format!("\n## {rule}. ")), "rule {rule}");
    }
}

#[test]
fn every_test_of_claims_and_admission_is_named() {
    let named = named(&page());
    for directory in ["claims", "admission"] {
        let place = format!("lab/tests/{directory}");
        for entry in fs::read_dir(workspace().join("crates").join(&place)).unwrap() {
            let path = entry.unwrap().path();
            let file = Path::new(&place).join(path.file_name().unwrap()).display().to_string();
            for test in tests_in(&fs::read_to_string(&path).unwrap()) {
                assert!(named.contains(&(file.clone(), test.clone())), "{file}#{test}");
            }
        }
    }
}

//! What is on the screen, at the sizes that people have.

use std::time::Duration;

use super::*;
use crate::top::example::{instance, vm};

const SMALL: Size = Size { columns: 80, rows: 24 };
const LARGE: Size = Size { columns: 200, rows: 50 };

fn shown(model: &Model, view: View, size: Size) -> Vec<String> {
    let lines = render(model, view, size);
    let plain: Vec<String> = lines.iter().map(|line| line.paint(size.columns, false)).collect();
    assert!(plain.len() <= size.rows);
    for line in &plain {
        assert!(line.chars().count() <= size.columns, "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
    plain.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Three VMs, looked at twice, a second between.
fn model() -> Model {
    let mut model = Model::default();
    let at_first = vec![vm("db", 0, 0, 200 << 20), vm("web", 0, 0, 1 << 30), vm("idle", 0, 0, 0)];
    model.look(instance(at_first), Duration::ZERO);
    let mut later = vec![
        vm("db", 126, 1532, 200 << 20),
        vm("web", 900, 2_500_000, 1 << 30),
        vm("idle", 0, 0, 0),
    ];
    later[2].state = VmState::Failed;
    model.look(instance(later), Duration::from_secs(1));
    model
}

#[test]
fn a_small_terminal_shows_all_columns_and_the_busiest_first() {
    let shown = shown(&model(), View::default(), SMALL);
    assert_eq!(shown.len(), 24);
    let expected = "\
ipvisor 0.1.0, up 3 min   3 VMs: 2 running, 1 failed
CPU 103 %   memory 1.2G   out 2.5M/s   in 0/s   dropped 0/s

VM    STATE       CPU▼   MEMORY   OUT/S    IN/S   DROP/S  DATAGRAMS
web   running     90 %       1G    2.5M       0        0                       █
db    running     13 %     200M    1532       0        0                       █
idle  failed       0 %        0       0       0        0";
    assert_eq!(shown[..7].join("\n"), expected);
    assert!(shown[7..23].iter().all(String::is_empty), "{shown:#?}");
    assert_eq!(shown[23], "q quit  n name  c CPU  m memory  o out  i in  d drops  r reverse");
}

#[test]
fn a_large_one_has_room_for_addresses_and_a_longer_trend() {
    let shown = shown(&model(), View { sort: Sort::Name, ..View::default() }, LARGE);
    assert_eq!(shown.len(), 50);
    assert!(shown[3].starts_with("VM▼   STATE"), "{}", shown[3]);
    assert!(shown[3].ends_with("ADDRESS"), "{}", shown[3]);
    let db = &shown[4];
    assert!(db.starts_with("db    running ") && db.ends_with("  203.0.113.10"), "{db}");
    let place = |line: &str, what: &str| line.find(what).map(|at| line[..at].chars().count());
    assert_eq!(place(db, "203.0.113.10"), place(&shown[3], "ADDRESS"));
}

#[test]
fn more_vms_than_lines_are_scrolled_and_counted() {
    let mut model = Model::default();
    let many = (0..40).map(|n| vm(&format!("vm{n:02}"), 0, 0, 0)).collect();
    model.look(instance(many), Duration::ZERO);
    let by_name = View { sort: Sort::Name, ..View::default() };
    let first = shown(&model, by_name, SMALL);
    assert!(first[4].starts_with("vm00") && first[22].starts_with("vm18"), "{first:#?}");
    assert!(first[23].ends_with("1-19 of 40"), "{}", first[23]);
    // Looked at once only: no rates yet.
    assert!(first[4].contains("  -"), "{}", first[4]);
    let last = shown(&model, View { skipped: 1000, ..by_name }, SMALL);
    assert!(last[22].starts_with("vm39"), "{last:#?}");
    assert!(last[23].ends_with("22-40 of 40"), "{}", last[23]);
    let reversed = shown(&model, View { reverse: true, ..by_name }, SMALL);
    assert!(reversed[3].starts_with("VM▲") && reversed[4].starts_with("vm39"), "{reversed:#?}");
}

#[test]
fn what_is_wrong_is_shown_and_what_was_known_stays() {
    let mut model = model();
    model.trouble = Some("no answer: the base is being replaced".to_owned());
    let shown = shown(&model, View::default(), SMALL);
    assert_eq!(shown[2], "no answer: the base is being replaced");
    assert!(shown[4].starts_with("web"));
}

#[test]
fn every_size_holds_its_lines_and_too_small_a_one_says_so() {
    let model = model();
    for columns in 0..220 {
        for rows in [0, 1, 7, 8, 24] {
            let lines = shown(&model, View::default(), Size { columns, rows: rows.max(1) });
            if columns < 60 || rows < 8 {
                assert!("too small: 60 x 8 at least; q quits".starts_with(&lines[0]), "{lines:?}");
            }
        }
    }
}

#[test]
fn colours_are_there_when_they_are_wanted() {
    let lines = render(&model(), View::default(), SMALL);
    let failed = lines[6].paint(80, true);
    assert!(failed.contains("\x1b[31mfailed  \x1b[0m"), "{failed:?}");
    assert!(!lines[6].paint(80, false).contains('\x1b'));
}

#[test]
fn a_trend_is_scaled_to_its_highest_and_ends_with_the_newest() {
    let cases: [(&[f64], usize, &str); 5] = [
        (&[], 4, "    "),
        (&[0.0, 0.0], 4, "    "),
        (&[1.0, 4.0, 8.0], 4, " ▁▄█"),
        (&[9.0, 1.0, 1.0, 2.0], 3, "▄▄█"),
        (&[0.001, 100.0], 2, "▁█"),
    ];
    for (values, width, expected) in cases {
        assert_eq!(sparkline(values, width), expected);
    }
}

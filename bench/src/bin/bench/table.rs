//! The results as people read them.

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;

use crate::results::{Bar, Measured, Op};

/// A number in three digits or so.
fn shown(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// What was measured.
pub fn cases(cases: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["case", "contender", "median", "rounds", "unit", "slices that counted"]);
    for m in cases {
        let counted = match m.discarded {
            [_, 0] => String::new(),
            [out, of] => format!("{} of {of}", of - out),
        };
        let range = format!("{} to {}", shown(m.min), shown(m.max));
        let median = shown(m.median);
        table.add_row([&m.case, &m.contender, &median, &range, &m.unit, &counted]);
    }
    table
}

/// What follows.
pub fn bars(bars: &[Bar]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["bar", "what", "median", "rounds", "wanted", "holds"]);
    for bar in bars {
        let sign = match bar.target.op {
            Op::AtLeast => "≥",
            Op::AtMost => "≤",
        };
        table.add_row([
            bar.id.clone(),
            bar.what.clone(),
            shown(bar.value),
            rounds(bar),
            format!("{sign} {}", bar.target.value),
            verdict(bar).to_owned(),
        ]);
    }
    table
}

/// Their range, and how many there are if some are missing.
fn rounds(bar: &Bar) -> String {
    let range = format!("{} to {}", shown(bar.min), shown(bar.max));
    match bar.ratio_rounds.len() {
        kept if kept < bar.of => format!("{range}, {kept} of {}", bar.of),
        _ => range,
    }
}

fn verdict(bar: &Bar) -> &'static str {
    match (bar.is_measured(), bar.holds) {
        (false, _) => "not measured",
        (true, true) => "yes",
        (true, false) => "NO",
    }
}

#[cfg(test)]
mod tests {
    use super::{shown, verdict};
    use crate::bars::{PROMISES, judge};
    use crate::results::Measured;

    #[test]
    fn what_was_not_measured_is_neither_kept_nor_broken() {
        let seen = |value| Measured::new("100/s", "ipvisor", "% of a core", vec![value]);
        let promise = PROMISES.iter().find(|p| p.id == "7a").unwrap();
        let verdict = |cases: &[Measured]| verdict(&judge(promise, cases));
        assert_eq!(verdict(&[]), "not measured");
        assert_eq!(verdict(&[seen(f64::NAN)]), "not measured");
        assert_eq!([0.9, 1.1].map(|v| verdict(&[seen(v)])), ["yes", "NO"]);
    }

    #[test]
    fn numbers_have_about_three_digits() {
        let texts = [0.123, 9.5, 12.34, 1234.5, f64::NAN].map(shown);
        assert_eq!(texts, ["0.12", "9.50", "12.3", "1234", "-"]);
    }
}

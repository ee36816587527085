//! The results as pictures, but for those that nobody else has: for each case a bar for each contender, its median and its range; or lines
//! over what the cases differ in.

use std::path::Path;

use lab::{LabError, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cases::{FLOWS, RATES};
use crate::results::Measured;

/// Cases that differ in a number.
type Numbered = &'static [(u32, &'static str)];

/// Cases that belong in one picture, a panel for each.
const PICTURES: [(&str, &[&str]); 5] = [
    ("bench-rates.svg", &["64 B", "64 B, packed rings", "1500 B", "64 KiB"]),
    ("bench-card.svg", &["64 B to the card", "64 B to the card by AF_XDP", "64 KiB to the card"]),
    ("bench-idle-ports.svg", &["64 B among 1,000 idle ports"]),
    (
        "bench-round-trips.svg",
        &["round trip", "round trip, p99", "round trip after a rest", "round trip after 1 s"],
    ),
    ("bench-flood.svg", &["beside a flood", "beside a flood, p99"]),
];
/// One picture each, over that number: a line for each contender.
const LINES: [(&str, &str, Numbered); 2] = [
    ("bench-flows.svg", "flows, 100,000 addresses", &FLOWS),
    ("bench-processor.svg", "datagrams a second", &RATES),
];
/// In pixels.
const WIDTH: u32 = 720;
const LINE: u32 = 26;
const MARGINS: u32 = 86;
const LABELS: u32 = 170;
const HEIGHT: u32 = 360;
/// ipvisor, and the others.
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0x99, 0x99, 0x99);
/// The others, where each is a line.
const SHADES: [RGBColor; 2] = [RGBColor(0x77, 0x77, 0x77), RGBColor(0xbb, 0xbb, 0xbb)];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What the library may refuse.
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Draws what there is into a directory; the files.
pub fn draw(dir: &Path, cases: &[Measured]) -> Result<Vec<String>> {
    let mut drawn = Vec::new();
    let of = |case: &str| -> Vec<&Measured> {
        cases.iter().filter(|m| m.case == case && m.median.is_finite()).collect()
    };
    let mut add = |file: &str, draw: &dyn Fn(&Path) -> Drawn| {
        let path = dir.join(file);
        drawn.push(path.display().to_string());
        draw(&path).map_err(|e| LabError::Unexpected(format!("draw {}: {e}", path.display())))
    };
    for (file, wanted) in PICTURES {
        let groups = wanted.iter().map(|case| of(case)).filter(|group| !group.is_empty());
        let groups: Vec<_> = groups.collect();
        if !groups.is_empty() {
            add(file, &|path| picture(path, &groups))?;
        }
    }
    for (file, over, wanted) in LINES {
        let points = wanted.iter().flat_map(|(x, case)| of(case).into_iter().map(|m| (*x, m)));
        let points: Vec<_> = points.collect();
        if !points.is_empty() {
            add(file, &|path| lines(path, over, &points))?;
        }
    }
    Ok(drawn)
}

fn height(group: &[&Measured]) -> u32 {
    MARGINS + LINE * group.len() as u32
}

fn picture(path: &Path, groups: &[Vec<&Measured>]) -> Drawn {
    let size = (WIDTH, groups.iter().map(|g| height(g)).sum());
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rest = root.clone();
    for group in groups {
        let (panel, below) = rest.split_vertically(height(group));
        draw_panel(&panel, group)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

/// One case: bars from zero to the median, and whiskers over the rounds.
fn draw_panel(area: &Area<'_>, group: &[&Measured]) -> Drawn {
    let most = group.iter().map(|m| m.max).fold(0.0, f64::max) * 1.05;
    let count = group.len();
    let title = format!("{}, {}", group[0].case, group[0].unit);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..most, (0..count - 1).into_segmented())?;
    // The first contender on top.
    let of = |n: usize| group[count - 1 - n];
    let name = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(n) if *n < count => of(*n).contender.clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_labels(6)
        .y_labels(count + 1)
        .y_label_formatter(&name)
        .label_style(("sans-serif", 15))
        .draw()?;
    chart.draw_series((0..count).map(|n| {
        let color = if of(n).contender == "ipvisor" { OURS } else { OTHERS };
        let corners = [(0.0, SegmentValue::Exact(n)), (of(n).median, SegmentValue::Exact(n + 1))];
        let mut bar = Rectangle::new(corners, color.filled());
        bar.set_margin(5, 5, 0, 0);
        bar
    }))?;
    chart.draw_series((0..count).map(|n| {
        let ends = [of(n).min, of(n).max].map(|x| (x, SegmentValue::CenterOf(n)));
        PathElement::new(ends.to_vec(), BLACK.stroke_width(2))
    }))?;
    Ok(())
}

/// A line for each contender through its medians, over numbers that grow by factors, and whiskers
/// over the rounds.
fn lines(path: &Path, over: &str, points: &[(u32, &Measured)]) -> Drawn {
    let root = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (least, most) = points.iter().fold((u32::MAX, 1), |(a, b), (x, _)| (a.min(*x), b.max(*x)));
    let highest = points.iter().map(|(_, m)| m.max).fold(0.0, f64::max) * 1.05;
    // Room at both ends, also if there is one number only.
    let ends = f64::from(least) * 0.8..f64::from(most) * 1.25;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(ends.log_scale(), 0.0..highest)?;
    chart
        .configure_mesh()
        .x_desc(over)
        .y_desc(&points[0].1.unit)
        .label_style(("sans-serif", 15))
        .draw()?;
    let mut names: Vec<&str> = Vec::new();
    for (_, m) in points {
        if !names.contains(&&*m.contender) {
            names.push(&m.contender);
        }
    }
    for (n, name) in names.iter().enumerate() {
        let color = if n == 0 { OURS } else { SHADES[(n - 1) % SHADES.len()] };
        let own: Vec<_> = points.iter().filter(|(_, m)| m.contender == *name).collect();
        let line: Vec<_> = own.iter().map(|(x, m)| (f64::from(*x), m.median)).collect();
        let dots = line.clone().into_iter().map(|at| Circle::new(at, 3, color.filled()));
        chart.draw_series(dots)?;
        chart
            .draw_series([PathElement::new(line, color.stroke_width(2))])?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        chart.draw_series(own.iter().map(|(x, m)| {
            let ends = [m.min, m.max].map(|y| (f64::from(*x), y));
            PathElement::new(ends.to_vec(), color.stroke_width(1))
        }))?;
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 15))
        .background_style(WHITE)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_names_every_contender_that_was_measured() {
        let dir = tempfile::tempdir().unwrap();
        let measured = |who, rounds: &[f64]| Measured::new("64 B", who, "Mpps", rounds.to_vec());
        let cases = [measured("ipvisor", &[8.0, 9.0]), measured("testpmd io", &[7.0]), {
            measured("OVS-DPDK", &[f64::NAN])
        }];
        let drawn = draw(dir.path(), &cases).unwrap();
        assert_eq!(drawn.len(), 1);
        let text = std::fs::read_to_string(&drawn[0]).unwrap();
        for (word, named) in [("ipvisor", true), ("testpmd io", true), ("OVS-DPDK", false)] {
            assert_eq!(text.contains(word), named, "{word}");
        }
    }

    #[test]
    fn a_line_goes_through_all_numbers_that_were_measured() {
        let dir = tempfile::tempdir().unwrap();
        let cases: Vec<_> = FLOWS
            .iter()
            .flat_map(|(_, case)| {
                ["ipvisor", "OVS-DPDK"].map(|who| Measured::new(case, who, "Mpps", vec![8.0, 9.0]))
            })
            .collect();
        let drawn = draw(dir.path(), &cases).unwrap();
        assert_eq!(drawn.len(), 1);
        let text = std::fs::read_to_string(&drawn[0]).unwrap();
        for word in ["ipvisor", "OVS-DPDK", "flows, 100,000 addresses", "Mpps"] {
            assert!(text.contains(word), "{word}");
        }
        assert_eq!(text.matches("<circle").count(), 6);
    }
}

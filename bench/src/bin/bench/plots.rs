//! The results as pictures: for each case a bar for each contender, its median and its range.

use std::path::Path;

use lab::{LabError, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::results::Measured;

/// Cases that belong in one picture: those of the race, and round trips.
const PICTURES: [(&str, &[&str]); 2] = [
    ("bench-rates.svg", &["64 B", "1500 B", "64 KiB"]),
    ("bench-round-trips.svg", &["round trip after a rest", "round trip"]),
];
/// In pixels.
const WIDTH: u32 = 720;
const LINE: u32 = 26;
const MARGINS: u32 = 86;
const LABELS: u32 = 170;
/// ipvisor, and the others.
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0x99, 0x99, 0x99);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws what there is into a directory; the files.
pub fn draw(dir: &Path, cases: &[Measured]) -> Result<Vec<String>> {
    let mut drawn = Vec::new();
    for (file, wanted) in PICTURES {
        let groups: Vec<Vec<&Measured>> = wanted
            .iter()
            .map(|case| cases.iter().filter(|m| m.case == *case && m.median.is_finite()).collect())
            .filter(|group: &Vec<_>| !group.is_empty())
            .collect();
        if groups.is_empty() {
            continue;
        }
        let path = dir.join(file);
        picture(&path, &groups)
            .map_err(|e| LabError::Unexpected(format!("draw {}: {e}", path.display())))?;
        drawn.push(path.display().to_string());
    }
    Ok(drawn)
}

fn height(group: &[&Measured]) -> u32 {
    MARGINS + LINE * group.len() as u32
}

fn picture(
    path: &Path,
    groups: &[Vec<&Measured>],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
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
fn draw_panel(
    area: &Area<'_>,
    group: &[&Measured],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
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
}

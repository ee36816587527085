//! What was measured, as it is written down.

use serde::Serialize;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// What was measured.
    pub cases: Vec<Measured>,
    /// What follows from it.
    pub bars: Vec<Bar>,
}

/// The machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Its processor, by the kernel's word.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Its kernel.
    pub kernel: String,
    /// The version of DPDK.
    pub dpdk: String,
    /// The version of Open vSwitch.
    pub ovs: String,
    /// The revision that was measured.
    pub revision: String,
}

/// One contender in one case.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Measured {
    /// Which case.
    pub case: String,
    /// Who.
    pub contender: String,
    /// Of the values.
    pub unit: String,
    /// Each round's value: the median of its slices.
    pub rounds: Vec<f64>,
    /// Over the rounds.
    pub median: f64,
    /// Over the rounds.
    pub min: f64,
    /// Over the rounds.
    pub max: f64,
    /// Slices that did not count, of all.
    pub discarded: [usize; 2],
}

impl Measured {
    /// Sums up the rounds of one contender.
    pub fn new(case: &str, contender: &str, unit: &str, rounds: Vec<f64>) -> Self {
        let (median, min, max) = summary(&rounds);
        let [case, contender, unit] = [case, contender, unit].map(str::to_owned);
        Self { case, contender, unit, rounds, median, min, max, discarded: [0, 0] }
    }
}

/// What is promised of a number, and whether it holds.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Bar {
    /// Its number.
    pub id: String,
    /// What it says.
    pub what: String,
    /// Each round's ratio, or value; rounds that could not be measured are left out.
    pub ratio_rounds: Vec<f64>,
    /// Of how many rounds: those of the case tell it, too.
    #[serde(skip)]
    pub of: usize,
    /// Their median.
    pub value: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// What it is to be.
    pub target: Target,
    /// Whether it is: the median counts.
    pub holds: bool,
}

/// What a number is to be.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub struct Target {
    /// At least or at most.
    pub op: Op,
    /// What.
    pub value: f64,
}

/// How a number compares with its target.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub enum Op {
    /// At least.
    #[serde(rename = ">=")]
    AtLeast,
    /// At most.
    #[serde(rename = "<=")]
    AtMost,
}

impl Bar {
    /// Whether there is anything to judge.
    pub fn is_measured(&self) -> bool {
        !self.ratio_rounds.is_empty()
    }
}

impl Target {
    /// Whether a value is what it is to be. None is not.
    pub fn is_met_by(&self, value: f64) -> bool {
        match self.op {
            Op::AtLeast => value >= self.value,
            Op::AtMost => value <= self.value,
        }
    }
}

/// The middle one; of an even number the mean of the two in the middle. Not a number if there are
/// none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.get(half), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(upper), 0) => (sorted[half - 1] + upper) / 2.0,
        (Some(middle), _) => *middle,
    }
}

/// The least value that so many in a hundred do not exceed. Not a number if there are none.
pub fn percentile(values: &[f64], hundredths: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * hundredths).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Median, least, greatest.
pub fn summary(values: &[f64]) -> (f64, f64, f64) {
    let least = values.iter().copied().fold(f64::NAN, f64::min);
    let greatest = values.iter().copied().fold(f64::NAN, f64::max);
    (median(values), least, greatest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(summary(&[9.0, 1.0, 5.0]), (5.0, 1.0, 9.0));
        assert_eq!(summary(&[4.0, 1.0, 3.0, 2.0]), (2.5, 1.0, 4.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_percentile_is_a_value_that_was_there() {
        let values: Vec<f64> = (1..=300).rev().map(f64::from).collect();
        assert_eq!([1, 50, 99, 100].map(|n| percentile(&values, n)), [3.0, 150.0, 297.0, 300.0]);
        assert_eq!(percentile(&values[..20], 99), 300.0);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn what_was_not_measured_meets_no_target() {
        for op in [Op::AtLeast, Op::AtMost] {
            assert!(!Target { op, value: 0.0 }.is_met_by(f64::NAN));
        }
        let target = Target { op: Op::AtLeast, value: 2.5 };
        assert_eq!([2.5, 2.49].map(|v| target.is_met_by(v)), [true, false]);
    }

    #[test]
    fn a_bar_is_written_as_readers_of_the_file_expect() {
        let target = Target { op: Op::AtLeast, value: 2.5 };
        let bar = Bar {
            id: "1a".to_owned(),
            what: "w".to_owned(),
            ratio_rounds: vec![3.0],
            of: 1,
            value: 3.0,
            min: 3.0,
            max: 3.0,
            target,
            holds: true,
        };
        let written = serde_json::to_string(&bar).unwrap();
        assert_eq!(
            written,
            r#"{"id":"1a","what":"w","ratio_rounds":[3.0],"value":3.0,"min":3.0,"max":3.0,"target":{"op":">=","value":2.5},"holds":true}"#
        );
    }
}

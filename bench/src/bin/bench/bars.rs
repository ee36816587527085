//! What is promised, and how it follows from the rounds.

use crate::results::{Bar, Measured, Op, Target, summary};

/// One case of one contender, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of {
    /// The case.
    pub case: &'static str,
    /// Who.
    pub contender: &'static str,
}

/// A promise about what was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// Its number.
    pub id: &'static str,
    /// What it says.
    pub what: &'static str,
    /// Whose value.
    pub of: Of,
    /// By whose value of the same round it is divided, if it is a ratio.
    pub over: Option<Of>,
    /// What it is to be.
    pub target: Target,
}

const fn ours(case: &'static str) -> Of {
    Of { case, contender: "ipvisor" }
}

const fn ratio(
    id: &'static str,
    what: &'static str,
    case: &'static str,
    over: &'static str,
    at_least: f64,
) -> Promise {
    let over = Some(Of { case, contender: over });
    let target = Target { op: Op::AtLeast, value: at_least };
    Promise { id, what, of: ours(case), over, target }
}

const fn share(id: &'static str, what: &'static str, case: &'static str, at_most: f64) -> Promise {
    let target = Target { op: Op::AtMost, value: at_most };
    Promise { id, what, of: ours(case), over: None, target }
}

/// All promises.
pub const PROMISES: [Promise; 13] = [
    ratio("1a", "64 B against OVS-DPDK with layer-3 flows", "64 B", "OVS-DPDK", 2.5),
    ratio("1b", "64 B against testpmd io, which does not look", "64 B", "testpmd io", 1.4),
    ratio("2a", "1500 B against OVS-DPDK with layer-3 flows", "1500 B", "OVS-DPDK", 1.8),
    ratio("2b", "1500 B against testpmd io, which does not look", "1500 B", "testpmd io", 1.3),
    ratio("3a", "64 KiB large sends against two copies", "64 KiB", "two copies", 0.85),
    ratio("3b", "64 KiB large sends against the kernel", "64 KiB", "kernel, routed taps", 1.5),
    ratio("4a", "64 B against a bridge in the kernel", "64 B", "kernel, bridged taps", 25.0),
    ratio("4b", "64 B against a router in the kernel", "64 B", "kernel, routed taps", 25.0),
    ratio("4c", "64 B against masquerading", "64 B", "kernel, masquerading", 25.0),
    share("7a", "% of a core at 100 datagrams/s", "100/s", 1.0),
    share("7b", "% of a core at 1,000 datagrams/s", "1,000/s", 5.0),
    share("7c", "% of a core at 10,000 datagrams/s", "10,000/s", 20.0),
    share("7d", "% of a core at 100,000 datagrams/s", "100,000/s", 60.0),
];

/// What becomes of a promise. Rounds that one of the two has not are left out.
pub fn judge(promise: &Promise, cases: &[Measured]) -> Bar {
    let rounds = |of: Of| {
        let found = cases.iter().find(|m| m.case == of.case && m.contender == of.contender);
        found.map_or(&[][..], |m| &m.rounds)
    };
    let values = rounds(promise.of);
    let ratio_rounds: Vec<f64> = match promise.over {
        None => values.to_vec(),
        Some(over) => values.iter().zip(rounds(over)).map(|(of, over)| of / over).collect(),
    };
    let kept: Vec<f64> = ratio_rounds.into_iter().filter(|r| r.is_finite()).collect();
    let (value, min, max) = summary(&kept);
    let Promise { id, what, target, .. } = *promise;
    Bar {
        id: id.to_owned(),
        what: what.to_owned(),
        ratio_rounds: kept,
        value,
        min,
        max,
        target,
        holds: target.is_met_by(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(contender: &str, rounds: &[f64]) -> Measured {
        Measured::new("64 B", contender, "Mpps", rounds.to_vec())
    }

    #[test]
    fn a_ratio_is_taken_round_by_round_before_its_median() {
        // The machine became twice as slow in the second round, for both.
        let cases =
            [measured("ipvisor", &[10.0, 5.0, 12.0]), measured("testpmd io", &[5.0, 2.5, 8.0])];
        let bar = judge(&ratio("1b", "", "64 B", "testpmd io", 1.4), &cases);
        assert_eq!(bar.ratio_rounds, [2.0, 2.0, 1.5]);
        assert_eq!((bar.value, bar.min, bar.max, bar.holds), (2.0, 1.5, 2.0, true));
        assert!(!judge(&ratio("1b", "", "64 B", "testpmd io", 2.1), &cases).holds);
    }

    #[test]
    fn a_round_that_one_of_the_two_lacks_says_nothing() {
        let cases = [
            measured("ipvisor", &[10.0, f64::NAN, 12.0, 1.0]),
            measured("testpmd io", &[5.0, 2.5, 0.0]),
        ];
        let bar = judge(&ratio("1b", "", "64 B", "testpmd io", 1.4), &cases);
        assert_eq!(bar.ratio_rounds, [2.0]);
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let bar = judge(&ratio("1b", "", "64 B", "testpmd io", 1.4), &[]);
        assert!(!bar.holds && bar.ratio_rounds.is_empty());
    }

    #[test]
    fn a_share_is_compared_as_it_is() {
        let cases = [Measured::new("100/s", "ipvisor", "% of a core", vec![0.5, 0.9, 2.0])];
        let bar = judge(&share("7a", "", "100/s", 1.0), &cases);
        assert_eq!((bar.value, bar.holds), (0.9, true));
    }
}

//! What is promised, and how it follows from the rounds.

use crate::cases::{ALONE, FLOWS, ONE_FLOW};
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

/// A value of ipvisor's against another's in the same case, or its own in another way.
const fn ratio(
    id: &'static str,
    what: &'static str,
    case: &'static str,
    over: &'static str,
    target: Target,
) -> Promise {
    let over = Some(Of { case, contender: over });
    Promise { id, what, of: ours(case), over, target }
}

/// A value of ipvisor's as it is.
const fn value(
    id: &'static str,
    what: &'static str,
    case: &'static str,
    target: Target,
) -> Promise {
    Promise { id, what, of: ours(case), over: None, target }
}

const fn at_least(value: f64) -> Target {
    Target { op: Op::AtLeast, value }
}

const fn at_most(value: f64) -> Target {
    Target { op: Op::AtMost, value }
}

const OVS: &str = "OVS-DPDK";
const IO: &str = "testpmd io";
const ROUTED: &str = "kernel, routed taps";
const MANY: &str = FLOWS[FLOWS.len() - 1].1;

/// All promises.
pub const PROMISES: [Promise; 29] = [
    ratio("1a", "64 B against OVS-DPDK with layer-3 flows", "64 B", OVS, at_least(2.5)),
    ratio("1b", "64 B against testpmd io, which does not look", "64 B", IO, at_least(1.4)),
    ratio("1c", "64 B, 1,024 flows, 100,000 addresses, against OVS-DPDK", MANY, OVS, at_least(4.0)),
    ratio("1d", "the same against one flow, two addresses", MANY, ONE_FLOW, at_least(0.9)),
    ratio(
        "1e",
        "64 B over packed rings against testpmd io over packed rings",
        "64 B, packed rings",
        IO,
        at_least(1.2),
    ),
    ratio("2a", "1500 B against OVS-DPDK with layer-3 flows", "1500 B", OVS, at_least(1.8)),
    ratio("2b", "1500 B against testpmd io, which does not look", "1500 B", IO, at_least(1.3)),
    ratio("3a", "64 KiB large sends against two copies", "64 KiB", "two copies", at_least(0.85)),
    ratio("3b", "64 KiB large sends against the kernel", "64 KiB", ROUTED, at_least(1.5)),
    ratio(
        "4a",
        "64 B against a bridge in the kernel",
        "64 B",
        "kernel, bridged taps",
        at_least(25.0),
    ),
    ratio("4b", "64 B against a router in the kernel", "64 B", ROUTED, at_least(25.0)),
    ratio("4c", "64 B against masquerading", "64 B", "kernel, masquerading", at_least(25.0)),
    ratio(
        "5a",
        "64 B to the card against a bare AF_PACKET",
        "64 B to the card",
        "bare AF_PACKET",
        at_least(0.9),
    ),
    value(
        "5b",
        "octets a frame of 64 KiB at the far end",
        "64 KiB at the far end",
        at_least(65_000.0),
    ),
    ratio(
        "5c",
        "64 B by AF_XDP against a bare use of the same code",
        "64 B to the card by AF_XDP",
        "bare AF_XDP",
        at_least(0.9),
    ),
    value("6a", "% of a core for 1,000 idle ports", "1,000 idle ports", at_most(0.1)),
    ratio(
        "6b",
        "64 B among 1,000 idle ports against none",
        "64 B among 1,000 idle ports",
        ALONE,
        at_least(0.95),
    ),
    value("7a", "% of a core at 100 datagrams/s", "100/s", at_most(1.0)),
    value("7b", "% of a core at 1,000 datagrams/s", "1,000/s", at_most(5.0)),
    value("7c", "% of a core at 10,000 datagrams/s", "10,000/s", at_most(20.0)),
    value("7d", "% of a core at 100,000 datagrams/s", "100,000/s", at_most(60.0)),
    ratio("8a", "round trip against OVS-DPDK", "round trip", OVS, at_most(1.0)),
    ratio(
        "8b",
        "round trip after 1 s against the kernel",
        "round trip after 1 s",
        ROUTED,
        at_most(1.5),
    ),
    ratio(
        "9a",
        "look-ups asked for ahead, a million addresses, against hashbrown",
        "look-ups",
        "hashbrown, foldhash",
        at_most(0.5),
    ),
    value("9b", "octets of the list for an address", "memory of an address", at_most(64.0)),
    value("10a", "MiB of the base with two ports, state memory included", "memory", at_most(16.0)),
    value(
        "10b",
        "KiB for one more idle port, state memory included",
        "memory of an idle port",
        at_most(64.0),
    ),
    value("11a", "datagrams lost beside a flood", "beside a flood, lost", at_most(0.0)),
    value("11b", "µs beside a flood, 99 of 100", "beside a flood, p99", at_most(1000.0)),
];

/// What becomes of a promise. Rounds that one of the two has not are left out; with less than half of
/// them nothing is said.
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
    let of = ratio_rounds.len();
    let kept: Vec<f64> = ratio_rounds.into_iter().filter(|r| r.is_finite()).collect();
    let (value, min, max) = if kept.len() * 2 < of { summary(&[]) } else { summary(&kept) };
    let Promise { id, what, target, .. } = *promise;
    Bar {
        id: id.to_owned(),
        what: what.to_owned(),
        ratio_rounds: kept,
        of,
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
        let bar = judge(&ratio("1b", "", "64 B", "testpmd io", at_least(1.4)), &cases);
        assert_eq!(bar.ratio_rounds, [2.0, 2.0, 1.5]);
        assert_eq!((bar.value, bar.min, bar.max, bar.holds), (2.0, 1.5, 2.0, true));
        assert!(!judge(&ratio("1b", "", "64 B", "testpmd io", at_least(2.1)), &cases).holds);
    }

    #[test]
    fn a_round_that_one_of_the_two_lacks_says_nothing() {
        let cases = [
            measured("ipvisor", &[10.0, f64::NAN, 12.0, 1.0]),
            measured("testpmd io", &[5.0, 2.5, 0.0]),
        ];
        let bar = judge(&ratio("1b", "", "64 B", "testpmd io", at_least(1.4)), &cases);
        assert_eq!(bar.ratio_rounds, [2.0]);
    }

    #[test]
    fn what_was_not_measured_does_not_hold() {
        let bar = judge(&ratio("1b", "", "64 B", "testpmd io", at_least(1.4)), &[]);
        assert!(!bar.holds && !bar.is_measured());
    }

    #[test]
    fn a_ratio_that_is_to_be_small_holds_below_its_target() {
        let trips =
            |who: &str, rounds: &[f64]| Measured::new("round trip", who, "µs", rounds.to_vec());
        let cases = [trips("ipvisor", &[4.0, 6.0]), trips("OVS-DPDK", &[8.0, 8.0])];
        let promise = |target| ratio("8a", "", "round trip", "OVS-DPDK", target);
        assert!(judge(&promise(at_most(0.7)), &cases).holds);
        assert!(!judge(&promise(at_most(0.6)), &cases).holds);
    }

    #[test]
    fn every_promise_has_a_number_of_its_own() {
        let ids: std::collections::BTreeSet<_> = PROMISES.iter().map(|p| p.id).collect();
        assert_eq!(ids.len(), PROMISES.len());
    }

    #[test]
    fn a_share_is_compared_as_it_is() {
        let cases = [Measured::new("100/s", "ipvisor", "% of a core", vec![0.5, 0.9, 2.0])];
        let bar = judge(&value("7a", "", "100/s", at_most(1.0)), &cases);
        assert_eq!((bar.value, bar.holds), (0.9, true));
    }
}

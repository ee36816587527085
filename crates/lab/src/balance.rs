//! Rule 8 as a sum: every datagram that the base took has met exactly one fate.
//!
//! # Theory of operation
//! For each owner
//! `taken + fragments = to_vm + to_uplink + to_host + to_resolver + answered + silent + drops`,
//! where fragments are those that the base made beyond the first of each datagram it had to cut. It holds when
//! nothing waits for a neighbour. Drops that the receiver causes (`drop.rx_...`, `drop.mac_unknown`)
//! are counted there and stand in no sum: the sender's `to_vm` has counted those datagrams. What the
//! card's ring had no room for was never taken.

use std::time::Duration;

use crate::command::wait_until;
use crate::error::{LabError, Result};
use crate::instance::{Counters, Instance};

/// Fates that are no drop.
const FATES: [&str; 6] = ["to_vm", "to_uplink", "to_host", "to_resolver", "answered", "silent"];
/// What adds to the datagrams that must meet a fate.
const TAKEN: [&str; 2] = ["taken", "fragments"];
/// Drops that stand in no sum.
const NOT_THE_SENDERS: [&str; 2] = ["drop.mac_unknown", "drop.uplink_ring_full"];

fn is_fate(name: &str) -> bool {
    FATES.contains(&name)
        || name.starts_with("drop.")
            && !name.starts_with("drop.rx_")
            && !NOT_THE_SENDERS.contains(&name)
}

impl Counters {
    /// Whose sum is wrong, in words; empty if all is well.
    pub fn imbalances(&self) -> Vec<String> {
        let wrong = |owner: &String| {
            let own = self.0.get(owner)?;
            let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
                own.iter().filter(|(name, _)| wanted(name)).map(|(_, n)| n).sum()
            };
            let (taken, met) = (sum(&|name| TAKEN.contains(&name)), sum(&is_fate));
            (taken != met).then(|| {
                let shown: Vec<_> =
                    own.iter().filter(|(_, n)| **n > 0).map(|(k, n)| format!("{k} {n}")).collect();
                format!("{owner}: {taken} taken, {met} fates met ({})", shown.join(", "))
            })
        };
        self.0.keys().filter_map(wrong).collect()
    }
}

impl Instance {
    /// All counters, once every datagram that was taken has met its fate. Fails if some do not
    /// within `limit`.
    pub fn balanced(&self, limit: Duration) -> Result<Counters> {
        let mut wrong = Vec::new();
        let found = wait_until(limit, String::new, || {
            let counters = self.counters()?;
            wrong = counters.imbalances();
            Ok(wrong.is_empty().then_some(counters))
        });
        match found {
            Err(LabError::Timeout { .. }) => {
                Err(LabError::Timeout { what: format!("a balance: {}", wrong.join("; ")), limit })
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(values: &[(&str, u64)]) -> Counters {
        let inner = values.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
        Counters([("vm/web".to_owned(), inner)].into())
    }

    #[test]
    fn a_datagram_without_a_fate_and_one_with_two_are_found() {
        let fates = [("to_vm", 1), ("drop.too_big", 1), ("drop.rx_no_buffer", 1), ("waited", 1)];
        let with = |taken| counters(&[fates.as_slice(), &[("taken", taken)]].concat());
        assert_eq!(with(2).imbalances(), [""; 0]);
        for wrong in [1, 3] {
            let text = with(wrong).imbalances().concat();
            assert!(text.contains(&format!("vm/web: {wrong} taken, 2 fates met")), "{text}");
        }
    }
}

//! What `top` knows: the last look at the instance, the rates since the one before, and how the rates
//! went. No clock, no terminal.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base::control::{Ps, VmStatus};

use crate::rates::{self, Rates};

/// Looks that are remembered for the trend.
const REMEMBERED: usize = 120;

/// What the rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The VM's name, from the first letter.
    Name,
    /// Processor time, the most first; so are those below.
    #[default]
    Cpu,
    /// Memory.
    Memory,
    /// Datagrams that it sends.
    Sent,
    /// Datagrams that reach it.
    Received,
    /// Datagrams that are dropped.
    Dropped,
}

/// One VM as it is shown.
#[derive(Clone, Debug)]
pub struct Row<'m> {
    /// What the instance says of it.
    pub vm: &'m VmStatus,
    /// What it does in a second, if it was there at two looks.
    pub rates: Option<Rates>,
    /// Datagrams in a second, both ways, at each look; the last one last.
    pub trend: Vec<f64>,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Model {
    last: Option<Ps>,
    rates: BTreeMap<String, Rates>,
    trends: BTreeMap<String, VecDeque<f64>>,
    /// Why there is nothing newer.
    pub trouble: Option<String>,
}

impl Model {
    /// Takes another look, so long after the last one.
    pub fn look(&mut self, now: Ps, since: Duration) {
        self.trouble = None;
        self.rates = match &self.last {
            Some(before) => rates::between(before, &now, since),
            None => BTreeMap::new(),
        };
        self.trends.retain(|name, _| now.vms.iter().any(|vm| vm.name == *name));
        for (name, rates) in &self.rates {
            let trend = self.trends.entry(name.clone()).or_default();
            trend.push_back(rates.sent + rates.received);
            if trend.len() > REMEMBERED {
                trend.pop_front();
            }
        }
        self.last = Some(now);
    }

    /// The last look.
    pub fn last(&self) -> Option<&Ps> {
        self.last.as_ref()
    }

    /// All of them together.
    pub fn sum(&self) -> Rates {
        let mut sum = Rates { cpu: Some(0.0), ..Rates::default() };
        for rates in self.rates.values() {
            sum.cpu = Some(sum.cpu.unwrap_or(0.0) + rates.cpu.unwrap_or(0.0));
            sum.sent += rates.sent;
            sum.received += rates.received;
            sum.dropped += rates.dropped;
        }
        sum
    }

    /// The VMs, sorted; `reverse` turns that round. What is equal is in the order of the names.
    pub fn rows(&self, sort: Sort, reverse: bool) -> Vec<Row<'_>> {
        let vms = self.last.iter().flat_map(|ps| &ps.vms);
        let mut rows: Vec<Row<'_>> = vms
            .map(|vm| Row {
                vm,
                rates: self.rates.get(&vm.name).copied(),
                trend: self.trends.get(&vm.name).into_iter().flatten().copied().collect(),
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = compare(sort, a, b);
            let order = if reverse { order.reverse() } else { order };
            order.then_with(|| a.vm.name.cmp(&b.vm.name))
        });
        rows
    }
}

fn compare(sort: Sort, a: &Row<'_>, b: &Row<'_>) -> Ordering {
    let most = |value: fn(&Row<'_>) -> Option<f64>| {
        // What is not known comes after everything.
        let value = |row| value(row).unwrap_or(-1.0);
        value(b).total_cmp(&value(a))
    };
    match sort {
        Sort::Name => a.vm.name.cmp(&b.vm.name),
        Sort::Cpu => most(|row| row.rates?.cpu),
        Sort::Memory => most(|row| row.vm.usage.resident.map(|octets| octets as f64)),
        Sort::Sent => most(|row| Some(row.rates?.sent)),
        Sort::Received => most(|row| Some(row.rates?.received)),
        Sort::Dropped => most(|row| Some(row.rates?.dropped)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::example::{instance, vm};

    fn names(model: &Model, sort: Sort, reverse: bool) -> Vec<&str> {
        model.rows(sort, reverse).into_iter().map(|row| row.vm.name.as_str()).collect()
    }

    fn two_looks() -> Model {
        let mut model = Model::default();
        // Name, milliseconds of processor time, sent, resident.
        model.look(
            instance(vec![vm("a", 0, 0, 5), vm("b", 0, 0, 9), vm("c", 0, 0, 9)]),
            Duration::ZERO,
        );
        let later = vec![vm("a", 100, 70, 5), vm("b", 900, 20, 9), vm("c", 100, 10, 9)];
        model.look(instance(later), Duration::from_secs(2));
        model
    }

    #[test]
    fn rows_are_sorted_as_asked_and_what_is_equal_by_name() {
        let model = two_looks();
        assert_eq!(names(&model, Sort::Name, false), ["a", "b", "c"]);
        assert_eq!(names(&model, Sort::Name, true), ["c", "b", "a"]);
        assert_eq!(names(&model, Sort::Cpu, false), ["b", "a", "c"]);
        assert_eq!(names(&model, Sort::Memory, false), ["b", "c", "a"]);
        assert_eq!(names(&model, Sort::Sent, false), ["a", "b", "c"]);
        assert_eq!(names(&model, Sort::Sent, true), ["c", "b", "a"]);
        assert_eq!(names(&model, Sort::Dropped, false), ["a", "b", "c"]);
    }

    #[test]
    fn rates_and_trends_come_from_the_second_look_on_and_go_with_their_vm() {
        let mut model = two_looks();
        let rows = model.rows(Sort::Name, false);
        assert_eq!(rows[0].rates.unwrap().sent, 35.0);
        assert_eq!(rows[1].rates.unwrap().cpu, Some(0.45));
        assert_eq!(rows[0].trend, [35.0]);
        assert_eq!(model.sum().sent, 50.0);
        for look in 2..200 {
            model.look(instance(vec![vm("a", 0, 70 * look, 5)]), Duration::from_secs(1));
        }
        assert_eq!(model.rows(Sort::Name, false)[0].trend.len(), REMEMBERED);
        assert_eq!(model.trends.len(), 1);
    }
}

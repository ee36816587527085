//! What VMs use and carry in a second: the difference of two looks at an instance.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::control::{Client, Ps, VmUsage};

/// Time between two looks of a command that shows rates once.
const BETWEEN: Duration = Duration::from_millis(250);

/// Of one VM.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Processors that it uses: 1 is all of one. Unknown of somebody else's VM.
    pub cpu: Option<f64>,
    /// Datagrams that it sends in a second.
    pub sent: f64,
    /// Datagrams that reach it in a second.
    pub received: f64,
    /// Datagrams of it, or for it, that are dropped in a second.
    pub dropped: f64,
}

/// The rates of the VMs that were there at both looks, by name.
pub fn between(before: &Ps, after: &Ps, time: Duration) -> BTreeMap<String, Rates> {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return BTreeMap::new();
    }
    let earlier: BTreeMap<&str, _> = before.vms.iter().map(|vm| (vm.name.as_str(), vm)).collect();
    let both = after.vms.iter().filter_map(|vm| Some((earlier.get(vm.name.as_str())?, vm)));
    both.map(|(was, is)| {
        // Another process begins its count anew.
        let same = was.pid == is.pid;
        (is.name.clone(), difference(&was.usage, &is.usage, same, seconds))
    })
    .collect()
}

fn difference(was: &VmUsage, is: &VmUsage, same_process: bool, seconds: f64) -> Rates {
    // An instance that was started anew counts anew, too.
    let rate = |was: u64, is: u64| is.saturating_sub(was) as f64 / seconds;
    let cpu = was.cpu_milliseconds.zip(is.cpu_milliseconds).filter(|_| same_process);
    Rates {
        cpu: cpu.map(|(was, is)| rate(was, is) / 1000.0),
        sent: rate(was.sent, is.sent),
        received: rate(was.received, is.received),
        dropped: rate(was.dropped, is.dropped),
    }
}

/// Looks a second time, a moment later. Without an answer there are no rates, and that is all.
pub fn look_again(client: &mut Client, before: &Ps) -> BTreeMap<String, Rates> {
    if before.vms.is_empty() {
        return BTreeMap::new();
    }
    let begin = Instant::now();
    sleep(BETWEEN);
    match client.ps() {
        Ok(after) => between(before, &after, begin.elapsed()),
        Err(_) => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu: u64, sent: u64, received: u64) -> VmUsage {
        let cpu_milliseconds = Some(cpu);
        VmUsage { cpu_milliseconds, sent, received, ..VmUsage::default() }
    }

    #[test]
    fn rates_are_differences_in_a_second() {
        let found = difference(&usage(1000, 10, 5), &usage(2500, 110, 5), true, 2.0);
        assert_eq!(found, Rates { cpu: Some(0.75), sent: 50.0, received: 0.0, dropped: 0.0 });
    }

    #[test]
    fn what_counts_anew_is_never_negative_and_another_process_has_no_rate_yet() {
        let found = difference(&usage(9000, 100, 100), &usage(100, 7, 0), false, 1.0);
        assert_eq!(found, Rates::default());
        let external = VmUsage { cpu_milliseconds: None, ..usage(0, 4, 4) };
        let found = difference(&external, &external, true, 1.0);
        assert_eq!(found, Rates::default());
    }
}

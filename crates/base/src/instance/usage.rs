//! What a VM has used of the machine, and what its port has carried: sums, read when somebody asks.
//!
//! Nothing is sampled here: rates are differences, and whoever asks twice makes them. So an instance
//! that nobody looks at spends nothing on being looked at.

use std::fs;
use std::path::Path;

use datapath::counters::{Counter, Counters};
use datapath::names::{Owner, PortId};
use datapath::state::StateMemory;
use rustix::param::{clock_ticks_per_second, page_size};

use crate::control::VmUsage;

/// Of a VM with this port, and with this process if the base started one.
pub(super) fn of(state: &StateMemory, port: PortId, pid: Option<u32>) -> VmUsage {
    let counters = Counters::of(state, Owner::Port(port));
    let drops = counters.all().filter(|(counter, _)| counter.name().starts_with("drop."));
    let process = pid.map(|pid| Path::new("/proc").join(pid.to_string()));
    let stat = process.and_then(|dir| read_stat(&dir)).unwrap_or_default();
    VmUsage {
        cpu_milliseconds: stat.cpu_milliseconds,
        resident: stat.resident,
        sent: counters.get(Counter::Taken),
        sent_bytes: counters.get(Counter::TakenBytes),
        received: counters.get(Counter::Delivered),
        received_bytes: counters.get(Counter::DeliveredBytes),
        dropped: drops.fold(0, |sum, (_, n)| sum.saturating_add(n)),
    }
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    cpu_milliseconds: Option<u64>,
    resident: Option<u64>,
}

/// `None`: it has ended, or was never ours to look at.
fn read_stat(process: &Path) -> Option<Stat> {
    let text = fs::read_to_string(process.join("stat")).ok()?;
    stat(&text, clock_ticks_per_second(), page_size())
}

/// Reads `/proc/PID/stat` (proc(5)): fields 14 and 15 are the time that all threads of the process have
/// used in user and kernel mode, in ticks; a guest's under KVM is in the first. Field 24 is what is
/// resident, in pages. Its name, field 2, is in brackets and may hold anything.
fn stat(text: &str, ticks_per_second: u64, page: usize) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let field = |number: usize| -> Option<u64> {
        fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
    };
    let ticks = field(14)?.saturating_add(field(15)?);
    let cpu_milliseconds = ticks.saturating_mul(1000).checked_div(ticks_per_second);
    let resident = Some(field(24)?.saturating_mul(u64::try_from(page).ok()?));
    Some(Stat { cpu_milliseconds, resident })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let line = "812 (qemu) x (1 2) S 1 812 812 0 -1 4194560 900 0 3 0 250 50 0 0 20 0 5 0 77 \
                    900000000 1000 18446744073709551615 1 1";
        let found = stat(line, 100, 4096).unwrap();
        assert_eq!(found, Stat { cpu_milliseconds: Some(3000), resident: Some(4_096_000) });
        for wrong in ["", "812 (qemu", "812 (qemu) S 1 2 3", "a) S 1 1 1 1 1 1 1 1 1 1 x y"] {
            assert_eq!(stat(wrong, 100, 4096), None, "{wrong}");
        }
    }

    #[test]
    fn this_process_uses_processor_time_and_memory() {
        let own = || read_stat(Path::new("/proc/self")).unwrap();
        let before = own();
        assert!(before.resident.unwrap() > 1 << 20, "{before:?}");
        let began = std::time::Instant::now();
        while own().cpu_milliseconds.unwrap() < before.cpu_milliseconds.unwrap() + 20 {
            assert!(began.elapsed().as_secs() < 60, "{before:?} {:?}", own());
        }
        assert_eq!(read_stat(Path::new("/proc/0")), None);
    }
}

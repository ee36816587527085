//! What the machine has.

use std::io;

/// What can be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Processors that are online.
    pub cpus: u32,
    /// Octets of memory, whoever uses them now.
    pub memory: u64,
}

impl Capacity {
    /// Asks the kernel.
    pub fn of_this_machine() -> io::Result<Self> {
        let cpus = read("/sys/devices/system/cpu/online", online)?;
        let memory = read("/proc/meminfo", total)?;
        Ok(Self { cpus, memory })
    }
}

fn read<T>(path: &str, parse: impl Fn(&str) -> Option<T>) -> io::Result<T> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot read {path}: {e}"));
    let text = std::fs::read_to_string(path).map_err(named)?;
    parse(&text).ok_or_else(|| named(io::Error::other(format!("unexpected contents {text:.80?}"))))
}

/// Counts processors in a list such as `0-3,8`.
fn online(text: &str) -> Option<u32> {
    text.trim().split(',').try_fold(0u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The line `MemTotal:  24679424 kB`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_counted() {
        assert_eq!(online("0\n"), Some(1));
        assert_eq!(online("0-3,8,10-11\n"), Some(7));
        assert_eq!((online(""), online("3-1"), online("a-b")), (None, None, None));
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24679424 kB\n"), Some(24_679_424 << 10));
        assert_eq!(total("MemTotal: lots\n"), None);
    }

    #[test]
    fn this_machine_has_something() {
        let has = Capacity::of_this_machine().unwrap();
        assert!(has.cpus >= 1 && has.memory > 1 << 20, "{has:?}");
    }
}

//! What an instance's log tells of the deaths of its bases.
//!
//! # Theory of operation
//! The holder writes one line for each base that dies, with its process, and says when the next is
//! started:
//!
//! ```text
//! ipvisor: the base (process 71) was killed by signal 9: the next is started at once
//! ```
//! A base that is replaced in order is no death, and one that is replaced by the next one while it
//! dies has no such line. A panic has its own, written by the base.
//!
//! So a test that kills bases knows whether others died besides: it compares these processes with
//! those that it killed.

/// A base that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Death {
    /// Its process.
    pub process: i32,
    /// Whether the next was started without waiting.
    pub at_once: bool,
}

impl Death {
    /// Of one line of the log; `None` if it tells of no death.
    pub fn of(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("the base (process ")?;
        let (number, rest) = rest.split_once(") ")?;
        let (_, when) = rest.split_once(" is started ")?;
        Some(Self { process: number.parse().ok()?, at_once: when.starts_with("at once") })
    }
}

/// All deaths in a log, in their order.
pub fn deaths(log: &str) -> Vec<Death> {
    log.lines().filter_map(Death::of).collect()
}

/// Whether this line of a log is a panic's first.
pub fn is_panic(line: &str) -> bool {
    line.contains(" panicked at ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_with_its_process_and_what_follows() {
        let log = "ipvisor: runs (state in /x); Ctrl-C ends it\n\
                   ipvisor: the base (process 71) was killed by signal 9: the next is started at once\n\
                   ipvisor: the base (process 72) has been silent for 10 s\n\
                   thread 'worker' panicked at crates/x.rs:1:2:\n\
                   ipvisor: the base (process 73) was silent: the last good release is started in 4 s\n";
        let expected = [(71, true), (73, false)];
        assert_eq!(deaths(log), expected.map(|(process, at_once)| Death { process, at_once }));
        assert_eq!(log.lines().filter(|line| is_panic(line)).count(), 1);
    }
}

//! What servers outside have answered, kept as long as they allow, in so many octets at most.
//!
//! Answers are kept as they came, octet by octet, so that what they take is what is counted. When room is
//! needed, the oldest go.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::message::{Answer, Key, Reply};

/// Octets of all answers together.
pub const ROOM: usize = 4 << 20;
/// Octets that an entry takes beside its answer, about.
const BESIDE: usize = 512;
/// Entries at most, those that are not there any more included.
const ENTRIES: usize = ROOM / BESIDE;

/// The answers.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    /// In the order in which they came; some are not there any more, or came again.
    order: VecDeque<(Key, u64)>,
    octets: usize,
    count: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    born: Instant,
    ends: Instant,
    number: u64,
}

impl Entry {
    fn octets(&self) -> usize {
        self.bytes.len().saturating_add(BESIDE)
    }
}

impl Cache {
    /// Keeps a server's message for so long.
    pub fn keep(&mut self, key: &Key, bytes: &[u8], lifetime: Duration, now: Instant) {
        let Some(ends) = now.checked_add(lifetime).filter(|_| !lifetime.is_zero()) else { return };
        self.forget(key);
        self.count = self.count.saturating_add(1);
        let entry = Entry { bytes: bytes.to_vec(), born: now, ends, number: self.count };
        self.octets = self.octets.saturating_add(entry.octets());
        self.entries.insert(key.clone(), entry);
        self.order.push_back((key.clone(), self.count));
        while self.octets > ROOM || self.order.len() > ENTRIES {
            let Some((key, number)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.forget(&key);
            }
        }
    }

    /// What was kept, and may still be told.
    pub fn find(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        let entry = self.entries.get(key)?;
        if entry.ends <= now {
            self.forget(key);
            return None;
        }
        let &[i0, i1, ..] = entry.bytes.as_slice() else { return None };
        match key.reply(&entry.bytes, u16::from_be_bytes([i0, i1])) {
            Reply::Answer(answer, _) => {
                Some(answer.aged(now.saturating_duration_since(entry.born)))
            }
            _ => None,
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.octets = self.octets.saturating_sub(entry.octets());
        }
    }

    /// Octets that it takes.
    #[cfg(test)]
    pub fn octets(&self) -> usize {
        self.octets
    }
}

//! The recent past, kept in memory, and a way to follow it.
//!
//! Any thread may push. Readers keep their own place, so a reader that does not read costs nothing;
//! one that falls behind by more than [`KEPT_EVENTS`] misses the oldest and sees it by the sequence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::types::{Event, EventLevel};

/// Events kept for those who ask later.
pub const KEPT_EVENTS: usize = 1024;

/// The events of one base. Cheap to clone: all clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct EventLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    events: VecDeque<Event>,
}

impl EventLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `kind` happened to `subject`, and says so in the program's log too.
    pub fn push(&self, level: EventLevel, kind: &str, subject: &str, text: impl Into<String>) {
        let text = text.into();
        match level {
            EventLevel::Info => tracing::info!(subject, kind, "{text}"),
            EventLevel::Warning => tracing::warn!(subject, kind, "{text}"),
            EventLevel::Error => tracing::error!(subject, kind, "{text}"),
        }
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let mut kept = self.kept();
        let event = Event {
            sequence: kept.next,
            at,
            level,
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            text,
        };
        kept.next = kept.next.saturating_add(1);
        if kept.events.len() >= KEPT_EVENTS {
            kept.events.pop_front();
        }
        kept.events.push_back(event);
        drop(kept);
        self.0.news.notify_waiters();
    }

    /// Kept events from sequence number `from` on.
    pub fn since(&self, from: u64) -> Vec<Event> {
        self.kept().events.iter().filter(|e| e.sequence >= from).cloned().collect()
    }

    /// Waits until there is an event of sequence number `from` or later.
    pub async fn wait(&self, from: u64) {
        loop {
            let news = self.0.news.notified();
            tokio::pin!(news);
            // Registered before the look, so that an event between look and wait is not missed.
            news.as_mut().enable();
            if self.kept().next > from {
                return;
            }
            news.await;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_go_first_and_the_sequence_tells() {
        let log = EventLog::new();
        for n in 0..KEPT_EVENTS + 3 {
            log.push(EventLevel::Info, "test", "base", n.to_string());
        }
        let kept = log.since(0);
        assert_eq!(kept.len(), KEPT_EVENTS);
        assert_eq!(kept[0].sequence, 3);
        assert_eq!(log.since(kept[0].sequence + 1).len(), KEPT_EVENTS - 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_follower_wakes_for_an_event_from_another_thread() {
        let log = EventLog::new();
        let other = log.clone();
        let thread = std::thread::spawn(move || {
            other.push(EventLevel::Warning, "port_broken", "vm/web", "ring broken");
        });
        log.wait(0).await;
        thread.join().unwrap();
        assert_eq!(log.since(0)[0].subject, "vm/web");
    }
}

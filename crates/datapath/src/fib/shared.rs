//! What the writer of a list and its readers share, and when something is past.
//!
//! # Theory of operation
//! ```text
//! writer                                             reader
//! change a bucket in place -------------------------> seen by the next look-up
//! new buckets: published (a lock), generation + 1 --> refreshed at the next quiescent point
//! remove; retire: epoch + 1 ------------------------> noted as passed at the next quiescent point
//! every reader has passed that epoch, or rests?  <---
//! only now free what the list had led to
//! ```
//! A *quiescent point* is where a reader holds nothing that it found: between two batches. There it
//! reads the epoch, takes over what was published, and notes the epoch as passed. Whatever was removed
//! before that epoch it will not find again, and what it had found is done with.
//!
//! A reader never waits for the writer: when the lock is taken it goes on with what it has, and does
//! not note the epoch. The lock is held to exchange a reference or to copy some, never while buckets
//! are written. Only a reader that wakes from rest takes the lock whatever it takes, since what it
//! had before its rest may lead to what is gone.
//!
//! A reader that rests (its worker sleeps) is waited for by nobody. Waking is the one place that needs
//! a full fence: either the writer sees that the reader is awake, or the reader sees what was removed.
//!
//! # Limits
//! A resting reader keeps the buckets of before its rest: one outdated copy at most.

use std::sync::{Arc, TryLockError};

use super::address::Address;
use super::family::{Change, Family};
use super::sync::{AtomicU64, Mutex, Ordering, fence};
use super::view::View;

/// A reader that is waited for by nobody.
const RESTING: u64 = u64::MAX;
/// A reader that is awake and has passed nothing yet.
const NOTHING: u64 = 0;

/// The newest of both families.
pub(super) struct Published {
    pub(super) four: Family<u32>,
    pub(super) six: Family<u128>,
}

/// What both sides have.
pub(super) struct Shared {
    published: Mutex<Published>,
    /// Counts what was published.
    generation: AtomicU64,
    /// Counts what was retired.
    epoch: AtomicU64,
}

/// Something has left the list; kept until it is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what has left may be freed only when this is past"]
pub struct Retired(u64);

impl Shared {
    pub(super) fn new(four: Family<u32>, six: Family<u128>) -> Self {
        let published = Mutex::new(Published { four, six });
        Self { published, generation: AtomicU64::new(0), epoch: AtomicU64::new(NOTHING) }
    }

    /// The writer: lets readers have a change. `part` is the family's.
    pub(super) fn publish<A: Address>(
        &self,
        part: impl FnOnce(&mut Published) -> &mut Family<A>,
        family: &Family<A>,
        change: Change,
    ) {
        // A panic while it was held left whole references.
        let mut published = self.published.lock().unwrap_or_else(|poison| poison.into_inner());
        part(&mut published).follow(family, change);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The writer, after it has removed something: the mark that readers have to pass.
    pub(super) fn retire(&self) -> Retired {
        let epoch = self.epoch.fetch_add(1, Ordering::Release).saturating_add(1);
        // Against the one of a reader that wakes.
        fence(Ordering::SeqCst);
        Retired(epoch)
    }
}

/// Where a reader notes what it has passed.
pub(super) struct Passed(AtomicU64);

impl Passed {
    /// The writer: whether this reader has no more to do with what was retired.
    pub(super) fn is_past(&self, retired: Retired) -> bool {
        self.0.load(Ordering::Acquire) >= retired.0
    }
}

/// One worker's way into a list that another thread changes. Made by `Fib::reader`.
pub struct FibReader {
    four: Family<u32>,
    six: Family<u128>,
    shared: Arc<Shared>,
    /// The generation that the families are of.
    generation: u64,
    passed: Arc<Passed>,
    /// What `passed` says.
    epoch: u64,
}

impl FibReader {
    /// A reader that rests.
    pub(super) fn new(shared: &Arc<Shared>, four: Family<u32>, six: Family<u128>) -> Self {
        let passed = Arc::new(Passed(AtomicU64::new(RESTING)));
        let (shared, generation) = (Arc::clone(shared), 0);
        Self { four, six, shared, generation, passed, epoch: RESTING }
    }

    /// Where it notes what it has passed.
    pub(super) fn passed(&self) -> &Arc<Passed> {
        &self.passed
    }

    /// Passes a quiescent point and begins a batch: nothing that was found before may be used
    /// any more. Never waits, but for a moment when the reader has rested.
    pub fn batch(&mut self) -> View<'_> {
        let wakes = self.epoch == RESTING;
        if wakes {
            self.note(NOTHING, Ordering::Relaxed);
            // Either `retire`'s fence is later, and the writer sees this reader awake, or it was
            // before, and the reader sees what was removed before it.
            fence(Ordering::SeqCst);
        }
        // Before the generation: what is removed by then is published by then.
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if self.refresh(wakes) && epoch != self.epoch {
            self.note(epoch, Ordering::Release);
        }
        View::new(&self.four, &self.six)
    }

    /// Passes a quiescent point and is waited for no longer, until the next batch. For a worker that
    /// goes to sleep.
    pub fn rest(&mut self) {
        self.note(RESTING, Ordering::Release);
    }

    fn note(&mut self, epoch: u64, order: Ordering) {
        self.epoch = epoch;
        self.passed.0.store(epoch, order);
    }

    /// Takes over what was published; false if the writer is just publishing something.
    fn refresh(&mut self, wakes: bool) -> bool {
        if self.shared.generation.load(Ordering::Acquire) == self.generation {
            return true;
        }
        let published = &self.shared.published;
        let published = if wakes {
            published.lock().unwrap_or_else(|poison| poison.into_inner())
        } else {
            match published.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poison)) => poison.into_inner(),
                Err(TryLockError::WouldBlock) => return false,
            }
        };
        self.generation = self.shared.generation.load(Ordering::Relaxed);
        self.four.refresh(&published.four);
        self.six.refresh(&published.six);
        true
    }
}

impl Drop for FibReader {
    fn drop(&mut self) {
        self.rest();
    }
}
